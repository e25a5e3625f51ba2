package verda_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/verda"
	"github.com/ahelme/comfyume/internal/verda/verdatest"
)

// TestNothingSecretComesBack has a careless provider repeat everything that it gets, in every call and with every kind of
// refusal, and looks for the secrets in all that is returned and logged.
func TestNothingSecretComesBack(t *testing.T) {
	t.Parallel()
	const word = `w0rd/+"&s3cr3t`
	calls := steps()
	for name, do := range map[string]func(context.Context, *verda.Client) error{
		"secret": func(ctx context.Context, c *verda.Client) error { return c.CreateSecret(ctx, "n", verda.NewWord(word)) },
		"file secret": func(ctx context.Context, c *verda.Client) error {
			return c.CreateFileSecret(ctx, "n", map[string][]byte{"f": []byte(word)})
		},
		"registry": func(ctx context.Context, c *verda.Client) error {
			return c.CreateRegistryCredential(ctx, verda.NewRegistryCredential{Name: "n", Type: "gcr", Words: map[string]verda.Word{
				"service_account_key": verda.NewWord(`{"private_key": "inner-s3cr3t-key", "more": ["other-s3cr3t-key"]}`),
			}})
		},
		"variable in clear": func(ctx context.Context, c *verda.Client) error {
			return c.AddVariables(ctx, "a", "c", []verda.Variable{{Type: verda.Plain, Name: "API_KEY", Value: word}})
		},
		"deployment with one": func(ctx context.Context, c *verda.Client) error {
			_, err := c.CreateDeployment(ctx, verda.NewDeployment{Name: "x", Containers: []verda.Container{{Image: "i:1", Env: []verda.Variable{{Name: "TOKEN", Value: word}}}}})
			return err
		},
		"change with one": func(ctx context.Context, c *verda.Client) error {
			_, err := c.ChangeDeployment(ctx, "x", verda.DeploymentChange{Containers: []verda.Container{{Image: "i:1", Env: []verda.Variable{{Name: "TOKEN", Value: word}}}}})
			return err
		},
		"job with one": func(ctx context.Context, c *verda.Client) error {
			_, err := c.CreateJob(ctx, verda.NewJob{Name: "x", Scaling: verda.JobScaling{Deadline: 1}, Containers: []verda.Container{{Image: "i:1", Env: []verda.Variable{{Name: "TOKEN", Value: word}}}}})
			return err
		},
	} {
		calls = append(calls, step{name: name, do: func(ctx context.Context, c *verda.Client) (any, error) { return nil, do(ctx, c) }})
	}
	for _, status := range []int{200, 400, 401, 402, 403, 404, 409, 422, 429, 500, 503} {
		t.Run(http.StatusText(status), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := connect(t, verdatest.Options{})
				failed := 0
				for _, one := range calls {
					for _, path := range []string{"/v1/", "oauth2"} {
						s.fake.Calm()
						if _, err := s.Jobs(t.Context()); err != nil { // so that there is a token
							t.Fatal(err)
						}
						if path == "oauth2" {
							s.fake.ExpireTokens(true)
						}
						s.fake.Fail(verdatest.Fault{Path: path, Status: status, Echo: true, Times: 9})
						_, err := one.do(t.Context(), s.Client)
						if err == nil {
							continue
						}
						failed++
						sentence, remedy := fault.Public(err)
						all := fmt.Sprintf("%v %+v %#v %s %s", err, err, err, sentence, remedy)
						for e := err; e != nil; e = errors.Unwrap(e) {
							all += " " + e.Error()
						}
						leak(t, s, all, s.log.String())
						for _, form := range []string{"w0rd", "dzByZC8r", "aW5uZXIt"} { // base64 of the words' beginnings
							if strings.Contains(all+s.log.String(), form) {
								t.Errorf("%s: %q is in %s", one.name, form, all)
							}
						}
						s.log.Reset()
					}
				}
				if failed < len(calls)/2 {
					t.Errorf("only %d of %d calls failed: the provider was not careless enough", failed, 2*len(calls))
				}
			})
		})
	}
}
