package account

import (
	"context"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/identity"
)

// Store keeps what a Service knows. It owns no rule but the conditions named here, each of which holds in one
// transaction. What is not there gives an error of kind Missing, what clashes one of kind Conflict. Changes are
// durable when a method returns. Times have millisecond precision; the zero time stands for "never".
//
// Methods about one person's sessions and tokens take the person: a row of somebody else is Missing.
type Store interface {
	// CreateUser adds r. The name must be free, the group, if any, must be there.
	CreateUser(ctx context.Context, r Record) error
	// User returns one account.
	User(ctx context.Context, name string) (Record, error)
	// Users returns the accounts of a group, of all for "", in order of their names.
	Users(ctx context.Context, group string) ([]User, error)
	// ChangeUser changes what c names.
	ChangeUser(ctx context.Context, name string, c Change) error
	// SetSecret replaces the proof. With if not empty it does so only while the old hash is that one.
	SetSecret(ctx context.Context, name string, proof Proof, hash, onlyIf string) error
	// DeleteUser removes the account with its sessions, tokens and links.
	DeleteUser(ctx context.Context, name string) error

	// CreateGroup adds g. The name must be free.
	CreateGroup(ctx context.Context, g Group) error
	// Groups returns all groups in order of their names, with their numbers of members.
	Groups(ctx context.Context) ([]Group, error)
	// DeleteGroup removes a group without members, with its codes.
	DeleteGroup(ctx context.Context, name string) error

	// AddSession adds a session. Of the person's sessions the most recently used ones stay, at most keep; the
	// hashes of those that had to go are returned.
	AddSession(ctx context.Context, r SessionRecord, keep int) (gone []Hash, err error)
	// Session returns a session and whose it is.
	Session(ctx context.Context, h Hash) (SessionRecord, User, error)
	// Sessions returns a person's sessions, the most recently used first.
	Sessions(ctx context.Context, user string) ([]SessionRecord, error)
	// DeleteSession removes one session of a person.
	DeleteSession(ctx context.Context, user, id string) error
	// DeleteSessions removes all sessions of a person but the one with the id except.
	DeleteSessions(ctx context.Context, user, except string) error

	// AddToken adds a token while the person has fewer than most.
	AddToken(ctx context.Context, r TokenRecord, most int) error
	// Token returns a token and whose it is.
	Token(ctx context.Context, h Hash) (TokenRecord, User, error)
	// Tokens returns a person's tokens, the newest first.
	Tokens(ctx context.Context, user string) ([]TokenRecord, error)
	// DeleteToken removes one token of a person.
	DeleteToken(ctx context.Context, user, id string) error

	// AddLink adds a one-time link.
	AddLink(ctx context.Context, r LinkRecord) error
	// UseLink marks a link as used at t, if it is not over and was never used or first used less than grace ago.
	// It returns the link as it is then and whether it may be used.
	UseLink(ctx context.Context, h Hash, t time.Time, grace time.Duration) (LinkRecord, bool, error)

	// AddCode adds a class code. The code must be free, the group must be there.
	AddCode(ctx context.Context, c Code) error
	// Code returns one code.
	Code(ctx context.Context, code string) (Code, error)
	// Codes returns the codes of a group, of all for "", the newest first.
	Codes(ctx context.Context, group string) ([]Code, error)
	// DeleteCode removes a code; the people who came by it stay.
	DeleteCode(ctx context.Context, code string) error
	// Join adds r and counts it on the code, if the code is not over at r.Created and has a place left; else
	// nothing changes and the answer is false.
	Join(ctx context.Context, code string, r Record) (bool, error)

	// Touch records uses: of a session or token and with it of its person. Those that are gone are left out.
	Touch(ctx context.Context, uses []Use) error
	// Sweep removes what is over: sessions not used since idle or past their end at t, tokens past their end,
	// links and codes whose end is older than old.
	Sweep(ctx context.Context, t, idle, old time.Time) error
}

// Hash is the SHA-256 of a secret of 128 bits or more.
type Hash [32]byte

// Record is an account with its secret.
type Record struct {
	User
	Secret string // a PHC string; empty for NoProof
}

// Change names what of an account is to be another; nil leaves a thing alone.
type Change struct {
	Group     *string
	Role      *identity.Role
	Suspended *bool
}

// Session is one signed-in browser.
type Session struct {
	ID      string // for lists; no secret
	User    string
	Device  string // such as "Firefox on Linux"
	Address string // where it signed in from
	Via     string // password, pin, link or code
	Created time.Time
	Seen    time.Time
	Expires time.Time // at the latest
}

// SessionRecord is a session with the hash of its cookie.
type SessionRecord struct {
	Session
	Hash Hash
}

// Scope is what a token is good for.
type Scope string

// The scopes.
const (
	ScopeAll   Scope = "all"   // everything its person may do through an API
	ScopeComfy Scope = "comfy" // the person's ComfyUI server only
	// ScopeWorker takes anybody's jobs to run them, and does nothing else. Only an operator gives it away; whoever
	// makes tokens for others sees to that.
	ScopeWorker Scope = "worker"
)

// Valid reports whether s is a known scope.
func (s Scope) Valid() bool { return s == ScopeAll || s == ScopeComfy || s == ScopeWorker }

// Token is one personal token, without its secret.
type Token struct {
	ID      string
	User    string
	Label   string
	Scope   Scope
	Created time.Time
	Used    time.Time // zero: never
	Expires time.Time // zero: never
}

// TokenRecord is a token with its hash.
type TokenRecord struct {
	Token
	Hash Hash
}

// LinkRecord is a one-time sign-in link.
type LinkRecord struct {
	Hash    Hash
	User    string
	By      string // who made it, and whom to ask for another; empty: the operator
	Created time.Time
	Expires time.Time
	Used    time.Time // first use; zero: never
}

// Code lets people join a group by themselves.
type Code struct {
	Code    string // as it is read out: ABCD-EFGH
	Group   string
	Title   string // of the group
	By      string // who made it
	Places  int    // how many people it lets in
	Joined  int    // how many came by it
	Created time.Time
	Expires time.Time
}

// Use is one use of a session or token.
type Use struct {
	Kind Kind
	Hash Hash
	User string
	Seen time.Time
}

// NoUser is what a store answers where there is no such person.
func NoUser(name string) error {
	return fault.New(fault.Missing, "There is no person “%s”.", name).WithCode("no_user").
		WithRemedy("See who there is with: comfyume user list")
}

// NoGroup is what a store answers where there is no such group.
func NoGroup(name string) error {
	return fault.New(fault.Missing, "There is no group “%s”.", name).WithCode("no_group")
}

// NameTaken is what a store answers where somebody has the name already.
func NameTaken(name string) error {
	return fault.New(fault.Conflict, "The name “%s” is taken.", name).WithCode(CodeNameTaken)
}
