package frontend_test

import (
	"archive/zip"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/frontend"
)

// long is a text that compression pays for.
var long = strings.Repeat("export const answer = 42;\n", 100)

// wheel writes a package with files, keyed by path inside, and a true list of hashes. damage may change the list.
func wheel(t testing.TB, dir, name, version string, files map[string]string, damage func(record string) string) string {
	t.Helper()
	file := filepath.Join(dir, name+"-"+version+"-py3-none-any.whl")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z := zip.NewWriter(f)
	add := func(name, text string) {
		w, err := z.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
	}
	var record strings.Builder
	for _, inside := range slices.Sorted(maps.Keys(files)) {
		add(inside, files[inside])
		sum := sha256.Sum256([]byte(files[inside]))
		fmt.Fprintf(&record, "%s,sha256=%s,%d\n", inside, base64.RawURLEncoding.EncodeToString(sum[:]), len(files[inside]))
	}
	list := record.String()
	if damage != nil {
		list = damage(list)
	}
	add(name+"-"+version+".dist-info/RECORD", list)
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return file
}

const static = "comfyui_frontend_package/static/"

// page writes a small editor page of a version.
func page(t testing.TB, version string) string {
	t.Helper()
	return wheel(t, t.TempDir(), "comfyui_frontend_package", version, map[string]string{
		static + "index.html":                      "<!doctype html>page " + version + strings.Repeat(" ", 300),
		static + "assets/index-Ab3dE6_8.js":        long + "// " + version,
		static + "assets/index-Ab3dE6_8.js.map":    long,
		static + "assets/lib/vue.mjs":              long,
		static + "assets/images/logo.webp":         "RIFF",
		static + "scripts/only-" + version + ".js": long,
		"comfyui_frontend_package/__init__.py":     "",
	}, nil)
}

