package fleet_test

import (
	"context"
	"io"
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
	p, err := fleet.NewPacks(t.Context(), s, []string{"gpu1", "gpu2"}, o)
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
	r, hash, err := p.File(t.Context(), pack, path)
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
		if diff := cmp.Diff(want, p.Scripts()); diff != "" {
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
		if diff := cmp.Diff(want, p.Scripts()); diff != "" {
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
		if got := p.Scripts(); len(got) != 0 {
			t.Errorf("scripts that could not be read: %v", got)
		}
		d.set(func() { d.webErr = nil })
		p.Note("gpu1", d, "e1", nil) // the next probe tells no news
		synctest.Wait()
		wantFile(t, p, "A", "x.js", "a")
		stop()
	})
}
