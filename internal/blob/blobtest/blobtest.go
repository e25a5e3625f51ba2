// Package blobtest is the suite that every blob.Store passes.
package blobtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ahelme/comfyume/internal/blob"
	"github.com/ahelme/comfyume/internal/fault"
)

// Run tests a store. open gives a new, empty one and closes it with the test.
func Run(t *testing.T, open func(t testing.TB) blob.Store) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, blob.Store){
		"round trip": roundTrip, "replace": replace, "failing reader": failingReader, "cancel": cancelled,
		"missing": missing, "keys": keys, "each": each, "concurrent": concurrent, "seek": seek, "free": free,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t))
		})
	}
	t.Run("model", func(t *testing.T) {
		t.Parallel()
		rapid.Check(t, func(rt *rapid.T) { model(rt, open(t)) })
	})
}

func read(t testing.TB, s blob.Store, key string) []byte {
	t.Helper()
	f, err := s.Open(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(f)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	return b
}

func put(t testing.TB, s blob.Store, key string, b []byte) {
	t.Helper()
	sum, err := s.Put(t.Context(), key, bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	if want := sha256.Sum256(b); sum.SHA256 != want || sum.Size != int64(len(b)) || sum.Hash() != hex.EncodeToString(want[:]) {
		t.Fatalf("Put of %d bytes gave size %d and hash %s", len(b), sum.Size, sum.Hash())
	}
}

func noise(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(n), byte(n >> 8)})
	_, _ = r.Read(b) // never fails
	return b
}

func roundTrip(t *testing.T, s blob.Store) {
	for _, n := range []int{0, 1, 4095, 128 << 10, 128<<10 + 1, 3 << 20} {
		key, want := blob.NewFileKey("ann"), noise(n)
		// A reader that gives little, and its error with the last bytes, is a reader too.
		sum, err := s.Put(t.Context(), key, iotest.DataErrReader(iotest.HalfReader(bytes.NewReader(want))))
		if err != nil {
			t.Fatal(err)
		}
		if sum.SHA256 != sha256.Sum256(want) || sum.Size != int64(n) {
			t.Errorf("Put of %d bytes gave %d, %s", n, sum.Size, sum.Hash())
		}
		if !bytes.Equal(read(t, s, key), want) {
			t.Errorf("%d bytes came back different", n)
		}
		item, err := s.Stat(t.Context(), key)
		if err != nil || item.Key != key || item.Size != int64(n) || item.Modified.IsZero() {
			t.Errorf("Stat of %d bytes gave %+v, %v", n, item, err)
		}
	}
}

