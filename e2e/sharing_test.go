package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// traces lists everything that a page can keep in the browser, as one text.
const traces = `(async () => {
	const out = []
	for (const [name, s] of [['localStorage', localStorage], ['sessionStorage', sessionStorage]])
		for (let i = 0; i < s.length; i++) out.push(name + ' ' + s.key(i) + ' = ' + s.getItem(s.key(i)))
	if (window.name) out.push('window.name = ' + window.name)
	for (const d of await indexedDB.databases()) out.push('indexedDB ' + d.name)
	if (window.caches) for (const k of await caches.keys()) out.push('cache ' + k)
	return out.join('\n')
})()`

// TestTwoPeopleOneBrowser has two people use one browser one after the other. The first leaves nothing behind,
// whether they sign out or the second just follows a link of their own.
func TestTwoPeopleOneBrowser(t *testing.T) {
	b := startBrowser(t)
	for version := range generations {
		t.Run(version, func(t *testing.T) {
			s := startStudio(t, studioOptions{frontend: version})
			t.Run("with sign-out", func(t *testing.T) {
				p := b.profile(t)
				leaveTraces(t, s, p, version)
				p.do(t, 30*time.Second, chromedp.Navigate("http://"+s.host+"/me"), chromedp.Click(`//button[contains(., "Sign out")]`))
				p.until(t, 15*time.Second, "the sign-in page", `location.pathname.endsWith('/signin')`)
				if left := js[string](t, p, traces); left != "" {
					t.Errorf("left in the browser after sign-out:\n%s", left)
				}
				openAsSecond(t, s, p, version)
			})
			t.Run("by a link alone", func(t *testing.T) {
				p := b.profile(t)
				leaveTraces(t, s, p, version)
				openAsSecond(t, s, p, version)
			})
		})
	}
}

// leaveTraces lets the first person work until the editor has stored a draft.
func leaveTraces(t *testing.T, s *studio, p *page, version string) {
	t.Helper()
	e := openEditor(t, p, s.link(t, "ann", s.host), version)
	e.load(t, "secretwork", plain(0x314159))
	e.press(t)
	e.picture(t, 20*time.Second, "SaveImage")
	js[any](t, p, `(() => { indexedDB.open('secretdb'); window.caches?.open('secretcache'); return null })()`)
	e.until(t, 20*time.Second, "a draft in the browser's storage", `Object.keys(localStorage).length > 0 && (JSON.stringify({...localStorage}) + JSON.stringify({...sessionStorage})).includes('EmptyImage')`)
}

// openAsSecond signs the second person in and looks for anything of the first.
func openAsSecond(t *testing.T, s *studio, p *page, version string) {
	t.Helper()
	e := openEditor(t, p, s.link(t, "bob", s.host), version)
	left := js[string](t, p, traces)
	for _, word := range []string{"secretwork", "secretdb", "secretcache", "3226969"} {
		if strings.Contains(left, word) {
			t.Errorf("%q of the first person is left in the browser:\n%s", word, left)
		}
	}
	if js[bool](t, p, `window.app.graph._nodes.some(n => n.widgets?.some(w => w.value == 0x314159))`) {
		t.Error("the second person sees the first one's graph")
	}
	if n := e.finished(t); n != 0 {
		t.Errorf("the second person has %d finished runs, want 0", n)
	}
	if who := js[string](t, p, `fetch('me').then(r => r.text())`); !strings.Contains(who, "bob") || strings.Contains(who, "ann") {
		t.Error("/me is not the second person's page")
	}
}

// TestOnePersonTwoBrowsers has one person work in two browsers: both see the same jobs, only the one that pressed
// Run gets the frames.
func TestOnePersonTwoBrowsers(t *testing.T) {
	const version = "1.58.1"
	b := startBrowser(t)
	s := startStudio(t, studioOptions{frontend: version})
	first := openEditor(t, b.profile(t), s.link(t, "ann", s.host), version)
	second := openEditor(t, b.profile(t), s.link(t, "ann", s.host), version)
	pressAndWatch(t, first, second)
}

// TestTwoTabs has one person work in two tabs of one browser.
func TestTwoTabs(t *testing.T) {
	const version = "1.58.1"
	b := startBrowser(t)
	s := startStudio(t, studioOptions{frontend: version})
	p := b.profile(t)
	first := openEditor(t, p, s.link(t, "ann", s.host), version)
	second := openEditor(t, p.tab(t), fmt.Sprintf("http://%s/", s.host), version)
	pressAndWatch(t, first, second)
}

// pressAndWatch runs a graph in the first editor while the second has the same graph open.
func pressAndWatch(t *testing.T, first, second *editor) {
	t.Helper()
	graph := slow(10, 2)
	first.load(t, "both", graph)
	second.load(t, "both", graph)
	first.press(t)
	first.until(t, 20*time.Second, "progress in the first", `/\[\d+%\]/.test(document.title)`)
	first.picture(t, 30*time.Second, "SaveImage")
	second.untilFinished(t, 1)
	if js[bool](t, second.page, `!!window.app.graph._nodes.find(n => n.type === 'SaveImage').imgs`) {
		t.Error("the other editor was painted by a run that was not its own")
	}
	second.press(t)
	second.picture(t, 30*time.Second, "SaveImage")
	first.untilFinished(t, 2)
	first.clean(t)
	second.clean(t)
}
