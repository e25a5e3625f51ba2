package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/ahelme/comfyume/internal/account"
	"github.com/ahelme/comfyume/internal/fault"
)

// Queries about what people carry. Each statement about one person's rows names the person.
const (
	sqlSessionColumns = `s.hash, s.id, s.user, s.device, s.address, s.via, s.created_ms, s.seen_ms, s.expires_ms`
	sqlTokenColumns   = `t.hash, t.id, t.user, t.label, t.scope, t.created_ms, t.used_ms, t.expires_ms`
	sqlCodeColumns    = `c.code, c.grp, g.title, c.made_by, c.places, c.joined, c.created_ms, c.expires_ms`

	sqlSessionInsert = `insert into sessions(hash, id, user, device, address, via, created_ms, seen_ms, expires_ms)
		values(?, ?, ?, ?, ?, ?, ?, ?, ?)`
	sqlSession = `select ` + sqlSessionColumns + `, ` + sqlUserColumns + `
		from sessions s join users u on u.name = s.user where s.hash = ?`
	sqlSessionsOf = `select ` + sqlSessionColumns + ` from sessions s where s.user = ?
		order by s.seen_ms desc, s.created_ms desc, s.id`
	sqlSessionsBeyond = `select hash from sessions where user = ? order by seen_ms desc, created_ms desc, id limit -1 offset ?`
	sqlSessionDrop    = `delete from sessions where hash = ?`
	sqlSessionDelete  = `delete from sessions where user = ? and id = ?`
	sqlSessionsDelete = `delete from sessions where user = ? and id <> ?`
	sqlSessionSeen    = `update sessions set seen_ms = max(seen_ms, ?) where hash = ?`
	sqlSessionsSweep  = `delete from sessions where expires_ms <= ? or seen_ms < ?`

	sqlTokenInsert = `insert into tokens(hash, id, user, label, scope, created_ms, used_ms, expires_ms)
		values(?, ?, ?, ?, ?, ?, ?, ?)`
	sqlToken = `select ` + sqlTokenColumns + `, ` + sqlUserColumns + `
		from tokens t join users u on u.name = t.user where t.hash = ?`
	sqlTokensOf    = `select ` + sqlTokenColumns + ` from tokens t where t.user = ? order by t.created_ms desc, t.id`
	sqlTokensCount = `select count(*) from tokens where user = ?`
	sqlTokenDelete = `delete from tokens where user = ? and id = ?`
	sqlTokenUsed   = `update tokens set used_ms = max(used_ms, ?) where hash = ?`
	sqlTokensSweep = `delete from tokens where expires_ms <> 0 and expires_ms <= ?`

	sqlLinkInsert = `insert into signin_links(hash, user, made_by, created_ms, expires_ms) values(?, ?, ?, ?, ?)`
	sqlLink       = `select user, made_by, created_ms, expires_ms, used_ms from signin_links where hash = ?`
	sqlLinkUse    = `update signin_links set used_ms = ? where hash = ? and used_ms = 0 and expires_ms > ?`
	sqlLinksSweep = `delete from signin_links where expires_ms < ?`

	sqlCodeInsert = `insert into class_codes(code, grp, made_by, places, joined, created_ms, expires_ms)
		values(?, ?, ?, ?, ?, ?, ?)`
	sqlCodeExists = `select 1 from class_codes where code = ?`
	sqlCode       = `select ` + sqlCodeColumns + ` from class_codes c join account_groups g on g.name = c.grp
		where c.code = ?`
	sqlCodes = `select ` + sqlCodeColumns + ` from class_codes c join account_groups g on g.name = c.grp
		order by c.created_ms desc, c.code`
	sqlCodesOf = `select ` + sqlCodeColumns + ` from class_codes c join account_groups g on g.name = c.grp
		where c.grp = ? order by c.created_ms desc, c.code`
	sqlCodeDelete = `delete from class_codes where code = ?`
	sqlCodeJoin   = `update class_codes set joined = joined + 1 where code = ? and expires_ms > ? and joined < places`
	sqlCodesSweep = `delete from class_codes where expires_ms < ?`
)

