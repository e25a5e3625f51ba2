package verda_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/verda"
	"github.com/ahelme/comfyume/internal/verda/verdatest"
)

// TestPostsAreSentOnce: what may have been done is not done again; the error says so.
func TestPostsAreSentOnce(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]verdatest.Fault{
		"500": {Status: 500}, "502 after the deed": {Status: 502, Late: true}, "cut": {Cut: true}, "cut after the deed": {Cut: true, Late: true},
		"no answer": {Slow: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := connect(t, verdatest.Options{})
				s.fake.Deploy(t, `{"name": "a", "containers": [{"name": "c", "image": "i:1"}]}`)
				for action, do := range map[string]func(context.Context, string) error{
					"restart": s.Restart, "pause": s.Pause, "resume": s.Resume, "purge-queue": s.Purge,
				} {
					f.Method, f.Path = http.MethodPost, "/"+action
					s.fake.Fail(f)
					err := do(t.Context(), "a")
					if e, ok := errors.AsType[*fault.Error](err); !ok || e.Code != "verda_unknown" || !strings.Contains(e.Public, "a") {
						t.Errorf("%s: %v", action, err)
					}
					if calls := s.fake.Calls("/v1/container-deployments/a/" + action); f.Slow == 0 && len(calls) != 1 {
						t.Errorf("%s was sent %d times", action, len(calls))
					}
				}
			})
		})
	}
}

// TestPostsThatWereNotSent are sent again: there was no connection.
func TestPostsThatWereNotSent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := verdatest.New(verdatest.Options{})
		dial, broken := f.Pipe(t), 0
		c, err := verda.New(verda.Credential{ID: "id", Secret: "secret"}, verda.Options{URL: "http://verda.test/v1", Dial: func(ctx context.Context, n, a string) (net.Conn, error) {
			if broken > 0 {
				broken--
				return nil, errors.New("no route")
			}
			return dial(ctx, n, a)
		}})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		f.Deploy(t, `{"name": "a"}`)
		if _, err := c.Status(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		c.Close() // the next call needs a connection
		broken = 3
		if err := c.Pause(t.Context(), "a"); err != nil {
			t.Error(err)
		}
		c.Close()
		broken = 100
		err = c.Resume(t.Context(), "a")
		if e, ok := errors.AsType[*fault.Error](err); !ok || e.Code != "verda_unavailable" || e.Remedy == "" {
			t.Errorf("%v", err)
		}
	})
}

// TestOneRenewalForAll: callers whose token ended at the same time share one request for a new one.
func TestOneRenewalForAll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := connect(t, verdatest.Options{})
		s.fake.Deploy(t, `{"name": "a"}`)
		for round := range 3 {
			if round > 0 {
				s.fake.ExpireTokens(round == 2)
			}
			s.fake.Fail(verdatest.Fault{Path: "/oauth2/token", Slow: time.Second})
			var wg sync.WaitGroup
			for range 50 {
				wg.Go(func() {
					if _, err := s.Status(t.Context(), "a"); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
		}
		// One at first, one with the refresh token, and one with it and one without it.
		if n := len(s.fake.Calls("/v1/oauth2/token")); n != 4 {
			t.Errorf("%d requests for a token, want 4", n)
		}
	})
}

// TestCredentialIsReplaced: whoever replaces a credential that ended need not start anything anew.
func TestCredentialIsReplaced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := verdatest.New(verdatest.Options{})
		words := verda.Credential{ID: "id", Secret: "the one of last year"}
		c, err := verda.New(words, verda.Options{URL: "http://verda.test/v1", Dial: f.Pipe(t), Reread: func() (verda.Credential, error) { return words, nil }})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Deployments(t.Context(), ""); !fault.Is(err, fault.Denied) {
			t.Errorf("%v", err)
		}
		words.Secret = "secret"
		if _, err := c.Deployments(t.Context(), ""); err != nil {
			t.Error(err)
		}
	})
}

