package workspace

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"time"

	"github.com/ahelme/comfyume/internal/file"
)

// block is what a document takes at least on a disk. The quota counts blocks, so that many small documents count.
const block = 4096

func onDisk(size int64) int64 { return max((size+block-1)/block, 1) * block }

// WriteUserdata stores what r gives as a document of user, whole or not at all, and durably. Conflict, code
// "exists": it is there and overwrite is false. Invalid: the path is a folder or can't be used (codes of package
// file), or there are more bytes than one upload may have (too_large). Busy: the person's quota (disk_quota).
// Unavailable: the disk has no room (disk_full).
func (h *Home) WriteUserdata(ctx context.Context, user, p string, r io.Reader, overwrite bool) (_ file.Entry, err error) {
	p, err = document(p)
	if err != nil {
		return file.Entry{}, err
	}
	root, err := h.open(user, true)
	if err != nil {
		return file.Entry{}, homeError(err)
	}
	defer closeAfter(root, &err)
	// A document that is refused anyway need not be read. The check that counts is under the lock.
	old, err := replaced(root, p, overwrite)
	if err != nil {
		return file.Entry{}, err
	}
	m, err := h.meter(ctx, root, user, r, old)
	if err != nil {
		return file.Entry{}, err
	}
	temp, err := h.write(ctx, root, m)
	if err != nil {
		return file.Entry{}, err
	}
	entry, err := h.place(root, user, temp, p, overwrite, m.total)
	if err != nil {
		return file.Entry{}, errors.Join(err, remove(root, temp))
	}
	return entry, nil
}

// replaced returns what a document at p would replace, nil for nothing, or why it can't.
func replaced(root *os.Root, p string, overwrite bool) (fs.FileInfo, error) {
	old, err := root.Lstat(p)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, homeError(err)
	case old.IsDir():
		return nil, errFolder()
	case !overwrite:
		return nil, errExists()
	}
	return old, nil
}

// meter bounds a stream by what one document, the person and the disk may take.
func (h *Home) meter(ctx context.Context, root *os.Root, user string, r io.Reader, old fs.FileInfo) (*meter, error) {
	m := &meter{r: r, limit: h.opt.Upload, next: 1 << 20, check: func() error {
		if h.opt.Room == nil {
			return nil
		}
		return h.opt.Room(ctx)
	}}
	if h.opt.Quota <= 0 {
		return m, nil
	}
	used, err := h.usage(root, user)
	if err != nil {
		return nil, err
	}
	m.total = h.opt.Quota
	if h.opt.Elsewhere != nil {
		other, err := h.opt.Elsewhere(ctx, user)
		if err != nil {
			return nil, err
		}
		m.total = max(m.total-other, 1) // 0 would mean no bound
	}
	if old != nil {
		used -= onDisk(old.Size())
	}
	m.quota, m.room = h.opt.Quota, m.total-used
	if m.room <= 0 {
		return nil, ErrQuota(m.quota)
	}
	return m, nil
}

// write puts what r gives into a file of the person's scratch folder and returns its path.
func (h *Home) write(ctx context.Context, root *os.Root, r io.Reader) (string, error) {
	if err := root.Mkdir(scratch, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", homeError(err)
	}
	name := scratch + "/" + rand.Text()
	f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", homeError(err)
	}
	err = fill(ctx, f, r)
	if err == nil {
		err = homeError(f.Sync())
	}
	if err = errors.Join(err, homeError(f.Close())); err != nil {
		return "", errors.Join(err, remove(root, name))
	}
	return name, nil
}

// fill copies r into f. Errors of r stay as they are.
func fill(ctx context.Context, f *os.File, r io.Reader) error {
	w := &diskWriter{f: f}
	_, err := io.Copy(w, readerFunc(func(p []byte) (int, error) {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		return r.Read(p)
	}))
	if w.err != nil {
		return homeError(w.err)
	}
	return err
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// diskWriter remembers the disk's error, so that it is told from the reader's.
type diskWriter struct {
	f   *os.File
	err error
}

func (w *diskWriter) Write(p []byte) (int, error) {
	n, err := w.f.Write(p)
	if err != nil {
		w.err = err
	}
	return n, err
}

func remove(root *os.Root, name string) error {
	if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove a half-written document: %w", err)
	}
	return nil
}

