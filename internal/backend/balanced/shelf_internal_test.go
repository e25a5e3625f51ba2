package balanced

import (
	"context"
	"errors"
	"image"
	"image/png"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/fault"
)

// stale is a file whose handle goes stale after some bytes, as on a network disk whose server was started anew.
type stale struct {
	fs.File
	left *int
}

func (s *stale) Read(p []byte) (int, error) {
	if *s.left <= 0 {
		return 0, &os.PathError{Op: "read", Path: "x", Err: syscall.ESTALE}
	}
	n, err := s.File.Read(p[:min(len(p), *s.left)])
	*s.left -= n
	return n, err
}

func picture(t *testing.T, name string) []byte {
	t.Helper()
	var b strings.Builder
	if err := png.Encode(&b, image.NewNRGBA(image.Rect(0, 0, 40, 40))); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return []byte(b.String())
}

// TestStaleHandle opens a file again whose handle went stale, while it is looked at and while it is read.
func TestStaleHandle(t *testing.T) {
	t.Parallel()
	s := newShelf(t.TempDir(), "", Options{})
	folder := backend.RunFolder("r", 0)
	want := picture(t, filepath.Join(s.outputs, folder, "a.png"))
	opened := 0
	s.open = func(name string) (fs.File, error) {
		f, err := os.Open(filepath.Join(s.outputs, filepath.FromSlash(name)))
		opened++
		left := 1 << 30
		if opened == 1 || opened == 4 { // the first look, and the reading
			left = 10
		}
		return &stale{f, &left}, err
	}
	r, err := s.read(t.Context(), backend.FileRef{Filename: "a.png", Subfolder: folder, Type: "output"})
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if err != nil || string(got) != string(want) || r.Close() != nil {
		t.Errorf("%d bytes of %d, %v", len(got), len(want), err)
	}
	if opened != 5 {
		t.Errorf("it was opened %d times", opened)
	}
}

