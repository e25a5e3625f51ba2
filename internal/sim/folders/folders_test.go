package folders_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/sim/folders"
)

func newFolders(t *testing.T) *folders.Folders {
	t.Helper()
	base := t.TempDir()
	f, err := folders.New(folders.Folders{
		Input: filepath.Join(base, "input"), Output: filepath.Join(base, "output"),
		Temp: filepath.Join(base, "temp"), User: filepath.Join(base, "user"),
	})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestNextName(t *testing.T) {
	t.Parallel()
	f := newFolders(t)
	for _, name := range []string{"a_00003_.png", "a_00007_.png", "a_x_.png", "ab_00050_.png", "a_9.png", "b_00001_.webp"} {
		if err := os.WriteFile(filepath.Join(f.Output, name), nil, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Date(2026, 1, 5, 7, 8, 9, 0, time.UTC)
	for _, c := range []struct{ prefix, subfolder, name string }{
		{"a", "", "a_00008_.png"},
		{"b", "", "b_00002_.png"},
		{"new", "", "new_00001_.png"},
		{"u001/test/", "u001", "test_00001_.png"},
		{"%year%-%month%-%day%/%hour%%minute%%second%_%width%x%height%", "2026-01-05", "070809_64x48_00001_.png"},
		{"n%batch_num%", "", "n4_00001_.png"},
	} {
		target, err := f.NextName("output", c.prefix, 64, 48, now)
		if err != nil {
			t.Fatalf("%s: %v", c.prefix, err)
		}
		name, err := target.Save(nil, "png", 4)
		if err != nil {
			t.Fatalf("%s: %v", c.prefix, err)
		}
		if target.Subfolder != c.subfolder || name != c.name {
			t.Errorf("%s: %s in %q, want %s in %q", c.prefix, name, target.Subfolder, c.name, c.subfolder)
		}
	}
	for _, prefix := range []string{"../x", "/etc/x", "a/../../x"} {
		var outside *folders.ErrOutside
		if _, err := f.NextName("output", prefix, 0, 0, now); !errors.As(err, &outside) {
			t.Errorf("%s: %v, want a refusal", prefix, err)
		}
	}
}

func TestNamesInGraphs(t *testing.T) {
	t.Parallel()
	f := newFolders(t)
	for _, c := range []struct {
		name string
		want string
		ok   bool
	}{
		{"cat.png", filepath.Join(f.Input, "cat.png"), true},
		{"sub/cat.png", filepath.Join(f.Input, "sub", "cat.png"), true},
		{"cat.png [output]", filepath.Join(f.Output, "cat.png"), true},
		{"cat.png [temp]", filepath.Join(f.Temp, "cat.png"), true},
		{"../output/cat.png", "", false},
		{"/etc/passwd", "", false},
		{"a\x00b", "", false},
	} {
		got, ok := f.Path(c.name)
		if ok != c.ok || ok && got != c.want {
			t.Errorf("%q: %s, %v; want %s, %v", c.name, got, ok, c.want, c.ok)
		}
	}
}
