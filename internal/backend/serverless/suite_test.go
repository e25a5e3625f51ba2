package serverless_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/backend/backendtest"
	"github.com/ahelme/comfyume/internal/backend/serverless"
	"github.com/ahelme/comfyume/internal/handover"
	"github.com/ahelme/comfyume/internal/oneshot"
	"github.com/ahelme/comfyume/internal/sim"
)

// TestSuiteOnTheSimulator holds both modes to the contract, with one container and behind a balancer without affinity.
func TestSuiteOnTheSimulator(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		mode       serverless.Mode
		containers int
		storage    bool
	}{{serverless.Agent, 1, false}, {serverless.Agent, 2, false}, {serverless.Agent, 2, true}, {serverless.Async, 1, false}, {serverless.Async, 2, true}} {
		mode, containers := c.mode, c.containers
		t.Run(fmt.Sprint(mode, containers, c.storage), func(t *testing.T) {
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
			place := newPlace(t, c.storage)
			e := newEndpoint(t, oneshot.HandlerOptions{Version: "test", Place: place}, handlers...)
			s := newStudio(t)
			backendtest.Run(t, backendtest.Graphs(t, backendtest.Harness{
				Open: func(t *testing.T) backend.Driver {
					o := s.options(t, mode)
					o.Place = place
					return open(t, e.url, o)
				},
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

// newPlace returns a folder on shared storage, or nil.
func newPlace(t *testing.T, there bool) handover.Place {
	t.Helper()
	if !there {
		return nil
	}
	folder := t.TempDir()
	place, err := handover.New("file://" + folder)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		runs, err := place.Runs(context.Background(), time.Now().Add(time.Hour))
		if err != nil || len(runs) > 4 { // runs that were given up while a container had them go by their age
			t.Errorf("runs stay in storage: %v, %v", runs, err)
		}
	})
	return place
}

// TestSuiteOnTheFake holds both modes to what happens behind an agent.
func TestSuiteOnTheFake(t *testing.T) {
	t.Parallel()
	for _, mode := range []serverless.Mode{serverless.Agent, serverless.Async} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			opener := func(t *testing.T, h http.Handler) backend.Driver {
				e := newImpatientEndpoint(t, oneshot.HandlerOptions{}, 200*time.Millisecond, h)
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
