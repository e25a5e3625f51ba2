package workspace

import (
	"sync"

	"github.com/ahelme/comfyume/internal/file"
)

// cacheSize bounds what is remembered of all people together, in names: some megabytes. A gallery asks for some
// hundred names, an editor for the list of inputs again and again.
const cacheSize = 20_000

// cache remembers what the table said, per person and version. It can't be stale: what is asked for comes with the
// version that the table has now. The zero value is empty.
type cache struct {
	mu     sync.Mutex
	people map[string]*known
	size   int // names, list entries and usages of all people
}

// known is what is remembered of one person.
type known struct {
	version uint64
	names   map[file.Ref]Stored
	lists   map[string][]file.Info
	usage   *Usage
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
	k := c.room(user, version, 1)
	if k == nil {
		return
	}
	if _, there := k.names[ref]; !there {
		c.size++
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
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.room(user, version, len(list)+1)
	if k == nil {
		return
	}
	if old, there := k.lists[typ]; there {
		c.size -= len(old) + 1
	}
	c.size += len(list) + 1
	k.lists[typ] = list
}

func (c *cache) usage(user string, version uint64) (Usage, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.people[user]
	if k == nil || k.version != version || k.usage == nil {
		return Usage{}, false
	}
	return *k.usage, true
}

func (c *cache) keepUsage(user string, version uint64, u Usage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.room(user, version, 1)
	if k == nil {
		return
	}
	if k.usage == nil {
		c.size++
	}
	k.usage = &u
}

// room makes room for more names and returns what is remembered of user at version: empty where it was an older
// version, and nil where it is a newer one or there would be no room.
func (c *cache) room(user string, version uint64, more int) *known {
	if more > cacheSize/4 {
		return nil // one person shall not drive out the others
	}
	k := c.people[user]
	if k != nil && k.version > version {
		return nil
	}
	if k != nil && k.version < version {
		c.forget(user)
		k = nil
	}
	for other := range c.people { // any: a map gives them in random order
		if c.size+more <= cacheSize {
			break
		}
		if other == user {
			k = nil
		}
		c.forget(other)
	}
	if k == nil {
		if c.people == nil {
			c.people = map[string]*known{}
		}
		k = &known{version: version, names: map[file.Ref]Stored{}, lists: map[string][]file.Info{}}
		c.people[user] = k
	}
	return k
}

func (c *cache) forget(user string) {
	k := c.people[user]
	c.size -= len(k.names)
	for _, l := range k.lists {
		c.size -= len(l) + 1
	}
	if k.usage != nil {
		c.size--
	}
	delete(c.people, user)
}
