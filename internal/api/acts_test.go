package api_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/internal/api"
)

// TestWhoMayChangeWhose: one's own, an instructor their group's, an operator everybody's; and what reaches the queue.
func TestWhoMayChangeWhose(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		as, method, path, body string
		status                 int
		done                   string
	}{
		{"ann", "POST", "/jobs/j-ann/hold", "", 200, "hold true j-ann"},
		{"ann", "POST", "/jobs/j-ann/release", "", 200, "hold false j-ann"},
		{"ivy", "POST", "/jobs/j-ann/front", "", 200, "front j-ann"},
		{"ivy", "POST", "/jobs/j-ben/retry", "", 404, ""},
		{"olu", "POST", "/jobs/j-ben/retry", "", 201, "retry j-ben"},
		{"ivy", "POST", "/jobs/j-ann/cancel", "", 200, "cancel j-ann"},
		{"ann", "PATCH", "/jobs/j-ann", `{"priority": 3}`, 200, "class 3 j-ann"},
		{"ann", "PATCH", "/jobs/j-ann", `{"priority": 2}`, 200, "class 2 j-ann"},
		{"ann", "PATCH", "/jobs/j-ann", `{"priority": 1}`, 403, ""},
		{"ann", "PATCH", "/jobs/j-ann", `{}`, 200, ""},
		{"ann", "PATCH", "/jobs/j-ann", `{"deadline": "2126-11-27T16:30:00+01:00"}`, 200, "deadline 2126-11-27T15:30:00Z j-ann"},
		{"ivy", "PATCH", "/jobs/j-ann", `{"deadline": "", "priority": 1}`, 200, "class 1 j-ann, deadline 0001-01-01T00:00:00Z j-ann"},
		{"ivy", "PATCH", "/jobs/j-ben", `{"deadline": ""}`, 404, ""},
		{"ben", "PATCH", "/jobs/j-ann", `{"deadline": ""}`, 404, ""},
		{"ann", "PATCH", "/jobs/j-ann", `{"deadline": "soon"}`, 422, ""},
		{"ann", "PATCH", "/jobs/j-ann", `{"deadline": "2020-11-27T16:30:00Z"}`, 422, ""},
		{"ivy", "PATCH", "/jobs/j-ann", `{"priority": 0}`, 200, "class 0 j-ann"},
		{"ivy", "PATCH", "/jobs/j-ben", `{"priority": 3}`, 404, ""},
		{"ben", "DELETE", "/users/ben/jobs", "", 200, "cancel all ben"},
		{"ben", "DELETE", "/users/nobody/jobs", "", 403, ""},
		{"ivy", "DELETE", "/users/ben/jobs", "", 403, ""},
		{"ivy", "DELETE", "/users/ivy/jobs", "", 200, "cancel all ivy"},
		{"olu", "DELETE", "/users/nobody/jobs", "", 404, ""},
		{"ann", "PUT", "/users/ann/jobs/order", `{"jobs": ["b", "a"]}`, 200, "reorder ann [b a]"},
		{"ivy", "PUT", "/users/ben/jobs/order", `{"jobs": ["b"]}`, 403, ""},
		{"olu", "PUT", "/queue/mode", `{"mode": "priority"}`, 200, "mode priority"},
		{"olu", "PUT", "/queue/pauses/backend:gpu1", `{"reason": " Maintenance. "}`, 200, "pause backend:gpu1 Maintenance. olu"},
		{"olu", "DELETE", "/queue/pauses/group:class-a", "", 200, "resume group:class-a"},
	} {
		f, state := face(t)
		w := ask(f, c.as, c.method, v1+c.path, c.body)
		if w.Code != c.status || strings.Join(state.done, ", ") != c.done {
			t.Errorf("%s as %s: %s %s gave %d %s, done %q", c.method, c.as, c.path, c.body, w.Code, w.Body, state.done)
		}
	}
}

func TestQueueAsItMayBeSeen(t *testing.T) {
	t.Parallel()
	f, _ := face(t)
	get := func(as string) (q api.QueueState) {
		if err := json.Unmarshal(ask(f, as, "GET", v1+"/queue", "").Body.Bytes(), &q); err != nil {
			t.Fatal(err)
		}
		return q
	}
	ann := get("ann")
	scopes := []string{}
	for _, p := range ann.Pauses {
		scopes = append(scopes, p.Scope+p.By)
	}
	if want := []string{"group:class-a", "all"}; !slices.Equal(scopes, want) {
		t.Errorf("ann sees the pauses %v, want %v", scopes, want)
	}
	if diff := cmp.Diff([]api.Load{{User: "ann", Group: "class-a", Running: 1, Weight: 2, GroupWeight: 3}}, ann.Users); diff != "" {
		t.Error(diff)
	}
	olu := get("olu")
	if len(olu.Pauses) != 4 || olu.Pauses[0].By != "olu" {
		t.Errorf("an operator sees the pauses %+v", olu.Pauses)
	}
	if diff := cmp.Diff([]api.Load{
		{User: "ann", Group: "class-a", Running: 1, Weight: 2, GroupWeight: 3}, {User: "ben", Group: "class-b", Pending: 2, Weight: 1, GroupWeight: 1},
	}, olu.Users); diff != "" {
		t.Error(diff)
	}
}

func TestRecord(t *testing.T) {
	t.Parallel()
	f, _ := face(t)
	w := ask(f, "ann", "GET", v1+"/jobs/j-ann-0/record", "")
	var got api.Record
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatalf("%v: %s", err, w.Body)
	}
	var prompt any
	if err := json.Unmarshal(got.Prompt, &prompt); err != nil {
		t.Fatal(err)
	}
	inputs := map[string]any{"x": nil, "y": nil, "text": `NaN " Infinity`}
	if diff := cmp.Diff(map[string]any{"1": map[string]any{"class_type": "A", "inputs": inputs}}, prompt); diff != "" {
		t.Error(diff)
	}
	if string(got.Workflow) != `{"nodes":[]}` {
		t.Errorf("the workflow is %s", got.Workflow)
	}
	if diff := cmp.Diff([]api.Result{
		{Node: "9", Kind: "images", Filename: "a.png", Subfolder: "x", Type: "temp"},
		{Node: "10", Kind: "images", Filename: "b.png", Type: "output"},
	}, got.Results); diff != "" {
		t.Error(diff)
	}
	if w := ask(f, "ann", "GET", v1+"/jobs/j-ben/record", ""); w.Code != 404 {
		t.Errorf("ann gets ben's job: %d %s", w.Code, w.Body)
	}
}

// TestExportIsCut: an export that can't be finished does not look finished.
func TestExportIsCut(t *testing.T) {
	t.Parallel()
	f, state := face(t)
	state.broken = true
	defer func() {
		if recover() != http.ErrAbortHandler {
			t.Error("the connection is not cut")
		}
	}()
	ask(f, "olu", "GET", v1+"/queue/export", "")
}
