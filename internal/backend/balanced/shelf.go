package balanced

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/handover"
)

// shelf is the shared folder as it is mounted here. Network disks show what others wrote late, and hand out handles
// that go stale: so a file counts when it was read twice alike. Containers write there as they like: no link of theirs is
// followed, and neither the size nor the number of what they leave is believed to be small.
type shelf struct {
	outputs string
	inputs  string // empty: inputs are not shared
	made    ledger // what is this studio's own, in either
	most    int64  // bytes of one output
	log     *slog.Logger
	open    func(name string) (fs.File, error) // of a file in outputs, with slashes

	tidying sync.RWMutex // an input is not cleared away while it is seen to be there
}

func newShelf(outputs, inputs string, o Options) *shelf {
	open := func(name string) (fs.File, error) {
		file, err := handover.OpenWithin(outputs, name)
		if err != nil {
			return nil, err
		}
		return file, nil
	}
	return &shelf{outputs: outputs, inputs: inputs, made: ledgerOf(o.Studio), most: maxOutput, log: o.Log, open: open}
}

// Bounds of what replicas leave.
const (
	maxOutput = 8 << 30 // bytes of one output
	maxFiles  = 20_000  // files and folders of one run that are looked at
)

// in has f work in a folder, as it is mounted now and out of which nothing leads.
func in(dir string, f func(root *os.Root) error) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	return errors.Join(f(root), root.Close())
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

// tops are the folders of a run.
func tops(root *os.Root, runID string) ([]string, error) {
	names, err := list(root)
	return slices.DeleteFunc(names, func(name string) bool { return !strings.HasPrefix(name, backend.RunFolders(runID)) }), err
}

// files lists what is in the folders of a run now. What is not seen, because it is being written, is seen at the next look.
func (s *shelf) files(runID string) []stored {
	var all []stored
	seen := 0
	_ = in(s.outputs, func(root *os.Root) error {
		names, err := tops(root, runID)
		for _, top := range names {
			folder, err := handover.OpenFolder(root, top)
			if err != nil {
				continue
			}
			_ = fs.WalkDir(folder.FS(), ".", func(at string, d fs.DirEntry, err error) error {
				if seen++; seen > maxFiles {
					return fs.SkipAll
				}
				if err != nil || !d.Type().IsRegular() || strings.HasPrefix(d.Name(), ".") {
					return nil
				}
				if info, err := folder.Lstat(at); err == nil && info.Mode().IsRegular() {
					ref := backend.FileRef{Filename: d.Name(), Subfolder: path.Join(top, path.Dir(at)), Type: "output"}
					all = append(all, stored{ref, info.Size(), info.ModTime()})
				}
				return nil
			})
			_ = folder.Close()
		}
		return err
	})
	slices.SortFunc(all, func(a, b stored) int {
		return strings.Compare(a.ref.Subfolder+"/"+a.ref.Filename, b.ref.Subfolder+"/"+b.ref.Filename)
	})
	return all
}

