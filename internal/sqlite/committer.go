package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"github.com/ahelme/comfyume/internal/fault"
)

// request is one change somebody waits for.
type request struct {
	fn       func(*Tx) error
	err      error
	panicked any // what fn panicked with, given back to the caller's goroutine
	done     chan struct{}
}

// Write runs fn inside the writer's transaction and returns when the disk has what was committed: nil means durable. When fn
// returns an error its changes, and only its, are undone, and Write returns that error. Once the disk could not keep a commit
// nothing is written until the database is opened anew (see Trouble): what the disk has is not known.
//
// Where nobody commits just now the caller does it: to wake another goroutine, and be woken by it, takes as long as the
// disk. Who comes meanwhile waits in the queue for the next commit.
//
// fn runs on some goroutine while others wait: it must be quick and must not call Write. It may be run a
// second time after what it did in the database has been undone, because somebody else's request failed: what it
// leaves in variables must be the same then. A context that ends before the request is taken up gives its error; one
// that ends later undoes nothing.
func (db *DB) Write(ctx context.Context, fn func(*Tx) error) error {
	r, ok := db.spare.Get().(*request)
	if !ok {
		r = &request{done: make(chan struct{}, 1)}
	}
	r.fn = fn
	if err := db.hand(ctx, r); err != nil {
		return err
	}
	err, panicked := r.err, r.panicked
	r.fn, r.err, r.panicked = nil, nil, nil
	db.spare.Put(r)
	if panicked != nil {
		panic(panicked)
	}
	return err
}

// hand has a request committed. An error means that it was not taken up.
func (db *DB) hand(ctx context.Context, r *request) error {
	own, err := db.enqueue(ctx, r)
	if err == nil && !own {
		<-r.done
	}
	return err
}

