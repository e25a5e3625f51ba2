package workspace_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ahelme/comfyume/internal/blob"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/file"
	"github.com/ahelme/comfyume/internal/workspace"
)

// endless gives bytes and lets the disk fill up on the way.
type endless struct {
	n     int
	after int
	then  func()
}

func (e *endless) Read(p []byte) (int, error) {
	if e.n += len(p); e.n > e.after {
		e.then()
	}
	return len(p), nil
}

func TestDiskFillsUpDuringAnUpload(t *testing.T) {
	t.Parallel()
	s := newStudio(t, workspace.Options{KeepFree: 1000})
	s.blobs.set(2000)
	r := &endless{after: 1 << 20, then: func() { s.blobs.set(500) }}
	_, err := s.files.Upload(t.Context(), "ann", in("", "film.mp4"), false, r)
	if code(err) != "disk_full" || r.n > 64<<20 {
		t.Errorf("after %d bytes came %v", r.n, err)
	}
	if keys := s.keys(t); len(keys) != 0 {
		t.Errorf("the upload left %q", keys)
	}
}

func TestUploadThatBreaks(t *testing.T) {
	t.Parallel()
	s := newStudio(t, workspace.Options{})
	boom := errors.New("connection reset")
	_, err := s.files.Upload(t.Context(), "ann", in("", "a"), false, io.MultiReader(strings.NewReader("half"), iotest.ErrReader(boom)))
	if !errors.Is(err, boom) {
		t.Errorf("the reader's error came back as %v", err)
	}
	if _, err := s.files.Stat(t.Context(), "ann", in("", "a")); !fault.Is(err, fault.Missing) {
		t.Errorf("half an upload is there: %v", err)
	}
}

func TestConcurrentUploadsOfOneName(t *testing.T) {
	t.Parallel()
	s := newStudio(t, workspace.Options{})
	const people = 16
	names := make([]string, people)
	var wg sync.WaitGroup
	for i := range people {
		wg.Go(func() {
			info, err := s.files.Upload(t.Context(), "ann", in("pasted", "image.png"), false, strings.NewReader(fmt.Sprint("body ", i/2)))
			if err != nil {
				t.Error(err)
			}
			names[i] = info.Name
		})
	}
	wg.Wait()
	bodies := map[string]string{}
	for i, name := range names {
		body := fmt.Sprint("body ", i/2)
		if other, there := bodies[name]; there && other != body {
			t.Errorf("%q was given to %q and %q", name, other, body)
		}
		bodies[name] = body
		if got := s.read(t, "ann", in("pasted", name)); got != body {
			t.Errorf("%q holds %q, want %q", name, got, body)
		}
	}
	if len(bodies) != people/2 || len(s.keys(t)) != people/2 {
		t.Errorf("%d bodies have %d names and %d blobs", people/2, len(bodies), len(s.keys(t)))
	}
}

func TestOverwriteWhileOthersRead(t *testing.T) {
	t.Parallel()
	s := newStudio(t, workspace.Options{})
	s.upload(t, "ann", in("", "a"), true, strings.Repeat("0", 5000))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				_, r, err := s.files.Open(t.Context(), "ann", in("", "a"))
				if err != nil {
					t.Error(err)
					return
				}
				b, err := io.ReadAll(r)
				if err := errors.Join(err, r.Close()); err != nil || len(b) != 5000 || strings.Trim(string(b), string(b[:1])) != "" {
					t.Errorf("read %d bytes, %v", len(b), err)
				}
			}
		})
	}
	for i := range 40 {
		s.upload(t, "ann", in("", "a"), true, strings.Repeat(fmt.Sprint(i%10), 5000))
	}
	close(stop)
	wg.Wait()
}

