package serverless_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/backend/backendtest"
	"github.com/ahelme/comfyume/internal/backend/serverless"
	"github.com/ahelme/comfyume/internal/oneshot"
	"github.com/ahelme/comfyume/internal/sim"
)

// TestSuiteOnTheSimulator holds both modes to the contract, with one container and behind a balancer without affinity.
func TestSuiteOnTheSimulator(t *testing.T) {
	t.Parallel()
	for _, mode := range []serverless.Mode{serverless.Agent, serverless.Async} {
		for containers := 1; containers <= 2; containers++ {
			t.Run(fmt.Sprint(mode, containers), func(t *testing.T) {
				t.Parallel()
				var servers []*sim.ComfyUI
				var handlers []http.Handler
				for range containers {
					server, err := sim.NewComfyUI(sim.Options{Base: t.TempDir(), Probes: true})
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() {
						if err := server.Close(); err != nil {
							t.Error(err)
						}
					})
					servers, handlers = append(servers, server), append(handlers, server.Handler())
				}
				e := newEndpoint(t, oneshot.HandlerOptions{Version: "test"}, handlers...)
				s := newStudio(t)
				backendtest.Run(t, backendtest.Graphs(t, backendtest.Harness{
					Open:       func(t *testing.T) backend.Driver { return open(t, e.url, s.options(t, mode)) },
					Containers: containers, Brings: true,
					Restart: func(t *testing.T) {
						for i, server := range servers {
							server.Crash()
							answers(t, e.containers[i].server.URL)
						}
					},
				}))
			})
		}
	}
}

// TestSuiteOnTheFake holds both modes to what happens behind an agent.
func TestSuiteOnTheFake(t *testing.T) {
	t.Parallel()
	for _, mode := range []serverless.Mode{serverless.Agent, serverless.Async} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			opener := func(t *testing.T, h http.Handler) backend.Driver {
				e := newEndpoint(t, oneshot.HandlerOptions{}, h)
				return open(t, e.url, newStudio(t).options(t, mode))
			}
			backendtest.RunOnFake(t, opener)
			t.Run("Recorded", func(t *testing.T) { backendtest.RunRecorded(t, opener) })
		})
	}
}

// answers waits until a server that is gone for a while is back.
func answers(t *testing.T, address string) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for ; ; <-tick.C {
		req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, address+"/system_stats", nil)
		req.RequestURI, req.Close = "", true
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		} else if t.Context().Err() != nil {
			t.Fatal(err)
		}
	}
}
