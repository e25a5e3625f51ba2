package sim_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"image"
	"image/color"
	"image/png"
	"io"
	"maps"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	_ "golang.org/x/image/webp"

	"github.com/ahelme/comfyume/internal/sim"
)

// differences are all places where the simulated server does not answer what was recorded, and why. Values given
// as shape are compared by their keys and kinds; the others are not compared.
var differences = map[string]struct {
	reason string
	shape  bool
}{
	"misc_get GET /system_stats":                               {"another machine: a simulated GPU instead of a processor", true},
	"misc_get GET /api/system_stats":                           {"another machine: a simulated GPU instead of a processor", true},
	"misc_get GET /object_info/LoadImage":                      {"other files in the input folder", true},
	"misc_get GET /history?max_items=1":                        {"the history of other runs", false},
	"misc_get GET /experiment/models":                          {"folders of another machine", true},
	"misc_get GET /internal/logs":                              {"lines of another server", true},
	"misc_get GET /internal/logs/raw":                          {"lines of another server", true},
	"misc_get GET /internal/folder_paths":                      {"folders of another machine", true},
	"misc_get GET /internal/files/output":                      {"other files", true},
	"misc_get GET /internal/files/input":                       {"other files", true},
	"misc_get GET /":                                           {"the simulated server's own page instead of the recorded stub", true},
	"misc_get GET /api/userdata?dir=workflows":                 {"the recorded server had a folder workflows from the recording before", false},
	"queue_delete_and_clear GET /history?max_items=2":          {"the history of other runs", false},
	"queue_delete_and_clear GET /history?max_items=1&offset=0": {"the history of other runs", false},
	// /view?…&preview=… : other encoders make other bytes; the pictures are compared. Sizes of previews likewise.
	// Everywhere: ids, times, counters of files and of prompts, texts for people (tooltips, descriptions), the
	// lines of tracebacks and the order of current_outputs, which is that of a set, differ from run to run.
}

// TestRecordings holds the simulated server to conversations with a real one.
func TestRecordings(t *testing.T) {
	t.Parallel()
	shared(t, "comfyui/recordings/misc_get.jsonl")
	dir, err := filepath.Abs("../../../shared/comfyui/recordings")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.jsonl"))
	if err != nil || len(files) < 28 {
		t.Fatalf("%d recordings: %v", len(files), err)
	}
	excused := maps.Clone(differences)
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".jsonl")
		events := recording(t, name)
		for _, e := range events {
			delete(excused, name+" "+e.Request.Method+" "+e.Request.Path)
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, base := start(t, sim.Options{Probes: true, Models: map[string][]string{}})
			p := &player{
				t: t, base: base, ids: map[string]string{}, clients: map[string]*client{},
				status: map[string][]string{}, wanted: map[string][]string{},
				// There, status frames come of requests that are under way at the same time as a run.
				loose: name == "queue_delete_and_clear",
				diff: func(path string) (string, bool) {
					d := differences[name+" "+path]
					return d.reason, d.shape
				},
				bodies: map[string][]string{
					"POST /prompt":                        {`{"prompt": `},
					"POST /userdata/workflows%2Frec.json": {`{"a":1}`},
					"POST /userdata/workflows%2Frec.json?overwrite=true&full_info=true": {`{"a":3}`},
					"POST /userdata/workflows%2Fsub%2Fdeep.json?full_info=true":         {`{}`},
				},
			}
			if name == "files_upload_and_view" {
				p.files = uploads(t, events)
			}
			if name == "misc_get" {
				prepare(t, base)
			}
			p.play(events)
		})
	}
	for name := range excused {
		t.Errorf("%s is excused and in no recording", name)
	}
}

