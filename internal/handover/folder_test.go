package handover

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
)

func folderAt(t *testing.T, dir string) Place {
	t.Helper()
	p, err := New("file://" + filepath.ToSlash(dir))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestFolder(t *testing.T) {
	t.Parallel()
	suite(t, func(t *testing.T) (Place, func() Place) {
		dir := t.TempDir()
		return folderAt(t, dir), func() Place { return folderAt(t, dir) }
	})
}

func TestAddress(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"", "file", "file:rel", "file://host/x", "/mnt", "http://x/y", "file:///x?key=SECRET", "%"} {
		if _, err := New(bad); !fault.Is(err, fault.Invalid) || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%q gave %v", bad, err)
		}
	}
}

// inRun is where the file of an output lies.
func inRun(dir, run, name string) string {
	return filepath.Join(dir, "comfyume-handover", "runs", run, fileName(name))
}

func TestLinksAndPipesAreRefused(t *testing.T) {
	t.Parallel()
	dir, outside := t.TempDir(), filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := folderAt(t, dir)
	e := put(t, p, "run", "a", []byte("secret"))
	inside := put(t, p, "run", "b", []byte("secret"))
	for what, target := range map[string]string{"outside": outside, "inside": inRun(dir, "run", inside.Name)} {
		if err := errors.Join(os.Remove(inRun(dir, "run", "a")), os.Symlink(target, inRun(dir, "run", "a"))); err != nil {
			t.Skip("this system makes no symlinks: ", err)
		}
		if b, err := read(t, p, "run", e); !fault.Is(err, fault.Invalid) {
			t.Errorf("a link to the %s gave %q, %v", what, b, err)
		}
		if err := p.Seal(t.Context(), "run", []Entry{e}); err == nil {
			t.Errorf("a link to the %s was sealed", what)
		}
	}
	// A folder of a run that leads elsewhere.
	if err := os.Symlink(filepath.Dir(outside), filepath.Join(dir, "comfyume-handover", "runs", "evil")); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Put(t.Context(), "evil", "a", strings.NewReader("x")); err == nil {
		t.Error("Put left the folder")
	}
	if err := p.Delete(t.Context(), "evil"); err != nil {
		t.Log("Delete of a link:", err)
	}
	if _, err := os.Stat(outside); err != nil {
		t.Errorf("Delete left the folder: %v", err)
	}
	if got, err := p.Runs(t.Context(), time.Now().Add(time.Hour)); err != nil || len(got) != 1 {
		t.Errorf("runs: %q, %v", got, err)
	}
}

