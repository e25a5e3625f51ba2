package e2e

import (
	"context"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/dom"
	cdppage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

type node map[string]any

func class(name string, inputs node) node { return node{"class_type": name, "inputs": inputs} }

// plain is a graph of one colour. Equal colours are equal graphs.
func plain(rgb int) node {
	return node{
		"1": class("EmptyImage", node{"width": 64, "height": 48, "batch_size": 1, "color": rgb}),
		"2": class("SaveImage", node{"images": []any{"1", 0}, "filename_prefix": "e2e"}),
	}
}

// slow is a graph that takes about the given seconds, with a preview at each of its steps. Each has a colour and a
// name of its own: no back end has it in its cache, and no picture of before is taken for its own. A real back end has
// no node that waits; there it is a row of nodes that are hard work for a processor, without previews, and each can be
// stopped at its end.
func slow(steps int, seconds float64) node {
	colour := rand.IntN(1 << 24)
	g := node{"1": class("EmptyImage", node{"width": 64, "height": 48, "batch_size": 1, "color": colour})}
	last := "2"
	if os.Getenv("COMFYUME_E2E_BACKEND") == "" {
		g["2"] = class("ProbeSlow", node{"image": []any{"1", 0}, "steps": steps, "seconds": seconds / float64(steps), "preview": true})
	} else {
		g["2"] = class("ImageScale", node{"image": []any{"1", 0}, "upscale_method": "bilinear", "width": 512, "height": 512, "crop": "disabled"})
		for i := range int(seconds) + 3 {
			from := last
			last = fmt.Sprint(100 + i)
			g[last] = class("ImageBlur", node{"image": []any{from, 0}, "blur_radius": 31, "sigma": 10})
		}
	}
	g["3"] = class("SaveImage", node{"images": []any{last, 0}, "filename_prefix": fmt.Sprintf("slow%06x", colour)})
	return g
}

// TestEditor drives the official editor, each generation as a person of their own, through what people do.
func TestEditor(t *testing.T) {
	b := startBrowser(t)
	for version := range generations {
		t.Run(version, func(t *testing.T) {
			s := startStudio(t, studioOptions{frontend: version})
			cut := newCutter(t, s.host)
			p := b.profile(t)
			e := openEditor(t, p, s.link(t, "ann", cut.host()), version)
			t.Run("first Run", func(t *testing.T) { firstRun(t, e) })
			t.Run("run and see", func(t *testing.T) { runAndSee(t, e) })
			t.Run("run again is cached", func(t *testing.T) { runAgain(t, e) })
			t.Run("panels", func(t *testing.T) { panels(t, e) })
			t.Run("save and reopen", func(t *testing.T) { saveAndReopen(t, e) })
			t.Run("upload and use", func(t *testing.T) { uploadAndUse(t, e) })
			t.Run("a wrong graph marks its node", func(t *testing.T) { wrongGraph(t, e) })
			t.Run("interrupt", func(t *testing.T) { interrupt(t, e) })
			t.Run("delete pending", func(t *testing.T) { deletePending(t, e) })
			t.Run("studio panel", func(t *testing.T) { studioPanel(t, e) })
			t.Run("reload in mid-run", func(t *testing.T) { reloadMidRun(t, e) })
			t.Run("socket cut in mid-run", func(t *testing.T) { socketCut(t, e, cut) })
			t.Run("run ends while away", func(t *testing.T) { endsWhileAway(t, e, cut, s.newLoader(t, "ann")) })
		})
	}
}

// firstRun presses Run on the page as it opens.
func firstRun(t *testing.T, e *editor) {
	e.shot(t, "opened")
	e.press(t)
	src := e.pictureInView(t, 60*time.Second, "SaveImage")
	if !strings.Contains(src, "/api/view?") {
		t.Errorf("the picture comes from %q", src)
	}
	e.idle(t, 10*time.Second)
	e.shot(t, "first-run")
	e.clean(t)
}

func runAndSee(t *testing.T, e *editor) {
	e.load(t, "plain", plain(0xff0000))
	e.press(t)
	e.picture(t, 20*time.Second, "SaveImage")
	got := js[string](t, e.page, pixel("SaveImage"))
	if got != "255,0,0" {
		t.Errorf("pixel of the picture: %s, want 255,0,0", got)
	}
	e.clean(t)
}

// pixel reads the first pixel of a node's picture as "r,g,b".
func pixel(class string) string {
	return fmt.Sprintf(`(async () => {
		const img = window.app.graph._nodes.find(n => n.type === %q).imgs[0]
		const c = document.createElement('canvas'); c.width = c.height = 1
		const x = c.getContext('2d'); x.drawImage(img, 0, 0)
		return Array.from(x.getImageData(0, 0, 1, 1).data.slice(0, 3)).join(',')
	})()`, class)
}

// runAgain runs the same graph once more: the picture is shown again although nothing had to be computed.
func runAgain(t *testing.T, e *editor) {
	before := e.finished(t)
	const img = `window.app.graph._nodes.find(n => n.type === 'SaveImage').imgs?.[0]`
	js[any](t, e.page, `(() => { window.__first = `+img+`; return null })()`)
	e.press(t)
	e.untilFinished(t, before+1)
	e.until(t, 10*time.Second, "the picture to be taken anew", img+` !== window.__first`)
	e.picture(t, 10*time.Second, "SaveImage")
	e.clean(t)
}

// finished asks the server how many runs of this person are over.
func (e *editor) finished(t *testing.T) int {
	t.Helper()
	return js[int](t, e.page, `fetch('api/history').then(r => r.json()).then(h => Object.keys(h).length)`)
}

// untilFinished waits until n runs of this person are in history.
func (e *editor) untilFinished(t *testing.T, n int) {
	t.Helper()
	e.untilAsked(t, fmt.Sprintf("%d finished runs", n), fmt.Sprintf(`fetch('api/history').then(r => r.json()).then(h => Object.keys(h).length >= %d)`, n))
}

// untilAsked asks the server from the page until the answer, a promise of a boolean, is true.
func (e *editor) untilAsked(t *testing.T, what, expr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(e.ctx, 40*time.Second)
	defer cancel()
	_, err := chromedp.Run(ctx, chromedp.PollFunction[bool](`async () => { try { return await `+expr+` } catch { return false } }`,
		chromedp.WithPollingInterval(100*time.Millisecond), chromedp.WithPollingTimeout(40*time.Second)))
	if err != nil {
		e.shot(t, "failed")
		t.Fatalf("waiting for %s: %v", what, err)
	}
}

// panels looks at the list of runs and at what was made.
func panels(t *testing.T, e *editor) {
	e.toggle(t, e.queue)
	e.until(t, 10*time.Second, "the picture of a finished run in the list", shown("e2e_0"))
	e.shot(t, "queue-panel")
	e.toggle(t, e.queue)
	e.until(t, 10*time.Second, "a closed list", `!(`+shown("e2e_0")+`)`)
	if e.assets != "" {
		e.toggle(t, e.assets)
		e.until(t, 10*time.Second, "the picture among what was made", shown("e2e_0"))
		e.shot(t, "assets-panel")
		e.toggle(t, e.assets)
	}
	e.clean(t)
}

// toggle clicks a button that opens or closes something.
func (e *editor) toggle(t *testing.T, button string) {
	t.Helper()
	e.do(t, 10*time.Second, chromedp.Click(chromedp.CSS(button)))
}

// shown is true when the page, not the graph in it, shows a picture whose file's name begins with name.
func shown(name string) string {
	return fmt.Sprintf(`[...document.querySelectorAll('img[src*="filename=%s"]')].some(i => i.complete && i.naturalWidth > 0 && i.getBoundingClientRect().width > 0)`, name)
}

// saveAndReopen saves the open graph under a name, opens another and comes back to it through the side bar.
func saveAndReopen(t *testing.T, e *editor) {
	e.load(t, "tosave", plain(0x00ff00))
	e.do(t, 10*time.Second, chromedp.Focus(chromedp.CSS(`canvas#graph-canvas`)),
		chromedp.KeyEvent("s", chromedp.KeyModifiers(kb.ModifierCtrl)),
		chromedp.WaitVisible(chromedp.CSS(`[role="dialog"] input`)))
	js[any](t, e.page, `(() => { const i = document.querySelector('[role="dialog"] input'); i.focus(); i.select(); return null })()`)
	e.do(t, 10*time.Second, chromedp.KeyEvent("kept"), chromedp.KeyEvent(kb.Enter))
	e.until(t, 10*time.Second, "the workflow to be saved", `!document.querySelector('[role="dialog"] input')`)
	e.untilAsked(t, "kept.json among the saved workflows", `fetch('api/userdata?dir=workflows&recurse=true&split=false&full_info=true').then(r => r.json()).then(l => l.map(f => f.path).join() === 'kept.json')`)
	e.load(t, "other", plain(0x0000ff))
	e.do(t, 10*time.Second, chromedp.Click(chromedp.CSS(e.workflows)))
	e.until(t, 10*time.Second, "the saved workflow in the side bar", leaf("kept"))
	// The list may be drawn anew just when it is clicked: then nothing hears the click.
	e.until(t, 20*time.Second, "the saved graph", `(() => {
		if (window.app.graph._nodes.find(n => n.type === 'EmptyImage')?.widgets.find(w => w.name === 'color')?.value == 0x00ff00) return true
		if (!(performance.now() < window.clickAgain)) { window.clickAgain = performance.now() + 3000; (`+leaf("kept")+`)?.click() }
		return false
	})()`)
	e.do(t, 10*time.Second, chromedp.Click(chromedp.CSS(e.workflows)))
	e.clean(t)
}

// leaf finds the innermost element of the side bar with this text.
func leaf(text string) string {
	return fmt.Sprintf(`[...document.querySelectorAll('.side-bar-panel *, .comfyui-body-left *, [class*="sidebar"] *')].filter(x => x.children.length === 0 && x.textContent.trim().replace(/\.json$/, '') === %q).pop()`, text)
}

// uploadAndUse picks a picture of this computer in a LoadImage node and runs it.
func uploadAndUse(t *testing.T, e *editor) {
	file := filepath.Join(t.TempDir(), "own photo.png")
	writePNG(t, file, color.NRGBA{R: 10, G: 200, B: 30, A: 255})
	e.load(t, "upload", node{
		"1": class("LoadImage", node{"image": ""}),
		"2": class("ImageInvert", node{"image": []any{"1", 0}}),
		"3": class("SaveImage", node{"images": []any{"2", 0}, "filename_prefix": "inverted"}),
	})
	e.choose(t, `window.app.graph._nodes.find(n => n.type === 'LoadImage').widgets.find(w => w.type === 'button' || w.name === 'upload').callback()`, file)
	e.until(t, 10*time.Second, "the uploaded name in the node", `window.app.graph._nodes.find(n => n.type === 'LoadImage').widgets.find(w => w.name === 'image').value === 'own photo.png'`)
	// Some editors name it before it is there.
	e.untilAsked(t, "the upload", `fetch('internal/files/input').then(r => r.json()).then(l => l.some(n => n.startsWith('own photo.png')))`)
	e.press(t)
	e.picture(t, 20*time.Second, "SaveImage")
	if got := js[string](t, e.page, pixel("SaveImage")); got != "245,54,225" {
		t.Errorf("pixel of the inverted upload: %s, want 245,54,225 (ComfyUI truncates 54.99)", got)
	}
	e.clean(t, "filename=undefined") // the editor asks for the picture of a LoadImage node that has none yet
}

// choose runs an expression that opens the browser's file dialog, and picks file in it.
func (e *editor) choose(t *testing.T, open, file string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(e.ctx, 15*time.Second)
	defer cancel()
	if _, err := chromedp.Call(ctx, cdppage.SetInterceptFileChooserDialog, cdppage.SetInterceptFileChooserDialogParams{Enabled: true}); err != nil {
		t.Fatal(err)
	}
	gesture := chromedp.Evaluate[chromedp.Void](`(() => { `+open+` })()`, func(p *runtime.EvaluateParams) { p.UserGesture = new(true) })
	ev, err := chromedp.Run(ctx, chromedp.WaitEvent(cdppage.FileChooserOpened, func(cdppage.EventFileChooserOpened) bool { return true }, gesture))
	if err != nil {
		e.shot(t, "failed")
		t.Fatalf("open the file dialog: %v", err)
	}
	if _, err := chromedp.Call(ctx, dom.SetFileInputFiles, dom.SetFileInputFilesParams{Files: []string{file}, BackendNodeID: cdp.BackendNodeID(ev.BackendNodeID)}); err != nil {
		t.Fatal(err)
	}
}

func writePNG(t *testing.T, path string, c color.Color) {
	t.Helper()
	img := image.NewNRGBA(image.Rect(0, 0, 32, 32))
	for i := range 32 * 32 {
		img.Set(i%32, i/32, c)
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := png.Encode(f, img); err != nil {
		t.Fatal(err)
	}
}

// wrongGraph presses Run with a value out of range: the editor names the node, nothing runs.
func wrongGraph(t *testing.T, e *editor) {
	e.load(t, "wrong", plain(0x123456))
	before := e.finished(t)
	js[any](t, e.page, `(() => { window.app.graph._nodes.find(n => n.type === 'EmptyImage').widgets.find(w => w.name === 'batch_size').value = 999999; return null })()`)
	e.press(t)
	e.until(t, 15*time.Second, "the error of the node", `Object.keys(window.app.lastNodeErrors ?? window.app.extensionManager.lastNodeErrors ?? {}).length === 1`)
	if n := e.finished(t); n != before {
		t.Errorf("%d runs in history, want %d", n, before)
	}
	e.do(t, 10*time.Second, chromedp.KeyEvent(kb.Escape))
	e.clean(t, "400 ")
}

// interrupt stops a running job with the editor's own button.
func interrupt(t *testing.T, e *editor) {
	e.load(t, "stop", slow(60, 30))
	before := e.finished(t)
	e.press(t)
	e.until(t, 20*time.Second, "progress in the title", `/\[\d+%\]/.test(document.title)`)
	e.do(t, 10*time.Second, chromedp.Click(chromedp.CSS(`button[aria-label="Cancel current run"]`)))
	e.untilFinished(t, before+1)
	e.idle(t, 10*time.Second)
	status := js[string](t, e.page, `fetch('api/history?max_items=1').then(r => r.json()).then(h => Object.values(h)[0].status.messages.at(-1)[0])`)
	if status != "execution_interrupted" {
		t.Errorf("the run ended with %s, want execution_interrupted", status)
	}
	e.clean(t)
}

// deletePending takes waiting jobs out of the queue again.
func deletePending(t *testing.T, e *editor) {
	e.load(t, "holds", slow(60, 30))
	before := e.finished(t)
	e.press(t)
	e.until(t, 20*time.Second, "progress in the title", `/\[\d+%\]/.test(document.title)`)
	for i := range 3 {
		e.load(t, fmt.Sprintf("waits%d", i), plain(0x200000+i))
		e.press(t)
	}
	queued := `fetch('api/queue').then(r => r.json()).then(q => q.queue_pending.length)`
	e.untilAsked(t, "three waiting jobs", queued+`.then(n => n === 3)`)
	e.toggle(t, e.queue)
	e.until(t, 10*time.Second, "one running and three waiting jobs in the list", e.counts)
	e.shot(t, "waiting")
	// By the page itself: the button may still move with the list when a pointer would hit it.
	js[any](t, e.page, fmt.Sprintf(`(() => { document.querySelector(%q).click(); return null })()`, e.clear))
	e.untilAsked(t, "no waiting jobs", queued+`.then(n => n === 0)`)
	e.until(t, 10*time.Second, "no waiting jobs in the list", `!(`+e.counts+`)`)
	e.toggle(t, e.queue)
	if n := e.finished(t); n != before {
		t.Errorf("%d runs are over, want %d: what ran is not to be stopped", n, before)
	}
	e.toggle(t, `button[aria-label="Cancel current run"]`)
	e.untilFinished(t, before+1)
	e.idle(t, 10*time.Second)
	if n := e.finished(t); n != before+1 {
		t.Errorf("%d runs more in history, want 1", n-before)
	}
	e.clean(t)
}
