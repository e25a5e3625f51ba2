package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/network"
	cdppage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// handles are the selectors in which the generations of the editor differ.
type handles struct {
	run, queue, workflows string
	clear                 string // takes all that waits out of the queue
	assets                string // lists what was made; empty: the list of runs does
	counts                string // true when the list of runs shows one that runs and three that wait
}

const (
	rowsCount = `[[/Pending/, 3], [/Running/, 1]].every(([state, n]) => [...document.querySelectorAll('.task-item')].filter(x => state.test(x.innerText)).length === n)`
	headCount = `/\b1 running, 3 queued/.test(document.body.innerText)`
)

// generations are the editors that have to work, by version of the official package.
var generations = map[string]handles{
	"1.27.10": {
		run: `button[aria-label="Run"]`, queue: `.queue-tab-button`, workflows: `.workflows-tab-button`,
		clear: `button[aria-label="Clear Pending Tasks"]`, counts: rowsCount,
	},
	"1.40.10": {
		run: `button[aria-label="Run"]`, queue: `[data-testid="queue-overlay-toggle"]`, workflows: `.workflows-tab-button`,
		clear: `button[aria-label="Clear queued"]`, counts: headCount, assets: `button[aria-label^="Assets"]`,
	},
	"1.58.1": {
		run: `[data-testid="queue-button"]`, queue: `[data-testid="queue-overlay-toggle"]`, workflows: `[data-testid="workflows-tab-button"]`,
		clear: `button[aria-label="Clear queued"]`, counts: headCount, assets: `[data-testid="assets-tab-button"]`,
	},
}

// expectedFailures are requests of the page that may fail, each with its reason.
var expectedFailures = []struct{ path, why string }{
	{"/user.css", "an optional style sheet of the person; absent by default on a real server too"},
	{"/api/userdata/user.css", "the same, under its other address"},
	{"/api/userdata/comfy.templates.json", "the person has not saved node templates yet"},
	{"/api/userdata/workflows%2F.index.json", "the person has no bookmarks yet"},
	{"/api/userdata?dir=subgraphs", "the person has no blueprints yet"},
	{"/api/userdata?dir=workflows", "the person has not saved a workflow yet"},
}

// plainName is a name of this machine in the browser. Plain http under it is no more trusted than anybody's, as over a
// network; under the loopback address it counts as https.
const plainName = "studio.test"

// browser is one Chromium for all tests of the package.
type browser struct{ ctx context.Context }

// chromium returns the path of the browser, or skips where there is none.
func chromium(t *testing.T) string {
	t.Helper()
	for _, p := range []string{"/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"} {
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	t.Skip("no Chromium on this machine; `make test` installs Debian's where it may")
	return ""
}

// startBrowser starts headless Chromium.
func startBrowser(t *testing.T) *browser {
	t.Helper()
	return startBrowserAt(t, chromium(t))
}

// startBrowserAt starts the headless browser at path.
func startBrowserAt(t *testing.T, path string) *browser {
	t.Helper()
	opts := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]),
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true),
		chromedp.Flag("ignore-certificate-errors", true),
		chromedp.Flag("host-resolver-rules", "MAP "+plainName+" 127.0.0.1"),
		chromedp.WindowSize(1440, 900))
	actx, cancel := chromedp.NewExecAllocator(context.Background(), opts...)
	t.Cleanup(cancel)
	ctx, cancel := chromedp.NewContext(actx)
	t.Cleanup(cancel)
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("start Chromium: %v", err)
	}
	return &browser{ctx: ctx}
}

// page is one tab. It notes every uncaught error and every failed request.
type page struct {
	t     *testing.T
	ctx   context.Context
	allow []string // parts of addresses that may fail in this tab; who fills it says why

	mu       sync.Mutex
	urls     map[network.RequestID]string
	errors   []string
	failures []string
}

// profile opens a tab in a fresh browser profile: own cookies, own storage.
func (b *browser) profile(t *testing.T) *page {
	t.Helper()
	ctx, cancel := chromedp.NewContext(b.ctx, chromedp.WithNewBrowserContext())
	return newPage(t, ctx, cancel)
}

