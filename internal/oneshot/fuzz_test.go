package oneshot_test

import (
	"bytes"
	"errors"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/backend/backendtest"
	"github.com/ahelme/comfyume/internal/backend/comfyui"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/oneshot"
)

// recordedAnswer is a whole answer of an agent.
func recordedAnswer(tb testing.TB) []byte {
	tb.Helper()
	fake := backendtest.NewFake()
	defer fake.Close()
	comfy := httptest.NewServer(fake.Handler())
	defer comfy.Close()
	driver, err := comfyui.New(comfy.URL, comfyui.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	jobs := oneshot.Handler(driver, oneshot.HandlerOptions{Dir: tb.TempDir()})
	rec := httptest.NewRecorder()
	jobs.ServeHTTP(rec, httptest.NewRequest("POST", "/run", bytes.NewReader(recordedRequest(tb, saveGraph))))
	if err := errors.Join(jobs.Close(), driver.Close()); err != nil {
		tb.Fatal(err)
	}
	return rec.Body.Bytes()
}

// recordedRequest is a whole request with an input.
func recordedRequest(tb testing.TB, graph string) []byte {
	tb.Helper()
	q := request(graph)
	q.Inputs = []oneshot.Input{{Name: "in.png", Size: 5, Sent: true}}
	body, _, err := oneshot.Body(q, []backend.Upload{{Name: "in.png", Size: 5, Open: func() (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader("input")), nil
	}}})
	if err != nil {
		tb.Fatal(err)
	}
	raw, err := io.ReadAll(body)
	if err != nil {
		tb.Fatal(err)
	}
	return raw
}

// FuzzAnswer gives a studio what a hostile container might send: it ends in an event or an error, takes no more bytes
// than it may, and believes in no end that is none.
func FuzzAnswer(f *testing.F) {
	whole := recordedAnswer(f)
	f.Add(whole)
	f.Add(whole[:len(whole)-5])
	f.Add([]byte("<html>"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		answer := oneshot.NewAnswer(bytes.NewReader(raw), nil, 1<<20)
		bytesOfFiles, results, open := 0, 0, false
		for range len(raw) + 1 {
			e, err := answer.Next()
			if err != nil {
				if !errors.Is(err, oneshot.ErrCut) && !errors.Is(err, oneshot.ErrCorrupt) && !errors.Is(err, oneshot.ErrForeign) {
					t.Fatalf("%v is of no class", err)
				}
				return
			}
			switch {
			case e.Open != nil:
				open = true
			case e.Data != nil:
				if bytesOfFiles += len(e.Data); !open {
					t.Fatal("bytes outside of a file")
				}
			case e.Close != nil:
				open = false
			case e.Result != nil:
				results++
			case e.End:
				if results != 1 || open {
					t.Fatalf("an end after %d results, inside of a file: %t", results, open)
				}
				return
			}
		}
		t.Fatal("more events than bytes")
	})
}

