package workspace

import (
	"fmt"
	"testing"

	"github.com/ahelme/comfyume/internal/file"
)

// held counts what the cache holds, whatever it believes.
func (c *cache) held() (n int) {
	for _, k := range c.people {
		n += len(k.names)
		for _, l := range k.lists {
			n += len(l) + 1
		}
		if k.usage != nil {
			n++
		}
	}
	return n
}

func TestCacheIsBounded(t *testing.T) {
	t.Parallel()
	var c cache
	for i := range 3000 {
		user, version := fmt.Sprint(i%300), uint64(i/1000)
		c.keepList(user, version, file.Input, make([]file.Info, i%400))
		for j := range 20 {
			c.keepFile(user, version, file.Ref{Name: fmt.Sprint(j % 15)}, Stored{Key: user})
		}
		c.keepUsage(user, version, Usage{Bytes: int64(i)})
		if u, ok := c.usage(user, version); !ok || u.Bytes != int64(i) {
			t.Fatalf("the usage that was just kept of %s is %+v, %v", user, u, ok)
		}
		if c.size != c.held() || c.size > cacheSize {
			t.Fatalf("the cache holds %d names and believes in %d of %d", c.held(), c.size, cacheSize)
		}
		if s, ok := c.file(user, version, file.Ref{Name: "3"}); !ok || s.Key != user {
			t.Fatalf("what was just kept of %s is %+v, %v", user, s, ok)
		}
	}
	c.keepList("large", 1, file.Output, make([]file.Info, cacheSize))
	if _, ok := c.list("large", 1, file.Output); ok {
		t.Error("one list drove out all others")
	}
}

func TestCacheKnowsVersions(t *testing.T) {
	t.Parallel()
	var c cache
	ref := file.Ref{Type: file.Input, Name: "a"}
	c.keepFile("ann", 5, ref, Stored{Key: "new"})
	c.keepFile("ann", 4, ref, Stored{Key: "old"}) // read before the change, kept after it
	if s, ok := c.file("ann", 5, ref); !ok || s.Key != "new" {
		t.Errorf("version 5 is %+v, %v", s, ok)
	}
	for _, version := range []uint64{4, 6} {
		if s, ok := c.file("ann", version, ref); ok {
			t.Errorf("version %d is %+v", version, s)
		}
	}
	c.keepList("ann", 6, file.Input, nil)
	if _, ok := c.file("ann", 6, ref); ok {
		t.Error("a name outlived its version")
	}
	if l, ok := c.list("ann", 6, file.Input); !ok || len(l) != 0 {
		t.Errorf("an empty list is %v, %v", l, ok)
	}
}
