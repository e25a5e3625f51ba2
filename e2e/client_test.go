package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// client is one program that speaks ComfyUI's protocol, to a studio as a person or to a ComfyUI itself.
type client struct {
	loader
	sid    string
	frames chan wireFrame
	seen   []wireFrame // those that wait took in
}

// wireFrame is one frame of the socket.
type wireFrame struct {
	Type   string
	Data   json.RawMessage
	Binary []byte
}

// fileRef is a file as results name it.
type fileRef struct {
	Filename, Subfolder, Type string
}

// entry is what history has of a run.
type entry struct {
	Prompt  []json.RawMessage
	Outputs map[string]map[string]json.RawMessage
	Status  struct {
		Completed bool
		Str       string `json:"status_str"`
		Messages  [][]json.RawMessage
	}
}

// connect opens the socket of a client. token is empty for a ComfyUI itself.
func connect(t *testing.T, base, token, sid string) *client {
	t.Helper()
	c := &client{loader: loader{base: base, token: token, http: &http.Client{Timeout: 30 * time.Second}}, sid: sid, frames: make(chan wireFrame, 4096)}
	header := http.Header{}
	if token != "" {
		header.Set("Authorization", "Bearer "+token)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, strings.Replace(base, "http", "ws", 1)+"/ws?clientId="+url.QueryEscape(sid), &websocket.DialOptions{HTTPHeader: header})
	if err != nil {
		t.Fatal(err)
	}
	ws.SetReadLimit(64 << 20)
	if err := ws.Write(ctx, websocket.MessageText, []byte(`{"type":"feature_flags","data":{"supports_preview_metadata":true}}`)); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(c.frames)
		for {
			kind, b, err := ws.Read(context.Background())
			if err != nil {
				return
			}
			f := wireFrame{Binary: b}
			if kind == websocket.MessageText {
				f = wireFrame{}
				if err := json.Unmarshal(b, &f); err != nil {
					t.Errorf("a frame that is no JSON: %q", b)
				}
			}
			c.frames <- f
		}
	}()
	t.Cleanup(func() {
		ws.CloseNow()
		<-done
	})
	return c
}

// person opens a client of a person of the studio.
func (s *studio) person(t *testing.T, name string) *client {
	t.Helper()
	return connect(t, s.scheme+"://"+s.host, s.token(t, name), "e2e-"+name)
}

// send posts a graph and returns the id of its run.
func (c *client) send(t *testing.T, graph node, extra node) string {
	t.Helper()
	message := node{"prompt": graph, "client_id": c.sid}
	if extra != nil {
		message["extra_data"] = extra
	}
	body, err := json.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	var answer struct {
		PromptID string `json:"prompt_id"`
	}
	if err := c.call(http.MethodPost, "/prompt", body, &answer); err != nil {
		t.Fatal(err)
	}
	return answer.PromptID
}

// wait takes frames in until one of this run fulfils stop.
func (c *client) wait(t *testing.T, id string, what string, stop func(wireFrame) bool) {
	t.Helper()
	timeout := time.NewTimer(90 * time.Second)
	defer timeout.Stop()
	for {
		select {
		case f, ok := <-c.frames:
			if !ok {
				t.Fatalf("the socket closed before %s", what)
			}
			c.seen = append(c.seen, f)
			if (f.Binary != nil || f.of(id)) && stop(f) {
				return
			}
		case <-timeout.C:
			t.Fatalf("no %s of run %s within 90 s", what, id)
		}
	}
}

// of reports whether a frame names this run.
func (f wireFrame) of(id string) bool {
	var data struct {
		PromptID string `json:"prompt_id"`
	}
	return json.Unmarshal(f.Data, &data) == nil && data.PromptID == id
}

// over reports whether a frame is the last of its run.
func over(f wireFrame) bool {
	return f.Type == "executing" && bytes.Contains(f.Data, []byte(`"node": null`)) || f.Type == "executing" && bytes.Contains(f.Data, []byte(`"node":null`))
}

// run runs a graph to its end. The frames of the run are in c.seen afterwards.
func (c *client) run(t *testing.T, graph node, extra node) entry {
	t.Helper()
	c.seen = nil
	id := c.send(t, graph, extra)
	c.wait(t, id, "end", over)
	return c.entry(t, id)
}

