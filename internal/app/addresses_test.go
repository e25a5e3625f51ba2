package app_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/ahelme/comfyume/internal/api"
	"github.com/ahelme/comfyume/internal/comfyserver"
	"github.com/ahelme/comfyume/internal/gateway"
	"github.com/ahelme/comfyume/internal/queueapi"
	"github.com/ahelme/comfyume/internal/tunnel"
)

// address is one way to ask for something of the owner's.
type address struct {
	method, path, body, kind string
	comfy                    bool // of a person's own ComfyUI server, which is below /u/NAME and /k/TOKEN too
	public                   bool // answered without sign-in
	hers                     bool // names what is the owner's alone: whoever else asks is refused
	sent                     []string
}

// open are the door's addresses for who is not signed in.
var open = regexp.MustCompile(`^/(healthz|readyz|favicon\.ico|signin|signout|join|link)(/|$)`)

// addresses lists every address of the studio, with values of the owner's in the place of parameters.
func (w *owned) addresses() (all []address) {
	add := func(a address, values map[string]string, bodies ...string) {
		var sent []string
		a.path = regexp.MustCompile(`\{[^}]*\}`).ReplaceAllStringFunc(a.path, func(param string) string {
			before, _, _ := strings.Cut(a.path, param)
			value, known := values[param[1:len(param)-1]]
			for tail := range w.values { // of a certain address, before those of all
				if strings.HasPrefix(tail, "/") && strings.HasSuffix(before+param, tail) {
					value, known = w.values[tail], true
				}
			}
			if !known {
				if value, known = w.values[strings.Trim(param, "{}")]; !known {
					w.t.Fatalf("nobody knows a value for %s of %s %s: name one here", param, a.method, a.path)
				}
			}
			plain, err := url.PathUnescape(value)
			ok(w.t, err)
			sent = append(sent, value, plain)
			return value
		})
		a.sent = append(sent, a.path, a.path+"?")
		if len(bodies) == 0 {
			bodies = []string{""}
		}
		for _, b := range bodies {
			a := a
			if query, asks := strings.CutPrefix(b, "?"); asks {
				a.path += "?" + query
				q, err := url.ParseQuery(query)
				ok(w.t, err)
				for _, v := range q {
					a.sent = append(a.sent, v...)
				}
			} else {
				a.body = b
			}
			if a.body != "" && a.kind == "" {
				a.kind = "application/json"
			}
			all = append(all, a)
		}
	}
	for _, r := range comfyserver.Routes() {
		if strings.HasSuffix(r.Path, "/ws") {
			continue // trySocket
		}
		ids := w.jobs[:]
		if !strings.Contains(r.Path, "{prompt_id}") && r.Method == http.MethodGet {
			ids = ids[:1]
		}
		for _, id := range ids {
			a := address{method: r.Method, path: r.Path, comfy: true}
			body := w.comfyBody(&a, id)
			add(a, map[string]string{"prompt_id": id}, body...)
		}
	}
	add(address{method: http.MethodGet, path: "/", comfy: true, hers: true}, nil)
	for _, r := range gateway.Routes() {
		a := address{method: r.Method, path: r.Path, public: open.MatchString(r.Path)}
		if r.Method == http.MethodPost {
			a.kind = "application/x-www-form-urlencoded"
		}
		add(a, nil, w.formOf(r.Path)...)
	}
	for _, prefix := range w.Mounts() {
		switch prefix {
		case api.Base + "/":
			w.interfaceAddresses(add)
		case tunnel.Base + "/": // agents' keys are no person's
			add(address{method: http.MethodPost, path: prefix + "join", public: true, kind: "application/json"}, nil, `{"code": "AAAA-BBBB-CCCC", "hello": {"instance": "x"}}`)
			add(address{method: http.MethodGet, path: prefix + "connect", public: true}, nil)
		case "/metrics":
			add(address{method: http.MethodGet, path: prefix, hers: true}, nil)
		case "/qm/":
			for _, r := range queueapi.Routes() {
				w.queueAddress(add, r.Method, prefix[:3]+r.Path)
			}
		case "/qm/health", "/qm/api/health", "/qm/api/workers/": // the same, with rights of their own
		case "/api/health", "/api/queue/status", "/api/jobs", "/api/jobs/":
			for _, r := range queueapi.Routes() {
				if on := slices.IndexFunc(queueapi.OnMain(), func(m queueapi.Route) bool {
					return m.Path == prefix && m.Method == r.Method && strings.HasPrefix(r.Path, prefix)
				}); on >= 0 {
					w.queueAddress(add, r.Method, r.Path)
				}
			}
		default:
			w.t.Fatalf("nobody tries the addresses below %s: add them here", prefix)
		}
	}
	return all
}

