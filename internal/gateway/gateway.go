// Package gateway is the studio's door: it finds out who asks, lets nobody in who did not sign in, keeps requests of
// foreign pages out, and hands what is left to the faces behind it with the person in the request's context.
//
// It also serves the few pages of its own: sign-in, class join codes, one-time links, and a person's own page.
//
// Faces find the person by identity.From, the request's id in the response header X-Request-Id, and paths as if
// they were alone at the root: prefixes are stripped from the raw path, so that an escaped slash stays one.
package gateway

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/ahelme/comfyume/internal/account"
	"github.com/ahelme/comfyume/internal/identity"
)

// Static is the editor's page and its files. They are the same for all and are given without sign-in, but for the
// page itself: browsers fetch some of them without the cookie.
type Static interface {
	http.Handler
	// Has reports whether there is an answer to GET of the path, which is relative to the editor's place.
	Has(path string) bool
}

// Mount is a face that has addresses of its own.
type Mount struct {
	Prefix  string        // with a slash at the end for a tree, without for one address
	Methods []string      // those it takes, HEAD with GET; what comes with others is for the next one; nil: all
	Role    identity.Role // who may in, at least; empty: everybody who is signed in
	Scope   account.Scope // what a token has to be for; empty: account.ScopeAll
	Public  bool          // no sign-in, no person
	Guests  bool          // who brings no credential comes in too, as nobody
	Bare    bool          // for programs: no pages, and errors are detail, code and remedy
	Handler http.Handler
}

// takes reports whether the mount answers at the path.
func (m Mount) takes(method, path string) bool {
	if path != m.Prefix && !(strings.HasSuffix(m.Prefix, "/") && strings.HasPrefix(path, m.Prefix)) {
		return false
	}
	if method == http.MethodHead {
		method = http.MethodGet
	}
	return m.Methods == nil || slices.Contains(m.Methods, method)
}

// Faces is what lies behind the door.
type Faces struct {
	Comfy  http.Handler // a person's ComfyUI server: every path that nothing else has
	Static Static       // nil: none
	Mounts []Mount
	Work   Work   // nil: /me shows no results
	Runs   Runs   // nil: /me shows no open jobs
	Quotas Quotas // nil: /me shows no quotas
	// Ready returns why the studio can't do its work, a sentence each; nil or empty: it can.
	Ready func(context.Context) []string
}

// Options are the settings of New. Studio is needed.
type Options struct {
	Studio         string        // the studio's id: part of the cookies' names
	Title          string        // on the pages; empty: ComfyuME
	PublicURL      string        // how people reach the studio; may have a path; empty: not known
	TrustedProxies []string      // addresses or networks whose forwarded headers count
	Insecure       bool          // the studio is open to a network without encryption: say so on every page
	MaxBody        int64         // largest upload; 0: 512 MiB
	CA             []byte        // own certificate authority, PEM, offered on the sign-in page; nil: none
	HSTS           time.Duration // 0: not sent
	Live           *Live         // connections to cut when a session ends; nil: none
	Log            *slog.Logger  // nil: discarded
}

// Gateway is the door. It is safe for concurrent use.
type Gateway struct {
	accounts *account.Service
	faces    Faces
	o        Options
	log      *slog.Logger
	base     string // path of the public URL, without a slash at the end
	public   string // scheme and host of the public URL; empty: not known
	pubHost  string
	trusted  []netip.Prefix
	origins  *http.CrossOriginProtection
	pages    map[string][]page // of its own, by the first segment of their paths
	styles   pageStyles
	decoded  decodingProxy
}

// New returns a door to faces for the people of accounts.
func New(accounts *account.Service, faces Faces, o Options) (*Gateway, error) {
	if o.Title == "" {
		o.Title = "ComfyuME"
	}
	if o.MaxBody <= 0 {
		o.MaxBody = 512 << 20
	}
	if o.Live == nil {
		o.Live = NewLive()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	g := &Gateway{accounts: accounts, faces: faces, o: o, log: o.Log, origins: http.NewCrossOriginProtection()}
	if err := g.readPublicURL(); err != nil {
		return nil, err
	}
	for _, text := range o.TrustedProxies {
		p, err := parsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("trusted proxy %q: %w", text, err)
		}
		g.trusted = append(g.trusted, p)
	}
	var err error
	g.styles, err = readStyles()
	g.pages = byFirst(g.table())
	return g, err
}

func (g *Gateway) readPublicURL() error {
	if g.o.PublicURL == "" {
		return nil
	}
	u, err := url.Parse(g.o.PublicURL)
	if err != nil {
		return fmt.Errorf("public URL: %w", err)
	}
	if u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("public URL %q: it has to begin with http:// or https:// and a host", g.o.PublicURL)
	}
	g.base = strings.TrimRight(u.EscapedPath(), "/")
	g.public = u.Scheme + "://" + u.Host
	g.pubHost = u.Host
	if err := g.origins.AddTrustedOrigin(g.public); err != nil {
		return fmt.Errorf("public URL: %w", err)
	}
	return nil
}

