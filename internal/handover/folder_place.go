package handover

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
)

// signEvery is how often a program that writes says that it is there.
const signEvery = time.Hour

// sign says that this program writes here. It only helps to tell a wrong mount from a slow one, so trouble is no error.
func (f *folder) sign(ctx context.Context) {
	now, last := time.Now().Unix(), f.signed.Load()
	if now-last < int64(signEvery/time.Second) || !f.signed.CompareAndSwap(last, now) {
		return
	}
	_, err := ask(context.WithoutCancel(ctx), f, func(root *os.Root) (struct{}, error) {
		return struct{}{}, writeMark(root, writers, f.me)
	})
	if err != nil {
		f.signed.Store(last)
		f.log.Debug("the shared folder was not signed", "folder", f.dir, "err", err)
	}
}

// writeMark writes an empty file for the other side to see.
func writeMark(root *os.Root, dir, name string) error {
	if err := makeFolders(root, dir); err != nil {
		return err
	}
	return within(root, dir, func(in *os.Root) error {
		if err := ignoreMissing(in.Remove(name)); err != nil { // a link in its place would lead elsewhere
			return err
		}
		file, err := in.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, fileMode)
		if err != nil {
			return err
		}
		return errors.Join(file.Close(), in.Chtimes(name, time.Time{}, time.Now()), syncFolder(in, "."))
	})
}

// ID implements Prober. Of two programs that mark a new place at once one wins, and both read its id: the server makes
// the file only once.
func (f *folder) ID(ctx context.Context) (string, error) {
	return ask(ctx, f, func(root *os.Root) (string, error) {
		id, err := readID(root)
		if !errors.Is(err, fs.ErrNotExist) {
			return id, f.trouble("read the mark of the place", err)
		}
		if err := makeFolders(root, base); err != nil {
			return "", f.trouble("make a folder", err)
		}
		err = within(root, base, func(in *os.Root) error {
			temp, name := part+rand.Text(), path.Base(placeID)
			file, err := in.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, fileMode)
			if err != nil {
				return err
			}
			_, err = file.WriteString(rand.Text() + "\n")
			if err = errors.Join(err, ignoreUnsupported(file.Chmod(fileMode)), file.Sync(), file.Close()); err == nil {
				err = in.Link(temp, name)
				if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, fs.ErrPermission) { // no second names: SMB, some FUSE
					err = in.Rename(temp, name)
				}
			}
			if errors.Is(err, fs.ErrExist) {
				err = nil
			}
			return errors.Join(err, ignoreMissing(in.Remove(temp)), syncFolder(in, "."))
		})
		if err != nil {
			return "", f.trouble("mark the place", err)
		}
		id, err = readID(root)
		return id, f.trouble("read the mark of the place", err)
	})
}

func readID(root *os.Root) (string, error) {
	file, err := openWithin(root, placeID)
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(io.LimitReader(file, 1<<10))
	if err = errors.Join(err, file.Close()); err != nil {
		return "", err
	}
	id := strings.TrimSpace(string(text))
	if id == "" {
		return "", errors.New("its mark is empty")
	}
	return id, nil
}

// Leave implements Prober.
func (f *folder) Leave(ctx context.Context) (string, error) {
	token := rand.Text()
	_, err := ask(ctx, f, func(root *os.Root) (struct{}, error) {
		return struct{}{}, f.trouble("leave a mark", writeMark(root, marks, token))
	})
	return token, err
}

// Sees implements Prober.
func (f *folder) Sees(ctx context.Context, token string) error {
	if err := checkRun(token); err != nil { // it comes from the other side, and has the same letters
		return err
	}
	err := poll(ctx, func() (bool, error) {
		return ask(ctx, f, func(root *os.Root) (bool, error) {
			file, err := openWithin(root, marks+"/"+token)
			if errors.Is(err, fs.ErrNotExist) {
				return false, nil
			}
			if err == nil {
				err = file.Close()
			}
			return err == nil, f.trouble("look for a mark", err)
		})
	})
	if errors.Is(err, errWaited) {
		return wrongMount(context.Cause(ctx), "What the other side wrote does not appear in the shared folder %s.", f.dir)
	}
	return err
}

