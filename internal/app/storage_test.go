package app_test

import (
	"bytes"
	"io"
	"log/slog"
	"mime/multipart"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/api"
	"github.com/ahelme/comfyume/internal/app"
	"github.com/ahelme/comfyume/internal/blob"
	"github.com/ahelme/comfyume/internal/blob/s3"
	"github.com/ahelme/comfyume/internal/bucket/buckettest"
	"github.com/ahelme/comfyume/internal/client"
	"github.com/ahelme/comfyume/internal/config"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/handover"
)

// inBucket is the setting blob for a bucket on server, with keys in files.
func inBucket(t *testing.T, server *buckettest.Server, prefix string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"key": buckettest.Key, "secret": buckettest.Secret} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return server.Address(prefix) + "&key=file:" + filepath.Join(dir, "key") + "&secret=file:" + filepath.Join(dir, "secret")
}

// person speaks to a studio with ann's token.
type person struct {
	t      *testing.T
	s      *app.Studio
	secret string
}

func ann(t *testing.T, o app.Options, s *app.Studio) person {
	t.Helper()
	path, err := app.SocketPath(o.Settings.Data, "")
	if err != nil {
		t.Fatal(err)
	}
	c := client.Socket(path)
	defer c.Close()
	made, err := c.NewToken(t.Context(), "ann", api.NewToken{})
	if err != nil {
		t.Fatal(err)
	}
	return person{t, s, made.Secret}
}

func (p person) do(method, path, kind string, body io.Reader, header ...string) (int, []byte) {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.t.Context(), method, p.s.Address()+path, body)
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+p.secret)
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return res.StatusCode, text
}

func (p person) upload(name string, data []byte) (int, []byte) {
	p.t.Helper()
	var form bytes.Buffer
	w := multipart.NewWriter(&form)
	f, err := w.CreateFormFile("image", name)
	if err == nil {
		_, err = f.Write(data)
	}
	if err != nil || w.Close() != nil {
		p.t.Fatal(err)
	}
	return p.do("POST", "/upload/image", w.FormDataContentType(), &form)
}

