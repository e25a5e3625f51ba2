// Package accounttest holds what every account.Store has to pass, and a store in memory that is the suite's own
// reference and serves tests of other parts.
package accounttest

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/account"
	"github.com/ahelme/comfyume/internal/fault"
)

// Memory is an account.Store that forgets everything with the process. It is safe for concurrent use.
type Memory struct {
	mu       sync.Mutex
	users    map[string]account.Record
	groups   map[string]account.Group
	sessions map[account.Hash]account.SessionRecord
	tokens   map[account.Hash]account.TokenRecord
	links    map[account.Hash]account.LinkRecord
	codes    map[string]account.Code
}

// NewMemory returns an empty store.
func NewMemory() *Memory {
	return &Memory{
		users: map[string]account.Record{}, groups: map[string]account.Group{},
		sessions: map[account.Hash]account.SessionRecord{}, tokens: map[account.Hash]account.TokenRecord{},
		links: map[account.Hash]account.LinkRecord{}, codes: map[string]account.Code{},
	}
}

var _ account.Store = (*Memory)(nil)

func missing(what string) error         { return fault.New(fault.Missing, "There is no such %s.", what) }
func conflict(f string, a ...any) error { return fault.New(fault.Conflict, f, a...) }

// lock takes the lock and returns its release.
func (m *Memory) lock() func() { m.mu.Lock(); return m.mu.Unlock }

// CreateUser adds r.
func (m *Memory) CreateUser(_ context.Context, r account.Record) error {
	defer m.lock()()
	return m.create(r)
}

func (m *Memory) create(r account.Record) error {
	if _, ok := m.users[r.Name]; ok {
		return conflict("%s is taken.", r.Name)
	}
	if _, ok := m.groups[r.Group]; r.Group != "" && !ok {
		return missing("group")
	}
	m.users[r.Name] = r
	return nil
}

// User returns one account.
func (m *Memory) User(_ context.Context, name string) (account.Record, error) {
	defer m.lock()()
	r, ok := m.users[name]
	if !ok {
		return account.Record{}, missing("person")
	}
	return r, nil
}

// Users returns accounts in order of their names.
func (m *Memory) Users(_ context.Context, group string) ([]account.User, error) {
	defer m.lock()()
	var out []account.User
	for _, name := range slices.Sorted(maps.Keys(m.users)) {
		if u := m.users[name].User; group == "" || u.Group == group {
			out = append(out, u)
		}
	}
	return out, nil
}

// ChangeUser changes what c names.
func (m *Memory) ChangeUser(_ context.Context, name string, c account.Change) error {
	defer m.lock()()
	r, ok := m.users[name]
	if !ok {
		return missing("person")
	}
	if c.Group != nil {
		if _, ok := m.groups[*c.Group]; *c.Group != "" && !ok {
			return missing("group")
		}
		r.Group = *c.Group
	}
	if c.Role != nil {
		r.Role = *c.Role
	}
	if c.Suspended != nil {
		r.Suspended = *c.Suspended
	}
	m.users[name] = r
	return nil
}

// SetSecret replaces the proof.
func (m *Memory) SetSecret(_ context.Context, name string, proof account.Proof, hash, onlyIf string) error {
	defer m.lock()()
	r, ok := m.users[name]
	if !ok {
		return missing("person")
	}
	if onlyIf != "" && r.Secret != onlyIf {
		return conflict("The secret has been replaced.")
	}
	r.Proof, r.Secret = proof, hash
	m.users[name] = r
	return nil
}

// DeleteUser removes the account with its sessions, tokens and links.
func (m *Memory) DeleteUser(_ context.Context, name string) error {
	defer m.lock()()
	if _, ok := m.users[name]; !ok {
		return missing("person")
	}
	delete(m.users, name)
	maps.DeleteFunc(m.sessions, func(_ account.Hash, r account.SessionRecord) bool { return r.User == name })
	maps.DeleteFunc(m.tokens, func(_ account.Hash, r account.TokenRecord) bool { return r.User == name })
	maps.DeleteFunc(m.links, func(_ account.Hash, r account.LinkRecord) bool { return r.User == name })
	return nil
}

// CreateGroup adds g.
func (m *Memory) CreateGroup(_ context.Context, g account.Group) error {
	defer m.lock()()
	if _, ok := m.groups[g.Name]; ok {
		return conflict("%s is taken.", g.Name)
	}
	m.groups[g.Name] = g
	return nil
}

