package app_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"mime/multipart"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/internal/api"
	"github.com/ahelme/comfyume/internal/app"
	"github.com/ahelme/comfyume/internal/client"
	"github.com/ahelme/comfyume/internal/config"
)

// The owner's name is part of everything that is hers, so that one search finds any of it.
const (
	owner = "annwyn"
	mark  = owner + "s-own"
)

// owned is a studio in which somebody has something of everything.
type owned struct {
	*app.Studio
	t       *testing.T
	log     *lockedBuffer
	editor  *editor
	token   string // the owner's
	cookie  string
	picture []byte
	jobs    [3]string // prompt ids: finished, running, waiting
	values  map[string]string
	ids     []string // without the owner's name in them
	secrets []string // what lets in, or did
	past    app.Past
	revoked string
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestOthersGetNothing tries every address there is as another person, as nobody, and with what does not let in any
// more. The addresses come from the tables that serve them: one that is added later is tried too, or fails the test
// when it is not known how.
func TestOthersGetNothing(t *testing.T) {
	t.Parallel()
	page := t.TempDir()
	if err := os.WriteFile(filepath.Join(page, "index.html"), []byte("<!doctype html><title>editor</title>"), 0o600); err != nil {
		t.Fatal(err)
	}
	o := options(t, map[string]string{"limits.keep_free": "1MB", "frontend": page + "/"})
	o.Settings.Users = []config.User{{Name: owner, Role: "participant", Group: owner + "s-class"}, {Name: "bob", Role: "participant", Group: "others"}}
	o.Settings.Backends = []config.Back{{Name: "gpu", Driver: "comfyui", URL: simulated(t)}}
	log := &lockedBuffer{}
	o.Log = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	err := run(t, o, func(s *app.Studio) {
		path, err := app.SocketPath(o.Settings.Data, "")
		ok(t, err)
		if strings.Contains(log.String(), "not installed") {
			t.Error("a folder with a page is missed")
		}
		c := client.Socket(path)
		defer c.Close()
		w := &owned{Studio: s, t: t, log: log}
		w.fill(c)
		w.try(c)
	})
	ok(t, err)
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// as asks as the owner and returns the answer's body.
func (w *owned) as(method, path, body string, headers ...string) string {
	w.t.Helper()
	status, _, answer := w.ask(visitor{headers: append([]string{"Authorization", "Bearer " + w.token}, headers...)}, method, path, body)
	if status != http.StatusOK {
		w.t.Fatalf("%s asks for %s %s: %d %s", owner, method, path, status, answer)
	}
	return answer
}

// fill gives the owner a run that is over, one that runs and one that waits, files of all types, a document, a setting,
// tokens, sessions and links.
func (w *owned) fill(c *client.Client) {
	t, ctx := w.t, w.t.Context()
	token, err := c.NewToken(ctx, owner, api.NewToken{Label: mark})
	ok(t, err)
	w.token = token.Secret
	cookie, session, err := w.SignIn(ctx, owner)
	w.cookie = cookie
	ok(t, err)
	w.editor = openEditor(t, w.Address(), w.token)
	run := func(n, steps int) {
		w.jobs[n] = fmt.Sprintf("%s-%d", mark, n)
		w.as("POST", "/prompt", fmt.Sprintf(`{"client_id": %q, "prompt_id": %q, "prompt": {
			"1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": %d}},
			"2": {"class_type": "ProbeSlow", "inputs": {"image": ["1", 0], "steps": %d, "seconds": 0.2, "preview": true}},
			"3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": %q}}}}`,
			w.token[len(w.token)-8:], w.jobs[n], 1<<(8*n), steps, mark))
	}
	run(0, 1)
	if how := <-w.editor.end(w.jobs[0]); how != "execution_success" {
		t.Fatalf("the first run ended with %s", how)
	}
	run(1, 1000)
	run(2, 1)
	w.picture = []byte(w.as("GET", "/view?filename="+mark+"_00001_.png", ""))
	form, kind := uploadForm(t, "image", mark+".png", w.picture)
	w.as("POST", "/upload/image", form, "Content-Type", kind)
	w.as("POST", "/userdata/workflows%2F"+mark+".json", `"`+mark+`"`)
	w.as("POST", "/settings/"+mark, `"`+mark+`"`)
	w.past, err = w.NewPast(ctx, owner)
	ok(t, err)
	gone, err := c.NewToken(ctx, owner, api.NewToken{})
	ok(t, err)
	w.revoked = gone.Secret
	if status, _, _ := w.ask(visitor{headers: []string{"X-API-Key", w.revoked}}, "GET", "/queue", ""); status != http.StatusOK {
		t.Fatalf("a token gives %d before it is revoked", status)
	}
	ok(t, c.RevokeToken(ctx, owner, gone.ID))
	code, err := c.NewCode(ctx, owner+"s-class", 0, 0)
	ok(t, err)

	jobs, err := c.Jobs(ctx, client.JobFilter{User: owner})
	ok(t, err)
	result := regexp.MustCompile(`/me/file\?id=([\w-]+)`).FindStringSubmatch(w.as("GET", "/me", ""))
	if len(jobs.Jobs) != 3 || result == nil {
		t.Fatalf("%d jobs, result %v", len(jobs.Jobs), result)
	}
	w.values = map[string]string{
		"class": "SaveImage", "folder": "checkpoints", "index": "0", "file": "workflows%2F" + mark + ".json",
		"dest": "workflows%2Ftaken.json", "pack": mark, "type": "output", "name...": mark + ".json",
		"/settings/{id}": mark, "/global_subgraphs/{id}": mark, "/extensions/comfyume/{name}": "state.json",
		"name": owner, "group": owner + "s-class", "code": code.Code, "/backends/{name}": "gpu", "scope": "group:" + owner + "s-class",
		"/tokens/{id}": token.ID, "/jobs/{id}": string(jobs.Jobs[0].ID), "/link/{code}": w.past.UsedLink, "/me/{code}": mark,
		"result": result[1], "session": session, "token": token.ID, "action": "pause",
	}
	w.secrets = []string{w.token, w.cookie, w.revoked, w.past.UsedLink, w.past.ExpiredLink, w.past.ExpiredToken, w.past.EndedCookie}
	w.ids = []string{token.ID, session}
	for _, j := range jobs.Jobs {
		w.ids = append(w.ids, string(j.ID))
	}
}

// visitor is one way to ask.
type visitor struct {
	name    string
	headers []string
	place   string // what comes before the path
	known   bool   // somebody is signed in
}

func (w *owned) visitors(c *client.Client) []visitor {
	ctx, t := w.t.Context(), w.t
	token, err := c.NewToken(ctx, "bob", api.NewToken{})
	ok(t, err)
	cookie, _, err := w.SignIn(ctx, "bob")
	ok(t, err)
	name, bearer := w.CookieName(), []string{"Authorization", "Bearer " + token.Secret}
	return []visitor{
		{"bob's token", bearer, "", true},
		{"bob's token at her place", bearer, "/u/" + owner, true},
		{"bob's session", []string{"Cookie", name + "=" + cookie}, "", true},
		{"bob's session at her place", []string{"Cookie", name + "=" + cookie}, "/u/" + owner, true},
		{"nobody", nil, "", false},
		{"nobody at her place", nil, "/u/" + owner, false},
		{"nobody at a place of an invented token", nil, "/k/cm_" + strings.Repeat("x", 43), false},
		{"a revoked token", []string{"Authorization", "Bearer " + w.revoked}, "", false},
		{"a revoked key", []string{"X-API-Key", w.revoked}, "/u/" + owner, false},
		{"a revoked token's place", nil, "/k/" + w.revoked, false},
		{"an expired token", []string{"X-API-Key", w.past.ExpiredToken}, "", false},
		{"an expired token's place", nil, "/k/" + w.past.ExpiredToken, false},
		{"a session that ended", []string{"Cookie", name + "=" + w.past.EndedCookie}, "", false},
		{"a link as a token", []string{"Authorization", "Bearer " + w.past.ExpiredLink}, "", false},
	}
}

// try is the test.
func (w *owned) try(c *client.Client) {
	t := w.t
	before := w.state(c)
	addresses := w.addresses()
	visitors := w.visitors(c)
	for _, v := range visitors {
		for _, a := range addresses {
			if v.place == "" || a.comfy {
				w.tryOne(v, a)
			}
		}
		w.trySocket(v)
	}
	w.tryGraph(visitors[0])
	if diff := cmp.Diff(before, w.state(c)); diff != "" {
		t.Errorf("others changed what is hers (-before +after):\n%s", diff)
	}
	// What happens to her is told to her alone, also to who took her editor's id.
	heard := w.listen(visitors[0])
	w.as("POST", "/interrupt", "{}")
	for _, id := range w.jobs[1:] {
		select {
		case <-w.editor.end(id):
		case <-time.After(20 * time.Second):
			t.Fatalf("the run %s does not end:\n%s", id, w.as("GET", "/queue", ""))
		}
	}
	for _, frame := range heard() {
		w.hold("what bob's socket heard", frame, []string{`"sid": "` + w.token[len(w.token)-8:]})
	}
	for _, secret := range w.secrets {
		if strings.Contains(w.log.String(), secret) {
			t.Errorf("the log holds the secret %s", secret)
		}
	}
}

// state is what the owner sees of what is hers.
func (w *owned) state(c *client.Client) map[string]string {
	all := map[string]string{}
	for _, path := range []string{
		"/history", "/queue", "/api/jobs", "/userdata?dir=workflows&recurse=true", "/userdata/workflows%2F" + mark + ".json", "/settings/" + mark,
		"/view?filename=" + mark + "_00001_.png", "/view?type=input&filename=" + mark + ".png", "/studio/api/v1/me", "/studio/api/v1/jobs",
	} {
		all[path] = w.as("GET", path, "")
	}
	if logs := w.as("GET", "/internal/logs", ""); !strings.Contains(logs, mark) && !strings.Contains(logs, "got prompt") {
		w.t.Errorf("her logs: %s", logs)
	}
	tokens, err := c.Tokens(w.t.Context(), owner)
	ok(w.t, err)
	for i := range tokens {
		tokens[i].Used = nil
	}
	user, err := c.Users(w.t.Context(), owner+"s-class")
	ok(w.t, err)
	for i := range user {
		user[i].Seen = nil
	}
	codes, err := c.Codes(w.t.Context(), owner+"s-class")
	ok(w.t, err)
	account, err := json.Marshal([]any{tokens, user, codes})
	ok(w.t, err)
	all["account"] = string(account)
	status, _, _ := w.ask(visitor{headers: []string{"Cookie", w.CookieName() + "=" + w.cookie}}, "GET", "/queue", "")
	all["session"] = fmt.Sprint(status)
	return all
}

func uploadForm(t *testing.T, field, name string, content []byte, more ...string) (body, kind string) {
	t.Helper()
	var b bytes.Buffer
	m := multipart.NewWriter(&b)
	part, err := m.CreateFormFile(field, name)
	ok(t, err)
	_, err = part.Write(content)
	ok(t, err)
	for i := 0; i+1 < len(more); i += 2 {
		ok(t, m.WriteField(more[i], more[i+1]))
	}
	ok(t, m.Close())
	return b.String(), m.FormDataContentType()
}

// ask sends one request and follows nothing.
func (w *owned) ask(v visitor, method, path, body string, headers ...string) (int, http.Header, string) {
	w.t.Helper()
	r, err := http.NewRequest(method, w.Address()+v.place+path, strings.NewReader(body))
	ok(w.t, err)
	for h := range slices.Chunk(append(slices.Clone(v.headers), headers...), 2) {
		r.Header.Set(h[0], h[1])
	}
	res, err := http.DefaultTransport.RoundTrip(r)
	ok(w.t, err)
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	ok(w.t, err)
	return res.StatusCode, res.Header, string(answer)
}

// hold fails when an answer holds anything of the owner's but what was sent.
func (w *owned) hold(what, answer string, sent []string) {
	w.t.Helper()
	if bytes.Contains([]byte(answer), w.picture) {
		w.t.Errorf("%s shows her picture", what)
	}
	slices.SortFunc(sent, func(a, b string) int { return len(b) - len(a) })
	for _, s := range sent {
		if s != "" {
			answer = strings.ReplaceAll(answer, s, "")
		}
	}
	for _, secret := range slices.Concat([]string{owner}, w.ids, w.secrets) {
		if strings.Contains(answer, secret) {
			w.t.Errorf("%s shows %q: %.600s", what, secret, answer)
		}
	}
}

// listen opens a socket with the owner's session id. What it returns gives all that was heard on it until now: the
// answer to what it asks comes after everything that was on its way.
func (w *owned) listen(v visitor) func() []string {
	ctx := w.t.Context()
	conn := w.dial(v, "/ws?clientId="+w.token[len(w.token)-8:], http.StatusSwitchingProtocols)
	conn.SetReadLimit(1 << 20)
	_, first, err := conn.Read(ctx)
	ok(w.t, err)
	return func() []string {
		defer conn.CloseNow()
		ok(w.t, conn.Write(ctx, websocket.MessageText, []byte(`{"type": "feature_flags", "data": {}}`)))
		for frames := []string{string(first)}; ; {
			_, frame, err := conn.Read(ctx)
			ok(w.t, err)
			if frames = append(frames, string(frame)); strings.Contains(string(frame), `"feature_flags"`) {
				return frames
			}
		}
	}
}

func (w *owned) dial(v visitor, path string, want int) *websocket.Conn {
	w.t.Helper()
	headers := http.Header{}
	for h := range slices.Chunk(v.headers, 2) {
		headers.Set(h[0], h[1])
	}
	conn, res, err := websocket.Dial(w.t.Context(), "ws"+strings.TrimPrefix(w.Address(), "http")+v.place+path, &websocket.DialOptions{HTTPHeader: headers})
	if res == nil || res.StatusCode != want {
		w.t.Fatalf("%s gets for a socket at %s: %v", v.name, v.place+path, err)
	}
	return conn
}

func (w *owned) trySocket(v visitor) {
	for _, path := range []string{"/ws", "/api/ws"} {
		switch path += "?clientId=" + w.token[len(w.token)-8:]; {
		case !v.known:
			w.dial(v, path, http.StatusUnauthorized)
			w.dial(v, path+"&token="+w.revoked, http.StatusUnauthorized)
		case v.place != "":
			w.dial(v, path, http.StatusForbidden)
		default:
			w.dial(v, path, http.StatusSwitchingProtocols).CloseNow()
		}
	}
}

// tryGraph reads the owner's files by a graph.
func (w *owned) tryGraph(v visitor) {
	for _, name := range []string{mark + ".png", mark + "_00001_.png [output]", "../" + owner + "/" + mark + ".png", "/" + mark + ".png"} {
		body := fmt.Sprintf(`{"prompt": {"1": {"class_type": "LoadImage", "inputs": {"image": %q}}, "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}}}}`, name)
		status, _, answer := w.ask(v, "POST", "/prompt", body)
		if status != http.StatusBadRequest {
			w.t.Errorf("a graph that loads %s is answered with %d %s", name, status, answer)
		}
		w.hold("a graph that loads "+name, answer, []string{name})
	}
}

// sortedKeys keeps the order of what is tried the same.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// values of a query or form.
func pairs(kv ...string) string {
	q := url.Values{}
	for p := range slices.Chunk(kv, 2) {
		q.Add(p[0], p[1])
	}
	return q.Encode()
}
