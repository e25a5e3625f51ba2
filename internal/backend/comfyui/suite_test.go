package comfyui_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/backend/backendtest"
	"github.com/ahelme/comfyume/internal/backend/comfyui"
	"github.com/ahelme/comfyume/internal/sim"
)

func opener(address string) func(t *testing.T) backend.Driver {
	return func(t *testing.T) backend.Driver {
		t.Helper()
		d, err := comfyui.New(address, comfyui.Options{Studio: "suite", PollAfter: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
}

func TestSuiteOnTheFake(t *testing.T) {
	t.Parallel()
	fake := backendtest.NewFake()
	srv := httptest.NewServer(fake.Handler())
	defer srv.Close()
	defer fake.Close()
	backendtest.Run(t, backendtest.Harness{
		Open:      opener(srv.URL),
		Text:      json.RawMessage(`{"1":{"class_type":"Text","inputs":{"text":"hello"}}}`),
		Picture:   json.RawMessage(`{"1":{"class_type":"Save","inputs":{"text":"pixels"}}}`),
		Slow:      json.RawMessage(`{"1":{"class_type":"Tick","inputs":{}}}`),
		Fail:      json.RawMessage(`{"1":{"class_type":"Fail","inputs":{}}}`),
		Refused:   json.RawMessage(`{"1":{"class_type":"Load","inputs":{"file":"none.png"}}}`),
		Input:     json.RawMessage(`{"1":{"class_type":"Load","inputs":{"file":"in.png"}},"2":{"class_type":"Save","inputs":{"text":"pixels"}}}`),
		InputName: "in.png", InputBody: []byte("input"),
		Restart: func(*testing.T) { fake.Restart() },
	})
}

func TestSuiteOnTheSimulator(t *testing.T) {
	t.Parallel()
	for _, version := range []string{sim.Classic, sim.Modern} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			server, err := sim.NewComfyUI(sim.Options{Version: version, Base: t.TempDir(), Probes: true})
			if err != nil {
				t.Fatal(err)
			}
			srv := httptest.NewServer(server.Handler())
			defer srv.Close()
			defer func() {
				if err := server.Close(); err != nil {
					t.Error(err)
				}
			}()
			backendtest.Run(t, backendtest.Graphs(t, backendtest.Harness{Open: opener(srv.URL), Restart: func(t *testing.T) {
				server.Crash()
				answers(t, srv.URL)
			}}))
		})
	}
}

// answers waits until a server that is gone for a while is back.
func answers(t *testing.T, address string) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for ; ; <-tick.C {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address+"/system_stats", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Close = true
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err == nil {
			if err := resp.Body.Close(); err != nil {
				t.Error(err)
			}
			if resp.StatusCode == http.StatusOK {
				return
			}
		} else if t.Context().Err() != nil {
			t.Fatal(err)
		}
	}
}

// TestSuiteOnARealServer runs by hand: COMFYUME_TEST_COMFYUI is the address of a ComfyUI that has the probe nodes.
func TestSuiteOnARealServer(t *testing.T) {
	address := os.Getenv("COMFYUME_TEST_COMFYUI")
	if address == "" {
		t.Skip("COMFYUME_TEST_COMFYUI names no server")
	}
	backendtest.Run(t, backendtest.Graphs(t, backendtest.Harness{Open: opener(address)}))
}