// AddSession adds a session and lets go of the least recently used ones beyond keep.
func (a *Accounts) AddSession(ctx context.Context, r account.SessionRecord, keep int) (gone []account.Hash, err error) {
	err = a.db.Write(ctx, func(tx *Tx) error {
		gone = nil
		if err := need(tx, account.NoUser(r.User), sqlUserExists, r.User); err != nil {
			return err
		}
		_, err := tx.Exec(sqlSessionInsert, r.Hash[:], r.ID, r.User, r.Device, r.Address, r.Via,
			stamp(r.Created), stamp(r.Seen), stamp(r.Expires))
		if err != nil {
			return err
		}
		rows, err := tx.Query(sqlSessionsBeyond, r.User, keep)
		if err != nil {
			return err
		}
		for rows.Next() {
			h, err := scanHash(rows)
			if err != nil {
				return err
			}
			gone = append(gone, h)
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			return err
		}
		for _, h := range gone {
			if _, err := tx.Exec(sqlSessionDrop, h[:]); err != nil {
				return err
			}
		}
		return nil
	})
	return gone, err
}

func scanHash(rows *sql.Rows) (h account.Hash, err error) {
	var raw []byte
	if err := rows.Scan(&raw); err != nil {
		return h, err
	}
	copy(h[:], raw) // a check holds the length
	return h, nil
}

// sessionTarget returns where the columns of sqlSessionColumns go, and what to call when they are there.
func sessionTarget(r *account.SessionRecord) (dest []any, done func()) {
	var hash []byte
	var created, seen, expires int64
	dest = []any{&hash, &r.ID, &r.User, &r.Device, &r.Address, &r.Via, &created, &seen, &expires}
	return dest, func() {
		copy(r.Hash[:], hash)
		r.Created, r.Seen, r.Expires = fromStamp(created), fromStamp(seen), fromStamp(expires)
	}
}

// Session returns a session and whose it is.
func (a *Accounts) Session(ctx context.Context, h account.Hash) (r account.SessionRecord, u account.User, err error) {
	dest, done := sessionTarget(&r)
	person, personDone := userTarget(&u)
	err = a.db.QueryRow(ctx, sqlSession, h[:]).Scan(append(dest, person...)...)
	if err != nil {
		return account.SessionRecord{}, account.User{}, noRow(err, "session")
	}
	done()
	personDone()
	return r, u, nil
}

// noRow gives the error of a look-up that may have found nothing.
func noRow(err error, what string) error {
	if errors.Is(err, sql.ErrNoRows) {
		return fault.New(fault.Missing, "There is no such %s.", what)
	}
	return classify(err)
}

// Sessions returns a person's sessions, the most recently used first.
func (a *Accounts) Sessions(ctx context.Context, user string) ([]account.SessionRecord, error) {
	return collect(ctx, a.db, func(rows *sql.Rows) (r account.SessionRecord, err error) {
		dest, done := sessionTarget(&r)
		err = rows.Scan(dest...)
		done()
		return r, err
	}, sqlSessionsOf, user)
}

// DeleteSession removes one session of a person.
func (a *Accounts) DeleteSession(ctx context.Context, user, id string) error {
	return a.db.Write(ctx, func(tx *Tx) error {
		return hit(tx, fault.New(fault.Missing, "There is no such session."), sqlSessionDelete, user, id)
	})
}

// DeleteSessions removes all sessions of a person but one.
func (a *Accounts) DeleteSessions(ctx context.Context, user, except string) error {
	return a.db.Write(ctx, func(tx *Tx) error {
		_, err := tx.Exec(sqlSessionsDelete, user, except)
		return err
	})
}