// diagnose says why a run's manifest did not come. The context of who asks has ended, so it has one of its own.
func (f *folder) diagnose(run string, cause error) error {
	ctx, cancel := context.WithTimeout(context.Background(), hangAfter)
	defer cancel()
	_, err := ask(ctx, f, func(root *os.Root) (struct{}, error) {
		list, err := list(root, runFolder(run))
		if err == nil {
			return struct{}{}, fault.Wrap(fault.Missing, cause, "The shared folder %s has %d files of the run, and no manifest yet.", f.dir, len(list)).
				WithCode("handover_unfinished").
				WithRemedy("The back end still writes or ended before it was done; a share that is mounted with a long actimeo shows it late.")
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return struct{}{}, f.trouble("look for a run", err)
		}
		if err := f.others(root, cause); err != nil {
			return struct{}{}, err
		}
		return struct{}{}, fault.Wrap(fault.Missing, cause, "The shared folder %s has nothing of the run, though back ends do write there.", f.dir).
			WithCode("handover_nothing").
			WithRemedy("Its back end did not come to writing, has another share mounted, or the share shows it late (actimeo): %s.", MountHint)
	})
	return err
}

// others says that no other program has ever written to the folder; nil: some did.
func (f *folder) others(root *os.Root, cause error) error {
	if _, err := root.Lstat(base); errors.Is(err, fs.ErrNotExist) {
		all, err := list(root, ".")
		what := "is empty"
		if err != nil || len(all) > 0 {
			what = "is no place of ComfyuME's"
		}
		return wrongMount(cause, "The shared folder %s %s: nothing is mounted there, or another disk than the back end's.", f.dir, what)
	}
	signed, err := list(root, writers)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return f.trouble("look who writes", err)
	}
	for _, e := range signed {
		if e.Name() != f.me {
			return nil
		}
	}
	return wrongMount(cause, "No back end has ever written to the shared folder %s: it is another disk than theirs, or they have not mounted it.", f.dir)
}

// maxListed bounds how much of a folder is read: anybody may write there.
const maxListed = 100_000

// list reads a folder.
func list(root *os.Root, dir string) ([]fs.DirEntry, error) {
	d, err := root.Open(dir)
	if err != nil {
		return nil, err
	}
	all, err := d.ReadDir(maxListed)
	return all, errors.Join(ignoreEnd(err), d.Close())
}

// Runs implements Place.
func (f *folder) Runs(ctx context.Context, olderThan time.Time) ([]string, error) {
	return ask(ctx, f, func(root *os.Root) ([]string, error) {
		all, err := list(root, runs)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		if err != nil {
			return nil, f.trouble("list the runs", err)
		}
		var old []string
		for _, e := range all {
			if !e.IsDir() || checkRun(e.Name()) != nil {
				continue
			}
			when, err := newest(root, runFolder(e.Name()))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, f.trouble("list the runs", err)
			}
			if err == nil && when.Before(olderThan) {
				old = append(old, e.Name())
			}
		}
		return old, nil
	})
}

// newest is when something in a folder changed last.
func newest(root *os.Root, dir string) (time.Time, error) {
	info, err := root.Stat(dir)
	if err != nil {
		return time.Time{}, err
	}
	last := info.ModTime()
	all, err := list(root, dir)
	for _, e := range all {
		if info, err := e.Info(); err == nil && info.ModTime().After(last) {
			last = info.ModTime()
		}
	}
	return last, err
}

// keepSigns is how much longer it is known who writes to a place: back ends may have nothing to do for weeks.
const keepSigns = 90 * 24 * time.Hour

// Sweep implements Sweeper.
func (f *folder) Sweep(ctx context.Context, olderThan time.Time) (int, error) {
	return ask(ctx, f, func(root *os.Root) (int, error) {
		gone := 0
		old := func(dir string, before time.Time, mine func(name string) bool) error {
			return ignoreMissing(within(root, dir, func(in *os.Root) error {
				all, err := list(in, ".")
				for _, e := range all {
					info, err := in.Lstat(e.Name())
					if err != nil || !info.Mode().IsRegular() || !mine(e.Name()) || !info.ModTime().Before(before) {
						continue
					}
					if err := ignoreMissing(in.Remove(e.Name())); err != nil {
						return err
					}
					gone++
				}
				return err
			}))
		}
		every, half := func(string) bool { return true }, func(name string) bool { return strings.HasPrefix(name, part) }
		errs := []error{
			old(marks, olderThan, every), old(writers, olderThan.Add(-keepSigns), every), old(base, olderThan, half),
		}
		all, err := list(root, runs)
		errs = append(errs, ignoreMissing(err))
		for _, e := range all {
			if e.IsDir() && checkRun(e.Name()) == nil {
				errs = append(errs, old(runFolder(e.Name()), olderThan, half))
			}
		}
		if err := errors.Join(errs...); err != nil {
			return gone, f.trouble("clear away what was left", fmt.Errorf("sweep: %w", err))
		}
		return gone, nil
	})
}
