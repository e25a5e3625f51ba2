package sim_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/ahelme/comfyume/internal/sim"
)

// recorded is one line of a recording.
type recorded struct {
	T        float64 `json:"t"`
	Kind     string  `json:"kind"`
	Client   string  `json:"client"`
	ClientID *string `json:"clientId"`
	JSON     any     `json:"json"`
	Base64   string  `json:"base64"`
	Request  struct {
		Method  string            `json:"method"`
		Path    string            `json:"path"`
		JSON    any               `json:"json"`
		Headers map[string]string `json:"headers"`
		Form    map[string]any    `json:"form"`
		Note    string            `json:"note"`
	} `json:"request"`
	Response struct {
		Status  int               `json:"status"`
		Headers map[string]string `json:"headers"`
		JSON    json.RawMessage   `json:"json"`
		Text    *string           `json:"text"`
		Base64  string            `json:"base64"`
	} `json:"response"`
}

// shared returns a file of the folder beside the checkout, or skips the test where it is not there.
func shared(t testing.TB, name string) []byte {
	t.Helper()
	dir, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
	}
	file, err := os.ReadFile(filepath.Join(dir, "..", "shared", filepath.FromSlash(name)))
	if err != nil {
		t.Log("../shared is not here: ", err)
		t.Skip("../shared is not here")
	}
	return file
}

func recording(t testing.TB, name string) []recorded {
	t.Helper()
	var events []recorded
	d := json.NewDecoder(bytes.NewReader(shared(t, "comfyui/recordings/"+name+".jsonl")))
	d.UseNumber()
	for {
		var e recorded
		if err := d.Decode(&e); err == io.EOF {
			return events
		} else if err != nil {
			t.Fatal(err)
		}
		events = append(events, e)
	}
}

// frame is one message of a socket.
type frame struct {
	binary bool
	body   []byte
}

// client is a WebSocket whose messages are collected.
type client struct {
	conn *websocket.Conn
	in   chan frame
}

const patience = time.Minute // ends a test that hangs, on the busiest machine

func dial(t testing.TB, base, clientID string) *client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	address := "ws" + strings.TrimPrefix(base, "http") + "/ws"
	if clientID != "" {
		address += "?clientId=" + clientID
	}
	conn, _, err := websocket.Dial(ctx, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	conn.SetReadLimit(64 << 20)
	c := &client{conn: conn, in: make(chan frame, 4096)}
	go func() {
		defer close(c.in)
		for {
			kind, body, err := conn.Read(context.Background())
			if err != nil {
				return
			}
			c.in <- frame{kind == websocket.MessageBinary, body}
		}
	}()
	t.Cleanup(func() { conn.CloseNow() })
	return c
}

func (c *client) next(t testing.TB) frame {
	t.Helper()
	select {
	case f, ok := <-c.in:
		if !ok {
			t.Fatal("the socket was closed")
		}
		return f
	case <-time.After(patience):
		t.Fatal("no frame came")
	}
	return frame{}
}

// start runs a simulated server for a test.
func start(t testing.TB, o sim.Options) (*sim.ComfyUI, string) {
	t.Helper()
	o.Base = t.TempDir()
	s, err := sim.NewComfyUI(o)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(s.Handler())
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		server.Close()
	})
	return s, server.URL
}

// player replays a recording against a server.
type player struct {
	t       *testing.T
	base    string
	ids     map[string]string // recorded prompt id → ours
	clients map[string]*client
	status  map[string][]string // status frames seen and not yet expected, by client
	wanted  map[string][]string // status frames expected and not yet seen, by client
	loose   bool                // status frames may stand anywhere between the others
	back    bool                // a client came back in the middle of a run, maybe a few steps earlier than the recorded one
	diff    func(path string) (reason string, shape bool)
	bodies  map[string][]string // bodies the recording left out, by method and path
	files   map[string][]byte   // uploads the recording left out, by note
}

