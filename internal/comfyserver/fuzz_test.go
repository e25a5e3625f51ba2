package comfyserver_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/internal/comfyserver"
	"github.com/ahelme/comfyume/internal/event"
	"github.com/ahelme/comfyume/internal/identity"
)

// fuzzServer answers without a network and without any state worth keeping.
func fuzzServer(f *testing.F) *comfyserver.Server {
	bus := event.New()
	s, err := comfyserver.New(comfyserver.Deps{
		Queue: &fakeQueue{bus: bus}, Bus: bus, Files: &fakeFiles{}, Home: &fakeHome{}, Pictures: fakePictures{},
		Catalog: always(fakeCatalog{}), Checker: fakeChecker(nil),
	}, comfyserver.Options{MaxPrompt: 1 << 20, MaxUpload: 1 << 20})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = s.Close(context.Background()) })
	return s
}

// try sends a request and checks what holds for every answer: no 5xx, and JSON where something is wrong.
func try(t *testing.T, s *comfyserver.Server, method, target, typ, body string) {
	t.Helper()
	u, err := url.ParseRequestURI(target)
	if err != nil {
		return // net/http refuses it
	}
	r := (&http.Request{
		Method: method, URL: u, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Host: "studio",
		Body: http.NoBody, ContentLength: 0,
	}).WithContext(identity.With(context.Background(), identity.Person{Name: "ann"}))
	if body != "" {
		b := httptest.NewRequest(method, "/", strings.NewReader(body))
		r.Body, r.ContentLength = b.Body, b.ContentLength
	}
	if typ != "" {
		r.Header.Set("Content-Type", typ)
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	if w.Code >= 500 {
		t.Fatalf("%s %s with %q: %d %s", method, target, body, w.Code, w.Body)
	}
	if (w.Code >= 400 || strings.HasPrefix(w.Header().Get("Content-Type"), "application/json; charset")) && !json.Valid(w.Body.Bytes()) {
		t.Fatalf("%s %s with %q: %d is not JSON: %s", method, target, body, w.Code, w.Body)
	}
}

func FuzzPrompt(f *testing.F) {
	for _, seed := range []string{
		`{"prompt": {"1": {"class_type": "A", "inputs": {"x": NaN, "y": [1, Infinity]}}}, "client_id": 5, "number": "1e3"}`,
		`{"prompt": {}, "prompt_id": null, "front": [], "extra_data": {"extra_pnginfo": {"workflow": {"id": 5}}}}`,
		`{"prompt": {"\ud800": {}}, "prompt_id": "\u0000", "number": -0}`, `[]`, `{"prompt": 1}`, `{"a": {"b": `, "\xff", "",
		`{"prompt": {}, "partial_execution_targets": ["1", 2]}`,
	} {
		f.Add(seed)
	}
	s := fuzzServer(f)
	f.Fuzz(func(t *testing.T, body string) {
		try(t, s, "POST", "/prompt", "", body)
		try(t, s, "GET", "/queue", "", "")
		try(t, s, "GET", "/api/jobs?limit=5", "", "")
		try(t, s, "POST", "/queue", "", `{"clear": true}`)
	})
}

// FuzzBodies sends anything to every route that takes a body.
func FuzzBodies(f *testing.F) {
	for _, seed := range []string{`{"delete": ["a"], "clear": 1}`, `{"job_ids": ["x"]}`, `{"clientId": 1, "enabled": null}`, `{"a.b": NaN}`, "5"} {
		f.Add(seed, "")
	}
	f.Add("--x\r\nContent-Disposition: form-data; name=\"image\"; filename=\"..\\\\a\"\r\n\r\nhello\r\n--x\r\n"+
		"Content-Disposition: form-data; name=\"original_ref\"\r\n\r\n{\"filename\": 5}\r\n--x--\r\n", "multipart/form-data; boundary=x")
	s := fuzzServer(f)
	f.Fuzz(func(t *testing.T, body, typ string) {
		for _, r := range comfyserver.Routes() {
			if r.Method != http.MethodGet && !strings.HasPrefix(r.Path, "/api/") {
				try(t, s, r.Method, fill(r.Path, "p"), typ, body)
			}
		}
	})
}

// FuzzPaths asks for anything.
func FuzzPaths(f *testing.F) {
	for _, seed := range []string{
		"/userdata/a%2Fb.json", "/userdata/%252e%252e%2f", "/userdata/%00", "/view?filename=a%5c..%5cb&subfolder=%2e%2e", "/view?filename=x;y&preview=;;",
		"/history?max_items=99999999999999999999", "/api/jobs?status=,,&limit=-1", "/models/%e2%88%95", "/extensions/a/..%2f..%2fb", "//view", "/api//queue",
		"/internal/files/output", "/object_info/%ff", "/experiment/models/preview/a/0/b/c/d", "/userdata?dir=..%2f&recurse=true", "/v2/userdata?path=%00",
	} {
		f.Add("GET", seed)
	}
	f.Add("DELETE", "/userdata/..%2Fx")
	f.Add("POST", "/userdata/a/move/..%2F..%2Fb")
	s := fuzzServer(f)
	f.Fuzz(func(t *testing.T, method, target string) { try(t, s, method, target, "", "") })
}