// ServeHTTP answers a request.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v := g.visit(w, r)
	defer g.finish(v, r)
	h := w.Header()
	h.Set("X-Request-Id", v.id)
	h.Set("X-Content-Type-Options", "nosniff")
	if g.o.HSTS > 0 && v.secure {
		h.Set("Strict-Transport-Security", fmt.Sprintf("max-age=%d", int(g.o.HSTS.Seconds())))
	}
	if r.ContentLength != 0 { // a stranger who sends slowly holds a connection, also when the answer is ready
		v.readWithin(strangersBody)
	}
	g.route(v, r)
}

// strangersBody is how long somebody who is not signed in may take to send what belongs to a request.
const strangersBody = 20 * time.Second

// route finds out what the request is for. Everything before the faces looks at the raw path.
func (g *Gateway) route(v *visit, r *http.Request) {
	path := r.URL.EscapedPath()
	if g.base != "" && path == g.base {
		g.redirect(v, r, g.base+"/", http.StatusPermanentRedirect)
		return
	}
	if m, ok := g.mount(r.Method, path); ok && !g.overlaps(m, path) {
		g.mounted(v, r, m, path)
		return
	}
	if g.base != "" {
		if rest, ok := strings.CutPrefix(path, g.base+"/"); ok {
			path = "/" + rest
		}
	}
	if m, ok := g.mount(r.Method, path); ok {
		g.mounted(v, r, m, path)
		return
	}
	first, rest, deeper := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if g.own(v, r, first, rest, deeper) || (first == "u" || first == "k") && g.place(v, r, first, rest) {
		return
	}
	g.workspace(v, r, path)
}

// place answers below /u/NAME/ and /k/TOKEN/.
func (g *Gateway) place(v *visit, r *http.Request, kind, rest string) bool {
	who, path, deeper := strings.Cut(rest, "/")
	if who == "" {
		return false
	}
	if path == "me" || path == "signout" || path == "signin/clean" { // the editor's own links are relative to its place
		g.redirect(v, r, g.base+"/"+path, http.StatusSeeOther)
		return true
	}
	v.place = "/" + kind + "/" + who
	if kind == "k" {
		v.token = who
		v.Header().Set("Referrer-Policy", "no-referrer")
	} else {
		v.owner = who
	}
	if !deeper { // the editor takes its place from the path up to the last slash
		g.redirect(v, r, g.base+v.place+"/", http.StatusPermanentRedirect)
		return true
	}
	g.workspace(v, r, "/"+path)
	return true
}

func (g *Gateway) mount(method, path string) (Mount, bool) {
	for _, m := range g.faces.Mounts {
		if m.takes(method, path) {
			return m, true
		}
	}
	return Mount{}, false
}

// Below returns a door for a port of its own: at its root is what this one has below a place such as /qm.
func (g *Gateway) Below(place string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u := *r.URL
		raw := g.base + place + u.EscapedPath()
		u.Path, u.RawPath = g.base+place+u.Path, raw
		inner := r.WithContext(r.Context())
		inner.URL = &u
		g.ServeHTTP(w, inner)
	})
}

// overlaps reports whether a path that has not been stripped belongs to the editor below the public URL's path, though
// a mount begins alike. With https://lab.example/studio, /studio/api/prompt is the editor's /api/prompt when the proxy
// passes the path on, and /studio/api/v1/… is the REST interface when the proxy strips it: ComfyUI has no version one
// and no description of itself.
func (g *Gateway) overlaps(m Mount, path string) bool {
	if g.base == "" || !strings.HasPrefix(m.Prefix, g.base+"/") {
		return false
	}
	if strings.HasPrefix(path, g.base+"/agents/v1/") { // nor has it agents
		return false
	}
	rest := strings.TrimPrefix(path, g.base+"/api/")
	return !strings.HasPrefix(rest, "v1/") && !strings.HasPrefix(rest, "openapi")
}

// Client returns the network address of who asks, past proxies that are trusted. w is what the door handed to a face;
// empty: it is another.
func (g *Gateway) Client(w http.ResponseWriter) string {
	if v, ok := w.(*visit); ok {
		return v.address
	}
	return ""
}

// mounted answers an address of a face that has its own.
func (g *Gateway) mounted(v *visit, r *http.Request, m Mount, path string) {
	if m.Public {
		g.serve(v, r, m.Handler, path)
		return
	}
	v.bare = m.Bare
	err := g.enter(v, r)
	if err == nil {
		err = v.allowed(m.Role, m.Scope)
		v.guest = m.Guests && err != nil
	} else if m.Guests && codeOf(err) == account.CodeSignedOut && !named(v, r) {
		v.guest = true
	}
	switch {
	case err == nil, v.guest:
		v.Header().Add("Vary", "Cookie, Authorization, X-API-Key")
		g.serve(v, r, m.Handler, path)
	case v.signedIn:
		g.fail(v, r, err)
	default:
		g.refuse(v, r, err)
	}
}