// TestWhoAsksForATokenGivesUp: the others do not fail with the one that asked for all.
func TestWhoAsksForATokenGivesUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := connect(t, verdatest.Options{})
		s.fake.Deploy(t, `{"name": "a"}`)
		s.fake.Fail(verdatest.Fault{Path: "/oauth2/token", Slow: 25 * time.Second})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := s.Status(ctx, "a"); !fault.Is(err, fault.Unavailable) {
				t.Errorf("%v", err)
			}
		})
		synctest.Wait()
		wg.Go(func() {
			began := time.Now()
			if _, err := s.Status(t.Context(), "a"); err != nil || time.Since(began) > 5*time.Second {
				t.Errorf("%v after %v", err, time.Since(began))
			}
		})
		wg.Wait()
	})
}

// TestRefusals says what each refusal becomes: its kind, its code and words that have to be in sentence and remedy.
func TestRefusals(t *testing.T) {
	t.Parallel()
	missing := func(ctx context.Context, c *verda.Client) error { _, err := c.Deployment(ctx, "h200-spit"); return err }
	for name, c := range map[string]struct {
		o     verdatest.Options
		fault verdatest.Fault
		wrong bool // the credential
		do    func(ctx context.Context, c *verda.Client) error
		kind  fault.Kind
		code  string
		words []string
	}{
		"wrong credential": {wrong: true, do: missing, kind: fault.Denied, code: "verda_credential", words: []string{"credential", "providers.verda.client_id"}},
		"no scope":         {o: verdatest.Options{NoScope: true}, do: missing, kind: fault.Denied, code: "verda_scope", words: []string{"cloud-api-v1", "GET /container-deployments/h200-spit"}},
		"token refused":    {fault: verdatest.Fault{Path: "container", Status: 401, Times: 2}, do: missing, kind: fault.Denied, code: "verda_credential", words: []string{"just gave", "clocks"}},
		"no such":          {do: missing, kind: fault.Missing, code: "verda_missing", words: []string{"h200-spit", "Did you mean h200-spot?"}},
		"nothing near": {
			do: func(ctx context.Context, c *verda.Client) error { return c.Pause(ctx, "zzzzzzzzzz") }, kind: fault.Missing, code: "verda_missing",
			words: []string{"There are b300, h200-spot."},
		},
		"nothing at all": {
			do: func(ctx context.Context, c *verda.Client) error { return c.DeleteSecret(ctx, "key", true) }, kind: fault.Missing, code: "verda_missing",
			words: []string{"secret key", "sees no secret at all"},
		},
		"conflict": {do: func(ctx context.Context, c *verda.Client) error {
			_, err := c.CreateDeployment(ctx, verda.NewDeployment{Name: "b300", Compute: verda.Compute{Name: "x"}, Containers: []verda.Container{{Image: "i:1", Port: 1}}})
			return err
		}, kind: fault.Conflict, code: "verda_conflict", words: []string{"b300"}},
		"field": {do: func(ctx context.Context, c *verda.Client) error {
			_, err := c.CreateDeployment(ctx, verda.NewDeployment{Name: "c", Compute: verda.Compute{Name: "x"}, Containers: []verda.Container{{Image: "i:1"}}})
			return err
		}, kind: fault.Invalid, code: "verda_invalid", words: []string{"containers[0].exposed_port", "must not be less than 1"}},
		"list of messages": {
			fault: verdatest.Fault{Path: "container", Status: 400, Body: `{"message": ["a is wrong", "b is"], "error": "Bad Request"}`}, do: missing, kind: fault.Invalid, code: "verda_invalid",
			words: []string{"a is wrong; b is"},
		},
		"quota": {do: func(ctx context.Context, c *verda.Client) error {
			n := 99
			_, err := c.ChangeScaling(ctx, "b300", verda.ScalingChange{Max: &n})
			return err
		}, kind: fault.Busy, code: "verda_quota", words: []string{"at most 10 replicas"}},
		"no money":     {fault: verdatest.Fault{Path: "container", Status: 402}, do: missing, kind: fault.Busy, code: "verda_quota", words: []string{"balance"}},
		"429 for ever": {fault: verdatest.Fault{Path: "container", Status: 429, Times: 99, RetryAfter: "3"}, do: missing, kind: fault.Busy, code: "verda_busy"},
		"429 for long": {fault: verdatest.Fault{Path: "container", Status: 429, Times: 1, RetryAfter: "3600"}, do: missing, kind: fault.Busy, code: "verda_busy"},
		"500 for ever": {fault: verdatest.Fault{Path: "container", Status: 500, Times: 99}, do: missing, kind: fault.Unavailable, code: "verda_unavailable", words: []string{"500"}},
		"a page":       {fault: verdatest.Fault{Path: "container", Status: 502, Times: 99, Body: "<html>Bad gateway"}, do: missing, kind: fault.Unavailable, code: "verda_unavailable"},
		"elsewhere":    {fault: verdatest.Fault{Path: "container", Status: 302}, do: missing, kind: fault.Unavailable, code: "verda_address", words: []string{"providers.verda.url"}},
		"no JSON":      {fault: verdatest.Fault{Path: "container", Status: 200, Body: "<html>hello"}, do: missing, kind: fault.Unavailable, code: "verda_answer"},
		"another form": {fault: verdatest.Fault{Path: "container", Status: 200, Body: `{"name": 17}`}, do: missing, kind: fault.Unavailable, code: "verda_answer", words: []string{"name is a number"}},
		"empty":        {fault: verdatest.Fault{Path: "container", Status: 200, Body: " "}, do: missing, kind: fault.Unavailable, code: "verda_answer"},
		"no token":     {fault: verdatest.Fault{Path: "oauth2", Status: 200, Body: "{}"}, do: missing, kind: fault.Unavailable, code: "verda_answer"},
		"dots":         {do: func(ctx context.Context, c *verda.Client) error { return c.Pause(ctx, "..") }, kind: fault.Invalid, code: "verda_name"},
		"nameless":     {do: func(ctx context.Context, c *verda.Client) error { return c.DeleteDeployment(ctx, "", 0) }, kind: fault.Invalid, code: "verda_name"},
		"latest": {do: func(ctx context.Context, c *verda.Client) error {
			_, err := c.ChangeDeployment(ctx, "b300", verda.DeploymentChange{Containers: []verda.Container{{Image: "r:5000/i:latest"}}})
			return err
		}, kind: fault.Invalid, code: "verda_image", words: []string{"r:5000/i:1.2.3"}},
		"job without end": {do: func(ctx context.Context, c *verda.Client) error {
			_, err := c.CreateJob(ctx, verda.NewJob{Name: "j"})
			return err
		}, kind: fault.Invalid, code: "verda_deadline"},
		"min above max": {do: func(ctx context.Context, c *verda.Client) error {
			a, b := 3, 2
			_, err := c.ChangeScaling(ctx, "b300", verda.ScalingChange{Min: &a, Max: &b})
			return err
		}, kind: fault.Invalid, code: "verda_scaling"},
		"no replicas": {do: func(ctx context.Context, c *verda.Client) error {
			a := 0
			_, err := c.ChangeScaling(ctx, "b300", verda.ScalingChange{Max: &a})
			return err
		}, kind: fault.Invalid, code: "verda_scaling"},
		"for too long": {do: func(ctx context.Context, c *verda.Client) error { return c.DeleteDeployment(ctx, "b300", time.Hour) }, kind: fault.Invalid, code: "verda_wait"},
		"registry untyped": {do: func(ctx context.Context, c *verda.Client) error {
			return c.CreateRegistryCredential(ctx, verda.NewRegistryCredential{Name: "r"})
		}, kind: fault.Invalid, code: "verda_registry"},
		"secret in use":      {do: func(ctx context.Context, c *verda.Client) error { return secretInUse(ctx, c) }, kind: fault.Conflict, code: "verda_conflict"},
		"unknown in the API": {fault: verdatest.Fault{Path: "container", Status: 418, Times: 1}, do: missing, kind: fault.Unavailable, code: "verda_unavailable", words: []string{"418"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := connect(t, c.o)
				client := s.Client
				if c.wrong {
					var err error
					client, err = verda.New(verda.Credential{ID: clientID, Secret: "mistyped-word"}, verda.Options{URL: "http://verda.test/v1", Dial: s.fake.Pipe(t), Log: slog.New(slog.NewTextHandler(s.log, nil))})
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(client.Close)
				}
				s.fake.Deploy(t, `{"name": "h200-spot", "containers": [{"name": "c", "image": "i:1"}]}`)
				s.fake.Deploy(t, `{"name": "b300", "containers": [{"name": "c", "image": "i:1"}]}`)
				if c.fault != (verdatest.Fault{}) {
					s.fake.Fail(c.fault)
				}
				err := c.do(t.Context(), client)
				e, ok := errors.AsType[*fault.Error](err)
				if !ok || e.Kind != c.kind || e.Code != c.code || e.Public == "" || e.Remedy == "" {
					t.Fatalf("%#v", err)
				}
				for _, w := range c.words {
					if !strings.Contains(e.Error(), w) {
						t.Errorf("%q is missing in %q", w, e.Error())
					}
				}
				leak(t, s, e.Error(), s.log.String())
				if strings.Contains(e.Error()+s.log.String(), "mistyped-word") {
					t.Errorf("the wrong secret is in %q", e.Error())
				}
			})
		})
	}
}