// Groups returns all groups in order of their names.
func (m *Memory) Groups(context.Context) ([]account.Group, error) {
	defer m.lock()()
	var out []account.Group
	for _, name := range slices.Sorted(maps.Keys(m.groups)) {
		g := m.groups[name]
		g.Members = m.members(name)
		out = append(out, g)
	}
	return out, nil
}

func (m *Memory) members(group string) (n int) {
	for _, u := range m.users {
		if u.Group == group {
			n++
		}
	}
	return n
}

// DeleteGroup removes a group without members.
func (m *Memory) DeleteGroup(_ context.Context, name string) error {
	defer m.lock()()
	if _, ok := m.groups[name]; !ok {
		return missing("group")
	}
	if m.members(name) > 0 {
		return conflict("%s has members.", name)
	}
	delete(m.groups, name)
	maps.DeleteFunc(m.codes, func(_ string, c account.Code) bool { return c.Group == name })
	return nil
}

// AddSession adds a session and lets go of the least recently used ones beyond keep.
func (m *Memory) AddSession(_ context.Context, r account.SessionRecord, keep int) ([]account.Hash, error) {
	defer m.lock()()
	if _, ok := m.users[r.User]; !ok {
		return nil, missing("person")
	}
	m.sessions[r.Hash] = r
	var gone []account.Hash
	if all := m.sessionsOf(r.User); len(all) > keep {
		for _, old := range all[keep:] {
			gone = append(gone, old.Hash)
			delete(m.sessions, old.Hash)
		}
	}
	return gone, nil
}

func (m *Memory) sessionsOf(user string) (out []account.SessionRecord) {
	for _, r := range m.sessions {
		if r.User == user {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b account.SessionRecord) int {
		return cmp.Or(b.Seen.Compare(a.Seen), b.Created.Compare(a.Created), cmp.Compare(a.ID, b.ID))
	})
	return out
}

// Session returns a session and whose it is.
func (m *Memory) Session(_ context.Context, h account.Hash) (account.SessionRecord, account.User, error) {
	defer m.lock()()
	r, ok := m.sessions[h]
	if !ok {
		return account.SessionRecord{}, account.User{}, missing("session")
	}
	return r, m.users[r.User].User, nil
}

// Sessions returns a person's sessions, the most recently used first.
func (m *Memory) Sessions(_ context.Context, user string) ([]account.SessionRecord, error) {
	defer m.lock()()
	return m.sessionsOf(user), nil
}

// DeleteSession removes one session of a person.
func (m *Memory) DeleteSession(_ context.Context, user, id string) error {
	defer m.lock()()
	for h, r := range m.sessions {
		if r.User == user && r.ID == id {
			delete(m.sessions, h)
			return nil
		}
	}
	return missing("session")
}

// DeleteSessions removes all sessions of a person but one.
func (m *Memory) DeleteSessions(_ context.Context, user, except string) error {
	defer m.lock()()
	maps.DeleteFunc(m.sessions, func(_ account.Hash, r account.SessionRecord) bool {
		return r.User == user && (except == "" || r.ID != except)
	})
	return nil
}

// AddToken adds a token while the person has fewer than most.
func (m *Memory) AddToken(_ context.Context, r account.TokenRecord, most int) error {
	defer m.lock()()
	if _, ok := m.users[r.User]; !ok {
		return missing("person")
	}
	if len(m.tokensOf(r.User)) >= most {
		return conflict("There are %d tokens already.", most).(*fault.Error).WithCode(account.CodeTooMany)
	}
	m.tokens[r.Hash] = r
	return nil
}

func (m *Memory) tokensOf(user string) (out []account.TokenRecord) {
	for _, r := range m.tokens {
		if r.User == user {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b account.TokenRecord) int {
		return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.ID, b.ID))
	})
	return out
}

// Token returns a token and whose it is.
func (m *Memory) Token(_ context.Context, h account.Hash) (account.TokenRecord, account.User, error) {
	defer m.lock()()
	r, ok := m.tokens[h]
	if !ok {
		return account.TokenRecord{}, account.User{}, missing("token")
	}
	return r, m.users[r.User].User, nil
}

// Tokens returns a person's tokens, the newest first.
func (m *Memory) Tokens(_ context.Context, user string) ([]account.TokenRecord, error) {
	defer m.lock()()
	return m.tokensOf(user), nil
}

