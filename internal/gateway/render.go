package gateway

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"fmt"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
)

//go:embed pages
var pageFiles embed.FS

// pageStyles are what all pages of the door share, and the policy that lets exactly these in.
type pageStyles struct {
	style  string
	script string
	policy string // without the script
	clean  string // with it
}

func readStyles() (pageStyles, error) {
	var s pageStyles
	style, err := pageFiles.ReadFile("pages/style.css")
	if err != nil {
		return s, fmt.Errorf("read the door's pages: %w", err)
	}
	script, err := pageFiles.ReadFile("pages/clean.js")
	if err != nil {
		return s, fmt.Errorf("read the door's pages: %w", err)
	}
	s.style, s.script = string(style), string(script)
	s.policy = "default-src 'none'; style-src " + sourceHash(style) +
		"; img-src 'self' data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
	s.clean = s.policy + "; script-src " + sourceHash(script) + "; connect-src 'self'"
	return s, nil
}

// sourceHash names an inline style or script in a policy.
func sourceHash(text []byte) string {
	sum := sha256.Sum256(text)
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// heading returns what stands over a page.
func (g *Gateway) heading(name string, page any) string {
	switch p := page.(type) {
	case messagePage:
		return strings.TrimSuffix(p.Heading, ".")
	case joinPage:
		switch {
		case p.PIN != "":
			return "You are in"
		case p.Code != "":
			return p.Class
		}
		return "Join a class"
	case mePage:
		return p.Person.Name
	case signInPage:
		if p.SignedInAs != "" {
			return "You are signed in"
		}
		return "Sign in"
	}
	switch name {
	case "signout":
		return "Sign out"
	case "signedout":
		return "You are signed out"
	}
	return "Just a moment"
}

// render answers with a page of the door.
func (g *Gateway) render(v *visit, r *http.Request, status int, name string, page any) {
	var body bytes.Buffer
	err := document(name, view{
		Title: g.o.Title, Heading: g.heading(name, page), Base: g.base, Insecure: g.o.Insecure && !v.secure,
		Style: g.styles.style, Script: g.styles.script, Page: page,
	}).Render(&body)
	if err != nil { // a page that was tested
		g.log.Error("make a page", "req", v.id, "page", name, "err", err)
		http.Error(v, "Something went wrong inside the studio.", http.StatusInternalServerError)
		return
	}
	h := v.Header()
	h.Del("Content-Disposition")
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(body.Len()))
	h.Set("Cache-Control", "no-store")
	policy := g.styles.policy
	if name == "clean" || name == "signedout" {
		policy = g.styles.clean
	}
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Frame-Options", "DENY")
	v.WriteHeader(status)
	if r.Method != http.MethodHead {
		g.wrote(v, body.Bytes())
	}
}

// day writes a time for people, by the studio's clock.
func day(t time.Time) string { return t.Local().Format("2 Jan 2006, 15:04") }

// ago writes how long ago something was.
func ago(t time.Time) string {
	count := func(n int, what string) string {
		if n == 1 {
			return "1 " + what + " ago"
		}
		return strconv.Itoa(n) + " " + what + "s ago"
	}
	switch d := time.Since(t); {
	case d < 2*time.Minute:
		return "just now"
	case d < time.Hour:
		return count(int(d/time.Minute), "minute")
	case d < 24*time.Hour:
		return count(int(d/time.Hour), "hour")
	default:
		return count(int(d/(24*time.Hour)), "day")
	}
}

// types are what a browser shows by itself. Everything else, and all that could run in a page, is plain bytes.
var types = map[string]string{
	".flac": "audio/flac", ".mp3": "audio/mpeg", ".opus": "audio/opus", ".wav": "audio/wav", ".ogg": "audio/ogg",
	".m4a": "audio/mp4", ".mp4": "video/mp4", ".webm": "video/webm", ".mkv": "video/x-matroska", ".mov": "video/quicktime",
	".webp": "image/webp", ".avif": "image/avif", ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg",
	".gif": "image/gif", ".bmp": "image/bmp", ".txt": "text/plain; charset=utf-8", ".json": "application/json",
}

// contentType returns the type of a file a person made.
func contentType(name string) string {
	if t, ok := types[strings.ToLower(path.Ext(name))]; ok {
		return t
	}
	return "application/octet-stream"
}

// retryAfter says when an error may be over, where that is known.
func (g *Gateway) retryAfter(v *visit, err error) {
	if seconds, ok := fault.RetryAfter(err); ok {
		v.Header().Set("Retry-After", seconds)
	}
}