// uploads are the files that were sent, made from those that came back.
func uploads(t *testing.T, events []recorded) map[string][]byte {
	t.Helper()
	back := func(path string) []byte {
		for _, e := range events {
			if e.Request.Path == path && e.Response.Base64 != "" {
				b, err := base64.StdEncoding.DecodeString(e.Response.Base64)
				if err != nil {
					t.Fatal(err)
				}
				return b
			}
		}
		t.Fatalf("no answer of %s", path)
		return nil
	}
	mask := image.NewNRGBA(image.Rect(0, 0, 8, 8))
	for i := range mask.Pix {
		mask.Pix[i] = uint8(i)
	}
	var buf bytes.Buffer
	if err := png.Encode(&buf, mask); err != nil {
		t.Fatal(err)
	}
	second := back("/view?filename=up5d3ab2.png&type=input")
	return map[string][]byte{
		"":                            back("/view?filename=up5d3ab2.png&type=input&subfolder=pasted"),
		"other content, no overwrite": second,
		"overwrite":                   second,
		"mask":                        buf.Bytes(),
	}
}

// prepare gives the server a file of each folder, as the recorded one had.
func prepare(t *testing.T, base string) {
	t.Helper()
	c := dial(t, base, "prepare")
	c.next(t)
	for _, prompt := range []string{
		`{"1":{"class_type":"EmptyImage","inputs":{"width":8,"height":8,"batch_size":1,"color":1}},"2":{"class_type":"SaveImage","inputs":{"images":["1",0],"filename_prefix":"a"}}}`,
	} {
		run(t, base, c, prompt)
	}
	p := &player{t: t, files: map[string][]byte{"": []byte("x")}}
	header := http.Header{}
	body := p.form(header, map[string]any{"image": map[string]any{"filename": "example.png"}}, "")
	response, err := http.Post(base+"/upload/image", header.Get("Content-Type"), body)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
}

// picture compares pictures by their pixels where the recorded one is without loss, else by kind and size.
func (p *player) picture(where, contentType string, got []byte, recorded string) {
	p.t.Helper()
	want, err := base64.StdEncoding.DecodeString(strings.TrimSuffix(recorded, "..."))
	if err != nil {
		p.t.Fatal(err)
	}
	if strings.Contains(where, "preview=") {
		m, format, err := image.Decode(bytes.NewReader(got))
		if err != nil || m.Bounds().Dx() != 8 || !strings.HasSuffix(contentType, format) {
			p.t.Errorf("%s: %s %v", where, format, err)
		}
		return
	}
	if strings.Contains(where, "channel=") {
		a, err := png.Decode(bytes.NewReader(got))
		if err != nil {
			p.t.Fatal(err)
		}
		b, err := png.Decode(bytes.NewReader(want))
		if err != nil {
			p.t.Fatal(err)
		}
		for y := range 8 {
			for x := range 8 {
				if color.NRGBAModel.Convert(a.At(x, y)) != color.NRGBAModel.Convert(b.At(x, y)) {
					p.t.Fatalf("%s: pixel %d,%d is %v, recorded %v", where, x, y, a.At(x, y), b.At(x, y))
				}
			}
		}
		return
	}
	if !bytes.Equal(got, want) {
		p.t.Errorf("%s: other bytes", where)
	}
}

// run posts a prompt and waits until it is over; it returns its id and its history entry.
func run(t testing.TB, base string, c *client, prompt string) (id string, entry map[string]any) {
	t.Helper()
	id = submit(t, base, `{"client_id": "prepare", "prompt": `+prompt+`}`)
	for {
		f := c.next(t)
		if f.binary {
			continue
		}
		if strings.Contains(string(f.body), `"executing", "data": {"node": null, "prompt_id": "`+id) {
			break
		}
	}
	var all map[string]map[string]any
	fetch(t, base+"/history/"+id, &all)
	return id, all[id]
}

func submit(t testing.TB, base, body string) string {
	t.Helper()
	response, err := http.Post(base+"/prompt", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	var reply struct {
		PromptID string `json:"prompt_id"`
	}
	if err := json.Unmarshal(answer, &reply); err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("POST /prompt: %d %s", response.StatusCode, answer)
	}
	return reply.PromptID
}

func fetch(t testing.TB, address string, into any) {
	t.Helper()
	response, err := http.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(into); err != nil {
		t.Fatal(err)
	}
}