// tab opens another tab in the same profile as p.
func (p *page) tab(t *testing.T) *page {
	t.Helper()
	ctx, cancel := chromedp.NewContext(p.ctx)
	return newPage(t, ctx, cancel)
}

func newPage(t *testing.T, ctx context.Context, cancel context.CancelFunc) *page {
	t.Helper()
	p := &page{t: t, ctx: ctx, urls: map[network.RequestID]string{}}
	t.Cleanup(cancel)
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("open a tab: %v", err)
	}
	if _, err := chromedp.Call(ctx, network.Enable, network.EnableParams{}); err != nil {
		t.Fatalf("watch the network: %v", err)
	}
	if err := chromedp.Listen(ctx, p.note); err != nil {
		t.Fatalf("listen: %v", err)
	}
	return p
}

// note keeps what must not happen: uncaught errors, failed requests.
func (p *page) note(ev any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch e := ev.(type) {
	case *runtime.EventExceptionThrown:
		text := e.ExceptionDetails.Text
		if x := e.ExceptionDetails.Exception; x != nil {
			text += " " + x.Description
		}
		p.errors = append(p.errors, text)
	case *cdppage.EventJavascriptDialogOpening: // "leave the page?"; the answer must not wait in this callback
		go func() {
			accept := cdppage.HandleJavaScriptDialogParams{Accept: true}
			if _, err := chromedp.Call(p.ctx, cdppage.HandleJavaScriptDialog, accept); err != nil && p.ctx.Err() == nil {
				p.t.Logf("answer the page's dialog: %v", err)
			}
		}()
	case *network.EventRequestWillBeSent:
		p.urls[e.RequestID] = e.Request.URL
	case *network.EventResponseReceived:
		if e.Response.Status >= 400 {
			p.failures = append(p.failures, fmt.Sprintf("%d %s", e.Response.Status, e.Response.URL))
		}
	case *network.EventLoadingFailed:
		if e.Canceled || e.ErrorText == "net::ERR_ABORTED" {
			return
		}
		p.failures = append(p.failures, e.ErrorText+" "+p.urls[e.RequestID])
	}
}

// clean fails the test for every uncaught error and unexpected failed request since the last call. allow names
// further address parts that this step expects to fail.
func (p *page) clean(t *testing.T, allow ...string) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.errors {
		t.Errorf("uncaught error in the page: %s", e)
	}
	for _, f := range p.failures {
		if !expected(f, p.allow) && !expected(f, allow) {
			t.Errorf("failed request: %s", f)
		}
	}
	p.errors, p.failures = nil, nil
}

func expected(failure string, allow []string) bool {
	for _, x := range expectedFailures {
		if strings.Contains(failure, x.path) && strings.HasPrefix(failure, "404") {
			return true
		}
	}
	return slices.ContainsFunc(allow, func(a string) bool { return strings.Contains(failure, a) })
}

// do runs steps within d.
func (p *page) do(t *testing.T, d time.Duration, steps ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, d)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		p.shot(t, "failed")
		t.Fatal(err)
	}
}

// js evaluates an expression, which may be a promise, and returns its value.
func js[T any](t *testing.T, p *page, expr string) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, 30*time.Second)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expr, chromedp.EvalAwaitPromise))
	if err != nil {
		p.shot(t, "failed")
		t.Fatalf("%s: %v", expr, err)
	}
	return v
}

// until waits for an expression of the page to be true. It outlives a reload of the page.
func (p *page) until(t *testing.T, d time.Duration, what, expr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, d)
	defer cancel()
	poll := chromedp.Poll[bool](`(() => { try { return !!(`+expr+`) } catch { return false } })()`,
		chromedp.WithPollingInterval(50*time.Millisecond), chromedp.WithPollingTimeout(d))
	var err error
	for ctx.Err() == nil {
		if _, err = chromedp.Run(ctx, poll); err == nil {
			return
		}
		if !replaced(err) {
			break
		}
	}
	p.shot(t, "failed")
	p.mu.Lock()
	defer p.mu.Unlock()
	t.Fatalf("waiting for %s: %v\npage errors: %q\nfailed requests: %q", what, err, p.errors, p.failures)
}

