package handover

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
)

func looseAt(t *testing.T, dir string) *Loose {
	t.Helper()
	l, err := OpenLoose("file://"+filepath.ToSlash(dir), nil)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func write(t *testing.T, name, text string, when time.Time) {
	t.Helper()
	err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), 0o600), os.Chtimes(name, when, when))
	if err != nil {
		t.Fatal(err)
	}
}

func TestLooseWaitsUntilAFileStays(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	name := filepath.Join(dir, "sub", "a.png")
	synctest.Test(t, func(t *testing.T) {
		l := looseAt(t, dir)
		began := time.Now()
		go func() { // ComfyUI, slowly, and a network file system that shows it late
			time.Sleep(5 * time.Second)
			write(t, name, "ha", time.Now())
			time.Sleep(2 * time.Second)
			write(t, name, "half", time.Now())
			time.Sleep(time.Second)
			write(t, name, "whole", time.Now())
		}()
		r, err := l.Open(t.Context(), `sub\`, "a.png")
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil || string(b) != "whole" || time.Since(began) < 8*time.Second+stableFor || time.Since(began) > 20*time.Second {
			t.Errorf("read %q after %v, %v", b, time.Since(began), err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if err := errors.Join(l.Delete(t.Context(), "sub", "a.png", "none.png"), l.Delete(t.Context(), "sub", "a.png")); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(filepath.Join(dir, "sub")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the empty folder stays: %v", err)
		}
	})
}

func TestLooseTakesOldFilesAtOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	name := filepath.Join(dir, "a.png")
	write(t, name, "old", time.Now().Add(-time.Hour))
	r, err := looseAt(t, dir).Open(t.Context(), "", "a.png")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.ReadFull(r, make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	write(t, name, "new", time.Now().Add(time.Second))
	if _, err := r.Read(make([]byte, 1)); code(err) != "handover_damaged" {
		t.Errorf("a file that changed while it was read gave %v", err)
	}
}

func TestLooseNames(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := looseAt(t, filepath.Join(dir, "outputs"))
	write(t, filepath.Join(dir, "secret"), "secret", time.Now().Add(-time.Hour))
	write(t, filepath.Join(dir, "outputs", "x"), "x", time.Now().Add(-time.Hour))
	for _, c := range [][2]string{{"", "../secret"}, {"..", "secret"}, {`..\`, "secret"}, {"a/../..", "secret"}, {"", ""}, {dir, "secret"}, {"", `..\secret`}, {"", "a\x00"}} {
		_, err := l.Open(t.Context(), c[0], c[1])
		if !fault.Is(err, fault.Invalid) || !fault.Is(l.Delete(t.Context(), c[0], c[1]), fault.Invalid) {
			t.Errorf("%q was taken: %v", c, err)
		}
	}
	if err := os.Symlink(filepath.Join(dir, "secret"), filepath.Join(dir, "outputs", "link")); err == nil {
		if _, err := l.Open(t.Context(), "", "link"); !fault.Is(err, fault.Invalid) {
			t.Errorf("a link gave %v", err)
		}
	}
	if _, err := l.Open(soon(t), "", "none"); code(err) != "handover_nothing" {
		t.Errorf("a file that is not there gave %v", err)
	}
	if _, err := looseAt(t, t.TempDir()).Open(soon(t), "", "none"); !IsWrongMount(err) {
		t.Errorf("an empty folder gave %v", err)
	}
	write(t, filepath.Join(dir, "outputs", "young"), "x", time.Now())
	if _, err := l.Open(soon(t), "", "young"); code(err) != "handover_unfinished" {
		t.Errorf("a young file gave %v", err)
	}
	if _, err := OpenLoose("s3://bucket/x", nil); !fault.Is(err, fault.Invalid) {
		t.Errorf("a bucket gave %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Open(ctx, "", "none"); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("after the end of ctx came %v", err)
	}
}

// TestLooseLinks: whoever writes to the folder can't have files delivered that are not of the run's own folder.
func TestLooseLinks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	old := time.Now().Add(-time.Hour)
	for _, name := range []string{"mine/a", "theirs/a", "theirs/sub/a"} {
		write(t, filepath.Join(dir, name), "x", old)
	}
	secret := filepath.Join(t.TempDir(), "secret")
	write(t, secret, "x", old)
	for link, to := range map[string]string{
		"mine/out": secret, "mine/file": "../theirs/a", "mine/sub": "../theirs/sub", "evil": "theirs", "mine/away": filepath.Dir(secret),
	} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Skip("this system makes no symlinks: ", err)
		}
	}
	for _, c := range [][2]string{{"mine", "out"}, {"mine", "file"}, {"mine/sub", "a"}, {"evil", "a"}, {"evil/sub", "a"}, {"mine/away", "secret"}} {
		if f, err := OpenWithin(dir, c[0]+"/"+c[1]); err == nil {
			t.Errorf("%q was opened", c)
			f.Close()
		}
		if r, err := looseAt(t, dir).Open(soon(t), c[0], c[1]); err == nil {
			t.Errorf("%q was opened", c)
			r.Close()
		}
	}
	f, err := OpenWithin(dir, "mine/a")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}