func (p *player) play(events []recorded) {
	left := map[string]float64{} // when a client id went away
	for _, e := range events {
		switch e.Kind {
		case "ws_open":
			if e.ClientID != nil && left[*e.ClientID] > 0 {
				// Rather too early than too late: frame leaves out what comes twice then.
				<-time.After(time.Duration((e.T - left[*e.ClientID]) * 0.8 * float64(time.Second)))
				p.back = true
			}
			id := ""
			if e.ClientID != nil {
				id = *e.ClientID
			}
			p.clients[e.Client] = dial(p.t, p.base, id)
		case "ws_close":
			p.clients[e.Client].conn.Close(websocket.StatusNormalClosure, "")
			delete(p.clients, e.Client)
			for _, o := range events {
				if o.Kind == "ws_open" && o.Client == e.Client && o.ClientID != nil {
					left[*o.ClientID] = e.T
				}
			}
		case "ws_send":
			body, err := json.Marshal(e.JSON)
			if err != nil {
				p.t.Fatal(err)
			}
			if err := p.clients[e.Client].conn.Write(p.t.Context(), websocket.MessageText, body); err != nil {
				p.t.Fatal(err)
			}
		case "ws":
			p.frame(e)
		case "http":
			p.exchange(e)
		}
	}
	for name, wanted := range p.wanted {
		for len(p.status[name]) < len(wanted) {
			p.status[name] = append(p.status[name], p.text(p.clients[name].next(p.t).body))
		}
		if !slices.Equal(p.status[name], wanted) {
			p.t.Errorf("status frames of %s:\n%v\nrecorded:\n%v", name, p.status[name], wanted)
		}
	}
	p.nothingMore()
}

// nothingMore fails when more frames came than were recorded: the next one is that of a queue that is emptied.
func (p *player) nothingMore() {
	p.t.Helper()
	if p.loose {
		return // the status frames of its last requests are not told apart
	}
	if status, _, _ := ask(p.t, http.MethodPost, p.base+"/queue", `{"clear": true}`); status != http.StatusOK {
		p.t.Fatal(status)
	}
	for name, c := range p.clients {
		if f := c.next(p.t); f.binary || !bytes.HasPrefix(f.body, []byte(`{"type": "status"`)) {
			p.t.Errorf("%s got a frame that was not recorded: %.300q", name, f.body)
		}
	}
}

// frame compares the next message of a socket.
func (p *player) frame(e recorded) {
	p.t.Helper()
	if e.JSON == nil {
		got := p.clients[e.Client].next(p.t)
		want, err := base64.StdEncoding.DecodeString(strings.TrimSuffix(e.Base64, "..."))
		if err != nil {
			p.t.Fatal(err)
		}
		head := 8 // event and format
		if want[3] == 4 {
			head = 4
		}
		if !got.binary || len(got.body) < head || !bytes.Equal(got.body[:head], want[:head]) {
			p.t.Fatalf("frame %.40q, recorded %.40q", got.body, want)
		}
		if want[3] == 4 {
			n := int(got.body[6])<<8 | int(got.body[7])
			var meta map[string]any
			if err := json.Unmarshal(got.body[8:8+n], &meta); err != nil || meta["image_type"] != "image/jpeg" || meta["node_id"] != "2" {
				p.t.Errorf("preview metadata %s", got.body[8:8+n])
			}
		}
		return
	}
	want := p.normal(e.JSON, "")
	isStatus := strings.Contains(want, `"type":"status"`)
	if p.loose && isStatus {
		p.wanted[e.Client] = append(p.wanted[e.Client], want)
		return
	}
	for {
		f := p.clients[e.Client].next(p.t)
		got := p.text(f.body)
		if p.loose && strings.Contains(got, `"type":"status"`) {
			p.status[e.Client] = append(p.status[e.Client], got)
			continue
		}
		if n, recorded := step(got), step(want); p.back && n > 0 && n < recorded {
			continue
		}
		if got != want {
			p.t.Fatalf("frame of %s:\n%s\nrecorded:\n%s", e.Client, got, want)
		}
		if !bytes.HasPrefix(f.body, []byte(`{"type": "`)) {
			p.t.Errorf("frame does not begin with its type: %.60s", f.body)
		}
		return
	}
}

// step is the step of a sampler that a frame tells of, zero where it tells of none.
func step(frame string) (n int) {
	if m := stepOf.FindStringSubmatch(frame); m != nil {
		n, _ = strconv.Atoi(m[1]) // digits
	}
	return n
}

var stepOf = regexp.MustCompile(`"max":20,.*"value":(\d+)`)

func (p *player) text(raw []byte) string {
	var v any
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		p.t.Fatalf("not JSON: %.200s", raw)
	}
	return p.normal(v, "")
}

