package fleet_test

import (
	"context"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/fleet"
)

func newReader(s string) io.Reader { return strings.NewReader(s) }

// shelf is a PackStore in memory.
type shelf struct {
	mu       sync.Mutex
	files    map[string]fleet.PackFile
	contents map[string]string
	saves    int
}

func (s *shelf) at(f fleet.PackFile) string { return f.BackEnd + "|" + f.Pack + "|" + f.Path }

func (s *shelf) LoadPacks(context.Context) (all []fleet.PackFile, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.files {
		all = append(all, f)
	}
	return all, nil
}

func (s *shelf) SavePackFile(_ context.Context, f fleet.PackFile, content []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files[s.at(f)] = f
	s.contents[f.Hash] = string(content)
	s.saves++
	return nil
}

func (s *shelf) DropPackFiles(_ context.Context, files []fleet.PackFile) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range files {
		delete(s.files, s.at(f))
	}
	return nil
}

func (s *shelf) PackContent(_ context.Context, hash string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text, ok := s.contents[hash]
	if !ok {
		return nil, fault.New(fault.Missing, "not kept")
	}
	return []byte(text), nil
}

// packs makes a Packs over s that runs until the test ends.
func packs(t *testing.T, s *shelf, o fleet.PackOptions) (p *fleet.Packs, stop func()) {
	t.Helper()
	p, err := fleet.NewPacks(t.Context(), s, []fleet.PackMember{{Name: "gpu1"}, {Name: "gpu2"}}, o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	return p, func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

func wantFile(t *testing.T, p *fleet.Packs, pack, path, want string) {
	t.Helper()
	r, hash, err := p.File(t.Context(), "", pack, path)
	if want == "" {
		if !fault.Is(err, fault.Missing) {
			t.Errorf("%s/%s: %v, want Missing", pack, path, err)
		}
		return
	}
	if err != nil {
		t.Errorf("%s/%s: %v", pack, path, err)
		return
	}
	defer r.Close()
	if b, err := io.ReadAll(r); err != nil || string(b) != want || hash == "" {
		t.Errorf("%s/%s: %q, %v; want %q", pack, path, b, err, want)
	}
}

func TestWebFilesAreKeptForSleepingBackEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &shelf{files: map[string]fleet.PackFile{}, contents: map[string]string{}}
		p, stop := packs(t, s, fleet.PackOptions{Deny: []string{"Bad"}})
		one := &driver{files: map[string]string{
			"/extensions/My%20Pack/js/main.js": "one", "/extensions/My%20Pack/a%20b.css": "css",
			"/extensions/ComfyUI-Manager/m.js": "manager", "/extensions/bad/x.js": "bad",
		}}
		two := &driver{files: map[string]string{"/extensions/My%20Pack/js/main.js": "two", "/extensions/Other/o.js": "other"}}
		p.Note("gpu2", two, "e1", []string{"/extensions/My%20Pack/js/main.js", "/extensions/Other/o.js"})
		p.Note("gpu1", one, "e1", []string{
			"/extensions/My%20Pack/js/main.js", "/extensions/ComfyUI-Manager/m.js", "/extensions/bad/x.js",
			"/extensions/core/groupNode.js", "/extensions/../x.js", "nonsense",
		})
		synctest.Wait()
		want := []string{"/extensions/My%20Pack/js/main.js", "/extensions/Other/o.js"}
		if diff := cmp.Diff(want, p.Scripts("")); diff != "" {
			t.Errorf("scripts (-want +got):\n%s", diff)
		}
		wantFile(t, p, "My Pack", "js/main.js", "one") // the first of the configuration wins
		wantFile(t, p, "Other", "o.js", "other")
		wantFile(t, p, "My Pack", "a b.css", "css") // not listed: asked for
		for _, c := range [][2]string{
			{"ComfyUI-Manager", "m.js"},
			{"comfyui-manager", "m.js"},
			{"bad", "x.js"},
			{"My Pack", "none.js"},
			{"My Pack", "../Other/o.js"},
			{"My Pack", ""},
			{"Unknown", "a.js"},
			{"core", "groupNode.js"},
		} {
			wantFile(t, p, c[0], c[1], "")
		}
		stop()

		// The next process has them without any back end.
		p, stop = packs(t, s, fleet.PackOptions{})
		wantFile(t, p, "My Pack", "a b.css", "css")
		if diff := cmp.Diff(want, p.Scripts("")); diff != "" {
			t.Errorf("scripts after a restart (-want +got):\n%s", diff)
		}

		// A new start of the back end has them read anew; what is gone is forgotten.
		one.set(func() { one.files = map[string]string{"/extensions/My%20Pack/js/main.js": "newer"} })
		p.Note("gpu1", one, "e2", nil)
		synctest.Wait()
		wantFile(t, p, "My Pack", "js/main.js", "newer")
		wantFile(t, p, "My Pack", "a b.css", "")
		saves, reads := s.saves, one.reads
		p.Note("gpu1", one, "e2", nil)
		synctest.Wait()
		if s.saves != saves || one.reads != reads {
			t.Errorf("read again although nothing changed")
		}
		stop()
	})
}

