package serverless_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/internal/backend/backendtest"
	"github.com/ahelme/comfyume/internal/backend/serverless"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/oneshot"
)

// TestUpdatesAreForTheirRunAlone calls back with wrong tokens, other runs' tokens, too much and in the wrong order.
func TestUpdatesAreForTheirRunAlone(t *testing.T) {
	t.Parallel()
	all, handlers := fakes(t, 1)
	e := newEndpoint(t, oneshot.HandlerOptions{}, handlers...)
	s := newStudio(t)
	d := open(t, e.url, s.options(t, serverless.Async))
	closing(t, d)
	wait := json.RawMessage(`{"1":{"class_type":"Step","inputs":{}},"2":{"class_type":"Wait","inputs":{}}}`)
	tokens := make(chan [3]string, 4) // address, token, body: what a container sends
	spy := http.NewServeMux()
	spy.HandleFunc("POST /studio/agents/v1/runs/{run}/updates", func(w http.ResponseWriter, r *http.Request) {
		raw, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		select {
		case tokens <- [3]string{r.PathValue("run"), r.Header.Get("Authorization"), string(raw)}:
		default:
		}
		r.Body = io.NopCloser(bytes.NewReader(raw))
		s.updates.ServeHTTP(w, r)
	})
	s.srv.Config.Handler = spy
	ann := backendtest.Begin(t.Context(), t, d, backendtest.NewTask(d, wait))
	ann.Await(t, "progress")
	first := <-tokens
	post := func(run, token, body string) (int, oneshot.Told) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.srv.URL+"/studio/agents/v1/runs/"+run+"/updates", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", token)
		req.Close = true
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var told oneshot.Told
		raw, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode == http.StatusOK && json.Unmarshal(raw, &told) != nil {
			t.Fatal(err, string(raw))
		}
		return resp.StatusCode, told
	}
	run, token, body := first[0], first[1], first[2]
	other := "11111111-2222-4333-8444-555555555555"
	for what, c := range map[string][3]string{
		"no token":              {run, "", body},
		"a wrong token":         {run, "Bearer x", body},
		"another run's address": {other, token, body},
	} {
		if status, _ := post(c[0], c[1], c[2]); status != http.StatusForbidden {
			t.Errorf("%s: %d", what, status)
		}
	}
	for what, text := range map[string]string{
		"nothing": "", "no stream": "hello", "a cut stream": body[:len(body)-3], "damage": body[:len(body)-1] + "?",
	} {
		if status, _ := post(run, token, text); status != http.StatusBadRequest {
			t.Errorf("%s: %d", what, status)
		}
	}
	n := ann.Seen()
	if status, told := post(run, token, body); status != http.StatusOK || told.Next == 0 || told.Stop {
		t.Errorf("what came before: %d, %+v", status, told)
	}
	if status, told := post(run, token, strings.ReplaceAll(body, run, other)); status != http.StatusBadRequest && !told.Stop {
		t.Errorf("the report of another run: %d, %+v", status, told)
	}
	all[0].Release()
	ann.Want(t, job.Completed)
	for i, u := range ann.Updates[:n] {
		for _, v := range ann.Updates[n:] {
			if u.Type == "execution_start" && v.Type == u.Type {
				t.Errorf("frame %d came twice", i)
			}
		}
	}
	if status, _ := post(run, token, body); status != http.StatusNotFound {
		t.Errorf("a run that is over: %d", status)
	}
	d.Cancel(run)
	if status, told := post(run, token, body); status != http.StatusOK || !told.Stop {
		t.Errorf("a run that is not wanted: %d, %+v", status, told)
	}
}
