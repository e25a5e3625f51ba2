package gateway

import (
	"net/http"
	"net/url"
	"strings"
)

// Route is one address of the door's own. {code} takes the rest of the path, which is not empty.
type Route struct{ Method, Path string }

// page is one address with what answers it. code is what stands for {code}, unescaped.
type page struct {
	Route
	run func(v *visit, r *http.Request, code string)
}

// table is every address of the door's own, but for the workspaces below /u/NAME/ and /k/TOKEN/.
func (g *Gateway) table() []page {
	get, post := http.MethodGet, http.MethodPost
	return []page{
		{Route{get, "/healthz"}, g.live},
		{Route{get, "/readyz"}, g.ready},
		{Route{get, "/favicon.ico"}, g.icon},
		{Route{get, "/signin"}, g.showSignIn},
		{Route{post, "/signin"}, g.signIn},
		{Route{get, "/signin/ca.crt"}, g.giveCA},
		{Route{get, "/signin/clean"}, g.cleanTab},
		{Route{post, "/signin/cleared"}, g.cleared},
		{Route{get, "/signout"}, g.showSignOut},
		{Route{post, "/signout"}, g.signOut},
		{Route{get, "/join"}, g.askCode},
		{Route{get, "/join/{code}"}, g.showJoin},
		{Route{post, "/join/{code}"}, g.join},
		{Route{get, "/link/{code}"}, g.link},
		{Route{get, "/me"}, g.mine(g.showMe)},
		{Route{get, "/me/file"}, g.mine(g.giveResult)},
		{Route{get, "/me/thumb"}, g.mine(g.giveThumb)},
		{Route{get, "/me/everything.zip"}, g.mine(g.giveEverything)},
		{Route{post, "/me/runs"}, g.mine(g.changeRun)},
		{Route{post, "/me/tokens"}, g.mine(g.newToken)},
		{Route{post, "/me/tokens/revoke"}, g.mine(g.revokeToken)},
		{Route{post, "/me/sessions/end"}, g.mine(g.endSession)},
		{Route{post, "/me/sessions/end-others"}, g.mine(g.endOthers)},
		{Route{post, "/me/reset"}, g.mine(g.resetEditor)},
		{Route{post, "/me"}, g.mine(nothing)}, // who is not signed in is shown the way in, as everywhere
		{Route{get, "/me/{code}"}, g.mine(nothing)},
		{Route{post, "/me/{code}"}, g.mine(nothing)},
	}
}

func nothing(*visit, *http.Request) error { return errNoPage() }

// Routes lists every address of the door's own, so that tests can try each of them.
func Routes() []Route {
	var all []Route
	for _, p := range (&Gateway{}).table() {
		all = append(all, p.Route)
	}
	return all
}

// byFirst sorts pages by the first segment of their path.
func byFirst(table []page) map[string][]page {
	own := map[string][]page{}
	for _, p := range table {
		first, _, _ := strings.Cut(p.Path[1:], "/")
		own[first] = append(own[first], p)
	}
	return own
}

// own answers addresses of the door's own. rest is the raw path behind the first segment. It reports false for those
// that are left to a workspace: ComfyUI could have something below the names of the probes.
func (g *Gateway) own(v *visit, r *http.Request, first, rest string, deeper bool) bool {
	pages, ok := g.pages[first]
	if !ok {
		return false
	}
	switch first {
	case "healthz", "readyz", "favicon.ico":
		if deeper || !reads(r.Method) || first == "favicon.ico" && g.faces.Static != nil && g.faces.Static.Has(first) {
			return false
		}
		pages[0].run(v, r, "")
		return true
	}
	h := v.Header()
	h.Set("Cache-Control", "no-store")
	// Not no-referrer: then a browser names no origin when it sends a form, and on plain http nothing else tells a form
	// of ours from a foreign one.
	h.Set("Referrer-Policy", "same-origin")
	code, err := url.PathUnescape(rest)
	switch {
	case err != nil:
		g.fail(v, r, errPath(err))
		return true
	case r.Method == http.MethodPost:
		// A foreign page must not sign a person in as somebody else, nor out.
		if err = g.sameOrigin(v, r); err == nil {
			err = g.readForm(v, r)
		}
		if err != nil {
			g.fail(v, r, err)
			return true
		}
	case !reads(r.Method):
		h.Set("Allow", "GET, HEAD, POST")
		v.WriteHeader(http.StatusMethodNotAllowed)
		return true
	}
	if p, ok := find(pages, r.Method, first, code); ok {
		p.run(v, r, code)
	} else {
		g.fail(v, r, errNoPage())
	}
	return true
}

func reads(method string) bool { return method == http.MethodGet || method == http.MethodHead }

// find returns the page at a path, before one that takes all that lies deeper.
func find(pages []page, method, first, rest string) (found page, ok bool) {
	if method == http.MethodHead {
		method = http.MethodGet
	}
	path := strings.TrimSuffix("/"+first+"/"+rest, "/")
	for _, p := range pages {
		switch {
		case p.Method != method:
		case p.Path == path:
			return p, true
		case rest != "" && strings.HasSuffix(p.Path, "/{code}"):
			found, ok = p, true
		}
	}
	return found, ok
}
