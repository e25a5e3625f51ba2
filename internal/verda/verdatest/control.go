package verdatest

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// control answers a request of the control interface; rest is the escaped path below /v1/.
func (f *Fake) control(w http.ResponseWriter, r *http.Request, rest string) {
	var body map[string]any
	if r.ContentLength != 0 && json.NewDecoder(r.Body).Decode(&body) != nil {
		refuse(w, http.StatusBadRequest, "invalid_json", "the body is no JSON object", "")
		return
	}
	var parts []string
	for p := range strings.SplitSeq(rest, "/") {
		name, err := url.PathUnescape(p)
		if err != nil {
			refuse(w, http.StatusBadRequest, "bad_path", "the path is wrong", "")
			return
		}
		parts = append(parts, name)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if rest == "oauth2/token" {
		f.token(w, r, body)
		return
	}
	if end, ok := f.tokens[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")]; !ok || time.Now().After(end) {
		refuse(w, http.StatusUnauthorized, "unauthorized", "access token is missing or expired", "")
		return
	}
	if f.o.NoScope {
		refuse(w, http.StatusForbidden, "forbidden", "insufficient scope", "")
		return
	}
	c := &call{Fake: f, w: w, r: r, body: body, parts: parts}
	switch parts[0] {
	case "container-deployments":
		c.containerDeployments()
	case "job-deployments":
		c.jobDeployments()
	case "serverless-compute-resources":
		answer(w, http.StatusOK, f.resources)
	case "secrets", "file-secrets", "container-registry-credentials":
		c.secrets()
	default:
		c.noRoute()
	}
}

// token gives a token for the credential or a refresh token.
func (f *Fake) token(w http.ResponseWriter, r *http.Request, body map[string]any) {
	if r.Method != http.MethodPost {
		refuse(w, http.StatusMethodNotAllowed, "method_not_allowed", "POST it", "")
		return
	}
	switch body["grant_type"] {
	case "client_credentials":
		if body["client_id"] != f.o.ID || body["client_secret"] != f.o.Secret {
			// The real one says less; this one repeats what it got, as a careless one might.
			refuse(w, http.StatusUnauthorized, "unauthorized_request", fmt.Sprintf("invalid client %v / %v", body["client_id"], body["client_secret"]), "")
			return
		}
	case "refresh_token":
		old, ok := body["refresh_token"].(string)
		if end, known := f.refreshes[old]; !ok || !known || time.Now().After(end) {
			refuse(w, http.StatusUnauthorized, "invalid_grant", "refresh token "+old+" is expired", "")
			return
		}
	default:
		refuse(w, http.StatusBadRequest, "unsupported_grant_type", "unsupported grant type", "grant_type")
		return
	}
	f.given++
	access, refresh := fmt.Sprintf("access-token-%04d-of-the-fake", f.given), fmt.Sprintf("refresh-token-%04d-of-the-fake", f.given)
	f.tokens[access], f.refreshes[refresh] = time.Now().Add(f.o.TokenLife), time.Now().Add(f.o.RefreshLife)
	answer(w, http.StatusOK, map[string]any{
		"access_token": access, "refresh_token": refresh, "token_type": "Bearer", "expires_in": int(f.o.TokenLife / time.Second), "scope": "cloud-api-v1",
	})
}

// ExpireTokens ends all access tokens now, as when their life was cut short; refreshes: the refresh tokens too.
func (f *Fake) ExpireTokens(refreshes bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for t := range f.tokens {
		f.tokens[t] = time.Time{}
	}
	if refreshes {
		for t := range f.refreshes {
			f.refreshes[t] = time.Time{}
		}
	}
}

// call is one request of the control interface. The fake's lock is held.
type call struct {
	*Fake
	w     http.ResponseWriter
	r     *http.Request
	body  map[string]any
	parts []string
}

func (c *call) noRoute() {
	refuse(c.w, http.StatusNotFound, "not_found", "there is no "+c.r.Method+" "+c.r.URL.Path, "")
}

func (c *call) ok(body any) { answer(c.w, http.StatusOK, body) }

func (c *call) invalid(field, message string) {
	refuse(c.w, http.StatusUnprocessableEntity, "invalid_request", message, field)
}

func (c *call) secrets() {
	kind := c.kept[c.parts[0]]
	switch {
	case len(c.parts) == 1 && c.r.Method == http.MethodGet:
		c.ok(byName(kind))
	case len(c.parts) == 1 && c.r.Method == http.MethodPost:
		name, _ := c.body["name"].(string)
		if _, taken := kind[name]; taken {
			refuse(c.w, http.StatusConflict, "conflict", "a secret of this name is there already", "")
			return
		}
		if name == "" {
			c.invalid("name", fmt.Sprintf("name is missing in %v", c.body)) // a careless one repeats all of it
			return
		}
		shown := map[string]any{"name": name, "created_at": stamp(), "secret_type": "generic"}
		if files, ok := c.body["files"].([]any); ok {
			var names []any
			for _, file := range files {
				one, _ := file.(map[string]any)
				names = append(names, one["file_name"])
				c.word(one["base64_content"])
			}
			shown["secret_type"], shown["file_names"] = "file", names
		}
		for _, key := range []string{"value", "access_token", "secret_access_key", "service_account_key", "docker_config_json"} {
			c.word(c.body[key])
		}
		kind[name] = shown
		answer(c.w, http.StatusCreated, nil)
	case len(c.parts) == 2 && c.r.Method == http.MethodDelete:
		name := c.parts[1]
		if kind[name] == nil {
			c.noRoute()
			return
		}
		if c.used(name) && c.r.URL.Query().Get("force") != "true" {
			refuse(c.w, http.StatusConflict, "conflict", "a deployment uses it", "")
			return
		}
		delete(kind, name)
		c.w.WriteHeader(http.StatusNoContent)
	default:
		c.noRoute()
	}
}

func (c *call) word(value any) {
	if s, ok := value.(string); ok && s != "" {
		c.words = append(c.words, s)
	}
}

// used reports whether a deployment refers to a secret.
func (c *call) used(name string) bool {
	for _, d := range c.deployments {
		text, err := json.Marshal(d.facts)
		if err == nil && strings.Contains(string(text), `"`+name+`"`) {
			return true
		}
	}
	return false
}

func (c *call) jobDeployments() {
	if len(c.parts) == 1 {
		switch c.r.Method {
		case http.MethodGet:
			c.ok(byName(c.jobs))
		case http.MethodPost:
			name, _ := c.body["name"].(string)
			scaling, _ := c.body["scaling"].(map[string]any)
			if deadline, _ := scaling["deadline_seconds"].(float64); deadline < 1 {
				c.invalid("scaling.deadline_seconds", "must be positive")
				return
			}
			if c.jobs[name] != nil {
				refuse(c.w, http.StatusConflict, "conflict", "there is one of this name", "")
				return
			}
			c.body["created_at"], c.body["endpoint_base_url"] = stamp(), "http://"+c.r.Host+"/"+name
			c.jobs[name] = c.body
			answer(c.w, http.StatusCreated, c.body)
		default:
			c.noRoute()
		}
		return
	}
	name, last := c.parts[1], c.r.Method+" "+strings.Join(c.parts[2:], "/")
	j := c.jobs[name]
	if j == nil {
		c.noRoute()
		return
	}
	switch last {
	case "GET ":
		c.ok(j)
	case "PATCH ":
		maps.Copy(j, c.body)
		c.ok(j)
	case "DELETE ":
		delete(c.jobs, name)
		c.w.WriteHeader(http.StatusNoContent)
	case "GET status":
		c.ok(map[string]any{"status": map[bool]string{true: "paused", false: "healthy"}[c.pausedJobs[name]]})
	case "GET scaling":
		c.ok(j["scaling"])
	case "POST pause", "POST resume":
		c.pausedJobs[name] = c.parts[2] == "pause"
		c.w.WriteHeader(http.StatusNoContent)
	case "POST purge-queue":
		c.purged[name]++
		c.w.WriteHeader(http.StatusNoContent)
	default:
		c.noRoute()
	}
}

// Purged returns how often the queue of a deployment or a job deployment was purged.
func (f *Fake) Purged(name string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.purged[name]
}

func byName(all map[string]map[string]any) []any {
	out := []any{}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		out = append(out, all[name])
	}
	return out
}

func stamp() string { return time.Now().UTC().Format(time.RFC3339) }
