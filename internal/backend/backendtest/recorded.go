package backendtest

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/job"
)

// Recordings finds the conversations with a real server, beside the checkout. They are not part of it: where they are
// not, the test is skipped and says so.
func Recordings(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
		if filepath.Dir(dir) == dir {
			t.Fatal("no module root above the test")
		}
		dir = filepath.Dir(dir)
	}
	dir = filepath.Join(dir, "..", "shared", "comfyui", "recordings")
	if _, err := os.Stat(dir); err != nil {
		t.Skip("the recorded conversations with a real ComfyUI are not in this checkout; the rest of the suite runs without them")
	}
	return dir
}

// recorded are the conversations that are played to drivers.
var recorded = []string{
	"run_client_prompt_id", "run_execution_error", "run_out_of_memory", "run_preview_images", "run_preview_node",
	"run_success_then_cached", "interrupt_by_id", "ws_reconnect_during_run",
	"invalid_bad_link", "invalid_empty_prompt", "invalid_link_to_missing_node", "invalid_missing_file", "invalid_missing_input",
	"invalid_missing_model", "invalid_no_outputs", "invalid_not_in_list", "invalid_type_mismatch", "invalid_unknown_node",
	"invalid_value_too_big", "invalid_value_too_small",
}

// RunRecorded plays to a driver what a real server sent and wants every frame of the run to come through unchanged and
// in order, and the result to be the recorded history entry, whether it is asked for or told by the frames.
func RunRecorded(t *testing.T, open Opener) {
	dir := Recordings(t)
	for _, name := range recorded {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			raw, err := os.ReadFile(filepath.Join(dir, name+".jsonl"))
			if err != nil {
				t.Fatal(err)
			}
			lines, err := ReadRecording(raw)
			if err != nil {
				t.Fatal(err)
			}
			for what, told := range map[string]bool{"asked": false, "told": true} {
				t.Run(what, func(t *testing.T) {
					tries := 0
					for again := true; again; tries++ {
						again = playAll(t, open, lines, told, strings.HasPrefix(name, "interrupt"), tries < cutTries)
					}
					if tries > 1 {
						t.Logf("played %d times: frames went to a socket that the driver had left", tries)
					}
				})
			}
		})
	}
}

// told is a frame as it was recorded, or as the driver gave it, with the run's id made neutral.
type told struct {
	Type   string
	Data   any
	Binary string
}

// cutTries is how often a recording in which the client is cut is played again when frames are missing. What a server says
// between two sockets of a client is lost, and a driver on a busy machine may have left the second one as well.
const cutTries = 5

// playAll plays the runs of a recording. With told the driver knows what the outputs are. With lenient it reports whether
// frames of a run with a gap are missing, which is an error otherwise.
func playAll(t *testing.T, open Opener, lines []Line, told, interrupt, lenient bool) (again bool) {
	t.Helper()
	player := NewPlayer(lines)
	t.Cleanup(player.Close)
	d := open(t, player.Handler())
	defer d.Close() //nolint:errcheck // what it could say is said by RunOnFake
	runs := 0
	for i, l := range lines {
		if l.Post("/prompt") {
			runs++
			again = playOne(t, d, lines, i, told, interrupt, lenient && cuts(lines)) || again
		}
	}
	if runs == 0 {
		t.Error("no prompt in the recording")
	}
	return again
}

// cuts reports whether the recorded client was cut.
func cuts(lines []Line) bool {
	return slices.ContainsFunc(lines, func(l Line) bool { return l.Kind == "ws_close" && l.Client == "A" })
}

// outputsOf returns the outputs that the server meant to give, from the recorded history: [number, id, graph, extra, outputs].
func outputsOf(t *testing.T, lines []Line, id string) (outputs []string) {
	t.Helper()
	for _, l := range lines {
		var entries map[string]struct{ Prompt []json.RawMessage }
		if l.Kind != "http" || l.Request.Path != "/history/"+id || json.Unmarshal(l.Response.JSON, &entries) != nil || len(entries[id].Prompt) < 5 {
			continue
		}
		if err := json.Unmarshal(entries[id].Prompt[4], &outputs); err != nil {
			t.Fatal(err)
		}
		break
	}
	return outputs
}

