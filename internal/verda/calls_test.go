package verda_test

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/verda"
	"github.com/ahelme/comfyume/internal/verda/verdatest"
)

// The credential of the tests. It looks like nothing else, so that it can be searched for.
const (
	clientID = "cid-7f3a91"
	secret   = "csec-b64c/+e1=\"x\""
)

// deployed is a deployment as one is made for a studio.
func deployed(name string) verda.NewDeployment {
	return verda.NewDeployment{
		Name: name, Spot: true, Compute: verda.Compute{Name: "H200", Size: 1},
		Registry: verda.Registry{Private: true, Credentials: &verda.RegistryRef{Name: "hub"}},
		Scaling: verda.Scaling{
			Max: 3, Down: &verda.Delay{Seconds: 300}, Up: &verda.Delay{}, TTL: 900, Concurrent: 1,
			Triggers: &verda.Triggers{Queue: &verda.QueueLoad{Threshold: 1}},
		},
		Containers: []verda.Container{{
			Name: "comfy", Image: "registry.example:5000/studio/comfy:1.4.2", Port: 8188,
			Health:     &verda.Health{Enabled: true, Port: 8188, Path: "/healthz"},
			Entrypoint: &verda.Entrypoint{Enabled: true, Entrypoint: []string{"comfyume"}, Cmd: []string{"agent", "--listen", ":8188"}},
			Env: []verda.Variable{
				{Type: verda.Reference, Name: "COMFYUME_AGENT_KEY", Value: "agent-key"}, {Type: verda.Plain, Name: "LOG", Value: "debug"},
			},
			Mounts: []verda.Mount{{Type: "shared", Path: "/mnt/sfs", Volume: "vol-1"}, {Type: "memory", Path: "/dev/shm", SizeMB: 1024}},
		}},
	}
}

// step is one call of the interface.
type step struct {
	name string
	do   func(ctx context.Context, c *verda.Client) (any, error)
	want any // nil: it has no answer; a func(any) bool: it is looked at
}

func none(err error) (any, error) { return nil, err }

