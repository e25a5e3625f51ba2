package verda_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"unicode"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/verda"
)

// FuzzAnswers gives the client whatever a provider, or a proxy before it, may answer. It neither panics nor shows lines
// that do not end, and an answer that is no success is an error with a kind.
func FuzzAnswers(f *testing.F) {
	for _, body := range []string{
		`[]`, `{}`, `null`, ``, `<html>`, `[{"name":"a","containers":[{"image":{"image":"i:1"},"env":null,"volume_mounts":[{}]}],"scaling":null}]`,
		`{"message":["a",1],"error":{"x":1},"errors":[{"field":["a"]}]}`, `{"list":null}`, `[{"container_name":"c","env":[{"name":"n"}]},{"name":"x","type":"plain"}]`,
		`{"container_name":1}`, `{"status":"healthy"}`, `{"message":"` + strings.Repeat("ä\\n", 400) + `"}`,
	} {
		for _, status := range []int{200, 204, 400, 404, 422, 500} {
			f.Add(status, body)
		}
	}
	type reply struct {
		status int
		body   string
	}
	var now atomic.Pointer[reply]
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/oauth2/token") {
			w.Write([]byte(`{"access_token":"token-0815","expires_in":3600}`)) //nolint:errcheck // the client tells
			return
		}
		a := now.Load()
		w.WriteHeader(a.status)
		w.Write([]byte(a.body)) //nolint:errcheck // the client tells
	}))
	f.Cleanup(server.Close)
	c, err := verda.New(verda.Credential{ID: "client-4711", Secret: "word-0815"}, verda.Options{URL: server.URL, Attempts: 1})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(c.Close)
	f.Fuzz(func(t *testing.T, status int, body string) {
		if status < 200 || status > 599 {
			t.Skip("no status of an answer")
		}
		now.Store(&reply{status, body})
		_, list := c.Deployments(t.Context(), "")
		_, env := c.Environment(t.Context(), "a")
		_, replicas := c.Replicas(t.Context(), "a")
		_, scaled := c.ChangeScaling(t.Context(), "a", verda.ScalingChange{})
		for _, err := range []error{list, env, replicas, scaled, c.Pause(t.Context(), "a")} {
			if err == nil {
				if status >= 300 {
					t.Errorf("%d is no success", status)
				}
				continue
			}
			sentence, _ := fault.Public(err)
			if fault.KindOf(err) == fault.Internal || len(err.Error()) > 2000 || strings.ContainsFunc(sentence, unicode.IsControl) {
				t.Errorf("%d: %v", status, err)
			}
		}
	})
}
