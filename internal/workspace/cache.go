package workspace

import (
	"sync"

	"github.com/ahelme/comfyume/internal/file"
)

// Bounds of the cache. A gallery asks for some hundred names, an editor for the lists of inputs again and again.
const (
	cachedPeople = 512
	cachedNames  = 512  // names per person
	cachedList   = 2048 // longest list that is kept
)

// cache remembers what the table said, per person and version. It can't be stale: what is asked for comes with the
// version that the table has now. The zero value is empty.
type cache struct {
	mu     sync.Mutex
	people map[string]*known
}

// known is what is remembered of one person.
type known struct {
	version uint64
	names   map[file.Ref]Stored
	lists   map[string][]file.Info
}

func (c *cache) file(user string, version uint64, ref file.Ref) (Stored, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.people[user]
	if k == nil || k.version != version {
		return Stored{}, false
	}
	s, ok := k.names[ref]
	return s, ok
}

func (c *cache) keepFile(user string, version uint64, ref file.Ref, s Stored) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.at(user, version)
	if k == nil {
		return
	}
	if len(k.names) >= cachedNames {
		clear(k.names)
	}
	k.names[ref] = s
}

func (c *cache) list(user string, version uint64, typ string) ([]file.Info, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.people[user]
	if k == nil || k.version != version {
		return nil, false
	}
	l, ok := k.lists[typ]
	return l, ok
}

func (c *cache) keepList(user string, version uint64, typ string, list []file.Info) {
	if len(list) > cachedList {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := c.at(user, version); k != nil {
		k.lists[typ] = list
	}
}

// at returns what is remembered of user at version, empty where an older version was remembered, and nil where a
// newer one is.
func (c *cache) at(user string, version uint64) *known {
	k := c.people[user]
	switch {
	case k != nil && k.version == version:
		return k
	case k != nil && k.version > version:
		return nil
	case k == nil && len(c.people) >= cachedPeople:
		for other := range c.people { // any: a map gives them in random order
			delete(c.people, other)
			break
		}
	}
	if c.people == nil {
		c.people = map[string]*known{}
	}
	k = &known{version: version, names: map[file.Ref]Stored{}, lists: map[string][]file.Info{}}
	c.people[user] = k
	return k
}
