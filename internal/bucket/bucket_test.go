package bucket

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/minio/minio-go/v7"
	"go.uber.org/goleak"

	"github.com/ahelme/comfyume/internal/bucket/buckettest"
	"github.com/ahelme/comfyume/internal/fault"
)

func TestMain(m *testing.M) {
	os.Setenv("AWS_ACCESS_KEY_ID", buckettest.Key)
	os.Setenv("AWS_SECRET_ACCESS_KEY", buckettest.Secret)
	goleak.VerifyTestMain(m)
}

func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(n), byte(n >> 8)}).Read(b) // never fails
	return b
}

func code(err error) string {
	if e, ok := errors.AsType[*fault.Error](err); ok {
		return e.Code
	}
	return ""
}

// roundTripper lets a test stand between a bucket and its server.
type roundTripper func(r *http.Request, next http.RoundTripper) (*http.Response, error)

// open opens a bucket on server with faults on the way; nil: none.
func open(t testing.TB, server *buckettest.Server, faults roundTripper) *Bucket {
	t.Helper()
	a, err := ParseAddress(server.Address("pre/fix"))
	if err != nil {
		t.Fatal(err)
	}
	var o Options
	if faults != nil {
		next := transport()
		t.Cleanup(next.CloseIdleConnections)
		o.Transport = transportFunc(func(r *http.Request) (*http.Response, error) { return faults(r, next) })
	}
	o.Idle, o.Retries = 100*time.Millisecond, 2
	b, err := Open(a, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

type transportFunc func(*http.Request) (*http.Response, error)

func (f transportFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func put(t testing.TB, b *Bucket, key string, data []byte) {
	t.Helper()
	sum, err := b.Put(t.Context(), key, iotest.HalfReader(bytes.NewReader(data)))
	if err != nil {
		t.Fatal(err)
	}
	if sum.Size != int64(len(data)) || sum.SHA256 != sha256.Sum256(data) {
		t.Fatalf("Put of %d bytes gave %d, %x", len(data), sum.Size, sum.SHA256)
	}
}

func read(t testing.TB, b *Bucket, key string) ([]byte, error) {
	t.Helper()
	r, err := b.Open(t.Context(), key)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// holds fails the test unless key has data, as the server sees it.
func holds(t testing.TB, server *buckettest.Server, key string, data []byte) {
	t.Helper()
	if got, err := read(t, open(t, server, nil), key); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%s has %d bytes of %d, %v", key, len(got), len(data), err)
	}
}

func TestSizes(t *testing.T) {
	t.Parallel()
	b := open(t, buckettest.New(t), nil)
	for _, n := range []int{0, 1, smallSize - 1, smallSize, smallSize + 1, firstRead, firstRead + 1, partSize - 1, partSize, partSize + 1, 2 * partSize, 2*partSize + 7} {
		key, data := fmt.Sprint("k/", n), noise(n)
		put(t, b, key, data)
		got, err := read(t, b, key)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes came back as %d, %v", n, len(got), err)
		}
		if info, err := b.Stat(t.Context(), key); err != nil || info.Size != int64(n) || info.Modified.IsZero() {
			t.Errorf("%d bytes: %+v, %v", n, info, err)
		}
	}
	n := 0
	err := b.Each(t.Context(), "k/", func(i Info) error {
		n++
		if i.Key != fmt.Sprint("k/", i.Size) {
			t.Errorf("listed %+v", i)
		}
		return nil
	})
	if err != nil || n != 12 {
		t.Errorf("listed %d, %v", n, err)
	}
}

func TestManyKeys(t *testing.T) {
	t.Parallel()
	b := open(t, buckettest.New(t), nil)
	const many = 1100 // more than a page
	for i := range many {
		put(t, b, fmt.Sprint("k", i), nil)
	}
	n := 0
	if err := b.Each(t.Context(), "", func(Info) error { n++; return nil }); err != nil || n != many {
		t.Errorf("listed %d of %d, %v", n, many, err)
	}
	stop := errors.New("enough")
	if err := b.Each(t.Context(), "", func(Info) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("Each gave %v", err)
	}
}

func TestSeek(t *testing.T) {
	t.Parallel()
	b := open(t, buckettest.New(t), nil)
	data := noise(3<<20 + 11)
	put(t, b, "k", data)
	r, err := b.Open(t.Context(), "k")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 60 {
		at, buf := rnd.IntN(len(data)), make([]byte, 1+rnd.IntN(100_000))
		if n, err := r.Seek(int64(at), io.SeekStart); n != int64(at) || err != nil {
			t.Fatal(n, err)
		}
		n, err := io.ReadFull(r, buf)
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) || !bytes.Equal(buf[:n], data[at:min(len(data), at+len(buf))]) {
			t.Fatalf("at %d came %d bytes, %v", at, n, err)
		}
	}
	if _, err := r.Seek(-1, io.SeekStart); err == nil {
		t.Error("Seek went before the beginning")
	}
	if _, err := r.Seek(10, io.SeekEnd); err != nil {
		t.Error(err)
	}
	if _, err := r.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("behind the end comes %v", err)
	}
}

