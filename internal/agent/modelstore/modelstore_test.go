package modelstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/ahelme/comfyume/internal/agent/report"
	"github.com/ahelme/comfyume/internal/fault"
)

var content = bytes.Repeat([]byte("weights "), 50_000)

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// host serves one file: cut after some bytes as often as told, with a tag that can change, and for a token if one is set.
type host struct {
	body   []byte
	tag    string
	cuts   atomic.Int32
	token  string
	ranges atomic.Int32
	other  string // redirect there
}

func (h *host) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h.token != "" && r.Header.Get("Authorization") != "Bearer "+h.token {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if h.other != "" {
		http.Redirect(w, r, h.other, http.StatusFound)
		return
	}
	if r.Header.Get("Range") != "" {
		h.ranges.Add(1)
	}
	w.Header().Set("ETag", h.tag)
	if h.cuts.Add(-1) >= 0 {
		w.Header().Set("Content-Length", fmt.Sprint(len(h.body)))
		w.Write(h.body[:len(h.body)/2])
		http.NewResponseController(w).Flush() //nolint:errcheck // the cut is what counts
		panic(http.ErrAbortHandler)
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(h.body))
}

type bench struct {
	*Store
	dir     string
	host    *host
	url     string
	changed atomic.Int32
	free    int64
	keys    map[string]string
}

func setup(t *testing.T) *bench {
	t.Helper()
	b := &bench{dir: t.TempDir(), host: &host{body: content, tag: `"one"`}, free: 1 << 40, keys: map[string]string{}}
	srv := httptest.NewServer(b.host)
	t.Cleanup(srv.Close)
	b.url = srv.URL + "/repo/base.safetensors"
	b.Store = New(Options{
		Folders: func() (map[string][]string, error) {
			return map[string][]string{"checkpoints": {filepath.Join(b.dir, "ckpt"), filepath.Join(b.dir, "more")}, "loras": {filepath.Join(b.dir, "loras")}}, nil
		},
		Key:     func(host string) (string, error) { return b.keys[host], nil },
		Changed: func() { b.changed.Add(1) }, Hashes: filepath.Join(b.dir, "state", "hashes.json"),
		free: func(string) (int64, error) { return b.free, nil },
	})
	return b
}

func (b *bench) get(t *testing.T, w Want) (Model, error) {
	t.Helper()
	return b.Get(t.Context(), w, func(string, int64, int64) {})
}

