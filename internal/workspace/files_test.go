package workspace_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/ahelme/comfyume/internal/blob"
	"github.com/ahelme/comfyume/internal/blob/disk"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/file"
	"github.com/ahelme/comfyume/internal/redis"
	"github.com/ahelme/comfyume/internal/redis/redistest"
	"github.com/ahelme/comfyume/internal/sqlite"
	"github.com/ahelme/comfyume/internal/workspace"
)

// studio is what the tests work on: real stores in a folder of their own.
type studio struct {
	dir   string
	files *workspace.Files
	blobs *roomy
}

// roomy is a disk whose free space the test says.
type roomy struct {
	*disk.Disk
	mu   sync.Mutex
	free int64
}

func (r *roomy) Free(ctx context.Context) (int64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.free < 0 {
		return r.Disk.Free(ctx)
	}
	return r.free, nil
}

func (r *roomy) set(free int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.free = free
}

// openNames opens a table of names in dir: over SQLite, or over Redis where COMFYUME_TEST_STORE says redis.
func openNames(t testing.TB, dir string) (names workspace.Store, shut func() error) {
	t.Helper()
	if os.Getenv("COMFYUME_TEST_STORE") == "redis" {
		db, err := redis.Open(t.Context(), redistest.Start(t, "everysec").URL(), redis.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return redis.NewFiles(db), db.Close
	}
	db, err := sqlite.Open(t.Context(), filepath.Join(dir, "studio.db"), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return sqlite.NewFiles(db), db.Close
}

func newStudio(t testing.TB, o workspace.Options) *studio {
	t.Helper()
	dir := t.TempDir()
	names, shut := openNames(t, dir)
	d, err := disk.Open(filepath.Join(dir, "blobs"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(shut(), d.Close()); err != nil {
			t.Error(err)
		}
	})
	blobs := &roomy{Disk: d, free: -1}
	return &studio{dir: dir, files: workspace.NewFiles(names, blobs, o), blobs: blobs}
}

func in(sub, name string) file.Ref { return file.Ref{Type: file.Input, Subfolder: sub, Name: name} }

func (s *studio) upload(t testing.TB, user string, ref file.Ref, overwrite bool, body string) file.Info {
	t.Helper()
	info, err := s.files.Upload(t.Context(), user, ref, overwrite, strings.NewReader(body))
	if err != nil {
		t.Fatalf("upload of %+v: %v", ref, err)
	}
	return info
}

func (s *studio) read(t testing.TB, user string, ref file.Ref) string {
	t.Helper()
	info, r, err := s.files.Open(t.Context(), user, ref)
	if err != nil {
		t.Fatalf("open %+v: %v", ref, err)
	}
	b, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		t.Fatal(err)
	}
	if info.Size != int64(len(b)) {
		t.Errorf("%+v has %d bytes and is known with %d", ref, len(b), info.Size)
	}
	return string(b)
}

// keys are the keys of the blob store.
func (s *studio) keys(t testing.TB) (keys []string) {
	t.Helper()
	err := s.blobs.Each(t.Context(), "", func(it blob.Item) error { keys = append(keys, it.Key); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func code(err error) string {
	if e, ok := errors.AsType[*fault.Error](err); ok {
		return e.Code
	}
	return ""
}

// TestUploadRules follows the recording files_upload_and_view.jsonl step by step.
func TestUploadRules(t *testing.T) {
	t.Parallel()
	s := newStudio(t, workspace.Options{})
	for _, step := range []struct {
		ref       file.Ref
		overwrite bool
		body      string
		want      file.Ref
	}{
		{in("", "up.png"), false, "one", in("", "up.png")},
		{in("", "up.png"), false, "one", in("", "up.png")},
		{in("", "up.png"), false, "two", in("", "up (1).png")},
		{in("", "up.png"), true, "three", in("", "up.png")},
		{in("pasted", "up.png"), false, "one", in("pasted", "up.png")},
		{file.Ref{Type: file.Temp, Name: "up.png"}, false, "one", file.Ref{Type: file.Temp, Name: "up.png"}},
		{in("", "..%2F..%2Fevil.png"), false, "one", in("", "..%2F..%2Fevil.png")},
		// beyond the recording
		{in("", "up.png"), false, "two", in("", "up (1).png")},
		{in("", "up.png"), false, "four", in("", "up (2).png")},
		{in("", "up (1).png"), false, "five", in("", "up (1) (1).png")},
		{in("pasted/", "up.png"), false, "one", in("pasted", "up.png")},
		{in("", ".profile"), false, "a", in("", ".profile")},
		{in("", ".profile"), false, "b", in("", ".profile (1)")},
	} {
		if got := s.upload(t, "ann", step.ref, step.overwrite, step.body); got.Ref != step.want || got.Size != int64(len(step.body)) {
			t.Errorf("upload of %q as %+v gave %+v, want %+v", step.body, step.ref, got, step.want)
		}
		if got := s.read(t, "ann", step.want); got != step.body {
			t.Errorf("%+v holds %q, want %q", step.want, got, step.body)
		}
	}
	list, err := s.files.List(t.Context(), "ann", file.Input)
	if err != nil {
		t.Fatal(err)
	}
	if got := len(s.keys(t)); got != len(list)+1 { // and the temp file
		t.Errorf("there are %d blobs for %d names", got, len(list)+1)
	}
	if u, err := s.files.Usage(t.Context(), "ann"); err != nil || u.Files != int64(len(list)+1) {
		t.Errorf("usage is %+v, %v", u, err)
	}
}

func TestUploadRefusesNames(t *testing.T) {
	t.Parallel()
	s := newStudio(t, workspace.Options{})
	for _, c := range []struct {
		ref  file.Ref
		code string
	}{
		{in("../../etc", "x"), file.CodeOutside},
		{in("", ".."), file.CodeOutside},
		{in("/etc", "x"), file.CodeOutside},
		{in("", "a/b"), file.CodeBadName},
		{in("", "a\x00"), file.CodeBadName},
		{in("", ""), file.CodeBadName},
		{in("", strings.Repeat("a", 256)), file.CodeBadName},
		{file.Ref{Type: "weird", Name: "x"}, file.CodeBadType},
	} {
		if _, err := s.files.Upload(t.Context(), "ann", c.ref, true, strings.NewReader("x")); code(err) != c.code || !fault.Is(err, fault.Invalid) {
			t.Errorf("%+v gave %v, want %s", c.ref, err, c.code)
		}
	}
	for _, user := range []string{"", "../bob", "ann/..", "Ann", "ann\x00", strings.Repeat("a", 33)} {
		if _, err := s.files.Upload(t.Context(), user, in("", "x"), true, strings.NewReader("x")); code(err) != "bad_user" {
			t.Errorf("user %q gave %v", user, err)
		}
	}
	if keys := s.keys(t); len(keys) != 0 {
		t.Errorf("refused uploads left %q", keys)
	}
}

// TestLookAlikes has names that some file systems, or some eyes, take for the same.
func TestLookAlikes(t *testing.T) {
	t.Parallel()
	s := newStudio(t, workspace.Options{})
	names := []string{
		"\u00e9.png", "e\u0301.png", "É.png", "cat.png", "CAT.png", "саt.png" /* Cyrillic */, "cat.\u200dpng", "\u00c5", "\u212b", "ﬁ.png", "fi.png",
		"a∕b.png", "a／b.png", "．．", "‥", "ſ.png", "s.png", "ı.png", "i.png", "İ.png",
	}
	for i, name := range names {
		if got := s.upload(t, "ann", in("", name), true, fmt.Sprint("body ", i)); got.Name != name {
			t.Errorf("%q was stored as %q", name, got.Name)
		}
	}
	for i, name := range names {
		if got := s.read(t, "ann", in("", name)); got != fmt.Sprint("body ", i) {
			t.Errorf("%q holds %q", name, got)
		}
	}
}

func TestOthersSeeNothing(t *testing.T) {
	t.Parallel()
	s := newStudio(t, workspace.Options{Thumbnail: func(_ context.Context, w io.Writer, _ io.Reader) error {
		_, err := io.WriteString(w, "small")
		return err
	}})
	s.upload(t, "ann", in("", "cat.png"), false, "hers")
	for _, user := range []string{"bob", "an", "anna", "ann-"} {
		_, _, open := s.files.Open(t.Context(), user, in("", "cat.png"))
		_, _, thumb := s.files.Thumb(t.Context(), user, in("", "cat.png"))
		_, stat := s.files.Stat(t.Context(), user, in("", "cat.png"))
		del := s.files.Delete(t.Context(), user, in("", "cat.png"))
		for what, err := range map[string]error{"open": open, "thumb": thumb, "stat": stat, "delete": del} {
			if !fault.Is(err, fault.Missing) {
				t.Errorf("%s by %s gave %v", what, user, err)
			}
		}
		if list, err := s.files.List(t.Context(), user, file.Input); len(list) != 0 || err != nil {
			t.Errorf("%s lists %v, %v", user, list, err)
		}
		if u, err := s.files.Usage(t.Context(), user); u != (workspace.Usage{}) || err != nil {
			t.Errorf("%s uses %v, %v", user, u, err)
		}
	}
	if got := s.upload(t, "bob", in("", "cat.png"), false, "his"); got.Name != "cat.png" {
		t.Errorf("bob's cat is called %q", got.Name)
	}
	if got := s.read(t, "ann", in("", "cat.png")); got != "hers" {
		t.Errorf("ann's cat is %q", got)
	}
}

func TestLookups(t *testing.T) {
	t.Parallel()
	s := newStudio(t, workspace.Options{})
	s.upload(t, "ann", in("a/b", "cat.png"), false, "x")
	for _, sub := range []string{"a/b", "a/b/", "./a//b", "a/./b"} {
		if got := s.read(t, "ann", in(sub, "cat.png")); got != "x" {
			t.Errorf("below %q there is %q", sub, got)
		}
	}
	for ref, want := range map[file.Ref]string{
		in("a", "cat.png"): "no_file", in("A/b", "cat.png"): "no_file", in("a/b", "Cat.png"): "no_file", in("a/b", "\x00"): "no_file",
		in("a/b", strings.Repeat("x", 10000)): "no_file", in("../..", "x.png"): file.CodeOutside, in("a/../../b", "x"): file.CodeOutside,
		in("/a/b", "cat.png"): file.CodeOutside, in("", ".."): file.CodeOutside, {Type: "weird", Name: "cat.png"}: file.CodeBadType,
	} {
		if _, err := s.files.Stat(t.Context(), "ann", ref); code(err) != want {
			t.Errorf("%+v gave %v, want %s", ref, err, want)
		}
	}
}

func TestOpenGivesAFile(t *testing.T) {
	t.Parallel()
	s := newStudio(t, workspace.Options{})
	s.upload(t, "ann", in("", "cat.png"), false, "x")
	_, r, err := s.files.Open(t.Context(), "ann", in("", "cat.png"))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, ok := r.(*os.File); !ok {
		t.Errorf("Open gives a %T: the kernel can't send it", r)
	}
}

func TestListNewestFirst(t *testing.T) {
	t.Parallel()
	s := newStudio(t, workspace.Options{})
	for _, name := range []string{"a", "b", "c"} {
		s.upload(t, "ann", in("", name), false, name)
	}
	before := s.upload(t, "ann", in("", "c"), false, "c").Modified
	after := s.upload(t, "ann", in("", "a"), true, "a")
	if !after.Modified.After(before) {
		t.Errorf("a file that was written again is from %v, the one before from %v", after.Modified, before)
	}
	names := func() (names []string) {
		list, err := s.files.List(t.Context(), "ann", file.Input)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range list {
			names = append(names, i.Name)
		}
		return names
	}
	if got := names(); !slices.Equal(got, []string{"a", "c", "b"}) {
		t.Errorf("the list is %q", got)
	}
	if err := s.files.Delete(t.Context(), "ann", in("", "c")); err != nil {
		t.Fatal(err)
	}
	if got := names(); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("after a deletion the list is %q", got)
	}
	if err := s.files.Delete(t.Context(), "ann", in("", "c")); !fault.Is(err, fault.Missing) {
		t.Errorf("a second deletion gave %v", err)
	}
	if keys := s.keys(t); len(keys) != 2 {
		t.Errorf("two files have the blobs %q", keys)
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	s := newStudio(t, workspace.Options{Upload: 10, Quota: 25, KeepFree: 5e9, Elsewhere: func(context.Context, string) (int64, error) { return 5, nil }})
	s.blobs.set(6e9)
	fails := func(what string, kind fault.Kind, want string, ref file.Ref, overwrite bool, n int) {
		t.Helper()
		_, err := s.files.Upload(t.Context(), "ann", ref, overwrite, bytes.NewReader(make([]byte, n)))
		if code(err) != want || !fault.Is(err, kind) {
			t.Errorf("%s gave %v, want %s", what, err, want)
		}
	}
	fails("a large file", fault.Invalid, "too_large", in("", "a"), false, 11)
	s.upload(t, "ann", in("", "a"), false, strings.Repeat("a", 10))
	s.upload(t, "ann", in("", "b"), false, strings.Repeat("b", 8))
	fails("beyond the quota", fault.Busy, "disk_quota", in("", "c"), false, 3)
	s.upload(t, "ann", in("", "b"), true, strings.Repeat("B", 10)) // what it replaces makes room
	fails("a full quota", fault.Busy, "disk_quota", in("", "c"), false, 1)
	fails("beside a file of a full quota", fault.Busy, "disk_quota", in("", "b"), false, 1)
	s.upload(t, "bob", in("", "a"), false, "his quota")
	if err := s.files.Within(t.Context(), "ann"); code(err) != "disk_quota" {
		t.Errorf("a full quota is said to be %v", err)
	}
	if err := s.files.Within(t.Context(), "bob"); err != nil {
		t.Errorf("bob is within the quota and gets %v", err)
	}
	s.blobs.set(4e9)
	fails("a disk without room", fault.Unavailable, "disk_full", in("", "a"), true, 1)
	err := s.files.Room(t.Context())
	if public, _ := fault.Public(err); code(err) != "disk_full" || !strings.Contains(public, "4 GB left, and 5 GB") {
		t.Errorf("the disk's room is said to be %v", err)
	}
	if len(s.keys(t)) != 3 {
		t.Errorf("three files have the blobs %q", s.keys(t))
	}
}
