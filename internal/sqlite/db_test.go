package sqlite_test

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"testing"

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
