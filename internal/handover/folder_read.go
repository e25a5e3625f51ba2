package handover

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
)

// index is what a manifest file holds.
type index struct {
	Format  int     `json:"format"` // 1
	Run     string  `json:"run"`
	Entries []Entry `json:"entries"`
}

// encodeIndex makes the text of a manifest.
func encodeIndex(run string, entries []Entry) ([]byte, error) {
	seen := make(map[string]bool, len(entries))
	for _, e := range entries {
		if err := e.check(); err != nil {
			return nil, err
		}
		if seen[e.Name] {
			return nil, fault.New(fault.Invalid, "The output %.80q is there twice.", e.Name).WithCode("handover_entry")
		}
		seen[e.Name] = true
	}
	if len(entries) > maxEntries {
		return nil, fault.New(fault.Invalid, "A run left %d outputs; %d are taken.", len(entries), maxEntries).WithCode("handover_entry")
	}
	if entries == nil {
		entries = []Entry{}
	}
	text, err := json.Marshal(index{Format: 1, Run: run, Entries: entries})
	if err == nil && len(text) > maxManifest {
		err = fault.New(fault.Invalid, "The manifest of a run has %d bytes; %d are taken.", len(text), maxManifest).WithCode("handover_entry")
	}
	return text, err
}

// errPartial says that a manifest is not whole yet. It is renamed into place whole, but a cache may show less.
var errPartial = errors.New("the manifest is not whole")

// decodeIndex reads a manifest that anybody may have written.
func decodeIndex(run string, r io.Reader) ([]Entry, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxManifest+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxManifest {
		return nil, fault.New(fault.Invalid, "The manifest of a run is larger than %d bytes.", maxManifest).WithCode("handover_entry")
	}
	var i index
	if err := json.Unmarshal(text, &i); err != nil {
		return nil, fmt.Errorf("%w: %w", errPartial, err)
	}
	if i.Format != 1 || i.Run != run {
		return nil, fault.New(fault.Invalid, "The manifest is of format %d and run %.40q; it should be of format 1 and run %q.", i.Format, i.Run, run).
			WithCode("handover_entry").WithRemedy("Run the same version of ComfyuME on both sides.")
	}
	if _, err := encodeIndex(run, i.Entries); err != nil {
		return nil, err
	}
	return i.Entries, nil
}

// Seal implements Place.
func (f *folder) Seal(ctx context.Context, run string, entries []Entry) error {
	if err := checkRun(run); err != nil {
		return err
	}
	text, err := encodeIndex(run, entries)
	if err != nil {
		return err
	}
	_, err = ask(ctx, f, func(root *os.Root) (struct{}, error) {
		for _, e := range entries {
			info, err := root.Lstat(runFolder(run) + "/" + fileName(e.Name))
			if err != nil {
				return struct{}{}, f.trouble("find an output again", err)
			}
			if !info.Mode().IsRegular() || info.Size() != e.Size {
				return struct{}{}, damaged(e, "it has %d bytes of %d", info.Size(), e.Size)
			}
		}
		return struct{}{}, nil
	})
	if err != nil {
		return err
	}
	err = f.write(ctx, run, manifest, func(w io.Writer) error {
		_, err := io.Copy(w, bytes.NewReader(text))
		return err
	})
	if err == nil {
		f.sign(ctx)
	}
	return err
}

// Manifest implements Place.
func (f *folder) Manifest(ctx context.Context, run string) ([]Entry, error) {
	if err := checkRun(run); err != nil {
		return nil, err
	}
	var entries []Entry
	err := poll(ctx, func() (bool, error) {
		file, err := ask(ctx, f, func(root *os.Root) (*os.File, error) {
			return openWithin(root, runFolder(run)+"/"+manifest)
		})
		if err == nil {
			entries, err = decodeIndex(run, file)
			err = errors.Join(err, file.Close())
		}
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errPartial) || isStale(err) {
			return false, nil
		}
		return err == nil, f.trouble("read a manifest", err)
	})
	if err == nil || !errors.Is(err, errWaited) {
		return entries, err
	}
	return nil, f.diagnose(run, context.Cause(ctx))
}