// AddToken adds a token while the person has fewer than most.
func (a *Accounts) AddToken(ctx context.Context, r account.TokenRecord, most int) error {
	return a.db.Write(ctx, func(tx *Tx) error {
		if err := need(tx, account.NoUser(r.User), sqlUserExists, r.User); err != nil {
			return err
		}
		var n int
		if err := tx.QueryRow(sqlTokensCount, r.User).Scan(&n); err != nil {
			return err
		}
		if n >= most {
			return fault.New(fault.Conflict, "There are %d tokens already.", n).
				WithRemedy("Revoke one that is not needed any more.").WithCode(account.CodeTooMany)
		}
		_, err := tx.Exec(sqlTokenInsert, r.Hash[:], r.ID, r.User, r.Label, string(r.Scope),
			stamp(r.Created), stamp(r.Used), stamp(r.Expires))
		return err
	})
}

// tokenTarget returns where the columns of sqlTokenColumns go, and what to call when they are there.
func tokenTarget(r *account.TokenRecord) (dest []any, done func()) {
	var hash []byte
	var created, used, expires int64
	dest = []any{&hash, &r.ID, &r.User, &r.Label, (*string)(&r.Scope), &created, &used, &expires}
	return dest, func() {
		copy(r.Hash[:], hash)
		r.Created, r.Used, r.Expires = fromStamp(created), fromStamp(used), fromStamp(expires)
	}
}

// Token returns a token and whose it is.
func (a *Accounts) Token(ctx context.Context, h account.Hash) (r account.TokenRecord, u account.User, err error) {
	dest, done := tokenTarget(&r)
	person, personDone := userTarget(&u)
	err = a.db.QueryRow(ctx, sqlToken, h[:]).Scan(append(dest, person...)...)
	if err != nil {
		return account.TokenRecord{}, account.User{}, noRow(err, "token")
	}
	done()
	personDone()
	return r, u, nil
}

// Tokens returns a person's tokens, the newest first.
func (a *Accounts) Tokens(ctx context.Context, user string) ([]account.TokenRecord, error) {
	return collect(ctx, a.db, func(rows *sql.Rows) (r account.TokenRecord, err error) {
		dest, done := tokenTarget(&r)
		err = rows.Scan(dest...)
		done()
		return r, err
	}, sqlTokensOf, user)
}

// DeleteToken removes one token of a person.
func (a *Accounts) DeleteToken(ctx context.Context, user, id string) error {
	return a.db.Write(ctx, func(tx *Tx) error {
		return hit(tx, fault.New(fault.Missing, "There is no such token."), sqlTokenDelete, user, id)
	})
}

// AddLink adds a one-time link.
func (a *Accounts) AddLink(ctx context.Context, r account.LinkRecord) error {
	return a.db.Write(ctx, func(tx *Tx) error {
		if err := need(tx, account.NoUser(r.User), sqlUserExists, r.User); err != nil {
			return err
		}
		_, err := tx.Exec(sqlLinkInsert, r.Hash[:], r.User, r.By, stamp(r.Created), stamp(r.Expires))
		return err
	})
}

// UseLink marks a link as used, where it may be.
func (a *Accounts) UseLink(ctx context.Context, h account.Hash, t time.Time, grace time.Duration) (r account.LinkRecord, ok bool, err error) {
	err = a.db.Write(ctx, func(tx *Tx) error {
		first, err := tx.Affect(sqlLinkUse, stamp(t), h[:], stamp(t))
		if err != nil {
			return err
		}
		var created, expires, used int64
		r = account.LinkRecord{Hash: h}
		if err := tx.QueryRow(sqlLink, h[:]).Scan(&r.User, &r.By, &created, &expires, &used); err != nil {
			return noRow(err, "link")
		}
		r.Created, r.Expires, r.Used = fromStamp(created), fromStamp(expires), fromStamp(used)
		ok = first > 0 || used != 0 && t.Sub(r.Used) < grace
		return nil
	})
	if err != nil {
		return account.LinkRecord{}, false, err
	}
	return r, ok, nil
}