// formRoom is what a form may have around an upload.
const formRoom = 1 << 20

// isPage reports whether the path is the editor's page itself.
func isPage(path string) bool { return path == "/" || path == "/index.html" || path == "/user-select" }

// workspace answers as a person's own ComfyUI server, or with the editor's files.
func (g *Gateway) workspace(v *visit, r *http.Request, raw string) {
	path, err := url.PathUnescape(raw)
	if err != nil {
		g.fail(v, r, errPath(err))
		return
	}
	get := r.Method == http.MethodGet || r.Method == http.MethodHead
	static := get && g.faces.Static != nil && g.faces.Static.Has(path)
	if static && !isPage(path) {
		v.Header().Set("Content-Security-Policy", editorPolicy(v.host))
		g.serve(v, r, g.faces.Static, raw)
		return
	}
	if r.Method == http.MethodOptions && !g.hasCredential(v, r) {
		v.WriteHeader(http.StatusOK) // a browser asks before a foreign page's request; it gets no leave
		return
	}
	if err := g.enter(v, r); err != nil {
		g.refuse(v, r, err)
		return
	}
	if v.owner != "" && v.owner != v.cred.Person.Name {
		g.fail(v, r, errForeign(v))
		return
	}
	if v.cred.Scope == account.ScopeWorker {
		g.fail(v, r, errWorkerOnly())
		return
	}
	if err := g.decoded.check(g.log, raw); err != nil {
		g.fail(v, r, err)
		return
	}
	h := v.Header()
	h.Add("Vary", "Cookie, Authorization, X-API-Key")
	if get && isPage(path) && static {
		if g.strangerWasHere(v, r) {
			g.clean(v, r)
			return
		}
		h.Set("Content-Security-Policy", editorPolicy(v.host))
		h.Set("X-Frame-Options", "SAMEORIGIN")
		g.serve(v, r, g.faces.Static, raw)
		return
	}
	protectContent(h, path, v)
	v.submits = strings.TrimPrefix(path, "/api") == "/prompt"
	g.serve(v, r, g.faces.Comfy, raw)
}

// serve hands the request to a face, with the person in its context and without what was for the door.
func (g *Gateway) serve(v *visit, r *http.Request, face http.Handler, raw string) {
	if r.ContentLength > g.o.MaxBody+formRoom {
		g.fail(v, r, errTooLarge(g.o.MaxBody))
		return
	}
	ctx := r.Context()
	if v.signedIn && !v.guest {
		ctx = identity.With(ctx, v.cred.Person)
	}
	inner := r.WithContext(ctx)
	inner.Host = v.host
	if u, changed := innerURL(r.URL, raw, v.queryToken); changed {
		inner.URL = u
		inner.RequestURI = u.RequestURI() // what a face logs must not hold a token
	}
	if inner.Body != nil && inner.Body != http.NoBody {
		inner.Body = http.MaxBytesReader(v, inner.Body, g.o.MaxBody+formRoom)
	}
	face.ServeHTTP(v, inner)
}

// innerURL returns u with the raw path, and without the token of its query when there is one.
func innerURL(u *url.URL, raw string, token bool) (*url.URL, bool) {
	if u.EscapedPath() == raw && !token {
		return u, false
	}
	inner := *u
	path, err := url.PathUnescape(raw)
	if err != nil { // raw is a part of a path that was parsed
		path = raw
	}
	inner.Path, inner.RawPath = path, ""
	if inner.EscapedPath() != raw {
		inner.RawPath = raw
	}
	if token {
		inner.RawQuery = withoutToken(u.RawQuery)
	}
	return &inner, true
}

// withoutToken returns a query without its values of token, the others as they were.
func withoutToken(query string) string {
	var kept []string
	for part := range strings.SplitSeq(query, "&") {
		name, _, _ := strings.Cut(part, "=")
		if n, err := url.QueryUnescape(name); err != nil || n != "token" {
			kept = append(kept, part)
		}
	}
	return strings.Join(kept, "&")
}

func (g *Gateway) redirect(v *visit, r *http.Request, to string, status int) {
	h := v.Header()
	h.Set("Cache-Control", "no-store")
	if r.URL.RawQuery != "" && status == http.StatusPermanentRedirect {
		to += "?" + r.URL.RawQuery
	}
	h.Set("Location", to)
	v.WriteHeader(status)
}

// live and ready answer the probes of supervisors and balancers. They need no sign-in and say nothing of people.
func (g *Gateway) live(v *visit, _ *http.Request, _ string) {
	g.writeJSON(v, http.StatusOK, map[string]any{"status": "ok"})
}

func (g *Gateway) ready(v *visit, r *http.Request, _ string) {
	var reasons []string
	if g.faces.Ready != nil {
		reasons = g.faces.Ready(r.Context())
	}
	if len(reasons) > 0 {
		g.writeJSON(v, http.StatusServiceUnavailable, map[string]any{"status": "not ready", "reasons": reasons})
		return
	}
	g.writeJSON(v, http.StatusOK, map[string]any{"status": "ok"})
}
