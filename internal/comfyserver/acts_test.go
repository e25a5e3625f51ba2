package comfyserver_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/internal/comfyserver"
	"github.com/ahelme/comfyume/internal/job"
)

// TestPanelActs: the buttons of our extension's panel do what they say to one's own jobs, and nothing to others'.
func TestPanelActs(t *testing.T) {
	t.Parallel()
	s := newStudio(t, comfyserver.Options{})
	runs, waits := s.submit("ann", "tab"), s.submit("ann", "tab")
	s.queue.post("ann", runs)
	act := func(user, what, id string) (int, string) {
		resp, body := s.do(user, "POST", "/extensions/comfyume/act", fmt.Sprintf(`{"act": %q, "prompt_id": %q}`, what, id))
		return resp.StatusCode, body
	}
	state := func(id string) job.Job {
		return s.queue.pick("ann", func(j job.Job) bool { return j.PromptID == id })[0]
	}
	for _, c := range []struct {
		user, act, id string
		status        int
		says          string
		holds         func() bool
	}{
		{"bob", "hold", waits, 404, "no such job", func() bool { return !state(waits).Held }},
		{"bob", "cancel", waits, 404, "no such job", func() bool { return !state(waits).State.Final() }},
		{"bob", "cancel", runs, 404, "no such job", func() bool { return !state(runs).Stop }},
		{"ann", "hold", waits, 200, "{}", func() bool { return state(waits).Held }},
		{"ann", "release", waits, 200, "{}", func() bool { return !state(waits).Held }},
		{"ann", "front", waits, 200, "{}", func() bool { return state(waits).Number < 0 }},
		{"ann", "front", runs, 409, "does not wait", func() bool { return state(runs).Number >= 0 }},
		{"ann", "burn", waits, 400, "hold, release, front or cancel", func() bool { return !state(waits).State.Final() }},
		{"ann", "hold", "", 404, "no such job", func() bool { return !state(waits).Held }},
		{"ann", "cancel", waits, 200, "{}", func() bool { return state(waits).State == job.Cancelled }},
		{"ann", "cancel", runs, 200, "{}", func() bool { return state(runs).Stop }},
	} {
		status, body := act(c.user, c.act, c.id)
		if status != c.status || !strings.Contains(body, c.says) || !c.holds() {
			t.Errorf("%s: %s %s gave %d %s", c.user, c.act, c.id, status, body)
		}
	}
	s.queue.finish("ann", runs, success(runs))
	if status, body := act("ann", "cancel", runs); status != 409 || !strings.Contains(body, "over already") {
		t.Errorf("cancelling what is over gave %d %s", status, body)
	}
	if resp, _ := s.do("ann", "POST", "/extensions/comfyume/act", `[]`); resp.StatusCode != 400 {
		t.Errorf("a list as body gave %d", resp.StatusCode)
	}
}

// TestIdempotencyKey: a submission that is sent again with its key is answered as the first one and makes no second job.
func TestIdempotencyKey(t *testing.T) {
	t.Parallel()
	s := newStudio(t, comfyserver.Options{})
	graph := func(text string) string {
		return fmt.Sprintf(`{"prompt": {"1": {"class_type": "SaveImage", "inputs": {"text": %q}}}}`, text)
	}
	post := func(user, body string, headers ...string) (int, string) {
		resp, answer := s.do(user, "POST", "/prompt", body, headers...)
		return resp.StatusCode, answer
	}
	key := []string{"Idempotency-Key", "3f0c9b2e"}
	_, first := post("ann", graph("a"), key...)
	if status, again := post("ann", graph("a"), key...); status != 200 || again != first {
		t.Errorf("again gave %d %s, first was %s", status, again, first)
	}
	if status, answer := post("ann", graph("b"), key...); status != 409 || !strings.Contains(answer, "idempotency_key_reused") {
		t.Errorf("another graph with the key gave %d %s", status, answer)
	}
	if status, answer := post("bob", graph("a"), key...); status != 200 || answer == first {
		t.Errorf("the key of another person gave %d %s", status, answer)
	}
	if n := s.queue.Remaining("ann"); n != 1 {
		t.Errorf("ann has %d jobs, want 1", n)
	}
	for what, headers := range map[string][]string{
		"an empty key":  {"Idempotency-Key", ""},
		"a long key":    {"Idempotency-Key", strings.Repeat("k", 256)},
		"a strange key": {"Idempotency-Key", "schl\u00fcssel"},
	} {
		if status, answer := post("ann", graph("c"), headers...); status != 400 || !strings.Contains(answer, "Idempotency-Key") {
			t.Errorf("%s gave %d %s", what, status, answer)
		}
	}
}
