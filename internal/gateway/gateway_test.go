package gateway_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/ahelme/comfyume/internal/account"
	"github.com/ahelme/comfyume/internal/account/accounttest"
	"github.com/ahelme/comfyume/internal/gateway"
	"github.com/ahelme/comfyume/internal/identity"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// seen is what a face got of a request.
type seen struct {
	Face, Person, Path, RawPath, URI, Query, Host string
}

// bundle is a door with a person behind it and faces that say what they got.
type bundle struct {
	*gateway.Gateway
	accounts *account.Service
	live     *gateway.Live
	log      *bytes.Buffer
	token    string // of ann
	tokenID  string
	cookie   string // of ann
	runs     *runs
	quotas   *quotas
}

type static map[string]bool

func (s static) Has(path string) bool { return s[path] }

func (s static) ServeHTTP(w http.ResponseWriter, r *http.Request) { tell("static")(w, r) }

// tell makes a face that says what it got.
func tell(face string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		p, _ := identity.From(r.Context())
		if r.Body != nil {
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
				return
			}
		}
		if r.URL.Path == "/panic" {
			panic("a face is broken")
		}
		w.Header().Set("Content-Type", "application/json")
		err := json.NewEncoder(w).Encode(seen{face, p.Name, r.URL.Path, r.URL.RawPath, r.RequestURI, r.URL.RawQuery, r.Host})
		if err != nil {
			panic(err)
		}
	}
}

