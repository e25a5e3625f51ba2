package handover

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"go.uber.org/goleak"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/internal/bucket/buckettest"
	"github.com/ahelme/comfyume/internal/fault"
)

func TestMain(m *testing.M) {
	os.Setenv("AWS_ACCESS_KEY_ID", buckettest.Key)
	os.Setenv("AWS_SECRET_ACCESS_KEY", buckettest.Secret)
	goleak.VerifyTestMain(m)
}

// suite is what every place does. other opens the same place again, as the other side does.
func suite(t *testing.T, open func(t *testing.T) (place Place, other func() Place)) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, Place, func() Place){
		"round trip": roundTrip, "manifest last": manifestLast, "failing reader": failingReader, "hostile names": hostileNames,
		"wrong bytes": wrongBytes, "clean-up": cleanUp, "probe": probe, "replace": replace, "cancelled": cancelled,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			place, other := open(t)
			test(t, place, other)
		})
	}
}

func code(err error) string {
	if e, ok := errors.AsType[*fault.Error](err); ok {
		return e.Code
	}
	return ""
}

func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(n)}).Read(b) // never fails
	return b
}

func put(t *testing.T, p Place, run, name string, b []byte) Entry {
	t.Helper()
	e, err := p.Put(t.Context(), run, name, bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func seal(t *testing.T, p Place, run string, entries ...Entry) {
	t.Helper()
	if err := p.Seal(t.Context(), run, entries); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, p Place, run string, e Entry) ([]byte, error) {
	t.Helper()
	r, err := p.Open(t.Context(), run, e)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(r)
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	return b, err
}

// soon is a context that ends before anybody waits for long.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

func roundTrip(t *testing.T, p Place, other func() Place) {
	const run = "studio_0197-AB"
	var entries []Entry
	files := map[string][]byte{
		"output/a.png": noise(300_000), "output/sub/ä b.mp4": noise(9 << 20), "temp/empty.txt": {},
		"..": []byte("up"), "../../etc/passwd": []byte("up"), `C:\x`: []byte("c"), "a\x00b": []byte("nul"), ".": []byte("."),
	}
	for name, b := range files {
		e, err := p.Put(t.Context(), run, name, iotest.DataErrReader(bytes.NewReader(b)))
		if err != nil {
			t.Fatalf("%q: %v", name, err)
		}
		if e.Name != name || e.Size != int64(len(b)) || e.check() != nil {
			t.Errorf("%q became %+v", name, e)
		}
		entries = append(entries, e)
	}
	seal(t, p, run, entries...)
	there := other()
	got, err := there.Manifest(t.Context(), run)
	if diff := cmp.Diff(entries, got); err != nil || diff != "" {
		t.Fatalf("%v, -sealed +read:\n%s", err, diff)
	}
	for _, e := range got {
		if b, err := read(t, there, run, e); err != nil || !bytes.Equal(b, files[e.Name]) {
			t.Errorf("%q came back with %d bytes, %v", e.Name, len(b), err)
		}
	}
	seal(t, p, "empty")
	if got, err := there.Manifest(t.Context(), "empty"); err != nil || len(got) != 0 {
		t.Errorf("a run without outputs gave %v, %v", got, err)
	}
}

func manifestLast(t *testing.T, p Place, other func() Place) {
	there := other()
	if _, err := there.Manifest(soon(t), "run"); !fault.Is(err, fault.Missing) || !IsWrongMount(err) {
		t.Errorf("where nobody ever wrote Manifest gave %v", err)
	}
	e := put(t, p, "run", "a", []byte("x"))
	if _, err := there.Manifest(soon(t), "run"); code(err) != "handover_unfinished" {
		t.Errorf("before the manifest it gave %v", err)
	}
	if _, err := there.Manifest(soon(t), "other"); code(err) != "handover_nothing" {
		t.Errorf("another run gave %v", err)
	}
	done := make(chan error, 1)
	go func() {
		got, err := there.Manifest(t.Context(), "run")
		if err == nil && !slices.Equal(got, []Entry{e}) {
			err = errors.New("other entries")
		}
		done <- err
	}()
	seal(t, p, "run", e)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func failingReader(t *testing.T, p Place, _ func() Place) {
	boom := errors.New("boom")
	_, err := p.Put(t.Context(), "run", "a", io.MultiReader(bytes.NewReader(noise(9<<20)), iotest.ErrReader(boom)))
	if !errors.Is(err, boom) {
		t.Errorf("the reader's error came back as %v", err)
	}
	if err := p.Seal(t.Context(), "run", []Entry{{Name: "a", SHA256: strings.Repeat("0", 64)}}); err == nil {
		t.Error("an output that is not there was sealed")
	}
}

func hostileNames(t *testing.T, p Place, _ func() Place) {
	for _, run := range []string{"", ".", "..", "a/b", `a\b`, "a b", "é", strings.Repeat("a", 101), "a.b", "\x00"} {
		_, put := p.Put(t.Context(), run, "a", strings.NewReader("x"))
		_, open := p.Open(t.Context(), run, Entry{Name: "a", SHA256: strings.Repeat("0", 64)})
		_, index := p.Manifest(soon(t), run)
		if code(put) != "handover_run" || code(open) != "handover_run" || code(index) != "handover_run" ||
			code(p.Delete(t.Context(), run)) != "handover_run" || code(p.Seal(t.Context(), run, nil)) != "handover_run" {
			t.Errorf("run %q was taken", run)
		}
	}
	for _, name := range []string{"", "\xff", strings.Repeat("a", 1025)} {
		if _, err := p.Put(t.Context(), "run", name, strings.NewReader("x")); code(err) != "handover_entry" {
			t.Errorf("name %q gave %v", name, err)
		}
	}
	e := put(t, p, "run", "a", []byte("x"))
	for _, bad := range [][]Entry{{e, e}, {{Name: "a", Size: -1, SHA256: e.SHA256}}, {{Name: "a", Size: 1, SHA256: strings.ToUpper(e.SHA256)}}, {{Name: "a", Size: 1}}} {
		if err := p.Seal(t.Context(), "run", bad); code(err) != "handover_entry" {
			t.Errorf("%+v was sealed: %v", bad, err)
		}
	}
}

func wrongBytes(t *testing.T, p Place, _ func() Place) {
	e := put(t, p, "run", "a", noise(100_000))
	lie := e
	lie.SHA256 = strings.Repeat("0", 64)
	if _, err := read(t, p, "run", lie); code(err) != "handover_damaged" {
		t.Errorf("another hash gave %v", err)
	}
	for _, size := range []int64{e.Size - 1, e.Size + 1} {
		lie := e
		lie.Size = size
		r, err := p.Open(soon(t), "run", lie)
		if err == nil {
			_, err = io.ReadAll(r)
			_ = r.Close()
		}
		if code(err) != "handover_damaged" {
			t.Errorf("size %d in place of %d gave %v", size, e.Size, err)
		}
	}
}

func cleanUp(t *testing.T, p Place, other func() Place) {
	for _, run := range []string{"studio_1", "studio_2", "else_1"} {
		seal(t, p, run, put(t, p, run, "a", []byte("x")))
	}
	there := other()
	if got, err := there.Runs(t.Context(), time.Now().Add(-time.Hour)); err != nil || len(got) != 0 {
		t.Errorf("young runs are listed as old: %q, %v", got, err)
	}
	got, err := there.Runs(t.Context(), time.Now().Add(time.Hour))
	slices.Sort(got)
	if err != nil || !slices.Equal(got, []string{"else_1", "studio_1", "studio_2"}) {
		t.Errorf("runs: %q, %v", got, err)
	}
	for range 2 {
		if err := there.Delete(t.Context(), "studio_1"); err != nil {
			t.Error(err)
		}
	}
	if _, err := there.Manifest(soon(t), "studio_1"); !fault.Is(err, fault.Missing) {
		t.Errorf("a deleted run gave %v", err)
	}
	if got, err := there.Runs(t.Context(), time.Now().Add(time.Hour)); err != nil || len(got) != 2 {
		t.Errorf("runs after Delete: %q, %v", got, err)
	}
	for name, is := range map[string]bool{
		InputName("a_b", "x"): true, RunName("a_in-b", "0197-AB"): false, RunName("a", "b"): false, "in-a": true, "a_in-../b": false, "": false,
	} {
		if IsInput(name) != is {
			t.Errorf("%q is taken for an input: %t", name, !is)
		}
	}
	if !RunOf("studio", InputName("studio", "7")) || InputName("studio", "7") == InputName("studio", "8") {
		t.Error("inputs are not the studio's own, or have one name")
	}
	if !RunOf("studio", RunName("studio", "7")) || RunOf("studio", RunName("studio2", "7")) || RunOf("", "x_1") {
		t.Error("runs are taken for those of another studio")
	}
}

func probe(t *testing.T, p Place, other func() Place) {
	there := other()
	a, err := p.(Prober).ID(t.Context())
	b, err2 := there.(Prober).ID(t.Context())
	if err != nil || err2 != nil || a == "" || a != b {
		t.Fatalf("ids %q and %q, %v, %v", a, b, err, err2)
	}
	token, err := p.(Prober).Leave(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := there.(Prober).Sees(t.Context(), token); err != nil {
		t.Error(err)
	}
	if err := there.(Prober).Sees(soon(t), "NOTTHERE"); !IsWrongMount(err) {
		t.Errorf("a mark that nobody left gave %v", err)
	}
	if err := there.(Prober).Sees(soon(t), "../x"); !fault.Is(err, fault.Invalid) {
		t.Errorf("a hostile token gave %v", err)
	}
	if n, err := there.(Sweeper).Sweep(t.Context(), time.Now().Add(time.Hour)); err != nil || n != 1 {
		t.Errorf("Sweep cleared %d, %v", n, err)
	}
	if err := there.(Prober).Sees(soon(t), token); !IsWrongMount(err) {
		t.Errorf("a swept mark gave %v", err)
	}
}

func replace(t *testing.T, p Place, other func() Place) {
	put(t, p, "run", "a", []byte("first try"))
	e := put(t, p, "run", "a", []byte("second"))
	seal(t, p, "run", e)
	if b, err := read(t, other(), "run", e); err != nil || string(b) != "second" {
		t.Errorf("read %q, %v", b, err)
	}
}

func cancelled(t *testing.T, p Place, _ func() Place) {
	gone := errors.New("the person left")
	ctx, cancel := context.WithCancelCause(t.Context())
	_, err := p.Put(ctx, "run", "a", readerFunc(func(b []byte) (int, error) { cancel(gone); return copy(b, "never ends"), nil }))
	if !errors.Is(err, gone) {
		t.Errorf("Put gave %v", err)
	}
	if n, err := p.(Sweeper).Sweep(t.Context(), time.Now().Add(time.Hour)); err != nil || n != 0 {
		t.Errorf("a cancelled Put left %d pieces, %v", n, err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func inAnHour() time.Time { return time.Now().Add(time.Hour) }
