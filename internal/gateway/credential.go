package gateway

import (
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/ahelme/comfyume/internal/account"
	"github.com/ahelme/comfyume/internal/fault"
)

// cookieName returns the name of a cookie of this studio: two studios on one host don't sign each other out. The
// prefix on https makes browsers refuse one that another host or plain http planted.
func (g *Gateway) cookieName(v *visit, what string) string {
	name := "comfyume-" + what + g.o.Studio
	if v.secure {
		return "__Host-" + name
	}
	return name
}

// setCookie sets a cookie of ours; an empty value takes it away.
func (g *Gateway) setCookie(v *visit, what, value string, expires time.Time) {
	c := &http.Cookie{
		Name: g.cookieName(v, what), Value: value, Path: "/", Expires: expires,
		HttpOnly: true, Secure: v.secure, SameSite: http.SameSiteLaxMode,
	}
	if value == "" {
		c.MaxAge = -1
	}
	http.SetCookie(v, c)
}

// hasCredential reports whether the request brings any credential, good or not.
func (g *Gateway) hasCredential(v *visit, r *http.Request) bool {
	if v.token != "" || r.Header.Get("Authorization") != "" || r.Header.Get("X-API-Key") != "" {
		return true
	}
	_, err := r.Cookie(g.cookieName(v, ""))
	return err == nil
}

// named reports whether the request names a credential. A cookie comes by itself, and may be one that is over.
func named(v *visit, r *http.Request) bool {
	return v.token != "" || v.queryToken || r.Header.Get("Authorization") != "" || r.Header.Get("X-API-Key") != ""
}

// enter finds out who asks, and refuses what a foreign page sends with a person's cookie. An error of kind Denied
// with the code signed_out means that nobody is signed in.
func (g *Gateway) enter(v *visit, r *http.Request) error {
	cred, err := g.find(v, r)
	if err != nil {
		return err
	}
	v.cred, v.signedIn = cred, true
	if r.ContentLength != 0 {
		v.readWithin(0) // uploads take as long as they take
	}
	if cred.Kind == account.KindSession {
		if err := g.sameOrigin(v, r); err != nil {
			return err
		}
		v.Header().Set("Cross-Origin-Resource-Policy", "same-origin")
	}
	if g.remembered(v, r) { // a browser sends these by itself, as it does cookies, and the attribute SameSite is not theirs
		if r.Header.Get("Sec-Fetch-Site") == "cross-site" {
			return errOrigin(nil)
		}
		return g.sameOrigin(v, r)
	}
	return nil
}

// remembered reports whether who asks was told by a name and password that browsers remember, be it those of an account
// or a token in their place.
func (g *Gateway) remembered(v *visit, r *http.Request) bool {
	_, _, basic := r.BasicAuth()
	return basic && v.cred.Kind != account.KindSession && v.token == "" && !v.queryToken && r.Header.Get("X-API-Key") == ""
}

// find returns the credential of a request. What is named explicitly has to be good; a cookie comes by itself.
func (g *Gateway) find(v *visit, r *http.Request) (account.Credential, error) {
	ctx := r.Context()
	if v.token != "" {
		return g.accounts.Token(ctx, v.token)
	}
	if key := r.Header.Get("X-API-Key"); key != "" {
		return g.accounts.Token(ctx, key)
	}
	auth := r.Header.Get("Authorization")
	scheme, value, _ := strings.Cut(auth, " ")
	if strings.EqualFold(scheme, "Bearer") {
		return g.accounts.Token(ctx, strings.TrimSpace(value))
	}
	if token, ok := queryToken(r); ok {
		v.queryToken = true
		return g.accounts.Token(ctx, token)
	}
	name, password, basic := r.BasicAuth()
	if basic && strings.HasPrefix(password, account.TokenPrefix) {
		return g.accounts.Token(ctx, password)
	}
	if basic && strings.HasPrefix(name, account.TokenPrefix) {
		return g.accounts.Token(ctx, name)
	}
	cred, err := g.session(v, r)
	if err == nil || !basic {
		return cred, err
	}
	// A proxy in front may have a Basic of its own, so that a good cookie goes first.
	return g.accounts.Password(ctx, name, password, v.address)
}

// session returns the session of the cookie. On plain http a neighbour port may have planted another cookie of the
// same name, so that each is tried.
func (g *Gateway) session(v *visit, r *http.Request) (account.Credential, error) {
	name := g.cookieName(v, "")
	err := error(fault.New(fault.Denied, "You are not signed in.").WithCode(account.CodeSignedOut))
	for n, c := range r.CookiesNamed(name) {
		if n == 4 {
			break
		}
		var cred account.Credential
		if cred, err = g.accounts.Session(r.Context(), c.Value); err == nil {
			return cred, nil
		}
	}
	return account.Credential{}, err
}

// queryToken returns the token in the query of a socket's address. No other address may carry one: it would end up
// in histories and logs.
func queryToken(r *http.Request) (string, bool) {
	if r.URL.RawQuery == "" || !strings.HasSuffix(r.URL.Path, "/ws") || !strings.Contains(r.URL.RawQuery, "token=") {
		return "", false
	}
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil || !q.Has("token") {
		return "", false
	}
	return q.Get("token"), true
}

// sameOrigin refuses what a page of another origin makes a browser send: everything that changes something, and
// sockets, which browsers open to anywhere.
func (g *Gateway) sameOrigin(v *visit, r *http.Request) error {
	safe := r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodOptions
	socket := isSocket(r)
	if safe && !socket {
		return nil
	}
	probe := &http.Request{Method: r.Method, Host: v.host, Header: r.Header, URL: r.URL}
	if socket {
		probe.Method = http.MethodPost // the check lets GET pass, and this one is not safe
	}
	if err := g.origins.Check(probe); err != nil {
		return errOrigin(err)
	}
	return nil
}

func isSocket(r *http.Request) bool {
	return r.Header.Get("Sec-Websocket-Key") != "" || strings.EqualFold(r.Header.Get("Upgrade"), "websocket")
}
