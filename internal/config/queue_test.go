package config_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ahelme/comfyume/internal/config"
)

const shares = `queue:
  age_after: 5m
  half_life: 1d12h
  affinity: 0
  idle_stop: 0s
  weights:
    users: {ann: 2, on: 0.5}
    groups:
      class-a: 3
  quotas:
    everyone: {jobs_per_hour: 60, gpu_per_hour: 45m}
    users:
      ann: {gpu_per_day: 2h}
      ben: {}
    groups: {class-a: {jobs_per_day: 1000}}
`

func TestWeightsAndQuotas(t *testing.T) {
	t.Parallel()
	l, err := load(t, shares, []string{"COMFYUME_QUEUE_QUOTAS_EVERY_GROUP_GPU_PER_DAY=1d"}, map[string]string{"queue.keep_for": "7d"})
	if err != nil {
		t.Fatal(err)
	}
	want := config.Default().Queue
	want.AgeAfter, want.HalfLife = config.Duration(5*time.Minute), config.Duration(36*time.Hour)
	want.Affinity, want.IdleStop, want.KeepFor = 0, 0, config.Duration(7*24*time.Hour)
	want.Weights = config.Weights{Users: map[string]float64{"ann": 2, "on": 0.5}, Groups: map[string]float64{"class-a": 3}}
	want.Quotas = config.Quotas{
		Everyone:   config.Quota{JobsPerHour: 60, GPUPerHour: config.Duration(45 * time.Minute)},
		EveryGroup: config.Quota{GPUPerDay: config.Duration(24 * time.Hour)},
		Users:      map[string]config.Quota{"ann": {GPUPerDay: config.Duration(2 * time.Hour)}, "ben": {}},
		Groups:     map[string]config.Quota{"class-a": {JobsPerDay: 1000}},
	}
	if diff := cmp.Diff(want, l.Queue); diff != "" {
		t.Fatal(diff)
	}
	var b bytes.Buffer
	if err := l.Write(&b); err != nil {
		t.Fatal(err)
	}
	again, err := load(t, b.String(), nil, nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, &b)
	}
	if diff := cmp.Diff(l.Queue, again.Queue); diff != "" {
		t.Errorf("read back from what was shown: %s\n%s", diff, &b)
	}
}

func TestWeightsAndQuotasThatAreWrong(t *testing.T) {
	t.Parallel()
	_, err := load(t, `queue:
  age_after: soon
  half_life: 0
  affinity: -3s
  keep_for: 1y
  keep_per_user: -1
  idle_stp: 5m
  weights:
    users: {Ann: 1}
    groups:
      class-a: much
      class-b: 0
      class-b: 1
  quotas:
    everyone: {jobs_per_hour: -2}
    users:
      ann: {gpu_per_huor: 1h}
      ben: 7
    groups: [class-a]
    everybody: {}
`, nil, map[string]string{"queue.weights.users": "ann"})
	var problems config.Problems
	if !errors.As(err, &problems) {
		t.Fatalf("got %T %v, want Problems", err, err)
	}
	got := make([]string, 0, len(problems))
	for _, p := range problems {
		got = append(got, p.String()[strings.LastIndexByte(p.Where.File, '/')+1:])
	}
	want := []string{
		`--queue-weights-users: queue.weights.users: is a list and belongs into the settings file`,
		`comfyume.yaml:2: queue.age_after: "soon" is not a length of time such as 30s, 45m, 2h or 7d`,
		`comfyume.yaml:3: queue.half_life: has to be longer than 0`,
		`comfyume.yaml:4: queue.affinity: "-3s" is not a length of time such as 30s, 45m, 2h or 7d`,
		`comfyume.yaml:5: queue.keep_for: "1y" is not a length of time such as 30s, 45m, 2h or 7d`,
		`comfyume.yaml:6: queue.keep_per_user: -1 is too little; it has to be at least 0`,
		`comfyume.yaml:7: queue.idle_stp: there is no such setting; did you mean idle_stop?`,
		`comfyume.yaml:9: queue.weights.users.Ann: "Ann" is not a name: 1 to 32 lower-case letters, digits, - and _`,
		`comfyume.yaml:11: queue.weights.groups.class-a: "much" is not a number`,
		`comfyume.yaml:12: queue.weights.groups.class-b: 0 is not a weight between 0.01 and 100`,
		`comfyume.yaml:13: queue.weights.groups.class-b: is there twice`,
		`comfyume.yaml:15: queue.quotas.everyone.jobs_per_hour: -2 is too little; it has to be at least 0`,
		`comfyume.yaml:17: queue.quotas.users.ann.gpu_per_huor: there is no such setting; did you mean gpu_per_hour?`,
		`comfyume.yaml:18: queue.quotas.users.ben: is not a list of settings (KEY: VALUE)`,
		`comfyume.yaml:19: queue.quotas.groups: is a list of names (NAME: VALUE)`,
		`comfyume.yaml:20: queue.quotas.everybody: there is no such setting; did you mean everyone?`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestDurations(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"0": 0, "30s": 30 * time.Second, "1h30m": 90 * time.Minute, " 7d ": 168 * time.Hour, "1d12h": 36 * time.Hour, "250ms": 250 * time.Millisecond,
	} {
		if got, err := config.ParseDuration(text); err != nil || time.Duration(got) != want {
			t.Errorf("ParseDuration(%q) = %v, %v; want %v", text, got, err, want)
		}
	}
	for text, want := range map[string]string{"0s": "0", "60s": "1m", "24h": "1d", "25h30m": "1d1h30m", "90m10s": "1h30m10s", "600m": "10h"} {
		if got, err := config.ParseDuration(text); err != nil || got.String() != want {
			t.Errorf("%q shows as %s, %v; want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"", "d", "-1s", "1d-1h", "1.5d", "5", "1w", "200000000d", "106751d99h"} {
		if got, err := config.ParseDuration(text); err == nil {
			t.Errorf("ParseDuration(%q) = %v, want an error", text, got)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		want := config.Duration(rapid.Int64Min(0).Draw(t, "duration"))
		if got, err := config.ParseDuration(want.String()); err != nil || got != want {
			t.Fatalf("%d prints as %s and reads as %d, %v", want, want, got, err)
		}
	})
}
