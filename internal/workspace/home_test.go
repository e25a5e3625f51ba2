package workspace_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/file"
	"github.com/ahelme/comfyume/internal/workspace"
)

type home struct {
	*workspace.Home
	dir string
}

func newHome(t testing.TB, o workspace.HomeOptions) *home {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "users")
	return &home{reopen(t, dir, o), dir}
}

func reopen(t testing.TB, dir string, o workspace.HomeOptions) *workspace.Home {
	t.Helper()
	h, err := workspace.OpenHome(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

func (h *home) write(t testing.TB, user, p, body string) file.Entry {
	t.Helper()
	e, err := h.WriteUserdata(t.Context(), user, p, strings.NewReader(body), true)
	if err != nil {
		t.Fatalf("write %q: %v", p, err)
	}
	return e
}

func (h *home) read(t testing.TB, user, p string) string {
	t.Helper()
	e, r, err := h.OpenUserdata(user, p)
	if err != nil {
		t.Fatalf("open %q: %v", p, err)
	}
	b, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		t.Fatal(err)
	}
	if e.Size != int64(len(b)) || e.Path != p {
		t.Errorf("%q has %d bytes and is known as %+v", p, len(b), e)
	}
	return string(b)
}

func paths(list []file.Entry) (p []string) {
	for _, e := range list {
		if e.Dir {
			e.Path += "/"
		}
		p = append(p, e.Path)
	}
	return p
}

func TestUserdata(t *testing.T) {
	t.Parallel()
	h := newHome(t, workspace.HomeOptions{})
	if list, err := h.ListUserdata("ann", "", true); len(list) != 0 || err != nil {
		t.Errorf("a new person has %v, %v", list, err)
	}
	if _, err := h.ListUserdata("ann", "workflows", false); !fault.Is(err, fault.Missing) {
		t.Errorf("a folder that is not there gave %v", err)
	}
	e := h.write(t, "ann", "workflows/rec.json", `{"a": 1}`)
	if e.Path != "workflows/rec.json" || e.Size != 8 || e.Modified.IsZero() || e.Created.IsZero() || e.Dir {
		t.Errorf("what was written is %+v", e)
	}
	if _, err := h.WriteUserdata(t.Context(), "ann", "workflows/rec.json", strings.NewReader("x"), false); code(err) != workspace.CodeExists {
		t.Errorf("a write over a document gave %v", err)
	}
	h.write(t, "ann", "workflows//sub/./deep.json", "{}")
	h.write(t, "ann", "workflows/.index.json", "{}")
	h.write(t, "ann", "user.css", "")
	h.write(t, "bob", "workflows/his.json", "{}")
	for dir, want := range map[string][]string{
		"":               {"user.css", "workflows/", "workflows/.index.json", "workflows/rec.json", "workflows/sub/", "workflows/sub/deep.json"},
		"workflows":      {"workflows/.index.json", "workflows/rec.json", "workflows/sub/", "workflows/sub/deep.json"},
		"workflows/sub/": {"workflows/sub/deep.json"},
	} {
		list, err := h.ListUserdata("ann", dir, true)
		if diff := cmp.Diff(want, paths(list)); diff != "" || err != nil {
			t.Errorf("below %q, %v, -want +got:\n%s", dir, err, diff)
		}
	}
	list, err := h.ListUserdata("ann", "workflows", false)
	if diff := cmp.Diff([]string{"workflows/.index.json", "workflows/rec.json", "workflows/sub/"}, paths(list)); diff != "" || err != nil {
		t.Errorf("in workflows, %v, -want +got:\n%s", err, diff)
	}
	if _, err := h.ListUserdata("ann", "user.css", false); !fault.Is(err, fault.Invalid) {
		t.Errorf("a list of a file gave %v", err)
	}
	if got := h.read(t, "ann", "workflows/rec.json"); got != `{"a": 1}` {
		t.Errorf("the document holds %q", got)
	}

	if e, err := h.MoveUserdata("ann", "workflows/rec.json", "workflows/new/rec2.json", false); err != nil || e.Path != "workflows/new/rec2.json" || e.Size != 8 {
		t.Errorf("a move gave %+v, %v", e, err)
	}
	if _, err := h.MoveUserdata("ann", "workflows/rec.json", "workflows/x.json", true); !fault.Is(err, fault.Missing) {
		t.Errorf("a move of nothing gave %v", err)
	}
	if _, err := h.MoveUserdata("ann", "workflows/new/rec2.json", "workflows/sub/deep.json", false); code(err) != workspace.CodeExists {
		t.Errorf("a move onto a document gave %v", err)
	}
	if _, err := h.MoveUserdata("ann", "workflows/new/rec2.json", "workflows/sub/deep.json", true); err != nil {
		t.Error(err)
	}
	if got := h.read(t, "ann", "workflows/sub/deep.json"); got != `{"a": 1}` {
		t.Errorf("after the move the document holds %q", got)
	}
	if _, err := h.MoveUserdata("ann", "workflows/sub", "workflows/sub/below", true); !fault.Is(err, fault.Invalid) {
		t.Errorf("a folder moved into itself gave %v", err)
	}
	if e, err := h.MoveUserdata("ann", "workflows/sub", "kept", true); err != nil || !e.Dir {
		t.Errorf("a folder moved gave %+v, %v", e, err)
	}
	if _, err := h.MoveUserdata("ann", "kept", "workflows", true); code(err) != workspace.CodeExists {
		t.Errorf("a folder moved onto another gave %v", err)
	}
	if _, err := h.MoveUserdata("ann", "kept/deep.json", "kept/deep.json", true); err != nil {
		t.Errorf("a document moved onto itself gave %v", err)
	}

	if err := h.DeleteUserdata("ann", "kept"); !fault.Is(err, fault.Invalid) {
		t.Errorf("deletion of a folder gave %v", err)
	}
	if err := h.DeleteUserdata("ann", "kept/deep.json"); err != nil {
		t.Error(err)
	}
	if err := h.DeleteUserdata("ann", "kept/deep.json"); !fault.Is(err, fault.Missing) {
		t.Errorf("a second deletion gave %v", err)
	}
	if _, _, err := h.OpenUserdata("ann", "kept"); !fault.Is(err, fault.Invalid) {
		t.Errorf("a folder opened gave %v", err)
	}
	if _, err := h.WriteUserdata(t.Context(), "ann", "user.css/x", strings.NewReader(""), true); !fault.Is(err, fault.Invalid) {
		t.Errorf("a write below a file gave %v", err)
	}
	if _, err := h.WriteUserdata(t.Context(), "ann", "workflows", strings.NewReader(""), true); !fault.Is(err, fault.Invalid) {
		t.Errorf("a write over a folder gave %v", err)
	}
	if got := h.read(t, "bob", "workflows/his.json"); got != "{}" {
		t.Errorf("bob's document holds %q", got)
	}
	if err := h.ForgetDocuments("ann"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(h.dir, "ann")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a forgotten person's folder: %v", err)
	}
}

var badPaths = map[string]string{
	"..": file.CodeOutside, "../bob/x": file.CodeOutside, "a/../../bob/x": file.CodeOutside, "/etc/passwd": file.CodeOutside, "workflows/..": file.CodeOutside,
	`..\bob\x`: file.CodeBadName, `a\b`: file.CodeBadName, "a\x00b": file.CodeBadName, "a\nb": file.CodeBadName, "": file.CodeBadName, ".": file.CodeBadName,
	"con": file.CodeBadName, "a/nul.json": file.CodeBadName, "a./b": file.CodeBadName, "a /b": file.CodeBadName, "\xff": file.CodeBadName, "\u202ea": file.CodeBadName,
	".comfyume/x": file.CodeOutside, ".ComfyuME": file.CodeOutside, "x/" + strings.Repeat("a", 256): file.CodeBadName,
	strings.Repeat("a/", 600): file.CodeBadName, strings.Repeat("a/", 40) + "b": file.CodeBadName,
}

func TestUserdataRefusesPaths(t *testing.T) {
	t.Parallel()
	h := newHome(t, workspace.HomeOptions{})
	h.write(t, "ann", "a", "x")
	h.write(t, "bob", "x", "his")
	for p, want := range badPaths {
		_, write := h.WriteUserdata(t.Context(), "ann", p, strings.NewReader("x"), true)
		_, _, open := h.OpenUserdata("ann", p)
		_, from := h.MoveUserdata("ann", p, "b", true)
		_, to := h.MoveUserdata("ann", "a", p, true)
		for what, err := range map[string]error{"write": write, "open": open, "from": from, "to": to, "delete": h.DeleteUserdata("ann", p)} {
			if code(err) != want || !fault.Is(err, fault.Invalid) {
				t.Errorf("%s %.40q gave %v, want %s", what, p, err, want)
			}
		}
		if _, err := h.ListUserdata("ann", p, false); code(err) != want && p != "" && p != "." {
			t.Errorf("list %.40q gave %v, want %s", p, err, want)
		}
	}
	for _, user := range []string{"", "..", "ann/../bob", "Ann", ".tmp"} {
		if _, err := h.WriteUserdata(t.Context(), user, "x", strings.NewReader("x"), true); code(err) != "bad_user" {
			t.Errorf("user %q gave %v", user, err)
		}
	}
	if got := h.read(t, "bob", "x"); got != "his" {
		t.Errorf("bob's document holds %q", got)
	}
}

func TestUserdataSymlinks(t *testing.T) {
	t.Parallel()
	h := newHome(t, workspace.HomeOptions{})
	h.write(t, "ann", "real/a.json", "mine")
	h.write(t, "bob", "secret.json", "his")
	link := func(to, name string) {
		if err := os.Symlink(to, filepath.Join(h.dir, "ann", name)); err != nil {
			t.Skip("this system makes no symlinks: ", err)
		}
	}
	link("../bob", "friend")
	link("../bob/secret.json", "stolen.json")
	link("/etc", "etc")
	link("loop", "loop")
	link("real", "inside")
	for _, p := range []string{"friend/secret.json", "stolen.json", "etc/passwd", "loop", "loop/x"} {
		if _, r, err := h.OpenUserdata("ann", p); err == nil {
			t.Errorf("%q was opened: %v", p, r)
		}
	}
	for _, p := range []string{"friend/new.json", "etc/comfyume", "loop/x"} {
		if _, err := h.WriteUserdata(t.Context(), "ann", p, strings.NewReader("x"), true); err == nil {
			t.Errorf("%q was written", p)
		}
		if _, err := h.MoveUserdata("ann", "real/a.json", p, true); err == nil {
			t.Errorf("a document was moved to %q", p)
		}
	}
	if _, err := h.ListUserdata("ann", "friend", true); err == nil {
		t.Error("another's folder was listed")
	}
	// A write onto a link takes its place and leaves what it pointed to alone.
	h.write(t, "ann", "stolen.json", "mine now")
	if got := h.read(t, "bob", "secret.json"); got != "his" {
		t.Errorf("bob's document holds %q", got)
	}
	list, err := h.ListUserdata("ann", "", true)
	if diff := cmp.Diff([]string{"real/", "real/a.json", "stolen.json"}, paths(list)); diff != "" || err != nil {
		t.Errorf("%v, -want +got:\n%s", err, diff)
	}
	// A link that stays inside is the person's own matter.
	if got := readAll(t, h, "inside/a.json"); got != "mine" {
		t.Errorf("behind a link inside there is %q", got)
	}
}

func readAll(t *testing.T, h *home, p string) string {
	t.Helper()
	return h.read(t, "ann", p)
}

func TestUserdataLookAlikes(t *testing.T) {
	t.Parallel()
	h := newHome(t, workspace.HomeOptions{})
	names := []string{"\u00e9.json", "e\u0301.json", "A.json", "a.json", "\u0430.json" /* Cyrillic */, "a\u200d.json"}
	written := map[string]string{}
	for i, name := range names {
		body := fmt.Sprint("body ", i)
		_, err := h.WriteUserdata(t.Context(), "ann", "w/"+name, strings.NewReader(body), true)
		switch {
		case err == nil:
			written[name] = body
		case code(err) != workspace.CodeExists: // a file system that takes two of them for one refuses the second
			t.Errorf("%q gave %v", name, err)
		}
	}
	for name, body := range written {
		if got := h.read(t, "ann", "w/"+name); got != body {
			t.Errorf("%q holds %q, want %q", name, got, body)
		}
	}
}

func TestUserdataTimesGrow(t *testing.T) {
	t.Parallel()
	h := newHome(t, workspace.HomeOptions{})
	last := h.write(t, "ann", "a", "0").Modified.UnixMilli()
	for i := range 20 {
		next := h.write(t, "ann", "a", fmt.Sprint(i)).Modified.UnixMilli()
		if next <= last {
			t.Errorf("write %d is from %d, the one before from %d", i, next, last)
		}
		last = next
	}
	list, err := h.ListUserdata("ann", "", false)
	if err != nil || len(list) != 1 || list[0].Modified.UnixMilli() != last {
		t.Errorf("the list says %v, %v, want %d", list, err, last)
	}
}

func TestUserdataLimits(t *testing.T) {
	t.Parallel()
	full := false
	h := newHome(t, workspace.HomeOptions{
		Upload: 3 << 20, Quota: 8 << 20, Elsewhere: func(context.Context, string) (int64, error) { return 1 << 20, nil },
		Room: func(context.Context) error {
			if full {
				return fault.New(fault.Unavailable, "full").WithCode("disk_full")
			}
			return nil
		},
	})
	write := func(p string, n int) error {
		_, err := h.WriteUserdata(t.Context(), "ann", p, strings.NewReader(strings.Repeat("x", n)), true)
		return err
	}
	if err := write("a", 3<<20+1); code(err) != "too_large" {
		t.Errorf("a large document gave %v", err)
	}
	for _, p := range []string{"a", "b"} {
		if err := write(p, 3<<20); err != nil {
			t.Error(err)
		}
	}
	if err := write("c", 2<<20); code(err) != "disk_quota" {
		t.Errorf("beyond the quota came %v", err)
	}
	if err := write("a", 2<<20); err != nil {
		t.Errorf("a smaller one gave %v", err)
	}
	if err := write("c", 1<<20); err != nil {
		t.Errorf("after room was made came %v", err)
	}
	// Many documents of no size take room as well.
	refused := false
	for i := 0; i < 300 && !refused; i++ {
		refused = code(write(fmt.Sprint("d/", i), 0)) == "disk_quota"
	}
	if !refused {
		t.Error("300 empty documents fitted where there is room for 255")
	}
	used, err := h.Usage(t.Context(), "ann")
	if again, err2 := reopen(t, h.dir, workspace.HomeOptions{}).Usage(t.Context(), "ann"); err != nil || err2 != nil || again-used > 4096 || used > again {
		t.Errorf("usage is %d, %v and counted anew %d, %v", used, err, again, err2)
	}
	full = true
	if _, err := h.WriteUserdata(t.Context(), "bob", "a", strings.NewReader(strings.Repeat("x", 2<<20)), true); code(err) != "disk_full" {
		t.Errorf("a full disk gave %v", err)
	}
	if _, err := h.WriteUserdata(t.Context(), "bob", "a", strings.NewReader("my workflow"), true); err != nil {
		t.Errorf("on a disk that is filled up to what is kept free a workflow was refused: %v", err)
	}
}

func TestUserdataThatBreaks(t *testing.T) {
	t.Parallel()
	h := newHome(t, workspace.HomeOptions{})
	h.write(t, "ann", "a", "old")
	boom := errors.New("connection reset")
	_, err := h.WriteUserdata(t.Context(), "ann", "a", io.MultiReader(strings.NewReader("half"), iotest.ErrReader(boom)), true)
	if !errors.Is(err, boom) {
		t.Errorf("the reader's error came back as %v", err)
	}
	gone := errors.New("gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(gone)
	if _, err := h.WriteUserdata(ctx, "ann", "a", strings.NewReader("x"), true); !errors.Is(err, gone) {
		t.Errorf("who left got %v", err)
	}
	if got := h.read(t, "ann", "a"); got != "old" {
		t.Errorf("the document holds %q", got)
	}
	left, err := os.ReadDir(filepath.Join(h.dir, "ann", ".comfyume"))
	if err != nil || len(left) != 0 {
		t.Errorf("what was half written is still there: %v, %v", left, err)
	}
}

func TestUserdataConcurrent(t *testing.T) {
	t.Parallel()
	h := newHome(t, workspace.HomeOptions{Quota: 1 << 30})
	var wg sync.WaitGroup
	won := make([]bool, 16)
	for i := range won {
		wg.Go(func() {
			_, err := h.WriteUserdata(t.Context(), "ann", "new/one.json", strings.NewReader(fmt.Sprint(i)), false)
			won[i] = err == nil
			if err != nil && code(err) != workspace.CodeExists {
				t.Error(err)
			}
			if err := h.SetSetting("ann", fmt.Sprint("key", i), []byte("1")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	winner := -1
	for i, w := range won {
		if w && winner >= 0 {
			t.Errorf("%d and %d both made the document", winner, i)
		} else if w {
			winner = i
		}
	}
	if got := h.read(t, "ann", "new/one.json"); got != fmt.Sprint(winner) {
		t.Errorf("%d made the document, and it holds %q", winner, got)
	}
	all, err := h.Settings("ann")
	if err != nil || strings.Count(string(all), "key") != len(won) {
		t.Errorf("of %d settings these are left: %s, %v", len(won), all, err)
	}
}

// TestUserdataModel compares the documents with a map over random steps.
func TestUserdataModel(t *testing.T) {
	t.Parallel()
	h := newHome(t, workspace.HomeOptions{Quota: 1 << 40})
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		ann, want := fmt.Sprint("ann-", n), map[string]string{}
		name := rapid.SampledFrom([]string{"a", "b", "d/a", "d/e/a", "d/e/b"})
		rt.Repeat(map[string]func(*rapid.T){
			"write": func(t *rapid.T) {
				p, body, over := name.Draw(t, "path"), rapid.StringN(0, 5, -1).Draw(t, "body"), rapid.Bool().Draw(t, "overwrite")
				_, there := want[p]
				if _, err := h.WriteUserdata(context.Background(), ann, p, strings.NewReader(body), over); (err == nil) != (over || !there) {
					t.Fatalf("write gave %v", err)
				} else if err == nil {
					want[p] = body
				}
			},
			"delete": func(t *rapid.T) {
				p := name.Draw(t, "path")
				_, there := want[p]
				if err := h.DeleteUserdata(ann, p); (err == nil) != there {
					t.Fatalf("delete gave %v", err)
				}
				delete(want, p)
			},
			"move": func(t *rapid.T) {
				from, to, over := name.Draw(t, "from"), name.Draw(t, "to"), rapid.Bool().Draw(t, "overwrite")
				body, there := want[from]
				_, taken := want[to]
				if _, err := h.MoveUserdata(ann, from, to, over); (err == nil) != (there && (over || !taken)) {
					t.Fatalf("move gave %v", err)
				} else if err == nil {
					delete(want, from)
					want[to] = body
				}
			},
			"": func(t *rapid.T) {
				list, err := h.ListUserdata(ann, "", true)
				if err != nil {
					t.Fatal(err)
				}
				got, used := map[string]string{}, int64(0)
				for _, e := range list {
					if e.Dir {
						continue
					}
					used += max((e.Size+4095)/4096, 1) * 4096
					_, r, err := h.OpenUserdata(ann, e.Path)
					if err != nil {
						t.Fatal(err)
					}
					b, err := io.ReadAll(r)
					if err := errors.Join(err, r.Close()); err != nil {
						t.Fatal(err)
					}
					got[e.Path] = string(b)
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Fatalf("-want +got:\n%s", diff)
				}
				if u, err := h.Usage(context.Background(), ann); u < used || u > used+4*4096 || err != nil {
					t.Fatalf("usage is %d, %v; the files take %d", u, err, used)
				}
			},
		})
	})
}

func FuzzUserdataPath(f *testing.F) {
	for p := range badPaths {
		f.Add(p)
	}
	f.Add("workflows/my flow%2F..%2Fx.json")
	f.Add("e\u0301/．．/∕etc")
	h := newHome(f, workspace.HomeOptions{})
	h.write(f, "bob", "x", "his")
	outside := filepath.Join(filepath.Dir(h.dir), "canary")
	if err := os.WriteFile(outside, []byte("canary"), 0o600); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, p string) {
		e, err := h.WriteUserdata(t.Context(), "ann", p, strings.NewReader("fuzz"), true)
		if err != nil {
			if k := fault.KindOf(err); k != fault.Invalid && k != fault.Conflict {
				t.Fatalf("%q gave %v", p, err)
			}
		} else {
			if clean, err := file.CleanPath("", e.Path); err != nil || clean != e.Path {
				t.Fatalf("%q was written to %q", p, e.Path)
			}
			if got := h.read(t, "ann", e.Path); got != "fuzz" {
				t.Fatalf("%q holds %q", p, got)
			}
			if err := h.DeleteUserdata("ann", p); err != nil {
				t.Fatalf("%q can't be deleted: %v", p, err)
			}
		}
		if _, err := h.ListUserdata("ann", p, true); fault.KindOf(err) == fault.Internal && err != nil {
			t.Fatalf("list %q gave %v", p, err)
		}
		if b, err := os.ReadFile(outside); err != nil || string(b) != "canary" {
			t.Fatalf("%q reached a file outside: %q, %v", p, b, err)
		}
		if got := h.read(t, "bob", "x"); got != "his" {
			t.Fatalf("%q reached another's document: %q", p, got)
		}
	})
}

func BenchmarkHome(b *testing.B) {
	h := newHome(b, workspace.HomeOptions{Quota: 1 << 40})
	for i := range 50 {
		h.write(b, "ann", fmt.Sprintf("workflows/%d.json", i), strings.Repeat("x", 2000))
	}
	if err := h.MergeSettings("ann", []byte(`{"Comfy.A": 1, "Comfy.B": {"x": [1, 2, 3]}, "Comfy.C": "text"}`)); err != nil {
		b.Fatal(err)
	}
	b.Run("List50", func(b *testing.B) {
		for b.Loop() {
			if list, err := h.ListUserdata("ann", "workflows", true); err != nil || len(list) != 50 {
				b.Fatal(len(list), err)
			}
		}
	})
	b.Run("Settings", func(b *testing.B) {
		for b.Loop() {
			if _, err := h.Settings("ann"); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Write", func(b *testing.B) {
		for b.Loop() {
			h.write(b, "ann", "workflows/1.json", "{}")
		}
	})
}