// AddCode adds a class code.
func (a *Accounts) AddCode(ctx context.Context, c account.Code) error {
	return a.db.Write(ctx, func(tx *Tx) error {
		if err := need(tx, account.NoGroup(c.Group), sqlGroupExists, c.Group); err != nil {
			return err
		}
		taken, err := exists(tx, sqlCodeExists, c.Code)
		if err != nil {
			return err
		}
		if taken {
			return fault.New(fault.Conflict, "The class code is taken.")
		}
		_, err = tx.Exec(sqlCodeInsert, c.Code, c.Group, c.By, c.Places, c.Joined, stamp(c.Created), stamp(c.Expires))
		return err
	})
}

// codeTarget returns where the columns of sqlCodeColumns go, and what to call when they are there.
func codeTarget(c *account.Code) (dest []any, done func()) {
	var created, expires int64
	dest = []any{&c.Code, &c.Group, &c.Title, &c.By, &c.Places, &c.Joined, &created, &expires}
	return dest, func() { c.Created, c.Expires = fromStamp(created), fromStamp(expires) }
}

// Code returns one code.
func (a *Accounts) Code(ctx context.Context, code string) (c account.Code, err error) {
	dest, done := codeTarget(&c)
	if err := a.db.QueryRow(ctx, sqlCode, code).Scan(dest...); err != nil {
		return account.Code{}, noRow(err, "code")
	}
	done()
	return c, nil
}

// Codes returns codes, the newest first.
func (a *Accounts) Codes(ctx context.Context, group string) ([]account.Code, error) {
	query, args := sqlCodes, []any(nil)
	if group != "" {
		query, args = sqlCodesOf, []any{group}
	}
	return collect(ctx, a.db, func(rows *sql.Rows) (c account.Code, err error) {
		dest, done := codeTarget(&c)
		err = rows.Scan(dest...)
		done()
		return c, err
	}, query, args...)
}

// DeleteCode removes a code.
func (a *Accounts) DeleteCode(ctx context.Context, code string) error {
	return a.db.Write(ctx, func(tx *Tx) error {
		return hit(tx, fault.New(fault.Missing, "There is no such code."), sqlCodeDelete, code)
	})
}

// Join adds r and counts it on the code.
func (a *Accounts) Join(ctx context.Context, code string, r account.Record) (ok bool, err error) {
	err = a.db.Write(ctx, func(tx *Tx) error {
		if err := need(tx, fault.New(fault.Missing, "There is no such code."), sqlCodeExists, code); err != nil {
			return err
		}
		n, err := tx.Affect(sqlCodeJoin, code, stamp(r.Created))
		ok = n > 0
		if err != nil || !ok {
			return err
		}
		return createUser(tx, r)
	})
	return ok && err == nil, err
}

// Touch records uses; those of rows that are gone change nothing.
func (a *Accounts) Touch(ctx context.Context, uses []account.Use) error {
	return a.db.Write(ctx, func(tx *Tx) error {
		for _, u := range uses {
			query := sqlSessionSeen
			if u.Kind == account.KindToken {
				query = sqlTokenUsed
			}
			if _, err := tx.Exec(query, stamp(u.Seen), u.Hash[:]); err != nil {
				return err
			}
			if _, err := tx.Exec(sqlUserSeen, stamp(u.Seen), u.User); err != nil {
				return err
			}
		}
		return nil
	})
}

// Sweep removes what is over.
func (a *Accounts) Sweep(ctx context.Context, t, idle, old time.Time) error {
	return a.db.Write(ctx, func(tx *Tx) error {
		if _, err := tx.Exec(sqlSessionsSweep, stamp(t), stamp(idle)); err != nil {
			return err
		}
		if _, err := tx.Exec(sqlTokensSweep, stamp(t)); err != nil {
			return err
		}
		if _, err := tx.Exec(sqlLinksSweep, stamp(old)); err != nil {
			return err
		}
		_, err := tx.Exec(sqlCodesSweep, stamp(old))
		return err
	})
}
