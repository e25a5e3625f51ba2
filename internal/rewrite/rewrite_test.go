package rewrite_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/comfy"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/file"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/rewrite"
)

// catalog reads every "image" of LoadImage, every "folder" of LoadFolder, and takes SaveImage for an output node.
type catalog struct{}

func (catalog) FileInputs(g *comfy.Graph) []comfy.FileInput {
	var list []comfy.FileInput
	for _, n := range g.Nodes() {
		for _, in := range n.Inputs {
			var text string
			if json.Unmarshal(in.Value, &text) != nil {
				continue
			}
			switch n.ClassType + "." + in.Key {
			case "LoadImage.image":
				list = append(list, comfy.FileInput{Node: n.ID, Input: in.Key, Value: text, Type: file.Input})
			case "LoadFolder.folder":
				list = append(list, comfy.FileInput{Node: n.ID, Input: in.Key, Value: text, Type: file.Input, Folder: true})
			}
		}
	}
	return list
}

func (catalog) OutputNodes(g *comfy.Graph) []string {
	var ids []string
	for _, n := range g.Nodes() {
		if n.ClassType == "SaveImage" {
			ids = append(ids, n.ID)
		}
	}
	return ids
}

func (catalog) Needs(*comfy.Graph) []string { return nil }

func (catalog) Core(*comfy.Graph) bool { return true }

// files are the same for everybody but nobody.
type files struct{}

var have = []file.Info{
	{Ref: file.Ref{Type: file.Input, Name: "cat.PNG"}, Hash: "aa", Size: 3},
	{Ref: file.Ref{Type: file.Temp, Subfolder: "s", Name: "t.webp"}, Hash: "bb", Size: 3},
	{Ref: file.Ref{Type: file.Input, Subfolder: "set", Name: "b.png"}, Hash: "cc", Size: 3},
	{Ref: file.Ref{Type: file.Input, Subfolder: "set", Name: "a.png"}, Hash: "dd", Size: 3},
}

func (files) Stat(_ context.Context, user string, ref file.Ref) (file.Info, error) {
	for _, f := range have {
		if f.Ref == ref && user != "nobody" {
			return f, nil
		}
	}
	return file.Info{}, fault.New(fault.Missing, "no such file")
}

func (f files) Open(ctx context.Context, user string, ref file.Ref) (file.Info, io.ReadSeekCloser, error) {
	info, err := f.Stat(ctx, user, ref)
	return info, nil, err
}

func (files) List(context.Context, string, string) ([]file.Info, error) { return have, nil }

const (
	runID  = "11111111-2222-4333-8444-555555555555"
	prompt = `{"1": {"class_type": "LoadImage", "inputs": {"image": "cat.PNG"}}, "2": {"class_type": "LoadImage", "inputs": {"image": "s/t.webp [temp]"}}, "3": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "seed": 18446744073709551615}, "_meta": {"title": "x"}}}`
)

