package handover

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
)

// Loose is a shared folder that ComfyUI itself writes its outputs to: there is no manifest, and no hash to hold a file
// against. A file counts as whole when it was reported by ComfyUI, is there, and has not changed from one look to the
// next; it is looked at again when it was read. It is safe for concurrent use.
type Loose struct{ f *folder }

// OpenLoose opens the folder at a file:// address. Nothing is looked at before it is used.
func OpenLoose(address string, log *slog.Logger) (*Loose, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "file" || u.Host != "" || u.RawQuery != "" || !filepath.IsAbs(filepath.FromSlash(u.Path)) {
		return nil, fault.New(fault.Invalid, "ComfyUI itself writes its outputs to folders only.").WithCode("handover_address").
			WithRemedy("Write file:///mnt/sfs/outputs, the folder that its --output-directory names.")
	}
	return &Loose{newFolder(filepath.FromSlash(u.Path), Options{Log: log})}, nil
}

// stableFor is how long a file has to stay as it is. It is longer than NFS clients keep attributes of files that have
// just changed (acregmin, three seconds), so that two looks are two answers of the server.
const stableFor = 3500 * time.Millisecond

// Open waits until the file that ComfyUI reports as subfolder and name is there and stable, and opens it. What is read is
// refused at the end (code handover_damaged) where the file changed meanwhile. ctx bounds the waiting: Missing says how it
// looks then, as Place.Manifest does. A file whose state was written longer ago than settle is taken as it is.
func (l *Loose) Open(ctx context.Context, subfolder, name string) (io.ReadCloser, error) {
	at, err := looseName(subfolder, name)
	if err != nil {
		return nil, err
	}
	var file *os.File
	var seen fs.FileInfo
	var since time.Time
	err = poll(ctx, func() (bool, error) {
		now, err := ask(ctx, l.f, func(root *os.Root) (*os.File, error) { return openWithin(root, at) })
		if errors.Is(err, fs.ErrNotExist) || isStale(err) {
			seen = nil
			return false, nil
		}
		if err != nil {
			return false, l.f.trouble("open an output", err)
		}
		info, err := now.Stat()
		if err != nil {
			return false, errors.Join(l.f.trouble("open an output", err), now.Close())
		}
		if !same(seen, info) {
			seen, since = info, time.Now()
		}
		if old := time.Since(info.ModTime()); time.Since(since) >= stableFor || old > settle && old < oldest {
			file = now
			return true, nil
		}
		return false, l.f.trouble("close an output", now.Close())
	})
	if errors.Is(err, errWaited) {
		if seen != nil {
			return nil, fault.Wrap(fault.Missing, context.Cause(ctx), "The output %.80q is still being written in the shared folder %s.", name, l.f.dir).
				WithCode("handover_unfinished").WithRemedy("Wait, and see whether the back end's disk or network is slow.")
		}
		return nil, l.diagnose(at, context.Cause(ctx))
	}
	if err != nil {
		return nil, err
	}
	return &looseFile{l: l, at: at, file: file, first: seen}, nil
}

// OpenWithin opens the file rel of a folder that others write to. A link is never followed out of the first folder of
// rel, the run's own, nor at its end, and what is no plain file is refused: whoever writes there must not have the studio
// deliver its own files, or other people's.
func OpenWithin(dir, rel string) (*os.File, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	file, err := openWithin(root, filepath.ToSlash(rel))
	return file, errors.Join(err, root.Close())
}

func openWithin(root *os.Root, at string) (*os.File, error) {
	top, rest, inside := strings.Cut(at, "/")
	if !inside {
		return openFresh(root, at)
	}
	run, err := root.OpenRoot(top)
	if err != nil {
		return nil, err
	}
	file, err := func() (*os.File, error) {
		is, err := run.Stat(".")
		if err != nil {
			return nil, err
		}
		named, err := root.Lstat(top)
		if err != nil {
			return nil, err
		}
		if !os.SameFile(is, named) { // it is a link to another folder, or was changed just now
			return nil, notPlain(top)
		}
		return openFresh(run, rest)
	}()
	return file, errors.Join(err, run.Close())
}

