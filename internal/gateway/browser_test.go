package gateway_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/ahelme/comfyume/internal/gateway"
)

// editor is a page that leaves traces in the browser, as the editor does, and says what it found.
type editor struct{}

func (editor) Has(path string) bool { return path == "/" }

func (editor) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html")
	w.Header().Set("Cache-Control", "no-store")
	fmt.Fprint(w, `<!doctype html><title>editor</title><script>
globalThis.ready = (async () => {
  const found = { local: localStorage.length, session: sessionStorage.length, name: window.name,
    db: (await indexedDB.databases()).length, caches: (await window.caches?.keys())?.length ?? 0, cookie: document.cookie };
  localStorage.setItem("draft", "secret");
  sessionStorage.setItem("workflow", "secret");
  window.name = "secret";
  await new Promise((done, fail) => { const q = indexedDB.open("comfy"); q.onsuccess = () => { q.result.close(); done(); }; q.onerror = fail; });
  await window.caches?.open("comfy");
  new BroadcastChannel("comfyume").onmessage = () => location.replace("/signin/clean");
  return found;
})();
</script>`)
}

type traces struct {
	Local, Session, DB, Caches int
	Name, Cookie               string
}

// TestBrowserIsEmptied has two people share a real browser, one after the other, with two tabs open. Browsers trust
// plain http on this machine as they do https, but nowhere else: there they obey no Clear-Site-Data, so that the script
// has to do it alone, they have no caches, and they say less about where a request comes from.
func TestBrowserIsEmptied(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"127.0.0.1", "studio.test"} {
		t.Run(host, func(t *testing.T) {
			t.Parallel()
			browserIsEmptied(t, host)
		})
	}
}

func browserIsEmptied(t *testing.T, host string) {
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Log("chromium is not here")
		t.Skip()
	}
	b := setup(t, gateway.Options{})
	g, err := gateway.New(b.accounts, gateway.Faces{Comfy: http.NotFoundHandler(), Static: editor{}}, gateway.Options{Studio: "s1"})
	ok(t, err)
	s := httptest.NewServer(g)
	t.Cleanup(s.Close)
	s.URL = strings.Replace(s.URL, "127.0.0.1", host, 1)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewExecAllocator(ctx, append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("host-resolver-rules", "MAP studio.test 127.0.0.1"), chromedp.UserDataDir(t.TempDir()))...)
	t.Cleanup(cancel)
	first, cancel := chromedp.NewContext(ctx)
	t.Cleanup(cancel)

	link := func(user string) string {
		code, _, err := b.accounts.NewLink(t.Context(), user, "", 0)
		ok(t, err)
		return s.URL + "/link/" + code
	}
	// look waits for the editor, past pages that empty the browser, and returns what it found.
	look := func(tab context.Context) traces {
		t.Helper()
		for {
			tr, err := chromedp.Run(tab, chromedp.Evaluate[*traces](`globalThis.ready ?? null`, chromedp.EvalAwaitPromise))
			if err == nil && tr != nil {
				return *tr
			}
			if tab.Err() != nil {
				t.Fatalf("the editor does not open: %v", err)
			}
		}
	}
	ok(t, chromedp.Do(first, chromedp.Navigate(link("ann"))))
	same(t, look(first), traces{})
	ok(t, chromedp.Do(first, chromedp.Navigate(s.URL+"/")))
	if tr := look(first); tr.Local == 0 || tr.Session == 0 || tr.DB == 0 || (tr.Caches == 0) != (host == "studio.test") || tr.Name == "" {
		t.Fatalf("the editor leaves no traces: %+v", tr)
	}
	second, cancel := chromedp.NewContext(first)
	t.Cleanup(cancel)
	ok(t, chromedp.Do(second, chromedp.Navigate(s.URL+"/")))
	look(second)

	// Ann signs out in one tab; the other one leaves her editor by itself.
	ok(t, chromedp.Do(first,
		chromedp.Navigate(s.URL+"/signout"),
		chromedp.Click(`form[action="/signout"] button`),
		chromedp.WaitVisible(`a[href="/signin"]`)))
	ok(t, chromedp.Do(second, chromedp.WaitVisible(`input[name="password"]`)))

	ok(t, chromedp.Do(first, chromedp.Navigate(link("ben"))))
	same(t, look(first), traces{})
	ok(t, chromedp.Do(second, chromedp.Navigate(s.URL+"/")))
	if tr := look(second); tr.Session != 0 || tr.Name != "" {
		t.Errorf("the second tab still has what ann did: %+v", tr)
	}

	// Ann comes back without anybody signing out. The second tab would open her editor beside this one and leave new
	// traces, which are hers.
	ok(t, chromedp.Do(second, chromedp.Navigate("about:blank")))
	ok(t, chromedp.Do(first, chromedp.Navigate(link("ann"))))
	same(t, look(first), traces{})
}
