package balanced

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/handover"
)

// shelf is the shared folder as it is mounted here. Network disks show what others wrote late, and hand out handles
// that go stale: so a file counts when it was read twice alike.
type shelf struct {
	outputs string
	inputs  string // empty: inputs are not shared
	log     *slog.Logger
	open    func(name string) (fs.File, error) // of a file in outputs
}

func newShelf(outputs, inputs string, o Options) *shelf {
	open := func(name string) (fs.File, error) {
		rel, err := filepath.Rel(outputs, name)
		if err != nil {
			return nil, err
		}
		file, err := handover.OpenWithin(outputs, rel) // replicas may leave links to anywhere
		if err != nil {
			return nil, err
		}
		return file, nil
	}
	return &shelf{outputs: outputs, inputs: inputs, log: o.Log, open: open}
}

// ready reports that the folders are there.
func (s *shelf) ready() error {
	for what, dir := range map[string]string{"outputs": s.outputs, "inputs": s.inputs} {
		if dir == "" {
			continue
		}
		if info, err := os.Stat(dir); err != nil || !info.IsDir() {
			return fault.Wrap(fault.Unavailable, err, "The shared folder of %s, %s, is not there.", what, dir).
				WithRemedy("Mount it here, at the path that backends.storage names.")
		}
	}
	return nil
}

// stored is a file of a run on the shelf.
type stored struct {
	ref  backend.FileRef
	size int64
	when time.Time
}

// files lists what is in the folders of a run now.
func (s *shelf) files(runID string) []stored {
	tops, err := filepath.Glob(filepath.Join(s.outputs, backend.RunFolders(runID)+"*"))
	if err != nil {
		return nil // run ids are no patterns
	}
	var all []stored
	for _, top := range tops {
		_ = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return nil // it is being written: what is not seen now is seen at the next look
			}
			info, err := d.Info()
			rel, err2 := filepath.Rel(s.outputs, filepath.Dir(path))
			if err != nil || err2 != nil || !info.Mode().IsRegular() || strings.HasPrefix(d.Name(), ".") {
				return nil
			}
			ref := backend.FileRef{Filename: d.Name(), Subfolder: filepath.ToSlash(rel), Type: "output"}
			all = append(all, stored{ref, info.Size(), info.ModTime()})
			return nil
		})
	}
	slices.SortFunc(all, func(a, b stored) int {
		return strings.Compare(a.ref.Subfolder+"/"+a.ref.Filename, b.ref.Subfolder+"/"+b.ref.Filename)
	})
	return all
}

