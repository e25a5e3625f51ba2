package balanced

import (
	"errors"
	"image"
	"image/png"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
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
		f, err := os.Open(name)
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

// TestSweep deletes what runs of yesterday left, and nothing else.
func TestSweep(t *testing.T) {
	t.Parallel()
	s := newShelf(t.TempDir(), "", Options{})
	old, fresh, other := filepath.Join(s.outputs, backend.RunFolder("old", 0)), filepath.Join(s.outputs, backend.RunFolder("new", 0)), filepath.Join(s.outputs, "mine")
	long := time.Now().Add(-2 * oldRuns)
	for _, dir := range []string{old, fresh, other} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Chtimes(old, long, long), os.Chtimes(other, long, long)); err != nil {
		t.Fatal(err)
	}
	s.sweep(time.Now())
	for dir, stays := range map[string]bool{old: false, fresh: true, other: true} {
		if _, err := os.Stat(dir); (err == nil) != stays {
			t.Errorf("%s: %v", dir, err)
		}
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
