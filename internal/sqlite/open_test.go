package sqlite_test

import (
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/sqlite"
)

func TestMain(m *testing.M) {
	if os.Getenv(crashFile) != "" { // killed anyway
		os.Exit(m.Run())
	}
	goleak.VerifyTestMain(m)
}

// TestOpenRefuses: one sentence with the cause, and what to do.
func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		code string
		make func(t *testing.T, path string)
	}{
		"a newer schema": {"database_newer", func(t *testing.T, path string) {
			db, err := sqlite.OpenAt(t.Context(), path, 1)
			must(t, err)
			_, err = db.Exec(`insert into goose_db_version(version_id, is_applied) values(99990101000000, 1)`)
			must(t, err)
			must(t, db.Close())
		}},
		"no database": {"database_damaged", func(t *testing.T, path string) {
			must(t, os.WriteFile(path, []byte(strings.Repeat("this is a letter to my aunt. ", 500)), 0o600))
		}},
		"a damaged one": {"database_damaged", func(t *testing.T, path string) {
			db, err := sqlite.OpenAt(t.Context(), path, 1)
			must(t, err)
			must(t, db.Close())
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			must(t, err)
			_, err = f.WriteAt(make([]byte, 8192), 100) // behind the header
			must(t, err)
			must(t, f.Close())
		}},
		"one with a damaged page in the middle": {"database_damaged", func(t *testing.T, path string) {
			db, err := sqlite.OpenAt(t.Context(), path, 1)
			must(t, err)
			must(t, db.Close())
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			must(t, err)
			_, err = f.WriteAt(make([]byte, 4096), 3*4096)
			must(t, err)
			must(t, f.Close())
		}},
		"a folder": {"database_unreachable", func(t *testing.T, path string) { must(t, os.Mkdir(path, 0o700)) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "comfyume.db")
			c.make(t, path)
			db, err := sqlite.Open(t.Context(), path, sqlite.Options{})
			if err == nil {
				t.Fatal("it was opened", db.Close())
			}
			e, ok := err.(*fault.Error)
			if !ok || e.Code != c.code || e.Kind != fault.Unavailable || e.Public == "" || e.Remedy == "" {
				t.Errorf("%v, want code %s with a sentence and a remedy", err, c.code)
			}
		})
	}
	t.Run("no folder", func(t *testing.T) {
		t.Parallel()
		_, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "gone", "comfyume.db"), sqlite.Options{})
		if !fault.Is(err, fault.Unavailable) {
			t.Errorf("%v", err)
		}
	})
}

// TestUpgradeKeepsCopies brings a database of the first schema up to date, and opens the copies made on the way.
func TestUpgradeKeepsCopies(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "it's.db")
	old, err := sqlite.OpenAt(t.Context(), path, 1)
	must(t, err)
	_, err = old.Exec(`insert into job_number(user, mark) values('ann', 42)`)
	must(t, err)
	must(t, old.Close())

	db := open(t, path)
	mark := func(db interface {
		QueryRow(query string, args ...any) *sql.Row
	},
	) (n int) {
		must(t, db.QueryRow(`select mark from job_number where user = 'ann'`).Scan(&n))
		return n
	}
	if n := mark(db.Read()); n != 42 {
		t.Errorf("the upgraded database says %d", n)
	}
	copies, err := filepath.Glob(path + ".schema-*")
	must(t, err)
	if len(copies) == 0 || copies[0] != path+".schema-1" {
		t.Fatalf("copies: %q", copies)
	}
	for _, name := range copies {
		info, err := os.Stat(name)
		must(t, err)
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s may be read by others: %v", name, info.Mode())
		}
		saved, err := sql.Open("sqlite", name)
		must(t, err)
		var version string
		must(t, saved.QueryRow(`select max(version_id) from goose_db_version`).Scan(&version))
		if n := mark(saved); n != 42 || name != path+".schema-"+version {
			t.Errorf("%s says %d in schema %s", name, n, version)
		}
		must(t, saved.Close())
	}
	must(t, db.Close())
	before, err := filepath.Glob(path + "*")
	must(t, err)
	again := open(t, path)
	must(t, again.Close())
	after, err := filepath.Glob(path + "*")
	must(t, err)
	if fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("opening what is up to date made %q of %q", after, before)
	}
}

func TestFileIsPrivate(t *testing.T) {
	t.Parallel()
	db := scratch(t)
	files, err := filepath.Glob(filepath.Join(filepath.Dir(db.Path()), "*"))
	must(t, err)
	if len(files) < 2 {
		t.Fatalf("files: %q", files)
	}
	for _, name := range files {
		info, err := os.Stat(name)
		must(t, err)
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s may be read by others: %v", name, info.Mode())
		}
	}
}

