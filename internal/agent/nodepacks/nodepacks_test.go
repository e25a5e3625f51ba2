package nodepacks

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/internal/agent/report"
	"github.com/ahelme/comfyume/internal/fault"
)

// bench is a machine with a pack in a repository of two commits.
type bench struct {
	*Store
	dir, repo string
	commits   []string
	restarts  []string
	heard     []string
}

// python stands for ComfyUI's: it keeps its packages in a file and installs what it is told.
const python = `#!/bin/sh
# A stand-in for Python: only the calls that the store makes.
list="$(dirname "$0")/packages"
case "$*" in
*"pip --disable-pip-version-check list"*) cat "$list" ;;
*"install -r"*) for last in "$@"; do :; done; echo "Collecting"; cat "$last" >>"$list" ;;
*"install --no-deps"*) grep -v "^lib==" "$list" >"$list.new"; for last in "$@"; do :; done; echo "$last" >>"$list.new"; mv "$list.new" "$list" ;;
*) echo "unknown: $*"; exit 1 ;;
esac
`

func setup(t *testing.T) *bench {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("the stand-in for Python is a shell script")
	}
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("there is no git here")
	}
	b := &bench{dir: t.TempDir()}
	b.repo = filepath.Join(b.dir, "Some-Pack")
	for name, text := range map[string]string{"python": python, "packages": "lib==1.0\ntorch==2.9\n"} {
		if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	b.run(t, b.dir, "init", "-q", "Some-Pack")
	for i, need := range []string{"", "extra==3.1\n"} {
		for name, text := range map[string]string{"nodes.py": fmt.Sprint("version = ", i), "requirements.txt": "# needed\n" + need} {
			if err := os.WriteFile(filepath.Join(b.repo, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		b.run(t, b.repo, "add", ".")
		b.run(t, b.repo, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "x")
		b.commits = append(b.commits, b.run(t, b.repo, "rev-parse", "HEAD"))
	}
	b.Store = New(Options{
		Allow: true, Dir: filepath.Join(b.dir, "custom_nodes"), State: filepath.Join(b.dir, "state"), Python: filepath.Join(b.dir, "python"),
		Restart:    func(_ context.Context, why string) error { b.restarts = append(b.restarts, why); return nil },
		transports: "file",
	})
	return b
}

func (b *bench) run(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", args...) //nolint:noctx // a test
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (b *bench) tell(e report.Event) { b.heard = append(b.heard, e.Text) }

func (b *bench) version(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(b.dir, "custom_nodes", "Some-Pack", "nodes.py"))
	if err != nil {
		return "none"
	}
	return string(text)
}

func (b *bench) packages(t *testing.T) []string {
	t.Helper()
	list, err := b.freeze(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestInstallPinRollback(t *testing.T) {
	t.Parallel()
	b := setup(t)
	first := Want{URL: "file://" + b.repo, Commit: b.commits[0]}
	out, err := b.Install(t.Context(), first, b.tell)
	if err != nil {
		t.Fatal(err)
	}
	if out.Pack.Name != "Some-Pack" || out.Pack.Commit != b.commits[0] || !out.Pack.Managed || out.Missing || b.version(t) != "version = 0" {
		t.Errorf("installed: %+v, %s", out, b.version(t))
	}
	if len(out.Pack.Before) != 1 || !out.Pack.Before[0].Empty {
		t.Errorf("before it: %+v", out.Pack.Before)
	}

	// Its requirements are shown, and not installed unless that is asked for.
	out, err = b.Pin(t.Context(), Want{Name: "Some-Pack", Commit: b.commits[1]}, b.tell)
	if err != nil || !out.Missing || !slices.Equal(out.Requirements, []string{"extra==3.1"}) || b.version(t) != "version = 1" {
		t.Errorf("pinned: %+v, %v, %s", out, err, b.version(t))
	}
	if got := b.packages(t); !slices.Equal(got, []string{"lib==1.0", "torch==2.9"}) {
		t.Errorf("packages %v", got)
	}
	out, err = b.Pin(t.Context(), Want{Name: "Some-Pack", Commit: b.commits[1], Requirements: true, Restart: true}, b.tell)
	if err != nil || out.Missing || !out.Restarted || len(b.restarts) != 1 || !slices.Equal(out.Packages, []string{"extra – → 3.1"}) {
		t.Errorf("pinned with requirements: %+v, %v, restarts %v", out, err, b.restarts)
	}
	if !slices.ContainsFunc(b.heard, func(s string) bool { return strings.Contains(s, "extra==3.1") }) {
		t.Errorf("nobody was told of the requirements: %q", b.heard)
	}

	// Another program changed a package since: the rollback gives it the version of before.
	if err := os.WriteFile(filepath.Join(b.dir, "packages"), []byte("extra==3.1\nlib==2.0\ntorch==2.9\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err = b.Rollback(t.Context(), Want{Name: "Some-Pack"}, b.tell)
	if err != nil || b.version(t) != "version = 1" || !slices.Contains(out.Packages, "lib 2.0 → 1.0") {
		t.Errorf("rolled back: %+v, %v, %s", out, err, b.version(t))
	}
	if out, err = b.Rollback(t.Context(), Want{Name: "Some-Pack"}, b.tell); err != nil || out.Pack.Commit != b.commits[0] || b.version(t) != "version = 0" {
		t.Errorf("rolled back: %+v, %v, %s", out, err, b.version(t))
	}
	if out, err = b.Rollback(t.Context(), Want{Name: "Some-Pack"}, b.tell); err != nil || !out.Gone || b.version(t) != "none" {
		t.Errorf("rolled back to nothing: %+v, %v, %s", out, err, b.version(t))
	}
	if _, err = b.Rollback(t.Context(), Want{Name: "Some-Pack"}, b.tell); !fault.Is(err, fault.Missing) {
		t.Errorf("rolled back once too often: %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(b.dir, "state", "Some-Pack", "before-*")); err != nil || len(left) != 0 {
		t.Errorf("states of before stay: %v, %v", left, err)
	}
}

// TestWhatWasThere: a pack that somebody put there by hand is listed, kept and put back.
func TestWhatWasThere(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.run(t, b.dir, "clone", "-q", b.repo, "custom_nodes/Some-Pack")
	if err := os.WriteFile(filepath.Join(b.dir, "custom_nodes", "Some-Pack", "nodes.py"), []byte("by hand"), 0o600); err != nil {
		t.Fatal(err)
	}
	list, err := b.List(t.Context())
	if err != nil || len(list) != 1 || list[0].Commit != b.commits[1] || !list[0].Changed || list[0].Managed {
		t.Fatalf("listed: %+v, %v", list, err)
	}
	if _, err := b.Install(t.Context(), Want{URL: "file://" + b.repo, Commit: b.commits[0]}, b.tell); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Rollback(t.Context(), Want{Name: "Some-Pack"}, b.tell); err != nil || b.version(t) != "by hand" {
		t.Errorf("%v, %s", err, b.version(t))
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	commit := strings.Repeat("a", 40)
	for name, c := range map[string]struct {
		want Want
		code string
	}{
		"a branch":     {Want{URL: "https://h/x/Pack", Commit: "main"}, "bad_commit"},
		"no hash":      {Want{URL: "https://h/x/Pack.zip"}, "bad_hash"},
		"a command":    {Want{URL: "ext::sh -c id", Commit: commit}, "bad_url"},
		"an option":    {Want{URL: "--upload-pack=id", Commit: commit}, "bad_url"},
		"no encrypt":   {Want{URL: "http://h/x/Pack", Commit: commit}, "bad_url"},
		"a file":       {Want{URL: "file:///srv/Pack", Commit: commit}, "bad_url"},
		"a password":   {Want{URL: "https://a:b@h/x/Pack", Commit: commit}, "bad_url"},
		"a path":       {Want{URL: "https://h/x/Pack", Name: "../x", Commit: commit}, "bad_name"},
		"hidden":       {Want{URL: "https://h/x/Pack", Name: ".git", Commit: commit}, "bad_name"},
		"switched off": {Want{URL: "https://h/x/Pack", Name: "x.disabled", Commit: commit}, "bad_name"},
	} {
		s := New(Options{Allow: true, Dir: t.TempDir(), State: t.TempDir()})
		_, err := s.Install(t.Context(), c.want, func(report.Event) {})
		if f, ok := errors.AsType[*fault.Error](err); !ok || f.Code != c.code {
			t.Errorf("%s: %v", name, err)
		}
	}
	shut := New(Options{Dir: t.TempDir(), State: t.TempDir()})
	for what, do := range map[string]func(context.Context, Want, report.Sink) (Outcome, error){"install": shut.Install, "roll back": shut.Rollback} {
		if _, err := do(t.Context(), Want{Name: "x", URL: "https://h/x", Commit: commit}, func(report.Event) {}); !fault.Is(err, fault.Denied) {
			t.Errorf("%s without leave: %v", what, err)
		}
	}
	b := setup(t)
	if _, err := b.Install(t.Context(), Want{URL: "file://" + b.repo, Commit: commit}, b.tell); !fault.Is(err, fault.Unavailable) {
		t.Errorf("a commit that is none: %v", err)
	}
	if b.version(t) != "none" {
		t.Error("something was installed")
	}
}

func zipped(t *testing.T, names ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, name := range names {
		w, err := z.Create(name)
		if err == nil {
			_, err = w.Write([]byte("from " + name))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func tarred(t *testing.T, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	gz := gzip.NewWriter(&b)
	w := tar.NewWriter(gz)
	for _, h := range headers {
		text := []byte("from " + h.Name)
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(text))
		} else {
			text = nil
		}
		h.Mode = 0o644
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(text); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), gz.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestArchives(t *testing.T) {
	t.Parallel()
	reg := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeReg} }
	for name, c := range map[string]struct {
		path string
		body []byte
		want string // file that is there; empty: refused
		code string
	}{
		"zip with a folder": {"/x/Pack/archive/abc.zip", zipped(t, "Pack-abc/nodes.py", "Pack-abc/js/a.js"), "Pack/js/a.js", ""},
		"zip without":       {"/Pack.zip", zipped(t, "nodes.py", "js/a.js"), "Pack/nodes.py", ""},
		"tar":               {"/Pack.tar.gz", tarred(t, reg("p/nodes.py")), "Pack/nodes.py", ""},
		"a link":            {"/Pack.tar.gz", tarred(t, tar.Header{Name: "p/l", Linkname: "/etc", Typeflag: tar.TypeSymlink}, reg("p/nodes.py")), "Pack/nodes.py", ""},
		"upwards":           {"/Pack.zip", zipped(t, "../evil.py"), "", "bad_archive"},
		"absolute":          {"/Pack.tgz", tarred(t, reg("/evil.py")), "", "bad_archive"},
		"through a link":    {"/Pack.tgz", tarred(t, tar.Header{Name: "l", Linkname: "..", Typeflag: tar.TypeSymlink}, reg("l/l/evil.py"), reg("l/../evil.py")), "", "bad_archive"},
		"none":              {"/Pack.zip", []byte("no zip"), "", "bad_archive"},
		"empty":             {"/Pack.zip", zipped(t), "", "bad_archive"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(c.body) }))
			defer srv.Close()
			dir := t.TempDir()
			s := New(Options{Allow: true, Dir: filepath.Join(dir, "custom_nodes"), State: filepath.Join(dir, "state"), transports: "file"})
			hash := sha256.Sum256(c.body)
			want := Want{URL: srv.URL + c.path, SHA256: hex.EncodeToString(hash[:])}
			_, err := s.Install(t.Context(), want, func(report.Event) {})
			f, _ := errors.AsType[*fault.Error](err)
			if c.want == "" && (f == nil || f.Code != c.code) || c.want != "" && err != nil {
				t.Fatalf("err = %v", err)
			}
			if c.want != "" {
				if _, err := os.Stat(filepath.Join(dir, "custom_nodes", filepath.FromSlash(c.want))); err != nil {
					t.Error(err)
				}
			}
			if left, _ := filepath.Glob(filepath.Join(dir, "*", "evil*")); len(left) != 0 {
				t.Errorf("files outside: %v", left)
			}
			if left, _ := filepath.Glob(filepath.Join(dir, "state", "archive-*")); len(left) != 0 {
				t.Errorf("archives stay: %v", left)
			}
			want.SHA256 = strings.Repeat("0", 64)
			if _, err := s.Install(t.Context(), want, func(report.Event) {}); !fault.Is(err, fault.Conflict) {
				t.Errorf("with another hash: %v", err)
			}
		})
	}
}