// steps are all calls of the interface, in an order in which each of them finds what it needs.
func steps() []step {
	one, two := 1, 2
	named := func(names ...string) any {
		return func(v any) bool {
			var got []string
			switch list := v.(type) {
			case []verda.Deployment:
				for _, d := range list {
					got = append(got, d.Name)
				}
			case []verda.Job:
				for _, j := range list {
					got = append(got, j.Name)
				}
			case []verda.Secret:
				for _, s := range list {
					got = append(got, s.Name)
				}
			case []verda.RegistryCredential:
				for _, r := range list {
					got = append(got, r.Name)
				}
			}
			return slices.Equal(got, names)
		}
	}
	env := func(vars ...verda.Variable) any {
		return func(v any) bool {
			got, ok := v.([]verda.Environment)
			return ok && len(got) == 1 && got[0].Container == "comfy" && slices.Equal(got[0].Env, vars)
		}
	}
	key := verda.Variable{Type: verda.Reference, Name: "COMFYUME_AGENT_KEY", Value: "agent-key"}
	return []step{
		{"create secret", func(ctx context.Context, c *verda.Client) (any, error) {
			return none(c.CreateSecret(ctx, "agent-key", verda.NewWord("agent-s3cr3t")))
		}, nil},
		{"secrets", func(ctx context.Context, c *verda.Client) (any, error) { return c.Secrets(ctx) }, named("agent-key")},
		{"create file secret", func(ctx context.Context, c *verda.Client) (any, error) {
			return none(c.CreateFileSecret(ctx, "certs", map[string][]byte{"key.pem": []byte("pem-s3cr3t")}))
		}, nil},
		{"file secrets", func(ctx context.Context, c *verda.Client) (any, error) { return c.FileSecrets(ctx) }, func(v any) bool {
			list, ok := v.([]verda.Secret)
			return ok && len(list) == 1 && slices.Equal(list[0].Files, []string{"key.pem"})
		}},
		{"create registry credential", func(ctx context.Context, c *verda.Client) (any, error) {
			return none(c.CreateRegistryCredential(ctx, verda.NewRegistryCredential{
				Name: "hub", Type: "dockerhub", Facts: map[string]string{"username": "studio"}, Words: map[string]verda.Word{"access_token": verda.NewWord("hub-s3cr3t")},
			}))
		}, nil},
		{"registry credentials", func(ctx context.Context, c *verda.Client) (any, error) { return c.RegistryCredentials(ctx) }, named("hub")},
		{"resources", func(ctx context.Context, c *verda.Client) (any, error) { return c.Resources(ctx) }, []verda.Available{
			{Name: "H200", Size: 1, Available: true}, {Name: "B300", Size: 1},
		}},
		{"create", func(ctx context.Context, c *verda.Client) (any, error) {
			return c.CreateDeployment(ctx, deployed("h200 spot/1"))
		}, func(v any) bool { d, ok := v.(verda.Deployment); return ok && d.Endpoint != "" && !d.Created.IsZero() }},
		{"list", func(ctx context.Context, c *verda.Client) (any, error) { return c.Deployments(ctx, "") }, named("h200 spot/1")},
		{"list of a project", func(ctx context.Context, c *verda.Client) (any, error) { return c.Deployments(ctx, "other & more") }, named()},
		{"read", func(ctx context.Context, c *verda.Client) (any, error) { return c.Deployment(ctx, "h200 spot/1") }, func(v any) bool {
			d, ok := v.(verda.Deployment)
			return ok && d.Spot && d.Containers[0].Image == deployed("").Containers[0].Image && d.Scaling.TTL == 900
		}},
		{"change", func(ctx context.Context, c *verda.Client) (any, error) {
			off := false
			return c.ChangeDeployment(ctx, "h200 spot/1", verda.DeploymentChange{Spot: &off, Containers: deployed("").Containers})
		}, func(v any) bool { d, ok := v.(verda.Deployment); return ok && !d.Spot }},
		{"status", func(ctx context.Context, c *verda.Client) (any, error) { return c.Status(ctx, "h200 spot/1") }, verda.Healthy},
		{"scaling", func(ctx context.Context, c *verda.Client) (any, error) { return c.Scaling(ctx, "h200 spot/1") }, deployed("").Scaling},
		{"change scaling", func(ctx context.Context, c *verda.Client) (any, error) {
			return c.ChangeScaling(ctx, "h200 spot/1", verda.ScalingChange{Min: &one, Max: &two})
		}, func(v any) bool { s, ok := v.(verda.Scaling); return ok && s.Min == 1 && s.Max == 2 && s.TTL == 900 }},
		{"replicas", func(ctx context.Context, c *verda.Client) (any, error) { return c.Replicas(ctx, "h200 spot/1") }, func(v any) bool {
			list, ok := v.([]verda.Replica)
			return ok && len(list) == 1 && list[0].Status == "running" && !list[0].Started.IsZero()
		}},
		{"environment", func(ctx context.Context, c *verda.Client) (any, error) { return c.Environment(ctx, "h200 spot/1") }, env(key, verda.Variable{Type: "plain", Name: "LOG", Value: "debug"})},
		{"add variables", func(ctx context.Context, c *verda.Client) (any, error) {
			return none(c.AddVariables(ctx, "h200 spot/1", "comfy", []verda.Variable{{Type: "plain", Name: "TZ", Value: "UTC"}}))
		}, nil},
		{"change variables", func(ctx context.Context, c *verda.Client) (any, error) {
			return none(c.ChangeVariables(ctx, "h200 spot/1", "comfy", []verda.Variable{{Type: "plain", Name: "LOG", Value: "info"}}))
		}, nil},
		{"remove variables", func(ctx context.Context, c *verda.Client) (any, error) {
			return none(c.RemoveVariables(ctx, "h200 spot/1", "comfy", []string{"TZ"}))
		}, nil},
		{"environment then", func(ctx context.Context, c *verda.Client) (any, error) { return c.Environment(ctx, "h200 spot/1") }, env(key, verda.Variable{Type: "plain", Name: "LOG", Value: "info"})},
		{"pause", func(ctx context.Context, c *verda.Client) (any, error) { return none(c.Pause(ctx, "h200 spot/1")) }, nil},
		{"paused", func(ctx context.Context, c *verda.Client) (any, error) { return c.Status(ctx, "h200 spot/1") }, verda.Paused},
		{"resume", func(ctx context.Context, c *verda.Client) (any, error) { return none(c.Resume(ctx, "h200 spot/1")) }, nil},
		{"restart", func(ctx context.Context, c *verda.Client) (any, error) { return none(c.Restart(ctx, "h200 spot/1")) }, nil},
		{"purge", func(ctx context.Context, c *verda.Client) (any, error) { return none(c.Purge(ctx, "h200 spot/1")) }, nil},
		{"create job", func(ctx context.Context, c *verda.Client) (any, error) {
			return c.CreateJob(ctx, verda.NewJob{Name: "batch", Containers: deployed("").Containers, Compute: verda.Compute{Name: "H200", Size: 1}, Scaling: verda.JobScaling{Max: 2, Deadline: 600, TTL: 60}})
		}, func(v any) bool { j, ok := v.(verda.Job); return ok && j.Name == "batch" }},
		{"jobs", func(ctx context.Context, c *verda.Client) (any, error) { return c.Jobs(ctx) }, named("batch")},
		{"job", func(ctx context.Context, c *verda.Client) (any, error) { return c.Job(ctx, "batch") }, func(v any) bool { j, ok := v.(verda.Job); return ok && j.Scaling.Deadline == 600 }},
		{"change job", func(ctx context.Context, c *verda.Client) (any, error) {
			return c.ChangeJob(ctx, "batch", verda.JobChange{Scaling: &verda.JobScaling{Max: 4, Deadline: 60}})
		}, func(v any) bool { j, ok := v.(verda.Job); return ok && j.Scaling.Max == 4 }},
		{"job scaling", func(ctx context.Context, c *verda.Client) (any, error) { return c.JobScaling(ctx, "batch") }, verda.JobScaling{Max: 4, Deadline: 60}},
		{"pause job", func(ctx context.Context, c *verda.Client) (any, error) { return none(c.PauseJob(ctx, "batch")) }, nil},
		{"job status", func(ctx context.Context, c *verda.Client) (any, error) { return c.JobStatus(ctx, "batch") }, verda.Paused},
		{"resume job", func(ctx context.Context, c *verda.Client) (any, error) { return none(c.ResumeJob(ctx, "batch")) }, nil},
		{"purge job", func(ctx context.Context, c *verda.Client) (any, error) { return none(c.PurgeJob(ctx, "batch")) }, nil},
		{"delete job", func(ctx context.Context, c *verda.Client) (any, error) { return none(c.DeleteJob(ctx, "batch", 0)) }, nil},
		{"delete", func(ctx context.Context, c *verda.Client) (any, error) {
			return none(c.DeleteDeployment(ctx, "h200 spot/1", verda.LongestDelete))
		}, nil},
		{"delete registry credential", func(ctx context.Context, c *verda.Client) (any, error) {
			return none(c.DeleteRegistryCredential(ctx, "hub", false))
		}, nil},
		{"delete file secret", func(ctx context.Context, c *verda.Client) (any, error) {
			return none(c.DeleteFileSecret(ctx, "certs", false))
		}, nil},
		{"delete secret", func(ctx context.Context, c *verda.Client) (any, error) {
			return none(c.DeleteSecret(ctx, "agent-key", true))
		}, nil},
		{"deployments then", func(ctx context.Context, c *verda.Client) (any, error) { return c.Deployments(ctx, "") }, named()},
		{"secrets then", func(ctx context.Context, c *verda.Client) (any, error) { return c.Secrets(ctx) }, named()},
	}
}