// exchange repeats a request and compares the answer.
func (p *player) exchange(e recorded) {
	p.t.Helper()
	where := e.Request.Method + " " + e.Request.Path
	reason, shape := p.diff(where)
	if reason != "" && !shape {
		p.t.Logf("%s is left out: %s", where, reason)
		return
	}
	var body io.Reader
	header := http.Header{}
	switch {
	case e.Request.Form != nil:
		body = p.form(header, e.Request.Form, e.Request.Note)
	case e.Request.JSON != nil:
		raw, err := json.Marshal(p.ours(e.Request.JSON))
		if err != nil {
			p.t.Fatal(err)
		}
		body = bytes.NewReader(raw)
	case len(p.bodies[where]) > 0:
		body = strings.NewReader(p.bodies[where][0])
		p.bodies[where] = p.bodies[where][1:]
	}
	address := p.base + strings.ReplaceAll(e.Request.Path, " ", "%20")
	for recordedID, id := range p.ids {
		address = strings.ReplaceAll(address, recordedID, id)
	}
	request, err := http.NewRequestWithContext(p.t.Context(), e.Request.Method, address, body)
	if err != nil {
		p.t.Fatal(err)
	}
	maps.Copy(request.Header, header)
	for k, v := range e.Request.Headers {
		request.Header.Set(k, v)
	}
	if e.Response.Status == http.StatusForbidden && e.Request.Path == "/queue" {
		request.Header.Set("Origin", "http://evil.example") // left out of the recording
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		p.t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	if response.StatusCode != e.Response.Status {
		p.t.Fatalf("%s: status %d, recorded %d: %.300s", where, response.StatusCode, e.Response.Status, answer)
	}
	p.headers(where, response.Header, e.Response.Headers)
	p.learn(e, answer)
	switch {
	case e.Response.JSON != nil:
		var recorded any
		d := json.NewDecoder(bytes.NewReader(e.Response.JSON))
		d.UseNumber()
		if err := d.Decode(&recorded); err != nil {
			p.t.Fatal(err)
		}
		var got any
		d = json.NewDecoder(bytes.NewReader(answer))
		d.UseNumber()
		if err := d.Decode(&got); err != nil {
			p.t.Fatalf("%s: not JSON: %.300s", where, answer)
		}
		if shape {
			p.t.Logf("%s is compared by its shape: %s", where, reason)
			if a, b := outline(got), outline(recorded); a != b {
				p.t.Errorf("%s: shape\n%s\nrecorded:\n%s", where, a, b)
			}
			return
		}
		if a, b := p.normal(got, ""), p.normal(recorded, ""); a != b {
			p.t.Errorf("%s:\n%s\nrecorded:\n%s", where, a, b)
		}
	case e.Response.Text != nil && !shape:
		if string(answer) != *e.Response.Text {
			p.t.Errorf("%s: %q, recorded %q", where, answer, *e.Response.Text)
		}
	case e.Response.Base64 != "":
		p.picture(where, response.Header.Get("Content-Type"), answer, e.Response.Base64)
	}
}

// headers compares what says something; lengths and dates depend on the machine.
func (p *player) headers(where string, got http.Header, recorded map[string]string) {
	p.t.Helper()
	for name, want := range recorded {
		have := got.Get(name)
		switch name {
		case "Content-Length", "Date", "Server", "Connection":
			continue
		case "Etag", "Last-Modified":
			if have == "" {
				p.t.Errorf("%s: no header %s", where, name)
			}
			continue
		}
		if have != want {
			p.t.Errorf("%s: header %s is %q, recorded %q", where, name, have, want)
		}
	}
}

// learn remembers which of our prompts stands for a recorded one.
func (p *player) learn(e recorded, answer []byte) {
	var recordedID, id struct {
		PromptID string `json:"prompt_id"`
	}
	if json.Unmarshal(e.Response.JSON, &recordedID) == nil && recordedID.PromptID != "" && json.Unmarshal(answer, &id) == nil {
		p.ids[recordedID.PromptID] = id.PromptID
	}
}

func (p *player) form(header http.Header, fields map[string]any, note string) io.Reader {
	var buf bytes.Buffer
	w := multipart.NewWriter(&buf)
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if s, ok := fields[name].(string); ok {
			if err := w.WriteField(name, s); err != nil {
				p.t.Fatal(err)
			}
			continue
		}
		file := fields[name].(map[string]any)
		filename := strings.ReplaceAll(file["filename"].(string), "/", "%2F") // as the recorded client sent it
		h := textproto.MIMEHeader{}
		h.Set("Content-Disposition", fmt.Sprintf(`form-data; name="%s"; filename="%s"`, name, filename))
		part, err := w.CreatePart(h)
		if err != nil {
			p.t.Fatal(err)
		}
		content := p.files[note]
		if content == nil {
			content = p.files[""]
		}
		if _, err := part.Write(content); err != nil {
			p.t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		p.t.Fatal(err)
	}
	header.Set("Content-Type", w.FormDataContentType())
	return &buf
}

// ours replaces recorded prompt ids in a request.
func (p *player) ours(v any) any {
	switch v := v.(type) {
	case string:
		if id, ok := p.ids[v]; ok {
			return id
		}
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = p.ours(v[i])
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			out[k] = p.ours(e)
		}
		return out
	}
	return v
}

