package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/ahelme/comfyume/internal/agents"
	"github.com/ahelme/comfyume/internal/fault"
)

// Agents keeps which agents may dial home. It is safe for concurrent use.
type Agents struct{ db *DB }

var _ agents.Store = (*Agents)(nil)

// NewAgents returns the agents' store in the database.
func NewAgents(db *DB) *Agents { return &Agents{db: db} }

// Queries about agents.
const (
	sqlAgentColumns = `name, made_by, machine, version, os, joined_ms, seen_ms`

	sqlAgentCodeSet = `insert into agent_code(name, hash, made_by, expires_ms) values(?, ?, ?, ?)
		on conflict (name) do update set hash = excluded.hash, made_by = excluded.made_by, expires_ms = excluded.expires_ms`
	sqlAgentCode       = `select name, made_by, expires_ms from agent_code where hash = ? and expires_ms > ?`
	sqlAgentCodeDrop   = `delete from agent_code where name = ?`
	sqlAgentCodesSweep = `delete from agent_code where expires_ms <= ?`

	sqlAgentSet = `insert into agent(name, key_hash, made_by, machine, version, os, joined_ms, seen_ms) values(?, ?, ?, ?, ?, ?, ?, ?)
		on conflict (name) do update set key_hash = excluded.key_hash, made_by = excluded.made_by, machine = excluded.machine,
		version = excluded.version, os = excluded.os, joined_ms = excluded.joined_ms, seen_ms = excluded.seen_ms`
	sqlAgentByKey = `select ` + sqlAgentColumns + ` from agent where key_hash = ?`
	sqlAgents     = `select ` + sqlAgentColumns + ` from agent order by name`
	sqlAgentTouch = `update agent set seen_ms = ?, machine = ?, version = ?, os = ? where name = ?`
	sqlAgentDrop  = `delete from agent where name = ?`
)

// AddCode implements agents.Store.
func (a *Agents) AddCode(ctx context.Context, c agents.CodeRecord) error {
	return a.db.Write(ctx, func(tx *Tx) error {
		_, err := tx.Exec(sqlAgentCodeSet, c.Name, c.Hash[:], c.By, stamp(c.Expires))
		return err
	})
}

// UseCode implements agents.Store.
func (a *Agents) UseCode(ctx context.Context, h agents.Hash, t time.Time, accept func(agents.CodeRecord) (agents.Record, error)) error {
	return a.db.Write(ctx, func(tx *Tx) error {
		c := agents.CodeRecord{Hash: h}
		var expires int64
		err := tx.QueryRow(sqlAgentCode, h[:], stamp(t)).Scan(&c.Name, &c.By, &expires)
		if errors.Is(err, sql.ErrNoRows) {
			return fault.New(fault.Missing, "There is no such code.")
		}
		if err != nil {
			return err
		}
		c.Expires = fromStamp(expires)
		r, err := accept(c)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(sqlAgentCodeDrop, c.Name); err != nil {
			return err
		}
		_, err = tx.Exec(sqlAgentSet, r.Name, r.Key[:], r.By, r.About.Machine, r.About.Version, r.About.OS, stamp(r.Joined), stamp(r.Seen))
		return err
	})
}

func scanAgent(scan func(...any) error) (g agents.Agent, err error) {
	var joined, seen int64
	err = scan(&g.Name, &g.By, &g.About.Machine, &g.About.Version, &g.About.OS, &joined, &seen)
	g.Joined, g.Seen = fromStamp(joined), fromStamp(seen)
	return g, err
}

// ByKey implements agents.Store.
func (a *Agents) ByKey(ctx context.Context, key agents.Hash) (agents.Agent, error) {
	g, err := scanAgent(a.db.QueryRow(ctx, sqlAgentByKey, key[:]).Scan)
	if err != nil {
		return agents.Agent{}, noRow(err, "agent")
	}
	return g, nil
}

// Agents implements agents.Store.
func (a *Agents) Agents(ctx context.Context) ([]agents.Agent, error) {
	return collect(ctx, a.db, func(rows *sql.Rows) (agents.Agent, error) { return scanAgent(rows.Scan) }, sqlAgents)
}

// Touch implements agents.Store.
func (a *Agents) Touch(ctx context.Context, name string, seen time.Time, about agents.About) error {
	return a.db.Write(ctx, func(tx *Tx) error {
		_, err := tx.Exec(sqlAgentTouch, stamp(seen), about.Machine, about.Version, about.OS, name)
		return err
	})
}

// Remove implements agents.Store.
func (a *Agents) Remove(ctx context.Context, name string) error {
	return a.db.Write(ctx, func(tx *Tx) error {
		codes, err := tx.Affect(sqlAgentCodeDrop, name)
		if err != nil {
			return err
		}
		gone, err := tx.Affect(sqlAgentDrop, name)
		if err == nil && codes+gone == 0 {
			err = fault.New(fault.Missing, "There is no such agent.")
		}
		return err
	})
}

// Sweep implements agents.Store.
func (a *Agents) Sweep(ctx context.Context, t time.Time) error {
	return a.db.Write(ctx, func(tx *Tx) error {
		_, err := tx.Exec(sqlAgentCodesSweep, stamp(t))
		return err
	})
}