type syncBuffer struct {
	mu sync.Mutex
	*bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func setup(t testing.TB, o gateway.Options) bundle {
	t.Helper()
	b := bundle{live: gateway.NewLive(), log: &bytes.Buffer{}, runs: &runs{}, quotas: &quotas{}}
	b.accounts = account.New(accounttest.NewMemory(), account.Options{
		Cost: account.Cost{MemoryKiB: 8, Passes: 1, Lanes: 1}, Ended: b.live.End,
	})
	for _, n := range []account.NewUser{
		{Name: "ann", Password: "correct horse", Group: "class-a"},
		{Name: "ben", Password: "correct horse"},
		{Name: "olga", Role: identity.Operator, Password: "correct horse"},
	} {
		if _, err := b.accounts.AddUser(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	secret, token, err := b.accounts.NewToken(t.Context(), "ann", "laptop", account.ScopeAll, 0)
	ok(t, err)
	b.token, b.tokenID = secret, token.ID
	in, err := b.accounts.SignIn(t.Context(), "ann", "correct horse", account.Attempt{Address: "192.0.2.1", Device: "test"})
	ok(t, err)
	b.cookie = in.Cookie
	o.Studio, o.Live = "s1", b.live
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(&syncBuffer{Buffer: b.log}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	g, err := gateway.New(b.accounts, gateway.Faces{
		Comfy:  tell("comfy"),
		Static: static{"/": true, "/index.html": true, "/assets/app.js": true, "/user.css": true},
		Mounts: []gateway.Mount{
			{Prefix: "/studio/api/", Handler: tell("api")},
			{Prefix: "/open/", Handler: tell("api"), Public: true},
			{Prefix: "/metrics", Handler: tell("metrics"), Role: identity.Operator},
			{Prefix: "/qm/health", Handler: tell("health"), Guests: true, Bare: true},
			{Prefix: "/qm/api/workers/", Handler: tell("workers"), Scope: account.ScopeWorker, Bare: true},
			{Prefix: "/qm/", Handler: tell("qm"), Bare: true},
			{Prefix: "/api/jobs", Methods: []string{"POST"}, Handler: tell("qm"), Bare: true},
			{Prefix: "/api/jobs/", Methods: []string{"DELETE", "PATCH"}, Handler: tell("qm"), Bare: true},
		},
		Work: work{},
		Runs: b.runs, Quotas: b.quotas,
	}, o)
	ok(t, err)
	b.Gateway = g
	return b
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// do sends a request; headers come in pairs.
func (b bundle) do(method, target string, headers ...string) *http.Response {
	return b.send(httptest.NewRequest(method, target, nil), headers...)
}

func (b bundle) send(r *http.Request, headers ...string) *http.Response {
	r.RemoteAddr = "192.0.2.1:4000"
	for n := 0; n < len(headers); n += 2 {
		r.Header.Set(headers[n], headers[n+1])
	}
	if h := r.Header.Get("Host"); h != "" {
		r.Host = h
		r.Header.Del("Host")
	}
	w := httptest.NewRecorder()
	b.ServeHTTP(w, r)
	return w.Result()
}

func (b bundle) post(target string, form url.Values, headers ...string) *http.Response {
	r := httptest.NewRequest(http.MethodPost, target, strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return b.send(r, append([]string{"Accept", "text/html", "Origin", "http://example.com"}, headers...)...)
}

func (b bundle) signedIn() []string { return []string{"Cookie", "comfyume-s1=" + b.cookie} }

func body(t testing.TB, r *http.Response) string {
	t.Helper()
	raw, err := io.ReadAll(r.Body)
	ok(t, err)
	return string(raw)
}

func got(t testing.TB, r *http.Response) (s seen) {
	t.Helper()
	raw := body(t, r)
	if err := json.Unmarshal([]byte(raw), &s); err != nil {
		t.Fatalf("status %d, body %q: %v", r.StatusCode, raw, err)
	}
	return s
}

func same(t testing.TB, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func basic(name, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(name+":"+password))
}

// TestCredentials tries every way of clients.md section 2 to say who one is.
func TestCredentials(t *testing.T) {
	t.Parallel()
	b := setup(t, gateway.Options{})
	const api = "http://example.com/api/queue"
	for name, r := range map[string]*http.Response{
		"cookie":                   b.do("GET", api, b.signedIn()...),
		"two cookies of one name":  b.do("GET", api, "Cookie", "comfyume-s1=planted; comfyume-s1="+b.cookie),
		"bearer":                   b.do("GET", api, "Authorization", "Bearer "+b.token),
		"bearer, small":            b.do("GET", api, "Authorization", "bearer "+b.token),
		"key":                      b.do("GET", api, "X-API-Key", b.token),
		"basic, token as password": b.do("GET", api, "Authorization", basic("whoever", b.token)),
		"basic, token as name":     b.do("GET", api, "Authorization", basic(b.token, "")),
		"basic, own password":      b.do("GET", api, "Authorization", basic("ann", "correct horse")),
		"basic of a proxy, cookie": b.do("GET", api, append(b.signedIn(), "Authorization", basic("class", "door"))...),
		"path":                     b.do("GET", "http://example.com/k/"+b.token+"/api/queue"),
		"own name, cookie":         b.do("GET", "http://example.com/u/ann/api/queue", b.signedIn()...),
	} {
		s := got(t, r)
		same(t, []string{name, s.Face, s.Person, s.Path}, []string{name, "comfy", "ann", "/api/queue"})
	}
	for _, path := range []string{"/ws", "/api/ws", "/u/ann/ws"} {
		s := got(t, b.do("GET", "http://example.com"+path+"?clientId=a%2Fb&token="+b.token+"&x"))
		same(t, []string{s.Person, s.Query, s.URI}, []string{"ann", "clientId=a%2Fb&x", strings.TrimPrefix(path, "/u/ann") + "?clientId=a%2Fb&x"})
	}
	for name, r := range map[string]*http.Response{
		"nothing":                  b.do("GET", api),
		"wrong cookie":             b.do("GET", api, "Cookie", "comfyume-s1="+strings.Repeat("A", 43)),
		"other studio's cookie":    b.do("GET", api, "Cookie", "comfyume-s2="+b.cookie),
		"wrong bearer":             b.do("GET", api, append(b.signedIn(), "Authorization", "Bearer cm_x")...),
		"wrong key":                b.do("GET", api, append(b.signedIn(), "X-API-Key", "x")...),
		"wrong path":               b.do("GET", "http://example.com/k/cm_x/api/queue", b.signedIn()...),
		"wrong password":           b.do("GET", api, "Authorization", basic("ann", "wrong")),
		"cookie's value as bearer": b.do("GET", api, "Authorization", "Bearer "+b.cookie),
		"token as cookie":          b.do("GET", api, "Cookie", "comfyume-s1="+b.token),
		"token in another query":   b.do("GET", api+"?token="+b.token),
		"digest":                   b.do("GET", api, "Authorization", "Digest x"),
	} {
		var e struct {
			Error struct{ Type, Message, Details string }
			Nodes map[string]any `json:"node_errors"`
		}
		if err := json.Unmarshal([]byte(body(t, r)), &e); err != nil || e.Error.Message == "" || e.Nodes == nil {
			t.Errorf("%s: body %+v, %v", name, e, err)
		}
		same(t, []any{name, r.StatusCode, r.Header.Get("WWW-Authenticate") != ""}, []any{name, 401, true})
	}
	ok(t, b.accounts.RevokeToken(t.Context(), "ann", b.tokenID))
	if r := b.do("GET", api, "Authorization", "Bearer "+b.token); r.StatusCode != 401 {
		t.Errorf("a revoked token gives %d", r.StatusCode)
	}
	if r := b.do("GET", "http://example.com/u/ben/api/queue", b.signedIn()...); r.StatusCode != 403 {
		t.Errorf("ann in ben's place gives %d", r.StatusCode)
	}
	if strings.Contains(b.log.String(), b.token[5:]) || strings.Contains(b.log.String(), "cm_") {
		t.Errorf("a token is in the log:\n%s", b.log)
	}
}

// TestPaths: prefixes go, the raw path stays what it was.
func TestPaths(t *testing.T) {
	t.Parallel()
	b := setup(t, gateway.Options{PublicURL: "https://lab.example/studio/"})
	key := []string{"X-API-Key", b.token}
	for target, want := range map[string]seen{
		"/api/userdata/workflows%2Fa%20b.json":                        {Path: "/api/userdata/workflows/a b.json", RawPath: "/api/userdata/workflows%2Fa%20b.json"},
		"/u/ann/api/userdata/a%2Fb.json":                              {Path: "/api/userdata/a/b.json", RawPath: "/api/userdata/a%2Fb.json"},
		"/studio/u/ann/api/userdata/a%2Fb.json/move/c%2Fd.json?o=%2F": {Path: "/api/userdata/a/b.json/move/c/d.json", RawPath: "/api/userdata/a%2Fb.json/move/c%2Fd.json", Query: "o=%2F"},
		"/studio/api/prompt":                                          {Path: "/api/prompt"},
		"/studio/studio/api/v1/me":                                    {Face: "api", Path: "/studio/api/v1/me"},
		"/studio/api/v1/me":                                           {Face: "api", Path: "/studio/api/v1/me"},
		"/studio/view?filename=%C3%A4.png":                            {Path: "/view", Query: "filename=%C3%A4.png"},
		"/k":                                                          {Path: "/k"},
		"/user":                                                       {Path: "/user"},
		"/link.png":                                                   {Path: "/link.png"},
		"//api//queue":                                                {Path: "//api//queue"},
		"/studioX/api":                                                {Path: "/studioX/api"},
		"/studio/k/" + b.token + "/object_info/Primitive%20boolean%20%5BCrystools%5D": {Path: "/object_info/Primitive boolean [Crystools]"},
	} {
		want.Person, want.Host = "ann", "example.com"
		if want.Face == "" {
			want.Face = "comfy"
		}
		s := got(t, b.do("GET", "http://example.com"+target, key...))
		if strings.Contains(s.URI, "cm_") || strings.Contains(s.URI, "/u/ann") {
			t.Errorf("%s: the face sees %q", target, s.URI)
		}
		s.URI = ""
		if d := cmp.Diff(want, s); d != "" {
			t.Errorf("%s: %s", target, d)
		}
	}
	for target, to := range map[string]string{
		"/studio":              "/studio/",
		"/u/ann":               "/studio/u/ann/",
		"/studio/u/ann?x=1":    "/studio/u/ann/?x=1",
		"/studio/k/" + b.token: "/studio/k/" + b.token + "/",
	} {
		r := b.do("GET", "http://example.com"+target, key...)
		same(t, []any{target, r.StatusCode, r.Header.Get("Location")}, []any{target, 308, to})
	}
	for _, page := range []string{"me", "signout", "signin/clean"} { // where the editor's own links lead
		r := b.do("GET", "http://example.com/studio/u/ann/"+page, key...)
		same(t, []any{page, r.StatusCode, r.Header.Get("Location")}, []any{page, 303, "/studio/" + page})
	}
	r := b.do("POST", "http://example.com/api/userdata/workflows/a.json", key...)
	if text := body(t, r); r.StatusCode != 400 || !strings.Contains(text, "proxy") {
		t.Errorf("a path that a proxy decoded gives %d %s", r.StatusCode, text)
	}
}

// TestLost: who looks at an address where nothing is sees a page, and a program gets what the face says.
func TestLost(t *testing.T) {
	t.Parallel()
	b := setup(t, gateway.Options{})
	var g *gateway.Gateway
	g, err := gateway.New(b.accounts, gateway.Faces{Comfy: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !g.Lost(w, r) {
			http.Error(w, "404: Not Found", http.StatusNotFound)
		}
	})}, gateway.Options{Studio: "s1"})
	ok(t, err)
	for dest, want := range map[string]string{"document": "<h1", "image": "404: Not Found", "": "404: Not Found"} {
		r := httptest.NewRequest("GET", "http://example.com/nothing/here", nil)
		r.Header.Set("Authorization", "Bearer "+b.token)
		if dest != "" {
			r.Header.Set("Sec-Fetch-Dest", dest)
		}
		w := httptest.NewRecorder()
		g.ServeHTTP(w, r)
		if w.Code != 404 || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%q gets %d %s, want 404 with %s", dest, w.Code, w.Body, want)
		}
	}
}

// TestNobody: without sign-in a page leads to the sign-in, everything else is refused, and static files are given.
func TestNobody(t *testing.T) {
	t.Parallel()
	b := setup(t, gateway.Options{})
	page := []string{"Accept", "text/html,*/*", "Sec-Fetch-Dest", "document"}
	for target, to := range map[string]string{
		"/":                    "/signin",
		"/u/ann/":              "/signin?next=%2Fu%2Fann%2F",
		"/u/ben/?a=b":          "/signin?next=%2Fu%2Fben%2F%3Fa%3Db",
		"/me":                  "/signin?next=%2Fme",
		"/view?filename=a.png": "/signin?next=%2Fview%3Ffilename%3Da.png",
		"/metrics":             "/signin?next=%2Fmetrics",
	} {
		r := b.do("GET", "http://example.com"+target, page...)
		same(t, []any{target, r.StatusCode, r.Header.Get("Location")}, []any{target, 303, to})
		if c := r.Header.Get("Set-Cookie"); c != "" {
			t.Errorf("%s: nobody gets the cookie %q", target, c)
		}
	}
	for _, target := range []string{
		"/", "/index.html", "/ws", "/prompt", "/api/prompt", "/api/users", "/view?filename=a.png", "/metrics", "/me", "/me/everything.zip",
		"/studio/api/v1/jobs", "/anything", "/u/ann/", "/u/ann/api/queue", "/k/" + strings.Repeat("x", 46) + "/", "/me/tokens",
	} {
		for _, method := range []string{"GET", "POST", "PUT", "DELETE", "PATCH"} {
			r := b.do(method, "http://example.com"+target)
			if r.StatusCode != 401 && r.StatusCode != 405 || r.Header.Get("Set-Cookie") != "" {
				t.Errorf("%s %s gives nobody %d", method, target, r.StatusCode)
			}
		}
	}
	for target, face := range map[string]string{"/assets/app.js": "static", "/u/ben/user.css": "static", "/open/door": "api"} {
		s := got(t, b.do("GET", "http://example.com"+target))
		same(t, []string{target, s.Face, s.Person}, []string{target, face, ""})
	}
	if r := b.do("OPTIONS", "http://example.com/api/prompt"); r.StatusCode != 200 || r.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("a preflight gives %d, %v", r.StatusCode, r.Header)
	}
	if r := b.do("GET", "http://example.com/healthz"); r.StatusCode != 200 {
		t.Errorf("healthz gives %d", r.StatusCode)
	}
}

// TestRoles: what is for operators is for operators, and a token for ComfyUI is for ComfyUI.
func TestRoles(t *testing.T) {
	t.Parallel()
	b := setup(t, gateway.Options{})
	if r := b.do("GET", "http://example.com/metrics", b.signedIn()...); r.StatusCode != 403 {
		t.Errorf("ann reads metrics: %d", r.StatusCode)
	}
	if s := got(t, b.do("GET", "http://example.com/metrics", "Authorization", basic("olga", "correct horse"))); s.Face != "metrics" {
		t.Errorf("olga gets %+v", s)
	}
	secret, _, err := b.accounts.NewToken(t.Context(), "ann", "", account.ScopeComfy, 0)
	ok(t, err)
	for target, want := range map[string]int{"/api/queue": 200, "/me": 403, "/studio/api/v1/jobs": 403} {
		if r := b.do("GET", "http://example.com"+target, "X-API-Key", secret); r.StatusCode != want {
			t.Errorf("a token for ComfyUI at %s: %d, want %d", target, r.StatusCode, want)
		}
	}
}

// TestOrigins: a foreign page can't use the cookie; programs with a token are left alone.
func TestOrigins(t *testing.T) {
	t.Parallel()
	b := setup(t, gateway.Options{PublicURL: "https://lab.example", TrustedProxies: []string{"192.0.2.0/24"}})
	socket := []string{"Upgrade", "websocket", "Connection", "Upgrade", "Sec-WebSocket-Key", "x"}
	for _, c := range []struct {
		name, method string
		headers      []string
		want         int
	}{
		{"own page", "POST", []string{"Origin", "http://example.com", "Sec-Fetch-Site", "same-origin"}, 200},
		{"own page, old browser", "POST", []string{"Origin", "http://example.com"}, 200},
		{"public address", "POST", []string{"Origin", "https://lab.example"}, 200},
		{"behind a proxy", "POST", []string{"X-Forwarded-Host", "studio.example:8443", "X-Forwarded-Proto", "http", "Origin", "http://studio.example:8443"}, 200},
		{"no browser", "POST", nil, 200},
		{"foreign page", "POST", []string{"Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site"}, 403},
		{"foreign page, old browser", "POST", []string{"Origin", "https://evil.example"}, 403},
		{"neighbour", "POST", []string{"Origin", "https://x.lab.example", "Sec-Fetch-Site", "same-site"}, 403},
		{"file", "DELETE", []string{"Origin", "null"}, 403},
		{"foreign picture", "GET", []string{"Sec-Fetch-Site", "cross-site"}, 200},
		{"own socket", "GET", append([]string{"Origin", "http://example.com"}, socket...), 200},
		{"foreign socket", "GET", append([]string{"Origin", "https://evil.example"}, socket...), 403},
		{"foreign socket, new browser", "GET", append([]string{"Sec-Fetch-Site", "cross-site"}, socket...), 403},
		{"program's socket", "GET", socket, 200},
	} {
		r := b.do(c.method, "http://example.com/ws", append(c.headers, b.signedIn()...)...)
		same(t, []any{c.name, "cookie", r.StatusCode}, []any{c.name, "cookie", c.want})
		r = b.do(c.method, "http://example.com/ws", append(c.headers, "Authorization", "Bearer "+b.token)...)
		same(t, []any{c.name, "token", r.StatusCode}, []any{c.name, "token", 200})
	}
	r := b.post("http://example.com/signin", url.Values{"name": {"ann"}, "password": {"correct horse"}}, "Sec-Fetch-Site", "cross-site")
	if r.StatusCode != 403 {
		t.Errorf("a foreign page signs somebody in: %d", r.StatusCode)
	}
}

// TestForwarded: what proxies say counts from trusted ones only.
func TestForwarded(t *testing.T) {
	t.Parallel()
	says := []string{
		"X-Forwarded-For", "203.0.113.9, 198.51.100.7, 192.0.2.77", "X-Forwarded-Proto", "https",
		"X-Forwarded-Host", "lab.example", "X-Request-Id", "abc-1", "X-API-Key", "",
	}
	for trusted, want := range map[bool][]string{
		true:  {"lab.example", "abc-1", "remote=198.51.100.7"},
		false: {"example.com", "", "remote=192.0.2.1"},
	} {
		o := gateway.Options{}
		if trusted {
			o.TrustedProxies = []string{"192.0.2.0/24", "::1"}
		}
		b := setup(t, o)
		says[len(says)-1] = b.token
		r := b.do("GET", "http://example.com/api/queue", says...)
		s := got(t, r)
		id := r.Header.Get("X-Request-Id")
		if id == "" {
			t.Error("no request id")
		}
		if !trusted && id == "abc-1" {
			t.Error("a request id of nobody's proxy is taken")
		}
		same(t, s.Host, want[0])
		if trusted {
			same(t, id, want[1])
		}
		if !strings.Contains(b.log.String(), want[2]+" ") {
			t.Errorf("trusted %v: the log lacks %s:\n%s", trusted, want[2], b.log)
		}
	}
	if _, err := gateway.New(nil, gateway.Faces{}, gateway.Options{TrustedProxies: []string{"nginx"}}); err == nil {
		t.Error("a name is taken for a network")
	}
	for _, wrong := range []string{"lab.example", "ftp://lab.example", "https://", "/studio"} {
		if _, err := gateway.New(nil, gateway.Faces{}, gateway.Options{PublicURL: wrong}); err == nil {
			t.Errorf("public URL %q is taken", wrong)
		}
	}
}

// TestCookies: __Host- and Secure on https, the studio's id in the name, nothing readable by scripts.
func TestCookies(t *testing.T) {
	t.Parallel()
	b := setup(t, gateway.Options{PublicURL: "https://lab.example/studio"})
	form := url.Values{"name": {" ANN "}, "password": {"correct horse"}, "next": {"/me?x=1"}}
	for host, want := range map[string]string{"example.com": "comfyume-s1=", "lab.example": "__Host-comfyume-s1="} {
		r := b.post("http://"+host+"/signin", form, "Host", host, "Origin", "http://"+host)
		same(t, []any{r.StatusCode, r.Header.Get("Location")}, []any{303, "/studio/me?x=1"})
		c := r.Header.Get("Set-Cookie")
		secure := strings.HasPrefix(want, "__Host-")
		if !strings.HasPrefix(c, want) || strings.Contains(c, "Secure") != secure || !strings.Contains(c, "HttpOnly") ||
			!strings.Contains(c, "SameSite=Lax") || !strings.Contains(c, "Path=/;") || strings.Contains(c, "Domain") {
			t.Errorf("%s: cookie %q", host, c)
		}
		pair, _, _ := strings.Cut(c, ";")
		if s := got(t, b.do("GET", "http://"+host+"/api/queue", "Host", host, "Cookie", pair)); s.Person != "ann" {
			t.Errorf("%s: the cookie gives %+v", host, s)
		}
	}
	r := b.do("GET", "http://lab.example/api/queue", "Host", "lab.example", "Cookie", "comfyume-s1="+b.cookie)
	if r.StatusCode != 401 {
		t.Errorf("a cookie that plain http may have planted counts on https: %d", r.StatusCode)
	}
	for _, next := range []string{"//evil.example", "https://evil.example", `/\evil.example`, "evil", "/signout", "/link/x", "/a\r\nb"} {
		form.Set("next", next)
		r := b.post("http://example.com/signin", form)
		if to := r.Header.Get("Location"); to != "/studio/" {
			t.Errorf("next=%q leads to %q", next, to)
		}
	}
}

func TestTrouble(t *testing.T) {
	t.Parallel()
	b := setup(t, gateway.Options{MaxBody: 1000})
	key := []string{"X-API-Key", b.token}
	r := b.do("GET", "http://example.com/panic", key...)
	if text := body(t, r); r.StatusCode != 500 || !strings.Contains(text, `"internal"`) || strings.Contains(text, "broken") {
		t.Errorf("a panic gives %d %s", r.StatusCode, text)
	}
	if !strings.Contains(b.log.String(), "a face is broken") {
		t.Error("the log lacks the panic")
	}
	for _, size := range []int{1<<20 + 1001, 3 << 20} {
		req := httptest.NewRequest("POST", "http://example.com/upload/image", strings.NewReader(strings.Repeat("x", size)))
		if size == 3<<20 {
			req.ContentLength = -1 // not told before
		}
		if r := b.send(req, key...); r.StatusCode != 413 {
			t.Errorf("%d bytes give %d: %s", size, r.StatusCode, body(t, r))
		}
	}
	if r := b.send(httptest.NewRequest("POST", "http://example.com/upload/image", strings.NewReader(strings.Repeat("x", 1100))), key...); r.StatusCode != 200 {
		t.Errorf("an upload with its form gives %d", r.StatusCode)
	}
	r = b.post("http://example.com/signin", url.Values{"name": {strings.Repeat("x", 20_000)}})
	if r.StatusCode != 400 {
		t.Errorf("a large form gives %d", r.StatusCode)
	}
	for _, method := range []string{"PUT", "DELETE", "TRACE"} {
		if r := b.do(method, "http://example.com/signin"); r.StatusCode != 405 {
			t.Errorf("%s /signin gives %d", method, r.StatusCode)
		}
	}
	if r := b.do("GET", "http://example.com/join/%ff%00"); r.StatusCode != 404 {
		t.Errorf("a strange code gives %d", r.StatusCode)
	}
}

// TestSixtyJoinOverHTTP is the class of the issue: one code, one address, all at once.
func TestSixtyJoinOverHTTP(t *testing.T) {
	t.Parallel()
	b := setup(t, gateway.Options{})
	c, err := b.accounts.NewCode(t.Context(), "class-a", "ina", 0, 0)
	ok(t, err)
	var wg sync.WaitGroup
	for n := range 60 {
		wg.Go(func() {
			r := b.post("http://example.com/join/"+c.Code, url.Values{"name": {fmt.Sprint("p", n)}})
			if r.StatusCode != 200 || !strings.HasPrefix(r.Header.Get("Set-Cookie"), "comfyume-s1=") {
				t.Errorf("person %d: %d", n, r.StatusCode)
			}
		})
	}
	wg.Wait()
}
