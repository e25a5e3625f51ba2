package gateway

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"time"

	"github.com/ahelme/comfyume/internal/account"
	"github.com/ahelme/comfyume/internal/fault"
)

// The editor keeps drafts, its clipboard and more in the browser, per site and not per person. So that the second
// person at a browser finds nothing of the first, the door remembers in a cookie whose editor was last opened there
// ("who"), and empties the browser's storage before it opens one for somebody else. Signing out empties it too.
// A header does the same on https; on http only a script can.

// whoMark returns what the cookie "who" holds for a person: enough to tell people apart, nothing to read.
func (g *Gateway) whoMark(name string) string {
	sum := sha256.Sum256([]byte(g.o.Studio + "\x00" + name))
	return hex.EncodeToString(sum[:8])
}

const whoCookie = "who-"

// strangerWasHere reports whether the browser may hold an editor's traces of somebody else. If nobody's editor was
// opened there it notes whose is now.
func (g *Gateway) strangerWasHere(v *visit, r *http.Request) bool {
	mine := g.whoMark(v.cred.Person.Name)
	c, err := r.Cookie(g.cookieName(v, whoCookie))
	if err == nil {
		return c.Value != mine
	}
	if wantsPage(r) { // programs that probe the page keep no cookies
		g.setCookie(v, whoCookie, mine, time.Now().Add(400*24*time.Hour))
	}
	return false
}

// cleanPage empties the browser's storage and goes on.
type cleanPage struct {
	Mark string // whose editor is opened next; empty: nobody's
	Next string // where to; empty: stay on the page
	Name string
	Tell bool // tell the editors in other tabs, so that they leave
}

// clean answers with the page that empties the browser's storage, in place of the editor's.
func (g *Gateway) clean(v *visit, r *http.Request) {
	g.clearSiteData(v)
	v.Header().Set("Cache-Control", "no-store")
	next := r.URL.EscapedPath()
	if r.URL.RawQuery != "" {
		next += "?" + r.URL.RawQuery
	}
	g.render(v, r, http.StatusOK, "clean", cleanPage{
		Mark: g.whoMark(v.cred.Person.Name), Next: next, Name: v.cred.Person.Name, Tell: true,
	})
}

// clearSiteData asks the browser to forget what it stores of this site. Cookies are left alone: they may be other
// studios' on the same host.
func (g *Gateway) clearSiteData(v *visit) {
	v.Header().Set("Clear-Site-Data", `"cache", "storage"`)
}

// cleared notes that the browser's storage is empty and whose editor comes next.
func (g *Gateway) cleared(v *visit, r *http.Request, _ string) {
	mark := r.PostForm.Get("mark")
	if raw, err := hex.DecodeString(mark); err != nil || len(raw) != 8 {
		g.fail(v, r, errNoPage())
		return
	}
	g.setCookie(v, whoCookie, mark, time.Now().Add(400*24*time.Hour))
	v.WriteHeader(http.StatusNoContent)
}

// cleanTab empties one tab of the browser, with what only this tab can reach, and leads to the studio. An editor that
// hears on the channel "comfyume" that the browser was cleared goes there. A foreign page can't send anybody there.
func (g *Gateway) cleanTab(v *visit, r *http.Request, _ string) {
	if site := r.Header.Get("Sec-Fetch-Site"); site == "cross-site" || site == "same-site" {
		g.redirect(v, r, g.base+"/", http.StatusSeeOther)
		return
	}
	g.render(v, r, http.StatusOK, "clean", cleanPage{Next: g.base + "/"})
}

// signOutPage asks before signing out: what is not saved in the editor goes.
type signOutPage struct{ Name string }

func (g *Gateway) showSignOut(v *visit, r *http.Request, _ string) {
	cred, err := g.session(v, r)
	if err != nil {
		g.redirect(v, r, g.base+"/signin", http.StatusSeeOther)
		return
	}
	g.render(v, r, http.StatusOK, "signout", signOutPage{cred.Person.Name})
}

// signOut ends the session and empties the browser.
func (g *Gateway) signOut(v *visit, r *http.Request, _ string) {
	for n, c := range r.CookiesNamed(g.cookieName(v, "")) {
		if n == 4 {
			break
		}
		if err := g.accounts.SignOut(r.Context(), c.Value); err != nil {
			g.fail(v, r, err)
			return
		}
	}
	g.setCookie(v, "", "", time.Time{})
	g.clearSiteData(v)
	g.render(v, r, http.StatusOK, "signedout", cleanPage{Tell: true})
}

// resetEditor empties the browser for the person who asks for it.
func (g *Gateway) resetEditor(v *visit, r *http.Request) error {
	g.clearSiteData(v)
	g.render(v, r, http.StatusOK, "clean", cleanPage{
		Mark: g.whoMark(v.cred.Person.Name), Next: g.base + "/", Name: v.cred.Person.Name, Tell: true,
	})
	return nil
}

// needSession refuses programs where a person has to be at a browser.
func (v *visit) needSession() error {
	if v.cred.Kind != account.KindSession {
		return fault.New(fault.Denied, "Only who is signed in with a browser can do this.").WithCode("needs_session")
	}
	return nil
}
