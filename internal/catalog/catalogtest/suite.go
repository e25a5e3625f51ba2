// Package catalogtest holds what every store of the catalog and of custom nodes' web files has to pass.
package catalogtest

import (
	"crypto/sha256"
	"encoding/hex"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/internal/catalog"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/fleet"
)

// Store is what is tested: both are one thing in an adapter.
type Store interface {
	catalog.Store
	fleet.PackStore
}

func packFile(backEnd, path, content string) (fleet.PackFile, []byte) {
	sum := sha256.Sum256([]byte(content))
	return fleet.PackFile{BackEnd: backEnd, Pack: "pack", Path: path, Hash: hex.EncodeToString(sum[:]), Listed: path == "main.js"}, []byte(content)
}

// Run tests a store. Each call of open opens the same store anew.
func Run(t *testing.T, open func(t *testing.T) (store Store, closed func())) {
	t.Helper()
	ctx := t.Context()
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	c, closed := open(t)
	for _, body := range []string{"old", "new"} {
		must(t, c.SaveSnapshot(ctx, "gpu1", []byte(body)))
	}
	save := func(backEnd, path, content string) fleet.PackFile {
		t.Helper()
		f, text := packFile(backEnd, path, content)
		must(t, c.SavePackFile(ctx, f, text))
		return f
	}
	one := save("gpu1", "main.js", "let a")
	two := save("gpu2", "main.js", "let a")
	empty := save("gpu1", "empty.css", "")
	closed()

	c, closed = open(t)
	defer closed()
	snapshots, err := c.LoadSnapshots(ctx)
	must(t, err)
	if diff := cmp.Diff(map[string][]byte{"gpu1": []byte("new")}, snapshots); diff != "" {
		t.Errorf("snapshots (-want +got):\n%s", diff)
	}
	files, err := c.LoadPacks(ctx)
	must(t, err)
	if diff := cmp.Diff([]fleet.PackFile{empty, one, two}, files); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	content := func(f fleet.PackFile, want string) {
		t.Helper()
		got, err := c.PackContent(ctx, f.Hash)
		if err != nil || string(got) != want {
			t.Errorf("content of %s: %q, %v; want %q", f.Path, got, err, want)
		}
	}
	content(one, "let a")
	content(empty, "")

	// A content goes with the last file that has it.
	changed := save("gpu1", "main.js", "let b")
	content(two, "let a")
	content(changed, "let b")
	must(t, c.DropPackFiles(ctx, []fleet.PackFile{two, {BackEnd: "gpu2", Pack: "pack", Path: "never.js"}}))
	if _, err := c.PackContent(ctx, two.Hash); !fault.Is(err, fault.Missing) {
		t.Errorf("a content that no file has: %v", err)
	}
	content(changed, "let b")
}
