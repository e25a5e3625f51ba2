package account

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/ahelme/comfyume/internal/identity"
)

// Kind says what sort of credential somebody came with.
type Kind uint8

// The kinds of credentials.
const (
	KindSession  Kind = iota + 1 // a browser's cookie
	KindToken                    // a personal token
	KindPassword                 // name and password with every request
)

// Credential is a look-up's answer: who acts, and by what.
type Credential struct {
	Person identity.Person
	Kind   Kind
	ID     string // of the session or token
	Scope  Scope
}

// cacheKey is the hash of a secret; passwords are hashed together with the name and a key of this process.
type cacheKey struct {
	kind Kind
	hash Hash
}

// entry is one credential that was looked up.
type entry struct {
	cred    Credential
	loaded  time.Time    // when the store was asked
	expires time.Time    // absolute end; zero: never
	idle    int64        // how long it may rest, in nanoseconds; 0: for ever
	seen    atomic.Int64 // last use, Unix nanoseconds
	written int64        // last use the store knows; owned by the flush under the cache's lock
}

// over reports whether the credential itself has ended at t.
func (e *entry) over(t time.Time) bool {
	if !e.expires.IsZero() && !t.Before(e.expires) {
		return true
	}
	return e.idle > 0 && t.UnixNano()-e.seen.Load() >= e.idle
}

// maxEntries bounds the cache. Each is about 300 bytes.
const maxEntries = 20_000

// cache remembers credentials that were looked up, for a short time, and their uses, until they are written. An
// answer of the store that was on its way while something was revoked is not remembered.
type cache struct {
	mu      sync.RWMutex
	entries map[cacheKey]*entry
	ended   uint64 // counts forget
}

func newCache() *cache { return &cache{entries: map[cacheKey]*entry{}} }

// find returns the entry under k.
func (c *cache) find(k cacheKey) (*entry, bool) {
	c.mu.RLock()
	e, ok := c.entries[k]
	c.mu.RUnlock()
	return e, ok
}

// epoch is to be read before the store is asked, and given to keep.
func (c *cache) epoch() uint64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.ended
}

// keep remembers e unless something was revoked since epoch.
func (c *cache) keep(k cacheKey, e *entry, epoch uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended != epoch {
		return
	}
	if old, ok := c.entries[k]; ok {
		e.seen.Store(max(e.seen.Load(), old.seen.Load()))
	} else if len(c.entries) >= maxEntries {
		c.shrink()
	}
	c.entries[k] = e
}

// shrink forgets entries, first those whose use is written. Called with the lock held.
func (c *cache) shrink() {
	for _, unwritten := range []bool{false, true} {
		for k, e := range c.entries {
			if len(c.entries) < maxEntries*3/4 {
				return
			}
			if unwritten || e.seen.Load() <= e.written {
				delete(c.entries, k)
			}
		}
	}
}

// forget drops all entries of a person, or only those with one id; without a person everybody's.
func (c *cache) forget(user, id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended++
	for k, e := range c.entries {
		if (user == "" || e.cred.Person.Name == user) && (id == "" || e.cred.ID == id) {
			delete(c.entries, k)
		}
	}
}

// uses returns the uses that the store does not know yet, and drops entries that ended or that the store has not
// been asked about for longer than rest.
func (c *cache) uses(t time.Time, rest time.Duration) []Use {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []Use
	for k, e := range c.entries {
		if seen := e.seen.Load(); seen > e.written && k.kind != KindPassword {
			e.written = seen
			out = append(out, Use{
				Kind: k.kind, Hash: k.hash, User: e.cred.Person.Name,
				Seen: time.Unix(0, seen).UTC().Truncate(time.Millisecond),
			})
		}
		if e.over(t) || t.Sub(e.loaded) > rest {
			delete(c.entries, k)
		}
	}
	return out
}
