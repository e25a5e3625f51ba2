package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/ahelme/comfyume/internal/account"
	"github.com/ahelme/comfyume/internal/fault"
)

// Accounts is the account.Store in the database. Sessions, tokens, links and codes are in accounts_secrets.go.
type Accounts struct{ db *DB }

var _ account.Store = (*Accounts)(nil)

// NewAccounts returns the store of people in db.
func NewAccounts(db *DB) *Accounts { return &Accounts{db: db} }

// Queries about people and groups.
const (
	sqlUserColumns = `u.name, coalesce(u.grp, ''), u.role, u.suspended, u.proof, u.created_ms, u.seen_ms`

	sqlUserInsert = `insert into users(name, grp, role, suspended, proof, secret, created_ms, seen_ms)
		values(?, nullif(?, ''), ?, ?, ?, ?, ?, ?)`
	sqlUserExists = `select 1 from users where name = ?`
	sqlUser       = `select ` + sqlUserColumns + `, u.secret from users u where u.name = ?`
	sqlUsers      = `select ` + sqlUserColumns + ` from users u order by u.name`
	sqlUsersOf    = `select ` + sqlUserColumns + ` from users u where u.grp = ? order by u.name`
	sqlUserGroup  = `update users set grp = nullif(?, '') where name = ?`
	sqlUserRole   = `update users set role = ? where name = ?`
	sqlUserPause  = `update users set suspended = ? where name = ?`
	sqlUserSecret = `update users set proof = ?, secret = ? where name = ? and (? = '' or secret = ?)`
	sqlUserDelete = `delete from users where name = ?`
	sqlUserSeen   = `update users set seen_ms = max(seen_ms, ?) where name = ?`

	sqlGroupInsert = `insert into account_groups(name, title, created_ms) values(?, ?, ?)`
	sqlGroupExists = `select 1 from account_groups where name = ?`
	sqlGroups      = `select g.name, g.title, g.created_ms, (select count(*) from users u where u.grp = g.name)
		from account_groups g order by g.name`
	sqlGroupMember = `select 1 from users where grp = ? limit 1`
	sqlGroupDelete = `delete from account_groups where name = ?`
)

