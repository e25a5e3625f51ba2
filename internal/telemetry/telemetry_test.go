package telemetry_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/telemetry"
)

func TestLogger(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	log, level, err := telemetry.Logger(&b, telemetry.JSON, "warn")
	if err != nil {
		t.Fatal(err)
	}
	log.Info("not yet")
	level.Set(slog.LevelInfo)
	log.Info("now", "job", "j1", "dur", 1500*time.Millisecond)
	var line map[string]any
	if err := json.Unmarshal(b.Bytes(), &line); err != nil || line["msg"] != "now" || line["job"] != "j1" || line["dur"] != "1.5s" {
		t.Errorf("got %s, %v", &b, err)
	}
	for _, bad := range [][2]string{{"xml", "info"}, {"text", "loud"}} {
		if _, _, err := telemetry.Logger(&b, bad[0], bad[1]); !fault.Is(err, fault.Invalid) {
			t.Errorf("%v: got %v", bad, err)
		}
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	m, err := telemetry.NewMetrics("v1")
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	m.Handler(slog.New(slog.DiscardHandler)).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for _, want := range []string{`comfyume_build_info{version="v1"} 1`, "process_start_time_seconds", "go_goroutines"} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("no %s in the metrics", want)
		}
	}
}