// Open implements Place.
func (f *folder) Open(ctx context.Context, run string, e Entry) (io.ReadCloser, error) {
	if err := errors.Join(checkRun(run), e.check()); err != nil {
		return nil, err
	}
	name := runFolder(run) + "/" + fileName(e.Name)
	open := func(ctx context.Context) (*os.File, error) {
		return ask(ctx, f, func(root *os.Root) (*os.File, error) {
			file, err := openWithin(root, name)
			if err != nil {
				return nil, err
			}
			info, err := file.Stat()
			if err == nil && info.Size() != e.Size {
				err = damaged(e, "it has %d bytes of %d", info.Size(), e.Size)
			}
			if err != nil {
				return nil, errors.Join(err, file.Close())
			}
			return file, nil
		})
	}
	waiting, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	var file *os.File
	var last error
	err := poll(waiting, func() (bool, error) {
		now, err := open(waiting)
		if err != nil && waiting.Err() != nil && errors.Is(err, context.Cause(waiting)) {
			return false, nil // what it was before says more
		}
		file, last = now, err
		if errors.Is(last, fs.ErrNotExist) || isStale(last) || isDamaged(last) { // a cache may show what was
			return false, nil
		}
		return last == nil, f.trouble("open an output", last)
	})
	switch {
	case err == nil:
	case !errors.Is(err, errWaited):
		return nil, asTrouble(err)
	case ctx.Err() != nil && (last == nil || errors.Is(last, fs.ErrNotExist)):
		return nil, errors.Join(context.Cause(ctx), last)
	case errors.Is(last, fs.ErrNotExist):
		return nil, asTrouble(f.absent(run, e, last))
	default:
		return nil, f.trouble("open an output", last)
	}
	reopen := func(at int64) (io.ReadCloser, error) {
		file, err := open(ctx)
		if err != nil {
			return nil, f.trouble("open an output again", err)
		}
		if _, err := file.Seek(at, io.SeekStart); err != nil {
			return nil, errors.Join(f.trouble("read an output", err), file.Close())
		}
		return file, nil
	}
	return &checkedFile{newChecked(e, file, reopen, isStale)}, nil
}

// absent says why an output that was put is not there: its run as a whole is not, or it alone.
func (f *folder) absent(run string, e Entry, cause error) error {
	err := f.diagnose(run, cause)
	if d, ok := errors.AsType[*fault.Error](err); !ok || d.Code != "handover_unfinished" {
		return err
	}
	return fault.Wrap(fault.Missing, cause, "The output %.80q is not in the shared folder %s, though others of its run are.", e.Name, f.dir).
		WithCode("handover_nothing").WithRemedy("Somebody deleted it; look who else writes there.")
}

// openFresh opens a plain file. Its folder is listed first: that makes an NFS client ask the server for the folder's
// state, where a mere look for the name is answered from the memory that it was not there (up to acdirmax, a minute).
// What is no plain file, or is a link to one, is refused.
func openFresh(root *os.Root, name string) (*os.File, error) {
	dir, err := root.Open(path.Dir(name))
	if err != nil {
		return nil, err
	}
	_, err = dir.ReadDir(1)
	if err := errors.Join(ignoreEnd(err), dir.Close()); err != nil {
		return nil, err
	}
	return openPlain(root, name)
}

func openPlain(root *os.Root, name string) (*os.File, error) {
	before, err := root.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !before.Mode().IsRegular() {
		return nil, notPlain(name)
	}
	file, err := root.OpenFile(name, readFlags, 0)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = notPlain(name)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

func notPlain(name string) error {
	return fault.New(fault.Invalid, "%q in the shared folder is a link or something else that does not belong there.", path.Base(name)).
		WithCode("handover_entry").WithRemedy("Look who else writes to that folder.")
}

func isDamaged(err error) bool { return hasCode(err, "handover_damaged") }

// isNotPlain reports whether err is of a link, or of something else, where a file or folder had to be.
func isNotPlain(err error) bool { return hasCode(err, "handover_entry") }

func hasCode(err error, code string) bool {
	e, ok := errors.AsType[*fault.Error](err)
	return ok && e.Code == code
}

func ignoreEnd(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}

// errWaited is what poll returns when its context ended before the look succeeded.
var errWaited = errors.New("waited in vain")

// Pauses between looks: no notice of a change comes from another machine, so it has to be looked for.
const (
	firstPause = 30 * time.Millisecond
	longPause  = 2 * time.Second
)

// poll calls look until it is done or has an error, or ctx ends: at once, soon again, and less often later.
func poll(ctx context.Context, look func() (bool, error)) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for pause := firstPause; ; pause = min(2*pause, longPause) {
		select {
		case <-ctx.Done():
			return errWaited
		case <-timer.C:
		}
		done, err := look()
		if done {
			return nil
		}
		if err != nil {
			if ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) {
				return errWaited
			}
			return err
		}
		timer.Reset(pause)
	}
}