// stamp returns a time as people are stored with: Unix milliseconds, zero for never.
func stamp(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromStamp(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

// exists reports whether a query finds a row.
func exists(tx *Tx, query string, args ...any) (bool, error) {
	var one int
	err := tx.QueryRow(query, args...).Scan(&one)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

// need fails with otherwise unless a query finds a row.
func need(tx *Tx, otherwise error, query string, args ...any) error {
	ok, err := exists(tx, query, args...)
	if err == nil && !ok {
		return otherwise
	}
	return err
}

// hit fails with otherwise when a statement changed no row.
func hit(tx *Tx, otherwise error, query string, args ...any) error {
	n, err := tx.Affect(query, args...)
	if err == nil && n == 0 {
		return otherwise
	}
	return err
}

// CreateUser adds r.
func (a *Accounts) CreateUser(ctx context.Context, r account.Record) error {
	return a.db.Write(ctx, func(tx *Tx) error { return createUser(tx, r) })
}

func createUser(tx *Tx, r account.Record) error {
	taken, err := exists(tx, sqlUserExists, r.Name)
	if err != nil {
		return err
	}
	if taken {
		return account.NameTaken(r.Name)
	}
	if r.Group != "" {
		if err := need(tx, account.NoGroup(r.Group), sqlGroupExists, r.Group); err != nil {
			return err
		}
	}
	_, err = tx.Exec(sqlUserInsert, r.Name, r.Group, string(r.Role), r.Suspended, string(r.Proof), r.Secret,
		stamp(r.Created), stamp(r.Seen))
	return err
}

// userTarget returns where the columns of sqlUserColumns go, and what to call when they are there.
func userTarget(u *account.User) (dest []any, done func()) {
	var created, seen int64
	dest = []any{&u.Name, &u.Group, (*string)(&u.Role), &u.Suspended, (*string)(&u.Proof), &created, &seen}
	return dest, func() { u.Created, u.Seen = fromStamp(created), fromStamp(seen) }
}

// User returns one account.
func (a *Accounts) User(ctx context.Context, name string) (account.Record, error) {
	var r account.Record
	dest, done := userTarget(&r.User)
	err := a.db.QueryRow(ctx, sqlUser, name).Scan(append(dest, &r.Secret)...)
	if errors.Is(err, sql.ErrNoRows) {
		return account.Record{}, account.NoUser(name)
	}
	if err != nil {
		return account.Record{}, classify(err)
	}
	done()
	return r, nil
}

// Users returns accounts in order of their names.
func (a *Accounts) Users(ctx context.Context, group string) ([]account.User, error) {
	query, args := sqlUsers, []any(nil)
	if group != "" {
		query, args = sqlUsersOf, []any{group}
	}
	return collect(ctx, a.db, func(rows *sql.Rows) (u account.User, err error) {
		dest, done := userTarget(&u)
		err = rows.Scan(dest...)
		done()
		return u, err
	}, query, args...)
}

// collect reads all rows of a query.
func collect[T any](ctx context.Context, db *DB, scan func(*sql.Rows) (T, error), query string, args ...any) (out []T, err error) {
	rows, err := db.Query(ctx, query, args...)
	if err != nil {
		return nil, classify(err)
	}
	defer func() { err = errors.Join(err, classify(rows.Close())) }()
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, classify(err)
		}
		out = append(out, v)
	}
	return out, classify(rows.Err())
}

// ChangeUser changes what c names.
func (a *Accounts) ChangeUser(ctx context.Context, name string, c account.Change) error {
	return a.db.Write(ctx, func(tx *Tx) error {
		if err := need(tx, account.NoUser(name), sqlUserExists, name); err != nil {
			return err
		}
		if c.Group != nil {
			if err := changeGroup(tx, name, *c.Group); err != nil {
				return err
			}
		}
		if c.Role != nil {
			if _, err := tx.Exec(sqlUserRole, string(*c.Role), name); err != nil {
				return err
			}
		}
		if c.Suspended != nil {
			if _, err := tx.Exec(sqlUserPause, *c.Suspended, name); err != nil {
				return err
			}
		}
		return nil
	})
}

func changeGroup(tx *Tx, name, group string) error {
	if group != "" {
		if err := need(tx, account.NoGroup(group), sqlGroupExists, group); err != nil {
			return err
		}
	}
	_, err := tx.Exec(sqlUserGroup, group, name)
	return err
}

// SetSecret replaces the proof.
func (a *Accounts) SetSecret(ctx context.Context, name string, proof account.Proof, hash, onlyIf string) error {
	return a.db.Write(ctx, func(tx *Tx) error {
		if err := need(tx, account.NoUser(name), sqlUserExists, name); err != nil {
			return err
		}
		replaced := fault.New(fault.Conflict, "The secret has been replaced in the meantime.")
		return hit(tx, replaced, sqlUserSecret, string(proof), hash, name, onlyIf, onlyIf)
	})
}

// DeleteUser removes the account; its sessions, tokens and links go with it.
func (a *Accounts) DeleteUser(ctx context.Context, name string) error {
	return a.db.Write(ctx, func(tx *Tx) error { return hit(tx, account.NoUser(name), sqlUserDelete, name) })
}

// CreateGroup adds g.
func (a *Accounts) CreateGroup(ctx context.Context, g account.Group) error {
	return a.db.Write(ctx, func(tx *Tx) error {
		taken, err := exists(tx, sqlGroupExists, g.Name)
		if err != nil {
			return err
		}
		if taken {
			return fault.New(fault.Conflict, "There is a group “%s” already.", g.Name).WithCode(account.CodeNameTaken)
		}
		_, err = tx.Exec(sqlGroupInsert, g.Name, g.Title, stamp(g.Created))
		return err
	})
}

// Groups returns all groups in order of their names.
func (a *Accounts) Groups(ctx context.Context) ([]account.Group, error) {
	return collect(ctx, a.db, func(rows *sql.Rows) (g account.Group, err error) {
		var created int64
		err = rows.Scan(&g.Name, &g.Title, &created, &g.Members)
		g.Created = fromStamp(created)
		return g, err
	}, sqlGroups)
}

// DeleteGroup removes a group without members, with its codes.
func (a *Accounts) DeleteGroup(ctx context.Context, name string) error {
	return a.db.Write(ctx, func(tx *Tx) error {
		full, err := exists(tx, sqlGroupMember, name)
		if err != nil {
			return err
		}
		if full {
			return fault.New(fault.Conflict, "The group “%s” has members.", name).
				WithRemedy("Remove them or put them into another group first.").WithCode("group_in_use")
		}
		return hit(tx, account.NoGroup(name), sqlGroupDelete, name)
	})
}
