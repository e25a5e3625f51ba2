// Package catalogtest holds what every store of the catalog and of custom nodes' web files has to pass.
package catalogtest

import (
	"crypto/sha256"
	"encoding/hex"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/internal/catalog"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/fleet"
)

// Store is what is tested: both are one thing in an adapter.
type Store interface {
	catalog.Store
	catalog.RequestStore
	fleet.PackStore
	fleet.MemberStore
}

func packFile(backEnd, path, content string) (fleet.PackFile, []byte) {
	sum := sha256.Sum256([]byte(content))
	return fleet.PackFile{BackEnd: backEnd, Pack: "pack", Path: path, Hash: hex.EncodeToString(sum[:]), Listed: path == "main.js"}, []byte(content)
}

// Run tests a store. Each call of open opens the same store anew.
func Run(t *testing.T, open func(t *testing.T) (store Store, closed func())) {
	t.Helper()
	ctx := t.Context()
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
	writeFleet(t, c)
	closed()

	c, closed = open(t)
	defer closed()
	snapshots, err := c.LoadSnapshots(ctx)
	must(t, err)
	if diff := cmp.Diff(map[string][]byte{"gpu1": []byte("new")}, snapshots); diff != "" {
		t.Errorf("snapshots (-want +got):\n%s", diff)
	}
	readFleet(t, c)
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

func requests(t *testing.T, c Store, want []catalog.Request) {
	t.Helper()
	got, err := c.Requests(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

// What operators and graphs did, in every store.
var (
	model = catalog.Want{Kind: catalog.WantModel, Folder: "loras", Name: "a:1.safetensors"}
	node  = catalog.Want{Kind: catalog.WantNode, Name: "Nobody's"}
	at    = time.UnixMilli(1_800_000_000_000).UTC()
)

func writeFleet(t *testing.T, c Store) {
	t.Helper()
	ctx := t.Context()
	for _, name := range []string{"added", "gone"} {
		must(t, c.SaveMember(ctx, name, []byte("first")))
	}
	must(t, c.SaveMember(ctx, "added", []byte{0, 0xff}))
	must(t, c.DropMember(ctx, "gone"))
	must(t, c.DropMember(ctx, "never"))
	for i, r := range []struct {
		want  catalog.Want
		group string
	}{{model, "red"}, {model, ""}, {model, "red"}, {node, "red"}} {
		must(t, c.AddRequest(ctx, r.want, r.group, at.Add(time.Duration(i)*time.Second)))
	}
}

func readFleet(t *testing.T, c Store) {
	t.Helper()
	ctx := t.Context()
	members, err := c.LoadMembers(ctx)
	must(t, err)
	if diff := cmp.Diff(map[string][]byte{"added": {0, 0xff}}, members); diff != "" {
		t.Errorf("members (-want +got):\n%s", diff)
	}
	requests(t, c, []catalog.Request{
		{Want: model, Count: 1, First: at.Add(time.Second), Last: at.Add(time.Second)},
		{Want: model, Group: "red", Count: 2, First: at, Last: at.Add(2 * time.Second)},
		{Want: node, Group: "red", Count: 1, First: at.Add(3 * time.Second), Last: at.Add(3 * time.Second)},
	})
	must(t, c.DropRequest(ctx, model))
	must(t, c.DropRequest(ctx, model))
	requests(t, c, []catalog.Request{{Want: node, Group: "red", Count: 1, First: at.Add(3 * time.Second), Last: at.Add(3 * time.Second)}})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
