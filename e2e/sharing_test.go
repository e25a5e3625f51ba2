package e2e

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	cdppage "github.com/chromedp/cdproto/page"
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

// secretColour is in a graph of the first person, and nowhere else.
const secretColour = 0x314159

// TestTwoPeopleOneBrowser has two people use one browser one after the other: over plain http, and as over https.
func TestTwoPeopleOneBrowser(t *testing.T) {
	b := startBrowser(t)
	for version := range generations {
		t.Run(version, func(t *testing.T) {
			s := startStudio(t, studioOptions{frontend: version})
			_, port, err := net.SplitHostPort(s.host)
			if err != nil {
				t.Fatal(err)
			}
			t.Run("plain", func(t *testing.T) { shareBrowser(t, s, b, version, net.JoinHostPort(plainName, port)) })
			t.Run("trusted", func(t *testing.T) { shareBrowser(t, s, b, version, s.host) })
		})
	}
}

// shareBrowser has ann and then bob use one browser. She leaves nothing behind, whether she signs out or he just
// follows a link of his own; and her other tab leaves the editor by itself, without a question, whatever is open in it.
func shareBrowser(t *testing.T, s *studio, b *browser, version, host string) {
	t.Run("with sign-out", func(t *testing.T) {
		p := b.profile(t)
		leaveTraces(t, s, p, version, host)
		other := openOther(t, s, p, version, host)
		p.do(t, 30*time.Second, chromedp.Navigate(s.scheme+"://"+host+"/me"), chromedp.Click(`//a[contains(., "Sign out")]`),
			chromedp.Click(`//button[contains(., "Sign out")]`))
		p.until(t, 15*time.Second, "the signed-out page", `document.querySelector('h1').innerText.includes('signed out')`)
		emptied(t, p, "this tab")
		other.until(t, 15*time.Second, "the sign-in page in the other tab", `document.querySelector('input[name=password]')`)
		emptied(t, other.page, "the other tab")
		openAsSecond(t, s, p, version, host)
	})
	t.Run("by a link alone", func(t *testing.T) {
		p := b.profile(t)
		leaveTraces(t, s, p, version, host)
		other := openOther(t, s, p, version, host)
		openAsSecond(t, s, p, version, host)
		other.until(t, 30*time.Second, "the second person's editor in the other tab",
			`window.app?.graph?._nodes.length > 0 && !window.app.graph._nodes.some(n => n.widgets?.some(w => w.value == `+fmt.Sprint(secretColour)+`))`)
		nothingOfFirst(t, other.page)
	})
}

// leaveTraces lets the first person work until the editor has stored a draft.
func leaveTraces(t *testing.T, s *studio, p *page, version, host string) {
	t.Helper()
	e := openEditor(t, p, s.link(t, "ann", host), version)
	e.load(t, "secretwork", plain(secretColour))
	e.press(t)
	e.picture(t, 20*time.Second, "SaveImage")
	js[any](t, p, `(() => { indexedDB.open('secretdb'); window.caches?.open('secretcache'); return null })()`)
	e.until(t, 20*time.Second, "a draft in the browser's storage",
		fmt.Sprintf(`(JSON.stringify({...localStorage}) + JSON.stringify({...sessionStorage})).includes('%d')`, secretColour))
	e.clean(t)
}

// openOther opens the first person's editor in another tab, with work in it that is not saved.
func openOther(t *testing.T, s *studio, p *page, version, host string) *editor {
	t.Helper()
	e := openEditor(t, p.tab(t), s.scheme+"://"+host+"/", version)
	e.load(t, "secrettab", plain(secretColour))
	e.press(t) // who never clicked is not asked
	e.picture(t, 20*time.Second, "SaveImage")
	js[any](t, e.page, `(() => {
		window.app.graph._nodes[0].widgets[0].value = 65
		const tracker = window.app.extensionManager.workflow.activeWorkflow.changeTracker
		tracker.checkState ? tracker.checkState() : tracker.captureCanvasState()
		return null
	})()`)
	e.until(t, 10*time.Second, "unsaved work", `window.app.extensionManager.workflow.activeWorkflow.isModified`)
	err := chromedp.Listen(e.ctx, func(ev any) {
		if d, ok := ev.(*cdppage.EventJavascriptDialogOpening); ok {
			t.Errorf("the other tab asks (%s %q) before it leaves", d.Type, d.Message)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// emptied waits until nothing at all is kept.
func emptied(t *testing.T, p *page, where string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, 10*time.Second)
	defer cancel()
	_, err := chromedp.Run(ctx, chromedp.PollFunction[bool](`async () => { try { return `+traces+`.then(left => left === '') } catch { return false } }`,
		chromedp.WithPollingInterval(100*time.Millisecond), chromedp.WithPollingTimeout(10*time.Second)))
	if err != nil {
		t.Errorf("left in %s after sign-out:\n%s", where, js[string](t, p, traces))
	}
}

// openAsSecond signs the second person in and looks for anything of the first.
func openAsSecond(t *testing.T, s *studio, p *page, version, host string) {
	t.Helper()
	e := openEditor(t, p, s.link(t, "bob", host), version)
	nothingOfFirst(t, p)
	if n := e.finished(t); n != 0 {
		t.Errorf("the second person has %d finished runs, want 0", n)
	}
	if who := js[string](t, p, `fetch('me').then(r => r.text())`); !strings.Contains(who, "bob") || strings.Contains(who, "ann") {
		t.Error("/me is not the second person's page")
	}
}

// nothingOfFirst looks for the first person in what a page keeps and shows.
func nothingOfFirst(t *testing.T, p *page) {
	t.Helper()
	left := js[string](t, p, traces)
	for _, word := range []string{"secretwork", "secrettab", "secretdb", "secretcache", fmt.Sprint(secretColour), "user = ann"} {
		if strings.Contains(left, word) {
			t.Errorf("%q of the first person is left in the browser:\n%s", word, left)
		}
	}
	if js[bool](t, p, fmt.Sprintf(`window.app.graph._nodes.some(n => n.widgets?.some(w => w.value == %d))`, secretColour)) {
		t.Error("the second person sees the first one's graph")
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
	second.look(t, "SaveImage")
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