func secretInUse(ctx context.Context, c *verda.Client) error {
	if err := c.CreateSecret(ctx, "k", verda.NewWord("s3cr3t")); err != nil {
		return err
	}
	if err := c.AddVariables(ctx, "b300", "c", []verda.Variable{{Type: verda.Reference, Name: "K", Value: "k"}}); err != nil {
		return err
	}
	return c.DeleteSecret(ctx, "k", false)
}

// TestRetryAfterIsTold: who asked learns when to come back.
func TestRetryAfterIsTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := connect(t, verdatest.Options{})
		for header, want := range map[string]time.Duration{
			"120": 2 * time.Minute, time.Now().Add(5 * time.Minute).UTC().Format(http.TimeFormat): 5 * time.Minute, "soon": 0,
		} {
			s.fake.Calm()
			s.fake.Fail(verdatest.Fault{Path: "container", Status: 429, RetryAfter: header, Times: 99})
			_, err := s.Deployments(t.Context(), "")
			if e, ok := errors.AsType[*fault.Error](err); !ok || (e.RetryAfter-want).Abs() > time.Minute {
				t.Errorf("%s: %v", header, err)
			}
		}
	})
}

// TestNoTimeIsNotWasted: a pause that the caller's deadline does not allow is not begun.
func TestNoTimeIsNotWasted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := connect(t, verdatest.Options{})
		s.fake.Fail(verdatest.Fault{Path: "container", Status: 429, RetryAfter: "30", Times: 99})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		began := time.Now()
		if _, err := s.Deployments(ctx, ""); !fault.Is(err, fault.Busy) || time.Since(began) > time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		s.fake.Calm()
		s.fake.Fail(verdatest.Fault{Path: "container", Slow: time.Hour})
		if _, err := s.Deployments(ctx, ""); !fault.Is(err, fault.Unavailable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
	})
}

