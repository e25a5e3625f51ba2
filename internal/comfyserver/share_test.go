package comfyserver_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/internal/comfyserver"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/identity"
)

// slow is a request whose body comes in pieces.
type slow struct {
	body *io.PipeWriter
	done chan *httptest.ResponseRecorder
}

// begin sends the beginning of a body of unknown length as user. When it returns the server has taken it in.
func (s *studio) begin(user, method, target, contentType, beginning string) slow {
	s.t.Helper()
	r, w := io.Pipe()
	req := httptest.NewRequest(method, target, r)
	req.ContentLength = -1
	req.Header.Set("Content-Type", contentType)
	req = req.WithContext(identity.With(req.Context(), identity.Person{Name: user, Role: identity.Participant}))
	out := slow{w, make(chan *httptest.ResponseRecorder, 1)}
	go func() {
		rec := httptest.NewRecorder()
		s.server.ServeHTTP(rec, req)
		r.CloseWithError(io.ErrClosedPipe)
		out.done <- rec
	}()
	_, _ = io.WriteString(w, beginning) // an error means that it was refused meanwhile
	return out
}

// end ends the body and returns the answer.
func (s slow) end() *httptest.ResponseRecorder {
	_ = s.body.Close() // never fails
	return <-s.done
}

func TestSlowBodiesHoldUpNobodyElse(t *testing.T) {
	t.Parallel()
	s := newStudio(t, comfyserver.Options{})
	var open []slow
	for range 20 {
		open = append(open, s.begin("eve", "POST", "/prompt", "application/json", `{"prompt"`))
	}
	ann := s.begin("ann", "POST", "/prompt", "application/json", `{"prompt": {"3": {"class_type": "SaveImage", "inputs": {}}}}`)
	if rec := ann.end(); rec.Code != http.StatusOK {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
	for _, o := range open {
		if rec := o.end(); rec.Code != http.StatusBadRequest {
			t.Errorf("half a body: %d %s", rec.Code, rec.Body)
		}
	}
}

func TestBodiesOfOnePersonAreBounded(t *testing.T) {
	t.Parallel()
	s := newStudio(t, comfyserver.Options{MaxPrompt: 4 << 20})
	half := `{"x": "` + strings.Repeat("a", 3<<20)
	first := s.begin("eve", "POST", "/queue", "application/json", half)
	second := s.begin("eve", "POST", "/queue", "application/json", half)
	if rec := second.end(); rec.Code != http.StatusTooManyRequests || rec.Header().Get("Retry-After") == "" {
		t.Errorf("two large bodies of one person: %d %s", rec.Code, rec.Body)
	}
	ann := s.begin("ann", "POST", "/queue", "application/json", half+`"}`)
	if rec := ann.end(); rec.Code != http.StatusOK {
		t.Errorf("another person: %d %s", rec.Code, rec.Body)
	}
	if _, err := io.WriteString(first.body, `"}`); err != nil {
		t.Fatal(err)
	}
	if rec := first.end(); rec.Code != http.StatusOK {
		t.Errorf("the first: %d %s", rec.Code, rec.Body)
	}
	again := s.begin("eve", "POST", "/queue", "application/json", half+`"}`)
	if rec := again.end(); rec.Code != http.StatusOK {
		t.Errorf("when the others are done: %d %s", rec.Code, rec.Body)
	}
}

func TestAnnouncedSizeIsNotBelieved(t *testing.T) {
	t.Parallel()
	s := newStudio(t, comfyserver.Options{MaxPrompt: 4 << 20})
	for range 50 { // each announces 4 MiB and sends nothing; together that would be far beyond the bound
		req := httptest.NewRequest("POST", "/queue", bytes.NewReader(nil))
		req.ContentLength = 4 << 20
		req = req.WithContext(identity.With(req.Context(), identity.Person{Name: "eve"}))
		rec := httptest.NewRecorder()
		s.server.ServeHTTP(rec, req)
		if rec.Code != http.StatusBadRequest {
			t.Fatalf("%d %s", rec.Code, rec.Body)
		}
	}
}

func TestUploadsOnTheirWayAreBounded(t *testing.T) {
	t.Parallel()
	s := newStudio(t, comfyserver.Options{MaxUpload: 8 << 20, Spool: t.TempDir()})
	body, contentType := form(t, "image:a.png", strings.Repeat("x", 2<<20))
	cut := body[:len(body)-100]
	var open []slow
	for range 4 {
		open = append(open, s.begin("eve", "POST", "/upload/image", contentType, cut))
	}
	fifth := s.begin("eve", "POST", "/upload/image", contentType, body[:1<<19])
	ann := s.begin("ann", "POST", "/upload/image", contentType, body)
	if rec := ann.end(); rec.Code != http.StatusOK {
		t.Errorf("another person: %d %s", rec.Code, rec.Body)
	}
	for _, o := range open {
		if _, err := io.WriteString(o.body, body[len(cut):]); err != nil {
			t.Fatal(err)
		}
		if rec := o.end(); rec.Code != http.StatusOK {
			t.Errorf("%d %s", rec.Code, rec.Body)
		}
	}
	if _, err := io.WriteString(fifth.body, body[1<<19:]); err != nil {
		t.Fatal(err)
	}
	if rec := fifth.end(); rec.Code != http.StatusOK {
		t.Errorf("the one that waited: %d %s", rec.Code, rec.Body)
	}
}

func TestUploadsStopWhereTheDiskHasNoRoom(t *testing.T) {
	t.Parallel()
	s := newStudio(t, comfyserver.Options{Spool: t.TempDir()})
	s.files.full = fault.New(fault.Unavailable, "The studio's disk is full.").WithCode("disk_full")
	body, contentType := form(t, "image:a.png", strings.Repeat("x", 2<<20))
	if rec := s.begin("eve", "POST", "/upload/image", contentType, body).end(); rec.Code != http.StatusInsufficientStorage {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
}
