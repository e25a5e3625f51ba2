package gateway

import (
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/ahelme/comfyume/internal/account"
	"github.com/ahelme/comfyume/internal/fault"
)

// Work is what a person made, as /me shows it. Ids are Work's own and opaque here; an id of somebody else is
// Missing.
type Work interface {
	// Results returns a person's results, the newest first: at most limit after the first skip, and how many
	// there are in all.
	Results(ctx context.Context, user string, skip, limit int) ([]Result, int, error)
	// Open opens one result. What it gives is closed by the caller.
	Open(ctx context.Context, user, id string) (Result, io.ReadSeekCloser, error)
	// Thumb opens the small picture of a result, a JPEG; Missing: it has none.
	Thumb(ctx context.Context, user, id string) (io.ReadSeekCloser, time.Time, error)
	// EachFile calls fn for every file that a person may take home: results, uploads, workflows. It stops at
	// fn's error and returns it.
	EachFile(ctx context.Context, user string, fn func(Keepsake) error) error
	// Usage returns how many bytes a person keeps and may keep; zero: without limit.
	Usage(ctx context.Context, user string) (used, limit int64, err error)
}

// Result is one file that a run made.
type Result struct {
	ID       string
	Name     string // file name
	Folder   string // subfolder; may be empty
	Size     int64
	Modified time.Time
}

// Keepsake is one file of the zip of everything.
type Keepsake struct {
	Path     string // in the zip: results/…, uploads/…, workflows/…
	Modified time.Time
	Open     func() (io.ReadCloser, error)
}

// perPage is how many results one page of /me shows.
const perPage = 60

// mine makes a page for who is signed in. What it changes, a person at a browser has to ask for.
func (g *Gateway) mine(run func(v *visit, r *http.Request) error) func(*visit, *http.Request, string) {
	return func(v *visit, r *http.Request, _ string) {
		if err := g.enter(v, r); err != nil {
			g.refuse(v, r, err)
			return
		}
		v.Header().Add("Vary", "Cookie, Authorization, X-API-Key")
		err := v.allowed("", "")
		if err == nil && r.Method == http.MethodPost {
			err = v.needSession()
		}
		if err == nil {
			err = run(v, r)
		}
		if err != nil {
			g.fail(v, r, err)
		}
	}
}

// mePage is a person's own page.
type mePage struct {
	Person          account.User
	Runs            []Run
	RunsTotal       int
	Meters          []Meter
	HasWork         bool
	Results         []resultCard
	Total           int
	Newer, Older    string // addresses of the pages beside; empty: none
	From, To        int
	Used, Limit     string
	Percent         int
	Tokens          []account.Token
	Sessions        []account.Session
	Current         string // id of this session
	NewToken, Label string // just made
	Error           *problem
	Editor          string // address for programs
}

type resultCard struct {
	Result
	Thumb, File string
	Kind        string // image, video, audio or file
}

func (g *Gateway) showMe(v *visit, r *http.Request) error { return g.showMeWith(v, r, mePage{}) }

func (g *Gateway) showMeWith(v *visit, r *http.Request, p mePage) error {
	ctx, user := r.Context(), v.cred.Person.Name
	var err error
	if p.Person, err = g.accounts.User(ctx, user); err != nil {
		return err
	}
	if p.Tokens, err = g.accounts.Tokens(ctx, user); err != nil {
		return err
	}
	if p.Sessions, err = g.accounts.Sessions(ctx, user); err != nil {
		return err
	}
	p.Current = v.cred.ID
	p.Editor = g.address(v)
	if err := g.showRuns(r, user, &p); err != nil {
		return err
	}
	if err := g.showQuotas(r, &p); err != nil {
		return err
	}
	if g.faces.Work != nil {
		if err := g.showWork(r, user, &p); err != nil {
			return err
		}
	}
	status := http.StatusOK
	if p.Error != nil {
		status = http.StatusBadRequest
	}
	g.render(v, r, status, "me", p)
	return nil
}

func (g *Gateway) showWork(r *http.Request, user string, p *mePage) error {
	ctx := r.Context()
	page, err := strconv.Atoi(r.URL.Query().Get("page"))
	if err != nil || page < 1 || page > 1<<20 {
		page = 1
	}
	list, total, err := g.faces.Work.Results(ctx, user, (page-1)*perPage, perPage)
	if err != nil {
		return err
	}
	used, limit, err := g.faces.Work.Usage(ctx, user)
	if err != nil {
		return err
	}
	p.HasWork, p.Total = true, total
	p.Used = size(used)
	if limit > 0 {
		p.Limit, p.Percent = size(limit), int(min(100, used*100/limit))
	}
	for _, res := range list {
		id := url.QueryEscape(res.ID)
		p.Results = append(p.Results, resultCard{
			Result: res, Kind: kindOf(res.Name),
			Thumb: g.base + "/me/thumb?id=" + id, File: g.base + "/me/file?id=" + id,
		})
	}
	p.From, p.To = (page-1)*perPage+1, (page-1)*perPage+len(list)
	if page > 1 {
		p.Newer = fmt.Sprintf("%s/me?page=%d", g.base, page-1)
	}
	if page*perPage < total {
		p.Older = fmt.Sprintf("%s/me?page=%d", g.base, page+1)
	}
	return nil
}

