package sqlite

import (
	"context"
	"time"

	"github.com/ahelme/comfyume/internal/catalog"
	"github.com/ahelme/comfyume/internal/fleet"
)

var (
	_ fleet.MemberStore    = (*Catalog)(nil)
	_ catalog.RequestStore = (*Catalog)(nil)
)

// Queries of back ends that operators added, and of what graphs asked for.
const (
	sqlMemberSet  = `insert into member (name, body) values (?, ?) on conflict (name) do update set body = excluded.body`
	sqlMemberDrop = `delete from member where name = ?`
	sqlMembers    = `select name, body from member`

	sqlWantedAdd = `insert into wanted (kind, folder, name, user_group, count, first, last) values (?, ?, ?, ?, 1, ?, ?)
		on conflict (kind, folder, name, user_group) do update set count = count + 1, last = max(last, excluded.last)`
	sqlWantedDrop = `delete from wanted where kind = ? and folder = ? and name = ?`
	sqlWanted     = `select kind, folder, name, user_group, count, first, last from wanted order by kind, folder, name, user_group`
)

// SaveMember implements fleet.MemberStore.
func (c *Catalog) SaveMember(ctx context.Context, name string, body []byte) error {
	return classify(c.db.Write(ctx, func(tx *Tx) error {
		_, err := tx.Exec(sqlMemberSet, name, body)
		return err
	}))
}

// DropMember implements fleet.MemberStore.
func (c *Catalog) DropMember(ctx context.Context, name string) error {
	return classify(c.db.Write(ctx, func(tx *Tx) error {
		_, err := tx.Exec(sqlMemberDrop, name)
		return err
	}))
}

// LoadMembers implements fleet.MemberStore.
func (c *Catalog) LoadMembers(ctx context.Context) (map[string][]byte, error) {
	return c.byName(ctx, sqlMembers)
}

// AddRequest implements catalog.RequestStore.
func (c *Catalog) AddRequest(ctx context.Context, w catalog.Want, group string, at time.Time) error {
	return classify(c.db.Write(ctx, func(tx *Tx) error {
		_, err := tx.Exec(sqlWantedAdd, w.Kind, w.Folder, w.Name, group, at.UnixMilli(), at.UnixMilli())
		return err
	}))
}

// DropRequest implements catalog.RequestStore.
func (c *Catalog) DropRequest(ctx context.Context, w catalog.Want) error {
	return classify(c.db.Write(ctx, func(tx *Tx) error {
		_, err := tx.Exec(sqlWantedDrop, w.Kind, w.Folder, w.Name)
		return err
	}))
}

// Requests implements catalog.RequestStore.
func (c *Catalog) Requests(ctx context.Context) ([]catalog.Request, error) {
	rows, err := c.db.Query(ctx, sqlWanted)
	if err != nil {
		return nil, classify(err)
	}
	defer rows.Close()
	var all []catalog.Request
	for rows.Next() {
		var r catalog.Request
		var first, last int64
		if err := rows.Scan(&r.Kind, &r.Folder, &r.Name, &r.Group, &r.Count, &first, &last); err != nil {
			return nil, classify(err)
		}
		r.First, r.Last = time.UnixMilli(first).UTC(), time.UnixMilli(last).UTC()
		all = append(all, r)
	}
	return all, classify(rows.Err())
}