// studio is a client of a fake, and what it logs.
type studio struct {
	*verda.Client
	fake *verdatest.Fake
	log  *bytes.Buffer
}

// connect runs a fake in the test's bubble and a client of it.
func connect(t *testing.T, o verdatest.Options) studio {
	t.Helper()
	o.ID, o.Secret = clientID, secret
	s := studio{fake: verdatest.New(o), log: &bytes.Buffer{}}
	var err error
	s.Client, err = verda.New(verda.Credential{ID: clientID, Secret: secret}, verda.Options{
		URL: "http://verda.test/v1", Dial: s.fake.Pipe(t),
		Log: slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Client.Close)
	return s
}

// TestEveryCall makes all calls, each of them under all kinds of trouble that a caller must not notice.
func TestEveryCall(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		o       verdatest.Options
		trouble func(*verdatest.Fake)
	}{
		"calm":                      {},
		"long images":               {o: verdatest.Options{LongImages: true}},
		"token ends in mid-call":    {trouble: func(f *verdatest.Fake) { f.ExpireTokens(false) }},
		"refresh token ends too":    {trouble: func(f *verdatest.Fake) { f.ExpireTokens(true) }},
		"token lives for a second":  {o: verdatest.Options{TokenLife: time.Second}, trouble: func(*verdatest.Fake) { time.Sleep(2 * time.Second) }},
		"429 twice":                 {trouble: func(f *verdatest.Fake) { f.Fail(verdatest.Fault{Path: "/", Times: 2, Status: 429, RetryAfter: "7"}) }},
		"429 after the token ended": {trouble: func(f *verdatest.Fake) { f.ExpireTokens(false); f.Fail(verdatest.Fault{Path: "/", Status: 429}) }},
		"slow":                      {trouble: func(f *verdatest.Fake) { f.Fail(verdatest.Fault{Path: "/", Slow: 20 * time.Second}) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := connect(t, c.o)
				for _, one := range steps() {
					if c.trouble != nil {
						c.trouble(s.fake)
					}
					got, err := one.do(t.Context(), s.Client)
					if err != nil {
						t.Fatalf("%s: %v", one.name, err)
					}
					if check, ok := one.want.(func(any) bool); ok {
						if !check(got) {
							t.Errorf("%s: %+v", one.name, got)
						}
					} else if diff := cmp.Diff(one.want, got); diff != "" {
						t.Errorf("%s: %s", one.name, diff)
					}
				}
				if s.fake.Purged("h200 spot/1") != 1 || s.fake.Purged("batch") != 1 {
					t.Errorf("purged %d and %d times", s.fake.Purged("h200 spot/1"), s.fake.Purged("batch"))
				}
				leak(t, s, s.log.String())
			})
		})
	}
}