// entry reads the history of a run that is over. A real server needs a moment after its last frame.
func (c *client) entry(t *testing.T, id string) entry {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		var history map[string]entry
		if err := c.call(http.MethodGet, "/history/"+id, nil, &history); err != nil {
			t.Fatal(err)
		}
		if e, ok := history[id]; ok {
			return e
		}
		if time.Now().After(deadline) {
			t.Fatalf("run %s is not in history", id)
		}
	}
}

// files lists the files of a node's outputs under a key.
func (e entry) files(t *testing.T, node, key string) []fileRef {
	t.Helper()
	var list []fileRef
	raw, ok := e.Outputs[node][key]
	if !ok {
		t.Fatalf("node %s has no %s: %s, %s %s", node, key, text(e.Outputs), e.Status.Str, text(e.Status.Messages))
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		t.Fatalf("%s of node %s: %v: %s", key, node, err, raw)
	}
	return list
}

// cached lists the nodes that the run found in the back end's cache.
func (e entry) cached(t *testing.T) []string {
	t.Helper()
	for _, m := range e.Status.Messages {
		if string(m[0]) != `"execution_cached"` {
			continue
		}
		var data struct{ Nodes []string }
		if err := json.Unmarshal(m[1], &data); err != nil {
			t.Fatal(err)
		}
		return data.Nodes
	}
	t.Fatalf("no execution_cached in %s", text(e.Status.Messages))
	return nil
}

func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// upload sends a file and returns what it is called.
func (c *client) upload(t *testing.T, route, name string, content []byte, fields map[string]string) fileRef {
	t.Helper()
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	part, err := form.CreateFormFile("image", name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := part.Write(content); err != nil {
		t.Fatal(err)
	}
	for k, v := range fields {
		if err := form.WriteField(k, v); err != nil {
			t.Fatal(err)
		}
	}
	if err := form.Close(); err != nil {
		t.Fatal(err)
	}
	status, _, raw := c.request(t, http.MethodPost, route, &body, http.Header{"Content-Type": {form.FormDataContentType()}})
	if status != http.StatusOK {
		t.Fatalf("upload %s: %d %s", name, status, raw)
	}
	var answer struct{ Name, Subfolder, Type string }
	if err := json.Unmarshal(raw, &answer); err != nil {
		t.Fatal(err)
	}
	return fileRef{answer.Name, answer.Subfolder, answer.Type}
}

// request makes one request and returns all of its answer.
func (c *client) request(t *testing.T, method, path string, body io.Reader, header http.Header) (int, http.Header, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, c.base+path, body)
	if err != nil {
		t.Fatal(err)
	}
	if header != nil {
		req.Header = header
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, raw
}

// view is the address of a file.
func (f fileRef) view() string {
	return "/view?" + url.Values{"filename": {f.Filename}, "subfolder": {f.Subfolder}, "type": {f.Type}}.Encode()
}

// read downloads a file.
func (c *client) read(t *testing.T, f fileRef) []byte {
	t.Helper()
	status, _, raw := c.request(t, http.MethodGet, f.view(), nil, nil)
	if status != http.StatusOK {
		t.Fatalf("%v: %d %s", f, status, raw)
	}
	return raw
}

// pngTexts reads the text chunks of a PNG.
func pngTexts(b []byte) (map[string]string, error) {
	const signature = "\x89PNG\r\n\x1a\n"
	if !bytes.HasPrefix(b, []byte(signature)) {
		return nil, errors.New("no PNG")
	}
	texts := map[string]string{}
	for b = b[len(signature):]; len(b) >= 12; {
		size := int(binary.BigEndian.Uint32(b))
		if size > len(b)-12 {
			return nil, fmt.Errorf("chunk of %d bytes in %d", size, len(b))
		}
		if string(b[4:8]) == "tEXt" {
			keyword, text, _ := bytes.Cut(b[8:8+size], []byte{0})
			texts[string(keyword)] = string(text)
		}
		b = b[12+size:]
	}
	return texts, nil
}