// replaced reports whether the page was replaced by another one while we asked.
func replaced(err error) bool {
	return strings.Contains(err.Error(), "context with specified id") || strings.Contains(err.Error(), "navigated or closed") ||
		strings.Contains(err.Error(), "Not attached to an active page")
}

// shot saves a screenshot among the test's artifacts.
func (p *page) shot(t *testing.T, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, 10*time.Second)
	defer cancel()
	b, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
	if err != nil {
		t.Logf("screenshot: %v", err)
		return
	}
	dir := t.ArtifactDir()
	if err := os.WriteFile(filepath.Join(dir, name+".png"), b, 0o600); err != nil {
		t.Logf("screenshot: %v", err)
	}
}

// editor is a page with the official editor in it.
type editor struct {
	*page
	handles
	prefix string // with which names of files of the open graph begin
}

// openEditor follows a link and waits until the editor has a graph.
func openEditor(t *testing.T, p *page, link, version string) *editor {
	t.Helper()
	e := &editor{page: p, handles: generations[version]}
	p.do(t, 60*time.Second, chromedp.Navigate(link))
	e.ready(t)
	return e
}

// ready waits until the editor has built its graph and shows the Run button.
func (e *editor) ready(t *testing.T) {
	t.Helper()
	e.until(t, 60*time.Second, "the editor", `window.app && window.app.graph && window.app.graph._nodes.length > 0 && document.querySelector('`+e.run+`')`)
}

// load opens a graph in API form as a workflow tab of this name.
func (e *editor) load(t *testing.T, name string, graph node) {
	t.Helper()
	for _, n := range graph {
		if prefix, ok := n.(node)["inputs"].(node)["filename_prefix"].(string); ok {
			e.prefix = prefix
		}
	}
	raw, err := json.Marshal(graph)
	if err != nil {
		t.Fatal(err)
	}
	js[any](t, e.page, fmt.Sprintf(`(async () => { await window.app.loadApiJson(%s, %q); return null })()`, raw, name))
	e.until(t, 10*time.Second, "the graph "+name, fmt.Sprintf(`window.app.graph._nodes.length === %d`, strings.Count(string(raw), `"class_type"`)))
}

// press clicks Run, once nothing lies over the button.
func (e *editor) press(t *testing.T) {
	t.Helper()
	e.until(t, 10*time.Second, "a free Run button", `(() => {
		const b = document.querySelector('`+e.run+`'), r = b.getBoundingClientRect()
		return b.contains(document.elementFromPoint(r.x + r.width / 2, r.y + r.height / 2))
	})()`)
	e.do(t, 15*time.Second, chromedp.Click(chromedp.CSS(e.run)))
}

// look brings the node of this class into view, as whoever waits for its picture does: editors fetch the pictures of
// the nodes that they draw, and draw those in view.
func (e *editor) look(t *testing.T, class string) {
	t.Helper()
	js[any](t, e.page, fmt.Sprintf(`(() => { window.app.canvas.centerOnNode(window.app.graph._nodes.find(n => n.type === %q)); return null })()`, class))
}

// picture waits until the node of this class shows a picture that the open graph has saved, and returns its address.
func (e *editor) picture(t *testing.T, d time.Duration, class string) string {
	t.Helper()
	e.look(t, class)
	return e.pictureInView(t, d, class)
}

// pictureInView is picture for a node that the editor shows by itself.
func (e *editor) pictureInView(t *testing.T, d time.Duration, class string) string {
	t.Helper()
	e.until(t, d, "a picture in "+class, saved(class, e.prefix))
	return js[string](t, e.page, fmt.Sprintf(`window.app.graph._nodes.find(n => n.type === %q).imgs[0].src`, class))
}

// saved is true when a node of the graph shows a file whose name begins with prefix. Previews of a run are none.
func saved(class, prefix string) string {
	return fmt.Sprintf(`[window.app.graph._nodes.find(n => n.type === %q).imgs?.[0]].some(i =>
		i?.complete && i.naturalWidth > 0 && i.src.includes('/api/view?') && i.src.includes('filename=%s'))`, class, prefix)
}

// idle waits until the editor shows no run.
func (e *editor) idle(t *testing.T, d time.Duration) {
	t.Helper()
	e.until(t, d, "an idle editor", `!/\[\d+%\]/.test(document.title)`)
}
