package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/ahelme/comfyume/internal/catalog"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/fleet"
)

// Catalog keeps what back ends told last, and the web files of their custom nodes. It is safe for concurrent use.
type Catalog struct{ db *DB }

var (
	_ catalog.Store   = (*Catalog)(nil)
	_ fleet.PackStore = (*Catalog)(nil)
)

// NewCatalog returns the catalog's store in the database.
func NewCatalog(db *DB) *Catalog { return &Catalog{db: db} }

// Queries of the catalog.
const (
	sqlSnapshotSet = `insert into snapshot (back_end, taken, body) values (?, ?, ?)
		on conflict (back_end) do update set taken = excluded.taken, body = excluded.body`
	sqlSnapshots = `select back_end, body from snapshot`

	sqlPackFiles      = `select back_end, pack, path, hash, listed from pack_file order by back_end, pack, path`
	sqlPackContentSet = `insert into pack_content (hash, body) values (?, ?) on conflict (hash) do nothing`
	sqlPackFileSet    = `insert into pack_file (back_end, pack, path, hash, listed) values (?, ?, ?, ?, ?)
		on conflict (back_end, pack, path) do update set hash = excluded.hash, listed = excluded.listed`
	sqlPackFileHash    = `select hash from pack_file where back_end = ? and pack = ? and path = ?`
	sqlPackFileDrop    = `delete from pack_file where back_end = ? and pack = ? and path = ?`
	sqlPackContentDrop = `delete from pack_content where hash = ? and not exists (select 1 from pack_file where hash = pack_content.hash)`
	sqlPackContent     = `select body from pack_content where hash = ?`
)

// SaveSnapshot implements catalog.Store.
func (c *Catalog) SaveSnapshot(ctx context.Context, backEnd string, blob []byte) error {
	return classify(c.db.Write(ctx, func(tx *Tx) error {
		_, err := tx.Exec(sqlSnapshotSet, backEnd, time.Now().UnixMilli(), blob)
		return err
	}))
}

// LoadSnapshots implements catalog.Store.
func (c *Catalog) LoadSnapshots(ctx context.Context) (map[string][]byte, error) {
	return c.byName(ctx, sqlSnapshots)
}

// byName reads rows of a name and a body.
func (c *Catalog) byName(ctx context.Context, query string) (map[string][]byte, error) {
	rows, err := c.db.Query(ctx, query)
	if err != nil {
		return nil, classify(err)
	}
	defer rows.Close()
	all := make(map[string][]byte)
	for rows.Next() {
		var name string
		var body []byte
		if err := rows.Scan(&name, &body); err != nil {
			return nil, classify(err)
		}
		all[name] = body
	}
	return all, classify(rows.Err())
}

// LoadPacks implements fleet.PackStore.
func (c *Catalog) LoadPacks(ctx context.Context) ([]fleet.PackFile, error) {
	rows, err := c.db.Query(ctx, sqlPackFiles)
	if err != nil {
		return nil, classify(err)
	}
	defer rows.Close()
	var all []fleet.PackFile
	for rows.Next() {
		var f fleet.PackFile
		if err := rows.Scan(&f.BackEnd, &f.Pack, &f.Path, &f.Hash, &f.Listed); err != nil {
			return nil, classify(err)
		}
		all = append(all, f)
	}
	return all, classify(rows.Err())
}

// SavePackFile implements fleet.PackStore.
func (c *Catalog) SavePackFile(ctx context.Context, f fleet.PackFile, content []byte) error {
	return classify(c.db.Write(ctx, func(tx *Tx) error {
		old, err := packFileHash(tx, f)
		if err != nil {
			return err
		}
		if content == nil {
			content = []byte{} // an empty file is a file
		}
		if _, err := tx.Exec(sqlPackContentSet, f.Hash, content); err != nil {
			return err
		}
		if _, err := tx.Exec(sqlPackFileSet, f.BackEnd, f.Pack, f.Path, f.Hash, f.Listed); err != nil {
			return err
		}
		_, err = tx.Exec(sqlPackContentDrop, old)
		return err
	}))
}

// packFileHash returns the content that a file has now, empty when it is new.
func packFileHash(tx *Tx, f fleet.PackFile) (hash string, err error) {
	err = tx.QueryRow(sqlPackFileHash, f.BackEnd, f.Pack, f.Path).Scan(&hash)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return hash, err
}

// DropPackFiles implements fleet.PackStore.
func (c *Catalog) DropPackFiles(ctx context.Context, files []fleet.PackFile) error {
	return classify(c.db.Write(ctx, func(tx *Tx) error {
		for _, f := range files {
			hash, err := packFileHash(tx, f)
			if err != nil {
				return err
			}
			if _, err := tx.Exec(sqlPackFileDrop, f.BackEnd, f.Pack, f.Path); err != nil {
				return err
			}
			if _, err := tx.Exec(sqlPackContentDrop, hash); err != nil {
				return err
			}
		}
		return nil
	}))
}

// PackContent implements fleet.PackStore.
func (c *Catalog) PackContent(ctx context.Context, hash string) ([]byte, error) {
	var body []byte
	err := c.db.QueryRow(ctx, sqlPackContent, hash).Scan(&body)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fault.New(fault.Missing, "The file is not kept any more.")
	}
	return body, classify(err)
}
