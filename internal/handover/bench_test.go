package handover

import (
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/blob/disk"
)

// film is how large a film is in benchmarks.
const film = 200 << 20

// stream gives the same n bytes each time, in constant memory.
func stream(n int64) io.Reader { return io.LimitReader(rand.NewChaCha8([32]byte{1}), n) }

// peak watches the heap until the returned function is called, which gives the most that was in use, in bytes, above
// what was in use at the beginning.
func peak() func() uint64 {
	runtime.GC()
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/unused:bytes"}}
	inUse := func() uint64 {
		metrics.Read(sample)
		return sample[0].Value.Uint64() + sample[1].Value.Uint64()
	}
	before, most := inUse(), uint64(0)
	stop := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				most = max(most, inUse())
			}
		}
	})
	return func() uint64 {
		close(stop)
		watching.Wait()
		return max(most, before) - before
	}
}

// sink is an S3 server, simulated, that keeps sizes and hashes only and gives the bytes of stream for every object.
type sink struct {
	mu    sync.Mutex
	parts [][]byte
}

func (s *sink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	switch {
	case r.Method == http.MethodPut:
		h := md5.New()
		_, _ = io.Copy(h, r.Body)
		s.mu.Lock()
		s.parts = append(s.parts, h.Sum(nil))
		s.mu.Unlock()
		w.Header().Set("ETag", `"`+hex.EncodeToString(h.Sum(nil))+`"`)
	case r.Method == http.MethodPost && q.Has("uploads"):
		s.mu.Lock()
		s.parts = nil
		s.mu.Unlock()
		fmt.Fprint(w, "<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>")
	case r.Method == http.MethodPost:
		h := md5.New()
		s.mu.Lock()
		for _, p := range s.parts {
			h.Write(p)
		}
		fmt.Fprintf(w, "<CompleteMultipartUploadResult><Bucket>bucket</Bucket><Key>k</Key><ETag>%x-%d</ETag></CompleteMultipartUploadResult>", h.Sum(nil), len(s.parts))
		s.mu.Unlock()
	default:
		s.give(w, r)
	}
}

func (s *sink) give(w http.ResponseWriter, r *http.Request) {
	from, to := int64(0), int64(film-1)
	if span, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes="); ok {
		a, b, _ := strings.Cut(span, "-")
		from, _ = strconv.ParseInt(a, 10, 64)
		if b != "" {
			to, _ = strconv.ParseInt(b, 10, 64)
		}
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to, film))
	}
	w.Header().Set("ETag", `"film"`)
	w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
	w.Header().Set("Content-Length", strconv.FormatInt(to+1-from, 10))
	if from > 0 || to < film-1 {
		w.WriteHeader(http.StatusPartialContent)
	}
	body := stream(film)
	_, _ = io.CopyN(io.Discard, body, from)
	_, _ = io.CopyN(w, body, to+1-from)
}

// BenchmarkFilm puts a film of 200 MB into a place and takes it out, and reports the most heap that took.
func BenchmarkFilm(b *testing.B) {
	server := httptest.NewServer(&sink{})
	defer server.Close()
	for name, address := range map[string]string{
		"folder": "file://" + filepath.ToSlash(b.TempDir()),
		"bucket": "s3://bucket/x?endpoint=" + url.QueryEscape(server.URL),
	} {
		p, err := New(address)
		if err != nil {
			b.Fatal(err)
		}
		if c, ok := p.(io.Closer); ok {
			defer c.Close()
		}
		var e Entry
		b.Run(name+"/put", func(b *testing.B) {
			b.SetBytes(film)
			done := peak()
			for b.Loop() {
				if e, err = p.Put(b.Context(), "run", "film.mp4", stream(film)); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(done())/1e6, "peak-MB")
		})
		b.Run(name+"/read", func(b *testing.B) {
			b.SetBytes(film)
			done := peak()
			for b.Loop() {
				r, err := p.Open(b.Context(), "run", e)
				if err == nil {
					_, err = io.Copy(io.Discard, r)
				}
				if err != nil {
					b.Fatal(err)
				}
				r.Close()
			}
			b.ReportMetric(float64(done())/1e6, "peak-MB")
		})
	}
}

// BenchmarkDelivery brings a film from a shared folder into the studio's bytes on the same file system: copied by the
// file system, and through the program.
func BenchmarkDelivery(b *testing.B) {
	dir := b.TempDir()
	store, err := disk.Open(filepath.Join(dir, "blobs"))
	if err != nil {
		b.Fatal(err)
	}
	defer store.Close()
	p := newFolder(dir, Options{Log: slog.New(slog.DiscardHandler)})
	e, err := p.Put(b.Context(), "run", "film.mp4", stream(film))
	if err != nil {
		b.Fatal(err)
	}
	for name, as := range map[string]func(io.Reader) io.Reader{
		"copied":   func(r io.Reader) io.Reader { return r },
		"streamed": func(r io.Reader) io.Reader { return struct{ io.Reader }{r} },
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(film)
			for b.Loop() {
				r, err := p.Open(b.Context(), "run", e)
				if err == nil {
					_, err = store.Put(b.Context(), "film", as(r))
				}
				if err != nil {
					b.Fatal(err)
				}
				r.Close()
			}
		})
	}
}
