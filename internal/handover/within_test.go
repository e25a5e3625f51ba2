package handover

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func write(t *testing.T, name, text string, when time.Time) {
	t.Helper()
	err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), 0o600), os.Chtimes(name, when, when))
	if err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, to, name string) {
	t.Helper()
	if err := os.Symlink(to, name); err != nil {
		t.Skip("this system makes no symlinks: ", err)
	}
}

// TestOpenWithin: whoever writes to a folder can't have files delivered that are not of the run's own folder.
func TestOpenWithin(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"mine/a", "theirs/a", "theirs/sub/a"} {
		write(t, filepath.Join(dir, name), "x", time.Now())
	}
	secret := filepath.Join(t.TempDir(), "secret")
	write(t, secret, "x", time.Now())
	for name, to := range map[string]string{
		"mine/out": secret, "mine/file": "../theirs/a", "mine/sub": "../theirs/sub", "evil": "theirs", "mine/away": filepath.Dir(secret), "mine/self": ".",
	} {
		link(t, to, filepath.Join(dir, name))
	}
	for _, name := range []string{"mine/out", "mine/file", "mine/sub/a", "evil/a", "evil/sub/a", "mine/away/secret", "mine/self/a", "../" + filepath.Base(dir) + "/mine/a"} {
		if f, err := OpenWithin(dir, name); err == nil {
			t.Errorf("%q was opened", name)
			f.Close()
		}
	}
	for _, name := range []string{"mine/a", "theirs/sub/a"} {
		f, err := OpenWithin(dir, name)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestOthersOnTheShare: other programs' files on the same disk are out of reach of whoever may only plant links in ours.
// The studio's account often may write what a container's may not.
func TestOthersOnTheShare(t *testing.T) {
	t.Parallel()
	old := time.Now().Add(-200 * 24 * time.Hour)
	for what, c := range map[string]struct {
		link, to string // below comfyume-handover
		do       func(*folder) error
		refused  bool
	}{
		"Put": {"runs/evil", "../../theirs", func(f *folder) error {
			_, err := f.Put(t.Context(), "evil", "a", strings.NewReader("x"))
			return err
		}, true},
		"Seal":  {"runs/evil", "../../theirs", func(f *folder) error { return f.Seal(t.Context(), "evil", nil) }, true},
		"Leave": {"marks", "../theirs", func(f *folder) error { _, err := f.Leave(t.Context()); return err }, true},
		"ID":    {".", "theirs", func(f *folder) error { _, err := f.ID(t.Context()); return err }, true},
		"sign": {"writers/ME", "../../theirs/old", func(f *folder) error {
			f.sign(t.Context())
			return nil
		}, false},
		"Delete":        {"runs/evil", "../../theirs", func(f *folder) error { return f.Delete(t.Context(), "evil") }, false},
		"Delete in all": {"runs", "../theirs", func(f *folder) error { return f.Delete(t.Context(), "evil") }, true},
		"Sweep": {"marks", "../theirs", func(f *folder) error {
			_, err := f.Sweep(t.Context(), time.Now())
			return err
		}, true},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			theirs := filepath.Join(dir, "theirs")
			for _, name := range []string{"manifest.json", "old", "evil/a"} {
				write(t, filepath.Join(theirs, name), "theirs", old)
			}
			f := folderAt(t, dir).(*folder)
			at := filepath.Join(dir, base, strings.ReplaceAll(c.link, "ME", f.me))
			if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
				t.Fatal(err)
			}
			link(t, c.to, at)
			if err := c.do(f); (err != nil) != c.refused {
				t.Errorf("it gave %v", err)
			}
			var all []string
			err := filepath.WalkDir(theirs, func(name string, d os.DirEntry, err error) error {
				if err != nil || d.IsDir() {
					return err
				}
				text, err := os.ReadFile(name)
				all = append(all, filepath.Base(name)+" "+string(text))
				return err
			})
			if got := strings.Join(all, ", "); err != nil || got != "a theirs, manifest.json theirs, old theirs" {
				t.Errorf("what is theirs is now %s, %v", got, err)
			}
		})
	}
}
