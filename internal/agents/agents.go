// Package agents knows which agents may dial home: an operator makes a one-time code for a back end's name, the agent
// uses it up and gets a key of its own, and the key is good until it is revoked or the name joins anew. Codes and keys
// are kept as hashes only.
package agents

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
)

// Codes of errors.
const (
	CodeWrong     = "agent_code"      // the code is unknown, used or over
	CodeThrottled = "agent_throttled" // too many wrong codes
	CodeKey       = "agent_key"       // the key is unknown or revoked
	CodeName      = "agent_name"      // the code is for another name
)

// codeLife is how long a code is good; an operator may say less or more, at most maxLife.
const (
	codeLife = time.Hour
	maxLife  = 7 * 24 * time.Hour
)

// Hash is the SHA-256 of a code or key.
type Hash [32]byte

// About is what an agent said of its machine.
type About struct {
	Machine string
	Version string
	OS      string
}

// Agent is one that has joined.
type Agent struct {
	Name   string // of the back end
	By     string // who made its code
	About  About
	Joined time.Time
	Seen   time.Time // last time that it was connected; zero: never
}

// Record is an agent with the hash of its key.
type Record struct {
	Agent
	Key Hash
}

// CodeRecord is a one-time code.
type CodeRecord struct {
	Hash    Hash
	Name    string
	By      string
	Expires time.Time
}

// Store keeps codes and agents. What is not there is an error of kind Missing. Changes are durable when a method
// returns. Times have millisecond precision; the zero time stands for "never".
type Store interface {
	// AddCode keeps a code, in place of any other for its name.
	AddCode(ctx context.Context, c CodeRecord) error
	// UseCode looks a code up that is not over at t and, unless accept says no, takes it away and keeps the agent that
	// accept returns in place of any other of the name, all in one transaction. accept may be called more than once.
	UseCode(ctx context.Context, h Hash, t time.Time, accept func(CodeRecord) (Record, error)) error
	// ByKey returns the agent with a key.
	ByKey(ctx context.Context, key Hash) (Agent, error)
	// Agents returns all agents in order of their names.
	Agents(ctx context.Context) ([]Agent, error)
	// Touch records when an agent was connected and what it is like then. One that is gone is left out.
	Touch(ctx context.Context, name string, seen time.Time, about About) error
	// Remove removes an agent and the code of its name. Missing: there is neither.
	Remove(ctx context.Context, name string) error
	// Sweep removes codes that are over at t.
	Sweep(ctx context.Context, t time.Time) error
}

// Options of a Service.
type Options struct {
	Known func(name string) error // says why there is no back end of the name that an agent may be; nil: all may
	Ended func(name string)       // is told that a key of the name is good no more; nil: nobody
	Log   *slog.Logger            // nil: nowhere
}

// Service decides who may dial home. It is safe for concurrent use.
type Service struct {
	store Store
	o     Options
	guess guesses
}

