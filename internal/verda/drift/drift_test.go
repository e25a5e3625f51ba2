package drift_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/verda"
	"github.com/ahelme/comfyume/internal/verda/drift"
	"github.com/ahelme/comfyume/internal/verda/verdatest"
)

// plainOne is a deployment of a plain ComfyUI. extra stands behind its command.
func plainOne(name, extra string) string {
	return fmt.Sprintf(`{"name": %q, "is_spot": true, "compute": {"name": "H200", "size": 1}, "containers": [{
		"image": "hub/comfy:2.1.0", "exposed_port": 8188, "healthcheck": {"enabled": true, "port": 8188, "path": "/system_stats"},
		"entrypoint_overrides": {"enabled": true, "entrypoint": ["python"], "cmd": ["main.py", "--listen", "0.0.0.0", "--extra-model-paths-config", "/mnt/sfs/extra.yaml"%s]},
		"env": [{"type": "plain", "name": "TZ", "value_or_reference_to_secret": "UTC"}],
		"volume_mounts": [{"type": "shared", "mount_path": "/mnt/sfs", "volume_id": "vol-1"}]}],
		"scaling": {"max_replica_count": 2, "concurrent_requests_per_replica": 4, "queue_message_ttl_seconds": 900, "scale_down_policy": {"delay_seconds": 300}}}`, name, extra)
}

