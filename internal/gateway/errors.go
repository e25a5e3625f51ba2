package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ahelme/comfyume/internal/account"
	"github.com/ahelme/comfyume/internal/fault"
)

// codeUnauthorized is what programs read that are not signed in.
const codeUnauthorized = "unauthorized"

// codeScope marks a token that is for something else.
const codeScope = "scope"

// statusOf returns the HTTP status for an error.
func statusOf(err error) int {
	if e, ok := errors.AsType[*fault.Error](err); ok {
		switch e.Code {
		case account.CodeSignedOut, account.CodeWrong, codeUnauthorized:
			return http.StatusUnauthorized
		case "too_large":
			return http.StatusRequestEntityTooLarge
		case "disk_full":
			return http.StatusInsufficientStorage
		case account.CodeLinkUsed, account.CodeLinkOver:
			return http.StatusGone
		}
	}
	return fault.KindOf(err).Status()
}

// errorBody is an error as ComfyUI's clients read it.
type errorBody struct {
	Error struct {
		Type      string         `json:"type"`
		Message   string         `json:"message"`
		Details   string         `json:"details"`
		ExtraInfo map[string]any `json:"extra_info"`
	} `json:"error"`
	NodeErrors map[string]any `json:"node_errors"`
}

// bareError is an error as programs without ComfyUI read it.
type bareError struct {
	Detail string `json:"detail"`
	Code   string `json:"code"`
	Remedy string `json:"remedy,omitempty"`
}

// fail answers with an error: a page for who looks at pages, JSON for everybody else.
func (g *Gateway) fail(v *visit, r *http.Request, err error) {
	v.cause = err
	if v.status != 0 {
		return // too late; the log has it
	}
	status := statusOf(err)
	sentence, remedy := fault.Public(err)
	h := v.Header()
	h.Set("Cache-Control", "no-store")
	h.Del("Content-Disposition")
	g.retryAfter(v, err)
	if status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", `Bearer realm="ComfyuME"`) // not Basic: browsers would ask with a window of theirs
	}
	if v.bare {
		g.writeJSON(v, status, bareError{sentence, codeOf(err), remedy})
		return
	}
	if wantsPage(r) {
		g.render(v, r, status, "message", messagePage{Heading: sentence, Text: remedy, Home: v.signedIn})
		return
	}
	var body errorBody
	body.Error.Type = codeOf(err)
	body.Error.Message, body.Error.Details = sentence, remedy
	body.Error.ExtraInfo, body.NodeErrors = map[string]any{}, map[string]any{}
	g.writeJSON(v, status, body)
}

// Lost shows who looks at an address where nothing is a page that says so. It reports whether a person looks; programs
// are left to the face, which calls it with what the door handed it.
func (g *Gateway) Lost(w http.ResponseWriter, r *http.Request) bool {
	v, ok := w.(*visit)
	if !ok || !wantsPage(r) {
		return false
	}
	g.fail(v, r, errNoPage())
	return true
}

func codeOf(err error) string {
	if e, ok := errors.AsType[*fault.Error](err); ok && e.Code != "" {
		return e.Code
	}
	return fault.KindOf(err).String()
}

// refuse answers who is not signed in: a browser that wants a page is shown the way in.
func (g *Gateway) refuse(v *visit, r *http.Request, err error) {
	if codeOf(err) == account.CodeSignedOut {
		if wantsPage(r) && v.token == "" && !v.bare {
			g.redirect(v, r, g.base+"/signin"+nextQuery(g.base, v.place, r), http.StatusSeeOther)
			return
		}
		err = fault.New(fault.Denied, "Sign in to use this studio.").WithCode(codeUnauthorized).
			WithRemedy("Open /signin in a browser, or send a personal token: Authorization: Bearer cm_…")
		if v.bare {
			err = fault.New(fault.Denied, "Sign in to use this studio.").WithCode(codeUnauthorized).
				WithRemedy("Send a name and password (curl -u NAME:PASSWORD), or a personal token: Authorization: Bearer cm_…")
		}
	}
	g.fail(v, r, err)
}

func (g *Gateway) writeJSON(v *visit, status int, body any) {
	raw, err := json.Marshal(body)
	if err != nil { // only our own plain types come here
		g.log.Error("encode an answer", "req", v.id, "err", err)
		raw, status = []byte(`{}`), http.StatusInternalServerError
	}
	h := v.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(len(raw)))
	v.WriteHeader(status)
	g.wrote(v, raw)
}