func TestOnlyChosenPacks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &shelf{files: map[string]fleet.PackFile{}, contents: map[string]string{}}
		p, stop := packs(t, s, fleet.PackOptions{Only: []string{"a"}})
		d := &driver{files: map[string]string{"/extensions/A/x.js": "a", "/extensions/B/x.js": "b"}}
		p.Note("gpu1", d, "e1", []string{"/extensions/A/x.js", "/extensions/B/x.js"})
		synctest.Wait()
		wantFile(t, p, "A", "x.js", "a")
		wantFile(t, p, "B", "x.js", "")
		stop()
	})
}

func TestReadingIsTriedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &shelf{files: map[string]fleet.PackFile{}, contents: map[string]string{}}
		p, stop := packs(t, s, fleet.PackOptions{})
		d := &driver{files: map[string]string{"/extensions/A/x.js": "a"}, webErr: backend.ErrUnreachable}
		p.Note("gpu1", d, "e1", []string{"/extensions/A/x.js"})
		synctest.Wait()
		if got := p.Scripts(""); len(got) != 0 {
			t.Errorf("scripts that could not be read: %v", got)
		}
		d.set(func() { d.webErr = nil })
		p.Note("gpu1", d, "e1", nil) // the next probe tells no news
		synctest.Wait()
		wantFile(t, p, "A", "x.js", "a")
		stop()
	})
}

// TestOneVersionForEachGroup: each group gets a pack as one back end has it, and differences are named.
func TestOneVersionForEachGroup(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &shelf{files: map[string]fleet.PackFile{}, contents: map[string]string{}}
		p, stop := packs(t, s, fleet.PackOptions{Routes: map[string][]string{"P": {"/p_api/"}, "Bad": {"/bad"}}, Deny: []string{"bad"}})
		p.Arrange([]fleet.PackMember{{Name: "gpu1", Groups: []string{"red"}}, {Name: "gpu2"}, {Name: "gpu3"}})
		scripts := []string{"/extensions/P/a.js", "/extensions/P/b.js"}
		for name, files := range map[string]map[string]string{
			"gpu1": {scripts[0]: "old", scripts[1]: "same"},
			"gpu2": {scripts[0]: "new", scripts[1]: "same", "/extensions/P/new.js": "new"},
			"gpu3": {scripts[0]: "new", scripts[1]: "same", "/extensions/P/lazy.css": "lazy"},
		} {
			list := []string{}
			for f := range files {
				if !strings.HasSuffix(f, ".css") {
					list = append(list, f)
				}
			}
			p.Note(name, &driver{files: files}, "e1", list)
		}
		synctest.Wait()
		for group, c := range map[string]struct {
			a       string
			scripts []string
		}{
			"red": {"old", scripts},
			"":    {"new", append(scripts, "/extensions/P/new.js")},
		} {
			if diff := cmp.Diff(c.scripts, p.Scripts(group)); diff != "" {
				t.Errorf("%q: scripts (-want +got):\n%s", group, diff)
			}
			r, _, err := p.File(t.Context(), group, "P", "a.js")
			if err != nil {
				t.Fatal(err)
			}
			if b, err := io.ReadAll(r); err != nil || string(b) != c.a {
				t.Errorf("%q: %q, %v", group, b, err)
			}
			// Another back end of the same version may have what the first one does not give; one of another may not.
			if _, _, err := p.File(t.Context(), group, "P", "lazy.css"); (err == nil) != (group == "") {
				t.Errorf("%q: lazy.css: %v", group, err)
			}
		}
		want := []fleet.Difference{{Pack: "P", BackEnd: "gpu2", Served: "gpu1", Paths: []string{"a.js"}}, {Pack: "P", BackEnd: "gpu3", Served: "gpu1", Paths: []string{"a.js"}}}
		if diff := cmp.Diff(want, p.Differences()); diff != "" {
			t.Errorf("differences (-want +got):\n%s", diff)
		}
		up := func(string) bool { return true }
		for address, kind := range map[string]fault.Kind{
			"/p_api/list": fault.Internal, "/p_api/../secret": fault.Missing, "/p_api/%2e%2e/secret": fault.Missing, "/p_apix": fault.Missing,
			"/bad/x": fault.Missing, "/other": fault.Missing,
		} {
			body, _, err := p.Route(t.Context(), "red", address, "a=1", up)
			if kind == fault.Internal && err == nil {
				b, err := io.ReadAll(body)
				if err != nil || string(b) != "/p_api/list?a=1 of old" {
					t.Errorf("%s: %q, %v", address, b, err)
				}
				continue
			}
			if !fault.Is(err, kind) {
				t.Errorf("%s: %v, want %s", address, err, kind)
			}
		}
		if _, _, err := p.Route(t.Context(), "red", "/p_api/list", "", func(string) bool { return false }); !fault.Is(err, fault.Unavailable) {
			t.Errorf("while none is there: %v", err)
		}
		p.Arrange([]fleet.PackMember{{Name: "gpu3"}})
		if got := p.Scripts("red"); !slices.Equal(got, scripts) {
			t.Errorf("after the others were removed: %v", got)
		}
		stop()
	})
}

// Route answers with what was asked and which version of the pack is there.
func (d *driver) Route(_ context.Context, path, query string) (io.ReadCloser, string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return io.NopCloser(newReader(path + "?" + query + " of " + d.files["/extensions/P/a.js"])), "text/plain", nil
}