// enqueue puts a request into the queue, or commits it itself.
func (db *DB) enqueue(ctx context.Context, r *request) (own bool, err error) {
	db.gate.RLock()
	defer db.gate.RUnlock()
	if db.closed {
		return false, errClosed()
	}
	if err := ctx.Err(); err != nil {
		return false, err
	}
	if db.committer.turn.TryLock() {
		defer db.committer.turn.Unlock()
		db.committer.serve(r)
		return true, nil
	}
	select {
	case db.committer.queue <- r:
		select {
		case db.committer.wake <- struct{}{}:
		default: // it was called already, and will look
		}
		return false, nil
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

func errClosed() error {
	return fault.New(fault.Unavailable, "The studio is shutting down.").
		WithRemedy("Try again when it is back.").WithCode("closed")
}

// writer owns the one connection that writes.
type writer struct {
	queue   chan *request
	wake    chan struct{} // something came into the queue; closed when nothing more comes
	batches atomic.Int64  // that were taken up: what benchmarks divide by
	log     *slog.Logger
	turn    sync.Mutex // whoever holds it commits; the fields below are theirs

	tx    Tx
	wal   *os.File     // SQLite's log; nil: nobody waits for the disk
	sync  func() error // returns when the disk has what was committed
	batch []*request   // up to its capacity
	after []func()     // of the requests that are about to be committed, in order

	broken atomic.Pointer[fault.Error] // that the disk did not keep what was committed; anybody may read it
}

// Statements around requests.
const (
	sqlBegin    = `begin immediate`
	sqlCommit   = `commit`
	sqlRollback = `rollback`
	sqlSave     = `savepoint request`
	sqlRelease  = `release request`
	sqlUndo     = `rollback to request`
)

func newWriter(conn *sql.Conn, most int, log *slog.Logger) (*writer, error) {
	w := &writer{
		queue: make(chan *request, most), wake: make(chan struct{}, 1), log: log,
		batch: make([]*request, 0, most), tx: Tx{conn: conn, stmts: map[string]*sql.Stmt{}},
	}
	for _, q := range []string{sqlBegin, sqlCommit, sqlRollback, sqlSave, sqlRelease, sqlUndo} {
		if _, err := w.tx.prepared(q); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// syncItself has the writer sync SQLite's log after each commit. SQLite would do the same inside of it (synchronous=FULL), but
// between the two what was committed may be told to whoever acts on it (ADR 0036). The log lies beside the database's file, as
// SQLite names that: where a link leads. It is there, and the same file, as long as a connection is open.
func (w *writer) syncItself(ctx context.Context) (err error) {
	if _, err := w.tx.conn.ExecContext(ctx, `pragma synchronous = normal`); err != nil {
		return err
	}
	var file string
	if err := w.tx.conn.QueryRowContext(ctx, `select file from pragma_database_list where name = 'main'`).Scan(&file); err != nil {
		return err
	}
	if w.wal, err = os.OpenFile(file+"-wal", os.O_RDWR, 0); err != nil {
		return err
	}
	w.sync = func() error { return syncData(w.wal) }
	return nil
}

// run commits what waits in the queue, until it is told that nothing more comes, then gives the connection back.
func (w *writer) run() {
	for range w.wake {
		w.turn.Lock()
		for w.serve(nil) {
		}
		w.turn.Unlock()
	}
	w.close()
}

// serve commits what waits in the queue, behind the caller's own request if there is one, and answers all but that.
// It reports whether there was anything.
func (w *writer) serve(own *request) bool {
	w.batch = w.batch[:0]
	if own != nil {
		w.batch = append(w.batch, own)
	}
	yielded := false
fill:
	for len(w.batch) < cap(w.batch) {
		select {
		case more := <-w.queue:
			w.batch = append(w.batch, more)
		default:
			if yielded || len(w.batch) == 0 {
				break fill
			}
			// Whoever is about to ask and only waits for a processor comes into this commit: on a busy
			// server that halves the commits, and on an idle one it takes no time.
			yielded = true
			runtime.Gosched()
		}
	}
	if len(w.batch) == 0 {
		return false
	}
	w.commit(w.batch)
	w.batches.Add(1)
	for _, r := range w.batch {
		if r != own {
			r.done <- struct{}{}
		}
	}
	clear(w.batch)
	return true
}

// commit runs the requests of batch in one transaction and leaves each with its result. Nearly always all succeed.
// Where one does not, the batch is run again from its beginning, then each request in a savepoint, so that only what
// failed is undone: savepoints for everybody would cost every request two statements and copies of pages.
func (w *writer) commit(batch []*request) {
	if e := w.broken.Load(); e != nil {
		fail(batch, e)
		return
	}
	err := w.attempt(batch, false)
	if errors.Is(err, errOneFailed) {
		if len(batch) == 1 {
			return
		}
		err = w.attempt(batch, true)
	}
	if err != nil {
		fail(batch, err)
		return
	}
	for _, fn := range w.after {
		w.call(fn)
	}
	w.forget()
	if err := w.sync(); err != nil {
		// To ask again would be to be told that all is well: what a disk could not take is forgotten by then.
		w.broken.Store(errNotKept(err))
		w.log.Error("the disk did not keep what was written: nothing is written any more until the next start", "err", err)
		fail(batch, w.broken.Load())
	}
}

// errOneFailed undoes a transaction because of the request that has the error.
var errOneFailed = errors.New("a request failed")

// attempt runs the requests of batch in one transaction. When it returns an error nothing of the batch has happened.
func (w *writer) attempt(batch []*request, savepoints bool) error {
	if _, err := w.tx.Exec(sqlBegin); err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	for _, r := range batch {
		err := w.one(r, savepoints)
		if err == nil && r.failed() && !savepoints {
			err = errOneFailed
		}
		if err != nil {
			w.rollback()
			return err
		}
	}
	if _, err := w.tx.Exec(sqlCommit); err != nil {
		w.rollback()
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

func (r *request) failed() bool { return r.err != nil || r.panicked != nil }

// one runs a request, if wanted in a savepoint of its own. The error it returns is the transaction's (disk full, I/O
// error), not the request's.
func (w *writer) one(r *request, savepoint bool) error {
	if savepoint {
		if _, err := w.tx.Exec(sqlSave); err != nil {
			return fmt.Errorf("savepoint: %w", err)
		}
	}
	w.protect(r)
	if !r.failed() {
		w.after = append(w.after, w.tx.after...)
	}
	if err := w.tx.end(); err != nil && !r.failed() {
		return fmt.Errorf("close rows: %w", err)
	}
	if !savepoint {
		return nil
	}
	if r.failed() {
		if _, err := w.tx.Exec(sqlUndo); err != nil {
			return errors.Join(r.err, fmt.Errorf("roll back one request: %w", err))
		}
	}
	if _, err := w.tx.Exec(sqlRelease); err != nil {
		return fmt.Errorf("release: %w", err)
	}
	return nil
}

// protect runs the request's function and keeps what it panicked with for the goroutine that asked.
func (w *writer) protect(r *request) {
	defer func() {
		if p := recover(); p != nil {
			r.panicked = fmt.Sprintf("%v\n\nin the database's writer:\n%s", p, debug.Stack())
		}
	}()
	r.err, r.panicked = nil, nil // of an earlier attempt
	r.err = classify(r.fn(&w.tx))
}

// call runs what a request wanted to be called after the commit. Nothing undoes that, so a panic there must neither stop the
// writer nor make the request look failed.
func (w *writer) call(fn func()) {
	defer func() {
		if p := recover(); p != nil {
			w.log.Error("a call after the commit panicked", "panic", p, "stack", string(debug.Stack()))
		}
	}()
	fn()
}

// rollback undoes the transaction, and with it what was to be called after it.
func (w *writer) rollback() {
	w.forget()
	if _, err := w.tx.Exec(sqlRollback); err != nil {
		// SQLite has rolled back by itself after the worst errors; there is nothing left to undo then.
		w.log.Debug("roll back", "err", err)
	}
}

func (w *writer) forget() {
	clear(w.after)
	w.after = w.after[:0]
}

func (w *writer) close() {
	for _, st := range w.tx.stmts {
		if err := st.Close(); err != nil {
			w.log.Warn("close a statement of the database", "err", err)
		}
	}
	if err := w.tx.conn.Close(); err != nil {
		w.log.Warn("close the database's writing connection", "err", err)
	}
	if w.wal == nil {
		return
	}
	if err := w.wal.Close(); err != nil {
		w.log.Warn("close the database's log", "err", err)
	}
}

// fail gives every request of the batch the error that undid all of them.
func fail(batch []*request, err error) {
	err = classify(err)
	for _, r := range batch {
		r.err = err
	}
}
