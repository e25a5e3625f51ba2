package gateway_test

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/internal/account"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/gateway"
)

// work is ann's: two results.
type work struct{ broken bool }

type file struct{ *bytes.Reader }

func (file) Close() error { return nil }

func (work) Results(_ context.Context, user string, skip, limit int) ([]gateway.Result, int, error) {
	if user != "ann" || skip > 0 {
		return nil, 0, nil
	}
	return []gateway.Result{
		{ID: "a&b", Name: `<b>"ü.png`, Folder: "x", Size: 2048, Modified: time.Now()},
		{ID: "2", Name: "page.html", Size: 1, Modified: time.Now()},
	}, 2, nil
}

func (work) Open(_ context.Context, user, id string) (gateway.Result, io.ReadSeekCloser, error) {
	name := map[string]string{"a&b": "ü.png", "2": "page.html"}[id]
	if user != "ann" || name == "" {
		return gateway.Result{}, nil, fault.New(fault.Missing, "There is no such file.")
	}
	return gateway.Result{ID: id, Name: name, Modified: time.Unix(1e9, 0)}, file{bytes.NewReader([]byte("0123456789"))}, nil
}

func (w work) Thumb(ctx context.Context, user, id string) (io.ReadSeekCloser, time.Time, error) {
	res, f, err := w.Open(ctx, user, id)
	return f, res.Modified, err
}

func (w work) EachFile(_ context.Context, user string, fn func(gateway.Keepsake) error) error {
	for _, name := range []string{"results/a.png", "results/gone.png", "workflows/ü.json"} {
		err := fn(gateway.Keepsake{Path: name, Modified: time.Unix(1e9, 0), Open: func() (io.ReadCloser, error) {
			if strings.Contains(name, "gone") {
				return nil, fault.New(fault.Missing, "gone")
			}
			return io.NopCloser(strings.NewReader(user + " " + name)), nil
		}})
		if err != nil {
			return err
		}
	}
	if w.broken {
		return errors.New("the disk is gone")
	}
	return nil
}

func (work) Usage(context.Context, string) (int64, int64, error) { return 5e9, 10e9, nil }

func TestLink(t *testing.T) {
	t.Parallel()
	b := setup(t, gateway.Options{})
	code, _, err := b.accounts.NewLink(t.Context(), "ben", "ina", 0)
	ok(t, err)
	target := "http://example.com/link/" + code
	for _, look := range [][]string{{"HEAD"}, {"GET", "Sec-Purpose", "prefetch;prerender"}, {"GET", "Purpose", "prefetch"}, {"GET", "X-Moz", "prefetch"}} {
		r := b.do(look[0], target, look[1:]...)
		if r.StatusCode >= 300 || r.Header.Get("Set-Cookie") != "" {
			t.Errorf("%v gives %d, %v", look, r.StatusCode, r.Header)
		}
	}
	if list, err := b.accounts.Sessions(t.Context(), "ben"); err != nil || len(list) != 0 {
		t.Errorf("looking signed in: %v, %v", list, err)
	}
	r := b.do("GET", target, "Accept", "text/html", "User-Agent", "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605 (KHTML, like Gecko) Version/18.0 Mobile/15E148 Safari/604.1")
	same(t, []any{r.StatusCode, r.Header.Get("Location"), strings.HasPrefix(r.Header.Get("Set-Cookie"), "comfyume-s1=")}, []any{303, "/", true})
	list, err := b.accounts.Sessions(t.Context(), "ben")
	ok(t, err)
	if len(list) != 1 || list[0].Device != "Safari on iPhone" || list[0].Address != "192.0.2.1" || list[0].Via != "link" {
		t.Errorf("sessions: %+v", list)
	}
	r = b.do("GET", "http://example.com/link/nonsense", "Accept", "text/html")
	if text := body(t, r); r.StatusCode != 404 || !strings.Contains(text, "not known here") {
		t.Errorf("%d %s", r.StatusCode, text)
	}
	if strings.Contains(b.log.String(), code) {
		t.Error("a link is in the log")
	}
}

