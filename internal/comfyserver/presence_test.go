package comfyserver_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/internal/comfyserver"
	"github.com/ahelme/comfyume/internal/event"
	"github.com/ahelme/comfyume/internal/file"
	"github.com/ahelme/comfyume/internal/identity"
	"github.com/ahelme/comfyume/internal/job"
)

// desk is a server without a network, so that its time can pass.
type desk struct {
	t      *testing.T
	server *comfyserver.Server
	queue  *fakeQueue
	bus    *event.Bus
}

func newDesk(t *testing.T, o comfyserver.Options) *desk {
	t.Helper()
	d := &desk{t: t, bus: event.New()}
	d.queue = &fakeQueue{bus: d.bus}
	var err error
	d.server, err = comfyserver.New(comfyserver.Deps{
		Queue: d.queue, Bus: d.bus, Files: &fakeFiles{}, Home: &fakeHome{}, Pictures: fakePictures{}, Catalog: always(fakeCatalog{}),
		Checker: fakeChecker(nil),
	}, o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *desk) ask(user, method, target, body string, header ...string) *httptest.ResponseRecorder {
	d.t.Helper()
	ctx := identity.With(context.Background(), identity.Person{Name: user, Role: identity.Participant})
	r := httptest.NewRequestWithContext(ctx, method, target, strings.NewReader(body))
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	d.server.ServeHTTP(w, r)
	return w
}

// queues sends what the editor of a person sends, by itself or by hand, and returns the status.
func (d *desk) queues(user string) int {
	d.t.Helper()
	return d.ask(user, "POST", "/prompt", `{"prompt": {"3": {}}, "client_id": "tab"}`, "Comfy-User", "").Code
}

func (d *desk) touched(user string, ago int) {
	d.t.Helper()
	if w := d.ask(user, "GET", fmt.Sprintf("/extensions/comfyume/here.json?idle=%d", ago), ""); w.Code != http.StatusOK {
		d.t.Errorf("word of a touch gives %d", w.Code)
	}
}

func TestAnEditorLeftAloneIsStopped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, comfyserver.Options{IdleStop: 30 * time.Minute})
		hears := d.bus.Subscribe("ann", event.Options{})
		defer hears.Close()
		var state struct {
			Every float64 `json:"touch_every"`
		}
		if err := json.Unmarshal(d.ask("ann", "GET", "/extensions/comfyume/state.json?clientId=tab&idle=0", "").Body.Bytes(), &state); err != nil || state.Every != 60 {
			t.Errorf("our extension is to tell every %v s, %v", state.Every, err)
		}
		began := time.Now()
		runs := 0
		for ; d.queues("ann") == http.StatusOK; runs++ { // as soon as one run is over the next is asked for
			time.Sleep(45 * time.Second)
		}
		if took := time.Since(began); took < 30*time.Minute || took > 32*time.Minute {
			t.Errorf("it was stopped after %v and %d runs", took, runs)
		}
		w := d.ask("ann", "POST", "/prompt", `{"prompt": {"3": {}}, "client_id": "tab"}`, "Comfy-User", "")
		want := `{"error": {"type": "idle_stop", "message": "Nobody touched the editor for 30 minutes, so it stopped queueing by itself.", ` +
			`"details": "Press Run to go on.", "extra_info": {}}, "node_errors": {}}`
		if w.Code != http.StatusTooManyRequests || w.Body.String() != want {
			t.Errorf("it is told %d %s", w.Code, w.Body)
		}
		var notices []string
		for _, e := range hears.TryBatch(nil) {
			if n, ok := e.Body.(event.Notice); ok {
				notices = append(notices, n.Severity+": "+n.Text)
			}
		}
		if diff := cmp.Diff([]string{"warn: Nobody touched the editor for 30 minutes, so it stopped queueing by itself. Press Run to go on."}, notices); diff != "" {
			t.Errorf("notices: %s", diff)
		}

		// Programs of the same person, and other people, go on.
		if w := d.ask("ann", "POST", "/prompt", `{"prompt": {"3": {}}}`); w.Code != http.StatusOK {
			t.Errorf("a program is told %d %s", w.Code, w.Body)
		}
		if got := d.queues("ben"); got != http.StatusOK {
			t.Errorf("ben is told %d", got)
		}

		// Whoever comes back and presses Run is not refused, although word of it comes behind the run.
		go func() {
			time.Sleep(300 * time.Millisecond)
			d.touched("ann", 0)
		}()
		if got := d.queues("ann"); got != http.StatusOK {
			t.Errorf("the run that was asked for is told %d", got)
		}
		time.Sleep(29 * time.Minute)
		if got := d.queues("ann"); got != http.StatusOK {
			t.Errorf("after another 29 minutes it is told %d", got)
		}
	})
}

func TestWhoIsNotStopped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, comfyserver.Options{IdleStop: time.Minute})
		off := newDesk(t, comfyserver.Options{})
		off.touched("ann", 0)
		d.touched("cid", 3600) // a page that was left an hour ago comes back after a restart
		for range 10 {
			time.Sleep(time.Hour)
			if got := off.queues("ann"); got != http.StatusOK {
				t.Fatalf("where it is switched off an editor is told %d", got)
			}
			if got := d.queues("ann"); got != http.StatusOK {
				t.Fatalf("an editor without our extension is told %d", got)
			}
			// Two pages of one person: whoever touches one of them is there.
			d.touched("ben", 0)
			d.touched("ben", 7200)
			if got := d.queues("ben"); got != http.StatusOK {
				t.Fatalf("somebody with two pages is told %d", got)
			}
		}
		if got := d.queues("cid"); got != http.StatusTooManyRequests {
			t.Errorf("a page that was left before the server began is told %d", got)
		}
		for _, bad := range []string{"", "?idle=", "?idle=-5", "?idle=NaN", "?idle=1e300", "?idle=x"} {
			d.ask("cid", "GET", "/extensions/comfyume/here.json"+bad, "")
		}
		if got := d.queues("cid"); got != http.StatusTooManyRequests {
			t.Errorf("after words that say nothing it is told %d", got)
		}
	})
}

// TestProfileComesWithTheSubmission: what the check found of the graph goes into the queue.
func TestProfileComesWithTheSubmission(t *testing.T) {
	t.Parallel()
	s := newStudio(t, comfyserver.Options{})
	want := job.Profile{Like: "a", Work: 2, Models: "m"}
	s.checker = func(json.RawMessage, func(file.Ref) bool) (comfyserver.Verdict, error) {
		return comfyserver.Verdict{Outputs: []string{"3"}, Profile: want}, nil
	}
	s.do("ann", "POST", "/prompt", `{"prompt": {"3": {}}}`)
	if got := s.queue.entries[0].Job.Profile; got != want {
		t.Errorf("the job has %+v", got)
	}
}