var (
	counter = regexp.MustCompile(`_\d{5}_`)
	temp    = regexp.MustCompile(`_temp_[a-z]{5}`)
	newUser = regexp.MustCompile(`_[0-9a-f]{8}-[0-9a-f-]{27}$`)
)

// normal writes a value so that what differs from run to run looks alike: ids, times, counters.
func (p *player) normal(v any, key string) string {
	switch v := v.(type) {
	case map[string]any:
		var parts []string
		for _, k := range slices.Sorted(maps.Keys(v)) {
			if k == "tooltip" || k == "output_tooltips" {
				continue // texts for people are the real server's own
			}
			parts = append(parts, fmt.Sprintf("%q:%s", p.id(k), p.normal(v[k], k)))
		}
		return "{" + strings.Join(parts, ",") + "}"
	case []any:
		parts := make([]string, len(v))
		for i, e := range v {
			parts[i] = p.normal(e, "")
		}
		switch {
		case key == "traceback":
			return fmt.Sprintf("[texts %t]", len(v) > 0)
		case key == "current_outputs" || key == "executed" || key == "errors":
			slices.Sort(parts) // sets
		case len(v) == 5 && strings.HasPrefix(parts[2], "{"):
			parts[0] = "N" // numbers go on from run to run
			if outputs, ok := v[4].([]any); ok && len(outputs) > 1 {
				parts[4] = fmt.Sprintf("%d outputs", len(outputs)) // a set
			}
		}
		return "[" + strings.Join(parts, ",") + "]"
	case string:
		if key == "details" && strings.Contains(v, "\n") {
			lines := strings.Split(v, "\n")
			slices.Sort(lines) // of a set of outputs
			v = strings.Join(lines, "\n")
		}
		if key == "exception_message" {
			if head, _, found := strings.Cut(v, "full_output_folder:"); found {
				v = head // folders of another machine
			}
		}
		if key == "sid" && len(v) == 32 || key == "description" {
			return `"?"`
		}
		return fmt.Sprintf("%q", newUser.ReplaceAllString(temp.ReplaceAllString(counter.ReplaceAllString(p.id(v), "_N_"), "_temp_x"), "_uuid"))
	case json.Number:
		switch key {
		case "timestamp", "modified", "created":
			return "T"
		case "number":
			if !strings.Contains(v.String(), ".") {
				return "N"
			}
		}
		return v.String()
	case nil:
		return "null"
	}
	return fmt.Sprint(v)
}

// id writes recorded prompt ids as ours.
func (p *player) id(s string) string {
	for recordedID, id := range p.ids {
		s = strings.ReplaceAll(s, recordedID, id)
	}
	return s
}

// outline is the shape of a value: the keys, and the kinds of what they hold.
func outline(v any) string {
	switch v := v.(type) {
	case map[string]any:
		var parts []string
		for _, k := range slices.Sorted(maps.Keys(v)) {
			if k == "index" || k == "installed_templates_version" {
				v[k] = nil // sometimes null
			}
			parts = append(parts, k+":"+outline(v[k]))
		}
		return "{" + strings.Join(parts, ",") + "}"
	case []any:
		kinds := map[string]bool{}
		for _, e := range v {
			kinds[outline(e)] = true
		}
		return "[" + strings.Join(slices.Sorted(maps.Keys(kinds)), "|") + "]"
	case string:
		return "text"
	case json.Number:
		return "number"
	case bool:
		return "truth"
	}
	return "null"
}