// address returns where the studio is for programs.
func (g *Gateway) address(v *visit) string {
	if g.public != "" {
		return g.public + g.base
	}
	scheme := "http://"
	if v.secure {
		scheme = "https://"
	}
	return scheme + v.host
}

func kindOf(name string) string {
	kind, _, _ := strings.Cut(contentType(name), "/")
	switch kind {
	case "image", "video", "audio":
		return kind
	}
	return "file"
}

func (g *Gateway) newToken(v *visit, r *http.Request) error {
	label, scope := r.PostForm.Get("label"), account.Scope(r.PostForm.Get("scope"))
	if scope == account.ScopeWorker { // for operators to give, by their commands
		return fault.New(fault.Denied, "A token with the scope “worker” sees everybody's graphs.").
			WithRemedy("An operator makes one: comfyume token new NAME --scope worker").WithCode(codeScope)
	}
	secret, t, err := g.accounts.NewToken(r.Context(), v.cred.Person.Name, label, scope, 0)
	switch {
	case err == nil:
		return g.showMeWith(v, r, mePage{NewToken: secret, Label: t.Label}) // shown once, so not after a redirect
	case fault.KindOf(err) == fault.Internal || fault.Is(err, fault.Unavailable):
		return err
	default:
		return g.showMeWith(v, r, mePage{Error: problemOf(err)})
	}
}

func (g *Gateway) revokeToken(v *visit, r *http.Request) error {
	return g.ended(v, r, g.accounts.RevokeToken(r.Context(), v.cred.Person.Name, r.PostForm.Get("id")))
}

func (g *Gateway) endSession(v *visit, r *http.Request) error {
	return g.ended(v, r, g.accounts.EndSession(r.Context(), v.cred.Person.Name, r.PostForm.Get("id")))
}

func (g *Gateway) endOthers(v *visit, r *http.Request) error {
	return g.ended(v, r, g.accounts.EndSessions(r.Context(), v.cred.Person.Name, v.cred.ID))
}

// ended leads back to the list of what lets in. What is missing there had ended already.
func (g *Gateway) ended(v *visit, r *http.Request, err error) error {
	if err != nil && !fault.Is(err, fault.Missing) {
		return err
	}
	g.redirect(v, r, g.base+"/me#access", http.StatusSeeOther)
	return nil
}

func (g *Gateway) giveResult(v *visit, r *http.Request) error {
	if g.faces.Work == nil {
		return errNoPage()
	}
	res, file, err := g.faces.Work.Open(r.Context(), v.cred.Person.Name, r.URL.Query().Get("id"))
	if err != nil {
		return err
	}
	defer file.Close() //nolint:errcheck // it was only read
	h := v.Header()
	h.Set("Content-Security-Policy", contentPolicy)
	h.Set("Content-Type", contentType(res.Name))
	how := "inline"
	if r.URL.Query().Has("save") || kindOf(res.Name) == "file" {
		how = "attachment"
	}
	h.Set("Content-Disposition", mime.FormatMediaType(how, map[string]string{"filename": res.Name}))
	h.Set("Cache-Control", "private, no-cache")
	http.ServeContent(v, r, "", res.Modified, file)
	return nil
}

func (g *Gateway) giveThumb(v *visit, r *http.Request) error {
	if g.faces.Work == nil {
		return errNoPage()
	}
	file, modified, err := g.faces.Work.Thumb(r.Context(), v.cred.Person.Name, r.URL.Query().Get("id"))
	if err != nil {
		return err
	}
	defer file.Close() //nolint:errcheck // it was only read
	h := v.Header()
	h.Set("Content-Security-Policy", contentPolicy)
	h.Set("Content-Type", "image/jpeg")
	h.Set("Cache-Control", "private, no-cache")
	http.ServeContent(v, r, "", modified, file)
	return nil
}

// giveEverything streams one zip of all that is the person's. Pictures and films don't shrink, so that nothing is
// compressed again.
func (g *Gateway) giveEverything(v *visit, r *http.Request) error {
	if g.faces.Work == nil {
		return errNoPage()
	}
	user := v.cred.Person.Name
	h := v.Header()
	h.Set("Content-Type", "application/zip")
	name := fmt.Sprintf("%s-%s.zip", user, time.Now().Format("2006-01-02"))
	h.Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": name}))
	if r.Method == http.MethodHead {
		return nil
	}
	z := zip.NewWriter(v)
	err := g.faces.Work.EachFile(r.Context(), user, func(k Keepsake) error {
		f, err := k.Open()
		if fault.Is(err, fault.Missing) {
			return nil // removed while we pack
		}
		if err != nil {
			return err
		}
		w, err := z.CreateHeader(&zip.FileHeader{Name: k.Path, Modified: k.Modified, Method: zip.Store})
		if err == nil {
			_, err = io.Copy(w, f)
		}
		return errors.Join(err, f.Close())
	})
	if err == nil {
		err = z.Close()
	}
	if err == nil {
		return nil
	}
	if v.status != 0 {
		// The answer has begun. Cut it, so that the browser says it is incomplete.
		err = errors.Join(err, http.NewResponseController(v).SetWriteDeadline(time.Unix(1, 0)))
	}
	return fmt.Errorf("pack everything of %s: %w", user, err)
}