func TestReplacedWhileRead(t *testing.T) {
	t.Parallel()
	b := open(t, buckettest.New(t), nil)
	old := noise(3 << 20)
	put(t, b, "k", old)
	r, err := b.Open(t.Context(), "k")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	put(t, b, "k", noise(3<<20+1))
	got, err := io.ReadAll(r)
	if code(err) != "bucket_replaced" || !bytes.Equal(got, old[:len(got)]) || len(got) < firstRead {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
}

func TestReadingOutlivesTheRequest(t *testing.T) {
	t.Parallel()
	b := open(t, buckettest.New(t), nil)
	data := noise(2 << 20)
	put(t, b, "k", data)
	ctx, cancel := context.WithCancel(t.Context())
	r, err := b.Open(ctx, "k")
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, data) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if _, err := b.Open(ctx, "k"); !errors.Is(err, context.Canceled) {
		t.Errorf("Open gave %v", err)
	}
}

// cut is a body that breaks off after some bytes; stalled, one that gives nothing more.
type cut struct {
	io.ReadCloser
	left  int
	stall chan struct{} // closed by Close; nil: break off
}

func (c *cut) Read(p []byte) (int, error) {
	if c.left == 0 {
		if c.stall == nil {
			return 0, errors.New("connection reset by peer")
		}
		<-c.stall
		return 0, errors.New("closed")
	}
	n, err := c.ReadCloser.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}

func (c *cut) Close() error {
	if c.stall != nil {
		select {
		case <-c.stall:
		default:
			close(c.stall)
		}
	}
	return c.ReadCloser.Close()
}

func TestReadsThatAreCutGoOn(t *testing.T) {
	t.Parallel()
	server := buckettest.New(t)
	data := noise(2<<20 + 5)
	put(t, open(t, server, nil), "k", data)
	for _, stalls := range []bool{false, true} {
		asked := 0
		b := open(t, server, func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
			resp, err := next.RoundTrip(r)
			if err == nil && r.Method == http.MethodGet {
				asked++
				c := &cut{ReadCloser: resp.Body, left: 700_000}
				if stalls {
					c.stall = make(chan struct{})
				}
				resp.Body = c
			}
			return resp, err
		})
		if got, err := read(t, b, "k"); err != nil || !bytes.Equal(got, data) || asked < 3 {
			t.Errorf("read %d bytes of %d by %d requests, %v", len(got), len(data), asked, err)
		}
	}
	// A server that gives nothing at all is given up.
	b := open(t, server, func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
		resp, err := next.RoundTrip(r)
		if err == nil {
			resp.Body = &cut{ReadCloser: resp.Body}
		}
		return resp, err
	})
	if _, err := read(t, b, "k"); code(err) != "bucket_unreachable" || !fault.Is(err, fault.Unavailable) {
		t.Errorf("it gave %v", err)
	}
}

func TestUploadsThatAreCutAreSentAgain(t *testing.T) {
	t.Parallel()
	server := buckettest.New(t)
	for _, size := range []int{100_000, partSize + 100} {
		var cuts atomic.Int32
		b := open(t, server, func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
			if r.Method == http.MethodPut && cuts.Add(1) == 1 {
				_, _ = io.CopyN(io.Discard, r.Body, 50_000)
				return nil, errors.New("connection reset by peer")
			}
			return next.RoundTrip(r)
		})
		data := noise(size)
		put(t, b, "k", data)
		holds(t, server, "k", data)
		if cuts.Load() < 2 {
			t.Error("nothing was cut")
		}
	}
}