// TestReadingSurvives5xx: what only looks, or does no harm twice, is asked again after 5xx and cuts.
func TestReadingSurvives5xx(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]verdatest.Fault{
		"500": {Status: 500}, "503 that asks to wait": {Status: 503, RetryAfter: "30"}, "cut": {Cut: true}, "cut after the deed": {Cut: true, Late: true},
		"500 after the deed": {Status: 500, Late: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := connect(t, verdatest.Options{})
				// POSTs get through: they are another test's matter.
				for _, one := range steps() {
					s.fake.Calm()
					for _, method := range []string{"GET", "PATCH", "DELETE"} {
						g := f
						g.Method, g.Path = method, "/v1/"
						s.fake.Fail(g)
					}
					if _, err := one.do(t.Context(), s.Client); err != nil &&
						!(strings.HasPrefix(one.name, "remove variables") && f.Late && fault.Is(err, fault.Invalid)) { // it is gone already
						t.Fatalf("%s: %v", one.name, err)
					}
				}
			})
		})
	}
}

// leak fails when a text has one of the secrets that the fake knows, in any form.
func leak(t *testing.T, s studio, texts ...string) {
	t.Helper()
	for _, text := range texts {
		for _, word := range append(s.fake.Words(), "s3cr3t", "c3 IzY3IzdA") {
			if word != "" && strings.Contains(text, word) {
				t.Errorf("%q is in %q", word, text)
			}
		}
	}
}
