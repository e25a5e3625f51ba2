package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"modernc.org/sqlite" // registers the driver
)

// Options are the optional settings of Open. The zero value is right for a studio.
type Options struct {
	Log      *slog.Logger // nil: discarded
	Readers  int          // most reader connections; 0: twice the processors, at least 4
	MaxBatch int          // most requests in one commit; 0: 256

	unsynced bool // commits do not wait for the disk; for tests that are about something else
}

// DB is an open database. It is safe for concurrent use.
type DB struct {
	path  string
	log   *slog.Logger
	write *sql.DB // exactly one connection, the committer's once Open returned
	read  *sql.DB

	gate      sync.RWMutex // held for reading while enqueuing, for writing while closing
	closed    bool
	committer *writer
	writer    sync.WaitGroup
	spare     sync.Pool // of *request

	stmts sync.Map // query text → *sql.Stmt of the reader pool
	files sync.Map // user → *atomic.Uint64, the versions of Files: here, so that several stores of one database agree
}

// Open opens the database file at path, makes it when there is none, and brings its schema up to date. A database
// of a newer program, a damaged one and one on a network file system are refused with the remedy.
func Open(ctx context.Context, path string, o Options) (*DB, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Readers <= 0 {
		o.Readers = max(4, 2*runtime.GOMAXPROCS(0))
	}
	if o.MaxBatch <= 0 {
		o.MaxBatch = 256
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("find the database's folder: %w", err)
	}
	if err := localDisk(filepath.Dir(path)); err != nil {
		return nil, err
	}
	if err := create(path); err != nil {
		return nil, classify(err)
	}
	// fdatasync leaves out the file's timestamps, not its data or size: same durability, half the wait on ext4.
	if _, err := sqlite.Fdatasync(true); err != nil && !errors.Is(err, sqlite.ErrFdatasyncUnavailable) {
		return nil, fmt.Errorf("choose fdatasync: %w", err)
	}
	db := &DB{path: path, log: o.Log}
	if err := db.open(ctx, o); err != nil {
		if cerr := db.closePools(); cerr != nil {
			db.log.Debug("close a database that could not be opened", "err", cerr)
		}
		return nil, classify(err)
	}
	return db, nil
}

func (db *DB) open(ctx context.Context, o Options) error {
	level := "FULL"
	if o.unsynced {
		level = "OFF"
	}
	var err error
	db.write, err = sql.Open("sqlite", dsn(db.path,
		"_pragma=busy_timeout(5000)", "_pragma=journal_mode(WAL)", "_pragma=synchronous("+level+")",
		"_pragma=foreign_keys(1)", "_pragma=temp_store(MEMORY)", "_pragma=cache_size(-2000)",
		"_pragma=wal_autocheckpoint(4000)", "_pragma=journal_size_limit(33554432)", "_txlock=immediate", "_dqs=0"))
	if err != nil {
		return fmt.Errorf("open the database for writing: %w", err)
	}
	db.write.SetMaxOpenConns(1)
	db.write.SetConnMaxIdleTime(0)
	if err := db.write.PingContext(ctx); err != nil { // it makes the log that readers need
		return fmt.Errorf("open the database for writing: %w", err)
	}
	db.read, err = sql.Open("sqlite", dsn(db.path,
		"mode=ro", "_pragma=busy_timeout(5000)", "_pragma=query_only(1)", "_pragma=temp_store(MEMORY)",
		"_pragma=cache_size(-500)", "_dqs=0"))
	if err != nil {
		return fmt.Errorf("open the database for reading: %w", err)
	}
	db.read.SetMaxOpenConns(o.Readers)
	db.read.SetMaxIdleConns(o.Readers)
	if err := db.sound(ctx); err != nil {
		return err
	}
	if err := db.fold(ctx); err != nil {
		return err
	}
	if err := migrate(ctx, db.write, db.path, db.log); err != nil {
		return err
	}
	conn, err := db.write.Conn(ctx)
	if err != nil {
		return fmt.Errorf("take the writer's connection: %w", err)
	}
	if db.committer, err = newWriter(conn, o.MaxBatch, db.log); err != nil {
		return errors.Join(err, conn.Close())
	}
	if o.unsynced {
		db.committer.sync = func() error { return nil }
	} else if err := db.committer.syncItself(ctx); err != nil {
		return errors.Join(fmt.Errorf("have the writer sync by itself: %w", err), conn.Close())
	}
	db.writer.Go(db.committer.run)
	return nil
}

