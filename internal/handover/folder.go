package handover

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"sync/atomic"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/volume"
)

// What lies in a shared folder. Everything is below base, so that nothing else there is ever touched.
const (
	base     = "comfyume-handover"
	placeID  = base + "/place"   // the id that both sides read
	marks    = base + "/marks"   // fresh marks of Leave
	writers  = base + "/writers" // one file for each program that has put something here
	runs     = base + "/runs"    // a folder for each run
	manifest = "manifest.json"
	part     = ".part-" // begins the names of half-written files
)

// Modes inside the folder. The two sides are often different accounts (a container's root, squashed to nobody, and the
// studio's own), and each has to delete what the other made: who gets in is decided by the mode of the folder itself.
const (
	folderMode = 0o777
	fileMode   = 0o644
)

// settle is how long a network file system may show an old state of what the manifest lists: the longest time that
// Linux keeps attributes of files and folders by default (acregmax, acdirmax in nfs(5)), and a little more.
const settle = 65 * time.Second

// folder is a Place below a folder, usually of a network file system.
//
// The folder is opened anew for each step: what is mounted there may change under a program that runs for months, and
// over NFS an old handle goes stale.
type folder struct {
	dir    string
	log    *slog.Logger
	me     string       // among writers
	signed atomic.Int64 // when me was last written there, in Unix seconds
	hangs  atomic.Int32 // calls that were given up because the file system did not answer
}

var (
	_ Place   = (*folder)(nil)
	_ Prober  = (*folder)(nil)
	_ Sweeper = (*folder)(nil)
)

func newFolder(dir string, o Options) *folder { return &folder{dir: dir, log: o.Log, me: rand.Text()} }

// open opens the folder as it is mounted now.
func (f *folder) open() (*os.Root, error) {
	root, err := os.OpenRoot(f.dir)
	if err != nil {
		return nil, f.trouble("open the shared folder", err)
	}
	return root, nil
}

// ask runs a step with the folder open, again when a handle was stale. A network file system that does not answer holds a
// step for ever; ask then gives up soon after ctx has ended, and refuses others until the step is back.
func ask[T any](ctx context.Context, f *folder, step func(root *os.Root) (T, error)) (T, error) {
	var none T
	if err := ctx.Err(); err != nil {
		return none, context.Cause(ctx)
	}
	if f.hangs.Load() > 0 {
		return none, f.hanging(nil)
	}
	type answer struct {
		value T
		err   error
	}
	var state atomic.Int32 // 0: it runs; 1: whoever comes first, the step's end or who gives it up
	done := make(chan answer, 1)
	go func() {
		value, err := attempt(f, step)
		if state.CompareAndSwap(0, 1) {
			done <- answer{value, err}
			return
		}
		f.hangs.Add(-1)
		if c, ok := any(value).(io.Closer); ok && err == nil {
			if err := c.Close(); err != nil {
				f.log.Debug("close what came too late", "folder", f.dir, "err", err)
			}
		}
	}()
	select {
	case a := <-done:
		return a.value, a.err
	case <-ctx.Done():
	}
	late := time.NewTimer(hangAfter)
	defer late.Stop()
	select {
	case a := <-done:
		return a.value, a.err
	case <-late.C:
	}
	f.hangs.Add(1)
	if !state.CompareAndSwap(0, 1) {
		f.hangs.Add(-1)
		a := <-done
		return a.value, a.err
	}
	return none, f.hanging(context.Cause(ctx))
}

// hangAfter is how long a step may go on after its context has ended before it counts as hanging.
const hangAfter = 2 * time.Second

// attempt is a step with the folder open, tried again where the handle went stale.
func attempt[T any](f *folder, step func(root *os.Root) (T, error)) (T, error) {
	for again := 0; ; again++ {
		value, err := func() (T, error) {
			root, err := f.open()
			if err != nil {
				var none T
				return none, err
			}
			value, err := step(root)
			return value, errors.Join(err, root.Close())
		}()
		if !isStale(err) || again == staleTries {
			return value, err
		}
	}
}

// staleTries is how often a step is tried again after a stale handle, each time with the folder opened anew.
const staleTries = 3

// runFolder is where the outputs of a run are.
func runFolder(run string) string { return runs + "/" + run }

// fileName is what the output called name is called in a run's folder or below its prefix.
func fileName(name string) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:16])
}

// Put implements Place: a file beside, fsync, rename, fsync of the folder.
func (f *folder) Put(ctx context.Context, run, name string, r io.Reader) (Entry, error) {
	if err := errors.Join(checkRun(run), checkName(name)); err != nil {
		return Entry{}, err
	}
	e := Entry{Name: name}
	err := f.write(ctx, run, fileName(name), func(w io.Writer) (err error) {
		e.Size, e.SHA256, err = fill(ctx, w, r)
		return err
	})
	if err != nil {
		return Entry{}, err
	}
	f.sign(ctx)
	return e, nil
}