func client(t *testing.T, f *verdatest.Fake) *verda.Client {
	t.Helper()
	c, err := verda.New(verda.Credential{ID: "id", Secret: "secret"}, verda.Options{URL: f.Serve(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func expect(mode string, names ...string) (list []drift.Expected) {
	for _, n := range names {
		e := drift.Expected{BackEnd: n, Deployment: n, Mode: mode, Parallel: 2, Price: 2.8}
		if mode == "plain" {
			e.Folder = "/mnt/sfs/outputs"
		}
		list = append(list, e)
	}
	return list
}

// said are the sentences of findings, in order.
func said(r drift.Report) []string {
	out := []string{}
	for _, f := range r.Findings {
		s := f.Says()
		if !f.Applies {
			s += " [by hand]"
		}
		out = append(out, s)
	}
	return out
}

// TestFourDeployments is the trouble of the guide: only one of four writes its outputs to the shared folder.
func TestFourDeployments(t *testing.T) {
	t.Parallel()
	f := verdatest.New(verdatest.Options{LongImages: true})
	c := client(t, f)
	f.Deploy(t, plainOne("h200-spot", `, "--output-directory", "/mnt/sfs/outputs"`))
	f.Deploy(t, plainOne("h200", ""))
	f.Deploy(t, plainOne("b300-spot", `, "--output-directory", "/comfyui/output"`))
	f.Deploy(t, strings.NewReplacer("2.1.0", "2.0.9", `"volume_id": "vol-1"`, `"volume_id": "vol-2"`, `"TZ"`, `"TX"`).Replace(plainOne("b300", "")))
	all := expect("plain", "h200-spot", "h200", "b300-spot", "b300")
	r, err := drift.Look(t.Context(), c, all, "")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"h200-spot lacks variable TX (which b300 has; nobody decides). [by hand]",
		"h200 lacks --output-directory /mnt/sfs/outputs (settings: storage of h200).",
		"h200 lacks variable TX (which b300 has; nobody decides). [by hand]",
		"b300-spot has --output-directory /comfyui/output instead of /mnt/sfs/outputs (settings: storage of b300-spot).",
		"b300-spot lacks variable TX (which b300 has; nobody decides). [by hand]",
		"b300 lacks --output-directory /mnt/sfs/outputs (settings: storage of b300).",
		"b300 has image tag 2.0.9 instead of 2.1.0 (as in 3 of 4 deployments).",
		"b300 has mount /mnt/sfs shared vol-2 instead of shared vol-1 (as in 3 of 4 deployments).",
		"b300 lacks variable TZ UTC (as in 3 of 4 deployments).",
	}
	if diff := cmp.Diff(want, said(r)); diff != "" {
		t.Error(diff)
	}
	made, err := r.Apply(t.Context(), c)
	if err != nil || made != 3 {
		t.Fatalf("%v, %v", made, err)
	}
	if text := fmt.Sprint(f.Facts("b300")); !strings.Contains(text, "--output-directory /mnt/sfs/outputs") || !strings.Contains(text, "hub/comfy:2.1.0") {
		t.Error(text)
	}
	again, err := drift.Look(t.Context(), c, all, "h200")
	if err != nil || len(again.Changes) != 0 || len(again.Findings) != 1 || again.Findings[0].Deployment != "b300" { // its variable TX is for people to remove
		t.Errorf("%v, %v", said(again), err)
	}
}

// agentOne is a deployment with the agent as its entry point.
func agentOne(name string) string {
	return fmt.Sprintf(`{"name": %q, "containers": [{"image": "hub/comfy:2.1.0", "exposed_port": 8000,
		"entrypoint_overrides": {"enabled": true, "entrypoint": ["/usr/local/bin/comfyume"], "cmd": ["agent", "--listen", ":8000", "--key", "env:AGENT_KEY", "--comfyui-dir", "/comfyui"]},
		"env": [{"type": "secret", "name": "AGENT_KEY", "value_or_reference_to_secret": "agent-key"}]}],
		"scaling": {"max_replica_count": 2, "concurrent_requests_per_replica": 1}}`, name)
}

func TestWhatTheSettingsDecide(t *testing.T) {
	t.Parallel()
	const right = `"AGENT_KEY", "value_or_reference_to_secret": "agent-key"}]`
	for name, c := range map[string]struct {
		one  string // beside a right one
		mode string
		min  int
		want []string
	}{
		"right":    {agentOne("b"), "agent", 0, nil},
		"no key":   {strings.Replace(agentOne("b"), `"--key", "env:AGENT_KEY", `, "", 1), "agent", 0, []string{"b lacks --key env:COMFYUME_AGENT_KEY (settings: mode agent of b).", "b lacks variable COMFYUME_AGENT_KEY (settings: mode agent of b). [by hand]"}},
		"no value": {strings.Replace(agentOne("b"), `{"type": "secret", "name": "AGENT_KEY", "value_or_reference_to_secret": "agent-key"}`, "", 1), "agent", 0, []string{"b lacks variable AGENT_KEY secret agent-key (settings: mode agent of b)."}},
		"key in clear": {strings.Replace(agentOne("b"), "env:AGENT_KEY", "s3cr3t-word", 1), "async", 0, []string{
			"b has command with a secret in clear /usr/local/bin/comfyume agent --listen :8000 --key *** --comfyui-dir /comfyui instead of env:NAME (settings: secrets by reference). [by hand]",
		}},
		"variable in clear": {strings.Replace(agentOne("b"), right, `"AGENT_KEY", "value_or_reference_to_secret": "agent-key"}, {"type": "plain", "name": "HF_TOKEN", "value_or_reference_to_secret": "s3cr3t-word"}]`, 1), "agent", 0, []string{
			"b has variable HF_TOKEN in clear *** instead of a secret (settings: secrets by reference). [by hand]",
			"a lacks variable HF_TOKEN (which b has; nobody decides). [by hand]",
		}},
		"plain one": {plainOne("b", ""), "agent", 0, []string{"b has program python main.py instead of comfyume agent (settings: mode agent of b). [by hand]", "b has scaling concurrent_requests_per_replica 4 instead of 1 (settings: mode agent of b)."}},
		"scaling": {strings.Replace(agentOne("b"), `"max_replica_count": 2, "concurrent_requests_per_replica": 1`, `"min_replica_count": 1, "max_replica_count": 1, "concurrent_requests_per_replica": 8`, 1), "agent", 0, []string{
			"b has scaling concurrent_requests_per_replica 8 instead of 1 (settings: mode agent of b).",
			"b has scaling max_replica_count 1 instead of 2 (settings: max_parallel of b).",
			"b has scaling min_replica_count 1 instead of 0 (settings: outside every plan under warm of b, which costs 2.80 per hour).",
		}},
		"plan not carried out": {agentOne("b"), "agent", 1, []string{"b has scaling min_replica_count 0 instead of 1 (settings: warm of b). [by hand]"}},
		"image decides":        {strings.Replace(plainOne("b", ""), `"enabled": true, "entrypoint"`, `"enabled": false, "entrypoint"`, 1), "plain", 0, []string{"b has --output-directory unknown instead of /mnt/sfs/outputs (settings: storage of b). [by hand]"}},
		"no mount":             {strings.Replace(plainOne("b", `, "--output-directory=/mnt/sfs/outputs/"`), `"shared"`, `"scratch"`, 1), "plain", 0, []string{"b lacks a shared mount for /mnt/sfs/outputs (settings: storage of b). [by hand]"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := verdatest.New(verdatest.Options{})
			cl := client(t, f)
			f.Deploy(t, agentOne("a"))
			f.Deploy(t, c.one)
			all := expect(c.mode, "b")
			all[0].Least = c.min
			if strings.Contains(strings.Join(c.want, ""), "a lacks") || strings.Contains(name, "no value") {
				all = append(expect(c.mode, "a"), all...)
			}
			r, err := drift.Look(t.Context(), cl, all, "")
			if err != nil {
				t.Fatal(err)
			}
			got := said(r)
			slices.Sort(got)
			slices.Sort(c.want)
			if diff := cmp.Diff(append([]string{}, c.want...), got); diff != "" {
				t.Error(diff)
			}
			var shown []string
			for _, ch := range r.Changes {
				text, err := ch.Shown()
				if err != nil || !json.Valid(text) {
					t.Errorf("%s, %v", text, err)
				}
				shown = append(shown, string(text))
			}
			if strings.Contains(strings.Join(append(got, shown...), ""), "s3cr3t") {
				t.Errorf("the secret is in %s %s", got, shown)
			}
			for _, finding := range r.Findings {
				if !finding.Applies && finding.Remedy == "" {
					t.Errorf("no remedy: %s", finding.Says())
				}
			}
			// What is said to be mended by the change is.
			if err := seed(t.Context(), cl); err != nil {
				t.Fatal(err)
			}
			if _, err := r.Apply(t.Context(), cl); err != nil {
				t.Fatal(err)
			}
			again, err := drift.Look(t.Context(), cl, all, "")
			if err != nil {
				t.Fatal(err)
			}
			for _, finding := range again.Findings {
				if finding.Applies {
					t.Errorf("after the change: %s", finding.Says())
				}
			}
		})
	}
}

// seed makes the secret that deployments of these tests refer to.
func seed(ctx context.Context, c *verda.Client) error {
	return c.CreateSecret(ctx, "agent-key", verda.NewWord("k"))
}

func TestMissingDeployment(t *testing.T) {
	t.Parallel()
	f := verdatest.New(verdatest.Options{})
	c := client(t, f)
	f.Deploy(t, agentOne("a"))
	r, err := drift.Look(t.Context(), c, expect("agent", "a", "gone"), "")
	if err != nil || len(r.Findings) != 1 || !strings.Contains(r.Findings[0].Remedy, "there are a") {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := drift.Look(t.Context(), c, expect("agent", "a"), "nobody"); !fault.Is(err, fault.Missing) {
		t.Errorf("%v", err)
	}
}

func TestShellLines(t *testing.T) {
	t.Parallel()
	for line, by := range map[string]bool{
		`python main.py --listen 0.0.0.0`:          true,
		`cd /comfyui && python main.py --listen x`: false,
		`python main.py --output-directory '/a b'`: false, // a change inside a line is left to people
	} {
		f := verdatest.New(verdatest.Options{})
		c := client(t, f)
		body := map[string]any{"name": "s", "containers": []any{map[string]any{
			"image": "i:1", "entrypoint_overrides": map[string]any{"enabled": true, "entrypoint": []string{"/bin/sh", "-c"}, "cmd": []string{line}},
			"volume_mounts": []any{map[string]any{"type": "shared", "mount_path": "/mnt/sfs"}},
		}}, "scaling": map[string]any{"max_replica_count": 2}}
		text, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		f.Deploy(t, string(text))
		r, err := drift.Look(t.Context(), c, expect("plain", "s"), "")
		if err != nil || len(r.Findings) != 1 || r.Findings[0].Applies != by {
			t.Errorf("%s: %v, %v", line, said(r), err)
			continue
		}
		if _, err := r.Apply(t.Context(), c); err != nil {
			t.Error(err)
		}
		again, err := drift.Look(t.Context(), c, expect("plain", "s"), "")
		if err != nil || by != (len(again.Findings) == 0) {
			t.Errorf("%s: then %v, %v", line, said(again), err)
		}
	}
}

// TestChangesConverge: whatever deployments are like, after the changes no difference is left that a change could mend.
func TestChangesConverge(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		there := map[string]verda.Deployment{}
		names := []string{"a", "b", "c", "d"}
		for _, n := range names {
			there[n] = deployment(t, n)
		}
		mode := rapid.SampledFrom([]string{"plain", "agent"}).Draw(t, "mode")
		like := rapid.SampledFrom([]string{"", "a"}).Draw(t, "like")
		before := fmt.Sprint(there)
		target := store(there)
		r := drift.Compare(expect(mode, names...), there, like)
		if fmt.Sprint(there) != before {
			t.Fatal("comparing changed a deployment")
		}
		// What a deployment is given may ask for more, as a flag that names a variable does: so there may be further rounds.
		for range 5 {
			if _, err := r.Apply(context.Background(), target); err != nil {
				t.Fatal(err)
			}
			r = drift.Compare(expect(mode, names...), there, like)
		}
		for _, f := range r.Findings {
			if f.Applies {
				t.Fatalf("still: %s", f.Says())
			}
		}
	})
}

func deployment(t *rapid.T, name string) verda.Deployment {
	pick := func(what string, of ...string) string { return rapid.SampledFrom(of).Draw(t, what) }
	c := verda.Container{Image: verda.Image("hub/c:" + pick("tag", "1", "2")), Port: 8188, Entrypoint: &verda.Entrypoint{Enabled: true, Entrypoint: []string{pick("program", "python main.py", "comfyume agent")}}}
	for _, flag := range []string{"--output-directory", "--verbose", "--key"} {
		if v := pick(flag, "", "/mnt/sfs/outputs", "env:K"); v != "" {
			c.Entrypoint.Cmd = append(c.Entrypoint.Cmd, flag, v)
		}
	}
	if v := pick("variable", "", "x", "y"); v != "" {
		c.Env = []verda.Variable{{Type: pick("type", verda.Plain, verda.Reference), Name: pick("name", "K", "TZ"), Value: v}}
	}
	if v := pick("mount", "", "v1", "v2"); v != "" {
		c.Mounts = []verda.Mount{{Type: "shared", Path: "/mnt/sfs", Volume: v}}
	}
	s := verda.Scaling{Max: rapid.IntRange(1, 3).Draw(t, "max"), Concurrent: rapid.IntRange(1, 2).Draw(t, "concurrent"), TTL: 100 * rapid.IntRange(1, 2).Draw(t, "ttl")}
	return verda.Deployment{Name: name, Containers: []verda.Container{c}, Scaling: &s}
}

// store is deployments in memory.
type store map[string]verda.Deployment

func (s store) ChangeDeployment(_ context.Context, name string, ch verda.DeploymentChange) (verda.Deployment, error) {
	d := s[name]
	if ch.Containers != nil {
		d.Containers = ch.Containers
	}
	s[name] = d
	return d, nil
}

func (s store) ChangeScaling(_ context.Context, name string, c verda.ScalingChange) (verda.Scaling, error) {
	d := s[name]
	next := *d.Scaling
	for from, to := range map[*int]*int{c.Min: &next.Min, c.Max: &next.Max, c.TTL: &next.TTL, c.Concurrent: &next.Concurrent} {
		if from != nil {
			*to = *from
		}
	}
	d.Scaling = &next
	s[name] = d
	return next, nil
}
