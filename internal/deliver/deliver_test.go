package deliver_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/ahelme/comfyume/internal/blob"
	"github.com/ahelme/comfyume/internal/blob/disk"
	"github.com/ahelme/comfyume/internal/deliver"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/file"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
	"github.com/ahelme/comfyume/internal/redis"
	"github.com/ahelme/comfyume/internal/redis/redistest"
	"github.com/ahelme/comfyume/internal/sqlite"
	"github.com/ahelme/comfyume/internal/workspace"
)

// studio is a data folder with the parts that delivery works with, all of them real.
type studio struct {
	db      *sqlite.DB // nil: the names are in Redis
	shut    func() error
	names   names
	blobs   *disk.Disk
	queue   *queue.Service
	deliver *deliver.Service
	files   *workspace.Files
}

// names are people's files, as both packages see them.
type names interface {
	deliver.Store
	workspace.Store
}

func openStudio(t testing.TB, dir string) *studio {
	t.Helper()
	s := &studio{}
	var err error
	if s.blobs, err = disk.Open(filepath.Join(dir, "blobs")); err != nil {
		t.Fatal(err)
	}
	open := s.openSQLite
	if os.Getenv("COMFYUME_TEST_STORE") == "redis" {
		open = s.openRedis
	}
	if s.queue, err = queue.New(t.Context(), open(t, dir), queue.Options{}); err != nil {
		t.Fatal(err)
	}
	s.deliver = deliver.New(s.names, s.blobs, nil)
	s.files = workspace.NewFiles(s.names, s.blobs, workspace.Options{})
	return s
}

func (s *studio) openSQLite(t testing.TB, dir string) queue.Store {
	t.Helper()
	var err error
	if s.db, err = sqlite.Open(t.Context(), filepath.Join(dir, "studio.db"), sqlite.Options{}); err != nil {
		t.Fatal(err)
	}
	store, err := sqlite.NewQueue(t.Context(), s.db)
	if err != nil {
		t.Fatal(err)
	}
	s.names, s.shut = sqlite.NewFiles(s.db), s.db.Close
	return store
}