func TestSweep(t *testing.T) {
	t.Parallel()
	s := newStudio(t, workspace.Options{Thumbnail: func(_ context.Context, w io.Writer, _ io.Reader) error {
		_, err := io.WriteString(w, "small")
		return err
	}})
	temp := file.Ref{Type: file.Temp, Name: "t.png"}
	s.upload(t, "ann", temp, false, "temp")
	s.upload(t, "ann", in("", "keep.png"), false, "keep")
	for _, ref := range []file.Ref{temp, in("", "keep.png")} {
		_, r, err := s.files.Thumb(t.Context(), "ann", ref)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	orphan, young, other := blob.NewFileKey("ann"), blob.NewFileKey("ann"), "packs/x"
	for _, key := range []string{orphan, blob.ThumbKey(orphan), young, other} {
		if _, err := s.blobs.Put(t.Context(), key, strings.NewReader("lost")); err != nil {
			t.Fatal(err)
		}
	}
	age := func(key string) {
		old := time.Now().Add(-25 * time.Hour)
		if err := os.Chtimes(filepath.Join(s.dir, "blobs", key), old, old); err != nil {
			t.Fatal(err)
		}
	}
	age(orphan)
	age(blob.ThumbKey(orphan))
	age(other)
	done, err := s.files.Sweep(t.Context(), time.Now())
	if err != nil || done != (workspace.Swept{Orphans: 2}) {
		t.Errorf("the first sweep did away with %+v, %v", done, err)
	}
	for _, key := range s.keys(t) { // all others are old as well now, and have names
		if key != young {
			age(key)
		}
	}
	done, err = s.files.Sweep(t.Context(), time.Now().Add(6*24*time.Hour))
	if err != nil || done.Temp != 0 {
		t.Errorf("after six days went %+v, %v", done, err)
	}
	done, err = s.files.Sweep(t.Context(), time.Now().Add(7*24*time.Hour+time.Minute))
	if err != nil || done.Temp != 1 {
		t.Errorf("after seven days went %+v, %v", done, err)
	}
	if _, err := s.files.Stat(t.Context(), "ann", temp); !fault.Is(err, fault.Missing) {
		t.Errorf("the temp file is still there: %v", err)
	}
	if got := s.read(t, "ann", in("", "keep.png")); got != "keep" {
		t.Errorf("the input holds %q", got)
	}
	if err := s.files.Forget(t.Context(), "ann"); err != nil {
		t.Fatal(err)
	}
	for _, key := range s.keys(t) {
		if key != other && key != young {
			t.Errorf("%q is still there", key)
		}
	}
}

func TestThumb(t *testing.T) {
	t.Parallel()
	made := 0
	s := newStudio(t, workspace.Options{Thumbnail: func(_ context.Context, w io.Writer, r io.Reader) error {
		made++
		b, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		if string(b) == "text" {
			return fault.New(fault.Invalid, "That is no picture.")
		}
		_, err = io.WriteString(w, "small "+string(b))
		return err
	}})
	thumb := func(name string) (string, error) {
		_, r, err := s.files.Thumb(t.Context(), "ann", in("", name))
		if err != nil {
			return "", err
		}
		b, err := io.ReadAll(r)
		return string(b), errors.Join(err, r.Close())
	}
	s.upload(t, "ann", in("", "a.png"), true, "one")
	for range 2 {
		if got, err := thumb("a.png"); got != "small one" || err != nil {
			t.Errorf("the thumbnail is %q, %v", got, err)
		}
	}
	if made != 1 {
		t.Errorf("the thumbnail was made %d times", made)
	}
	s.upload(t, "ann", in("", "a.png"), true, "two")
	if got, err := thumb("a.png"); got != "small two" || err != nil {
		t.Errorf("after a change the thumbnail is %q, %v", got, err)
	}
	s.upload(t, "ann", in("", "a.txt"), true, "text")
	if _, err := thumb("a.txt"); code(err) != "no_thumbnail" {
		t.Errorf("a text has the thumbnail %v", err)
	}
	if keys := s.keys(t); len(keys) != 3 {
		t.Errorf("two files and a thumbnail are %q", keys)
	}
}

// TestFilesModel compares the files with a map over random steps, quota and look-ups included.
func TestFilesModel(t *testing.T) {
	t.Parallel()
	s := newStudio(t, workspace.Options{})
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		ann := fmt.Sprint("ann-", n) // a new person each time, for a new studio takes long
		want := map[file.Ref]string{}
		ref := rapid.Custom(func(t *rapid.T) file.Ref {
			return file.Ref{
				Type:      rapid.SampledFrom([]string{file.Input, file.Output}).Draw(t, "type"),
				Subfolder: rapid.SampledFrom([]string{"", "a"}).Draw(t, "subfolder"),
				Name:      rapid.SampledFrom([]string{"x.png", "x (1).png", "y"}).Draw(t, "name"),
			}
		})
		ctx := context.Background()
		rt.Repeat(map[string]func(*rapid.T){
			"upload": func(t *rapid.T) {
				r, body := ref.Draw(t, "ref"), rapid.SampledFrom([]string{"", "1", "22", "333"}).Draw(t, "body")
				overwrite := rapid.Bool().Draw(t, "overwrite")
				info, err := s.files.Upload(ctx, ann, r, overwrite, strings.NewReader(body))
				if err != nil {
					t.Fatal(err)
				}
				old, taken := want[info.Ref]
				switch {
				case overwrite && info.Ref != r:
					t.Fatalf("an overwrite of %+v went to %+v", r, info.Ref)
				case !overwrite && taken && old != body:
					t.Fatalf("%+v was overwritten", info.Ref)
				case !overwrite && info.Ref != r && want[r] == body:
					t.Fatalf("the same bytes as %+v went to %+v", r, info.Ref)
				}
				want[info.Ref] = body
			},
			"delete": func(t *rapid.T) {
				r := ref.Draw(t, "ref")
				_, there := want[r]
				if err := s.files.Delete(ctx, ann, r); (err == nil) != there {
					t.Fatalf("deletion of %+v gave %v", r, err)
				}
				delete(want, r)
			},
			"": func(t *rapid.T) {
				got := map[file.Ref]string{}
				var used workspace.Usage
				for _, typ := range []string{file.Input, file.Output} {
					list, err := s.files.List(ctx, ann, typ)
					if err != nil {
						t.Fatal(err)
					}
					for _, info := range list {
						_, r, err := s.files.Open(ctx, ann, info.Ref)
						if err != nil {
							t.Fatal(err)
						}
						b, err := io.ReadAll(r)
						if err := errors.Join(err, r.Close()); err != nil {
							t.Fatal(err)
						}
						got[info.Ref] = string(b)
						used.Files++
						used.Bytes += info.Size
					}
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Fatalf("-want +got:\n%s", diff)
				}
				if u, err := s.files.Usage(ctx, ann); u != used || err != nil {
					t.Fatalf("usage is %+v, %v, want %+v", u, err, used)
				}
			},
		})
		blobs := 0
		err := s.blobs.Each(ctx, blob.FileKeys+ann+"/", func(blob.Item) error { blobs++; return nil })
		if err != nil || blobs != len(want) {
			rt.Fatalf("%d names have %d blobs, %v", len(want), blobs, err)
		}
	})
}

