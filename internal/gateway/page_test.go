package gateway

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/account"
	"github.com/ahelme/comfyume/internal/identity"
)

// pagesWith returns every page, in its shapes, with the same words wherever words come from outside.
func pagesWith(words string) map[string]any {
	wrong := &problem{words, words}
	me := mePage{
		Person: account.User{Name: words, Group: words, Role: identity.Role(words)},
		Runs: []Run{
			{ID: words, State: RunRunning, Where: words, Why: words},
			{ID: words, State: RunNext, Where: words},
			{ID: words, State: RunWaiting, Line: words, Wait: words, Why: words},
			{ID: words, State: RunHeld, Why: words},
		},
		RunsTotal: 5,
		Meters:    []Meter{{words, 5}, {words, -1}},
		HasWork:   true, Total: 99, Newer: "/" + words, Older: "/" + words, Used: words, Limit: words,
		Tokens: []account.Token{
			{ID: words, Label: words, Scope: account.ScopeComfy, Used: time.Unix(1, 0), Expires: time.Unix(2, 0)},
			{ID: words, Label: words, Scope: account.ScopeAll},
		},
		Sessions: []account.Session{{ID: words, Device: words, Address: words}, {ID: "this", Device: words}},
		Current:  "this", NewToken: words, Label: words, Error: wrong, Editor: words,
	}
	for _, kind := range []string{"image", "file"} {
		res := Result{ID: words, Name: words, Folder: words, Size: 5, Modified: time.Unix(1e9, 0)}
		me.Results = append(me.Results, resultCard{Result: res, Thumb: "/" + words, File: "/" + words, Kind: kind})
	}
	return map[string]any{
		"signin":         signInPage{Name: words, Next: words, Error: wrong, CA: true},
		"signin again":   signInPage{SignedInAs: words},
		"signout":        signOutPage{words},
		"clean":          cleanPage{Mark: words, Next: words, Name: words, Tell: true},
		"message":        messagePage{Heading: words, Text: words},
		"join":           joinPage{Typed: words, Error: wrong},
		"join class":     joinPage{Code: words, Class: words, New: words, Error: wrong, SignedInAs: words},
		"join back":      joinPage{Code: words, Back: words, Error: wrong, ErrorBack: true, Full: true},
		"join suggested": joinPage{Code: words, New: words, SuggestedName: words},
		"join done":      joinPage{PIN: words, Name: words},
		"me":             me,
	}
}

// drawn returns a page with the same words around it.
func drawn(t *testing.T, name string, page any, words string) string {
	t.Helper()
	var b strings.Builder
	v := view{Title: words, Heading: words, Base: "/" + words, Insecure: true, Style: "p{}", Script: "{}", Page: page}
	if err := document(strings.Fields(name)[0], v).Render(&b); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return b.String()
}

var (
	tags   = regexp.MustCompile(`<[^>]*>`)
	values = regexp.MustCompile(`="[^"]*"`)
)

// skeleton is what a browser makes of a page without its words: elements, and the names of their attributes.
func skeleton(text string) []string {
	var all []string
	for _, tag := range tags.FindAllString(text, -1) {
		all = append(all, values.ReplaceAllString(tag, "="))
	}
	return all
}

// TestHostileWords: names, labels, errors and settings are words on every page, and never elements or attributes.
func TestHostileWords(t *testing.T) {
	t.Parallel()
	plain := pagesWith("ann")
	for _, words := range []string{
		`<b>"'&`, `"><script>alert(1)</script>`, `" autofocus onfocus="alert(1)`, `' onload='x`, "</title></style></script><!--",
		strings.Repeat("long ", 500), "\u202eعبد الله", "a\x00b\xff",
	} {
		hostile := pagesWith(words)
		for _, name := range slices.Sorted(maps.Keys(plain)) {
			want, text := skeleton(drawn(t, name, plain[name], "ann")), drawn(t, name, hostile[name], words)
			if got := skeleton(text); !slices.Equal(got, want) {
				t.Errorf("%s with %.40q has other elements:\n%q\nwant\n%q", name, words, got, want)
			}
			if strings.ContainsAny(words, `<"'`) && strings.Contains(text, words) {
				t.Errorf("%s has %q as it is", name, words)
			}
		}
	}
}

// TestWebAddress: what could run in a page leads nowhere.
func TestWebAddress(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"/", "", "/me?page=2", "/a%20b/me/file?id=a%26b+c&save", "https://lab.example/x", "http://h:1/"} {
		if got := webAddress(address); got != address {
			t.Errorf("%q leads to %q", address, got)
		}
	}
	for _, address := range []string{
		"javascript:alert(1)", "JavaScript:alert(1)", " javascript:alert(1)", "java\nscript:alert(1)", "\x01javascript:alert(1)",
		"data:text/html,x", "vbscript:x", "blob:x", "javascript&colon;x:y",
	} {
		if got := webAddress(address); got != "#" {
			t.Errorf("%q leads to %q", address, got)
		}
	}
}

// TestEveryPageIsDrawn: a page that nobody draws is an error, and not an empty page.
func TestEveryPageIsDrawn(t *testing.T) {
	t.Parallel()
	if err := document("nothing", view{Page: 5}).Render(&strings.Builder{}); err == nil {
		t.Error("a page of nothing is drawn")
	}
	text := drawn(t, "signedout", cleanPage{Tell: true}, "ann")
	for _, part := range []string{`data-mark="" data-next="" data-post="" data-tell="yes" hidden>`, "<script>{}</script>", "Sign in again"} {
		if !strings.Contains(text, part) {
			t.Errorf("who signed out sees no %s", part)
		}
	}
}