func TestHostileManifests(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := folderAt(t, dir)
	e := put(t, p, "run", "a", []byte("x"))
	huge, err := json.Marshal(index{Format: 1, Run: "run", Entries: []Entry{{Name: strings.Repeat("a", maxManifest), SHA256: e.SHA256}}})
	if err != nil {
		t.Fatal(err)
	}
	for what, text := range map[string]string{
		"huge": string(huge), "another run's": `{"format":1,"run":"else","entries":[]}`, "newer": `{"format":2,"run":"run"}`,
		"a bad entry's": `{"format":1,"run":"run","entries":[{"name":"","size":1,"sha256":""}]}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, "comfyume-handover", "runs", "run", manifest), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Manifest(t.Context(), "run"); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s manifest gave %v", what, err)
		}
	}
	// What is not whole yet is waited for.
	if err := os.WriteFile(filepath.Join(dir, "comfyume-handover", "runs", "run", manifest), []byte(`{"format":1,"ru`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Manifest(soon(t), "run"); code(err) != "handover_unfinished" {
		t.Errorf("half a manifest gave %v", err)
	}
}

func TestFilesThatChangeOrNeverEnd(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := folderAt(t, dir)
	e := put(t, p, "run", "a", noise(600_000))
	r, err := p.Open(t.Context(), "run", e)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.ReadFull(r, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(inRun(dir, "run", "a"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Write(noise(1 << 20))
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, r)
	if code(err) != "handover_damaged" || n > e.Size {
		t.Errorf("a file that grew gave %d bytes, %v", n, err)
	}
	if err := os.WriteFile(inRun(dir, "run", "a"), bytes.Repeat([]byte("y"), 600_000), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := read(t, p, "run", e); code(err) != "handover_damaged" {
		t.Errorf("a file that was overwritten gave %v", err)
	}
}

func TestWrongMount(t *testing.T) {
	t.Parallel()
	none := folderAt(t, filepath.Join(t.TempDir(), "none"))
	if _, err := none.Manifest(soon(t), "run"); !IsWrongMount(err) || !fault.Is(err, fault.Missing) {
		t.Errorf("a folder that is not there gave %v", err)
	}
	empty := t.TempDir()
	if _, err := folderAt(t, empty).Manifest(soon(t), "run"); !IsWrongMount(err) || !strings.Contains(err.Error(), "is empty") {
		t.Errorf("an empty folder gave %v", err)
	}
	// The studio itself wrote there, and no back end ever did.
	alone := folderAt(t, t.TempDir())
	seal(t, alone, "mine")
	if _, err := alone.Manifest(soon(t), "run"); !IsWrongMount(err) {
		t.Errorf("a folder that no back end writes to gave %v", err)
	}
	a, err := folderAt(t, t.TempDir()).(Prober).ID(t.Context())
	b, err2 := folderAt(t, t.TempDir()).(Prober).ID(t.Context())
	if a == b || err != nil || err2 != nil {
		t.Errorf("two folders have the ids %q and %q, %v, %v", a, b, err, err2)
	}
	// A file in the folder's place.
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := folderAt(t, file).Put(t.Context(), "run", "a", strings.NewReader("x")); !fault.Is(err, fault.Unavailable) {
		t.Errorf("a file in the folder's place gave %v", err)
	}
}

func TestOtherPeoplesFilesStay(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	old := time.Now().Add(-1000 * time.Hour)
	theirs := []string{filepath.Join(dir, "ComfyUI_00001_.png"), filepath.Join(dir, "comfyume-handover", "runs", "notes.txt"), filepath.Join(dir, "comfyume-handover", "runs", "two words", "x")}
	p := folderAt(t, dir)
	seal(t, p, "run", put(t, p, "run", "a", []byte("x")))
	half := filepath.Join(dir, "comfyume-handover", "runs", "run", part+"X")
	for _, name := range append(theirs, half) {
		err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, nil, 0o600), os.Chtimes(name, old, old))
		if err != nil {
			t.Fatal(err)
		}
	}
	got, err := p.Runs(t.Context(), time.Now().Add(time.Hour))
	if err != nil || len(got) != 1 || got[0] != "run" {
		t.Errorf("runs: %q, %v", got, err)
	}
	if n, err := p.(Sweeper).Sweep(t.Context(), time.Now().Add(-time.Hour)); err != nil || n != 1 {
		t.Errorf("Sweep cleared %d, %v", n, err)
	}
	if _, err := os.Stat(half); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a half-written file stays: %v", err)
	}
	for _, name := range theirs {
		if _, err := os.Stat(name); err != nil {
			t.Error(err)
		}
	}
}

func TestTroubleOfTheFileSystem(t *testing.T) {
	t.Parallel()
	f := newFolder("/mnt/sfs", Options{Log: slog.New(slog.DiscardHandler)})
	if err := f.trouble("write a file", &fs.PathError{Op: "open", Path: "x", Err: fs.ErrPermission}); code(err) != "handover_readonly" {
		t.Errorf("no rights gave %v", err)
	}
	if err := f.trouble("write a file", errors.New("odd")); !fault.Is(err, fault.Unavailable) || code(err) != "handover_trouble" {
		t.Errorf("anything else gave %v", err)
	}
}

// TestCopies: the file system copies an output, and what arrived is checked.
func TestCopies(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := folderAt(t, dir)
	data := noise(3 << 20)
	e := put(t, p, "run", "a", data)
	type copier interface {
		Peek(n int) ([]byte, error)
		CopyTo(ctx context.Context, f *os.File) (int64, [32]byte, error)
	}
	copied := func(t *testing.T) ([]byte, error) {
		t.Helper()
		r, err := p.Open(t.Context(), "run", e)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		f, err := os.CreateTemp(dir, "copy")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		head, err := r.(copier).Peek(8)
		if err != nil || !bytes.Equal(head, data[:8]) {
			t.Errorf("Peek gave %x, %v", head, err)
		}
		size, sum, err := r.(copier).CopyTo(t.Context(), f)
		if err == nil && (size != e.Size || hex.EncodeToString(sum[:]) != e.SHA256) {
			t.Errorf("copied %d bytes, %x", size, sum)
		}
		text, readErr := os.ReadFile(f.Name())
		return text, errors.Join(err, readErr)
	}
	if text, err := copied(t); err != nil || !bytes.Equal(text, data) {
		t.Errorf("the copy has %d bytes, %v", len(text), err)
	}
	changed := bytes.Clone(data)
	changed[2<<20] ^= 1
	if err := os.WriteFile(inRun(dir, "run", "a"), changed, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := copied(t); code(err) != "handover_damaged" {
		t.Errorf("an output that was changed gave %v", err)
	}
}

func TestOutputsThatAreGone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		p := folderAt(t, dir)
		e := put(t, p, "run", "a", []byte("x"))
		put(t, p, "run", "b", []byte("x"))
		if err := os.Remove(inRun(dir, "run", "a")); err != nil {
			t.Fatal(err)
		}
		for run, want := range map[string]string{"run": "though others of its run are", "none": "another disk than theirs"} {
			began := time.Now()
			_, err := p.Open(t.Context(), run, e)
			if !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), want) || time.Since(began) != settle {
				t.Errorf("%s gave %v after %v", run, err, time.Since(began))
			}
		}
	})
}
