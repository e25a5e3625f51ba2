package workspace

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/file"
)

// scratch is the folder in each person's own where documents are written before they get their name. No document
// can be in it.
const scratch = ".comfyume"

// HomeOptions are the bounds of documents. The zero value bounds nothing.
type HomeOptions struct {
	Upload int64 // most bytes of one document; 0: no bound
	Quota  int64 // most bytes a person may keep; 0: no bound

	// Room says whether the disk has room to spare; nil: always. It is not asked for the first MiB of a document:
	// nobody shall lose a workflow because others filled the disk up to what is kept free.
	Room func(ctx context.Context) error
	// Elsewhere says how much of a person's quota is used by other things than documents; nil: nothing.
	Elsewhere func(ctx context.Context, user string) (int64, error)
	// Lock makes this server the only one that changes a person's documents, until unlock is called. It may wait for
	// another one. Nil: no other server uses the folder.
	Lock func(user string) (unlock func(), err error)
}

// Home holds the documents of all people: one folder each, with what ComfyUI calls userdata, and the settings. It
// is safe for concurrent use. One server at a time may use a folder, or several with HomeOptions.Lock; what one has
// written the others then find at once, and the bytes that a person uses within seconds.
type Home struct {
	root  *os.Root
	opt   HomeOptions
	folds bool // the file system takes names that are spelled differently for the same
	seed  maphash.Seed
	locks [64]sync.Mutex // by person: who changes a person's documents holds one

	mu   sync.Mutex
	used map[string]counted // by person, counted when first needed
}

// counted is how many bytes a person uses, and since when that is known.
type counted struct {
	bytes int64
	at    time.Time
}

// OpenHome opens the folder of people's documents, and makes it when it is missing.
func OpenHome(dir string, o HomeOptions) (*Home, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of documents: %w", homeError(err))
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open the folder of documents: %w", homeError(err))
	}
	h := &Home{root: root, opt: o, seed: maphash.MakeSeed(), used: map[string]counted{}}
	if h.folds, err = foldsNames(root); err != nil {
		return nil, errors.Join(fmt.Errorf("try the folder of documents: %w", homeError(err)), root.Close())
	}
	return h, nil
}

// Close closes the folder. Documents that are open stay open.
func (h *Home) Close() error { return h.root.Close() }

// lock makes the caller the only one who changes the person's documents, until it calls unlock.
func (h *Home) lock(user string) (unlock func(), err error) {
	mu := &h.locks[maphash.String(h.seed, user)%uint64(len(h.locks))]
	mu.Lock()
	if h.opt.Lock == nil {
		return mu.Unlock, nil
	}
	release, err := h.opt.Lock(user)
	if err != nil {
		mu.Unlock()
		return nil, err
	}
	return func() {
		release()
		mu.Unlock()
	}, nil
}

