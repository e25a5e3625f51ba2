package app

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/config"
	"github.com/ahelme/comfyume/internal/verda/verdatest"
)

// providedStudio is as much of a studio as asks its provider, with settings that end in back.
func providedStudio(t *testing.T, data, url, back string, log *slog.Logger) *Studio {
	t.Helper()
	file := filepath.Join(t.TempDir(), "comfyume.yaml")
	text := fmt.Sprintf("data: %s\nproviders: {verda: {client_id: file:id, client_secret: file:secret, url: '%s'}}\n%s", data, url, back)
	for name, text := range map[string]string{file: text, filepath.Join(filepath.Dir(file), "id"): "cid-0815", filepath.Join(filepath.Dir(file), "secret"): "csecret-4711"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg, err := config.Load(config.Source{File: file})
	if err != nil {
		t.Fatal(err)
	}
	s := &Studio{cfg: cfg, log: log, parts: newParts(log)}
	t.Cleanup(func() {
		if err := s.parts.stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if err := s.keepWarm(); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestKeepsWarmAndTakesItBack: a plan is carried out, and taken back by a studio whose settings have it no more.
func TestKeepsWarmAndTakesItBack(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	f := verdatest.New(verdatest.Options{ID: "cid-0815", Secret: "csecret-4711"})
	url, data := f.Serve(t), t.TempDir()
	f.Deploy(t, `{"name": "h200", "containers": [{"image": "i:1"}], "scaling": {"max_replica_count": 3}}`)

	keep := func(s *Studio, until func() bool) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := s.verda.keep(ctx); err != nil {
				t.Error(err)
			}
		})
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for !until() && ctx.Err() == nil {
			<-tick.C
		}
		if ctx.Err() != nil {
			t.Error("it did not come to that")
		}
		cancel()
		wg.Wait()
	}
	least := func() string { return fmt.Sprint(f.Facts("h200")["scaling"].(map[string]any)["min_replica_count"]) }

	s := providedStudio(t, data, url, `backends: [{name: far, driver: serverless, url: 'http://127.0.0.1:1/h200', price_per_hour: 2.8,
  provider: {name: verda, deployment: h200}, warm: [{from: 00:00, to: '24:00', min: 2}]}]`, logger)
	keep(s, func() bool { return least() == "2" && len(s.verda.notes()) == 1 })
	if notes := s.verda.notes(); !strings.Contains(notes[0], "h200 keeps 2 containers awake by plan: 5.60 per hour") {
		t.Errorf("%q", notes)
	}
	d, err := s.verda.Deployment(t.Context(), "far")
	if err != nil || d.Raised == "" || d.AwakeCost != 5.6 || d.Replicas != 2 {
		t.Errorf("%+v, %v", d, err)
	}

	s = providedStudio(t, data, url, "", logger) // the back end is gone from the settings
	keep(s, func() bool { return least() == "0" && len(s.verda.notes()) == 0 })
	s = providedStudio(t, data, url, "", logger)
	if s.verda.keeper != nil {
		t.Error("there is nothing left to take back, and somebody waits for it")
	}
	for _, word := range f.Words() {
		if word != "inference" && strings.Contains(log.String(), word) {
			t.Errorf("%q is in the log", word)
		}
	}
	for _, w := range []string{"containers are kept awake by plan", "while no studio runs", "not kept awake any more"} {
		if !strings.Contains(log.String(), w) {
			t.Errorf("%q is not in the log", w)
		}
	}
}