// openRedis finds the folder's redis-server by what is written there, or starts one: the tests run over Redis too, when
// COMFYUME_TEST_STORE says redis.
func (s *studio) openRedis(t testing.TB, dir string) queue.Store {
	t.Helper()
	address := filepath.Join(dir, "redis")
	url, err := os.ReadFile(address)
	if errors.Is(err, fs.ErrNotExist) {
		url = []byte(redistest.Start(t, "everysec").URL())
		err = os.WriteFile(address, url, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.WithoutCancel(t.Context())
	db, err := redis.Open(ctx, string(url), redis.Options{})
	if err != nil {
		t.Fatal(err)
	}
	store, err := redis.NewQueue(ctx, db)
	if err != nil {
		t.Fatal(err)
	}
	s.names, s.shut = redis.NewFiles(db), func() error { return errors.Join(store.Close(), db.Close()) }
	return store
}

func (s *studio) close(t testing.TB) {
	t.Helper()
	if err := errors.Join(s.shut(), s.blobs.Close()); err != nil {
		t.Error(err)
	}
}

func newStudio(t testing.TB) *studio {
	t.Helper()
	s := openStudio(t, t.TempDir())
	t.Cleanup(func() { s.close(t) })
	return s
}

func newID(t testing.TB) job.ID {
	t.Helper()
	id, err := uuid.NewV7()
	if err != nil {
		t.Fatal(err)
	}
	return job.ID(id.String())
}

// submit accepts a job of user and claims it.
func (s *studio) submit(t testing.TB, user string) job.Fence {
	t.Helper()
	id := newID(t)
	_, _, err := s.queue.Submit(t.Context(), job.Submission{
		ID: id, User: user, Created: time.Now(),
		Request: job.Request{Prompt: []byte(`{"9":{}}`), ExtraData: []byte(`{}`), Outputs: []string{"9"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return s.claim(t, id)
}

func (s *studio) claim(t testing.TB, id job.ID) job.Fence {
	t.Helper()
	e, _, err := s.queue.Claim(t.Context(), id, job.ClaimParams{
		BackEnd: "gpu1", RunID: string(newID(t)), ClientID: string(newID(t)), LeaseUntil: time.Now().Add(time.Hour),
	})
	if err != nil {
		t.Fatal(err)
	}
	return job.Fence{Job: id, N: e.Job.Attempt.Fence}
}

// again loses the attempt and starts another.
func (s *studio) again(t testing.TB, f job.Fence) job.Fence {
	t.Helper()
	if err := s.queue.Release(t.Context(), f.Job, f.N, "lost"); err != nil {
		t.Fatal(err)
	}
	return s.claim(t, f.Job)
}

func (s *studio) finish(t testing.TB, f job.Fence) {
	t.Helper()
	if err := s.queue.Finish(t.Context(), f.Job, f.N, job.Outcome{State: job.Completed, Outputs: []byte(`{}`)}); err != nil {
		t.Fatal(err)
	}
}

func out(name string) file.Ref { return file.Ref{Type: file.Output, Name: name} }

// output is what an attempt reports: the index-th picture of node 9.
func output(user string, f job.Fence, index int, ref file.Ref, body string) deliver.Output {
	return deliver.Output{
		User: user, Fence: f.N, Attempt: 1,
		Slot:   deliver.Slot{Job: f.Job, Node: "9", Key: "images", Index: index},
		Origin: deliver.Origin{BackEnd: "gpu1", Epoch: "e1", Ref: ref},
		Open: func(context.Context) (io.ReadCloser, error) {
			return io.NopCloser(strings.NewReader(body)), nil
		},
	}
}

func (s *studio) bring(t testing.TB, o deliver.Output) file.Info {
	t.Helper()
	info, err := s.deliver.Deliver(t.Context(), o)
	if err != nil {
		t.Fatalf("deliver %+v: %v", o.Origin, err)
	}
	return info
}

// holds are the names and bytes of a person's files.
func (s *studio) holds(t testing.TB, user string) map[string]string {
	t.Helper()
	got := map[string]string{}
	for _, typ := range []string{file.Input, file.Output, file.Temp} {
		list, err := s.files.List(t.Context(), user, typ)
		if err != nil {
			t.Fatal(err)
		}
		for _, info := range list {
			_, r, err := s.files.Open(t.Context(), user, info.Ref)
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(r)
			if err := errors.Join(err, r.Close()); err != nil {
				t.Fatal(err)
			}
			got[typ+"/"+filepath.ToSlash(filepath.Join(info.Subfolder, info.Name))] = string(b)
		}
	}
	return got
}

func (s *studio) is(t testing.TB, user string, want map[string]string) {
	t.Helper()
	if diff := cmp.Diff(want, s.holds(t, user)); diff != "" {
		t.Errorf("files of %s, -want +got:\n%s", user, diff)
	}
}

// keys counts what the blob store holds.
func (s *studio) keys(t testing.TB) (n int) {
	t.Helper()
	if err := s.blobs.Each(t.Context(), "", func(blob.Item) error { n++; return nil }); err != nil {
		t.Fatal(err)
	}
	return n
}

func code(err error) string {
	if e, ok := errors.AsType[*fault.Error](err); ok {
		return e.Code
	}
	return ""
}

func TestNamesAndCounters(t *testing.T) {
	t.Parallel()
	s := newStudio(t)
	f := s.submit(t, "ann")
	for i, c := range []struct {
		ref  file.Ref
		stem string
		want string
	}{
		{out("ComfyUI_00017_.png"), "", "output/ComfyUI_00001_.png"},
		{out("ComfyUI_00018_.png"), "", "output/ComfyUI_00002_.png"},
		{file.Ref{Type: file.Output, Subfolder: "a/b", Name: "x_00005_.png"}, "", "output/a/b/x_00001_.png"},
		{file.Ref{Type: file.Output, Subfolder: `win\dows`, Name: "x_00005_.png"}, "", "output/win/dows/x_00001_.png"},
		{file.Ref{Type: file.Output, Name: "sub/x_00005_.png"}, "", "output/sub/x_00001_.png"},
		{file.Ref{Type: file.Temp, Name: "ComfyUI_temp_abcde_00003_.png"}, "", "temp/ComfyUI_temp_abcde_00001_.png"},
		{file.Ref{Type: file.Output, Subfolder: "audio", Name: "ComfyUI_00009_.flac"}, "", "output/audio/ComfyUI_00001_.flac"},
		{out("wide_000006_.png"), "", "output/wide_000001_.png"},
		{out("ComfyUI_123456_.png"), "", "output/ComfyUI_00003_.png"},
		// a film, its first picture and its sound share a number, and come before others
		{out("AnimateDiff_00042.png"), "", "output/AnimateDiff_00001.png"},
		{out("AnimateDiff_00042.mp4"), "", "output/AnimateDiff_00001.mp4"},
		{out("AnimateDiff_00042-audio.mp4"), "", "output/AnimateDiff_00001-audio.mp4"},
		{out("AnimateDiff_00043.mp4"), "", "output/AnimateDiff_00002.mp4"},
		// without a counter
		{out("latest.png"), "", "output/latest.png"},
		{out("clip_2024.png"), "", "output/clip_0001.png"},
		{out("v_00012abc.png"), "", "output/v_00012abc.png"},
		{out("latest2.png"), "result", "output/result.png"},
		{out("big_00001_.png"), "small", "output/small_00001_.png"},
		// names that could do harm
		{file.Ref{Type: file.Output, Subfolder: "../../etc", Name: "passwd"}, "", "output/etc/passwd"},
		{out("../../../evil.png"), "", "output/evil.png"},
		{out("con.png"), "", "output/_con.png"},
		{out("a\x00b\u202e.png"), "", "output/a_b_.png"},
		{file.Ref{Type: "weird", Name: "x.bin"}, "", "output/x.bin"},
		{out(""), "", "output/_"},
		{out(strings.Repeat("x", 300) + "_00001_.png"), "", "output/" + strings.Repeat("x", 250) + ".png"},
	} {
		o := output("ann", f, i, c.ref, fmt.Sprint("body ", i))
		o.Stem = c.stem
		info := s.bring(t, o)
		if got := info.Type + "/" + filepath.ToSlash(filepath.Join(info.Subfolder, info.Name)); got != c.want {
			t.Errorf("%+v became %q, want %q", c.ref, got, c.want)
		}
		if _, err := info.Check(); err != nil {
			t.Errorf("%+v became a name that can't be used: %v", c.ref, err)
		}
		if info.Job != f.Job || info.Node != "9" || info.Size != int64(len(fmt.Sprint("body ", i))) {
			t.Errorf("%+v is known as %+v", c.ref, info)
		}
		if got := s.holds(t, "ann")[c.want]; got != fmt.Sprint("body ", i) {
			t.Errorf("%q holds %q", c.want, got)
		}
	}
	// Each person counts alone, and a number does not come again.
	g := s.submit(t, "bob")
	if info := s.bring(t, output("bob", g, 0, out("ComfyUI_00001_.png"), "his")); info.Name != "ComfyUI_00001_.png" {
		t.Errorf("bob's first picture is %q", info.Name)
	}
	if err := s.files.Delete(t.Context(), "ann", out("ComfyUI_00003_.png")); err != nil {
		t.Fatal(err)
	}
	if info := s.bring(t, output("ann", f, 900, out("ComfyUI_00019_.png"), "new")); info.Name != "ComfyUI_00004_.png" {
		t.Errorf("after a deletion comes %q", info.Name)
	}
}

func TestRepeats(t *testing.T) {
	t.Parallel()
	s := newStudio(t)
	f := s.submit(t, "ann")
	ref := out("ComfyUI_00007_.png")
	first := s.bring(t, output("ann", f, 0, ref, "picture"))
	o := output("ann", f, 0, ref, "")
	o.Open = func(context.Context) (io.ReadCloser, error) { return nil, errors.New("fetched twice") }
	if again := s.bring(t, o); again != first {
		t.Errorf("the same attempt got %+v and then %+v", first, again)
	}
	// The attempt is lost; another back end makes the same picture, then another one.
	f = s.again(t, f)
	o = output("ann", f, 0, out("ComfyUI_00001_.png"), "picture")
	o.BackEnd = "gpu2"
	if again := s.bring(t, o); again != first {
		t.Errorf("another attempt with the same bytes got %+v, want %+v", again, first)
	}
	f = s.again(t, f)
	o = output("ann", f, 0, out("ComfyUI_00055_.png"), "other picture")
	o.BackEnd = "gpu3"
	other := s.bring(t, o)
	if other.Ref != first.Ref || other.Hash == first.Hash || !other.Modified.After(first.Modified) {
		t.Errorf("another attempt with other bytes got %+v, before %+v", other, first)
	}
	s.is(t, "ann", map[string]string{"output/ComfyUI_00001_.png": "other picture"})
	// The next attempt's node writes another kind of file.
	f = s.again(t, f)
	s.bring(t, output("ann", f, 0, out("ComfyUI_00056_.webp"), "webp"))
	s.is(t, "ann", map[string]string{"output/ComfyUI_00002_.webp": "webp"})
	if n := s.keys(t); n != 1 {
		t.Errorf("one file has %d blobs", n)
	}
	s.finish(t, f)
	if u, err := s.files.Usage(t.Context(), "ann"); u != (workspace.Usage{Bytes: 4, Files: 1}) || err != nil {
		t.Errorf("usage is %+v, %v", u, err)
	}
}

func TestStaleAttempts(t *testing.T) {
	t.Parallel()
	s := newStudio(t)
	old := s.submit(t, "ann")
	s.bring(t, output("ann", old, 0, out("a_00001_.png"), "old"))
	current := s.again(t, old)
	stale := func(what string, user string, f job.Fence, index int) {
		t.Helper()
		_, err := s.deliver.Deliver(t.Context(), output(user, f, index, out("a_00009_.png"), "late"))
		if code(err) != "stale_fence" || !fault.Is(err, fault.Conflict) {
			t.Errorf("%s gave %v", what, err)
		}
	}
	stale("a lost attempt, known slot", "ann", old, 0)
	stale("a lost attempt, new slot", "ann", old, 1)
	stale("an attempt to come", "ann", job.Fence{Job: current.Job, N: current.N + 1}, 0)
	stale("a job that is not there", "ann", job.Fence{Job: newID(t), N: current.N}, 0)
	s.bring(t, output("ann", current, 0, out("a_00010_.png"), "new"))
	for index := range 2 { // what was delivered, and what was not
		if info, err := s.deliver.Deliver(t.Context(), output("bob", current, index, out("a_00010_.png"), "x")); err == nil {
			t.Errorf("bob got an output of ann's job: %+v", info)
		}
	}
	s.finish(t, current)
	stale("an attempt that is over", "ann", current, 1)
	s.is(t, "ann", map[string]string{"output/a_00001_.png": "new"})
	s.is(t, "bob", map[string]string{})
	if done, err := s.files.Sweep(t.Context(), time.Now().Add(48*time.Hour)); err != nil || done.Orphans > 2 {
		t.Errorf("refused outputs left %+v, %v", done, err) // bob's, which is a defect of the caller
	}
	if n := s.keys(t); n != 1 {
		t.Errorf("one file has %d blobs", n)
	}
}

func TestOwnerActsMeanwhile(t *testing.T) {
	t.Parallel()
	s := newStudio(t)
	f := s.submit(t, "ann")
	s.bring(t, output("ann", f, 0, out("a_00001_.png"), "one"))
	s.bring(t, output("ann", f, 1, out("a_00002_.png"), "two"))
	if err := s.files.Delete(t.Context(), "ann", out("a_00001_.png")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.files.Upload(t.Context(), "ann", out("a_00002_.png"), true, strings.NewReader("retouched")); err != nil {
		t.Fatal(err)
	}
	for i, ref := range []file.Ref{out("a_00001_.png"), out("a_00002_.png")} {
		if _, err := s.deliver.Resolve(t.Context(), deliver.Output{User: "ann", Origin: deliver.Origin{BackEnd: "gpu1", Epoch: "e1", Ref: ref}}); !fault.Is(err, fault.Missing) {
			t.Errorf("what its owner deleted or changed, %d, resolves: %v", i, err)
		}
	}
	// Repeated, each gets a new name; what the owner wrote stays.
	s.bring(t, output("ann", f, 0, out("a_00001_.png"), "one"))
	s.bring(t, output("ann", f, 1, out("a_00002_.png"), "two"))
	got := s.holds(t, "ann")
	var bodies []string
	for _, body := range got {
		bodies = append(bodies, body)
	}
	slices.Sort(bodies)
	if got["output/a_00002_.png"] != "retouched" || !slices.Equal(bodies, []string{"one", "retouched", "two"}) {
		t.Errorf("ann has %q", got)
	}
}

func TestResolve(t *testing.T) {
	t.Parallel()
	s := newStudio(t)
	f := s.submit(t, "ann")
	want := s.bring(t, output("ann", f, 0, out("ComfyUI_00007_.png"), "picture"))
	s.finish(t, f)
	from := deliver.Origin{BackEnd: "gpu1", Epoch: "e1", Ref: out("ComfyUI_00007_.png")}
	if got, err := s.deliver.Resolve(t.Context(), deliver.Output{User: "ann", Origin: from}); got != want || err != nil {
		t.Errorf("resolves to %+v, %v, want %+v", got, err, want)
	}
	missing := func(what, user string, from deliver.Origin) {
		t.Helper()
		if got, err := s.deliver.Resolve(t.Context(), deliver.Output{User: user, Origin: from}); !fault.Is(err, fault.Missing) {
			t.Errorf("%s resolves to %+v, %v", what, got, err)
		}
	}
	missing("another's picture", "bob", from)
	missing("another back end", "ann", deliver.Origin{BackEnd: "gpu2", Epoch: "e1", Ref: from.Ref})
	missing("another start", "ann", deliver.Origin{BackEnd: "gpu1", Epoch: "e2", Ref: from.Ref})
	missing("another type", "ann", deliver.Origin{BackEnd: "gpu1", Epoch: "e1", Ref: file.Ref{Type: file.Temp, Name: from.Ref.Name}})
	missing("another folder", "ann", deliver.Origin{BackEnd: "gpu1", Epoch: "e1", Ref: file.Ref{Type: file.Output, Subfolder: "a", Name: from.Ref.Name}})
	// The back end's counter came to the same name again, for bob: it is his now.
	g := s.submit(t, "bob")
	his := s.bring(t, output("bob", g, 0, from.Ref, "his"))
	if got, err := s.deliver.Resolve(t.Context(), deliver.Output{User: "bob", Origin: from}); got != his || err != nil {
		t.Errorf("resolves to %+v, %v, want %+v", got, err, his)
	}
	missing("what is bob's now", "ann", from)
	if err := s.deliver.Restarted(t.Context(), "gpu2", "e2"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.deliver.Resolve(t.Context(), deliver.Output{User: "bob", Origin: from}); err != nil {
		t.Errorf("the restart of another back end: %v", err)
	}
	if err := s.deliver.Restarted(t.Context(), "gpu1", "e2"); err != nil {
		t.Fatal(err)
	}
	missing("what came before the restart", "bob", from)
	s.is(t, "ann", map[string]string{"output/ComfyUI_00001_.png": "picture"})
}

// TestResolveOfARetry: an attempt that was lost had brought a file home, and the next one finds an equal one of an
// earlier job in its back end's cache. The job keeps its own.
func TestResolveOfARetry(t *testing.T) {
	t.Parallel()
	s := newStudio(t)
	first := s.submit(t, "ann")
	s.bring(t, output("ann", first, 0, out("ComfyUI_00007_.png"), "picture"))
	s.finish(t, first)
	again := s.submit(t, "ann")
	lost := output("ann", again, 0, out("ComfyUI_00001_.png"), "picture")
	lost.BackEnd = "gpu2"
	want := s.bring(t, lost)
	retry := output("ann", again, 0, out("ComfyUI_00007_.png"), "picture")
	if got, err := s.deliver.Resolve(t.Context(), retry); got != want || err != nil {
		t.Errorf("resolves to %+v, %v, want %+v", got, err, want)
	}
	if got, err := s.deliver.Resolve(t.Context(), output("bob", again, 0, out("none.png"), "")); !fault.Is(err, fault.Missing) {
		t.Errorf("another's resolves to %+v, %v", got, err)
	}
	s.is(t, "ann", map[string]string{"output/ComfyUI_00001_.png": "picture", "output/ComfyUI_00002_.png": "picture"})
}

func TestBackEndBreaks(t *testing.T) {
	t.Parallel()
	s := newStudio(t)
	f := s.submit(t, "ann")
	boom := errors.New("connection reset")
	o := output("ann", f, 0, out("a_00001_.png"), "")
	o.Open = func(context.Context) (io.ReadCloser, error) { return nil, boom }
	if _, err := s.deliver.Deliver(t.Context(), o); !errors.Is(err, boom) {
		t.Errorf("Open's error came back as %v", err)
	}
	o.Open = func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(io.MultiReader(strings.NewReader("half"), iotest.ErrReader(boom))), nil
	}
	if _, err := s.deliver.Deliver(t.Context(), o); !errors.Is(err, boom) {
		t.Errorf("the reader's error came back as %v", err)
	}
	if n := s.keys(t); n != 0 {
		t.Errorf("half an output left %d blobs", n)
	}
	if info := s.bring(t, output("ann", f, 0, out("a_00001_.png"), "whole")); info.Name != "a_00001_.png" {
		t.Errorf("after two failures the name is %q", info.Name)
	}
}

func TestPNGFilter(t *testing.T) {
	t.Parallel()
	s := newStudio(t)
	f := s.submit(t, "ann")
	const png = "\x89PNG\r\n\x1a\nsalt"
	unsalt := func(r io.Reader) io.Reader {
		b, err := io.ReadAll(r)
		if err != nil {
			return iotest.ErrReader(err)
		}
		return strings.NewReader(strings.ReplaceAll(string(b), "salt", "pepper"))
	}
	for i, c := range []struct{ name, body, want string }{
		{"a.png", png, "\x89PNG\r\n\x1a\npepper"},
		{"picture.bin", png, "\x89PNG\r\n\x1a\npepper"},
		{"b.png", "no salt here", "no salt here"},
		{"c.png", "\x89PN", "\x89PN"},
		{"d.png", "", ""},
	} {
		o := output("ann", f, i, out(c.name), c.body)
		o.PNG = unsalt
		if info := s.bring(t, o); s.holds(t, "ann")["output/"+info.Name] != c.want {
			t.Errorf("%s became %q", c.name, s.holds(t, "ann")["output/"+info.Name])
		}
	}
}

// peeker is a reader that can be looked into, as an output in a shared folder can.
type peeker struct {
	*strings.Reader
}

func (p peeker) Peek(n int) ([]byte, error) {
	b := make([]byte, n)
	n, err := p.ReadAt(b, 0)
	if err == io.EOF {
		err = nil
	}
	return b[:n], err
}

func (peeker) Close() error { return nil }

// asItIs is a store that notes what reader it was given.
type asItIs struct {
	blob.Store
	last io.Reader
}

func (s *asItIs) Put(ctx context.Context, key string, r io.Reader) (blob.Sum, error) {
	s.last = r
	return s.Store.Put(ctx, key, r)
}

// TestOutputsThatAreNoPNGStayWhatTheyAre: the store may know a quicker way for them.
func TestOutputsThatAreNoPNGStayWhatTheyAre(t *testing.T) {
	t.Parallel()
	s := newStudio(t)
	f := s.submit(t, "ann")
	store := &asItIs{Store: s.blobs}
	d := deliver.New(s.names, store, nil)
	for i, c := range []struct {
		body, want string
		direct     bool
	}{{"a film", "a film", true}, {"", "", true}, {"\x89PNG\r\n\x1a\nsalt", "filtered", false}} {
		o := output("ann", f, i, out(fmt.Sprint(i, ".bin")), "")
		o.PNG = func(io.Reader) io.Reader { return strings.NewReader("filtered") }
		o.Open = func(context.Context) (io.ReadCloser, error) { return peeker{Reader: strings.NewReader(c.body)}, nil }
		info, err := d.Deliver(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.holds(t, "ann")["output/"+info.Name]; got != c.want {
			t.Errorf("%q became %q", c.body, got)
		}
		if _, direct := store.last.(peeker); direct != c.direct {
			t.Errorf("%q reached the store as a %T", c.body, store.last)
		}
	}
}

func TestConcurrentDeliveries(t *testing.T) {
	t.Parallel()
	s := newStudio(t)
	f := s.submit(t, "ann")
	var wg sync.WaitGroup
	for i := range 24 {
		wg.Go(func() { // each slot three times at once
			o := output("ann", f, i/3, out(fmt.Sprintf("ComfyUI_%05d_.png", 100+i/3)), fmt.Sprint("body ", i/3))
			if _, err := s.deliver.Deliver(t.Context(), o); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	got := s.holds(t, "ann")
	bodies := map[string]bool{}
	for i := range 8 {
		bodies[got[fmt.Sprintf("output/ComfyUI_%05d_.png", i+1)]] = true
	}
	if len(got) != 8 || len(bodies) != 8 || s.keys(t) != 8 {
		t.Errorf("8 slots became %q with %d blobs", got, s.keys(t))
	}
}

func TestPrune(t *testing.T) {
	t.Parallel()
	s := newStudio(t)
	if s.db == nil {
		t.Skip("the rows are counted in SQLite; internal/redis counts its own")
	}
	over, open := s.submit(t, "ann"), s.submit(t, "ann")
	temp := file.Ref{Type: file.Temp, Name: "ComfyUI_temp_x_00001_.png"}
	for i := range 3 {
		s.bring(t, output("ann", over, i, out("a_00001_.png"), fmt.Sprint(i)))
		s.bring(t, output("ann", open, i, temp, fmt.Sprint(i)))
	}
	s.finish(t, over)
	rows := func(query string) (n int) {
		t.Helper()
		if err := s.db.QueryRow(t.Context(), query).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if err := s.deliver.Prune(t.Context(), time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	if n := rows(`select count(*) from delivery`); n != 3 {
		t.Errorf("%d slots are left, want those of the open job", n)
	}
	if n := rows(`select count(*) from file_counter`); n != 2 {
		t.Errorf("%d counters are left, want both", n)
	}
	if err := s.deliver.Prune(t.Context(), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if n := rows(`select count(*) from file_counter where type = 'output'`); n != 1 || rows(`select count(*) from file_counter`) != 1 {
		t.Errorf("%d output counters are left, want only that", n)
	}
	o := output("ann", open, 0, temp, "")
	o.Open = func(context.Context) (io.ReadCloser, error) { return nil, errors.New("fetched twice") }
	s.bring(t, o)
}

func BenchmarkDeliver(b *testing.B) {
	s := newStudio(b)
	f := s.submit(b, "ann")
	body := strings.Repeat("x", 35<<10)
	i := 0
	b.Run("New", func(b *testing.B) {
		b.SetBytes(int64(len(body)))
		for b.Loop() {
			s.bring(b, output("ann", f, i, out(fmt.Sprintf("ComfyUI_%05d_.png", i)), body))
			i++
		}
	})
	b.Run("Repeat", func(b *testing.B) {
		s.bring(b, output("ann", f, 0, out("ComfyUI_00000_.png"), body))
		for b.Loop() {
			s.bring(b, output("ann", f, 0, out("ComfyUI_00000_.png"), body))
		}
	})
	b.Run("Resolve", func(b *testing.B) {
		from := deliver.Origin{BackEnd: "gpu1", Epoch: "e1", Ref: out("ComfyUI_00000_.png")}
		for b.Loop() {
			if _, err := s.deliver.Resolve(b.Context(), deliver.Output{User: "ann", Origin: from}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
