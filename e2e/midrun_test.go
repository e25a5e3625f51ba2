package e2e

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// studioButton opens and closes our extension's panel.
const studioButton = `.comfyume-tab-button, [data-testid="comfyume-tab-button"]`

// studioPanel follows a running and a waiting job in our extension's panel and in the badge of its button.
func studioPanel(t *testing.T, e *editor) {
	badge := func(text string) string {
		return fmt.Sprintf(`document.querySelector('%s').textContent.trim() === %q`, studioButton, text)
	}
	card := func(text string) string {
		return fmt.Sprintf(`document.querySelector('.comfyume-card').innerText.includes(%q)`, text)
	}
	e.openPanel(t)
	e.until(t, 10*time.Second, "no runs", card("No run of yours is waiting")+` && `+badge(""))
	e.load(t, "watched", slow(60, 30))
	before := e.finished(t)
	e.press(t)
	e.until(t, 20*time.Second, "a running job", `document.querySelector('.comfyume-card li[data-state=running]') && `+badge("▶"))
	if os.Getenv("COMFYUME_E2E_BACKEND") == "" { // a real back end's hard work tells no steps
		e.until(t, 20*time.Second, "its progress", `document.querySelector('.comfyume-card li[data-state=running] progress').value > 1`)
	}
	e.load(t, "next", plain(0x300000))
	e.press(t)
	e.until(t, 20*time.Second, "a waiting job", `document.querySelector('.comfyume-card li:is([data-state=pending], [data-state=next])')`)
	e.shot(t, "studio-panel")
	e.toggle(t, `button[aria-label="Cancel current run"]`)
	e.untilFinished(t, before+2)
	e.until(t, 10*time.Second, "no runs", card("No run of yours is waiting")+` && `+badge(""))
	e.idle(t, 10*time.Second)
	e.toggle(t, studioButton)
	e.clean(t)
}

// reloadMidRun reloads the page while its job runs: the picture appears in the node all the same.
func reloadMidRun(t *testing.T, e *editor) {
	e.load(t, "reload", slow(40, 8))
	e.press(t)
	e.until(t, 20*time.Second, "progress in the title", `/\[\d+%\]/.test(document.title)`)
	js[any](t, e.page, `(() => { window.__old = true; return null })()`)
	e.do(t, 60*time.Second, chromedp.Reload())
	e.until(t, 30*time.Second, "a new page", `!window.__old`)
	e.ready(t)
	e.until(t, 20*time.Second, "the graph of before the reload", `window.app.graph._nodes.some(n => n.type === 'SaveImage' && n.widgets.some(w => w.value === '`+e.prefix+`'))`)
	e.picture(t, 30*time.Second, "SaveImage")
	e.idle(t, 10*time.Second)
	e.clean(t)
}

// socketCut loses the line for a moment while a job runs.
func socketCut(t *testing.T, e *editor, cut *cutter) {
	e.load(t, "cut", slow(30, 6))
	e.press(t)
	e.until(t, 20*time.Second, "progress in the title", `/\[\d+%\]/.test(document.title)`)
	cut.blink()
	e.picture(t, 30*time.Second, "SaveImage")
	e.idle(t, 10*time.Second)
	e.clean(t, "net::ERR")
}

// endsWhileAway loses the line until the job is over: after the reconnect the open graph shows the truth.
func endsWhileAway(t *testing.T, e *editor, cut *cutter, l *loader) {
	e.load(t, "away", slow(10, 3))
	e.press(t)
	e.until(t, 20*time.Second, "progress in the title", `/\[\d+%\]/.test(document.title)`)
	cut.cut()
	if n, err := l.remaining(); err != nil || n != 1 {
		t.Errorf("%d jobs are open when the line is cut (%v), want 1", n, err)
	}
	l.settle(t)
	e.look(t, "SaveImage")
	if js[bool](t, e.page, `!!(`+saved("SaveImage", e.prefix)+`)`) {
		t.Error("the picture is there although the line is cut")
	}
	cut.mend()
	e.picture(t, 30*time.Second, "SaveImage")
	e.idle(t, 10*time.Second)
	e.clean(t, "net::ERR")
}