// TestUnsettled does not take what is cut, empty, or changes while it is read.
func TestUnsettled(t *testing.T) {
	t.Parallel()
	s := newShelf(t.TempDir(), "", Options{})
	folder := backend.RunFolder("r", 0)
	name := filepath.Join(s.outputs, folder, "a.png")
	ref := backend.FileRef{Filename: "a.png", Subfolder: folder, Type: "output"}
	if _, err := s.read(t.Context(), ref); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	b := picture(t, name)
	for _, part := range [][]byte{nil, b[:len(b)-5]} {
		if err := os.WriteFile(name, part, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.read(t.Context(), ref); !errors.Is(err, errUnsettled) {
			t.Errorf("%d bytes of %d: %v", len(part), len(b), err)
		}
	}
	picture(t, name)
	r, err := s.read(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	b[30] ^= 1
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(r); !errors.Is(err, backend.ErrUnreachable) {
		t.Errorf("a file that changed: %v", err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	for _, f := range []backend.FileRef{{Filename: "../a.png", Type: "output"}, {Filename: "a.png", Subfolder: "../..", Type: "output"}} {
		if _, err := s.read(t.Context(), f); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%+v: %v", f, err)
		}
	}
}

// TestSweep deletes what runs of this studio left long ago and inputs that it has not wanted for long, and nothing else:
// other studios, and people, use the same disk.
func TestSweep(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, filepath.FromSlash(name)) }
	for _, name := range []string{"out", "in"} {
		if err := os.Mkdir(at(name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mine, theirs := newShelf(at("out"), at("in"), Options{Studio: "mine", Log: slog.New(slog.DiscardHandler)}), newShelf(at("out"), at("in"), Options{Studio: "theirs", Log: slog.New(slog.DiscardHandler)})
	input := func(name, folder string) backend.Upload {
		return backend.Upload{Name: name, Subfolder: folder, Size: 1, Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("x")), nil }}
	}
	for _, run := range []string{"old", "new", "long"} {
		mine.begin(run)
	}
	theirs.begin("other")
	for _, err := range []error{
		mine.put(input("old.png", "")), mine.put(input("1.png", "oldset")), mine.put(input("new.png", "")), mine.put(input("again.png", "")),
		theirs.put(input("theirs.png", "")), os.WriteFile(at("in/"+mine.half()+"X"), nil, 0o600), os.WriteFile(at("in/"+theirs.half()+"X"), nil, 0o600),
		os.WriteFile(at("in/persons.png"), nil, 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, run := range []string{"old", "new", "long", "other", "unmarked"} {
		picture(t, at("out/"+backend.RunFolder(run, 0)+"/sub/a.png"))
	}
	age := func(names ...string) {
		for _, name := range names {
			long := time.Now().Add(-2 * oldInputs)
			if err := os.Chtimes(at(name), long, long); err != nil {
				t.Fatal(err)
			}
		}
	}
	age("out/.comfyume-mine/old", "out/.comfyume-mine/long", "out/.comfyume-theirs/other", "in/.comfyume-mine/old.png", "in/.comfyume-mine/oldset",
		"in/.comfyume-mine/again.png", "in/.comfyume-theirs/theirs.png", "in/"+mine.half()+"X", "in/"+theirs.half()+"X", "in/persons.png",
		"out/comfyume-old-0", "out/comfyume-new-0", "out/comfyume-other-0", "out/comfyume-unmarked-0")
	if err := mine.put(input("again.png", "")); err != nil {
		t.Fatal(err)
	}
	mine.sweep(time.Now())
	for name, stays := range map[string]bool{
		"out/comfyume-old-0": false, "out/.comfyume-mine/old": false, "out/comfyume-new-0": true, "out/comfyume-long-0": true,
		"out/comfyume-other-0": true, "out/comfyume-unmarked-0": true,
		"in/old.png": false, "in/.comfyume-mine/old.png": false, "in/oldset": false, "in/new.png": true, "in/again.png": true, "in/theirs.png": true,
		"in/persons.png": true, "in/" + mine.half() + "X": false, "in/" + theirs.half() + "X": true,
	} {
		if _, err := os.Stat(at(name)); (err == nil) != stays {
			t.Errorf("%s: %v, it should stay: %t", name, err, stays)
		}
	}
	mine.remove("new")
	if _, err := os.Stat(at("out/.comfyume-mine/new")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a run that is removed stays in the ledger: %v", err)
	}
}

// TestInputsFollowNoLinks: a container that may write to the folder of inputs has the studio neither write elsewhere, nor
// take a link for the file.
func TestInputsFollowNoLinks(t *testing.T) {
	t.Parallel()
	outside := t.TempDir()
	for what, c := range map[string]struct {
		link, to string
		folder   string // of the input
		refused  bool
	}{
		"a file outside":               {"a.png", filepath.Join(outside, "a.png"), "", false},
		"another's file":               {"a.png", "other.png", "", false},
		"a folder outside":             {"set", outside, "set", true},
		"another's folder":             {"set", "others", "set", true},
		"the ledger's folder":          {".comfyume-mine", outside, "", true},
		"the ledger's, another's here": {".comfyume-mine", "others", "", true},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s := newShelf(t.TempDir(), t.TempDir(), Options{Studio: "mine"})
			other := picture(t, filepath.Join(s.inputs, "other.png"))
			err := os.Mkdir(filepath.Join(s.inputs, "others"), 0o700)
			if err == nil {
				err = os.Symlink(c.to, filepath.Join(s.inputs, c.link))
			}
			if err != nil {
				t.Skip("this system makes no symlinks: ", err)
			}
			body := strings.Repeat("x", len(other)) // as large as what the link leads to
			err = s.put(backend.Upload{Name: "a.png", Subfolder: c.folder, Size: int64(len(body)), Open: func() (io.ReadCloser, error) {
				return io.NopCloser(strings.NewReader(body)), nil
			}})
			if (err != nil) != c.refused {
				t.Errorf("it gave %v", err)
			}
			for _, dir := range []string{outside, filepath.Join(s.inputs, "others")} {
				if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
					t.Errorf("the studio left %v, %v", left, err)
				}
			}
			if now, err := os.ReadFile(filepath.Join(s.inputs, "other.png")); err != nil || string(now) != string(other) {
				t.Error("another's input was changed", err)
			}
			if got, err := os.ReadFile(filepath.Join(s.inputs, c.folder, "a.png")); !c.refused && (err != nil || string(got) != body) {
				t.Errorf("the input has %d bytes, %v", len(got), err)
			}
		})
	}
}

// TestEndlessOutputs: neither a file without an end nor files without number hold the studio.
func TestEndlessOutputs(t *testing.T) {
	t.Parallel()
	s := newShelf(t.TempDir(), "", Options{})
	s.most = 1 << 20
	folder := backend.RunFolder("r", 0)
	name := filepath.Join(s.outputs, folder, "a.bin")
	picture(t, name)
	if err := os.Truncate(name, 1<<40); err != nil {
		t.Skip("this disk has no holes: ", err)
	}
	if _, err := s.read(t.Context(), backend.FileRef{Filename: "a.bin", Subfolder: folder}); !fault.Is(err, fault.Invalid) {
		t.Errorf("1 TB gave %v", err)
	}
	s.most = 1 << 41
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.read(gone, backend.FileRef{Filename: "a.bin", Subfolder: folder}); !errors.Is(err, context.Canceled) {
		t.Errorf("read for nobody: %v", err)
	}
}

// TestLinksLeadNowhere: a container that writes to the folder can neither have the studio's files delivered nor have it
// write to them.
func TestLinksLeadNowhere(t *testing.T) {
	t.Parallel()
	s := newShelf(t.TempDir(), "", Options{})
	folder := backend.RunFolder("r", 0)
	secret := filepath.Join(t.TempDir(), "secret.png")
	picture(t, secret)
	picture(t, filepath.Join(s.outputs, "other", "a.png"))
	if err := os.MkdirAll(filepath.Join(s.outputs, folder), 0o700); err != nil {
		t.Fatal(err)
	}
	for link, to := range map[string]string{
		folder + "/a.png": secret, folder + "/b.png": "../other/a.png", folder + "/sub": "../other", "comfyume-shared.txt": secret,
	} {
		if err := os.Symlink(to, filepath.Join(s.outputs, filepath.FromSlash(link))); err != nil {
			t.Skip("this system makes no symlinks: ", err)
		}
	}
	for _, f := range []backend.FileRef{{Filename: "a.png", Subfolder: folder}, {Filename: "b.png", Subfolder: folder}, {Filename: "a.png", Subfolder: folder + "/sub"}} {
		if r, err := s.read(t.Context(), f); err == nil {
			t.Errorf("%+v was read", f)
			r.Close() //nolint:errcheck // it should not be there
		}
	}
	before, err := os.ReadFile(secret)
	if err != nil {
		t.Fatal(err)
	}
	err = s.mark("comfyume-shared.txt")
	if after, err := os.ReadFile(secret); err != nil || string(after) != string(before) {
		t.Errorf("the studio wrote to where a link leads, %v", err)
	}
	if text, readErr := os.ReadFile(filepath.Join(s.outputs, "comfyume-shared.txt")); err != nil || readErr != nil || !strings.Contains(string(text), "shared") {
		t.Errorf("the mark is %q, %v, %v", text, err, readErr)
	}
}