// oldest bounds which clock of a file server is believed.
const oldest = 10 * 365 * 24 * time.Hour

func same(a, b fs.FileInfo) bool {
	return a != nil && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// looseName is where a file is that ComfyUI reports. Windows' ComfyUI reports back-slashes.
func looseName(subfolder, name string) (string, error) {
	at := path.Join(strings.ReplaceAll(subfolder, `\`, "/"), name)
	if name == "" || strings.ContainsAny(name, `/\`) || !filepath.IsLocal(filepath.FromSlash(at)) || strings.Contains(at, "\x00") {
		return "", fault.New(fault.Invalid, "The back end reports an output %.80q in %.80q, which leads out of its folder.", name, subfolder).
			WithCode("handover_entry").WithRemedy("Look what that back end runs.")
	}
	return at, nil
}

// diagnose says why a file did not come.
func (l *Loose) diagnose(at string, cause error) error {
	ctx, cancel := context.WithTimeout(context.Background(), hangAfter)
	defer cancel()
	f := l.f
	_, err := ask(ctx, f, func(root *os.Root) (struct{}, error) {
		all, err := list(root, ".")
		if err != nil {
			return struct{}{}, f.trouble("look into the shared folder", err)
		}
		if len(all) == 0 {
			return struct{}{}, wrongMount(cause, "The shared folder %s is empty: nothing is mounted there, or another disk than the back end's.", f.dir)
		}
		return struct{}{}, fault.Wrap(fault.Missing, cause, "The output %.80q does not appear in the shared folder %s.", at, f.dir).
			WithCode("handover_nothing").
			WithRemedy("See that ComfyUI was started with --output-directory on that share, and that both sides mount the same: %s.", MountHint)
	})
	return err
}

// Delete deletes files that were taken, and the folder when it is empty then; subfolder "" is the folder itself, which
// stays. What is not there is no error.
func (l *Loose) Delete(ctx context.Context, subfolder string, names ...string) error {
	_, err := ask(ctx, l.f, func(root *os.Root) (struct{}, error) {
		for _, name := range names {
			at, err := looseName(subfolder, name)
			if err == nil {
				err = l.f.trouble("delete an output", ignoreMissing(root.Remove(at)))
			}
			if err != nil {
				return struct{}{}, err
			}
		}
		if dir := path.Clean(strings.ReplaceAll(subfolder, `\`, "/")); dir != "." && filepath.IsLocal(filepath.FromSlash(dir)) {
			if left, err := list(root, dir); err == nil && len(left) == 0 {
				return struct{}{}, l.f.trouble("delete a folder", ignoreMissing(root.Remove(dir)))
			}
		}
		return struct{}{}, nil
	})
	return err
}

// looseFile reads a file and looks at its end whether it stayed as it was.
type looseFile struct {
	l     *Loose
	at    string
	file  *os.File
	first fs.FileInfo
	n     int64
	err   error
}

func (r *looseFile) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	left := r.first.Size() - r.n
	if left == 0 {
		r.err = r.end()
		return 0, r.err
	}
	n, err := r.file.Read(p[:min(int64(len(p)), left)])
	r.n += int64(n)
	if err == io.EOF {
		err = r.changed()
	} else {
		err = r.l.f.trouble("read an output", err)
	}
	r.err = err
	return n, err
}

func (r *looseFile) changed() error {
	return fault.New(fault.Unavailable, "The output %.80q was changed while it was read.", path.Base(r.at)).WithCode("handover_damaged").
		WithRemedy("It is fetched again; if that does not help, two runs write the same name.")
}

// end says whether the file is still what was opened: another one under the same name counts as a change.
func (r *looseFile) end() error {
	root, err := r.l.f.open()
	if err != nil {
		return err
	}
	now, err := root.Lstat(r.at)
	if err := errors.Join(err, root.Close()); err != nil {
		return r.l.f.trouble("look at an output again", err)
	}
	if !same(r.first, now) {
		return r.changed()
	}
	return io.EOF
}

func (r *looseFile) Close() error { return r.file.Close() }