// open opens a person's folder. Without create a folder that is missing gives fs.ErrNotExist.
func (h *Home) open(user string, create bool) (*os.Root, error) {
	if err := checkUser(user); err != nil {
		return nil, err
	}
	root, err := h.root.OpenRoot(user)
	if !create || !errors.Is(err, fs.ErrNotExist) {
		return root, err
	}
	if err := h.root.Mkdir(user, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	if err := syncFolder(h.root, "."); err != nil {
		return nil, err
	}
	return h.root.OpenRoot(user)
}

// document checks the path of a document.
func document(p string) (string, error) {
	clean, err := file.CleanPath("The path", p)
	if err != nil {
		return "", err
	}
	if clean == "" {
		return "", fault.New(fault.Invalid, "The path is empty.").WithCode(file.CodeBadName)
	}
	return clean, notScratch(clean)
}

func notScratch(clean string) error {
	if first, _, _ := strings.Cut(clean, "/"); strings.EqualFold(first, scratch) {
		return fault.New(fault.Invalid, "The folder %s is the studio's own.", scratch).WithCode(file.CodeOutside)
	}
	return nil
}

// ListUserdata lists a folder of user's documents, files and folders, with everything below when recurse is set,
// in order of their paths, which are relative to the person's root. An empty dir is the root, which is always
// there. Links are left out. Missing: there is no such folder. Invalid: dir is a file, or leads out of the
// person's folder (code file.CodeOutside).
func (h *Home) ListUserdata(user, dir string, recurse bool) (list []file.Entry, err error) {
	dir, err = file.CleanPath("The folder", dir)
	if err == nil {
		err = notScratch(dir)
	}
	if err != nil {
		return nil, err
	}
	root, err := h.open(user, false)
	if errors.Is(err, fs.ErrNotExist) && dir == "" {
		return nil, nil
	}
	if err != nil {
		return nil, homeError(err)
	}
	defer closeAfter(root, &err)
	list, err = readFolder(root, dir, recurse, nil)
	if err != nil {
		return nil, homeError(err)
	}
	slices.SortFunc(list, func(a, b file.Entry) int { return strings.Compare(a.Path, b.Path) })
	return list, nil
}

func readFolder(root *os.Root, dir string, recurse bool, list []file.Entry) (_ []file.Entry, err error) {
	f, err := root.Open(cmp.Or(dir, "."))
	if err != nil {
		return nil, err
	}
	entries, err := f.ReadDir(-1)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	for _, e := range entries {
		if dir == "" && strings.EqualFold(e.Name(), scratch) || !e.IsDir() && !e.Type().IsRegular() {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // it went meanwhile
		}
		if err != nil {
			return nil, err
		}
		entry := entryOf(path.Join(dir, e.Name()), info)
		list = append(list, entry)
		if recurse && entry.Dir {
			if list, err = readFolder(root, entry.Path, true, list); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
		}
	}
	return list, nil
}

// entryOf describes a document. Every save makes a new file, so that it was created when it was changed, as
// ComfyUI's own answers say as well.
func entryOf(p string, info fs.FileInfo) file.Entry {
	e := file.Entry{Path: p, Size: info.Size(), Modified: info.ModTime(), Created: info.ModTime(), Dir: info.IsDir()}
	if e.Dir {
		e.Size = 0
	}
	return e
}

// OpenUserdata opens a document of user; its reader is an *os.File. Missing: there is no such document. Invalid:
// the path is a folder, or leads out of the person's folder (code file.CodeOutside).
func (h *Home) OpenUserdata(user, p string) (_ file.Entry, _ io.ReadSeekCloser, err error) {
	p, err = document(p)
	if err != nil {
		return file.Entry{}, nil, err
	}
	root, err := h.open(user, false)
	if err != nil {
		return file.Entry{}, nil, homeError(err)
	}
	defer closeAfter(root, &err)
	// What is no file is found before it is opened: opening a pipe would wait for its other end.
	if info, err := root.Stat(p); err != nil {
		return file.Entry{}, nil, homeError(err)
	} else if !info.Mode().IsRegular() {
		return file.Entry{}, nil, errFolder()
	}
	f, err := root.Open(p)
	if err != nil {
		return file.Entry{}, nil, homeError(err)
	}
	info, err := f.Stat()
	if err != nil {
		return file.Entry{}, nil, errors.Join(homeError(err), f.Close())
	}
	return entryOf(p, info), f, nil
}

// DeleteUserdata deletes a document of user. Missing: there is no such document. Invalid: it is a folder.
func (h *Home) DeleteUserdata(user, p string) (err error) {
	p, err = document(p)
	if err != nil {
		return err
	}
	root, err := h.open(user, false)
	if err != nil {
		return homeError(err)
	}
	defer closeAfter(root, &err)
	unlock, err := h.lock(user)
	if err != nil {
		return err
	}
	defer unlock()
	info, err := root.Lstat(p)
	if err != nil {
		return homeError(err)
	}
	if info.IsDir() {
		return errFolder()
	}
	if err := h.spelled(root, p); err != nil {
		return err
	}
	if err := root.Remove(p); err != nil {
		return homeError(err)
	}
	h.grow(user, -onDisk(info.Size()))
	return homeError(syncFolder(root, path.Dir(p)))
}

// MoveUserdata gives a document or folder of user another path. Conflict: there is something already and overwrite
// is false, or one of the two is a folder. Missing: there is nothing to move.
func (h *Home) MoveUserdata(user, from, to string, overwrite bool) (_ file.Entry, err error) {
	from, err = document(from)
	if err != nil {
		return file.Entry{}, err
	}
	if to, err = document(to); err != nil {
		return file.Entry{}, err
	}
	root, err := h.open(user, false)
	if err != nil {
		return file.Entry{}, homeError(err)
	}
	defer closeAfter(root, &err)
	unlock, err := h.lock(user)
	if err != nil {
		return file.Entry{}, err
	}
	defer unlock()
	info, err := root.Lstat(from)
	if err != nil {
		return file.Entry{}, homeError(err)
	}
	if info.IsDir() && strings.HasPrefix(to+"/", from+"/") && from != to {
		return file.Entry{}, fault.New(fault.Invalid, "A folder can't be moved into itself.").WithCode(file.CodeBadName)
	}
	old, err := root.Lstat(to)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		old = nil
	case err != nil:
		return file.Entry{}, homeError(err)
	case os.SameFile(info, old):
		if !overwrite && from == to {
			return file.Entry{}, errExists()
		}
		old = nil // the same name, perhaps spelled in another way
	case !overwrite || info.IsDir() || old.IsDir():
		return file.Entry{}, errExists()
	default:
		if err := h.spelled(root, to); err != nil {
			return file.Entry{}, err
		}
	}
	if err := rename(root, from, to); err != nil {
		return file.Entry{}, homeError(err)
	}
	if old != nil {
		h.grow(user, -onDisk(old.Size()))
	}
	return entryOf(to, info), nil
}