// TestAnswerIsBounded: a huge answer is refused and not kept in memory.
func TestAnswerIsBounded(t *testing.T) {
	t.Parallel()
	huge := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "token") {
			fmt.Fprint(w, `{"access_token": "t", "expires_in": 60}`)
			return
		}
		block := make([]byte, 1<<20)
		for range 64 {
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	}))
	defer huge.Close()
	c, err := verda.New(verda.Credential{ID: "a", Secret: "b"}, verda.Options{URL: huge.URL, Attempts: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Deployments(t.Context(), ""); !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "MB") {
		t.Errorf("%v", err)
	}
}

// TestUnknownPartsSurvive: what this program knows nothing of is still there after a change.
func TestUnknownPartsSurvive(t *testing.T) {
	t.Parallel()
	const text = `{"name":"c","image":{"image":"i:1","last_updated_at":"2026-01-01T00:00:00Z"},"exposed_port":1,"future":{"a":[1]},` +
		`"volume_mounts":[{"type":"secret","mount_path":"/s","secret_name":"certs","file_names":["a"]}]}`
	var c verda.Container
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		t.Fatal(err)
	}
	c.Port = 2
	out, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var got, want any
	if err := errors.Join(json.Unmarshal(out, &got), json.Unmarshal([]byte(`{"name":"c","image":"i:1","exposed_port":2,"future":{"a":[1]},`+
		`"volume_mounts":[{"type":"secret","mount_path":"/s","secret_name":"certs","file_names":["a"]}]}`), &want)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestSecretsPrintAsStars: in all the ways in which Go prints.
func TestSecretsPrintAsStars(t *testing.T) {
	t.Parallel()
	const word = "w-0-r-d"
	for _, v := range []any{verda.Credential{ID: word, Secret: word}, verda.NewWord(word), &verda.NewRegistryCredential{Words: map[string]verda.Word{"access_token": verda.NewWord(word)}}} {
		var log strings.Builder
		slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "v", v)
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if all := fmt.Sprintf("%v %+v %#v %s", v, v, v, v) + log.String() + string(text); strings.Contains(all, word) {
			t.Errorf("%T: %s", v, all)
		}
	}
}

