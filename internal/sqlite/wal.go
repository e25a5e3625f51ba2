package sqlite

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// The log is written from its beginning again once logPages pages of it are in the database.
const (
	logPages = 4000
	logHead  = 32        // bytes before the first page
	logFrame = 24 + 4096 // bytes of a page and its head
	logKept  = 32 << 20  // bytes that stay after a reader kept it from beginning again
)

// layOut writes the log to the length that it comes to anyway: behind its end zeros, which are no page of it. A commit
// that makes the file longer waits for the file system's journal besides, half as long again, and now and then ten times as
// long. Nobody may write meanwhile.
func layOut(path string) (err error) {
	f, err := os.OpenFile(path+"-wal", os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // nothing was opened yet: there is no log
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	zeros := make([]byte, 1<<20)
	for at, end := info.Size(), int64(logHead+logPages*logFrame); at < end; {
		n, err := f.WriteAt(zeros[:min(int64(len(zeros)), end-at)], at)
		if at += int64(n); err != nil { // a disk that is full has better use for it
			return errors.Join(fmt.Errorf("write %d bytes: %w", end-info.Size(), err), f.Truncate(info.Size()))
		}
	}
	return f.Sync()
}
