package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"
)

// TestAutoQueueLeftAlone sets the official editor to queue by itself and leaves it: it is stopped with a sentence that
// stays, and goes on when somebody is there again.
func TestAutoQueueLeftAlone(t *testing.T) {
	b := startBrowser(t)
	for version := range generations {
		t.Run(version, func(t *testing.T) {
			s := startStudio(t, studioOptions{frontend: version, config: "queue: {idle_stop: 8s}\n"})
			e := openEditor(t, b.profile(t), s.link(t, "ann", s.host), version)
			e.load(t, "alone", slow(2, 0.4))
			// As a seed that is drawn anew: no run is found in the cache.
			js[any](t, e.page, `(() => {
				const colour = window.app.graph._nodes.find(n => n.type === 'EmptyImage').widgets.find(w => w.name === 'color')
				setInterval(() => { colour.value = Math.floor(Math.random() * 0xffffff) }, 50)
				return null
			})()`)
			e.press(t)
			e.untilFinished(t, 1)
			mode := "instant-running" // newer editors tell a mode that was chosen from one that runs
			if version == "1.27.10" {
				mode = "instant"
			}
			js[any](t, e.page, fmt.Sprintf(`(() => {
				window.app.extensionManager.queueSettings.mode = %q
				return window.app.queuePrompt(0).then(() => null)
			})()`, mode))
			e.untilFinished(t, 4) // nobody asked for the third one
			e.until(t, 60*time.Second, "the notice", `document.body.innerText.includes('Nobody touched the editor for 8 seconds, so it stopped queueing by itself.')`)
			e.shot(t, "alone")
			before := e.finished(t)
			after := js[int](t, e.page, `new Promise(done => setTimeout(() => fetch('api/history').then(r => r.json()).then(h => done(Object.keys(h).length)), 4000))`)
			if after > before+1 { // the last one may have been on its way
				t.Errorf("%d runs were over, 4 s later %d", before, after)
			}
			e.do(t, 10*time.Second, chromedp.MouseEvent(input.DispatchMouseEventTypeMouseMoved, 200, 300))
			js[any](t, e.page, `window.app.queuePrompt(0).then(() => null)`)
			e.untilFinished(t, before+2)
		})
	}
}