func TestFilesInABucket(t *testing.T) {
	t.Parallel()
	server := buckettest.New(t)
	var logged bytes.Buffer
	o := options(t, map[string]string{"blob": inBucket(t, server, "studio/a"), "limits.keep_free": "1MB"})
	o.Log = slog.New(slog.NewJSONHandler(&logged, nil))
	data := bytes.Repeat([]byte("not really a film "), 100_000)
	err := run(t, o, func(s *app.Studio) {
		p := ann(t, o, s)
		if status, text := p.upload("film.mp4", data); status != 200 {
			t.Fatalf("the upload gave %d %s", status, text)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	store, err := s3.Open(inBucket(t, server, "studio/a"), s3.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	var keys []string
	if err := store.Each(t.Context(), "", func(i blob.Item) error { keys = append(keys, i.Key); return nil }); err != nil {
		t.Fatal(err)
	}
	if n := len(slices.DeleteFunc(keys, func(k string) bool { return !strings.HasPrefix(k, blob.FileKeys+"ann/") })); n != 1 {
		t.Errorf("the bucket has %q", keys)
	}
	if left, err := os.ReadDir(filepath.Join(o.Settings.Data, "blobs")); err == nil && len(left) > 0 {
		t.Errorf("the folder has %v", left)
	}
	server.Fault(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPut {
			w.WriteHeader(http.StatusForbidden)
		}
		return r.Method == http.MethodPut
	})
	err = run(t, o, func(s *app.Studio) {
		notes := strings.Join(s.Status(t.Context()).Reasons, "\n")
		if !strings.Contains(notes, "People's files can't be written. The key may not do that") || strings.Contains(notes, "file:") {
			t.Errorf("with a key that may only read the notes are %s", notes)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	server.Fault(nil)
	err = run(t, o, func(s *app.Studio) {
		p := ann(t, o, s)
		if status, text := p.do("GET", "/view?type=input&filename=film.mp4", "", nil); status != 200 || !bytes.Equal(text, data) {
			t.Errorf("it came back with %d, %d bytes of %d", status, len(text), len(data))
		}
		if status, text := p.do("GET", "/view?type=input&filename=film.mp4", "", nil, "Range", "bytes=1500000-1500099"); status != 206 || !bytes.Equal(text, data[1500000:1500100]) {
			t.Errorf("a range came back with %d, %d bytes", status, len(text))
		}
		server.CloseClientConnections()
		server.Close()
		status, text := p.do("GET", "/view?type=input&filename=film.mp4", "", nil)
		if status != http.StatusServiceUnavailable || !strings.Contains(string(text), "does not answer") {
			t.Errorf("while the bucket is down reading gives %d %s", status, text)
		}
		if status, text := p.upload("b.mp4", data); status != http.StatusServiceUnavailable {
			t.Errorf("while the bucket is down an upload gives %d %s", status, text)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if text := logged.String(); !strings.Contains(text, "keep that folder safe too") || strings.Contains(text, buckettest.Secret) || strings.Contains(text, buckettest.Key) {
		t.Errorf("the log says too little or too much: %s", text)
	}
	if err := run(t, o, func(*app.Studio) { t.Error("it serves without its bucket") }); !fault.Is(err, fault.Unavailable) {
		t.Errorf("a start without the bucket gave %v", err)
	}
}

// TestResultsWaitForTheBucket: while the bucket takes nothing a finished run waits, and then its picture is there, once.
func TestResultsWaitForTheBucket(t *testing.T) {
	t.Parallel()
	server := buckettest.New(t)
	o := options(t, map[string]string{"blob": inBucket(t, server, "a"), "limits.keep_free": "1MB"})
	o.Settings.Backends = append(o.Settings.Backends, config.Back{Name: "gpu1", Driver: "comfyui", URL: simulated(t)})
	err := run(t, o, func(s *app.Studio) {
		p := ann(t, o, s)
		refused := make(chan struct{}, 1000)
		server.Fault(func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodPut {
				return false
			}
			buckettest.SlowDown(w)
			refused <- struct{}{}
			return true
		})
		status, text := p.do("POST", "/prompt", "application/json", strings.NewReader(`{"prompt": {
			"1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 255}},
			"2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "late"}}}}`))
		if status != http.StatusOK {
			t.Fatalf("the prompt gave %d %s", status, text)
		}
		<-refused
		if _, history := p.do("GET", "/history", "", nil); strings.Contains(string(history), "late_") {
			t.Errorf("the run is over though its picture is nowhere: %s", history)
		}
		server.Fault(nil)
		for deadline := time.Now().Add(30 * time.Second); ; {
			_, history := p.do("GET", "/history", "", nil)
			if strings.Contains(string(history), "late_00001_.png") {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("the picture does not come: %s", history)
			}
			<-time.After(20 * time.Millisecond)
		}
		if status, picture := p.do("GET", "/view?type=output&filename=late_00001_.png", "", nil); status != http.StatusOK || !bytes.HasPrefix(picture, []byte("\x89PNG")) {
			t.Errorf("the picture gives %d, %d bytes", status, len(picture))
		}
		if status, small := p.do("GET", "/view?type=output&filename=late_00001_.png&preview=jpeg;80", "", nil); status != http.StatusOK || len(small) == 0 {
			t.Errorf("its thumbnail gives %d, %d bytes", status, len(small))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestBucketThatDoesNotFit(t *testing.T) {
	t.Parallel()
	server := buckettest.New(t)
	first := options(t, map[string]string{"blob": inBucket(t, server, "a"), "limits.keep_free": "1MB"})
	err := run(t, first, func(s *app.Studio) { ann(t, first, s).upload("a.mp4", []byte("x")) })
	if err != nil {
		t.Fatal(err)
	}
	refused := func(what string, o app.Options, sentence string) {
		t.Helper()
		err := run(t, o, func(*app.Studio) { t.Errorf("%s: it serves", what) })
		if said, remedy := fault.Public(err); !strings.Contains(said, sentence) || remedy == "" || strings.Contains(said+remedy, "secret=") {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused("another studio's", options(t, map[string]string{"blob": inBucket(t, server, "a")}), "is new, though people have files")
	if err := os.Remove(filepath.Join(first.Settings.Data, "comfyume.db")); err != nil {
		t.Fatal(err)
	}
	refused("a lost database", first, "is new, though people have files")
	empty := options(t, map[string]string{"blob": inBucket(t, server, "b")})
	if err := run(t, empty, func(*app.Studio) {}); err != nil {
		t.Fatal(err)
	}
	refused("another studio's without files", options(t, map[string]string{"blob": inBucket(t, server, "b")}), "another studio")

	folder := options(t, map[string]string{"limits.keep_free": "1MB"})
	if err := run(t, folder, func(s *app.Studio) { ann(t, folder, s).upload("a.mp4", []byte("x")) }); err != nil {
		t.Fatal(err)
	}
	folder.Settings.Blob = inBucket(t, server, "c")
	refused("files in the folder", folder, "people's files are in")
	folder.Settings.Blob = strings.Replace(inBucket(t, server, "c"), buckettest.Bucket, "no-such-bucket", 1)
	refused("no bucket", folder, "There is no bucket no-such-bucket")
}

func TestStorageIsCheckedAndTidied(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	none := filepath.Join(dir, "none")
	place := "file://" + filepath.ToSlash(dir)
	o := options(t, nil)
	o.Settings.Backends = append(o.Settings.Backends,
		config.Back{Name: "a", Driver: "comfyui", URL: simulated(t), Storage: place},
		config.Back{Name: "b", Driver: "comfyui", URL: simulated(t), Storage: "file://" + filepath.ToSlash(none)})
	err := run(t, o, func(s *app.Studio) {
		if notes := strings.Join(s.Status(t.Context()).Reasons, "\n"); !strings.Contains(notes, none+" is not there") || strings.Contains(notes, dir+" ") {
			t.Errorf("the notes are %s", notes)
		}
		p, err := handover.New(place)
		if err != nil {
			t.Fatal(err)
		}
		id := strings.TrimPrefix(s.CookieName(), "comfyume-")
		for _, run := range []string{handover.RunName(id, "1"), handover.InputName(id, "film"), "other_1"} {
			if _, err := p.Put(t.Context(), run, "a", strings.NewReader("x")); err != nil {
				t.Fatal(err)
			}
		}
		s.Tidy(t.Context(), time.Now().Add(6*24*time.Hour))
		if left, err := p.Runs(t.Context(), time.Now().Add(time.Hour)); err != nil || len(left) != 3 {
			t.Errorf("after six days: %q, %v", left, err)
		}
		s.Tidy(t.Context(), time.Now().Add(8*24*time.Hour))
		if left, err := p.Runs(t.Context(), time.Now().Add(time.Hour)); err != nil || len(left) != 1 || left[0] != "other_1" {
			t.Errorf("after eight days: %q, %v", left, err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(dir, "comfyume-handover")); err != nil {
		t.Fatal(err)
	}
	err = run(t, o, func(s *app.Studio) {
		if notes := strings.Join(s.Status(t.Context()).Reasons, "\n"); !strings.Contains(notes, "is not the one it was") {
			t.Errorf("another disk in its place: %s", notes)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}