// Path returns the absolute path of the database file.
func (db *DB) Path() string { return db.path }

// Settled returns once the disk has all that readers, and calls after commits, have seen so far; an error: it never will.
func (db *DB) Settled() error {
	db.committer.turn.Lock()
	defer db.committer.turn.Unlock()
	return db.Trouble()
}

// Trouble returns why nothing is written any more until the next start; nil: all is well.
func (db *DB) Trouble() error {
	if e := db.committer.broken.Load(); e != nil {
		return e
	}
	return nil
}

// Read returns the pool of read-only connections. What Write has answered is visible to them.
func (db *DB) Read() *sql.DB { return db.read }

// Query reads rows with a statement that is prepared once per reader connection.
func (db *DB) Query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	st, err := db.prepared(ctx, query)
	if err != nil {
		return nil, err
	}
	return st.QueryContext(ctx, args...)
}

// QueryRow reads at most one row with a statement that is prepared once per reader connection. Its Scan gives
// sql.ErrNoRows where there is none.
func (db *DB) QueryRow(ctx context.Context, query string, args ...any) *Row {
	st, err := db.prepared(ctx, query)
	if err != nil {
		return &Row{err: err}
	}
	return &Row{row: st.QueryRowContext(ctx, args...)}
}

// Row is the answer of QueryRow.
type Row struct {
	row *sql.Row
	err error
}

// Scan copies the row's columns into dest, like sql.Row.
func (r *Row) Scan(dest ...any) error {
	if r.err != nil {
		return r.err
	}
	return r.row.Scan(dest...)
}

// maxStatements bounds both statement caches. Queries are constants, so the bound is only reached by a defect.
const maxStatements = 512

func (db *DB) prepared(ctx context.Context, query string) (*sql.Stmt, error) {
	if st, ok := db.stmts.Load(query); ok {
		return st.(*sql.Stmt), nil
	}
	st, err := db.read.PrepareContext(ctx, query)
	if err != nil {
		return nil, classify(fmt.Errorf("prepare %q: %w", query, err))
	}
	if other, loaded := db.stmts.LoadOrStore(query, st); loaded {
		return other.(*sql.Stmt), st.Close()
	}
	return st, nil
}

// Close answers what waits, then closes the database. Writes that come later are refused. It is idempotent.
func (db *DB) Close() error {
	db.gate.Lock()
	already := db.closed
	db.closed = true
	if !already {
		close(db.committer.wake)
	}
	db.gate.Unlock()
	db.writer.Wait()
	if already {
		return nil
	}
	return db.closePools()
}

func (db *DB) closePools() error {
	var errs []error
	db.stmts.Range(func(_, st any) bool {
		errs = append(errs, st.(*sql.Stmt).Close())
		return true
	})
	if db.read != nil {
		errs = append(errs, db.read.Close())
	}
	if db.write != nil { // last: closing the last connection folds the write-ahead log into the file
		errs = append(errs, db.write.Close())
	}
	return errors.Join(errs...)
}

// fold folds what an earlier process left in the write-ahead log into the file, durably, and empties it. What can be read of a
// log after a disk failed, or after a process was killed, is not for that on the disk, and whatever came behind a hole in it
// would be lost with it.
func (db *DB) fold(ctx context.Context) error {
	var busy, frames, folded int
	err := db.write.QueryRowContext(ctx, `pragma wal_checkpoint(truncate)`).Scan(&busy, &frames, &folded)
	if err == nil && busy != 0 {
		err = errBusy(nil)
	}
	if err != nil {
		return fmt.Errorf("fold the database's log into it: %w", err)
	}
	return nil
}

// create makes an empty database file that only its owner can read: it holds password and token hashes.
func create(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// dsn returns SQLite's URI for the file at the absolute path.
func dsn(path string, params ...string) string {
	path = filepath.ToSlash(path)
	if !strings.HasPrefix(path, "/") { // C:/… on Windows
		path = "/" + path
	}
	u := url.URL{Scheme: "file", Path: path, RawQuery: strings.Join(params, "&")}
	return u.String()
}

// quote returns s as an SQL string literal, for the few statements that take no parameters.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
