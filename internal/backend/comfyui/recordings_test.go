package comfyui_test

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/backend/backendtest"
	"github.com/ahelme/comfyume/internal/backend/comfyui"
)

// at opens a driver on a server of its own.
func at(grace time.Duration) backendtest.Opener {
	return func(t *testing.T, server http.Handler) backend.Driver {
		t.Helper()
		srv := httptest.NewServer(server)
		t.Cleanup(srv.Close)
		d, err := comfyui.New(srv.URL, comfyui.Options{Studio: "suite", HistoryGrace: grace, PollAfter: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
}

func TestRecordedRuns(t *testing.T) {
	t.Parallel()
	backendtest.RunRecorded(t, at(100*time.Millisecond))
}

func TestSuiteOnFakesWithFaults(t *testing.T) {
	t.Parallel()
	backendtest.RunOnFake(t, at(0))
}
