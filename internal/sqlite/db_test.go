package sqlite_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/sqlite"
)

// open opens the database file at path and closes it with the test.
func open(t testing.TB, path string) *sqlite.DB {
	t.Helper()
	db, err := sqlite.Open(t.Context(), path, sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// scratch makes a database with a table of its own.
func scratch(t testing.TB) *sqlite.DB {
	t.Helper()
	db := open(t, filepath.Join(t.TempDir(), "a b?c%d#e.db"))
	must(t, db.Write(t.Context(), func(tx *sqlite.Tx) error {
		_, err := tx.Exec(`create table scratch(id integer primary key, v text not null unique) strict`)
		return err
	}))
	return db
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func count(t testing.TB, db *sqlite.DB) (n int) {
	t.Helper()
	must(t, db.QueryRow(context.WithoutCancel(t.Context()), `select count(*) from scratch`).Scan(&n))
	return n
}

func insert(v string) func(*sqlite.Tx) error {
	return func(tx *sqlite.Tx) error {
		_, err := tx.Exec(`insert into scratch(v) values(?)`, v)
		return err
	}
}

func TestWriteKeepsNeighboursOfAFailure(t *testing.T) {
	t.Parallel()
	db := scratch(t)
	boom := errors.New("boom")
	errs := make([]error, 64)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			errs[i] = db.Write(t.Context(), func(tx *sqlite.Tx) error {
				if err := insert(string(rune('A' + i)))(tx); err != nil {
					return err
				}
				if i%3 == 0 {
					tx.AfterCommit(func() { t.Error("called although it failed") })
					return boom
				}
				return nil
			})
		})
	}
	wg.Wait()
	want := 0
	for i, err := range errs {
		if i%3 == 0 != errors.Is(err, boom) {
			t.Errorf("request %d: %v", i, err)
		}
		if i%3 != 0 {
			want++
		}
	}
	if n := count(t, db); n != want {
		t.Errorf("%d rows, want %d", n, want)
	}
}

// TestBatchIsRunAgain: neighbours of a failure run twice, count once, and are told of one commit.
func TestBatchIsRunAgain(t *testing.T) {
	t.Parallel()
	db := scratch(t)
	release := block(t, db)
	boom := errors.New("boom")
	var runs, after [3]int // on the writer's goroutine
	var errs [3]error
	var wg sync.WaitGroup
	for i := range runs {
		wg.Go(func() {
			errs[i] = db.Write(t.Context(), func(tx *sqlite.Tx) error {
				runs[i]++
				tx.AfterCommit(func() { after[i]++ })
				if err := insert(strconv.Itoa(i))(tx); err != nil || i < 2 {
					return err
				}
				return boom
			})
		})
		for db.Waiting() <= i { // in this order
			runtime.Gosched()
		}
	}
	release()
	wg.Wait()
	if errs[0] != nil || errs[1] != nil || !errors.Is(errs[2], boom) {
		t.Errorf("answers: %v", errs)
	}
	if runs != [3]int{2, 2, 2} || after != [3]int{1, 1, 0} {
		t.Errorf("ran %v times, called %v times after the commit", runs, after)
	}
	if n := count(t, db); n != 2 {
		t.Errorf("%d rows, want 2", n)
	}
}

func TestOneFailureAloneIsUndone(t *testing.T) {
	t.Parallel()
	db := scratch(t)
	boom := errors.New("boom")
	err := db.Write(t.Context(), func(tx *sqlite.Tx) error {
		if err := insert("x")(tx); err != nil {
			return err
		}
		tx.AfterCommit(func() { t.Error("called although it failed") })
		return boom
	})
	if !errors.Is(err, boom) || count(t, db) != 0 {
		t.Errorf("%v, %d rows", err, count(t, db))
	}
}

// block keeps the writer busy until the returned function is called, so that what comes meanwhile is committed
// together.
func block(t *testing.T, db *sqlite.DB) (release func()) {
	t.Helper()
	busy, free := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		err := db.Write(t.Context(), func(*sqlite.Tx) error {
			close(busy)
			<-free
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	<-busy
	return func() {
		close(free)
		wg.Wait()
	}
}

// TestCommitThatFails: nobody of the batch is told that it is durable, and the next one works.
func TestCommitThatFails(t *testing.T) {
	t.Parallel()
	db := scratch(t)
	release := block(t, db)
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() {
			err := db.Write(t.Context(), func(tx *sqlite.Tx) error {
				tx.AfterCommit(func() { t.Error("called although nothing was committed") })
				if _, err := tx.Exec(`pragma defer_foreign_keys = 1`); err != nil {
					return err
				}
				_, err := tx.Exec(`insert into job_request(seq, body) values(?, x'00')`, 1000+i) // of no job: found at the commit
				return err
			})
			if err == nil {
				t.Error("a request was acknowledged without its commit")
			}
		})
	}
	for db.Waiting() < 3 {
		runtime.Gosched()
	}
	release()
	wg.Wait()
	must(t, db.Write(t.Context(), insert("y")))
	if n := count(t, db); n != 1 {
		t.Errorf("%d rows, want 1", n)
	}
}