// DeleteToken removes one token of a person.
func (m *Memory) DeleteToken(_ context.Context, user, id string) error {
	defer m.lock()()
	for h, r := range m.tokens {
		if r.User == user && r.ID == id {
			delete(m.tokens, h)
			return nil
		}
	}
	return missing("token")
}

// AddLink adds a one-time link.
func (m *Memory) AddLink(_ context.Context, r account.LinkRecord) error {
	defer m.lock()()
	if _, ok := m.users[r.User]; !ok {
		return missing("person")
	}
	m.links[r.Hash] = r
	return nil
}

// UseLink marks a link as used, where it may be.
func (m *Memory) UseLink(_ context.Context, h account.Hash, t time.Time, grace time.Duration) (account.LinkRecord, bool, error) {
	defer m.lock()()
	r, ok := m.links[h]
	if !ok {
		return account.LinkRecord{}, false, missing("link")
	}
	if !r.Used.IsZero() {
		return r, t.Sub(r.Used) < grace, nil
	}
	if !t.Before(r.Expires) {
		return r, false, nil
	}
	r.Used = t
	m.links[h] = r
	return r, true, nil
}

// AddCode adds a class code.
func (m *Memory) AddCode(_ context.Context, c account.Code) error {
	defer m.lock()()
	if _, ok := m.groups[c.Group]; !ok {
		return missing("group")
	}
	if _, ok := m.codes[c.Code]; ok {
		return conflict("The code is taken.")
	}
	m.codes[c.Code] = c
	return nil
}

// Code returns one code.
func (m *Memory) Code(_ context.Context, code string) (account.Code, error) {
	defer m.lock()()
	c, ok := m.codes[code]
	if !ok {
		return account.Code{}, missing("code")
	}
	c.Title = m.groups[c.Group].Title
	return c, nil
}

// Codes returns codes, the newest first.
func (m *Memory) Codes(_ context.Context, group string) ([]account.Code, error) {
	defer m.lock()()
	var out []account.Code
	for _, c := range m.codes {
		if group == "" || c.Group == group {
			c.Title = m.groups[c.Group].Title
			out = append(out, c)
		}
	}
	slices.SortFunc(out, func(a, b account.Code) int {
		return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.Code, b.Code))
	})
	return out, nil
}

// DeleteCode removes a code.
func (m *Memory) DeleteCode(_ context.Context, code string) error {
	defer m.lock()()
	if _, ok := m.codes[code]; !ok {
		return missing("code")
	}
	delete(m.codes, code)
	return nil
}

// Join adds r and counts it on the code.
func (m *Memory) Join(_ context.Context, code string, r account.Record) (bool, error) {
	defer m.lock()()
	c, ok := m.codes[code]
	if !ok {
		return false, missing("code")
	}
	if !r.Created.Before(c.Expires) || c.Joined >= c.Places {
		return false, nil
	}
	if err := m.create(r); err != nil {
		return false, err
	}
	c.Joined++
	m.codes[code] = c
	return true, nil
}

// Touch records uses.
func (m *Memory) Touch(_ context.Context, uses []account.Use) error {
	defer m.lock()()
	for _, u := range uses {
		if r, ok := m.sessions[u.Hash]; ok && u.Kind == account.KindSession {
			r.Seen = u.Seen
			m.sessions[u.Hash] = r
		}
		if r, ok := m.tokens[u.Hash]; ok && u.Kind == account.KindToken {
			r.Used = u.Seen
			m.tokens[u.Hash] = r
		}
		if p, ok := m.users[u.User]; ok && u.Seen.After(p.Seen) {
			p.Seen = u.Seen
			m.users[u.User] = p
		}
	}
	return nil
}

// Sweep removes what is over.
func (m *Memory) Sweep(_ context.Context, t, idle, old time.Time) error {
	defer m.lock()()
	maps.DeleteFunc(m.sessions, func(_ account.Hash, r account.SessionRecord) bool {
		return !r.Expires.After(t) || r.Seen.Before(idle)
	})
	maps.DeleteFunc(m.tokens, func(_ account.Hash, r account.TokenRecord) bool {
		return !r.Expires.IsZero() && !r.Expires.After(t)
	})
	maps.DeleteFunc(m.links, func(_ account.Hash, r account.LinkRecord) bool { return r.Expires.Before(old) })
	maps.DeleteFunc(m.codes, func(_ string, c account.Code) bool { return c.Expires.Before(old) })
	return nil
}