func TestJoinPages(t *testing.T) {
	t.Parallel()
	b := setup(t, gateway.Options{})
	c, err := b.accounts.NewCode(t.Context(), "class-a", "ina", 2, 0)
	ok(t, err)
	typed := strings.ToLower(strings.ReplaceAll(c.Code, "-", ""))
	r := b.do("GET", "http://example.com/join?code="+typed, "Accept", "text/html")
	same(t, []any{r.StatusCode, r.Header.Get("Location")}, []any{303, "/join/" + typed})
	if text := body(t, b.do("GET", "http://example.com/join/"+typed)); !strings.Contains(text, "class-a") {
		t.Error("the page does not name the class")
	}
	join := "http://example.com/join/" + typed
	r = b.post(join, url.Values{"name": {"Ann Ü"}})
	if text := body(t, r); r.StatusCode != 400 || !strings.Contains(text, `value="ann-ue"`) {
		t.Errorf("%d: no name is suggested", r.StatusCode)
	}
	r = b.post(join, url.Values{"name": {"ann"}})
	if text := body(t, r); r.StatusCode != 409 || !strings.Contains(text, "is taken") {
		t.Errorf("a taken name gives %d", r.StatusCode)
	}
	r = b.post(join, url.Values{"name": {"dan"}})
	text := body(t, r)
	pin := ""
	if m := regexp.MustCompile(`class="pin"[^>]*>([0-9]{3} [0-9]{3})<`).FindStringSubmatch(text); m != nil {
		pin = m[1]
	}
	if r.StatusCode != 200 || pin == "" || r.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%d, PIN %q", r.StatusCode, pin)
	}
	r = b.post(join, url.Values{"name": {"Dan"}, "pin": {pin}})
	same(t, []any{r.StatusCode, r.Header.Get("Location")}, []any{303, "/"})
	r = b.post(join, url.Values{"name": {"dan"}, "pin": {"000"}})
	if text := body(t, r); r.StatusCode != 401 || !strings.Contains(text, "do not fit together") || !strings.Contains(text, "<details class=\"aside\" open>") {
		t.Errorf("a wrong PIN gives %d", r.StatusCode)
	}
	if r := b.do("GET", "http://example.com/join/ZZZZ-ZZZZ"); r.StatusCode != 404 {
		t.Errorf("an unknown code gives %d", r.StatusCode)
	}
	for range 7 {
		r = b.post(join, url.Values{"name": {"dan"}, "pin": {"000"}})
	}
	if r.StatusCode != 429 || r.Header.Get("Retry-After") == "" {
		t.Errorf("many wrong PINs give %d", r.StatusCode)
	}
}

// TestSecondPerson: who comes after somebody else at a browser gets it emptied before the editor opens.
func TestSecondPerson(t *testing.T) {
	t.Parallel()
	b := setup(t, gateway.Options{})
	page := []string{"Accept", "text/html", "Sec-Fetch-Dest", "document"}
	get := func(session, who string) *http.Response {
		return b.do("GET", "http://example.com/", append(page, "Cookie", "comfyume-s1="+session+who)...)
	}
	mark := func(r *http.Response) string {
		for _, c := range r.Cookies() {
			if c.Name == "comfyume-who-s1" {
				return "; " + c.Name + "=" + c.Value
			}
		}
		return ""
	}
	r := get(b.cookie, "")
	anns := mark(r)
	if s := got(t, r); s.Face != "static" || anns == "" {
		t.Fatalf("ann gets %+v, mark %q", s, anns)
	}
	if r := get(b.cookie, anns); got(t, r).Face != "static" || mark(r) != "" {
		t.Error("ann again does not just get her editor")
	}
	in, err := b.accounts.SignIn(t.Context(), "ben", "correct horse", account.Attempt{})
	ok(t, err)
	r = get(in.Cookie, anns)
	text := body(t, r)
	if !strings.Contains(text, "localStorage.clear()") || !strings.Contains(text, `data-next="/"`) ||
		r.Header.Get("Clear-Site-Data") != `"cache", "storage"` || r.Header.Get("Cache-Control") != "no-store" || mark(r) != "" {
		t.Fatalf("ben gets %v %s", r.Header, text)
	}
	value := regexp.MustCompile(`data-mark="([0-9a-f]{16})"`).FindStringSubmatch(text)
	if value == nil {
		t.Fatal("no mark")
	}
	r = b.post("http://example.com/signin/cleared", url.Values{"mark": {value[1]}})
	if r.StatusCode != 204 || mark(r) == "" || mark(r) == anns {
		t.Fatalf("cleared gives %d, %q", r.StatusCode, mark(r))
	}
	if s := got(t, get(in.Cookie, mark(r))); s.Face != "static" || s.Person != "ben" {
		t.Errorf("ben then gets %+v", s)
	}
	for _, wrong := range []string{"", "x", "'\"><script>", strings.Repeat("0", 17)} {
		if r := b.post("http://example.com/signin/cleared", url.Values{"mark": {wrong}}); r.StatusCode != 404 {
			t.Errorf("mark %q gives %d", wrong, r.StatusCode)
		}
	}
	// A program with a token keeps no cookies and must just get the page.
	if s := got(t, b.do("GET", "http://example.com/", "X-API-Key", b.token)); s.Face != "static" {
		t.Errorf("a program gets %+v", s)
	}
}

