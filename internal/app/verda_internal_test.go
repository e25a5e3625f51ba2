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
	"github.com/ahelme/comfyume/internal/usage"
	"github.com/ahelme/comfyume/internal/verda/verdatest"
)

// noLedger is a ledger's store that keeps nothing.
type noLedger struct{}

func (noLedger) Learned(context.Context) ([]usage.Learned, error)       { return nil, nil }
func (noLedger) Hours(context.Context, time.Time) ([]usage.Hour, error) { return nil, nil }
func (noLedger) Save(context.Context, usage.Snapshot) error             { return nil }
func (noLedger) Forget(context.Context, string) error                   { return nil }

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
	if s.usage, err = usage.New(t.Context(), noLedger{}, usage.Options{Budgets: budgetsOf(cfg.Budget)}); err != nil {
		t.Fatal(err)
	}
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

// TestBudgetTellsOfWhatIsKeptAwake: an operator reads what it cost, what is left, what stopped spending and when it goes on;
// and a plan rests while its budget is spent, by the provider and by light requests.
func TestBudgetTellsOfWhatIsKeptAwake(t *testing.T) {
	t.Parallel()
	f := verdatest.New(verdatest.Options{ID: "cid-0815", Secret: "csecret-4711"})
	s := providedStudio(t, t.TempDir(), f.Serve(t), `budget: {per_hour: 10, per_day: 100, groups: {class-a: {per_day: 3}}}
backends: [{name: far, driver: serverless, url: 'http://127.0.0.1:1/h200', price_per_hour: 2.8, groups: [class-a],
  provider: {name: verda, deployment: h200}, warm: [{from: 00:00, to: '24:00', min: 2}]}]`, slog.New(slog.DiscardHandler))
	now := time.Now()
	if left, _, _ := (purse{s}).Left("class-a"); left != 3 {
		t.Errorf("%v is left", left)
	}
	purse{s}.Awake("class-a", 2, now.Add(-time.Second), now)
	b := s.Budget(t.Context(), "", true)
	if b.Studio.Day < 1.999 || b.Studio.Awake != b.Studio.Day || *b.Studio.Left > 8.001 || b.Studio.Stopped != "" || len(b.Groups) != 1 {
		t.Errorf("%+v", b)
	}
	purse{s}.Awake("class-a", 1.5, now.Add(-time.Second), now)
	midnight := s.usage.DayEnds(now)
	red := s.Budget(t.Context(), "class-a", false).Groups[0]
	if *red.Left != 0 || red.Stopped != "The budget of class-a of today is spent." || red.GoesOn == nil || !red.GoesOn.Equal(midnight) {
		t.Errorf("%+v", red)
	}
	back := s.cfg.Backends[0]
	stop, ok := s.awakeBooks().Allows("h200", onlyGroup(back), back.PricePerHour, 2, now)
	if ok || stop.Says != "The group's budget of today does not reach for it." || !stop.Until.Equal(midnight) {
		t.Errorf("%+v, %v", stop, ok)
	}
	back.Name = "light" // kept awake by light requests
	if least, next := s.awakeByRequests(back)(now); least != 0 || !next.Equal(midnight) {
		t.Errorf("%d are kept awake until %v", least, next)
	}
	back.Name, back.Groups = "lighter", nil
	if least, _ := s.awakeByRequests(back)(now); least != 2 {
		t.Errorf("there is money, and %d are kept awake", least)
	}
}