// rename moves from to to, durably.
func rename(root *os.Root, from, to string) error {
	if err := makeFolder(root, path.Dir(to)); err != nil {
		return err
	}
	if err := root.Rename(from, to); err != nil {
		return err
	}
	if err := syncFolder(root, path.Dir(to)); err != nil || path.Dir(to) == path.Dir(from) {
		return err
	}
	return syncFolder(root, path.Dir(from))
}

// makeFolder makes dir and what is missing above it, durably.
func makeFolder(root *os.Root, dir string) error {
	if info, err := root.Stat(dir); err == nil && info.IsDir() {
		return nil
	}
	if err := root.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for dir != "." {
		dir = path.Dir(dir)
		if err := syncFolder(root, dir); err != nil {
			return err
		}
	}
	return nil
}

// ForgetDocuments deletes every document of user: the account is gone.
func (h *Home) ForgetDocuments(user string) error {
	if err := checkUser(user); err != nil {
		return err
	}
	unlock, err := h.lock(user)
	if err != nil {
		return err
	}
	defer unlock()
	h.mu.Lock()
	delete(h.used, user)
	h.mu.Unlock()
	if err := h.root.RemoveAll(user); err != nil {
		return fmt.Errorf("delete the documents of %s: %w", user, err)
	}
	return nil
}

// closeAfter closes root and keeps its error where there is no other.
func closeAfter(root *os.Root, err *error) {
	if e := root.Close(); e != nil && *err == nil {
		*err = e
	}
}

// stampAfter is the time of a document that replaces one of old: later by a millisecond at least, so that an
// editor that compares times sees the change.
func stampAfter(old fs.FileInfo, now time.Time) (time.Time, bool) {
	if old == nil {
		return now, false
	}
	if next := old.ModTime().Truncate(time.Millisecond).Add(time.Millisecond); now.Before(next) {
		return next, true
	}
	return now, false
}