func TestSignOut(t *testing.T) {
	t.Parallel()
	b := setup(t, gateway.Options{})
	r := b.do("GET", "http://example.com/signout", b.signedIn()...)
	if text := body(t, r); r.StatusCode != 200 || !strings.Contains(text, "ann") {
		t.Errorf("%d", r.StatusCode)
	}
	if _, err := b.accounts.Session(t.Context(), b.cookie); err != nil {
		t.Errorf("GET signs out: %v", err)
	}
	r = b.post("http://example.com/signout", nil, b.signedIn()...)
	if text := body(t, r); r.StatusCode != 200 || r.Header.Get("Clear-Site-Data") == "" || !strings.Contains(text, "localStorage.clear()") ||
		!strings.Contains(r.Header.Get("Set-Cookie"), "Max-Age=0") {
		t.Errorf("%d %v", r.StatusCode, r.Header)
	}
	if _, err := b.accounts.Session(t.Context(), b.cookie); !fault.Is(err, fault.Denied) {
		t.Errorf("the session lives on: %v", err)
	}
	if r := b.do("GET", "http://example.com/signout"); r.Header.Get("Location") != "/signin" {
		t.Errorf("nobody signs out: %d", r.StatusCode)
	}
}

func TestMe(t *testing.T) {
	t.Parallel()
	b := setup(t, gateway.Options{})
	r := b.do("GET", "http://example.com/me", b.signedIn()...)
	text := body(t, r)
	for _, part := range []string{"&lt;b&gt;&#34;ü.png", "/me/thumb?id=a%26b", "5 GB of 10 GB", "laptop", "this one"} {
		if !strings.Contains(text, part) {
			t.Errorf("/me lacks %q", part)
		}
	}
	if strings.Contains(text, "<b>") {
		t.Error("a file's name is taken for HTML")
	}
	r = b.do("GET", "http://example.com/me/file?id=a%26b", append(b.signedIn(), "Range", "bytes=2-3")...)
	same(t, []any{r.StatusCode, body(t, r), r.Header.Get("Content-Type"), r.Header.Get("Content-Disposition")},
		[]any{206, "23", "image/png", `inline; filename*=utf-8''%C3%BC.png`})
	r = b.do("GET", "http://example.com/me/file?id=2", b.signedIn()...)
	same(t, []any{r.Header.Get("Content-Type"), strings.HasPrefix(r.Header.Get("Content-Disposition"), "attachment"), strings.Contains(r.Header.Get("Content-Security-Policy"), "sandbox")},
		[]any{"application/octet-stream", true, true})
	ben, err := b.accounts.SignIn(t.Context(), "ben", "correct horse", account.Attempt{})
	ok(t, err)
	for _, target := range []string{"/me/file?id=2", "/me/thumb?id=a%26b", "/me/nothing"} {
		if r := b.do("GET", "http://example.com"+target, "Cookie", "comfyume-s1="+ben.Cookie); r.StatusCode != 404 {
			t.Errorf("%s gives ben %d", target, r.StatusCode)
		}
	}
	r = b.do("GET", "http://example.com/me/everything.zip", "X-API-Key", b.token)
	raw := body(t, r)
	z, err := zip.NewReader(strings.NewReader(raw), int64(len(raw)))
	ok(t, err)
	var names []string
	for _, f := range z.File {
		names = append(names, f.Name)
	}
	same(t, names, []string{"results/a.png", "workflows/ü.json"})
}

