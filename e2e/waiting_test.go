package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// row finds the first run of our panel in a state.
func row(state string) string {
	return fmt.Sprintf(`document.querySelector('.comfyume-card li[data-state=%s]')`, state)
}

// band is how a wait is told.
const band = `/^(in a few seconds|within \d+ (s|min|h)|about \d.* (s|min|h))$/`

// openPanel opens our panel. An editor that is still busy with its own start may miss the first press.
func (e *editor) openPanel(t *testing.T) {
	t.Helper()
	open := `document.querySelector('.comfyume-card')?.textContent.includes('ann')`
	for range 3 {
		e.toggle(t, studioButton)
		for range 20 {
			if js[bool](t, e.page, `!!(`+open+`)`) {
				return
			}
			<-time.After(100 * time.Millisecond)
		}
	}
	e.until(t, time.Second, "an open panel", open)
}

// TestWhyAmIWaiting: who waits behind others reads in the editor where their run stands, why, and how long it may take,
// and what they read changes as the queue moves. Nothing of it names anybody else.
func TestWhyAmIWaiting(t *testing.T) {
	if os.Getenv("COMFYUME_E2E_BACKEND") != "" {
		t.Skip("how long a real back end works is not ours to say")
	}
	b := startBrowser(t)
	for version := range generations {
		t.Run(version, func(t *testing.T) {
			s := startStudio(t, studioOptions{frontend: version, config: "queue: {mode: fifo, max_running_per_user: 1}\n"})
			bob := s.newLoader(t, "bob")
			p := b.profile(t)
			e := openEditor(t, p, s.link(t, "ann", s.host), version)
			e.openPanel(t)
			bob.ask(t, slow(8, 2)) // so that the studio has seen how long such a run takes
			bob.settle(t)
			for range 4 {
				bob.ask(t, slow(8, 2))
			}
			e.load(t, "mine", slow(8, 2))
			e.press(t)
			read := `[...document.querySelectorAll('.comfyume-card li[data-state=pending] > div:first-child > span')].map(x => x.textContent)`
			e.until(t, 20*time.Second, "place and band", `(([place, wait]) => /^\d+(nd|rd|th) in line$/.test(place) && `+band+`.test(wait))(`+read+`)`)
			e.until(t, 5*time.Second, "a reason", row("pending")+`.querySelector('small').textContent.split(' · ')[0].length > 10`)
			e.shot(t, "waiting")
			e.do(t, 10*time.Second, chromedp.Click(chromedp.CSS(`.comfyume-card [data-act=hold]`)))
			e.until(t, 10*time.Second, "a held run", row("held"))
			e.do(t, 10*time.Second, chromedp.Click(chromedp.CSS(`.comfyume-card [data-act=release]`)))
			e.until(t, 10*time.Second, "its place again", `/ in line$/.test(`+read+`[0])`)
			e.do(t, 10*time.Second, chromedp.EmulateViewport(390, 844))
			e.until(t, 10*time.Second, "a panel that is readable on a phone", `(b => b.width >= 200 && b.left >= 0 && b.right <= innerWidth)(document.querySelector('.comfyume-card').getBoundingClientRect())`)
			e.shot(t, "phone")
			e.do(t, 10*time.Second, chromedp.EmulateViewport(1440, 900))
			before := js[[]string](t, e.page, read)
			e.until(t, 30*time.Second, "another place and band", `((now) => now[0] !== `+fmt.Sprintf("%q", before[0])+` && now[1] !== `+fmt.Sprintf("%q", before[1])+`)(`+read+`)`)
			e.until(t, 60*time.Second, "its own run", row("running"))
			if text := js[string](t, e.page, `document.querySelector('.comfyume-card').textContent`); strings.Contains(text, "bob") {
				t.Errorf("the panel names somebody else: %s", text)
			}
			e.picture(t, 30*time.Second, "SaveImage")
			e.clean(t)
		})
	}
}