func TestAfterCommitIsInOrder(t *testing.T) {
	t.Parallel()
	db := scratch(t)
	release := block(t, db)
	var calls []int // on the writer's goroutine
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			err := db.Write(t.Context(), func(tx *sqlite.Tx) error {
				if i%7 == 0 {
					return errors.New("no")
				}
				tx.AfterCommit(func() {
					if n := count(t, db); n < 0 {
						t.Error("can't read")
					}
					calls = append(calls, i)
				})
				return insert(strconv.Itoa(i))(tx)
			})
			if (err != nil) != (i%7 == 0) {
				t.Error(err)
			}
		})
	}
	release()
	wg.Wait()
	rows, err := db.Query(t.Context(), `select cast(v as integer) from scratch order by id`)
	must(t, err)
	defer rows.Close()
	var order []int
	for rows.Next() {
		var i int
		must(t, rows.Scan(&i))
		order = append(order, i)
	}
	must(t, rows.Err())
	if !slices.Equal(order, calls) || len(calls) != 42 {
		t.Errorf("ran as %v, called as %v", order, calls)
	}
}

func TestCancelledAfterEnqueueUndoesNothing(t *testing.T) {
	t.Parallel()
	db := scratch(t)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := db.Write(gone, insert("early")); !errors.Is(err, context.Canceled) {
		t.Errorf("a write with an ended context: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	release := block(t, db)
	waiting := make(chan error)
	go func() { waiting <- db.Write(ctx, insert("late")) }()
	for db.Waiting() == 0 {
		runtime.Gosched()
	}
	cancel()
	release()
	if err := <-waiting; err != nil {
		t.Error(err)
	}
	if n := count(t, db); n != 1 {
		t.Errorf("%d rows, want the late one", n)
	}
}

func TestPanicGoesToWhoAsked(t *testing.T) {
	t.Parallel()
	db := scratch(t)
	func() {
		defer func() {
			if p := recover(); p == nil || !strings.Contains(fmt.Sprint(p), "oh no") {
				t.Errorf("recovered %v", p)
			}
		}()
		err := db.Write(t.Context(), func(tx *sqlite.Tx) error {
			if err := insert("x")(tx); err != nil {
				return err
			}
			panic("oh no")
		})
		t.Error("it did not panic", err)
	}()
	must(t, db.Write(t.Context(), func(tx *sqlite.Tx) error {
		tx.AfterCommit(func() { panic("too late to matter") })
		return insert("y")(tx)
	}))
	if n := count(t, db); n != 1 {
		t.Errorf("%d rows, want 1", n)
	}
}

func TestRowsLeftOpen(t *testing.T) {
	t.Parallel()
	db := scratch(t)
	for range 3 {
		must(t, db.Write(t.Context(), func(tx *sqlite.Tx) error {
			rows, err := tx.Query(`select id from scratch`)
			if err != nil {
				return err
			}
			rows.Next()
			return insert(strconv.Itoa(count(t, db)))(tx)
		}))
	}
	if n := count(t, db); n != 3 {
		t.Errorf("%d rows, want 3", n)
	}
}

// TestCloseDrains: what Write acknowledged is there, what it refused is not.
func TestCloseDrains(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "comfyume.db")
	db, err := sqlite.Open(t.Context(), path, sqlite.Options{MaxBatch: 4})
	must(t, err)
	must(t, db.Write(t.Context(), func(tx *sqlite.Tx) error {
		_, err := tx.Exec(`create table scratch(id integer primary key, v text not null unique) strict`)
		return err
	}))
	var acked atomic.Int64
	var wg sync.WaitGroup
	begun := make(chan struct{}, 64)
	for w := range 16 {
		wg.Go(func() {
			for i := 0; ; i++ {
				err := db.Write(t.Context(), insert(fmt.Sprint(w, "-", i)))
				if err != nil {
					if !fault.Is(err, fault.Unavailable) {
						t.Error(err)
					}
					return
				}
				acked.Add(1)
				select {
				case begun <- struct{}{}:
				default:
				}
			}
		})
	}
	for range 64 {
		<-begun
	}
	must(t, db.Close())
	must(t, db.Close()) // twice is once
	wg.Wait()
	if n := count(t, open(t, path)); n != int(acked.Load()) {
		t.Errorf("%d rows, %d were acknowledged", n, acked.Load())
	}
}

// TestDiskFull: everybody in the commit hears of it, nothing of it stays, and it goes on when there is room again.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	db := scratch(t)
	pages := func(n int) {
		must(t, db.Write(t.Context(), func(tx *sqlite.Tx) error {
			var now int
			return tx.QueryRow(fmt.Sprintf(`pragma max_page_count = %d`, n)).Scan(&now)
		}))
	}
	pages(1) // as many as there are now
	release := block(t, db)
	var refused atomic.Int64
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			err := db.Write(t.Context(), insert(fmt.Sprint(i, strings.Repeat("x", 20_000))))
			if e, ok := errors.AsType[*fault.Error](err); ok && e.Code == "disk_full" {
				refused.Add(1)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
	release()
	wg.Wait()
	if n := count(t, db); refused.Load() == 0 || n+int(refused.Load()) != 20 {
		t.Errorf("%d rows, %d refused, want 20 together", n, refused.Load())
	}
	pages(1 << 30)
	must(t, db.Write(t.Context(), insert(strings.Repeat("y", 20_000))))
}

func TestReadersCannotWrite(t *testing.T) {
	t.Parallel()
	db := scratch(t)
	if _, err := db.Read().Exec(`insert into scratch(v) values('x')`); err == nil {
		t.Error("a reader wrote")
	}
	if err := db.QueryRow(t.Context(), `select no such thing`).Scan(); err == nil {
		t.Error("nonsense was prepared")
	}
}
