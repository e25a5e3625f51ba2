package app

import (
	"context"
	"io"
	"net/url"
	"time"

	"github.com/ahelme/comfyume/internal/account"
	"github.com/ahelme/comfyume/internal/api"
)

// people shows the accounts as the interface wants them.
type people struct {
	s       *account.Service
	address func() string
	removed func(ctx context.Context, user string, files bool) error
}

// each turns a list into another; an empty one stays a list in JSON.
func each[A, B any](list []A, err error, fn func(A) B) ([]B, error) {
	out := make([]B, 0, len(list))
	for _, a := range list {
		out = append(out, fn(a))
	}
	return out, err
}

func userOf(u account.User) api.User {
	with := string(u.Proof)
	if with == "" {
		with = "link"
	}
	return api.User{
		Name: u.Name, Group: u.Group, Role: u.Role, Suspended: u.Suspended, SignsIn: with,
		Created: api.When(u.Created), Seen: api.When(u.Seen),
	}
}

func (p people) User(ctx context.Context, name string) (api.User, error) {
	u, err := p.s.User(ctx, account.Normalize(name))
	return userOf(u), err
}

func (p people) Users(ctx context.Context, group string) ([]api.User, error) {
	list, err := p.s.Users(ctx, group)
	return each(list, err, userOf)
}

func (p people) AddUser(ctx context.Context, n api.NewUser) (api.User, error) {
	u, err := p.s.AddUser(ctx, account.NewUser(n))
	return userOf(u), err
}

func (p people) ChangeUser(ctx context.Context, name string, c api.UserChange) (api.User, error) {
	if err := p.s.ChangeUser(ctx, name, account.Change(c)); err != nil {
		return api.User{}, err
	}
	return p.User(ctx, name)
}

func (p people) RemoveUser(ctx context.Context, name string, files bool) error {
	u, err := p.s.User(ctx, name)
	if err != nil {
		return err
	}
	if err := p.removed(ctx, u.Name, files); err != nil {
		return err
	}
	return p.s.RemoveUser(ctx, u.Name)
}

func (p people) SetPassword(ctx context.Context, name, password string) error {
	return p.s.SetPassword(ctx, name, password)
}

func (p people) Import(ctx context.Context, csv io.Reader) (api.Imported, error) {
	made, there, err := p.s.Import(ctx, csv)
	out := api.Imported{There: there}
	if err != nil {
		return out, err
	}
	out.Made, err = each(made, nil, userOf)
	return out, err
}

func (p people) NewLink(ctx context.Context, user, by string, life time.Duration) (api.Link, error) {
	code, expires, err := p.s.NewLink(ctx, user, by, life)
	if err != nil {
		return api.Link{}, err
	}
	return api.Link{User: user, URL: p.address() + "/link/" + url.PathEscape(code), Expires: expires}, nil
}

func tokenOf(t account.Token) api.Token {
	return api.Token{
		ID: t.ID, User: t.User, Label: t.Label, Scope: string(t.Scope), Created: t.Created,
		Used: api.When(t.Used), Expires: api.When(t.Expires),
	}
}

func (p people) Tokens(ctx context.Context, user string) ([]api.Token, error) {
	if _, err := p.s.User(ctx, user); err != nil {
		return nil, err
	}
	list, err := p.s.Tokens(ctx, user)
	return each(list, err, tokenOf)
}

func (p people) NewToken(ctx context.Context, user string, n api.NewToken) (api.Token, error) {
	scope := account.Scope(n.Scope)
	if scope == "" {
		scope = account.ScopeAll
	}
	secret, t, err := p.s.NewToken(ctx, user, n.Label, scope, time.Duration(n.Hours)*time.Hour)
	out := tokenOf(t)
	out.Secret = secret
	return out, err
}

func (p people) RevokeToken(ctx context.Context, user, id string) error {
	return p.s.RevokeToken(ctx, user, id)
}

func groupOf(g account.Group) api.Group {
	return api.Group{Name: g.Name, Title: g.Title, Members: g.Members, Created: api.When(g.Created)}
}

func (p people) Groups(ctx context.Context) ([]api.Group, error) {
	list, err := p.s.Groups(ctx)
	return each(list, err, groupOf)
}

func (p people) AddGroup(ctx context.Context, name, title string) (api.Group, error) {
	g, err := p.s.AddGroup(ctx, name, title)
	return groupOf(g), err
}

func (p people) RemoveGroup(ctx context.Context, name string) error {
	return p.s.RemoveGroup(ctx, name)
}

func (p people) codeOf(c account.Code) api.Code {
	return api.Code{
		Code: c.Code, URL: p.address() + "/join/" + url.PathEscape(c.Code), Group: c.Group, By: c.By,
		Places: c.Places, Joined: c.Joined, Expires: c.Expires,
	}
}

func (p people) Codes(ctx context.Context, group string) ([]api.Code, error) {
	list, err := p.s.Codes(ctx, group)
	return each(list, err, p.codeOf)
}

func (p people) NewCode(ctx context.Context, group, by string, places int, life time.Duration) (api.Code, error) {
	c, err := p.s.NewCode(ctx, group, by, places, life)
	return p.codeOf(c), err
}

func (p people) RevokeCode(ctx context.Context, code string) error { return p.s.RevokeCode(ctx, code) }

// Status returns the studio at a glance.
func (s *Studio) Status(ctx context.Context) api.Status {
	out := api.Status{
		Name: s.cfg.Name, ID: s.self.ID, Version: s.o.Version, URL: s.Address(), Running: s.serving,
		Reasons: append([]string{}, s.notes...), Queue: s.queue.Counts(), BackEnds: fleetFace{s}.BackEnds(),
	}
	if s.serving {
		out.Since = api.When(s.since)
		out.Frontend = s.page.Version()
		why := s.whyNotReady(ctx)
		out.Ready = len(why) == 0
		out.Reasons = append(append(why, out.Reasons...), s.verda.notes()...)
	}
	return out
}