func TestWhatIsShown(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		v    verda.Variable
		want string
	}{
		{verda.Variable{Type: "secret", Name: "API_KEY", Value: "agent-key"}, "secret agent-key"},
		{verda.Variable{Type: "plain", Name: "API_KEY", Value: "abc"}, "***"},
		{verda.Variable{Type: "plain", Name: "MY_PASSWORD", Value: "abc"}, "***"},
		{verda.Variable{Type: "plain", Name: "hfToken", Value: "abc"}, "***"},
		{verda.Variable{Type: "plain", Name: "HFTOKEN", Value: "abc"}, "***"},
		{verda.Variable{Type: "plain", Name: "TOKENIZERS_PARALLELISM", Value: "false"}, "false"},
		{verda.Variable{Type: "plain", Name: "MAX_TOKENS", Value: "4096"}, "4096"},
		{verda.Variable{Type: "plain", Name: "KEYBOARD", Value: "de"}, "de"},
		{verda.Variable{Type: "plain", Name: "KEY", Value: "file:/run/key"}, "file:/run/key"},
		{verda.Variable{Type: "plain", Name: "REDIS", Value: "redis://:abc@host"}, "***"},
		{verda.Variable{Type: "plain", Name: "HOOK", Value: "https://host/x?token=abc"}, "***"},
		{verda.Variable{Name: "LOG", Value: "debug"}, "debug"},
	} {
		if got := c.v.Shown(); got != c.want {
			t.Errorf("%+v: %q, want %q", c.v, got, c.want)
		}
	}
	got := verda.ShownArgs([]string{"agent", "--key", "abc", "--key", "env:K", "--api-key=abc", "--listen", ":1", "--token", "--deep", "https://u:p@h/"})
	want := []string{"agent", "--key", "***", "--key", "env:K", "--api-key=***", "--listen", ":1", "--token", "--deep", "***"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestPathsStayInside: no name leads to another thing than the one that it names.
func TestPathsStayInside(t *testing.T) {
	t.Parallel()
	seen := make(chan string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "token") && r.Method == http.MethodPost {
			fmt.Fprint(w, `{"access_token": "t", "expires_in": 3600}`)
			return
		}
		seen <- r.URL.EscapedPath()
		fmt.Fprint(w, `{}`)
	}))
	defer server.Close()
	c, err := verda.New(verda.Credential{ID: "a", Secret: "b"}, verda.Options{URL: server.URL + "/v1/"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	rapid.Check(t, func(rt *rapid.T) {
		name := rapid.OneOf(rapid.String(), rapid.StringMatching(`[./%?#a ]{1,6}`)).Draw(rt, "name")
		_, err := c.Status(t.Context(), name)
		if name == "" || name == "." || name == ".." {
			if !fault.Is(err, fault.Invalid) {
				rt.Fatalf("%q: %v", name, err)
			}
			return
		}
		if err != nil {
			rt.Fatalf("%q: %v", name, err)
		}
		if got := <-seen; strings.Count(got, "/") != 4 || !strings.HasPrefix(got, "/v1/container-deployments/") || !strings.HasSuffix(got, "/status") {
			rt.Fatalf("%q: %s", name, got)
		}
	})
}
