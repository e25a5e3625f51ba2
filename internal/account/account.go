// Package account knows the people of a studio: who they are, how they prove it, and what they carry afterwards.
//
// A person proves who they are with a password, with the PIN they got when they joined a class, or with a one-time
// link. What they carry afterwards is a session (a browser's cookie) or a personal token (a program's). Secrets are
// kept as hashes only, and every look-up of a session or a token is answered from memory when it is hot.
package account

import (
	"context"
	"log/slog"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/identity"
)

// Codes of the errors this package gives, beside their kind.
const (
	CodeSignedOut = "signed_out"      // Denied: no such session or token, or it is over
	CodeWrong     = "wrong_secret"    // Denied: name and password, or name and PIN, do not fit together
	CodeSuspended = "suspended"       // Denied: the account is switched off
	CodeThrottled = "too_many_tries"  // Busy: too many wrong tries
	CodeNameTaken = "name_taken"      // Conflict
	CodeLinkUsed  = "link_used"       // Conflict: a one-time link that was used up
	CodeLinkOver  = "link_over"       // Conflict: a link or a class code past its end
	CodeClassFull = "class_full"      // Conflict: a class code that has no place left
	CodeTooMany   = "too_many_tokens" // Conflict
)

// User is a person's account.
type User struct {
	Name      string // also names the workspace and its folder
	Group     string // may be empty
	Role      identity.Role
	Suspended bool
	Proof     Proof     // what they can sign in with, beside links
	Created   time.Time // zero: unknown
	Seen      time.Time // last use of a session or token, to the minute; zero: never
}

// Person returns who acts when u does.
func (u User) Person() identity.Person {
	return identity.Person{Name: u.Name, Group: u.Group, Role: u.Role}
}

// Proof is what a person can sign in with.
type Proof string

// The proofs. NoProof leaves links only.
const (
	NoProof  Proof = ""
	Password Proof = "password"
	PIN      Proof = "pin" // for the sign-in pages only, never for Basic
)

// Group is a number of people, such as a class.
type Group struct {
	Name    string
	Title   string // what people read; empty: Name
	Created time.Time
	Members int
}

// Options are the optional settings of New. The zero value is right for a studio.
type Options struct {
	SessionIdle time.Duration // a session ends when it was not used for so long; 0: 14 days
	SessionMax  time.Duration // a session ends so long after the sign-in; 0: 90 days
	LinkLife    time.Duration // how long an unused link lives; 0: 14 days
	LinkGrace   time.Duration // a used link works again for so long; 0: 15 minutes
	CodeLife    time.Duration // how long a class code lets people in; 0: 90 days
	CodePlaces  int           // how many people a class code lets in; 0: 500
	Cost        Cost          // of hashing; zero fields: 19 MiB, two passes, one lane
	CacheTTL    time.Duration // how long a look-up is believed without asking the store; 0: 30 s

	// Ended is called after a person's sessions or tokens ended before their time, or the person changed:
	// sign-out, revocation, suspension, removal, another role or group. It must be quick.
	Ended func(Ended)

	// Left reports whether something of a removed person of this name is still here. Who joins by a class code chooses
	// the name alone and must not come into that; who makes an account for somebody may mean just that.
	Left func(ctx context.Context, name string) (bool, error)

	Log *slog.Logger // nil: discarded
}

// Ended says whose credentials ended.
type Ended struct {
	User string
	ID   string // of the one session or token; empty: any of the person's may have, look each up again
}

// Service holds the rules about people over a Store. It is safe for concurrent use.
type Service struct {
	store  Store
	o      Options
	log    *slog.Logger
	hasher *hasher
	cache  *cache
	guard  guard

	passwords struct {
		key    []byte // of this process, for remembering passwords that were right
		flight singleflight.Group
	}
}

// New returns a Service over store. Call Run to have use recorded and what is over swept away.
func New(store Store, o Options) *Service {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	const day = 24 * time.Hour
	def(&o.SessionIdle, 14*day)
	def(&o.SessionMax, 90*day)
	def(&o.LinkLife, 14*day)
	def(&o.LinkGrace, 15*time.Minute)
	def(&o.CodeLife, 90*day)
	def(&o.CacheTTL, 30*time.Second)
	if o.CodePlaces <= 0 {
		o.CodePlaces = 500
	}
	if o.Ended == nil {
		o.Ended = func(Ended) {}
	}
	if o.Left == nil {
		o.Left = func(context.Context, string) (bool, error) { return false, nil }
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Service{store: store, o: o, log: o.Log, hasher: newHasher(o.Cost), cache: newCache()}
	s.guard.init()
	s.passwords.key = random(32)
	return s
}

func now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }

func errSignedOut() error {
	return fault.New(fault.Denied, "You are not signed in.").WithCode(CodeSignedOut)
}

func errWrong(what string) error {
	return fault.New(fault.Denied, "That name and that %s do not fit together.", what).WithCode(CodeWrong).
		WithRemedy("Try again, or ask your instructor for a sign-in link.")
}

func errSuspended() error {
	return fault.New(fault.Denied, "This account is switched off.").
		WithRemedy("Ask your instructor or the operator.").WithCode(CodeSuspended)
}
