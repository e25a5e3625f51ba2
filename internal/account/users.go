package account

import (
	"context"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/identity"
)

// NewUser is an account to be made. Role defaults to participant; without a password its person comes in by a
// link.
type NewUser struct {
	Name     string
	Group    string // made when it is not there
	Role     identity.Role
	Password string
}

// check returns why the account can't be made.
func (n *NewUser) check() error {
	n.Name, n.Group = Normalize(n.Name), Normalize(n.Group)
	if n.Role == "" {
		n.Role = identity.Participant
	}
	if err := CheckName(n.Name); err != nil {
		return err
	}
	if !n.Role.Valid() {
		return errRole(n.Role)
	}
	if n.Group != "" {
		if err := CheckName(n.Group); err != nil {
			return err
		}
	}
	if n.Password != "" {
		return checkPassword(n.Password)
	}
	return nil
}

func errRole(r identity.Role) error {
	return fault.New(fault.Invalid, "There is no role “%s”.", r).
		WithRemedy("Use participant, instructor or operator.").WithCode("bad_role")
}

// AddUser makes an account.
func (s *Service) AddUser(ctx context.Context, n NewUser) (User, error) {
	if err := n.check(); err != nil {
		return User{}, err
	}
	if n.Group != "" {
		if err := s.needGroup(ctx, n.Group); err != nil {
			return User{}, err
		}
	}
	r := Record{User: User{Name: n.Name, Group: n.Group, Role: n.Role, Created: now()}}
	if n.Password != "" {
		hash, err := s.hasher.hash(ctx, n.Password)
		if err != nil {
			return User{}, err
		}
		r.Proof, r.Secret = Password, hash
	}
	if err := s.store.CreateUser(ctx, r); err != nil {
		return User{}, err
	}
	return r.User, nil
}

// EnsureUsers makes the accounts that are missing and leaves the others as they are. Everything that is wrong is
// reported together, and then nothing is made.
func (s *Service) EnsureUsers(ctx context.Context, list []NewUser) (made []User, err error) {
	var problems []error
	for _, n := range list {
		if err := n.check(); err != nil {
			problems = append(problems, err)
		}
	}
	if err := together(problems); err != nil {
		return nil, err
	}
	for _, n := range list {
		u, err := s.AddUser(ctx, n)
		switch {
		case fault.Is(err, fault.Conflict):
		case err != nil:
			return made, err
		default:
			made = append(made, u)
		}
	}
	return made, nil
}

// User returns one account.
func (s *Service) User(ctx context.Context, name string) (User, error) {
	r, err := s.store.User(ctx, Normalize(name))
	return r.User, err
}

// Users returns the accounts of a group, of all for "", in order of their names.
func (s *Service) Users(ctx context.Context, group string) ([]User, error) {
	return s.store.Users(ctx, group)
}

// ChangeUser changes an account. The person's credentials stay good, with the new role and group, and are cut off
// at once when it is suspended.
func (s *Service) ChangeUser(ctx context.Context, name string, c Change) error {
	name = Normalize(name)
	if c.Role != nil && !c.Role.Valid() {
		return errRole(*c.Role)
	}
	if c.Group != nil && *c.Group != "" {
		group := Normalize(*c.Group)
		if err := s.needGroup(ctx, group); err != nil {
			return err
		}
		c.Group = &group
	}
	if err := s.store.ChangeUser(ctx, name, c); err != nil {
		return err
	}
	s.end(name, "")
	return nil
}

// SetPassword gives a person a password in place of what they signed in with, and ends their sessions.
func (s *Service) SetPassword(ctx context.Context, name, password string) error {
	if err := checkPassword(password); err != nil {
		return err
	}
	return s.setSecret(ctx, Normalize(name), Password, password)
}

func (s *Service) setSecret(ctx context.Context, name string, proof Proof, secret string) error {
	hash, err := s.hasher.hash(ctx, secret)
	if err != nil {
		return err
	}
	if err := s.store.SetSecret(ctx, name, proof, hash, ""); err != nil {
		return err
	}
	if err := s.store.DeleteSessions(ctx, name, ""); err != nil {
		return err
	}
	s.end(name, "")
	return nil
}

// RemoveUser removes an account with its sessions, tokens and links, at once. The person's files are another
// part's.
func (s *Service) RemoveUser(ctx context.Context, name string) error {
	name = Normalize(name)
	if err := s.store.DeleteUser(ctx, name); err != nil {
		return err
	}
	s.end(name, "")
	return nil
}

// AddGroup makes a group.
func (s *Service) AddGroup(ctx context.Context, name, title string) (Group, error) {
	g := Group{Name: Normalize(name), Title: cut(title, 100), Created: now()}
	if err := CheckName(g.Name); err != nil {
		return Group{}, err
	}
	return g, s.store.CreateGroup(ctx, g)
}

// needGroup makes a group unless it is there.
func (s *Service) needGroup(ctx context.Context, name string) error {
	_, err := s.AddGroup(ctx, name, "")
	if fault.Is(err, fault.Conflict) {
		return nil
	}
	return err
}

// Groups returns all groups in order of their names.
func (s *Service) Groups(ctx context.Context) ([]Group, error) { return s.store.Groups(ctx) }

// RemoveGroup removes a group that has no members.
func (s *Service) RemoveGroup(ctx context.Context, name string) error {
	return s.store.DeleteGroup(ctx, Normalize(name))
}

const (
	flushEvery = time.Minute
	sweepEvery = time.Hour
	keepOver   = 30 * 24 * time.Hour // so that an old link still says whom to ask
)

// Run records uses of sessions and tokens and sweeps away what is over, until ctx ends.
func (s *Service) Run(ctx context.Context) {
	flush := time.NewTicker(flushEvery)
	defer flush.Stop()
	swept := time.Time{}
	for {
		if time.Since(swept) >= sweepEvery {
			at := now()
			if err := s.store.Sweep(ctx, at, at.Add(-s.o.SessionIdle), at.Add(-keepOver)); err != nil && ctx.Err() == nil {
				s.log.Warn("sweep away sessions and links that are over", "err", err)
			}
			swept = at
		}
		select {
		case <-ctx.Done():
			s.flush(context.WithoutCancel(ctx))
			return
		case <-flush.C:
			s.flush(ctx)
		}
	}
}

func (s *Service) flush(ctx context.Context) {
	uses := s.cache.uses(time.Now(), max(s.o.CacheTTL, passwordTTL))
	if len(uses) == 0 {
		return
	}
	if err := s.store.Touch(ctx, uses); err != nil && ctx.Err() == nil {
		s.log.Warn("record the use of sessions and tokens", "err", err)
	}
}
