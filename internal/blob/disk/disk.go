// Package disk keeps blobs as files below one folder of a local or network file system.
package disk

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/ahelme/comfyume/internal/blob"
	"github.com/ahelme/comfyume/internal/volume"
)

// temp is the folder of files that are being written. No key begins with a dot.
const temp = ".tmp"

// leftover is how old a file in temp must be to count as left by a crash: another server on the same network file
// system may be writing the younger ones.
const leftover = 24 * time.Hour

// Disk is a blob.Store below one folder. It is safe for concurrent use.
type Disk struct {
	root    *os.Root
	folders sync.Map // names of folders that are known to survive a power cut
}

var _ blob.Store = (*Disk)(nil)

// Open opens the store below dir, makes the folder when it is missing, and removes what a crash left half written.
func Open(dir string) (*Disk, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, storeError("make the folder of stored files", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, storeError("open the folder of stored files", err)
	}
	d := &Disk{root: root}
	if err := d.clean(); err != nil {
		return nil, errors.Join(storeError("clear the folder of half-written files", err), root.Close())
	}
	return d, nil
}

// Close closes the folder. Files that are open stay open.
func (d *Disk) Close() error { return d.root.Close() }

func (d *Disk) clean() error {
	if err := d.root.Mkdir(temp, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return fs.WalkDir(d.root.FS(), temp, func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) || err == nil && time.Since(info.ModTime()) < leftover {
			return nil
		}
		if err != nil {
			return err
		}
		return d.root.Remove(name)
	})
}

// buffers are what Put copies through.
var buffers = sync.Pool{New: func() any { b := make([]byte, 128<<10); return &b }}

// Put implements blob.Store: a file beside, fsync, rename, fsync of the folder.
func (d *Disk) Put(ctx context.Context, key string, r io.Reader) (blob.Sum, error) {
	if err := blob.CheckKey(key); err != nil {
		return blob.Sum{}, err
	}
	name := temp + "/" + rand.Text()
	f, err := d.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return blob.Sum{}, storeError("make a file", err)
	}
	var sum blob.Sum
	if c, ok := r.(copier); ok {
		if sum.Size, sum.SHA256, err = c.CopyTo(ctx, f); volume.IsFull(err) {
			err = storeError("write a file", err)
		}
	} else {
		sum, err = fill(ctx, f, r)
	}
	if err == nil {
		err = wrapStore("write a file", f.Sync())
	}
	err = errors.Join(err, wrapStore("close a file", f.Close()))
	if err == nil {
		err = wrapStore("name a file", d.place(name, key))
	}
	if err != nil {
		if e := d.root.Remove(name); e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, fmt.Errorf("remove a half-written file: %w", e))
		}
		return blob.Sum{}, err
	}
	return sum, nil
}

// copier is a reader that knows a better way into a file than through this program: bytes that lie on the same file
// system are copied there. It returns the size and hash of what it put into f, which is empty.
type copier interface {
	CopyTo(ctx context.Context, f *os.File) (size int64, sum [sha256.Size]byte, err error)
}

// fill copies r into f and sums it up. Errors of f are told from those of r, which stay as they are.
func fill(ctx context.Context, f *os.File, r io.Reader) (blob.Sum, error) {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	h := sha256.New()
	var sum blob.Sum
	for idle := 0; ; {
		if err := ctx.Err(); err != nil {
			return blob.Sum{}, context.Cause(ctx)
		}
		n, err := r.Read(*buf)
		if n > 0 {
			idle = 0
			h.Write((*buf)[:n])
			if _, err := f.Write((*buf)[:n]); err != nil {
				return blob.Sum{}, storeError("write a file", err)
			}
			sum.Size += int64(n)
		} else if idle++; idle > 100 && err == nil {
			err = io.ErrNoProgress
		}
		if err == io.EOF {
			h.Sum(sum.SHA256[:0])
			return sum, nil
		}
		if err != nil {
			return blob.Sum{}, err
		}
	}
}

