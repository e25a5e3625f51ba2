package redis

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"github.com/ahelme/comfyume/internal/catalog"
	"github.com/ahelme/comfyume/internal/fleet"
)

var (
	_ fleet.MemberStore    = (*Catalog)(nil)
	_ catalog.RequestStore = (*Catalog)(nil)
)

// SaveMember implements fleet.MemberStore.
func (c *Catalog) SaveMember(ctx context.Context, name string, body []byte) error {
	return c.db.settled(ctx, scriptCatalog, c.keys, []string{c.db.generation, "member", name, rueidis.BinaryString(body)})
}

// DropMember implements fleet.MemberStore.
func (c *Catalog) DropMember(ctx context.Context, name string) error {
	return c.db.settled(ctx, scriptCatalog, c.keys, []string{c.db.generation, "member", name})
}

// LoadMembers implements fleet.MemberStore.
func (c *Catalog) LoadMembers(ctx context.Context) (map[string][]byte, error) {
	return c.byName(ctx, "members")
}

// wantField names what was asked for and by whom, as catalog.lua describes it.
func wantField(w catalog.Want, group string) string {
	return person(w.Kind) + person(w.Folder) + person(w.Name) + person(group)
}

// AddRequest implements catalog.RequestStore.
func (c *Catalog) AddRequest(ctx context.Context, w catalog.Want, group string, at time.Time) error {
	return c.db.settled(ctx, scriptCatalog, c.keys,
		[]string{c.db.generation, "want", wantField(w, group), strconv.FormatInt(at.UnixMilli(), 10)})
}

// DropRequest implements catalog.RequestStore.
func (c *Catalog) DropRequest(ctx context.Context, w catalog.Want) error {
	all, err := c.Requests(ctx)
	if err != nil {
		return err
	}
	args := []string{c.db.generation, "unwant"}
	for _, r := range all {
		if r.Want == w {
			args = append(args, wantField(w, r.Group))
		}
	}
	if len(args) == 2 {
		return nil
	}
	return c.db.settled(ctx, scriptCatalog, c.keys, args)
}

// Requests implements catalog.RequestStore.
func (c *Catalog) Requests(ctx context.Context) ([]catalog.Request, error) {
	found, err := c.db.hash(ctx, "wanted")
	if err != nil {
		return nil, err
	}
	all := make([]catalog.Request, 0, len(found))
	for field, counted := range found {
		d := reader{rest: field}
		r := catalog.Request{Want: catalog.Want{Kind: d.name(), Folder: d.name(), Name: d.name()}, Group: d.name()}
		var first, last int64
		if _, err := fmt.Sscanf(counted, "%d %d %d", &r.Count, &first, &last); err != nil || d.failed {
			return nil, fmt.Errorf("what was asked for can't be read: %q %q", field, counted)
		}
		r.First, r.Last = time.UnixMilli(first).UTC(), time.UnixMilli(last).UTC()
		all = append(all, r)
	}
	slices.SortFunc(all, func(x, y catalog.Request) int {
		return cmp.Or(cmp.Compare(x.Kind, y.Kind), cmp.Compare(x.Folder, y.Folder), cmp.Compare(x.Name, y.Name), cmp.Compare(x.Group, y.Group))
	})
	return all, nil
}