func replace(t *testing.T, s blob.Store) {
	put(t, s, "ann/a", []byte("old"))
	f, err := s.Open(t.Context(), "ann/a")
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "ann/a", []byte("newer"))
	if b, err := io.ReadAll(f); err != nil || string(b) != "old" {
		t.Errorf("a reader that was open got %q, %v", b, err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if b := read(t, s, "ann/a"); string(b) != "newer" {
		t.Errorf("the key holds %q", b)
	}
}

func failingReader(t *testing.T, s blob.Store) {
	boom := errors.New("boom")
	put(t, s, "ann/a", []byte("old"))
	for _, key := range []string{"ann/a", "ann/b"} {
		_, err := s.Put(t.Context(), key, io.MultiReader(strings.NewReader("half"), iotest.ErrReader(boom)))
		if !errors.Is(err, boom) {
			t.Errorf("the reader's error came back as %v", err)
		}
	}
	if b := read(t, s, "ann/a"); string(b) != "old" {
		t.Errorf("a Put that failed left %q", b)
	}
	if _, err := s.Stat(t.Context(), "ann/b"); !fault.Is(err, fault.Missing) {
		t.Errorf("a Put that failed left its key: %v", err)
	}
	if got := list(t, s, ""); !slices.Equal(got, []string{"ann/a"}) {
		t.Errorf("the store lists %q", got)
	}
}

func cancelled(t *testing.T, s blob.Store) {
	gone := errors.New("the person left")
	ctx, cancel := context.WithCancelCause(t.Context())
	r := readerFunc(func(p []byte) (int, error) { cancel(gone); return copy(p, "never ends"), nil })
	if _, err := s.Put(ctx, "ann/a", r); !errors.Is(err, gone) {
		t.Errorf("Put gave %v", err)
	}
	if _, err := s.Stat(t.Context(), "ann/a"); !fault.Is(err, fault.Missing) {
		t.Errorf("a Put that was cancelled left its key: %v", err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func missing(t *testing.T, s blob.Store) {
	if _, err := s.Open(t.Context(), "ann/none"); !fault.Is(err, fault.Missing) {
		t.Errorf("Open gave %v", err)
	}
	if _, err := s.Stat(t.Context(), "bob/none"); !fault.Is(err, fault.Missing) {
		t.Errorf("Stat gave %v", err)
	}
	put(t, s, "ann/a", nil)
	for range 2 {
		if err := s.Delete(t.Context(), "ann/a"); err != nil {
			t.Errorf("Delete gave %v", err)
		}
	}
	if _, err := s.Open(t.Context(), "ann/a"); !fault.Is(err, fault.Missing) {
		t.Errorf("Open after Delete gave %v", err)
	}
}

func keys(t *testing.T, s blob.Store) {
	for _, key := range []string{
		"", "/a", "a/", "a//b", "..", "a/../b", ".tmp/x", "a/.x", "a\x00b", `a\b`, "A", "é", "a b",
		strings.Repeat("a", 129), strings.Repeat("a/", 300) + "b", "a.",
	} {
		_, put := s.Put(t.Context(), key, strings.NewReader("x"))
		_, open := s.Open(t.Context(), key)
		_, stat := s.Stat(t.Context(), key)
		if put == nil || open == nil || stat == nil || s.Delete(t.Context(), key) == nil {
			t.Errorf("key %q was accepted", key)
		}
	}
	a, b := blob.NewFileKey("ann"), blob.NewFileKey("ann")
	if err := errors.Join(blob.CheckKey(a), blob.CheckKey(b)); err != nil || a == b || !strings.HasPrefix(a, blob.FileKeys+"ann/") {
		t.Errorf("NewFileKey gave %q and %q, %v", a, b, err)
	}
	if thumb := blob.ThumbKey(a); blob.CheckKey(thumb) != nil || thumb == a || blob.PictureKey(thumb) != a || blob.PictureKey(a) != a {
		t.Errorf("the thumbnail of %q has the key %q", a, thumb)
	}
}

func list(t testing.TB, s blob.Store, prefix string) []string {
	t.Helper()
	var got []string
	err := s.Each(t.Context(), prefix, func(it blob.Item) error {
		got = append(got, it.Key)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	return got
}

func each(t *testing.T, s blob.Store) {
	for _, key := range []string{"ann/a", "ann/b/c", "anna/x", "bob/a", "top"} {
		put(t, s, key, []byte(key))
	}
	for prefix, want := range map[string][]string{
		"": {"ann/a", "ann/b/c", "anna/x", "bob/a", "top"}, "ann/": {"ann/a", "ann/b/c"},
		"ann": {"ann/a", "ann/b/c", "anna/x"}, "ann/b": {"ann/b/c"}, "ann/b/": {"ann/b/c"}, "none/": nil, "to": {"top"},
	} {
		if diff := cmp.Diff(want, list(t, s, prefix)); diff != "" {
			t.Errorf("keys that begin with %q, -want +got:\n%s", prefix, diff)
		}
	}
	boom := errors.New("boom")
	if err := s.Each(t.Context(), "", func(blob.Item) error { return boom }); !errors.Is(err, boom) {
		t.Errorf("Each gave %v", err)
	}
}

func concurrent(t *testing.T, s blob.Store) {
	const writers, size = 8, 64 << 10
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for range 5 {
				if _, err := s.Put(t.Context(), "ann/same", bytes.NewReader(bytes.Repeat([]byte{byte('a' + w)}, size))); err != nil {
					t.Error(err)
				}
				f, err := s.Open(t.Context(), "ann/same")
				if err != nil {
					t.Error(err)
					continue
				}
				b, err := io.ReadAll(f)
				if err := errors.Join(err, f.Close()); err != nil || len(b) != size || !bytes.Equal(b, bytes.Repeat(b[:1], size)) {
					t.Errorf("read %d bytes of several writers, %v", len(b), err)
				}
			}
		})
	}
	wg.Wait()
}

func seek(t *testing.T, s blob.Store) {
	put(t, s, "ann/a", []byte("0123456789"))
	f, err := s.Open(t.Context(), "ann/a")
	if err != nil {
		t.Fatal(err)
	}
	if n, err := f.Seek(0, io.SeekEnd); n != 10 || err != nil {
		t.Errorf("Seek to the end gave %d, %v", n, err)
	}
	if n, err := f.Seek(3, io.SeekStart); n != 3 || err != nil {
		t.Errorf("Seek gave %d, %v", n, err)
	}
	if b, err := io.ReadAll(f); string(b) != "3456789" || err != nil {
		t.Errorf("after Seek came %q, %v", b, err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

func free(t *testing.T, s blob.Store) {
	if n, err := s.Free(t.Context()); n <= 0 || err != nil {
		t.Errorf("Free gave %d, %v", n, err)
	}
}

// model compares the store with a map over random steps.
func model(t *rapid.T, s blob.Store) {
	want := map[string]string{}
	key := rapid.SampledFrom([]string{"a/1", "a/2", "a/b/3", "b/1", "c"})
	ctx := context.Background()
	t.Repeat(map[string]func(*rapid.T){
		"put": func(t *rapid.T) {
			k, v := key.Draw(t, "key"), rapid.String().Draw(t, "value")
			if _, err := s.Put(ctx, k, strings.NewReader(v)); err != nil {
				t.Fatal(err)
			}
			want[k] = v
		},
		"delete": func(t *rapid.T) {
			k := key.Draw(t, "key")
			if err := s.Delete(ctx, k); err != nil {
				t.Fatal(err)
			}
			delete(want, k)
		},
		"": func(t *rapid.T) {
			got := map[string]string{}
			err := s.Each(ctx, "", func(it blob.Item) error {
				f, err := s.Open(ctx, it.Key)
				if err != nil {
					return err
				}
				b, err := io.ReadAll(f)
				if int64(len(b)) != it.Size {
					return fmt.Errorf("%s has %d bytes and is listed with %d", it.Key, len(b), it.Size)
				}
				got[it.Key] = string(b)
				return errors.Join(err, f.Close())
			})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("-want +got:\n%s", diff)
			}
		},
	})
}

// Benchmark measures a store with the sizes of a picture and of a film.
func Benchmark(b *testing.B, open func(t testing.TB) blob.Store) {
	s := open(b)
	for name, size := range map[string]int{"35KB": 35 << 10, "5MB": 5 << 20} {
		data := noise(size)
		b.Run("Put/"+name, func(b *testing.B) {
			b.SetBytes(int64(size))
			for b.Loop() {
				if _, err := s.Put(b.Context(), "ann/put", bytes.NewReader(data)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	put(b, s, "ann/open", noise(35<<10))
	b.Run("Open", func(b *testing.B) {
		for b.Loop() {
			f, err := s.Open(b.Context(), "ann/open")
			if err != nil {
				b.Fatal(err)
			}
			if err := f.Close(); err != nil {
				b.Fatal(err)
			}
		}
	})
}