// queueAddress adds one of the queue manager's interface.
func (w *owned) queueAddress(add func(address, map[string]string, ...string), method, path string) {
	a := address{method: method, path: path, public: strings.HasSuffix(path, "/health")}
	worker := "?" + pairs("worker_id", "w1", "job_id", w.values["/jobs/{id}"])
	switch name := strings.TrimPrefix(path, "/qm"); {
	case strings.HasPrefix(name, "/api/workers/"):
		a.hers = true
		add(a, nil, worker)
	case strings.Contains(name, "{id}"):
		a.hers = true
		add(a, nil, "", "?priority=3")
	case name == "/api/jobs" && method == http.MethodGet:
		add(a, nil, "", "?status=pending&limit=1000")
		a.hers = true
		add(a, nil, "?user_id="+owner)
	case name == "/api/jobs":
		add(a, nil, `{"workflow": {"1": {}}, "metadata": {"of": "bob"}}`)
		a.hers = true
		add(a, nil, `{"user_id": "`+owner+`", "workflow": {"1": {"class_type": "EmptyImage", "inputs": {}}}}`)
	default:
		add(a, nil)
	}
}

// comfyBody returns what to send to a route of the ComfyUI server: bodies, or queries that begin with ?.
func (w *owned) comfyBody(a *address, id string) []string {
	switch strings.TrimPrefix(a.path, "/api") {
	case "/view":
		return []string{
			"?" + pairs("filename", mark+"_00001_.png"), "?" + pairs("filename", mark+".png", "type", "input"),
			"?" + pairs("filename", mark+"_00001_.png", "preview", "webp;90"), "?" + pairs("filename", mark+".png", "subfolder", "../"+owner, "type", "input"),
		}
	case "/userdata":
		return []string{"?dir=workflows&recurse=true&full_info=true", "?" + pairs("dir", "../"+owner, "recurse", "true")}
	case "/v2/userdata":
		return []string{"?path=workflows", "?" + pairs("path", "../"+owner)}
	case "/view_metadata/{folder}":
		return []string{"?" + pairs("filename", mark)}
	case "/history":
		if a.method == http.MethodGet {
			return []string{"", "?max_items=1000"}
		}
		a.sent = append(a.sent, id)
		return []string{`{"delete": ["` + id + `"]}`, `{"clear": true}`}
	case "/queue":
		if a.method == http.MethodGet {
			return []string{""}
		}
		return []string{`{"delete": ["` + id + `"]}`, `{"clear": true}`}
	case "/interrupt":
		return []string{`{"prompt_id": "` + id + `"}`, `{}`}
	case "/jobs/cancel":
		return []string{`{"job_ids": ["` + id + `"]}`}
	case "/extensions/comfyume/act":
		a.sent, a.hers = append(a.sent, id), true
		return []string{`{"act": "cancel", "prompt_id": "` + id + `"}`, `{"act": "hold", "prompt_id": "` + id + `"}`, `{"act": "front", "prompt_id": "` + id + `"}`}
	case "/prompt":
		if a.method == http.MethodGet {
			return []string{""}
		}
		return []string{`{"prompt": {"1": {}}, "client_id": "` + w.token[len(w.token)-8:] + `"}`}
	case "/upload/image":
		body, kind := uploadForm(w.t, "image", mark+".png", []byte("bob's"), "overwrite", "true", "subfolder", "../"+owner)
		a.kind = kind
		return []string{body}
	case "/upload/mask":
		body, kind := uploadForm(w.t, "image", "mine.png", w.picture[:40], "original_ref", `{"filename": "`+mark+`_00001_.png", "type": "output"}`)
		a.kind = kind
		return []string{body}
	}
	switch {
	case strings.HasSuffix(a.path, "/subscribe"):
		return []string{`{"clientId": "` + w.token[len(w.token)-8:] + `", "enabled": true}`}
	case a.method == http.MethodPost:
		return []string{`{}`}
	}
	return []string{""}
}