func TestGetListRemove(t *testing.T) {
	t.Parallel()
	b := setup(t)
	m, err := b.get(t, Want{Folder: "checkpoints", Name: "sdxl/base.safetensors", URL: b.url, SHA256: strings.ToUpper(sum(content))})
	if err != nil {
		t.Fatal(err)
	}
	want := Model{Folder: "checkpoints", Name: "sdxl/base.safetensors", Size: int64(len(content)), SHA256: sum(content)}
	if diff := cmp.Diff(want, m, cmpopts.IgnoreFields(Model{}, "Modified")); diff != "" {
		t.Error(diff)
	}
	if got, err := os.ReadFile(filepath.Join(b.dir, "ckpt", "sdxl", "base.safetensors")); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	for what, c := range map[string]struct {
		sum  string
		kind fault.Kind
	}{"no hash": {"", fault.Conflict}, "another hash": {sum(nil), fault.Conflict}} {
		if _, err := b.get(t, Want{Folder: "checkpoints", Name: m.Name, URL: b.url, SHA256: c.sum}); !fault.Is(err, c.kind) {
			t.Errorf("again with %s: %v", what, err)
		}
	}
	if _, err := b.get(t, Want{Folder: "checkpoints", Name: m.Name, URL: b.url, SHA256: m.SHA256}); err != nil {
		t.Error("again with its hash: ", err)
	}
	for name, text := range map[string]string{"more/b.ckpt": "b", "more/readme.txt": "no model", "loras/.x.safetensors.part": "begun"} {
		p := filepath.Join(b.dir, filepath.FromSlash(name))
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	again := New(b.options) // hashes are kept between starts
	list, err := again.List()
	if err != nil {
		t.Fatal(err)
	}
	all := []Model{
		{Folder: "checkpoints", Name: "b.ckpt", Size: 1},
		want,
		{Folder: "loras", Name: "x.safetensors", Size: 5, Partial: true},
	}
	if diff := cmp.Diff(all, list, cmpopts.IgnoreFields(Model{}, "Modified")); diff != "" {
		t.Error(diff)
	}
	if list, err = again.Hash(t.Context(), func(string, int64, int64) {}); err != nil || list[0].SHA256 != sum([]byte("b")) {
		t.Errorf("hashed: %+v, %v", list, err)
	}
	for _, gone := range []Model{all[0], all[1], all[2]} {
		if _, err := b.Remove(gone.Folder, gone.Name); err != nil {
			t.Errorf("Remove %s: %v", gone.Name, err)
		}
	}
	if list, err := b.List(); err != nil || len(list) != 0 {
		t.Errorf("what stays: %+v, %v", list, err)
	}
	if _, err := b.Remove("loras", "x.safetensors"); !fault.Is(err, fault.Missing) {
		t.Errorf("Remove of nothing: %v", err)
	}
	if b.changed.Load() != 3 { // brought, removed, removed; a part was none yet
		t.Errorf("%d changes were told", b.changed.Load())
	}
}

// TestCut: a download whose line is cut goes on where it stopped; so does one that was ended and is asked for again.
func TestCut(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.host.cuts.Store(1)
	if m, err := b.get(t, Want{Folder: "loras", URL: b.url, SHA256: sum(content)}); err != nil || m.Name != "base.safetensors" {
		t.Fatalf("%+v, %v", m, err)
	}
	if b.host.ranges.Load() != 1 {
		t.Errorf("%d ranges were asked for", b.host.ranges.Load())
	}

	ctx, cancel := context.WithCancel(t.Context())
	want := Want{Folder: "checkpoints", URL: b.url, SHA256: sum(content)}
	b.host.cuts.Store(1)
	if _, err := b.Get(ctx, want, func(state string, _, _ int64) {
		if state == "waiting" {
			cancel()
		}
	}); !errors.Is(err, context.Canceled) {
		t.Fatalf("err = %v", err)
	}
	// Meanwhile the file at the host became another, of which the half that is there is no part.
	b.host.tag, b.host.body = `"two"`, bytes.Repeat([]byte("other "), 60_000)
	want.SHA256 = sum(b.host.body)
	if _, err := b.get(t, want); err != nil {
		t.Fatal(err)
	}
	if b.host.ranges.Load() != 2 {
		t.Errorf("%d ranges were asked for", b.host.ranges.Load())
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Write([]byte("<html>"))
	}))
	t.Cleanup(page.Close)
	for name, c := range map[string]struct {
		want Want
		set  func(*bench)
		code string
		kind fault.Kind
	}{
		"no such folder": {Want{Folder: "etc", Name: "x.safetensors"}, nil, "unknown_folder", fault.Invalid},
		"upwards":        {Want{Folder: "loras", Name: "../x.safetensors"}, nil, "bad_name", fault.Invalid},
		"absolute":       {Want{Folder: "loras", Name: "/etc/x.safetensors"}, nil, "bad_name", fault.Invalid},
		"back slash":     {Want{Folder: "loras", Name: `a\x.safetensors`}, nil, "bad_name", fault.Invalid},
		"hidden":         {Want{Folder: "loras", Name: "a/.x.safetensors"}, nil, "bad_name", fault.Invalid},
		"a script":       {Want{Folder: "loras", Name: "x.py"}, nil, "bad_name", fault.Invalid},
		"no hash":        {Want{Folder: "loras", SHA256: "abc"}, nil, "bad_hash", fault.Invalid},
		"no address":     {Want{Folder: "loras", Name: "x.safetensors", URL: "file:///etc/passwd"}, nil, "bad_url", fault.Invalid},
		"a password":     {Want{Folder: "loras", Name: "x.safetensors", URL: "https://a:b@h/x"}, nil, "bad_url", fault.Invalid},
		"wrong hash":     {Want{Folder: "loras", SHA256: sum([]byte("x"))}, nil, "wrong_hash", fault.Conflict},
		"no room":        {Want{Folder: "loras"}, func(b *bench) { b.free = 1 << 30 }, "disk_full", fault.Unavailable},
		"a licence":      {Want{Folder: "loras"}, func(b *bench) { b.host.token = "secret" }, "needs_token", fault.Denied},
		"a page":         {Want{Folder: "loras", Name: "x.safetensors", URL: page.URL}, nil, "not_a_file", fault.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			if c.set != nil {
				c.set(b)
			}
			if c.want.URL == "" {
				c.want.URL = b.url
			}
			_, err := b.get(t, c.want)
			f, ok := errors.AsType[*fault.Error](err)
			if !ok || f.Code != c.code || f.Kind != c.kind {
				t.Fatalf("err = %v", err)
			}
			if f.Code == "needs_token" && !strings.Contains(f.Remedy, "--model-key 127.0.0.1=env:NAME, or model_keys") { // as the agent calls them
				t.Errorf("the remedy is %q", f.Remedy)
			}
			for _, dir := range []string{"ckpt", "loras"} {
				if list, err := filepath.Glob(filepath.Join(b.dir, dir, "[^.]*")); err != nil || len(list) != 0 {
					t.Errorf("there are %v, %v", list, err)
				}
			}
			if outside, err := filepath.Glob(filepath.Join(b.dir, "*.safetensors")); err != nil || len(outside) != 0 {
				t.Errorf("outside of the folders: %v, %v", outside, err)
			}
		})
	}
}