// TestCommitsWaitForTheDisk: killing a process shows nothing of it, only a power cut would.
func TestCommitsWaitForTheDisk(t *testing.T) {
	t.Parallel()
	db := scratch(t)
	for pragma, want := range map[string]string{"synchronous": "1", "journal_mode": "wal", "foreign_keys": "1"} {
		var got string
		must(t, db.Write(t.Context(), func(tx *sqlite.Tx) error { return tx.QueryRow(`pragma ` + pragma).Scan(&got) }))
		if got != want {
			t.Errorf("%s is %s, want %s", pragma, got, want)
		}
	}
	told, answered := false, false
	syncs := 0
	db.Sync(func(log *os.File, sync func() error) error {
		syncs++
		if !told || answered || count(t, db) != syncs {
			t.Errorf("as the disk gets it: told %v, answered %v, %d rows", told, answered, count(t, db))
		}
		isLogOf(t, db.Path(), log)
		return sync()
	})
	for _, v := range []string{"a", "b"} {
		told = false
		answered = false
		must(t, db.Write(t.Context(), func(tx *sqlite.Tx) error {
			tx.AfterCommit(func() { told = true })
			return insert(v)(tx)
		}))
		answered = true
	}
	if syncs != 2 {
		t.Errorf("%d syncs for 2 commits", syncs)
	}
}

// isLogOf holds what is synced to be the log of the database file.
func isLogOf(t *testing.T, file string, log *os.File) {
	t.Helper()
	want, err := os.Stat(file + "-wal")
	must(t, err)
	got, err := log.Stat()
	must(t, err)
	if !os.SameFile(got, want) {
		t.Errorf("%s is synced, which is not the log of %s", log.Name(), file)
	}
}

// TestOpenFoldsTheLog: what a process that was killed left in its log need not be on the disk, and what comes behind it would be
// lost with it.
func TestOpenFoldsTheLog(t *testing.T) {
	t.Parallel()
	db := scratch(t)
	must(t, db.Write(t.Context(), insert("a")))
	killed := filepath.Join(t.TempDir(), "comfyume.db")
	for _, end := range []string{"", "-wal"} { // as it is now, so is it after a kill
		b, err := os.ReadFile(db.Path() + end)
		must(t, err)
		must(t, os.WriteFile(killed+end, b, 0o600))
	}
	again := open(t, killed)
	info, err := os.Stat(killed + "-wal")
	must(t, err)
	if n := count(t, again); n != 1 || info.Size() != 0 {
		t.Errorf("%d rows, a log of %d bytes", n, info.Size())
	}
}

// TestOpenThroughALink: SQLite keeps its log beside the file, not beside the link to it, and that one is synced.
func TestOpenThroughALink(t *testing.T) {
	t.Parallel()
	file, link := filepath.Join(t.TempDir(), "x.db"), filepath.Join(t.TempDir(), "comfyume.db")
	must(t, open(t, file).Close())
	must(t, os.Symlink(file, link))
	db, syncs := open(t, link), 0
	db.Sync(func(log *os.File, sync func() error) error {
		syncs++
		isLogOf(t, file, log)
		return sync()
	})
	must(t, db.Write(t.Context(), func(tx *sqlite.Tx) error {
		_, err := tx.Exec(`create table scratch(id integer primary key) strict`)
		return err
	}))
	if syncs != 1 {
		t.Errorf("%d syncs", syncs)
	}
}

// TestDiskThatDoesNotKeep: nobody is told that it is durable, then or later, until the database is opened anew.
func TestDiskThatDoesNotKeep(t *testing.T) {
	t.Parallel()
	db := scratch(t)
	must(t, db.Write(t.Context(), insert("kept")))
	must(t, db.Trouble())
	must(t, db.Settled())
	syncs := 0
	db.Sync(func(*os.File, func() error) error {
		syncs++
		return syscall.EIO
	})
	for i := range 3 {
		err := db.Write(t.Context(), insert(strconv.Itoa(i)))
		if e, ok := errors.AsType[*fault.Error](err); !ok || e.Code != "disk_error" || e.Remedy == "" || !errors.Is(err, syscall.EIO) {
			t.Errorf("write %d: %v", i, err)
		}
	}
	if n := count(t, db); syncs != 1 || n > 2 || !errors.Is(db.Trouble(), syscall.EIO) || !errors.Is(db.Settled(), syscall.EIO) { // what was not kept may be there
		t.Errorf("%d syncs, %d rows, trouble %v", syncs, n, db.Trouble())
	}
	must(t, db.Close())
	again := open(t, db.Path())
	must(t, again.Write(t.Context(), insert("new")))
	if n := count(t, again); n < 2 {
		t.Errorf("%d rows, want at least 2", n)
	}
}