// place renames the file name to key, durably.
func (d *Disk) place(name, key string) error {
	dir := path.Dir(key)
	if err := d.makeFolder(dir); err != nil {
		return err
	}
	if err := d.root.Rename(name, key); err != nil {
		return err
	}
	return syncFolder(d.root, dir)
}

// makeFolder makes dir and what is missing above it, durably. That a folder exists is not enough: whoever made it
// may not have come to the fsync yet.
func (d *Disk) makeFolder(dir string) error {
	if _, known := d.folders.Load(dir); known || dir == "." {
		return nil
	}
	if err := d.root.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for above := path.Dir(dir); ; above = path.Dir(above) {
		if err := syncFolder(d.root, above); err != nil {
			return err
		}
		if above == "." {
			d.folders.Store(dir, nil)
			return nil
		}
	}
}

// Open implements blob.Store; what it returns is an *os.File.
func (d *Disk) Open(_ context.Context, key string) (io.ReadSeekCloser, error) {
	if err := blob.CheckKey(key); err != nil {
		return nil, err
	}
	f, err := d.root.Open(key)
	if err != nil {
		return nil, readError(key, err)
	}
	return f, nil
}

// Stat implements blob.Store.
func (d *Disk) Stat(_ context.Context, key string) (blob.Item, error) {
	if err := blob.CheckKey(key); err != nil {
		return blob.Item{}, err
	}
	info, err := d.root.Stat(key)
	if err == nil && !info.Mode().IsRegular() {
		err = fs.ErrNotExist
	}
	if err != nil {
		return blob.Item{}, readError(key, err)
	}
	return blob.Item{Key: key, Size: info.Size(), Modified: info.ModTime()}, nil
}

// Delete implements blob.Store. It need not be durable: who deletes has forgotten the key already, and a file that
// comes back after a power cut is swept like any other that nobody knows.
func (d *Disk) Delete(_ context.Context, key string) error {
	if err := blob.CheckKey(key); err != nil {
		return err
	}
	if err := d.root.Remove(key); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return storeError("delete a file", err)
	}
	return nil
}

// Each implements blob.Store.
func (d *Disk) Each(ctx context.Context, prefix string, f func(blob.Item) error) error {
	start := "."
	if i := strings.LastIndexByte(prefix, '/'); i > 0 {
		start = prefix[:i]
	}
	return fs.WalkDir(d.root.FS(), start, func(name string, e fs.DirEntry, err error) error {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it went meanwhile, or there was never anything below prefix
		}
		if err != nil {
			return storeError("list the stored files", err)
		}
		if e.IsDir() {
			// A folder is only looked into where its keys can begin with prefix, or prefix with it.
			if name != "." && (name[0] == '.' || !strings.HasPrefix(name+"/", prefix) && !strings.HasPrefix(prefix, name+"/")) {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasPrefix(name, prefix) || !e.Type().IsRegular() {
			return nil
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return storeError("list the stored files", err)
		}
		return f(blob.Item{Key: name, Size: info.Size(), Modified: info.ModTime()})
	})
}

// Free implements blob.Store: what the file system leaves to accounts other than root.
func (d *Disk) Free(context.Context) (int64, error) {
	return FreeAt(d.root.Name())
}

// FreeAt returns how many bytes the file system of a folder leaves to accounts other than root.
func FreeAt(dir string) (int64, error) {
	n, err := volume.Free(dir)
	if err != nil {
		return 0, storeError("ask how much room the disk has", err)
	}
	return n, nil
}

func readError(key string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return blob.ErrMissing(key, err)
	}
	return storeError("open a file", err)
}

func wrapStore(what string, err error) error {
	if err == nil {
		return nil
	}
	return storeError(what, err)
}

// storeError is the store's own trouble. What an operator can mend is told from the rest.
func storeError(what string, err error) error {
	err = fmt.Errorf("%s: %w", what, err)
	switch {
	case volume.IsFull(err):
		return blob.ErrFull(err)
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return blob.ErrReadOnly(err)
	}
	return err
}