// New returns a service over a store.
func New(store Store, o Options) *Service {
	if o.Known == nil {
		o.Known = func(string) error { return nil }
	}
	if o.Ended == nil {
		o.Ended = func(string) {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Service{store: store, o: o}
}

// NewCode makes a one-time code for a back end's name, in place of any that was made for it before. The zero life is an
// hour. The code is shown once and not kept.
func (s *Service) NewCode(ctx context.Context, name, by string, life time.Duration) (code string, expires time.Time, err error) {
	if err := s.o.Known(name); err != nil {
		return "", time.Time{}, err
	}
	if life == 0 {
		life = codeLife
	}
	if life < 0 || life > maxLife {
		return "", time.Time{}, fault.New(fault.Invalid, "A code can't live for %s.", life).
			WithRemedy("Give it some minutes or hours, at most %s.", maxLife).WithCode("bad_life")
	}
	at := now()
	if err := s.store.Sweep(ctx, at); err != nil {
		return "", time.Time{}, err
	}
	code = newCode()
	c := CodeRecord{Hash: hashOf(normalize(code)), Name: name, By: by, Expires: at.Add(life)}
	if err := s.store.AddCode(ctx, c); err != nil {
		return "", time.Time{}, err
	}
	s.o.Log.Info("a code for an agent was made", "agent", name, "by", by, "expires", c.Expires)
	return code, c.Expires, nil
}

// Join uses a code up and returns who the agent is and its key, which is shown once and not kept. A key that the name
// had before ends. name, if not empty, has to be the code's. from is the network address of who asks: wrong codes are
// counted against it.
func (s *Service) Join(ctx context.Context, code, name, from string, about About) (Agent, string, error) {
	if wait := s.guess.wait(from); wait > 0 {
		e := fault.New(fault.Busy, "Too many wrong codes were tried.").WithCode(CodeThrottled).
			WithRemedy("Wait %s and try again.", wait.Round(time.Second))
		e.RetryAfter = wait
		return Agent{}, "", e
	}
	key, at := newKey(), now()
	var joined Agent
	err := s.store.UseCode(ctx, hashOf(normalize(code)), at, func(c CodeRecord) (Record, error) {
		if name != "" && name != c.Name {
			return Record{}, fault.New(fault.Conflict, "The code is for %s, not for %s.", c.Name, name).WithCode(CodeName).
				WithRemedy("Leave the name out, or have a code made for it: comfyume backend join %s.", name)
		}
		if err := s.o.Known(c.Name); err != nil { // the settings changed since
			return Record{}, err
		}
		joined = Agent{Name: c.Name, By: c.By, About: about, Joined: at}
		return Record{Agent: joined, Key: hashOf(key)}, nil
	})
	if fault.Is(err, fault.Missing) && !isCoded(err) {
		s.guess.wrong(from)
		return Agent{}, "", fault.New(fault.Denied, "The code is not known: it was used, is over, or has a slip in it.").WithCode(CodeWrong).
			WithRemedy("Have a new one made: comfyume backend join NAME.")
	}
	if err != nil {
		return Agent{}, "", err
	}
	s.o.Ended(joined.Name) // whoever had the name before
	return joined, key, nil
}

// isCoded reports whether an error says more than that nothing is there.
func isCoded(err error) bool {
	e, ok := errors.AsType[*fault.Error](err)
	return ok && e.Code != ""
}

// Check says whose a key is. Denied: nobody's.
func (s *Service) Check(ctx context.Context, key string) (string, error) {
	a, err := s.store.ByKey(ctx, hashOf(key))
	if fault.Is(err, fault.Missing) {
		return "", fault.New(fault.Denied, "The agent's key is not known to the studio, or was revoked.").WithCode(CodeKey).
			WithRemedy("Join anew: comfyume backend join NAME makes a code, comfyume agent join CODE uses it.")
	}
	if err != nil {
		return "", err
	}
	if err := s.o.Known(a.Name); err != nil {
		return "", fault.Wrap(fault.Denied, err, "The studio has no back end %s for agents any more.", a.Name).WithCode(CodeKey).
			WithRemedy("Put it back into the studio's settings, with driver: agent, or join under another name.")
	}
	return a.Name, nil
}

// Agents returns all that have joined, by name.
func (s *Service) Agents(ctx context.Context) ([]Agent, error) { return s.store.Agents(ctx) }

// Seen records that an agent is, or was a moment ago, connected.
func (s *Service) Seen(ctx context.Context, name string, about About) error {
	return s.store.Touch(ctx, name, now(), about)
}

// Revoke ends an agent's key, and any code for its name.
func (s *Service) Revoke(ctx context.Context, name string) error {
	if err := s.store.Remove(ctx, name); err != nil {
		if fault.Is(err, fault.Missing) {
			return fault.New(fault.Missing, "No agent has joined as “%s”.", name).WithCode("no_agent")
		}
		return err
	}
	s.o.Log.Info("an agent's key was revoked", "agent", name)
	s.o.Ended(name)
	return nil
}

func now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }

// hashOf returns what is kept of a secret.
func hashOf(secret string) Hash { return sha256.Sum256([]byte(secret)) }

// alphabet is that of codes: nothing that looks or sounds like another.
const alphabet = "ABCDEFGHJKMNPQRSTUVWXYZ23456789"

// codeLength is the letters of a code: 59 bits.
const codeLength = 12

// newCode returns a code that can be read out: ABCD-EFGH-JKLM.
func newCode() string {
	var b strings.Builder
	var raw [1]byte
	for n := 0; n < codeLength; {
		rand.Read(raw[:])                         // it never fails
		if int(raw[0]) >= 256-256%len(alphabet) { // it would favour the first letters
			continue
		}
		if n > 0 && n%4 == 0 {
			b.WriteByte('-')
		}
		b.WriteByte(alphabet[int(raw[0])%len(alphabet)])
		n++
	}
	return b.String()
}

// normalize returns a typed code as it is hashed: people leave out hyphens and type small letters.
func normalize(code string) string {
	return strings.NewReplacer("-", "", " ", "").Replace(strings.ToUpper(strings.TrimSpace(code)))
}

// KeyPrefix begins every agent's key, so that people and scanners recognise one.
const KeyPrefix = "cma_"

// newKey returns a key of 256 random bits or more.
func newKey() string { return KeyPrefix + rand.Text() + rand.Text() }