// wrote sends the body of an answer. That the client has gone is for the log only.
func (g *Gateway) wrote(v *visit, body []byte) {
	if _, err := v.Write(body); err != nil {
		v.cause = errors.Join(v.cause, fmt.Errorf("write the answer: %w", err))
	}
}

// wantsPage reports whether a person looks at the answer, and not a program.
func wantsPage(r *http.Request) bool {
	if r.Method != http.MethodGet && r.Method != http.MethodHead && r.Method != http.MethodPost || isSocket(r) {
		return false
	}
	if dest := r.Header.Get("Sec-Fetch-Dest"); dest != "" {
		return dest == "document" || dest == "iframe"
	}
	return strings.Contains(r.Header.Get("Accept"), "text/html")
}

// nextQuery returns the query that brings a person back to where they wanted to go.
func nextQuery(base, place string, r *http.Request) string {
	path := r.URL.EscapedPath()
	path = strings.TrimPrefix(path, base)
	if path == "/" && r.URL.RawQuery == "" {
		return ""
	}
	if r.URL.RawQuery != "" {
		path += "?" + r.URL.RawQuery
	}
	return "?next=" + url.QueryEscape(path)
}

// localPath returns a path of this studio that a form or an address names, or the editor when it names anything
// else: nobody is sent to a foreign page by us.
func localPath(next string) string {
	if next == "" || next[0] != '/' || strings.HasPrefix(next, "//") || strings.ContainsAny(next, "\\\r\n\t\x00") {
		return "/"
	}
	u, err := url.Parse(next)
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil {
		return "/"
	}
	for _, own := range []string{"/signin", "/signout", "/link", "/join"} {
		if u.Path == own || strings.HasPrefix(u.Path, own+"/") {
			return "/"
		}
	}
	return next
}

func errPath(cause error) error {
	return fault.Wrap(fault.Invalid, cause, "The address is not spelt right.").WithCode("bad_path")
}

func errOrigin(cause error) error {
	return fault.Wrap(fault.Denied, cause, "This request comes from a page of another site.").
		WithRemedy("Open the studio under its own address. Behind a proxy, set public_url, or let the proxy pass the Host header.").
		WithCode("foreign_origin")
}

func errForeign(v *visit) error {
	return fault.New(fault.Denied, "This workspace belongs to somebody else.").
		WithRemedy("You are signed in as %s.", v.cred.Person.Name).WithCode("foreign_workspace")
}

func errWorkerOnly() error {
	return fault.New(fault.Denied, "This token is for the calls of workers only.").
		WithRemedy("Make one with the scope “all”.").WithCode(codeScope)
}

func errTooLarge(limit int64) error {
	return fault.New(fault.Invalid, "The request has more than %s; that is the limit of this studio.", size(limit)).
		WithRemedy("Send a smaller file, or ask the operator to raise limits.upload.").WithCode("too_large")
}

// size writes a number of bytes for people, in the units in which limits are set.
func size(n int64) string {
	units := []string{"bytes", "KB", "MB", "GB", "TB"}
	f, u := float64(n), 0
	for f >= 1000 && u < len(units)-1 {
		f, u = f/1000, u+1
	}
	if f >= 10 || f == float64(int64(f)) {
		return fmt.Sprintf("%.0f %s", f, units[u])
	}
	return fmt.Sprintf("%.1f %s", f, units[u])
}

// decodingProxy notices a proxy in front that decodes the path: saving a workflow then fails, and the reason is hard
// to find.
type decodingProxy struct{ told atomic.Int64 }

// check looks at paths below userdata: a file's name is one segment with escaped slashes.
func (d *decodingProxy) check(log *slog.Logger, raw string) error {
	rest, ok := strings.CutPrefix(strings.TrimPrefix(raw, "/api"), "/userdata/")
	if !ok || !strings.Contains(rest, "/") {
		return nil
	}
	parts := strings.Split(rest, "/")
	if len(parts) == 3 && parts[1] == "move" {
		return nil
	}
	err := fault.New(fault.Invalid, "A proxy in front of the studio decodes addresses: %%2F arrived as a slash.").
		WithRemedy("In nginx write proxy_pass without a path behind the port, and no rewrite … break; see the README.").
		WithCode("proxy_decodes_path")
	if at, last := time.Now().Unix(), d.told.Load(); at-last >= 60 && d.told.CompareAndSwap(last, at) {
		log.Warn("a proxy in front decodes %2F in addresses, so that workflows can't be saved; pass the raw path on", "path", redact(raw))
	}
	return err
}

// messagePage is a page that says one thing.
type messagePage struct {
	Heading, Text string
	Home          bool // offer the way to the studio, else to the sign-in
}
