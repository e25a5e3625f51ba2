package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"io/fs"
	"maps"
	"os"

	"github.com/pressly/goose/v3"
)

// OpenAt makes the database file with the schema of a version of old.
func OpenAt(ctx context.Context, path string, version int64) (db *sql.DB, err error) {
	db, err = sql.Open("sqlite", dsn(path, "_pragma=journal_mode(WAL)"))
	if err != nil {
		return nil, err
	}
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, files, goose.WithLogger(goose.NopLogger()))
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	if _, err := p.UpTo(ctx, version); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// Plan prepares a statement and returns the steps of its query plan.
func (tx *Tx) Plan(query string) (steps []string, err error) {
	st, err := tx.prepared(`explain query plan ` + query)
	if err != nil {
		return nil, err
	}
	delete(tx.stmts, `explain query plan `+query)
	defer st.Close()
	// Unbound parameters are null.
	conn, err := st.Query(nulls(query)...)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	for conn.Next() {
		var id, parent, unused int
		var step string
		if err := conn.Scan(&id, &parent, &unused, &step); err != nil {
			return nil, err
		}
		steps = append(steps, step)
	}
	return steps, conn.Err()
}

// nulls returns a null for each parameter of the query.
func nulls(query string) []any {
	n, highest := 0, 0
	for i := 0; i < len(query); i++ {
		if query[i] != '?' {
			continue
		}
		if i+1 < len(query) && query[i+1] >= '0' && query[i+1] <= '9' {
			highest = max(highest, int(query[i+1]-'0'))
			continue
		}
		n++
	}
	return make([]any, max(n, highest))
}

// ListQueries returns the statements of lists.
func ListQueries() map[[3]bool]string { return maps.Clone(listQueries) }

// Waiting counts requests that the writer has not taken up.
func (db *DB) Waiting() int { return len(db.committer.queue) }

// Batches counts what the writer has taken up to commit together.
func (db *DB) Batches() int64 { return db.committer.batches.Load() }

// Sync has fn asked to sync the database's log, with what does it.
func (db *DB) Sync(fn func(log *os.File, sync func() error) error) {
	w := db.committer
	w.turn.Lock()
	defer w.turn.Unlock()
	sync := w.sync
	w.sync = func() error { return fn(w.wal, sync) }
}

// Unsynced returns options with which commits do not wait for the disk.
func Unsynced(o Options) Options {
	o.unsynced = true
	return o
}