// place gives the file temp the path p, durably. most is how many bytes the person's documents may then take; 0:
// any number.
func (h *Home) place(root *os.Root, user, temp, p string, overwrite bool, most int64) (file.Entry, error) {
	unlock, err := h.lock(user)
	if err != nil {
		return file.Entry{}, err
	}
	defer unlock()
	return h.placeLocked(root, user, temp, p, overwrite, most)
}

func (h *Home) placeLocked(root *os.Root, user, temp, p string, overwrite bool, most int64) (file.Entry, error) {
	old, err := replaced(root, p, overwrite)
	if err != nil {
		return file.Entry{}, err
	}
	if err := h.spelled(root, p); err != nil {
		return file.Entry{}, err
	}
	info, err := root.Lstat(temp)
	if err != nil {
		return file.Entry{}, homeError(err)
	}
	more := onDisk(info.Size())
	if old != nil {
		more -= onDisk(old.Size())
	}
	if most > 0 && more > 0 && h.counted(user)+more > most { // others were written while this one came in
		return file.Entry{}, ErrQuota(h.opt.Quota)
	}
	if at, late := stampAfter(old, info.ModTime()); late {
		if err := root.Chtimes(temp, time.Time{}, at); err != nil {
			return file.Entry{}, homeError(err)
		}
		if info, err = root.Lstat(temp); err != nil {
			return file.Entry{}, homeError(err)
		}
	}
	if err := makeFolder(root, path.Dir(p)); err != nil {
		return file.Entry{}, homeError(err)
	}
	if err := root.Rename(temp, p); err != nil {
		return file.Entry{}, homeError(err)
	}
	h.grow(user, more)
	return entryOf(p, info), homeError(syncFolder(root, path.Dir(p)))
}

// Usage says how many bytes of disk the documents of user take. It is asked for with every run.
func (h *Home) Usage(_ context.Context, user string) (used int64, err error) {
	if err := checkUser(user); err != nil {
		return 0, err
	}
	if used, known := h.known(user); known {
		return used, nil
	}
	root, err := h.open(user, false)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, h.countNothing(user)
	}
	if err != nil {
		return 0, homeError(err)
	}
	defer closeAfter(root, &err)
	return h.usage(root, user)
}

// countNothing notes that a person without a folder has no documents, unless the folder was made just now.
func (h *Home) countNothing(user string) error {
	unlock, err := h.lock(user)
	if err != nil {
		return err
	}
	defer unlock()
	_, err = h.root.Lstat(user)
	if err == nil {
		return nil // counted next time
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return homeError(err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.used[user] = counted{0, time.Now()}
	return nil
}

// known is what was counted of a person, if it was. Where other servers write documents too, a count soon is too old.
func (h *Home) known(user string) (used int64, known bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c, known := h.used[user]
	if h.opt.Lock != nil && time.Since(c.at) > countedFor {
		return c.bytes, false
	}
	return c.bytes, known
}

// countedFor is for how long what was counted of a person is believed beside other servers.
const countedFor = 10 * time.Second

// usage counts a person's documents the first time, and clears what a crash left half written.
func (h *Home) usage(root *os.Root, user string) (int64, error) {
	if used, known := h.known(user); known {
		return used, nil
	}
	unlock, err := h.lock(user)
	if err != nil {
		return 0, err
	}
	defer unlock()
	if err := clearScratch(root, time.Now()); err != nil {
		return 0, homeError(err)
	}
	list, err := readFolder(root, "", true, nil)
	if err != nil {
		return 0, homeError(err)
	}
	var used int64
	for _, e := range list {
		used += onDisk(e.Size) // a folder takes a block as well
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.used[user] = counted{used, time.Now()}
	return used, nil
}

// counted is what usage counted, 0 where it did not yet.
func (h *Home) counted(user string) int64 {
	used, _ := h.known(user)
	return used
}

// grow changes what a person uses, where it was counted. The person's lock is held.
func (h *Home) grow(user string, by int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c, known := h.used[user]; known {
		h.used[user] = counted{c.bytes + by, c.at}
	}
}

// halfWritten is how old a file in the scratch folder must be to count as left by a crash.
const halfWritten = 24 * time.Hour

func clearScratch(root *os.Root, now time.Time) error {
	f, err := root.Open(scratch)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	entries, err := f.ReadDir(-1)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) || err == nil && now.Sub(info.ModTime()) < halfWritten {
			continue
		}
		if err != nil {
			return err
		}
		if err := root.Remove(scratch + "/" + e.Name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
