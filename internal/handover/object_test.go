package handover

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ahelme/comfyume/internal/bucket/buckettest"
	"github.com/ahelme/comfyume/internal/fault"
)

func placeAt(t *testing.T, address string, o Options) Place {
	t.Helper()
	p, err := Open(address, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.(io.Closer).Close() })
	return p
}

func TestBucket(t *testing.T) {
	t.Parallel()
	server := buckettest.New(t)
	var n atomic.Int32
	suite(t, func(t *testing.T) (Place, func() Place) {
		address := server.Address(fmt.Sprint("p", n.Add(1)))
		return placeAt(t, address, Options{}), func() Place { return placeAt(t, address, Options{}) }
	})
}

func TestOtherObjectsStay(t *testing.T) {
	t.Parallel()
	server := buckettest.New(t)
	p := placeAt(t, server.Address(""), Options{}).(*objects)
	put(t, p, "run", "a", []byte("x"))
	for _, key := range []string{"ComfyUI_00001_.png", runs + "/stray", runs + "/two words/x"} {
		if _, err := p.b.Put(t.Context(), key, strings.NewReader("")); err != nil {
			t.Fatal(err)
		}
	}
	got, err := p.Runs(t.Context(), inAnHour())
	if err != nil || len(got) != 1 || got[0] != "run" {
		t.Errorf("runs: %q, %v", got, err)
	}
	if err := p.Delete(t.Context(), "run"); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"ComfyUI_00001_.png", runs + "/stray", runs + "/two words/x"} {
		if _, err := p.b.Stat(t.Context(), key); err != nil {
			t.Error(err)
		}
	}
}

func TestDamagedObject(t *testing.T) {
	t.Parallel()
	server := buckettest.New(t)
	e := put(t, placeAt(t, server.Address(""), Options{}), "run", "a", noise(100_000))
	next := &http.Transport{}
	t.Cleanup(next.CloseIdleConnections)
	p := placeAt(t, server.Address(""), Options{Transport: transportFunc(func(r *http.Request) (*http.Response, error) {
		resp, err := next.RoundTrip(r)
		if err == nil && r.Method == http.MethodGet {
			body, err := io.ReadAll(resp.Body)
			if err := errors.Join(err, resp.Body.Close()); err != nil {
				return nil, err
			}
			body[len(body)/2] ^= 1
			resp.Body = io.NopCloser(bytes.NewReader(body))
		}
		return resp, err
	})})
	if _, err := read(t, p, "run", e); code(err) != "handover_damaged" {
		t.Errorf("bytes damaged on their way gave %v", err)
	}
	gone := e
	gone.Name = "b"
	if _, err := p.Open(t.Context(), "run", gone); !fault.Is(err, fault.Unavailable) || code(err) != "handover_nothing" {
		t.Errorf("an object that is not there gave %v", err)
	}
}

type transportFunc func(*http.Request) (*http.Response, error)

func (f transportFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestBucketWithoutKeys(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"s3://bucket?endpoint=h&key=env:NOT_THERE&secret=env:NOT_THERE", "s3://x:SECRET@bucket", "s3://bucket?what=SECRET"} {
		if _, err := New(bad); !fault.Is(err, fault.Invalid) || strings.Contains(err.Error(), ":SECRET") || strings.Contains(err.Error(), "=SECRET") {
			t.Errorf("%q gave %v", bad, err)
		}
	}
}
