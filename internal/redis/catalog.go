package redis

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/redis/rueidis"

	"github.com/ahelme/comfyume/internal/catalog"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/fleet"
)

// Catalog keeps what back ends told last, and the web files of their custom nodes. It is safe for concurrent use, by any
// number of servers.
type Catalog struct {
	db   *DB
	keys []string
}

var (
	_ catalog.Store   = (*Catalog)(nil)
	_ fleet.PackStore = (*Catalog)(nil)
)

// NewCatalog returns the catalog's store in the database.
func NewCatalog(db *DB) *Catalog {
	return &Catalog{db: db, keys: db.keys("meta", "packs", "contents", "holders", "snapshots", "members", "wanted")}
}

// SaveSnapshot implements catalog.Store.
func (c *Catalog) SaveSnapshot(ctx context.Context, backEnd string, blob []byte) error {
	return c.db.settled(ctx, scriptCatalog, c.keys, []string{c.db.generation, "told", backEnd, rueidis.BinaryString(blob)})
}

// LoadSnapshots implements catalog.Store.
func (c *Catalog) LoadSnapshots(ctx context.Context) (map[string][]byte, error) {
	return c.byName(ctx, "snapshots")
}

// byName reads a hash of bodies.
func (c *Catalog) byName(ctx context.Context, key string) (map[string][]byte, error) {
	found, err := c.db.hash(ctx, key)
	if err != nil {
		return nil, err
	}
	all := make(map[string][]byte, len(found))
	for name, body := range found {
		all[name] = []byte(body)
	}
	return all, nil
}

// packField names a file, as catalog.lua describes it.
func packField(f fleet.PackFile) string {
	return person(f.BackEnd) + person(f.Pack) + person(f.Path)
}

// LoadPacks implements fleet.PackStore.
func (c *Catalog) LoadPacks(ctx context.Context) ([]fleet.PackFile, error) {
	found, err := c.db.hash(ctx, "packs")
	if err != nil {
		return nil, err
	}
	all := make([]fleet.PackFile, 0, len(found))
	for field, has := range found {
		d := reader{rest: field}
		f := fleet.PackFile{BackEnd: d.name(), Pack: d.name(), Path: d.name()}
		if d.failed || has == "" {
			return nil, fmt.Errorf("a file of custom nodes can't be read: %q", field)
		}
		f.Listed, f.Hash = has[0] == '1', has[1:]
		all = append(all, f)
	}
	slices.SortFunc(all, func(x, y fleet.PackFile) int {
		return cmp.Or(cmp.Compare(x.BackEnd, y.BackEnd), cmp.Compare(x.Pack, y.Pack), cmp.Compare(x.Path, y.Path))
	})
	return all, nil
}

// SavePackFile implements fleet.PackStore.
func (c *Catalog) SavePackFile(ctx context.Context, f fleet.PackFile, content []byte) error {
	return c.db.settled(ctx, scriptCatalog, c.keys,
		[]string{c.db.generation, "save", packField(f), bit(f.Listed), f.Hash, rueidis.BinaryString(content)})
}

// DropPackFiles implements fleet.PackStore.
func (c *Catalog) DropPackFiles(ctx context.Context, files []fleet.PackFile) error {
	args := []string{c.db.generation, "drop"}
	for _, f := range files {
		args = append(args, packField(f))
	}
	return c.db.settled(ctx, scriptCatalog, c.keys, args)
}

// PackContent implements fleet.PackStore.
func (c *Catalog) PackContent(ctx context.Context, hash string) ([]byte, error) {
	results, err := c.db.read(ctx, c.db.client.B().Hget().Key(c.db.key("contents")).Field(hash).Build())
	if err != nil {
		return nil, err
	}
	body, err := results[0].AsBytes()
	if rueidis.IsRedisNil(err) {
		return nil, fault.New(fault.Missing, "The file is not kept any more.")
	}
	if err != nil {
		return nil, c.db.fail(ctx, err)
	}
	return body, nil
}