// playOne makes the run whose prompt is at a line. With lenient it reports whether there is a gap in its frames.
func playOne(t *testing.T, d backend.Driver, lines []Line, at int, tell, interrupt, lenient bool) (gap bool) {
	t.Helper()
	var posted struct{ Prompt json.RawMessage }
	if err := json.Unmarshal(lines[at].Request.JSON, &posted); err != nil {
		t.Fatal(err)
	}
	var recorded struct {
		PromptID string `json:"prompt_id"`
	}
	if err := json.Unmarshal(lines[at].Response.JSON, &recorded); err != nil {
		t.Fatal(err)
	}
	task := NewTask(d, posted.Prompt)
	if tell {
		task.Core, task.Outputs = true, outputsOf(t, lines, recorded.PromptID)
	}
	a := Begin(t.Context(), t, d, task)
	if lines[at].Response.Status != 200 {
		refusedAs(t, a, lines[at].Response.JSON)
		return false
	}
	if interrupt {
		a.Await(t, "progress")
		if err := a.Run.Interrupt(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	a.Wait(t)
	want, state := expected(t, lines[at+1:], recorded.PromptID)
	var got []told
	for _, u := range a.Updates {
		f := told{Type: u.Type, Binary: base64.StdEncoding.EncodeToString(u.Binary)}
		if u.Binary == nil {
			f.Data = neutral(t, u.Data, a.Task.Attempt.RunID)
		}
		got = append(got, f)
	}
	diff := cmp.Diff(want, got)
	if gap = lenient && diff != "" && a.Result.Gap && len(got) < len(want); diff != "" && !gap {
		t.Errorf("frames (-want +got):\n%s", diff)
	}
	sameEntry(t, a, lines, recorded.PromptID)
	a.Want(t, state)
	return gap
}

// refusedAs wants the recorded 400.
func refusedAs(t *testing.T, a *Attempt, body json.RawMessage) {
	t.Helper()
	a.Wait(t)
	var want, got any
	if err := json.Unmarshal(body, &want); err != nil {
		t.Fatal(err)
	}
	refused, ok := errors.AsType[*backend.Refused](a.Err)
	if !ok {
		t.Fatalf("err = %v, want a refusal", a.Err)
	}
	if err := json.Unmarshal(refused.Body, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("refusal (-want +got):\n%s", diff)
	}
	if err := a.Run.Close(); err != nil {
		t.Error(err)
	}
}

// sameEntry wants the result to be what the recorded history says.
func sameEntry(t *testing.T, a *Attempt, lines []Line, id string) {
	t.Helper()
	for _, l := range lines {
		if l.Kind != "http" || l.Request.Path != "/history/"+id || len(l.Response.JSON) <= 2 {
			continue
		}
		var entries map[string]struct {
			Outputs, Meta json.RawMessage
			Status        struct{ Messages json.RawMessage }
		}
		if err := json.Unmarshal(l.Response.JSON, &entries); err != nil {
			t.Fatal(err)
		}
		e := entries[id]
		for what, c := range map[string][2]json.RawMessage{
			"outputs": {e.Outputs, a.Result.Outputs}, "meta": {e.Meta, a.Result.Meta}, "messages": {e.Status.Messages, a.Result.Messages},
		} {
			if diff := cmp.Diff(neutral(t, c[0], id), neutral(t, c[1], a.Task.Attempt.RunID)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", what, diff)
			}
		}
		return
	}
}

// neutral decodes JSON with the run's id replaced.
func neutral(t *testing.T, raw json.RawMessage, id string) (v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(strings.ReplaceAll(string(raw), id, "RUN")), &v); err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	return v
}

// expected lists the recorded frames of a run up to its end frame, and how it ended.
func expected(t *testing.T, lines []Line, id string) (all []told, state job.State) {
	t.Helper()
	for _, l := range lines {
		if l.Kind != "ws" || l.Client == "B" {
			continue
		}
		if l.Base64 != "" {
			all = append(all, told{Binary: base64.StdEncoding.EncodeToString(l.Bytes())})
			continue
		}
		var f struct {
			Type string
			Data json.RawMessage
		}
		if err := json.Unmarshal(l.JSON, &f); err != nil {
			t.Fatal(err)
		}
		if f.Type == "status" || f.Type == "feature_flags" {
			continue
		}
		data := neutral(t, f.Data, id)
		if m, ok := data.(map[string]any); ok && f.Type == "executing" && m["prompt_id"] == nil {
			m["prompt_id"], m["display_node"] = "RUN", m["node"] // what a socket that comes back is told is made whole
		}
		all = append(all, told{Type: f.Type, Data: data})
		switch f.Type {
		case "execution_success":
			return all, job.Completed
		case "execution_error":
			return all, job.Failed
		case "execution_interrupted":
			return all, job.Cancelled
		}
	}
	t.Fatal("the recording does not end")
	return nil, ""
}