func translate(t *testing.T, user, prompt string) *rewrite.Translation {
	t.Helper()
	r := rewrite.New(always(catalog{}), files{}, []byte("key"), rewrite.Options{})
	e := job.Entry{
		Job: job.Job{User: user, PromptID: `my "id"`, Attempt: job.Attempt{RunID: runID}},
		Request: job.Request{
			Prompt:    json.RawMessage(prompt),
			ExtraData: json.RawMessage(`{"client_id": "c", "create_time": 1, "extra_pnginfo": {"workflow": {"a": 1.0}}}`),
		},
	}
	tr, err := r.Out(t.Context(), e, map[string]string{"api_key_comfy_org": "secret"})
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func task(tr *rewrite.Translation) backend.Task {
	var task backend.Task
	tr.Task(&task)
	return task
}

// always returns the same catalog for every group.
func always(c rewrite.Catalog) func(string) rewrite.Catalog {
	return func(string) rewrite.Catalog { return c }
}

func TestOut(t *testing.T) {
	t.Parallel()
	ann := task(translate(t, "ann", prompt))
	if strings.Contains(string(ann.Prompt), "cat.PNG") || strings.Contains(string(ann.Prompt), "[temp]") {
		t.Errorf("the person's names went out: %s", ann.Prompt)
	}
	if n := strings.Count(string(ann.Prompt), rewrite.SaltInput); n != 1 {
		t.Errorf("%d nodes are salted, want the one output node", n)
	}
	if len(ann.Uploads) != 2 || !strings.HasSuffix(ann.Uploads[0].Name, ".png") || !strings.HasSuffix(ann.Uploads[1].Name, ".webp") {
		t.Errorf("uploads %+v", ann.Uploads)
	}
	if diff := cmp.Diff(`{"extra_pnginfo": {"workflow": {"a": 1.0}}, "api_key_comfy_org": "secret"}`, string(ann.ExtraData)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(ann.Prompt, task(translate(t, "ann", prompt)).Prompt); diff != "" {
		t.Errorf("the same graph of the same person is another one, so nothing is ever cached:\n%s", diff)
	}
	bob := task(translate(t, "bob", prompt))
	if string(bob.Prompt) == string(ann.Prompt) || bob.Uploads[0].Name == ann.Uploads[0].Name {
		t.Error("two people's graphs or uploads look the same on the back end")
	}
}

func TestOutFolder(t *testing.T) {
	t.Parallel()
	got := task(translate(t, "ann", `{"1": {"class_type": "LoadFolder", "inputs": {"folder": "set"}}}`))
	if len(got.Uploads) != 2 || got.Uploads[0].Subfolder == "" || got.Uploads[0].Subfolder != got.Uploads[1].Subfolder {
		t.Fatalf("uploads %+v", got.Uploads)
	}
	if !strings.Contains(string(got.Prompt), `"`+got.Uploads[0].Subfolder+`"`) {
		t.Errorf("the graph does not name the folder: %s", got.Prompt)
	}
}

func TestOutRefusesWhatIsNotTheirs(t *testing.T) {
	t.Parallel()
	r := rewrite.New(always(catalog{}), files{}, []byte("key"), rewrite.Options{})
	for value, want := range map[string]fault.Kind{
		"../x.png": fault.Denied, "/etc/passwd": fault.Denied, `..\x.png`: fault.Denied, "other.png": fault.Missing,
	} {
		g := `{"1": {"class_type": "LoadImage", "inputs": {"image": ` + string(mustJSON(t, value)) + `}}}`
		_, err := r.Out(t.Context(), job.Entry{Job: job.Job{User: "ann"}, Request: job.Request{Prompt: json.RawMessage(g)}}, nil)
		if !fault.Is(err, want) {
			t.Errorf("%q: %v, want %s", value, err, want)
		}
	}
}

func TestOutAsksAgainWhetherTheGraphMayRun(t *testing.T) {
	t.Parallel()
	deny := fault.New(fault.Denied, "not here")
	r := rewrite.New(always(catalog{}), files{}, []byte("key"), rewrite.Options{Allowed: func(_ string, g *comfy.Graph) error {
		if len(g.Nodes()) != 3 {
			t.Errorf("asked for a graph of %d nodes", len(g.Nodes()))
		}
		return deny
	}})
	_, err := r.Out(t.Context(), job.Entry{Job: job.Job{User: "ann"}, Request: job.Request{Prompt: json.RawMessage(prompt)}}, nil)
	if !fault.Is(err, fault.Denied) {
		t.Errorf("%v, want a denial", err)
	}
}

// members reads the object that an input holds.
type members struct{ catalog }

func (members) FileInputs(*comfy.Graph) []comfy.FileInput {
	return []comfy.FileInput{{Node: "1", Input: "image", Member: "image", Value: "cat.PNG", Type: file.Input}}
}

func TestOutNamesFilesInsideWrappedObjects(t *testing.T) {
	t.Parallel()
	r := rewrite.New(always(members{}), files{}, []byte("key"), rewrite.Options{})
	g := `{"1": {"class_type": "Load3D", "inputs": {"image": {"__value__": {"image": "cat.PNG"}}}}}`
	tr, err := r.Out(t.Context(), job.Entry{Job: job.Job{User: "ann"}, Request: job.Request{Prompt: json.RawMessage(g)}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	got := task(tr)
	if strings.Contains(string(got.Prompt), "cat.PNG") || len(got.Uploads) != 1 || !strings.Contains(string(got.Prompt), got.Uploads[0].Name) {
		t.Errorf("%s with uploads %+v", got.Prompt, got.Uploads)
	}
}

// A node that takes credentials shows them when it fails, among its inputs and perhaps in its words.
func TestInHidesCredentials(t *testing.T) {
	t.Parallel()
	tr := translate(t, "ann", prompt)
	for what, data := range map[string]string{
		"inputs":  `{"current_inputs": {"auth": ["secret"], "seed": [18446744073709551615]}}`,
		"words":   `{"exception_message": "401 for key=secret, sorry", "traceback": ["x secret\n"]}`,
		"escaped": `{"exception_message": "\u0073ecret secret"}`,
		"key":     `{"secret": 1.0}`,
	} {
		u, err := tr.In(backend.Update{Type: "execution_error", Data: json.RawMessage(data)}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(u.Data, []byte("secret")) || bytes.Contains(u.Data, []byte("u0073")) || !json.Valid(u.Data) {
			t.Errorf("%s: %s", what, u.Data)
		}
	}
	r, err := tr.Result(backend.Result{
		Outputs: json.RawMessage(`{"1": {"text": ["my secret"]}}`), Meta: json.RawMessage(`{}`),
		Messages: json.RawMessage(`[["execution_error", {"current_inputs": {"key": ["secret"]}}]]`),
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if all := string(r.Outputs) + string(r.Messages); strings.Contains(all, "secret") {
		t.Errorf("history would hold a credential: %s", all)
	}
	if body := tr.Refused(json.RawMessage(`{"error": {"details": "secret"}}`)); bytes.Contains(body, []byte("secret")) {
		t.Errorf("a refusal shows a credential: %s", body)
	}
	text := append([]byte{0, 0, 0, 3, 0, 0, 0, 1, '7'}, "with secret"...)
	if u, err := tr.In(backend.Update{Binary: text}, nil); err != nil || bytes.Contains(u.Binary, []byte("secret")) {
		t.Errorf("%q, %v", u.Binary, err)
	}
	picture := append([]byte{0, 0, 0, 1, 0, 0, 0, 1}, "secret"...)
	if u, err := tr.In(backend.Update{Binary: picture}, nil); err != nil || !bytes.Equal(u.Binary, picture) {
		t.Errorf("a picture was changed: %q, %v", u.Binary, err)
	}
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestInGivesThePersonTheirWords(t *testing.T) {
	t.Parallel()
	tr := translate(t, "ann", prompt)
	out := task(tr)
	name := out.Uploads[0].Name
	var sent struct {
		Save struct {
			Inputs map[string]any
		} `json:"3"`
	}
	if err := json.Unmarshal(out.Prompt, &sent); err != nil {
		t.Fatal(err)
	}
	salt, _ := sent.Save.Inputs[rewrite.SaltInput].(string)
	names := func(node string, f backend.FileRef) (file.Ref, bool) {
		return file.Ref{Type: f.Type, Subfolder: "mine", Name: node + "-" + f.Filename}, f.Filename != "lost.png"
	}
	got, err := tr.In(backend.Update{Type: "execution_error", Data: json.RawMessage(`{"prompt_id": "` + runID + `", "exception_message": "no ` + name + `",
		"current_inputs": {"image": ["` + name + `"], "` + rewrite.SaltInput + `": ["` + salt + `"]}, "traceback": ["` + salt + `"], "prompt": ["{'inputs': {'x': 1, '` + rewrite.SaltInput + `': '` + salt + `'}}"]}`)}, names)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"prompt_id": "my \"id\"", "exception_message": "no cat.PNG", "current_inputs": {"image": ["cat.PNG"]}, "traceback": ["owner"], "prompt": ["{'inputs': {'x': 1}}"]}`
	if diff := cmp.Diff(want, string(got.Data)); diff != "" {
		t.Error(diff)
	}
	got, err = tr.In(backend.Update{Type: "executed", Node: "3", Data: json.RawMessage(`{"node": "3", "output": {"images": [{"filename": "a.png", "subfolder": "", "type": "output"}, {"filename": "lost.png", "subfolder": "secret", "type": "output"}]}, "prompt_id": "` + runID + `"}`)}, names)
	if err != nil {
		t.Fatal(err)
	}
	want = `{"node": "3", "output": {"images": [{"filename": "3-a.png", "subfolder": "mine", "type": "output"}, {"filename": "not-delivered", "subfolder": "", "type": "output"}]}, "prompt_id": "my \"id\""}`
	if diff := cmp.Diff(want, string(got.Data)); diff != "" {
		t.Error(diff)
	}
	frame := comfy.Binary{Event: comfy.EventPreviewMetadata, Metadata: json.RawMessage(`{"prompt_id": "` + runID + `"}`), Payload: []byte("jpeg")}
	got, err = tr.In(backend.Update{Binary: frame.Encode()}, names)
	if err != nil {
		t.Fatal(err)
	}
	frame.Metadata = json.RawMessage(`{"prompt_id": "my \"id\""}`)
	if !bytes.Equal(got.Binary, frame.Encode()) {
		t.Errorf("preview %q", got.Binary)
	}
}