func TestMeChanges(t *testing.T) {
	t.Parallel()
	b := setup(t, gateway.Options{})
	r := b.post("http://example.com/me/tokens", url.Values{"label": {"krita"}, "scope": {"comfy"}}, b.signedIn()...)
	secret := regexp.MustCompile(`cm_[0-9A-Za-z]{43}`).FindString(body(t, r))
	c, err := b.accounts.Token(t.Context(), secret)
	ok(t, err)
	same(t, []any{c.Person.Name, c.Scope}, []any{"ann", account.ScopeComfy})
	r = b.post("http://example.com/me/tokens", url.Values{"label": {strings.Repeat("x", 100)}}, b.signedIn()...)
	if text := body(t, r); r.StatusCode != 400 || !strings.Contains(text, "80 characters") {
		t.Errorf("a long label gives %d", r.StatusCode)
	}
	for name, r := range map[string]*http.Response{
		"a token makes tokens": b.post("http://example.com/me/tokens", url.Values{}, "X-API-Key", b.token),
		"Basic makes tokens":   b.post("http://example.com/me/tokens", url.Values{}, "Authorization", basic("ann", "correct horse")),
		"a foreign page":       b.post("http://example.com/me/tokens", url.Values{}, append(b.signedIn(), "Sec-Fetch-Site", "cross-site")...),
	} {
		if r.StatusCode != 403 {
			t.Errorf("%s: %d", name, r.StatusCode)
		}
	}
	ben, err := b.accounts.SignIn(t.Context(), "ben", "correct horse", account.Attempt{})
	ok(t, err)
	b.post("http://example.com/me/tokens/revoke", url.Values{"id": {b.tokenID}}, "Cookie", "comfyume-s1="+ben.Cookie)
	if _, err := b.accounts.Token(t.Context(), b.token); err != nil {
		t.Errorf("ben revokes ann's token: %v", err)
	}
	r = b.post("http://example.com/me/tokens/revoke", url.Values{"id": {b.tokenID}}, b.signedIn()...)
	same(t, []any{r.StatusCode, r.Header.Get("Location")}, []any{303, "/me#access"})
	if _, err := b.accounts.Token(t.Context(), b.token); !fault.Is(err, fault.Denied) {
		t.Errorf("the token lives on: %v", err)
	}
	other, err := b.accounts.SignIn(t.Context(), "ann", "correct horse", account.Attempt{})
	ok(t, err)
	b.post("http://example.com/me/sessions/end-others", nil, b.signedIn()...)
	_, err1 := b.accounts.Session(t.Context(), other.Cookie)
	_, err2 := b.accounts.Session(t.Context(), b.cookie)
	same(t, []bool{err1 == nil, err2 == nil}, []bool{false, true})
	if r := b.post("http://example.com/me/reset", nil, b.signedIn()...); !strings.Contains(body(t, r), "localStorage.clear()") {
		t.Error("reset empties nothing")
	}
}

// TestZipIsCut: a zip that can't be finished does not look finished.
func TestZipIsCut(t *testing.T) {
	t.Parallel()
	b := setup(t, gateway.Options{})
	g, err := gateway.New(b.accounts, gateway.Faces{Comfy: tell("comfy"), Work: hugeBroken{}}, gateway.Options{Studio: "s1"})
	ok(t, err)
	s := httptest.NewServer(g)
	defer s.Close()
	req, err := http.NewRequest("GET", s.URL+"/me/everything.zip", nil)
	ok(t, err)
	req.Header.Set("X-API-Key", b.token)
	r, err := s.Client().Do(req)
	ok(t, err)
	defer r.Body.Close()
	if _, err := io.ReadAll(r.Body); err == nil {
		t.Error("the answer looks complete")
	}
}