func install(t testing.TB, in *frontend.Installer, what string) frontend.Installed {
	t.Helper()
	got, err := in.Install(t.Context(), what, false)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func serve(t testing.TB, root, which string) *frontend.Server {
	t.Helper()
	s, err := frontend.New(root, which, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// get asks for a path with headers given as pairs.
func get(s http.Handler, path string, headers ...string) *http.Response {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w.Result()
}

func body(t testing.TB, res *http.Response) string {
	t.Helper()
	defer res.Body.Close()
	var r io.Reader = res.Body
	switch res.Header.Get("Content-Encoding") {
	case "gzip":
		z, err := gzip.NewReader(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		r = z
	case "zstd":
		z, err := zstd.NewReader(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		defer z.Close()
		r = z
	}
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestServesThePackageUnchangedInEveryForm(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	install(t, &frontend.Installer{Root: root}, page(t, "1.2.3"))
	s := serve(t, root, "auto")
	if s.Version() != "1.2.3" {
		t.Errorf("version is %q", s.Version())
	}
	tags := map[string]bool{}
	for accept, want := range map[string]string{"": "", "gzip, deflate": "gzip", "gzip, deflate, br, zstd": "zstd", "zstd;q=0, gzip;q=1.0": "gzip", "identity": ""} {
		res := get(s, "/assets/index-Ab3dE6_8.js", "Accept-Encoding", accept)
		if got := res.Header.Get("Content-Encoding"); got != want && !(want == "zstd" && got == "gzip") {
			t.Errorf("Accept-Encoding %q got %q, want %q", accept, got, want)
		}
		tag := res.Header.Get("ETag")
		tags[res.Header.Get("Content-Encoding")+tag] = true
		if got := body(t, res); got != long+"// 1.2.3" {
			t.Errorf("Accept-Encoding %q gave %d other bytes", accept, len(got))
		}
		again := get(s, "/assets/index-Ab3dE6_8.js", "Accept-Encoding", accept, "If-None-Match", `"x", W/`+tag)
		if again.StatusCode != http.StatusNotModified || body(t, again) != "" {
			t.Errorf("the tag %s came back as %s", tag, again.Status)
		}
	}
	forms := map[string]bool{}
	for k := range tags {
		forms[k[strings.IndexByte(k, '"'):]] = true
	}
	if len(forms) != len(tags) {
		t.Errorf("two forms share a tag: %v", tags)
	}
	part := get(s, "/assets/images/logo.webp", "Range", "bytes=1-2")
	if got := body(t, part); part.StatusCode != http.StatusPartialContent || got != "IF" {
		t.Errorf("range gave %s %q", part.Status, got)
	}
}

func TestTypesAndCaching(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	install(t, &frontend.Installer{Root: root}, page(t, "1.2.3"))
	s := serve(t, root, "1.2.3")
	type answer struct{ Status, Type, Cache string }
	for path, want := range map[string]answer{
		"/":                         {"200 OK", "text/html; charset=utf-8", "no-store"},
		"/user-select":              {"200 OK", "text/html; charset=utf-8", "no-store"},
		"/assets/index-Ab3dE6_8.js": {"200 OK", "text/javascript; charset=utf-8", "public, max-age=31536000, immutable"},
		"/assets/lib/vue.mjs":       {"200 OK", "text/javascript; charset=utf-8", "no-cache"},
		"/assets/images/logo.webp":  {"200 OK", "image/webp", "public, max-age=3600"},
		"/gone.js":                  {"404 Not Found", "text/plain; charset=utf-8", ""},
		"/templates/gone.json":      {"404 Not Found", "text/plain; charset=utf-8", ""},
		"/templates/flux-1.webp":    {"200 OK", "image/svg+xml", "no-cache"},
		"/../comfyume.json":         {"404 Not Found", "text/plain; charset=utf-8", ""},
		"/assets":                   {"404 Not Found", "application/json; charset=utf-8", ""},
		"/manager/version":          {"404 Not Found", "application/json; charset=utf-8", ""},
		"/assets/../index.html":     {"404 Not Found", "text/plain; charset=utf-8", ""},
		"/%2e%2e/comfyume.json":     {"404 Not Found", "text/plain; charset=utf-8", ""},
		"/assets/%00":               {"404 Not Found", "application/json; charset=utf-8", ""},
	} {
		res := get(s, path)
		got := answer{res.Status, res.Header.Get("Content-Type"), res.Header.Get("Cache-Control")}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", path, diff)
		}
	}
	if !s.Has("/") || !s.Has("/assets/lib/vue.mjs") || s.Has("/prompt") || s.Has("/assets/") {
		t.Error("Has does not tell the page's files from other paths")
	}
	r := httptest.NewRequest(http.MethodHead, "/assets/lib/vue.mjs", nil)
	r.Header.Set("Accept-Encoding", "gzip")
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	if w.Code != 200 || w.Body.Len() != 0 || w.Header().Get("Content-Length") == "" {
		t.Errorf("HEAD gave %d with %d bytes and %v", w.Code, w.Body.Len(), w.Header())
	}
	w = httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/", nil))
	if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") == "" {
		t.Errorf("POST gave %d", w.Code)
	}
}

func TestMissingPageShowsTheCommandAndIsTakenUpWhenItComes(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	s := serve(t, root, "auto")
	res := get(s, "/")
	if text := body(t, res); res.StatusCode != http.StatusServiceUnavailable || !strings.Contains(text, "comfyume frontend install<") {
		t.Fatalf("without a page: %s\n%s", res.Status, text)
	}
	if text := body(t, get(serve(t, root, "1.40.10"), "/")); !strings.Contains(text, "comfyume frontend install 1.40.10<") {
		t.Errorf("does not name the version that is set:\n%s", text)
	}
	if text := body(t, get(serve(t, root, `1<b>"'&`), "/")); !strings.Contains(text, "install 1&lt;b&gt;&#34;&#39;&amp;</code>") {
		t.Errorf("the version that is set is not written as words:\n%s", text)
	}
	in := &frontend.Installer{Root: root}
	install(t, in, page(t, "1.9.0"))
	if text := body(t, get(s, "/")); !strings.Contains(text, "page 1.9.0") {
		t.Errorf("an installed page is not taken up: %s", text)
	}
	install(t, in, page(t, "1.10.0"))
	if text := body(t, get(s, "/")); !strings.Contains(text, "page 1.10.0") {
		t.Errorf("1.10.0 is newer than 1.9.0, got: %.40s", text)
	}
	if res := get(s, "/scripts/only-1.9.0.js"); res.StatusCode != 200 {
		t.Errorf("a page that is still open lost its files: %s", res.Status)
	}
	if err := frontend.Use(root, "1.9.0"); err != nil {
		t.Fatal(err)
	}
	if text := body(t, get(s, "/")); !strings.Contains(text, "page 1.9.0") {
		t.Errorf("use has no effect: %.40s", text)
	}
	if err := frontend.Use(root, "7.7.7"); !fault.Is(err, fault.Missing) {
		t.Errorf("use of what is not installed: %v", err)
	}
	if err := frontend.Use(root, "auto"); err != nil {
		t.Fatal(err)
	}
	list, err := frontend.List(root, frontend.Page)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, one := range list {
		got = append(got, fmt.Sprint(one.Version, " ", one.Default, " ", one.Files))
	}
	if diff := cmp.Diff([]string{"1.10.0 true 6", "1.9.0 false 6"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestTemplatesAreDescriptionsUnlessMediaIsWanted(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	const inside = "comfyui_workflow_templates/templates/"
	file := wheel(t, t.TempDir(), "comfyui_workflow_templates", "0.9.0", map[string]string{
		inside + "index.json": `[]` + strings.Repeat(" ", 400), inside + "flux-1.webp": "RIFF",
	}, nil)
	install(t, &frontend.Installer{Root: root}, file)
	s := serve(t, root, "auto")
	if got := get(s, "/templates/index.json").Header.Get("Content-Type"); got != "application/json; charset=utf-8" {
		t.Errorf("type is %s", got)
	}
	if got := get(s, "/templates/flux-1.webp").Header.Get("Content-Type"); got != "image/svg+xml" {
		t.Errorf("a picture that is not here is %s", got)
	}
	if s.TemplatesVersion() != "0.9.0" {
		t.Errorf("templates are %q", s.TemplatesVersion())
	}
	media := wheel(t, t.TempDir(), "comfyui_workflow_templates_media_image", "0.3.0", map[string]string{
		"comfyui_workflow_templates_media_image/templates/flux-1.webp": "RIFF2",
	}, nil)
	install(t, &frontend.Installer{Root: root, Media: true}, media)
	docs := wheel(t, t.TempDir(), "comfyui_embedded_docs", "0.5.0", map[string]string{
		"comfyui_embedded_docs/docs/KSampler/en.md": "# KSampler",
	}, nil)
	install(t, &frontend.Installer{Root: root}, docs)
	s = serve(t, root, "auto")
	if got := body(t, get(s, "/templates/flux-1.webp")); got != "RIFF2" {
		t.Errorf("the picture is %q", got)
	}
	if res := get(s, "/templates/gone-1.webp"); res.StatusCode != http.StatusNotFound {
		t.Errorf("with media a missing picture gives %s", res.Status)
	}
	if got := body(t, get(s, "/docs/KSampler/en.md")); got != "# KSampler" {
		t.Errorf("the help page is %q", got)
	}
}

func TestRefusesPackagesThatCannotBeTrusted(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	good := map[string]string{static + "index.html": "page"}
	notZip := filepath.Join(dir, "comfyui_frontend_package-6.0.0-py3-none-any.whl")
	if err := os.WriteFile(notZip, []byte("not an archive"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, file := range map[string]string{
		"wrong hash inside":   wheel(t, dir, "comfyui_frontend_package", "1.0.0", good, func(r string) string { return strings.Replace(r, "sha256=", "sha256=AAAA", 1) }),
		"file not listed":     wheel(t, dir, "comfyui_frontend_package", "2.0.0", good, func(string) string { return "" }),
		"climbing name":       wheel(t, dir, "comfyui_frontend_package", "3.0.0", map[string]string{static + "../../../x": "x"}, nil),
		"backslash":           wheel(t, dir, "comfyui_frontend_package", "4.0.0", map[string]string{static + `a\b`: "x"}, nil),
		"nothing of the page": wheel(t, dir, "comfyui_frontend_package", "5.0.0", map[string]string{"other/x": "x"}, nil),
		"no archive":          notZip,
		"pinned otherwise":    wheel(t, dir, "comfyui_frontend_package", "1.40.10", good, nil),
		"another package":     wheel(t, dir, "requests", "2.0.0", good, nil),
		"no package name":     filepath.Join(dir, "page.whl"),
		"not there":           filepath.Join(dir, "comfyui_frontend_package-7.0.0-py3-none-any.whl"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			_, err := (&frontend.Installer{Root: root}).Install(t.Context(), file, false)
			sentence, _ := fault.Public(err)
			if !fault.Is(err, fault.Invalid) || strings.Contains(sentence, dir) {
				t.Errorf("got %v", err)
			}
			if left := leftovers(t, root); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

// leftovers lists the files below a folder of frontends.
func leftovers(t *testing.T, root string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			found = append(found, p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestInstallIsIdempotentAndMayRunTwiceAtOnce(t *testing.T) {
	t.Parallel()
	root, file := t.TempDir(), page(t, "2.0.0")
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			in := &frontend.Installer{Root: root, Progress: func(string, int64, int64) {}}
			if _, err := in.Install(t.Context(), file, false); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if _, err := (&frontend.Installer{Root: root}).Install(t.Context(), file, true); err != nil {
		t.Errorf("again: %v", err)
	}
	if text := body(t, get(serve(t, root, "auto"), "/")); !strings.Contains(text, "page 2.0.0") {
		t.Errorf("got %.40s", text)
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}

func TestFolderAsFrontend(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := frontend.New(t.TempDir(), dir, slog.New(slog.DiscardHandler)); !fault.Is(err, fault.Invalid) {
		t.Errorf("a folder without page: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "index.html"), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := body(t, get(serve(t, t.TempDir(), dir), "/")); got != "mine" {
		t.Errorf("got %q", got)
	}
}

// TestPip stands in for Python with a script, so that every way in which pip fails is seen without a network.
func TestPip(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the stand-in for Python is a shell script")
	}
	bin := t.TempDir()
	t.Setenv("PATH", bin+":/bin:/usr/bin")
	source := page(t, "3.1.4")
	script := func(text string) {
		if err := os.WriteFile(filepath.Join(bin, "python3"), []byte("#!/bin/sh\n"+text), 0o755); err != nil { //nolint:gosec // it has to run
			t.Fatal(err)
		}
	}
	in := &frontend.Installer{Root: t.TempDir()}
	for _, c := range []struct {
		script string
		kind   fault.Kind
		says   string
	}{
		{"echo 'No module named pip' >&2; exit 1", fault.Unavailable, "apt-get install python3-pip"},
		{"echo 'ERROR: Could not find a version (from versions: 1.0, 2.0)'; echo 'ERROR: No matching distribution found for x'; exit 1", fault.Missing, "There is no version 3.1.4"},
		{"echo 'ERROR: Could not find a version (from versions: none)'; exit 1", fault.Unavailable, "FILE.whl"},
		{"echo 'ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE'; exit 1", fault.Invalid, "hash"},
		{"exit 3", fault.Unavailable, "could not bring"},
		{"exit 0", fault.Internal, "brought no package"},
	} {
		script(c.script)
		_, err := in.Install(t.Context(), "3.1.4", false)
		if !fault.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %v", c.script, err)
		}
	}
	script(`while [ "$1" != --dest ]; do shift; done; cp '` + source + `' "$2"`)
	if got, err := in.Install(t.Context(), "3.1.4", false); err != nil || got.Version != "3.1.4" {
		t.Errorf("got %+v, %v", got, err)
	}
	script("exit 9")
	if _, err := in.Install(t.Context(), "3.1.4", false); err != nil {
		t.Errorf("what is installed is not brought again: %v", err)
	}
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := in.Install(stopped, "9.9.9", false); !fault.Is(err, fault.Unavailable) {
		t.Errorf("a stopped download: %v", err)
	}
	t.Setenv("PATH", t.TempDir())
	if _, err := in.Install(t.Context(), "9.9.9", false); !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "Python is not here") {
		t.Errorf("without Python: %v", err)
	}
	if _, err := in.Install(t.Context(), "--index-url=x", false); !fault.Is(err, fault.Invalid) {
		t.Errorf("an option as version: %v", err)
	}
}

func TestFolderFollowsTheEnvironment(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		env  map[string]string
		want string
	}{
		{map[string]string{"COMFYUME_FRONTENDS": "/x", "XDG_DATA_HOME": "/y", "HOME": "/h"}, "/x"},
		{map[string]string{"XDG_DATA_HOME": "/y", "HOME": "/h"}, "/y/comfyume/frontends"},
		{map[string]string{"XDG_DATA_HOME": "relative", "HOME": "/h"}, "/h/.local/share/comfyume/frontends"},
	} {
		if got, err := frontend.Folder(func(k string) string { return c.env[k] }); err != nil || got != filepath.FromSlash(c.want) {
			t.Errorf("%v gave %s, %v", c.env, got, err)
		}
	}
	if _, err := frontend.Folder(func(string) string { return "" }); !fault.Is(err, fault.Invalid) {
		t.Errorf("without home: %v", err)
	}
}

func BenchmarkAsset(b *testing.B) {
	root := b.TempDir()
	install(b, &frontend.Installer{Root: root}, page(b, "1.0.0"))
	s := serve(b, root, "auto")
	r := httptest.NewRequest(http.MethodGet, "/assets/index-Ab3dE6_8.js", nil)
	r.Header.Set("Accept-Encoding", "gzip, deflate, br, zstd")
	for b.Loop() {
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		if w.Code != http.StatusOK {
			b.Fatal(w.Code)
		}
	}
}