// flip changes a byte of each upload on its way.
func flip(r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err == nil && len(body) > 0 {
		body[len(body)/2] ^= 1
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
}

func TestDamagedUploads(t *testing.T) {
	t.Parallel()
	server := buckettest.New(t)
	whole := open(t, server, nil)
	for _, size := range []int{100_000, partSize + 100} {
		data := noise(size)
		// The server compares what came with Content-MD5: once it is sent again, always it is an error.
		for _, times := range []int32{1, 1000} {
			put(t, whole, "k", []byte("old"))
			var sent atomic.Int32
			b := open(t, server, func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
				if r.Method == http.MethodPut && sent.Add(1) <= times {
					flip(r)
				}
				return next.RoundTrip(r)
			})
			_, err := b.Put(t.Context(), "k", bytes.NewReader(data))
			if times == 1 && err == nil {
				holds(t, server, "k", data)
			} else if times == 1 || err == nil {
				t.Errorf("%d bytes, damaged %d times: %v", size, times, err)
			} else {
				holds(t, server, "k", []byte("old"))
			}
		}
		// A server that does not compare: its ETag tells, and the object goes.
		b := open(t, server, func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
			if r.Method == http.MethodPut {
				r.Header.Del("Content-Md5")
				flip(r)
			}
			return next.RoundTrip(r)
		})
		if _, err := b.Put(t.Context(), "damaged", bytes.NewReader(data)); code(err) != "bucket_damaged" {
			t.Errorf("%d bytes damaged without notice gave %v", size, err)
		}
		if _, err := whole.Stat(t.Context(), "damaged"); !errors.Is(err, ErrMissing) {
			t.Errorf("they are still there: %v", err)
		}
	}
	if n, err := whole.Sweep(t.Context(), "", time.Now().Add(time.Hour)); n != 0 || err != nil {
		t.Errorf("%d uploads were left unfinished, %v", n, err)
	}
}

// TestRangesThatAreNotWhatWasAsked: a server without ranges gives all, one that gives other bytes is refused.
func TestRangesThatAreNotWhatWasAsked(t *testing.T) {
	t.Parallel()
	server := buckettest.New(t)
	data := noise(3 << 20)
	put(t, open(t, server, nil), "k", data)
	for what, change := range map[string]func(*http.Request){
		"no ranges":     func(r *http.Request) { r.Header.Del("Range") },
		"another range": func(r *http.Request) { r.Header.Set("Range", "bytes=2500000-") },
	} {
		b := open(t, server, func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
			if r.Method == http.MethodGet && !strings.HasPrefix(r.Header.Get("Range"), "bytes=0-") {
				change(r)
			}
			return next.RoundTrip(r)
		})
		r, err := b.Open(t.Context(), "k")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Seek(2_000_000, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		r.Close()
		if what == "no ranges" && (err != nil || !bytes.Equal(got, data[2_000_000:])) || what != "no ranges" && (err == nil || len(got) != 0) {
			t.Errorf("%s: %d bytes, %v", what, len(got), err)
		}
	}
}

func TestETagsThatSayNothing(t *testing.T) {
	t.Parallel()
	server := buckettest.New(t)
	reads := 0
	b := open(t, server, func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
		resp, err := next.RoundTrip(r)
		if err == nil && r.Method == http.MethodPut {
			resp.Header.Set("ETag", `"encrypted"`)
		}
		if r.Method == http.MethodGet {
			reads++
		}
		return resp, err
	})
	put(t, b, "k", noise(100_000))
	if reads == 0 {
		t.Error("what was stored was not read back")
	}
}

func TestSweepEndsOldUploadsOnly(t *testing.T) {
	t.Parallel()
	b := open(t, buckettest.New(t), nil)
	for _, key := range []string{"a/1", "b/1"} {
		if _, err := b.core.NewMultipartUpload(t.Context(), buckettest.Bucket, b.name(key), minio.PutObjectOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		prefix string
		before time.Time
		want   int
	}{{"", time.Now().Add(-time.Hour), 0}, {"a/", time.Now().Add(time.Hour), 1}, {"", time.Now().Add(time.Hour), 1}, {"", time.Now().Add(time.Hour), 0}} {
		if n, err := b.Sweep(t.Context(), step.prefix, step.before); n != step.want || err != nil {
			t.Errorf("Sweep(%q) ended %d, %v; want %d", step.prefix, n, err, step.want)
		}
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte("TOPSECRET\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a, err := ParseAddress("s3://bucket/x?endpoint=h:1&key=env:AWS_ACCESS_KEY_ID&secret=" + "file:" + file)
	if err != nil {
		t.Fatal(err)
	}
	if key, secret, _, err := a.keys(); key != buckettest.Key || secret != "TOPSECRET" || err != nil {
		t.Errorf("keys are %q, %q, %v", key, secret, err)
	}
	a.secret = "file:" + file + ".none"
	if _, err := Open(a, Options{}); code(err) != "bucket_keys" {
		t.Errorf("a file that is not there gave %v", err)
	}
	if strings.Contains(fmt.Sprintf("%v %+v", a, a), "TOPSECRET") {
		t.Error("the secret is printed")
	}
}
