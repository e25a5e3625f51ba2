package sqlite

import (
	"errors"
	"io/fs"
	"syscall"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/ahelme/comfyume/internal/fault"
)

// classify gives errors of the database a kind and a remedy. Errors that have a kind, and those of a statement's own
// making such as a constraint, stay as they are.
func classify(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*fault.Error](err); ok {
		return err
	}
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		return classifyCode(err, e.Code())
	}
	switch {
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return fault.Wrap(fault.Unavailable, err, "The database file may not be written.").
			WithRemedy("Make the data folder and the files in it writable for the account that runs the studio.").
			WithCode("database_readonly")
	case errors.Is(err, fs.ErrNotExist):
		return fault.Wrap(fault.Unavailable, err, "The folder for the database is not there.").
			WithRemedy("Make the data folder or name another one.").WithCode("database_unreachable")
	case errors.Is(err, syscall.EISDIR), errors.Is(err, syscall.ENOTDIR):
		return classifyCode(err, sqlite3.SQLITE_CANTOPEN)
	case errors.Is(err, syscall.ENOSPC):
		return classifyCode(err, sqlite3.SQLITE_FULL)
	}
	return err
}

func classifyCode(err error, code int) error {
	switch code & 0xff {
	case sqlite3.SQLITE_FULL:
		return fault.Wrap(fault.Unavailable, err, "The disk with the studio's database is full.").
			WithRemedy("Free some space on it; nothing that was acknowledged is lost.").WithCode("disk_full")
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH:
		return fault.Wrap(fault.Unavailable, err, "The database file may not be written.").
			WithRemedy("Make the data folder and the files in it writable for the account that runs the studio.").
			WithCode("database_readonly")
	case sqlite3.SQLITE_CANTOPEN:
		return fault.Wrap(fault.Unavailable, err, "The database file can't be opened.").
			WithRemedy("Look at the data folder's owner and rights.").WithCode("database_unreachable")
	case sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT:
		return errDamaged(err)
	case sqlite3.SQLITE_IOERR:
		return fault.Wrap(fault.Unavailable, err, "The disk with the studio's database reports an error.").
			WithRemedy("Look at the system's log and at the disk; nothing that was acknowledged is lost.").
			WithCode("disk_error")
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return errBusy(err)
	}
	return err
}

func errBusy(cause error) error {
	return fault.Wrap(fault.Unavailable, cause, "Another program holds the studio's database.").
		WithRemedy("Stop the other program; one server owns a data folder.").WithCode("database_busy")
}

// errNotKept is what everybody is told from the moment on in which the disk could not keep a commit.
func errNotKept(cause error) *fault.Error {
	return fault.Wrap(fault.Unavailable, cause, "The disk with the studio's database did not keep what was written.").
		WithRemedy("Look at the system's log and at the disk, then start the studio again: nothing that was acknowledged is lost.").
		WithCode("disk_error")
}

func errDamaged(cause error) error {
	return fault.Wrap(fault.Unavailable, cause, "The database file is damaged.").
		WithRemedy("Put it aside and restore the last backup, or the copy beside it that was made before the last upgrade.").
		WithCode("database_damaged")
}

// isConstraint reports whether err says that a unique index, a foreign key or a check refused a row.
func isConstraint(err error) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
	return ok && e.Code()&0xff == sqlite3.SQLITE_CONSTRAINT
}