// write makes a file of a run: its bytes come from give, and it gets its name when it is whole and durable.
func (f *folder) write(ctx context.Context, run, name string, give func(io.Writer) error) (err error) {
	dir := runFolder(run)
	temp := part + rand.Text()
	file, err := ask(ctx, f, func(root *os.Root) (file *os.File, err error) {
		if err := makeFolders(root, dir); err != nil {
			return nil, f.trouble("make the folder of a run", err)
		}
		return file, f.trouble("make a file", within(root, dir, func(in *os.Root) error {
			file, err = in.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, fileMode)
			return err
		}))
	})
	if err != nil {
		return err
	}
	err = give(storeWriter{file, f})
	if err == nil {
		err = f.trouble("write a file", errors.Join(ignoreUnsupported(file.Chmod(fileMode)), file.Sync()))
	}
	err = errors.Join(err, f.trouble("close a file", file.Close()))
	if err == nil {
		_, err = ask(ctx, f, func(root *os.Root) (struct{}, error) {
			return struct{}{}, f.trouble("name a file", within(root, dir, func(in *os.Root) error {
				if err := in.Rename(temp, name); err != nil {
					return err
				}
				return syncFolder(in, ".")
			}))
		})
	}
	if err != nil {
		_, gone := ask(context.WithoutCancel(ctx), f, func(root *os.Root) (struct{}, error) {
			return struct{}{}, within(root, dir, func(in *os.Root) error { return ignoreMissing(in.Remove(temp)) })
		})
		if gone != nil { // Sweep finds it
			f.log.Debug("a half-written output stays", "folder", f.dir, "run", run, "err", gone)
		}
	}
	return err
}

// storeWriter tells the errors of the storage from those of who gives the bytes.
type storeWriter struct {
	file *os.File
	f    *folder
}

func (w storeWriter) Write(p []byte) (int, error) {
	n, err := w.file.Write(p)
	return n, w.f.trouble("write a file", err)
}

// within has f work in the folder dir, by whatever name it goes meanwhile.
func within(root *os.Root, dir string, f func(in *os.Root) error) error {
	in, err := OpenFolder(root, dir)
	if err != nil {
		return err
	}
	return errors.Join(f(in), in.Close())
}

// makeFolders makes dir and what is missing above it, for both sides to write to. The parts that exist already are left
// as they are.
func makeFolders(root *os.Root, dir string) error {
	var missing []string
	for at := dir; at != "."; at = path.Dir(at) {
		if _, err := root.Stat(at); err == nil {
			break
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		missing = append(missing, at)
	}
	for i := len(missing) - 1; i >= 0; i-- {
		err := root.Mkdir(missing[i], folderMode)
		if errors.Is(err, fs.ErrExist) { // the other side was quicker, and sees to its mode
			continue
		}
		if err != nil {
			return err
		}
		if err := errors.Join(ignoreUnsupported(root.Chmod(missing[i], folderMode)), syncFolder(root, path.Dir(missing[i]))); err != nil {
			return err
		}
	}
	return nil
}

// ignoreUnsupported forgives file systems without modes, such as SMB shares.
func ignoreUnsupported(err error) error {
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, fs.ErrPermission) {
		return nil
	}
	return err
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Delete implements Place. The manifest goes first: nobody must take what is left for a whole run.
func (f *folder) Delete(ctx context.Context, run string) error {
	if err := checkRun(run); err != nil {
		return err
	}
	_, err := ask(ctx, f, func(root *os.Root) (struct{}, error) {
		err := ignoreMissing(within(root, runFolder(run), func(in *os.Root) error { return ignoreMissing(in.Remove(manifest)) }))
		if err == nil || isNotPlain(err) { // a link in its place goes, and not what it leads to
			err = ignoreMissing(within(root, runs, func(in *os.Root) error { return in.RemoveAll(run) }))
		}
		return struct{}{}, f.trouble("delete a run", err)
	})
	return err
}

// trouble is what an error of the file system means to an operator.
func (f *folder) trouble(what string, err error) error {
	if err == nil {
		return nil
	}
	if _, known := errors.AsType[*fault.Error](err); known {
		return err
	}
	err = fmt.Errorf("%s: %w", what, err)
	switch {
	case volume.IsFull(err):
		return fault.Wrap(fault.Unavailable, err, "The shared folder %s is full.", f.dir).WithCode("disk_full").
			WithRemedy("Free some space there; what was being handed over is tried again.")
	case errors.Is(err, fs.ErrPermission), isReadOnly(err):
		return fault.Wrap(fault.Unavailable, err, "This account may not %s in the shared folder %s.", what, f.dir).
			WithCode("handover_readonly").
			WithRemedy("Give it the rights to read and write there (the guide's mode is 1777), and mount the share without ro.")
	case isStale(err):
		return fault.Wrap(fault.Unavailable, err, "The shared folder %s was changed at its server and has to be mounted again.", f.dir).
			WithCode("handover_stale").WithRemedy("Type: umount -l %s && mount %s", f.dir, f.dir)
	case errors.Is(err, fs.ErrNotExist) && what == "open the shared folder":
		return wrongMount(err, "The shared folder %s is not there.", f.dir)
	}
	return fault.Wrap(fault.Unavailable, err, "The shared folder %s can't be used: could not %s.", f.dir, what).
		WithCode("handover_trouble").WithRemedy("Look at its mount and at the log.")
}

func (f *folder) hanging(cause error) error {
	return fault.Wrap(fault.Unavailable, cause, "The shared folder %s does not answer.", f.dir).WithCode("handover_hangs").
		WithRemedy("See that its file server is up. Until then everything that touches the folder waits.")
}
