package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/cli"
	"github.com/ahelme/comfyume/internal/verda/verdatest"
)

// The secrets of these tests. None of them may be seen anywhere.
const (
	verdaID     = "cid-5e1a77"
	verdaSecret = "csecret-9+/b44=="
	verdaKey    = "infer-k3y-031"
	inClear     = "hf-cl3ar-w0rd"
)

// agentAt is a deployment with the agent as its entry point, and a token that somebody left there in clear.
func agentAt(name, image string) string {
	return fmt.Sprintf(`{"name": %q, "is_spot": true, "compute": {"name": "H200", "size": 1}, "containers": [{"name": "comfy", "image": %q, "exposed_port": 8000,
		"entrypoint_overrides": {"enabled": true, "entrypoint": ["comfyume"], "cmd": ["agent", "--listen", ":8000", "--key", "env:AGENT_KEY"]},
		"env": [{"type": "secret", "name": "AGENT_KEY", "value_or_reference_to_secret": "agent-key"}, {"type": "plain", "name": "HF_TOKEN", "value_or_reference_to_secret": %q},
			{"type": "plain", "name": "LOG", "value_or_reference_to_secret": "debug"}]}],
		"scaling": {"max_replica_count": 3, "concurrent_requests_per_replica": 1, "queue_message_ttl_seconds": 900}}`, name, image, inClear)
}

// provided is a studio's settings with three deployments at a simulated Verda.
type provided struct {
	program
	fake *verdatest.Fake
	file string
	said *bytes.Buffer // everything that was printed
}