// path returns where a file of a run lies. It is in a folder of the run's: names does not let others through.
func (s *shelf) path(f backend.FileRef) (string, error) {
	rel := filepath.Join(filepath.FromSlash(strings.ReplaceAll(f.Subfolder, `\`, "/")), f.Filename)
	if !filepath.IsLocal(rel) || f.Filename != filepath.Base(rel) {
		return "", fault.New(fault.Missing, "%q is not the name of an output.", f.Filename)
	}
	return filepath.Join(s.outputs, rel), nil
}

// errUnsettled says that a file is there and not yet to be trusted.
var errUnsettled = errors.New("the file is still changing, or its end has not arrived")

// read opens a file once it was read to its end twice alike, and looks whole: then the one who wrote it is done, and all
// of it has arrived. Stale handles are opened again.
func (s *shelf) read(ctx context.Context, f backend.FileRef) (io.ReadCloser, error) {
	name, err := s.path(f)
	if err != nil {
		return nil, err
	}
	first, size, err := s.digest(name)
	if err != nil {
		return nil, err
	}
	pause := time.NewTimer(20 * time.Millisecond)
	defer pause.Stop()
	select {
	case <-pause.C:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	second, _, err := s.digest(name)
	if err != nil {
		return nil, err
	}
	if first != second {
		return nil, errUnsettled
	}
	file, err := s.open(name)
	if err != nil {
		return nil, err
	}
	return &verified{File: file, sum: sha256.New(), want: first, left: size, again: s.open, name: name}, nil
}

// digest reads a file to its end. A stale handle is opened again.
func (s *shelf) digest(name string) (sum [32]byte, size int64, err error) {
	for range 3 {
		if sum, size, err = s.digestOnce(name); !errors.Is(err, syscall.ESTALE) {
			break
		}
	}
	return sum, size, err
}

func (s *shelf) digestOnce(name string) (sum [32]byte, size int64, err error) {
	file, err := s.open(name)
	if err != nil {
		return sum, 0, err
	}
	defer file.Close() //nolint:errcheck // it was read
	before, err := file.Stat()
	if err != nil {
		return sum, 0, err
	}
	h := sha256.New()
	var ends ending
	size, err = io.Copy(io.MultiWriter(h, &ends), file)
	if err != nil {
		return sum, 0, err
	}
	if size == 0 || size != before.Size() || ends.whole() == cut {
		return sum, 0, errUnsettled
	}
	return [32]byte(h.Sum(nil)), size, nil
}

// verified is a file that has to be what it was. Its handle may go stale on the way.
type verified struct {
	fs.File
	sum interface {
		io.Writer
		Sum([]byte) []byte
	}
	want  [32]byte
	left  int64
	read  int64
	again func(string) (fs.File, error)
	name  string
}

// Read reads on. At the end it reports what is not as it was when it was looked at.
func (v *verified) Read(p []byte) (int, error) {
	n, err := v.File.Read(p)
	if errors.Is(err, syscall.ESTALE) && n == 0 {
		if err = v.reopen(); err == nil {
			n, err = v.File.Read(p)
		}
	}
	v.sum.Write(p[:n]) //nolint:errcheck // a digest takes everything
	v.read += int64(n)
	if errors.Is(err, io.EOF) && (v.read != v.left || [32]byte(v.sum.Sum(nil)) != v.want) {
		return n, fmt.Errorf("%w: a file in the shared folder changed while it was read", backend.ErrUnreachable)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("%w: %w", backend.ErrUnreachable, err)
	}
	return n, err
}

func (v *verified) reopen() error {
	file, err := v.again(v.name)
	if err != nil {
		return err
	}
	v.File.Close() //nolint:errcheck // it is stale
	v.File = file
	_, err = io.CopyN(io.Discard, file, v.read)
	return err
}

// wholeness is what a file's bytes say about their being all.
type wholeness uint8

const (
	unknown wholeness = iota // its format does not say
	whole
	cut
)

// ending looks at the beginning and the end of a file that is written to it.
type ending struct {
	head, tail []byte
	size       int64
}

func (e *ending) Write(p []byte) (int, error) {
	if room := 16 - len(e.head); room > 0 {
		e.head = append(e.head, p[:min(room, len(p))]...)
	}
	e.size += int64(len(p))
	e.tail = append(e.tail, p[max(0, len(p)-16):]...)
	e.tail = e.tail[max(0, len(e.tail)-16):]
	return len(p), nil
}

// whole reads PNG, JPEG and RIFF (WebP, WAV), which say where they end.
func (e *ending) whole() wholeness {
	is := func(ok bool) wholeness {
		if ok {
			return whole
		}
		return cut
	}
	switch {
	case bytes.HasPrefix(e.head, []byte("\x89PNG\r\n\x1a\n")):
		return is(bytes.HasSuffix(e.tail, []byte("IEND\xaeB`\x82")))
	case bytes.HasPrefix(e.head, []byte{0xff, 0xd8, 0xff}):
		return is(bytes.HasSuffix(e.tail, []byte{0xff, 0xd9}))
	case bytes.HasPrefix(e.head, []byte("RIFF")) && len(e.head) >= 8:
		n := int64(binary.LittleEndian.Uint32(e.head[4:8])) + 8
		return is(e.size >= n)
	}
	return unknown
}

// remove deletes the folders of a run.
func (s *shelf) remove(runID string) {
	tops, err := filepath.Glob(filepath.Join(s.outputs, backend.RunFolders(runID)+"*"))
	for _, top := range tops {
		err = errors.Join(err, os.RemoveAll(top))
	}
	if err != nil {
		s.log.Warn("outputs of a run stay in the shared folder", "req", runID, "err", err)
	}
}

// put writes an input file, unless it is there. It appears whole or not at all.
func (s *shelf) put(u backend.Upload) error {
	dir := filepath.Join(s.inputs, filepath.FromSlash(u.Subfolder))
	name := filepath.Join(dir, u.Name)
	if !filepath.IsLocal(filepath.Join(filepath.FromSlash(u.Subfolder), u.Name)) {
		return fault.New(fault.Invalid, "%q is not the name of an input.", u.Name)
	}
	if info, err := os.Stat(name); err == nil && info.Size() == u.Size {
		return nil
	}
	trouble := func(err error) error {
		return fault.Wrap(fault.Unavailable, err, "An input can't be written to the shared folder %s.", s.inputs).
			WithRemedy("See that the account of the studio may write there, and that the disk is not full.")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return trouble(err)
	}
	from, err := u.Open()
	if err != nil {
		return fmt.Errorf("opening input %s: %w", u.Name, err)
	}
	defer from.Close() //nolint:errcheck // it was read
	to, err := os.CreateTemp(dir, ".comfyume-*")
	if err != nil {
		return trouble(err)
	}
	_, err = io.Copy(to, from)
	err = errors.Join(err, to.Chmod(0o644), to.Sync(), to.Close())
	if err == nil {
		err = os.Rename(to.Name(), name)
	}
	if err != nil {
		return trouble(errors.Join(err, os.Remove(to.Name())))
	}
	return nil
}

// oldRuns is how long folders of runs may stay that nobody removed.
const oldRuns = 24 * time.Hour

// sweep removes what runs left whose owner never came back.
func (s *shelf) sweep(now time.Time) {
	tops, err := filepath.Glob(filepath.Join(s.outputs, "comfyume-*-*"))
	if err != nil {
		return // it is a pattern
	}
	for _, top := range tops {
		info, err := os.Stat(top)
		if err != nil || now.Sub(info.ModTime()) < oldRuns {
			continue
		}
		if err := os.RemoveAll(top); err != nil {
			s.log.Warn("an old folder of a run stays in the shared folder", "err", err)
		}
	}
}

// mark leaves a file by which replicas show that they have the same folder.
func (s *shelf) mark(name string) error {
	root, err := os.OpenRoot(s.outputs)
	if err != nil {
		return err
	}
	defer root.Close() //nolint:errcheck // it was written to by then
	// A new file: a link in its place would have the studio write to wherever it leads.
	if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	file, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = file.WriteString("This folder is shared with a ComfyuME studio.\n")
	return errors.Join(err, file.Close())
}
