package disk_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/blob"
	"github.com/ahelme/comfyume/internal/blob/blobtest"
	"github.com/ahelme/comfyume/internal/blob/disk"
	"github.com/ahelme/comfyume/internal/fault"
)

func open(t testing.TB, dir string) *disk.Disk {
	t.Helper()
	d, err := disk.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func fresh(t testing.TB) blob.Store {
	dir, err := os.MkdirTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	return open(t, dir)
}

func TestDisk(t *testing.T) {
	t.Parallel()
	blobtest.Run(t, fresh)
}

func BenchmarkDisk(b *testing.B) { blobtest.Benchmark(b, fresh) }

func TestOpenGivesAFile(t *testing.T) {
	t.Parallel()
	d := open(t, t.TempDir())
	if _, err := d.Put(t.Context(), "ann/a", strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	f, err := d.Open(t.Context(), "ann/a")
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := f.(*os.File); !ok {
		t.Errorf("Open gives a %T: the kernel can't send it", f)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

func TestSymlinksLeadNowhere(t *testing.T) {
	t.Parallel()
	dir, outside := t.TempDir(), t.TempDir()
	secret := filepath.Join(outside, "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := open(t, dir)
	if err := errors.Join(os.Symlink(outside, filepath.Join(dir, "ann")), os.Symlink(secret, filepath.Join(dir, "link"))); err != nil {
		t.Skip("this system makes no symlinks: ", err)
	}
	if f, err := d.Open(t.Context(), "ann/secret"); err == nil {
		t.Errorf("Open left the folder and gave %v", f)
	}
	if f, err := d.Open(t.Context(), "link"); err == nil {
		t.Errorf("Open left the folder and gave %v", f)
	}
	if _, err := d.Put(t.Context(), "ann/new", strings.NewReader("x")); err == nil {
		t.Error("Put left the folder")
	}
	if err := d.Delete(t.Context(), "ann/secret"); err == nil {
		t.Error("Delete left the folder")
	}
	if err := d.Each(t.Context(), "", func(it blob.Item) error { return errors.New("listed " + it.Key) }); err != nil {
		t.Error(err)
	}
	left, err := os.ReadDir(outside)
	if err != nil || len(left) != 1 {
		t.Errorf("outside there is %v, %v", left, err)
	}
}

func TestOpenClearsWhatACrashLeft(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	old, young := filepath.Join(dir, ".tmp", "old"), filepath.Join(dir, ".tmp", "young")
	err := errors.Join(os.Mkdir(filepath.Join(dir, ".tmp"), 0o700),
		os.WriteFile(old, nil, 0o600), os.WriteFile(young, nil, 0o600),
		os.Chtimes(old, time.Now(), time.Now().Add(-25*time.Hour)))
	if err != nil {
		t.Fatal(err)
	}
	open(t, dir)
	if _, err := os.Stat(old); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that was left half written is still there: %v", err)
	}
	if _, err := os.Stat(young); err != nil {
		t.Errorf("a file that another server may be writing is gone: %v", err)
	}
}

func TestFullDisk(t *testing.T) {
	t.Parallel()
	// /dev/full is a disk without room; the store meets it as the place of its half-written files.
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("/dev/full is not here")
	}
	f, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, cause := f.WriteString("x")
	if err := disk.StoreError("write a file", cause); !fault.Is(err, fault.Unavailable) {
		t.Errorf("a full disk gives %v", err)
	} else if e, ok := errors.AsType[*fault.Error](err); !ok || e.Code != "disk_full" || e.Remedy == "" {
		t.Errorf("a full disk gives %+v", e)
	}
}

func TestReadOnlyFolder(t *testing.T) {
	t.Parallel()
	err := disk.StoreError("write a file", &fs.PathError{Op: "open", Path: "x", Err: fs.ErrPermission})
	if e, ok := errors.AsType[*fault.Error](err); !ok || e.Code != "data_readonly" || e.Remedy == "" || !errors.Is(err, fs.ErrPermission) {
		t.Errorf("a folder that may not be written gives %v", err)
	}
}

func TestUnusableFolder(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := disk.Open(name); err == nil {
		t.Error("a file was taken for a folder")
	}
}

// byItself is a reader that puts its bytes into a file by itself.
type byItself struct {
	io.Reader
	text string
	err  error
}

func (c byItself) CopyTo(_ context.Context, f *os.File) (int64, [32]byte, error) {
	n, err := f.WriteString(c.text)
	return int64(n), sha256.Sum256([]byte(c.text)), errors.Join(c.err, err)
}

func TestReadersThatCopyThemselves(t *testing.T) {
	t.Parallel()
	d := open(t, t.TempDir())
	sum, err := d.Put(t.Context(), "ann/a", byItself{text: "copied"})
	if err != nil || sum.Size != 6 || sum.SHA256 != sha256.Sum256([]byte("copied")) {
		t.Errorf("Put gave %+v, %v", sum, err)
	}
	boom := errors.New("boom")
	if _, err := d.Put(t.Context(), "ann/a", byItself{text: "half", err: boom}); !errors.Is(err, boom) {
		t.Errorf("a copy that failed gave %v", err)
	}
	f, err := d.Open(t.Context(), "ann/a")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if text, err := io.ReadAll(f); string(text) != "copied" || err != nil {
		t.Errorf("the key holds %q, %v", text, err)
	}
}