// formOf returns what to send to one of the door's addresses.
func (w *owned) formOf(path string) []string {
	switch path {
	case "/signin":
		return []string{pairs("name", owner, "password", w.revoked)}
	case "/join/{code}":
		return []string{pairs("name", owner, "pin", "000000"), pairs("name", owner)}
	case "/link/{code}":
		return []string{""}
	case "/me/runs":
		return []string{pairs("id", w.values["/jobs/{id}"], "act", "cancel"), pairs("id", w.values["/jobs/{id}"], "act", "hold")}
	case "/me/file", "/me/thumb":
		return []string{"?id=" + w.values["result"]}
	case "/me/tokens/revoke":
		return []string{pairs("id", w.values["token"])}
	case "/me/sessions/end":
		return []string{pairs("id", w.values["session"])}
	}
	return []string{""}
}

// interfaceAddresses adds those of the REST interface, from its own description.
func (w *owned) interfaceAddresses(add func(address, map[string]string, ...string)) {
	text, err := w.OpenAPI()
	ok(w.t, err)
	var doc struct {
		Paths map[string]map[string]struct{ OperationID string }
	}
	ok(w.t, json.Unmarshal(text, &doc))
	bodies := map[string]string{
		"add-user": `{"name": "mallory", "role": "operator"}`, "change-user": `{"suspended": true}`, "set-password": `{"password": "taken over 1"}`,
		"import-users": "name,role\nmallory,operator\n", "new-token": `{"label": "mine"}`, "add-group": `{"name": "mallory"}`,
		"change-job": `{"priority": 3}`, "order-users-jobs": `{"jobs": ["` + w.values["/jobs/{id}"] + `"]}`,
		"set-queue-mode": `{"mode": "fifo"}`, "pause-queue": `{"reason": "mine"}`,
		"add-backend": `{"name": "mallory", "url": "http://127.0.0.1:1"}`, "get-model": `{"folder": "loras", "url": "https://h.invalid/x.ckpt"}`,
		"scale-deployment": `{"min": 1}`, "change-variables": `{"remove": ["X"]}`,
		"remove-model": "?folder=loras&file=x.ckpt", "drop-request": "?kind=model&name=x",
		"install-nodes": `{"url": "https://h.invalid/x"}`, "pin-nodes": `{"name": "x"}`, "rollback-nodes": `{"name": "x"}`,
	}
	for _, path := range sortedKeys(doc.Paths) {
		for _, method := range sortedKeys(doc.Paths[path]) {
			id := doc.Paths[path][method].OperationID
			a := address{method: strings.ToUpper(method), path: path, hers: !slices.Contains([]string{"me", "list-jobs", "queue"}, id)}
			if id == "import-users" {
				a.kind = "text/csv"
			}
			add(a, nil, bodies[id])
			if id == "list-jobs" {
				a.hers = true
				add(a, nil, "?user="+owner)
			}
		}
	}
	for _, name := range []string{"/openapi.json", "/openapi.yaml"} {
		add(address{method: http.MethodGet, path: api.Base + name}, nil)
	}
}

// tryOne asks one visitor's way.
func (w *owned) tryOne(v visitor, a address) {
	if a.path == "/signout" && a.method == http.MethodPost && v.known {
		return // it ends the visitor's own session
	}
	what := v.name + ": " + a.method + " " + v.place + a.path
	headers := []string{"Accept", "*/*"}
	if a.kind != "" {
		headers = append(headers, "Content-Type", a.kind)
	}
	status, header, answer := w.ask(v, a.method, a.path, a.body, headers...)
	w.hold(what, answer, append(slices.Clone(a.sent), v.place, owner))
	for name := range header {
		w.hold(what+" header "+name, header.Get(name), append(slices.Clone(a.sent), v.place))
	}
	switch {
	case status >= 500:
		w.t.Errorf("%s: %d %s", what, status, answer)
	case !v.known && !a.public && status != http.StatusUnauthorized:
		w.t.Errorf("%s: %d and not 401: %.300s", what, status, answer)
	case v.known && v.place != "" && status != http.StatusForbidden:
		w.t.Errorf("%s: %d and not 403: %.300s", what, status, answer)
	case v.known && a.hers && v.place == "" && a.path != "/" && status != http.StatusForbidden && status != http.StatusNotFound:
		w.t.Errorf("%s is not refused: %d %.300s", what, status, answer)
	}
	if refused := status == 401 || status == 403 || status == 404; refused && !a.public {
		if !strings.Contains(header.Get("Content-Type"), "json") || !json.Valid([]byte(answer)) {
			w.t.Errorf("%s is refused with %s: %.300s", what, header.Get("Content-Type"), answer)
		}
	}
}
