package rewrite_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/file"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/rewrite"
)

// The editor sends nodes that lead nowhere too, and ComfyUI leaves out an output that lacks a file.
func TestOutMindsOnlyFilesOfWhatRuns(t *testing.T) {
	t.Parallel()
	const graph = `{"1": {"class_type": "LoadImage", "inputs": {"image": "cat.PNG"}}, "2": {"class_type": "Scale", "inputs": {"x": ["1", 0], "y": ["2", 0]}},
		"3": {"class_type": "SaveImage", "inputs": {"images": {"__value__": ["2", 0]}}},
		"4": {"class_type": "LoadImage", "inputs": {"image": "gone.png"}}, "5": {"class_type": "SaveImage", "inputs": {"images": ["4", 0]}},
		"6": {"class_type": "LoadImage", "inputs": {"image": "../dog.png"}}, "7": {"class_type": "LoadFolder", "inputs": {"folder": "none"}}}`
	r := rewrite.New(always(catalog{}), files{}, []byte("key"), rewrite.Options{})
	out := func(user string, outputs ...string) (*rewrite.Translation, error) {
		return r.Out(t.Context(), job.Entry{
			Job: job.Job{User: user}, Request: job.Request{Prompt: json.RawMessage(graph), Outputs: outputs},
		}, nil)
	}
	tr, err := out("ann", "3")
	if err != nil {
		t.Fatal(err)
	}
	sent := task(tr)
	for _, word := range []string{"cat.PNG", "gone", "dog", `"none"`} {
		if strings.Contains(string(sent.Prompt), word) {
			t.Errorf("the back end gets %s: %s", word, sent.Prompt)
		}
	}
	if len(sent.Uploads) != 1 {
		t.Errorf("uploads %+v", sent.Uploads)
	}
	said := tr.Refused(sent.Prompt)
	for _, word := range []string{"cat.PNG", "gone.png", "../dog.png", `"none"`} {
		if !strings.Contains(string(said), word) {
			t.Errorf("the person would read %s", said)
		}
	}
	for what, outputs := range map[string][]string{"an output that lacks its file": {"3", "5"}, "outputs that nobody told": nil} {
		if _, err := out("ann", outputs...); !fault.Is(err, fault.Missing) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := out("nobody", "3"); !fault.Is(err, fault.Missing) {
		t.Errorf("another person's file behind two links: %v", err)
	}
}

// Nodes that read pictures with texts find a picture's text by the picture's name.
func TestOutFolderKeepsTextsWithTheirPictures(t *testing.T) {
	t.Parallel()
	set := people{}
	for _, name := range []string{"b.png", "a.txt", "a.PNG", "b.txt", "a.png", "notes.md"} {
		set["ann"] = append(set["ann"], file.Info{Ref: file.Ref{Type: file.Input, Subfolder: "set", Name: name}, Hash: name})
	}
	r := rewrite.New(always(catalog{}), set, []byte("key"), rewrite.Options{})
	tr, err := r.Out(t.Context(), job.Entry{Job: job.Job{User: "ann"}, Request: job.Request{
		Prompt: json.RawMessage(`{"1": {"class_type": "LoadFolder", "inputs": {"folder": "set"}}}`),
	}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, u := range task(tr).Uploads {
		got = append(got, u.Name)
	}
	want := []string{"00000.png", "00001.png", "00000.txt", "00003.png", "00003.txt", "00005.md"} // a.PNG a.png a.txt b.png b.txt notes.md
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestFilesTellWhetherTheirNodeIsMarked(t *testing.T) {
	t.Parallel()
	tr := translate(t, "ann", prompt)
	const file = `{"images": [{"filename": "a.png", "subfolder": "", "type": "temp"}]}`
	marked := map[string]bool{}
	for _, f := range tr.ResultFiles(backend.Result{Outputs: json.RawMessage(`{"1": ` + file + `, "3": ` + file + `, "3.0.0.1": ` + file + `}`)}) {
		marked[f.Node] = f.Marked
	}
	for _, f := range tr.Files(backend.Update{Type: "executed", Node: "3", Data: json.RawMessage(`{"output": ` + file + `}`)}) {
		marked["frame "+f.Node] = f.Marked
	}
	if diff := cmp.Diff(map[string]bool{"1": false, "3": true, "3.0.0.1": false, "frame 3": true}, marked); diff != "" {
		t.Error(diff)
	}
}
