package serverless_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/backend/backendtest"
	"github.com/ahelme/comfyume/internal/backend/serverless"
	"github.com/ahelme/comfyume/internal/bucket/buckettest"
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
		storage    string
	}{
		{serverless.Agent, 1, ""},
		{serverless.Agent, 2, ""},
		{serverless.Agent, 2, "folder"},
		{serverless.Agent, 2, "bucket"},
		{serverless.Async, 1, ""},
		{serverless.Async, 2, "folder"},
		{serverless.Async, 2, "bucket"},
	} {
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
					o.Place, o.StoreFrom = place, 1
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

// newPlace returns a place on shared storage of a kind; nil: there is none.
func newPlace(t *testing.T, kind string) handover.Place {
	t.Helper()
	address := "file://" + t.TempDir()
	switch kind {
	case "":
		return nil
	case "bucket":
		server := buckettest.New(t)
		var sealed atomic.Int32
		server.Fault(func(_ http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, "/manifest.json") {
				sealed.Add(1)
			}
			return false
		})
		t.Cleanup(func() {
			if sealed.Load() == 0 {
				t.Error("nothing went through the bucket")
			}
		})
		address = server.Address("suite")
	}
	place, err := handover.New(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		runs, err := place.Runs(context.Background(), time.Now().Add(time.Hour))
		inputs := len(runs)
		runs = slices.DeleteFunc(runs, handover.IsInput) // they stay for later jobs
		if inputs -= len(runs); inputs == 0 {
			t.Error("no input went by storage")
		}
		if err != nil || len(runs) > 4 { // runs that were given up while a container had them go by their age
			t.Errorf("runs stay in storage: %v, %v", runs, err)
		}
		if c, ok := place.(io.Closer); ok {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
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