func BenchmarkFiles(b *testing.B) {
	s := newStudio(b, workspace.Options{Quota: 1 << 40, KeepFree: 1})
	picture := make([]byte, 35<<10)
	for i := range picture {
		picture[i] = byte(rand.Uint32())
	}
	body := string(picture)
	for i := range 50 {
		s.upload(b, "ann", in("", fmt.Sprint(i, ".png")), true, body)
	}
	b.Run("Upload", func(b *testing.B) {
		b.SetBytes(int64(len(body)))
		for b.Loop() {
			s.upload(b, "ann", in("up", "a.png"), true, body)
		}
	})
	b.Run("UploadParallel", func(b *testing.B) {
		b.SetBytes(int64(len(body)))
		b.SetParallelism(8)
		b.RunParallel(func(pb *testing.PB) {
			name := fmt.Sprint(rand.Uint64())
			for pb.Next() {
				s.upload(b, "ann", in("up", name), true, body)
			}
		})
	})
	b.Run("Open", func(b *testing.B) {
		for b.Loop() {
			_, r, err := s.files.Open(b.Context(), "ann", in("", "7.png"))
			if err != nil {
				b.Fatal(err)
			}
			if err := r.Close(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("List50", func(b *testing.B) {
		for b.Loop() {
			if list, err := s.files.List(b.Context(), "ann", file.Input); err != nil || len(list) < 50 {
				b.Fatal(len(list), err)
			}
		}
	})
}
