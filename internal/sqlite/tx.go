package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// Tx is the writer's connection during one request of Write. It must not be kept: it is only valid until the
// request's function returns.
type Tx struct {
	conn  *sql.Conn
	stmts map[string]*sql.Stmt
	open  []*sql.Rows // of this request, closed when it ends
	after []func()    // of this request, moved to the batch when it succeeded
}

// Exec runs a statement that returns no rows. Statements are prepared once; queries must be constants, lists go in
// as JSON for json_each.
func (tx *Tx) Exec(query string, args ...any) (sql.Result, error) {
	st, err := tx.prepared(query)
	if err != nil {
		return nil, err
	}
	return st.ExecContext(context.Background(), args...)
}

// Affect runs a statement and returns how many rows it changed.
func (tx *Tx) Affect(query string, args ...any) (int64, error) {
	res, err := tx.Exec(query, args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// Query runs a statement that returns rows. The rows are closed at the latest when the request ends.
func (tx *Tx) Query(query string, args ...any) (*sql.Rows, error) {
	st, err := tx.prepared(query)
	if err != nil {
		return nil, err
	}
	rows, err := st.QueryContext(context.Background(), args...)
	if err != nil {
		return nil, err
	}
	tx.open = append(tx.open, rows)
	return rows, nil
}

// QueryRow runs a statement that returns at most one row. Its Scan gives sql.ErrNoRows where there is none, and
// must be called.
func (tx *Tx) QueryRow(query string, args ...any) *Row {
	st, err := tx.prepared(query)
	if err != nil {
		return &Row{err: err}
	}
	return &Row{row: st.QueryRowContext(context.Background(), args...)}
}

// AfterCommit has fn called once no death of this process undoes the request's changes, before Write answers: the disk gets
// them meanwhile, and only a machine that dies in that moment still loses them, with nobody having been answered. All such
// calls come one at a time, in the order of the changes, on the writer's goroutine: fn must be quick and must not call Write.
// When the request fails fn is not called, unless it is the disk that fails after it.
func (tx *Tx) AfterCommit(fn func()) { tx.after = append(tx.after, fn) }

func (tx *Tx) prepared(query string) (*sql.Stmt, error) {
	if st, ok := tx.stmts[query]; ok {
		return st, nil
	}
	if len(tx.stmts) >= maxStatements {
		return nil, fmt.Errorf("more than %d different statements: queries must be constants", maxStatements)
	}
	st, err := tx.conn.PrepareContext(context.Background(), query)
	if err != nil {
		return nil, fmt.Errorf("prepare %q: %w", query, err)
	}
	tx.stmts[query] = st
	return st, nil
}

// end closes what the request left open and forgets what it wanted to be called for.
func (tx *Tx) end() error {
	var errs []error
	for i, rows := range tx.open {
		errs = append(errs, rows.Close())
		tx.open[i] = nil
	}
	tx.open = tx.open[:0]
	clear(tx.after)
	tx.after = tx.after[:0]
	return errors.Join(errs...)
}