// name returns where a file of a run lies in outputs. It is in a folder of the run's: names does not let others through.
func (s *shelf) name(f backend.FileRef) (string, error) {
	name := path.Join(strings.ReplaceAll(f.Subfolder, `\`, "/"), f.Filename)
	if !filepath.IsLocal(filepath.FromSlash(name)) || f.Filename != path.Base(name) {
		return "", fault.New(fault.Missing, "%q is not the name of an output.", f.Filename)
	}
	return name, nil
}

// errUnsettled says that a file is there and not yet to be trusted.
var errUnsettled = errors.New("the file is still changing, or its end has not arrived")

// read opens a file once it was read to its end twice alike, and looks whole: then the one who wrote it is done, and all
// of it has arrived. Stale handles are opened again.
func (s *shelf) read(ctx context.Context, f backend.FileRef) (io.ReadCloser, error) {
	name, err := s.name(f)
	if err != nil {
		return nil, err
	}
	first, size, err := s.digest(ctx, name)
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
	second, _, err := s.digest(ctx, name)
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
func (s *shelf) digest(ctx context.Context, name string) (sum [32]byte, size int64, err error) {
	for range 3 {
		if sum, size, err = s.digestOnce(ctx, name); !errors.Is(err, syscall.ESTALE) {
			break
		}
	}
	return sum, size, err
}

func (s *shelf) digestOnce(ctx context.Context, name string) (sum [32]byte, size int64, err error) {
	file, err := s.open(name)
	if err != nil {
		return sum, 0, err
	}
	defer file.Close() //nolint:errcheck // it was read
	before, err := file.Stat()
	if err != nil {
		return sum, 0, err
	}
	if before.Size() > s.most { // it may be one hole without an end
		return sum, 0, fault.New(fault.Invalid, "The output %.80q has %d MB, where %d are taken.", path.Base(name), before.Size()>>20, s.most>>20)
	}
	h := sha256.New()
	var ends ending
	size, err = io.Copy(io.MultiWriter(h, &ends), io.LimitReader(&wanted{file, ctx}, before.Size()+1))
	if err != nil {
		return sum, 0, err
	}
	if size == 0 || size != before.Size() || ends.whole() == cut {
		return sum, 0, errUnsettled
	}
	return [32]byte(h.Sum(nil)), size, nil
}

// wanted is a file that is read for as long as somebody wants it.
type wanted struct {
	io.Reader
	ctx context.Context // of the reading
}

func (w *wanted) Read(p []byte) (int, error) {
	if w.ctx.Err() != nil {
		return 0, context.Cause(w.ctx)
	}
	return w.Reader.Read(p)
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
	if v.read > v.left || errors.Is(err, io.EOF) && (v.read != v.left || [32]byte(v.sum.Sum(nil)) != v.want) {
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

// begin writes down that the folders of a run are this studio's.
func (s *shelf) begin(runID string) {
	if err := in(s.outputs, func(root *os.Root) error { return s.made.note(root, runID) }); err != nil {
		s.log.Warn("outputs that a run may leave are not cleared away later", "req", runID, "err", err)
	}
}

// remove deletes the folders of a run.
func (s *shelf) remove(runID string) {
	err := in(s.outputs, func(root *os.Root) error {
		names, err := tops(root, runID)
		for _, top := range names {
			err = errors.Join(err, root.RemoveAll(top))
		}
		if err != nil {
			return err
		}
		return s.made.strike(root, runID)
	})
	if err != nil {
		s.log.Warn("outputs of a run stay in the shared folder", "req", runID, "err", err)
	}
}

// put writes an input file, unless it is there. It appears whole or not at all.
func (s *shelf) put(u backend.Upload) error {
	at := path.Join(u.Subfolder, u.Name)
	if !filepath.IsLocal(filepath.FromSlash(at)) || u.Name != path.Base(at) || strings.HasPrefix(at, ".") {
		return fault.New(fault.Invalid, "%q is not the name of an input.", u.Name)
	}
	s.tidying.RLock()
	defer s.tidying.RUnlock()
	var source error
	err := in(s.inputs, func(root *os.Root) error {
		top, _, _ := strings.Cut(at, "/")
		if err := s.made.note(root, top); err != nil {
			return err
		}
		dir := path.Dir(at)
		if err := root.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		folder, err := handover.OpenFolder(root, dir)
		if err != nil {
			return err
		}
		err = s.fill(folder, u, &source)
		return errors.Join(err, folder.Close())
	})
	switch {
	case source != nil:
		return source
	case err != nil:
		return fault.Wrap(fault.Unavailable, err, "An input can't be written to the shared folder %s.", s.inputs).
			WithRemedy("See that the account of the studio may write there, that the disk is not full, and that nobody else puts links there.")
	}
	return nil
}

// fill writes an input into its folder. source is what was wrong with the bytes of the input, if that was it.
func (s *shelf) fill(folder *os.Root, u backend.Upload, source *error) error {
	if info, err := folder.Lstat(u.Name); err == nil && info.Mode().IsRegular() && info.Size() == u.Size {
		return nil
	}
	from, err := u.Open()
	if err != nil {
		*source = fmt.Errorf("opening input %s: %w", u.Name, err)
		return *source
	}
	defer from.Close() //nolint:errcheck // it was read
	temp := s.half() + rand.Text()
	to, err := folder.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	n, err := io.Copy(to, from)
	if err == nil && n != u.Size {
		*source = fmt.Errorf("input %s has %d bytes, and should have %d", u.Name, n, u.Size)
		err = *source
	}
	err = errors.Join(err, to.Chmod(0o644), to.Sync(), to.Close())
	if err == nil {
		err = folder.Rename(temp, u.Name)
	}
	if err != nil {
		return errors.Join(err, folder.Remove(temp))
	}
	return nil
}

// half begins the names of inputs that are not whole yet.
func (s *shelf) half() string { return string(s.made) + "-" }

// How long what this studio made may stay that nobody removed or wanted.
const (
	oldRuns   = 24 * time.Hour
	oldInputs = 7 * 24 * time.Hour
)

// sweep removes what runs left whose owner never came back, and inputs that no run wanted for long.
func (s *shelf) sweep(now time.Time) {
	err := in(s.outputs, func(root *os.Root) error {
		old, err := s.made.old(root, now.Add(-oldRuns))
		for _, runID := range old {
			if !s.changed(root, runID, now.Add(-oldRuns)) {
				s.remove(runID)
			}
		}
		return err
	})
	if s.inputs != "" {
		err = errors.Join(err, in(s.inputs, func(root *os.Root) error { return s.sweepInputs(root, now.Add(-oldInputs)) }))
	}
	if err != nil {
		s.log.Warn("what is old in the shared folder stays", "err", err)
	}
}

// changed reports whether something was made in the folders of a run since a time.
func (s *shelf) changed(root *os.Root, runID string, since time.Time) bool {
	names, err := tops(root, runID)
	for _, top := range names {
		info, bad := root.Lstat(top)
		if err = errors.Join(err, bad); bad == nil && !info.ModTime().Before(since) {
			return true
		}
	}
	return err != nil
}

func (s *shelf) sweepInputs(root *os.Root, since time.Time) error {
	old, err := s.made.old(root, since)
	drop := func(name string) error {
		s.tidying.Lock()
		defer s.tidying.Unlock()
		if !s.made.still(root, name, since) {
			return nil
		}
		if err := root.RemoveAll(name); err != nil {
			return err
		}
		return s.made.strike(root, name)
	}
	for _, name := range old {
		err = errors.Join(err, drop(name))
	}
	all, bad := list(root)
	err = errors.Join(err, bad)
	for _, name := range all { // of a studio that ended while it wrote
		if info, bad := root.Lstat(name); bad == nil && strings.HasPrefix(name, s.half()) && info.Mode().IsRegular() && info.ModTime().Before(since) {
			err = errors.Join(err, root.Remove(name))
		}
	}
	return err
}

// mark leaves a file by which replicas show that they have the same folder.
func (s *shelf) mark(name string) error {
	return in(s.outputs, func(root *os.Root) error {
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
	})
}
