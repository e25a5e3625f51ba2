package comfyserver_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/ahelme/comfyume/internal/comfyserver"
	"github.com/ahelme/comfyume/internal/event"
	"github.com/ahelme/comfyume/internal/job"
)

// mark is in everything that is ann's.
const mark = "only-anns-own"

// fill puts values for parameters into a route's path.
func fill(path, promptID string) string {
	return strings.NewReplacer(
		"{prompt_id}", promptID, "{class}", "LoadImage", "{folder}", "checkpoints", "{index}", "0",
		"{file}", "workflows%2F"+mark+".json", "{dest}", "workflows%2Ftaken.json", "{id}", mark, "{pack}", mark,
		"{type}", "output", "{name}", "state.json", "{name...}", mark+".json",
	).Replace(path)
}

// TestOtherPeopleSeeNothing tries every route as another person who knows every name and id of the owner.
func TestOtherPeopleSeeNothing(t *testing.T) {
	t.Parallel()
	s := newStudio(t, comfyserver.Options{})
	// What ann has: a run in history, one that runs, one that waits; files, documents, settings, log lines, a socket.
	prompt := func(n int) string {
		_, body := s.do("ann", "POST", "/prompt", fmt.Sprintf(`{"prompt": {"3": {"class_type": "SaveImage", "inputs": {"text": %q}}}, `+
			`"client_id": "anns-tab", "prompt_id": "%s-%d"}`, mark, mark, n))
		if !strings.Contains(body, mark) {
			t.Fatalf("ann can't submit: %s", body)
		}
		return fmt.Sprintf("%s-%d", mark, n)
	}
	finished, running, waiting := prompt(1), prompt(2), prompt(3)
	s.queue.post("ann", finished)
	s.queue.finish("ann", finished, success(finished))
	s.queue.post("ann", running)
	for _, typ := range []string{"input", "output", "temp"} {
		body, ct := form(t, "image:"+mark+".png", mark, "type", typ)
		if resp, _ := s.do("ann", "POST", "/upload/image", body, "Content-Type", ct); resp.StatusCode != 200 {
			t.Fatal("ann can't upload")
		}
	}
	s.do("ann", "POST", "/userdata/workflows%2F"+mark+".json", mark)
	s.do("ann", "POST", "/settings/"+mark, `"`+mark+`"`)
	s.bus.Publish(event.Event{User: "ann", Body: event.LogLines{Lines: []string{mark}}})

	maskBody, maskType := form(t, "image:mine.png", "x", "original_ref", `{"filename": "`+mark+`.png", "type": "output"}`)
	for _, r := range comfyserver.Routes() {
		for _, id := range []string{finished, running, waiting} {
			target, body, headers := fill(r.Path, id), `{}`, []string(nil)
			switch strings.TrimPrefix(r.Path, "/api") {
			case "/ws":
				continue // below
			case "/view":
				target += "?type=output&filename=" + mark + ".png"
			case "/userdata":
				target += "?dir=workflows&recurse=true&full_info=true"
			case "/v2/userdata":
				target += "?path=workflows"
			case "/view_metadata/{folder}":
				target += "?filename=" + mark
			case "/queue", "/history":
				body = `{"delete": ["` + id + `"]}`
			case "/interrupt":
				body = `{"prompt_id": "` + id + `"}`
			case "/jobs/cancel":
				body = `{"job_ids": ["` + id + `"]}`
			case "/extensions/comfyume/act":
				body = `{"act": "cancel", "prompt_id": "` + id + `"}`
			case "/prompt":
				body = `{"prompt": {"1": {}}, "client_id": "anns-tab"}`
			case "/upload/mask":
				body, headers = maskBody, []string{"Content-Type", maskType}
			}
			if strings.HasSuffix(r.Path, "/subscribe") {
				body = `{"clientId": "anns-tab", "enabled": true}`
			}
			_, answer := s.do("bob", r.Method, target, body, headers...)
			// What bob sent himself may come back: his own path, his own ids.
			answer = strings.NewReplacer(id, "", "workflows/"+mark+".json", "", target, "").Replace(answer)
			if r.Method == http.MethodGet && strings.Contains(answer, mark) {
				t.Errorf("%s %s shows bob what is ann's: %s", r.Method, target, clip(answer))
			}
		}
	}

	for what, want := range map[string][2]string{
		"the finished run": {"/history/" + finished, mark},
		"the document":     {"/userdata/workflows%2F" + mark + ".json", mark},
		"the setting":      {"/settings/" + mark, `"` + mark + `"`},
		"the file":         {"/view?type=output&filename=" + mark + ".png", mark},
		"the logs":         {"/internal/logs", mark},
	} {
		if _, body := s.do("ann", "GET", want[0], ""); !strings.Contains(body, want[1]) {
			t.Errorf("%s of ann is gone: %s", what, body)
		}
	}
	open := s.queue.pick("ann", func(j job.Job) bool { return !j.State.Final() })
	if len(open) != 2 || open[0].Stop || open[1].Stop {
		t.Errorf("ann's open jobs are %+v", open)
	}
}

// TestOtherPeopleHearNothing opens sockets with the owner's session id as somebody else.
func TestOtherPeopleHearNothing(t *testing.T) {
	t.Parallel()
	s := newStudio(t, comfyserver.Options{})
	dial := func(user string) *websocket.Conn {
		c, _, err := websocket.Dial(context.Background(), "ws"+strings.TrimPrefix(s.url, "http")+"/api/ws?clientId=anns-tab",
			&websocket.DialOptions{HTTPHeader: http.Header{"Person": {user}}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.CloseNow() })
		return c
	}
	read := func(c *websocket.Conn) string {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_, b, err := c.Read(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	bob, ann := dial("bob"), dial("ann")
	if f := read(bob); !strings.Contains(f, `"queue_remaining": 0}}, "sid": "anns-tab"`) {
		t.Errorf("bob's first frame: %s", f)
	}
	read(ann)
	id := s.submit("ann", "anns-tab")
	s.queue.post("ann", id)
	s.queue.finish("ann", id, success(id))
	for !strings.Contains(read(ann), `"node": null`) {
	}
	// Everything of ann's run is out. The next thing bob hears is the answer to his own flags.
	if err := bob.Write(context.Background(), websocket.MessageText, []byte(`{"type": "feature_flags", "data": {}}`)); err != nil {
		t.Fatal(err)
	}
	if f := read(bob); !strings.Contains(f, `"feature_flags"`) {
		t.Errorf("bob heard %s", f)
	}
	if got := s.server.Watching("bob", "anns-tab"); !got {
		t.Error("bob's own session is not known")
	}
	if s.server.Watching("ann", "other") {
		t.Error("a session that is not there is watched")
	}
}