// TestToken: the token goes to its host and to nobody whom that host leads to.
func TestToken(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var leaked atomic.Bool
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		leaked.Store(r.Header.Get("Authorization") != "")
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	}))
	defer elsewhere.Close()
	u, err := url.Parse(elsewhere.URL)
	if err != nil {
		t.Fatal(err)
	}
	b.host.token, b.host.other = "secret", "http://localhost:"+u.Port()+"/x"
	b.keys["127.0.0.1"] = "secret"
	if _, err := b.get(t, Want{Folder: "loras", URL: b.url, SHA256: sum(content)}); err != nil || leaked.Load() {
		t.Errorf("err = %v; the token went elsewhere: %t", err, leaked.Load())
	}
}

func TestLinksDoNotLeadOut(t *testing.T) {
	t.Parallel()
	b := setup(t)
	secret := filepath.Join(b.dir, "secret.safetensors")
	if err := errors.Join(os.MkdirAll(filepath.Join(b.dir, "loras"), 0o755), os.WriteFile(secret, []byte("keep"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(b.dir, filepath.Join(b.dir, "loras", "out")); err != nil {
		t.Skip("this system makes no links: ", err)
	}
	if _, err := b.get(t, Want{Folder: "loras", Name: "out/new.safetensors", URL: b.url}); err == nil {
		t.Error("a file was brought through a link")
	}
	if _, err := b.Remove("loras", "out/secret.safetensors"); err == nil {
		t.Error("a file was removed through a link")
	}
	if _, err := os.Stat(secret); err != nil {
		t.Error(err)
	}
}

// TestHandler: what is asked for over the line arrives, errors with their kind.
func TestHandler(t *testing.T) {
	t.Parallel()
	b := setup(t)
	srv := httptest.NewServer(b.Handler())
	defer srv.Close()
	post := func(body string) (states []string, err error) {
		resp, err := http.Post(srv.URL+"/models/get", "application/json", strings.NewReader(body)) //nolint:noctx // a test
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return nil, report.ErrorOf(resp)
		}
		result, err := report.Read(resp.Body, func(e report.Event) { states = append(states, e.State) })
		if err == nil && !strings.Contains(string(result), sum(content)) {
			t.Errorf("the result is %s", result)
		}
		return states, err
	}
	if states, err := post(fmt.Sprintf(`{"folder":"loras","url":%q}`, b.url)); err != nil || len(states) == 0 || states[0] != "fetching" {
		t.Errorf("%v, %v", states, err)
	}
	if _, err := post(fmt.Sprintf(`{"folder":"loras","url":%q}`, b.url)); !fault.Is(err, fault.Conflict) {
		t.Errorf("again: %v", err)
	}
	if _, err := post("{"); !fault.Is(err, fault.Invalid) {
		t.Errorf("no JSON: %v", err)
	}
}