// FuzzRequest gives an agent what a hostile client might send: names never lead out, and inputs are what they should be.
func FuzzRequest(f *testing.F) {
	whole := recordedRequest(f, textGraph)
	f.Add(whole)
	f.Add(whole[:len(whole)-1])
	f.Add([]byte(""))
	f.Fuzz(func(t *testing.T, raw []byte) {
		got := map[int]*bytes.Buffer{}
		q, err := oneshot.ReadRequest(bytes.NewReader(raw), 1<<20, func(n int, _ oneshot.Input) (io.WriteCloser, error) {
			got[n] = &bytes.Buffer{}
			return nopCloser{got[n]}, nil
		})
		if err != nil {
			if !errors.Is(err, oneshot.ErrCut) && !errors.Is(err, oneshot.ErrCorrupt) && !errors.Is(err, oneshot.ErrForeign) && !fault.Is(err, fault.Invalid) {
				t.Fatalf("%v is of no class", err)
			}
			return
		}
		for i, in := range q.Inputs {
			if full := filepath.Join("input", in.Subfolder, in.Name); !filepath.IsLocal(full) || !strings.HasPrefix(full, "input"+string(filepath.Separator)) || strings.Contains(in.Name, "/") {
				t.Fatalf("the input %q in %q leads out", in.Name, in.Subfolder)
			}
			if in.Sent && int64(got[i].Len()) != in.Size {
				t.Fatalf("%d bytes of %d", got[i].Len(), in.Size)
			}
		}
	})
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// TestEveryCutAndFlipIsNoticed cuts and damages a whole answer at every place.
func TestEveryCutAndFlipIsNoticed(t *testing.T) {
	t.Parallel()
	whole := recordedAnswer(t)
	if a := read(bytes.NewReader(whole)); a.err != nil || a.result == nil {
		t.Fatalf("%+v", a)
	}
	for n := range whole {
		if a := read(bytes.NewReader(whole[:n])); a.err == nil {
			t.Fatalf("cut after %d of %d bytes: taken for whole", n, len(whole))
		}
		for _, bit := range []int{0, 5, 7} {
			damaged := bytes.Clone(whole)
			damaged[n] ^= 1 << bit
			if a := read(bytes.NewReader(damaged)); a.err == nil {
				t.Fatalf("bit %d of byte %d of %d changed: taken for right", bit, n, len(whole))
			}
		}
	}
}

// TestClaimsCostNothing has both sides claim records of the largest size and send none of it.
func TestClaimsCostNothing(t *testing.T) { // not parallel: it measures
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 100 {
		claim := "comfyume-run/1\nH\x03\xff\xff\xff\x00\x00\x00\x00{"
		if _, err := oneshot.ReadRequest(strings.NewReader(claim), 1<<20, nil); !errors.Is(err, oneshot.ErrCut) {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 64<<20 {
		t.Errorf("100 claims of 64 MB took %d MB", grown>>20)
	}
}

// TestHostileRequests wants each refused with a sentence, and nothing left behind.
func TestHostileRequests(t *testing.T) {
	t.Parallel()
	c := newContainer(t, oneshot.HandlerOptions{MaxInputs: 1000})
	for what, change := range map[string]func(*oneshot.Request){
		"run id":        func(q *oneshot.Request) { q.Run = "../../etc" },
		"no prompt":     func(q *oneshot.Request) { q.Prompt = []byte("[]") },
		"path":          func(q *oneshot.Request) { q.Inputs = []oneshot.Input{{Name: "../x", Size: 1}} },
		"folder":        func(q *oneshot.Request) { q.Inputs = []oneshot.Input{{Name: "x", Subfolder: "../..", Size: 1}} },
		"windows":       func(q *oneshot.Request) { q.Inputs = []oneshot.Input{{Name: `..\x`, Size: 1}} },
		"too large":     func(q *oneshot.Request) { q.Inputs = []oneshot.Input{{Name: "x", Size: 1001}} },
		"below nothing": func(q *oneshot.Request) { q.Inputs = []oneshot.Input{{Name: "x", Size: -1}} },
		"too many": func(q *oneshot.Request) {
			for i := range 300 {
				q.Inputs = append(q.Inputs, oneshot.Input{Name: strconv.Itoa(i)})
			}
		},
		"call-back": func(q *oneshot.Request) { q.CallBack = &oneshot.CallBack{URL: "file:///etc/passwd"} },
		"storage":   func(q *oneshot.Request) { q.Store = "../other" },
	} {
		q := request(textGraph)
		change(&q)
		resp := post(t, t.Context(), c.url, q)
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != 400 || !strings.Contains(string(body), `"message":"The`) {
			t.Errorf("%s: %s %s %v", what, resp.Status, body, err)
		}
	}
	if n := c.fake.Requests("POST /prompt"); n != 0 {
		t.Errorf("%d were run", n)
	}
	left, err := os.ReadDir(c.dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

// TestFullContainerSaysSo offers one job more than a container takes.
func TestFullContainerSaysSo(t *testing.T) {
	t.Parallel()
	c := newContainer(t, oneshot.HandlerOptions{Parallel: 1})
	q := request(tickGraph)
	first := post(t, t.Context(), c.url, q)
	if second := post(t, t.Context(), c.url, request(textGraph)); second.StatusCode != 429 || second.Header.Get("Retry-After") == "" {
		t.Error(second.Status, second.Header)
	}
	c.jobs.Close() // ends what runs, and says so
	if a := read(first.Body); a.trouble == nil || a.trouble.Class != "stopped" {
		t.Errorf("%+v", a)
	}
}