func provide(t *testing.T) provided {
	t.Helper()
	p := provided{program: program{t, t.TempDir()}, said: &bytes.Buffer{}}
	p.fake = verdatest.New(verdatest.Options{ID: verdaID, Secret: verdaSecret, InferenceKey: verdaKey})
	url := p.fake.Serve(t)
	p.fake.Keep("agent-key")
	for name, word := range map[string]string{"id": verdaID, "secret": verdaSecret + "\n", "key": verdaKey} {
		if err := os.WriteFile(filepath.Join(p.dir, name), []byte(word), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	settings := "providers:\n  verda: {client_id: file:id, client_secret: file:secret, url: " + url + "}\nbackends:\n"
	for _, name := range []string{"one", "two", "three"} {
		p.fake.Deploy(t, agentAt("h200-"+name, "hub/comfy:2.1.0"))
		settings += "  - {name: " + name + ", driver: serverless, url: 'http://127.0.0.1:1/h200-" + name +
			"', key: file:key, max_parallel: 2, price_per_hour: 2.8, provider: {name: verda, deployment: h200-" + name + "}}\n"
	}
	p.file = filepath.Join(p.dir, "comfyume.yaml")
	if err := os.WriteFile(p.file, []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

// verda runs a command about the provider, and keeps what it prints.
func (p provided) verda(args ...string) (code int, stdout, stderr string) {
	p.t.Helper()
	var out, errs bytes.Buffer
	sys := cli.System{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs, Environ: []string{"HOME=" + p.dir}}
	code = cli.Main(p.t.Context(), append(append([]string{"backend", "verda"}, args...), "--config", p.file), sys)
	p.said.WriteString(out.String() + errs.String())
	return code, out.String(), errs.String()
}

// clean fails when something secret was printed.
func (p provided) clean() {
	p.t.Helper()
	for _, word := range append(p.fake.Words(), inClear, "s3cr3t") {
		if strings.Contains(p.said.String(), word) {
			p.t.Errorf("%q was printed in\n%s", word, p.said)
		}
	}
}

func TestVerdaCommands(t *testing.T) {
	t.Parallel()
	p := provide(t)
	for _, c := range []struct {
		args string
		code int
		want []string // in what is printed
	}{
		{"list", 0, []string{"h200-one", "healthy", "spot", "0 of 0-3", "hub/comfy:2.1.0"}},
		{"status one", 0, []string{"name      h200-one", "back end  one", "command   comfyume agent --listen :8000 --key env:AGENT_KEY", "HF_TOKEN = *** (a secret in clear)", "AGENT_KEY = secret agent-key"}},
		{"status h200-one --json", 0, []string{`"in_clear": true`, `"command": [`}},
		{"status h200-on", 1, []string{"There is no deployment h200-on at Verda.", "Did you mean h200-one"}},
		{"scale one", 0, []string{"0 to 3 containers, 1 requests each, 15m in the queue at most"}},
		{"scale one --min 1 --ttl 20m --down 90s", 0, []string{"1 to 3 containers", "20m in the queue", "down after 1m30s", "awake     2.80 per hour"}},
		{"scale one --min 7", 1, []string{"min_replica_count", "max_replica_count"}},
		{"scale one --max 99", 1, []string{"at most 10 replicas", "quota"}},
		{"scale one --ttl 1500ms", 2, []string{"whole seconds"}},
		{"replicas one", 0, []string{"h200-one-1", "running"}},
		{"env one", 0, []string{"comfy", "LOG", "debug", "***"}},
		{"env one --set LOG=info --set TZ=UTC --remove HF_TOKEN", 0, []string{"info", "TZ"}},
		{"env one --secret HF_TOKEN=hf", 1, []string{"secret hf not found"}},
		{"env one --set HF_TOKEN=s3cr3t-typed", 1, []string{"HF_TOKEN looks like a secret", "--secret HF_TOKEN=SECRET"}},
		{"env one --set s3cr3t-typed", 2, []string{"has no ="}},
		{"env one --remove NOPE", 1, []string{"no variable NOPE"}},
		{"env one --container other --set A=1", 1, []string{"no container", "It has comfy"}},
		{"pause two", 0, []string{"two: paused"}},
		{"status two", 3, []string{"status    paused"}},
		{"resume two", 0, []string{"two: goes on"}},
		{"restart two", 0, []string{"restarts"}},
		{"purge two --json", 0, []string{`"done": "purge"`}},
		{"pause nobody", 1, []string{"There is no deployment nobody"}},
		{"available", 0, []string{"H200", "yes", "B300", "no"}},
	} {
		code, out, errs := p.verda(strings.Fields(c.args)...)
		if code != c.code {
			t.Errorf("%s: %d, want %d: %s%s", c.args, code, c.code, out, errs)
		}
		for _, w := range c.want {
			if !strings.Contains(out+errs, w) {
				t.Errorf("%s: %q is missing in\n%s%s", c.args, w, out, errs)
			}
		}
	}
	if n := p.fake.Purged("h200-two"); n != 1 {
		t.Errorf("purged %d times", n)
	}
	p.clean()
}

func TestVerdaDriftCommand(t *testing.T) {
	t.Parallel()
	p := provide(t)
	p.fake.Deploy(t, strings.Replace(agentAt("h200-three", "hub/comfy:2.0.0"), `"max_replica_count": 3`, `"max_replica_count": 1, "min_replica_count": 1`, 1))
	code, out, errs := p.verda("drift")
	for _, w := range []string{
		"h200-three has image tag 2.0.0 instead of 2.1.0 (as in 2 of 3 deployments).",
		"h200-three has scaling max_replica_count 1 instead of 2 (settings: max_parallel of three).",
		"h200-three has scaling min_replica_count 1 instead of 0 (settings: outside every plan under warm of three, which costs 2.80 per hour).",
		"h200-one has variable HF_TOKEN in clear *** instead of a secret",
		"PATCH /container-deployments/h200-three",
		"--apply",
	} {
		if !strings.Contains(out, w) {
			t.Errorf("%q is missing in\n%s", w, out)
		}
	}
	if code != 3 {
		t.Errorf("%d %s", code, errs)
	}
	if code, out, errs := p.verda("drift", "--apply", "--json"); code != 3 || !strings.Contains(out, `"done": true`) { // the token in clear stays
		t.Errorf("%d %s%s", code, out, errs)
	}
	_, out, _ = p.verda("drift", "--json")
	var d struct {
		Findings []struct {
			What    string
			Applies bool
		}
		Changes []any
	}
	if err := json.Unmarshal([]byte(out), &d); err != nil || len(d.Changes) != 0 || len(d.Findings) != 3 {
		t.Errorf("%v %s", err, out)
	}
	env := p.fake.Facts("h200-three")["containers"].([]any)[0].(map[string]any)["env"]
	if !strings.Contains(fmt.Sprint(env), inClear) {
		t.Errorf("the change lost a value: %v", env)
	}
	if code, _, errs := p.verda("drift", "--like", "nobody"); code != 1 || !strings.Contains(errs, "to be the model") {
		t.Errorf("%d %s", code, errs)
	}
	p.clean()
}

// TestVerdaTrouble: what is wrong is said with what to do, and no secret in it.
func TestVerdaTrouble(t *testing.T) {
	t.Parallel()
	p := provide(t)
	settings, err := os.ReadFile(p.file)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(p.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		settings, secret string
		code             int
		want             []string
	}{
		"wrong secret":      {string(settings), "mistyped-s3cr3t", 1, []string{"does not take the credential", "providers.verda.client_id"}},
		"no secret":         {strings.Replace(string(settings), "file:secret", "file:nothing", 1), "", 1, []string{"can't be read", "nothing"}},
		"no account":        {string(settings)[strings.Index(string(settings), "backends:"):], "", 1, []string{"name no credential", "cloud-api-v1"}},
		"secret in clear":   {strings.Replace(string(settings), "file:secret", "s3cr3t", 1), "", 1, []string{"never written in clear"}},
		"without back ends": {string(settings)[:strings.Index(string(settings), "backends:")], verdaSecret, 1, []string{"No back end of the settings names a deployment"}},
	} {
		write("comfyume.yaml", c.settings)
		write("secret", c.secret)
		code, out, errs := p.verda("drift")
		if code != c.code || out != "" {
			t.Errorf("%s: %d %s", name, code, out)
		}
		for _, w := range c.want {
			if !strings.Contains(errs, w) {
				t.Errorf("%s: %q is missing in %s", name, w, errs)
			}
		}
	}
	write("comfyume.yaml", string(settings))
	write("secret", verdaSecret)
	p.fake.Fail(verdatest.Fault{Path: "restart", Method: "POST", Status: 500, Body: `{"message": "token ` + verdaSecret + ` failed"}`})
	if code, _, errs := p.verda("restart", "one"); code != 1 || !strings.Contains(errs, "no answer that says whether this was done") {
		t.Errorf("%d %s", code, errs)
	}
	p.clean()
}

// TestVerdaBesideAServer: the same commands ask the server that runs, which keeps containers awake by plan.
func TestVerdaBesideAServer(t *testing.T) {
	t.Parallel()
	p := provide(t)
	settings, err := os.ReadFile(p.file)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(settings), "provider: {name: verda, deployment: h200-one}", "provider: {name: verda, deployment: h200-one}, warm: [{from: '00:00', to: '24:00', min: 2}]", 1)
	text = strings.ReplaceAll(text, "driver: serverless, ", "driver: serverless, mode: agent, ") + "data: " + filepath.Join(p.dir, "data") + "\n"
	if err := os.WriteFile(p.file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	log := p.server()
	before := len(p.fake.Calls("/v1/oauth2/token"))
	waitFor(t, func() bool { ready, _ := p.fake.Replicas("h200-one"); return len(ready) == 2 })
	code, out, errs := p.verda("scale", "one")
	if code != 0 || !strings.Contains(out, "2 to 3 containers") || !strings.Contains(out, "plan      h200-one keeps 2 containers awake by plan: 5.60 per hour") {
		t.Errorf("%d %s%s", code, out, errs)
	}
	if after := len(p.fake.Calls("/v1/oauth2/token")); before > 1 || after != 1 {
		t.Errorf("%d tokens: the command did not ask the server", after)
	}
	if _, out, _ := p.verda("drift"); strings.Contains(out, "min_replica_count") {
		t.Errorf("what is by plan is no difference: %s", out)
	}
	kept, err := os.ReadFile(filepath.Join(p.dir, "data", "kept-awake.json"))
	if err != nil || !strings.Contains(string(kept), `"set"`) {
		t.Errorf("%s, %v", kept, err)
	}
	p.said.WriteString(log.String() + string(kept))
	p.clean()
}

// locked is a buffer for several writers.
type locked struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *locked) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// server runs a studio with the settings until the test ends, and returns what it logs.
func (p provided) server() *locked {
	p.t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	log, ended := &locked{}, make(chan int, 1)
	go func() {
		sys := cli.System{Stdin: strings.NewReader(""), Stdout: log, Stderr: log, Environ: []string{"HOME=" + p.dir}}
		ended <- cli.Main(ctx, []string{"serve", "--listen", "127.0.0.1:0", "--metrics", "", "--queue-api", "", "--log-level", "debug", "--config", p.file}, sys)
	}()
	p.t.Cleanup(func() {
		stop()
		if code := <-ended; code != 0 {
			p.t.Errorf("serve ended with %d: %s", code, log)
		}
	})
	waitFor(p.t, func() bool {
		return strings.Contains(log.String(), "msg=ready") || strings.Contains(log.String(), `"msg":"ready"`)
	})
	return log
}

// waitFor waits until something is so.
func waitFor(t *testing.T, so func() bool) {
	t.Helper()
	tick, end := time.NewTicker(5*time.Millisecond), time.After(20*time.Second)
	defer tick.Stop()
	for !so() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatal("it did not come to that")
		}
	}
}