type hugeBroken struct{ work }

func (hugeBroken) EachFile(_ context.Context, _ string, fn func(gateway.Keepsake) error) error {
	err := fn(gateway.Keepsake{Path: "a", Open: func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(make([]byte, 1<<20))), nil
	}})
	return errors.Join(err, errors.New("the disk is gone"))
}

// TestPolicies: every page's own style and script are let in, by hash, and nothing else.
func TestPolicies(t *testing.T) {
	t.Parallel()
	b := setup(t, gateway.Options{Insecure: true, CA: []byte("PEM")})
	c, err := b.accounts.NewCode(t.Context(), "class-a", "ina", 2, 0)
	ok(t, err)
	inline := regexp.MustCompile(`(?s)<(style|script)>(.*?)</(?:style|script)>`)
	for _, target := range []string{"/signin", "/join", "/join/" + c.Code, "/me", "/signout", "/link/x", "POST /me/reset", "POST /signout"} {
		var r *http.Response
		if path, post := strings.CutPrefix(target, "POST "); post {
			r = b.post("http://example.com"+path, nil, b.signedIn()...)
		} else {
			r = b.do("GET", "http://example.com"+target, append(b.signedIn(), "Accept", "text/html")...)
		}
		text := body(t, r)
		policy := r.Header.Get("Content-Security-Policy")
		for _, m := range inline.FindAllStringSubmatch(text, -1) {
			sum := sha256.Sum256([]byte(m[2]))
			if want := m[1] + "-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"; !strings.Contains(policy, want) {
				t.Errorf("%s: the policy does not let its own %s in:\n%s", target, m[1], policy)
			}
		}
		for _, bad := range []string{"unsafe", " style=", "onclick=", "javascript:", "ZgotmplZ"} {
			if strings.Contains(policy, bad) || strings.Contains(text, bad) {
				t.Errorf("%s has %q", target, bad)
			}
		}
		if !strings.Contains(text, "without encryption") {
			t.Errorf("%s does not say that the studio is open", target)
		}
	}
	r := b.do("GET", "http://example.com/signin/ca.crt")
	same(t, []string{body(t, r), r.Header.Get("Content-Type")}, []string{"PEM", "application/x-x509-ca-cert"})
	r = b.do("GET", "http://example.com/", "X-API-Key", b.token, "Accept", "text/html")
	policy := r.Header.Get("Content-Security-Policy")
	for _, part := range []string{"default-src 'self'", "connect-src 'self' blob: data: ws://example.com", "frame-ancestors 'self'"} {
		if !strings.Contains(policy, part) {
			t.Errorf("the editor's policy lacks %q: %s", part, policy)
		}
	}
	r = b.do("GET", "http://example.com/api/view?filename=a.svg", "X-API-Key", b.token)
	if p := r.Header.Get("Content-Security-Policy"); !strings.Contains(p, "sandbox") {
		t.Errorf("a file is shown under %q", p)
	}
}

func TestReady(t *testing.T) {
	t.Parallel()
	b := setup(t, gateway.Options{})
	reasons := []string{"the disk is full"}
	g, err := gateway.New(b.accounts, gateway.Faces{Ready: func(context.Context) []string { return reasons }}, gateway.Options{Studio: "s1"})
	ok(t, err)
	ask := func(path string) *http.Response { b.Gateway = g; return b.do("GET", "http://example.com"+path) }
	r := ask("/readyz")
	if d := cmp.Diff([]any{503, true}, []any{r.StatusCode, strings.Contains(body(t, r), "the disk is full")}); d != "" {
		t.Error(d)
	}
	same(t, ask("/healthz").StatusCode, 200)
	reasons = nil
	same(t, ask("/readyz").StatusCode, 200)
}
