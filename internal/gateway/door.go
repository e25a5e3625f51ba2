package gateway

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/ahelme/comfyume/internal/account"
	"github.com/ahelme/comfyume/internal/fault"
)

// maxForm bounds the forms of the door; nobody is signed in when they come.
const maxForm = 16 << 10

func errNoPage() error {
	return fault.New(fault.Missing, "There is nothing at this address.")
}

func (g *Gateway) readForm(v *visit, r *http.Request) error {
	r.Body = http.MaxBytesReader(v, r.Body, maxForm)
	err := r.ParseForm()
	if err == nil { // what is no form was not read
		_, err = io.Copy(io.Discard, r.Body)
	}
	if err != nil {
		return fault.Wrap(fault.Invalid, err, "The form can't be read.").WithCode("bad_form")
	}
	v.readWithin(0) // all of it is here; what follows may take longer
	return nil
}

func (g *Gateway) attempt(v *visit, r *http.Request) account.Attempt {
	return account.Attempt{Address: v.address, Device: deviceOf(r.UserAgent())}
}

// signInPage is the sign-in page.
type signInPage struct {
	Name, Next   string
	Error        *problem
	SignedInAs   string
	CA, HasCodes bool
}

// problem is why a form was not taken.
type problem struct{ Sentence, Remedy string }

func problemOf(err error) *problem {
	sentence, remedy := fault.Public(err)
	return &problem{sentence, remedy}
}

func (g *Gateway) showSignIn(v *visit, r *http.Request, _ string) {
	p := signInPage{Next: localPath(r.URL.Query().Get("next")), CA: len(g.o.CA) > 0}
	if cred, err := g.session(v, r); err == nil {
		p.SignedInAs = cred.Person.Name
	}
	g.render(v, r, http.StatusOK, "signin", p)
}

func (g *Gateway) signIn(v *visit, r *http.Request, _ string) {
	name, next := r.PostForm.Get("name"), localPath(r.PostForm.Get("next"))
	in, err := g.accounts.SignIn(r.Context(), name, r.PostForm.Get("password"), g.attempt(v, r))
	if err != nil {
		v.cause = err
		g.retryAfter(v, err)
		g.render(v, r, statusOf(err), "signin", signInPage{
			Name: name, Next: next, Error: problemOf(err), CA: len(g.o.CA) > 0,
		})
		return
	}
	g.setCookie(v, "", in.Cookie, in.Expires)
	g.redirect(v, r, g.base+next, http.StatusSeeOther)
}

// giveCA gives the certificate of the studio's own authority, for people to trust it.
func (g *Gateway) giveCA(v *visit, r *http.Request, _ string) {
	if len(g.o.CA) == 0 {
		g.fail(v, r, errNoPage())
		return
	}
	h := v.Header()
	h.Set("Content-Type", "application/x-x509-ca-cert")
	h.Set("Content-Disposition", `attachment; filename="studio-ca.crt"`)
	v.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		g.wrote(v, g.o.CA)
	}
}

// link signs a person in by a one-time link. Looking at it, as mail programs and browsers' guesses do, uses nothing
// up.
func (g *Gateway) link(v *visit, r *http.Request, code string) {
	if r.Method == http.MethodHead {
		v.WriteHeader(http.StatusOK)
		return
	}
	if isPrefetch(r) {
		v.WriteHeader(http.StatusNoContent)
		return
	}
	in, err := g.accounts.UseLink(r.Context(), code, g.attempt(v, r))
	if err != nil {
		g.fail(v, r, err)
		return
	}
	g.setCookie(v, "", in.Cookie, in.Expires)
	g.redirect(v, r, g.base+"/", http.StatusSeeOther)
}

// isPrefetch reports whether a browser asks on a guess of its own.
func isPrefetch(r *http.Request) bool {
	for _, name := range []string{"Sec-Purpose", "Purpose", "X-Purpose", "X-Moz"} {
		value := strings.ToLower(r.Header.Get(name))
		if strings.HasPrefix(value, "prefetch") || value == "preview" || value == "prerender" {
			return true
		}
	}
	return false
}

// joinPage is the page of a class code.
type joinPage struct {
	Code, Class   string // empty: no code yet
	New, Back     string // names as they were typed
	Error         *problem
	ErrorBack     bool // the error is of who comes back
	Full          bool // nobody new can come in
	PIN, Name     string
	SignedInAs    string
	Typed         string
	SuggestedName string
}

// askCode asks for a class code, or leads on to the page of one that was typed.
func (g *Gateway) askCode(v *visit, r *http.Request, _ string) {
	if typed := strings.TrimSpace(r.URL.Query().Get("code")); typed != "" {
		g.redirect(v, r, g.base+"/join/"+url.PathEscape(typed), http.StatusSeeOther)
		return
	}
	g.render(v, r, http.StatusOK, "join", joinPage{})
}

func (g *Gateway) showJoin(v *visit, r *http.Request, typed string) {
	c, err := g.accounts.Code(r.Context(), typed, v.address)
	if err != nil {
		g.joinFailed(v, r, joinPage{Typed: typed}, err)
		return
	}
	p := joinPageOf(c)
	if cred, err := g.session(v, r); err == nil {
		p.SignedInAs = cred.Person.Name
	}
	g.render(v, r, http.StatusOK, "join", p)
}

func joinPageOf(c account.Code) joinPage {
	p := joinPage{Code: c.Code, Class: c.Title, Full: c.Joined >= c.Places || !time.Now().Before(c.Expires)}
	if p.Class == "" {
		p.Class = c.Group
	}
	return p
}

func (g *Gateway) joinFailed(v *visit, r *http.Request, p joinPage, err error) {
	v.cause = err
	p.Error = problemOf(err)
	g.retryAfter(v, err)
	g.render(v, r, statusOf(err), "join", p)
}

func (g *Gateway) join(v *visit, r *http.Request, typed string) {
	c, err := g.accounts.Code(r.Context(), typed, v.address)
	if err != nil {
		g.joinFailed(v, r, joinPage{Typed: typed}, err)
		return
	}
	p := joinPageOf(c)
	name := r.PostForm.Get("name")
	if r.PostForm.Has("pin") {
		in, err := g.accounts.Return(r.Context(), typed, name, r.PostForm.Get("pin"), g.attempt(v, r))
		if err != nil {
			p.Back, p.ErrorBack = name, true
			g.joinFailed(v, r, p, err)
			return
		}
		g.setCookie(v, "", in.Cookie, in.Expires)
		g.redirect(v, r, g.base+"/", http.StatusSeeOther)
		return
	}
	in, pin, err := g.accounts.Join(r.Context(), typed, name, g.attempt(v, r))
	if err != nil {
		p.New = name
		if fault.Is(err, fault.Invalid) {
			p.SuggestedName = account.SuggestName(name)
		}
		g.joinFailed(v, r, p, err)
		return
	}
	g.setCookie(v, "", in.Cookie, in.Expires)
	v.cred, v.signedIn = account.Credential{Person: in.Person, ID: in.ID}, true
	p.PIN, p.Name = pin[:3]+" "+pin[3:], in.Person.Name
	g.render(v, r, http.StatusOK, "join", p)
}
