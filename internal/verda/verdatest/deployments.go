package verdatest

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// Deploy makes a deployment of what a request to make one would have as its body.
func (f *Fake) Deploy(t testing.TB, body string) {
	t.Helper()
	var facts map[string]any
	if err := json.Unmarshal([]byte(body), &facts); err != nil {
		t.Fatalf("deployment: %v", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	name, _ := facts["name"].(string)
	f.deploy(name, "verda.test", facts)
}

// Keep makes a secret of which nobody knows the value, for variables to refer to.
func (f *Fake) Keep(name string) {
	f.mu.Lock()
	f.kept["secrets"][name] = map[string]any{"name": name, "created_at": stamp(), "secret_type": "generic"}
	f.mu.Unlock()
}

// Facts returns what a deployment is made of, as its answer would have it; nil: there is none.
func (f *Fake) Facts(name string) map[string]any {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := f.deployments[name]
	if d == nil {
		return nil
	}
	return clone(d.facts)
}

// SetStatus has a deployment say how it is; empty: by its replicas.
func (f *Fake) SetStatus(name, status string) {
	f.mu.Lock()
	f.deployments[name].fixed = status
	f.mu.Unlock()
}

func (f *Fake) deploy(name, host string, facts map[string]any) *deployment {
	scaling := map[string]any{
		"min_replica_count": 0.0, "max_replica_count": 1.0, "scale_down_policy": map[string]any{"delay_seconds": 300.0},
		"scale_up_policy": map[string]any{"delay_seconds": 0.0}, "queue_message_ttl_seconds": 3600.0, "concurrent_requests_per_replica": 1.0,
		"scaling_triggers": map[string]any{"queue_load": map[string]any{"threshold": 1.0}},
	}
	if given, ok := facts["scaling"].(map[string]any); ok {
		maps.Copy(scaling, given)
	}
	facts["scaling"] = scaling
	facts["created_at"], facts["endpoint_base_url"] = stamp(), "http://"+host+"/"+name
	list, _ := facts["containers"].([]any)
	for i, c := range list {
		if one := c.(map[string]any); one["name"] == nil {
			one["name"] = fmt.Sprintf("%s-%d", name, i)
		}
	}
	d := &deployment{fake: f, name: name, facts: facts}
	f.deployments[name] = d
	d.scale()
	return d
}

// clone copies JSON.
func clone(v map[string]any) map[string]any {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	var out map[string]any
	if err := json.Unmarshal(text, &out); err != nil {
		panic(err)
	}
	return out
}

// shown is a deployment as answers have it: images are objects there, where that is chosen.
func (c *call) shown(d *deployment) map[string]any {
	out := clone(d.facts)
	list, _ := out["containers"].([]any)
	for _, one := range list {
		if container := one.(map[string]any); c.o.LongImages {
			container["image"] = map[string]any{"image": container["image"], "last_updated_at": stamp()}
		}
	}
	return out
}

func (c *call) containerDeployments() {
	if len(c.parts) == 1 {
		switch c.r.Method {
		case http.MethodGet:
			list := []any{}
			for _, name := range slices.Sorted(maps.Keys(c.deployments)) {
				if p := c.r.URL.Query().Get("projectId"); p == "" || p == c.deployments[name].facts["project_id"] {
					list = append(list, c.shown(c.deployments[name]))
				}
			}
			c.ok(list)
		case http.MethodPost:
			c.newDeployment()
		default:
			c.noRoute()
		}
		return
	}
	d := c.deployments[c.parts[1]]
	if d == nil {
		refuse(c.w, http.StatusNotFound, "not_found", "deployment not found", "")
		return
	}
	if len(c.parts) > 2 && c.parts[2] == "environment-variables" {
		c.environment(d)
		return
	}
	switch c.r.Method + " " + strings.Join(c.parts[2:], "/") {
	case "GET ":
		c.ok(c.shown(d))
	case "PATCH ":
		c.changeDeployment(d)
	case "DELETE ":
		d.end()
		delete(c.deployments, d.name)
		c.w.WriteHeader(http.StatusNoContent)
	case "GET status":
		c.ok(map[string]any{"status": d.status()})
	case "GET scaling":
		c.ok(d.facts["scaling"])
	case "PATCH scaling":
		if c.rescale(d, c.body) {
			c.ok(d.facts["scaling"])
		}
	case "GET replicas":
		c.ok(map[string]any{"list": d.list()})
	case "POST pause":
		d.paused = true
		d.stopAll()
		c.w.WriteHeader(http.StatusNoContent)
	case "POST resume":
		d.paused = false
		d.scale()
		c.w.WriteHeader(http.StatusNoContent)
	case "POST restart":
		d.stopAll()
		d.scale()
		c.w.WriteHeader(http.StatusNoContent)
	case "POST purge-queue":
		c.purged[d.name]++
		d.purge()
		c.w.WriteHeader(http.StatusNoContent)
	default:
		c.noRoute()
	}
}

func (c *call) newDeployment() {
	name, _ := c.body["name"].(string)
	containers, _ := c.body["containers"].([]any)
	compute, _ := c.body["compute"].(map[string]any)
	switch {
	case name == "":
		c.invalid("name", "should not be empty")
		return
	case c.deployments[name] != nil:
		refuse(c.w, http.StatusConflict, "conflict", "a deployment of this name is there already", "")
		return
	case len(containers) == 0:
		c.invalid("containers", "should not be empty")
		return
	case compute["name"] == nil:
		c.invalid("compute.name", "should not be empty")
		return
	}
	for i, one := range containers {
		if port, _ := one.(map[string]any)["exposed_port"].(float64); port < 1 {
			c.invalid(fmt.Sprintf("containers[%d].exposed_port", i), "must not be less than 1")
			return
		}
	}
	if !c.secretsAreThere(containers) {
		return
	}
	answer(c.w, http.StatusCreated, c.shown(c.deploy(name, c.r.Host, c.body)))
}

// secretsAreThere refuses variables that refer to secrets nobody made.
func (c *call) secretsAreThere(containers []any) bool {
	for i, one := range containers {
		list, _ := one.(map[string]any)["env"].([]any)
		for j, v := range list {
			variable := v.(map[string]any)
			ref, _ := variable["value_or_reference_to_secret"].(string)
			if variable["type"] == "secret" && c.kept["secrets"][ref] == nil {
				c.invalid(fmt.Sprintf("containers[%d].env[%d]", i, j), "secret "+ref+" not found")
				return false
			}
		}
	}
	return true
}

func (c *call) changeDeployment(d *deployment) {
	if containers, ok := c.body["containers"].([]any); ok {
		if !c.secretsAreThere(containers) {
			return
		}
		have, _ := d.facts["containers"].([]any)
		for i, one := range containers { // the names stay where none is given
			if one := one.(map[string]any); one["name"] == nil && i < len(have) {
				one["name"] = have[i].(map[string]any)["name"]
			}
		}
		d.facts["containers"] = containers
		d.stopAll() // a new version
		d.scale()
	}
	for _, key := range []string{"is_spot", "compute", "container_registry_settings"} {
		if v, ok := c.body[key]; ok {
			d.facts[key] = v
		}
	}
	if scaling, ok := c.body["scaling"].(map[string]any); ok && !c.rescale(d, scaling) {
		return
	}
	c.ok(c.shown(d))
}

// rescale takes over scaling options, unless they are wrong or above the quota.
func (c *call) rescale(d *deployment, change map[string]any) bool {
	next := maps.Clone(d.facts["scaling"].(map[string]any))
	maps.Copy(next, change)
	least, most := next["min_replica_count"].(float64), next["max_replica_count"].(float64)
	switch {
	case least > most:
		c.invalid("min_replica_count", "must not be greater than max_replica_count")
		return false
	case int(most) > c.o.MaxReplicas:
		refuse(c.w, http.StatusForbidden, "quota_exceeded", fmt.Sprintf("quota exceeded: at most %d replicas", c.o.MaxReplicas), "")
		return false
	}
	d.facts["scaling"] = next
	d.scale()
	return true
}

// environment answers calls about the variables of containers.
func (c *call) environment(d *deployment) {
	containers, _ := d.facts["containers"].([]any)
	if c.r.Method == http.MethodGet {
		c.ok(environments(containers))
		return
	}
	at := slices.IndexFunc(containers, func(v any) bool { return v.(map[string]any)["name"] == c.body["container_name"] })
	if at < 0 {
		c.invalid("container_name", "there is no such container")
		return
	}
	one := containers[at].(map[string]any)
	have, _ := one["env"].([]any)
	have = slices.Clone(have)
	given, _ := c.body["env"].([]any)
	index := func(name any) int {
		return slices.IndexFunc(have, func(v any) bool { return v.(map[string]any)["name"] == name })
	}
	for _, v := range given {
		name := v
		if variable, ok := v.(map[string]any); ok {
			name = variable["name"]
		}
		i := index(name)
		switch {
		case c.r.Method == http.MethodPost && i >= 0:
			refuse(c.w, http.StatusConflict, "conflict", fmt.Sprintf("%v is there already", name), "")
			return
		case c.r.Method != http.MethodPost && i < 0:
			refuse(c.w, http.StatusBadRequest, "invalid_request", fmt.Sprintf("there is no variable %v", name), "env")
			return
		case c.r.Method == http.MethodPost:
			have = append(have, v)
		case c.r.Method == http.MethodPatch:
			have[i] = v
		case c.r.Method == http.MethodDelete:
			have = slices.Delete(have, i, i+1)
		}
	}
	before := one["env"]
	one["env"] = have
	if !c.secretsAreThere(containers) {
		one["env"] = before
		return
	}
	if c.r.Method == http.MethodPatch { // the one that was changed, alone
		c.ok(environments(containers)[at])
		return
	}
	c.ok(environments(containers))
}

func environments(containers []any) []any {
	list := []any{}
	for _, v := range containers {
		one := v.(map[string]any)
		env := one["env"]
		if env == nil {
			env = []any{}
		}
		list = append(list, map[string]any{"container_name": one["name"], "env": env})
	}
	return list
}
