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

const kept = `providers:
  verda: {client_id: env:VERDA_CLIENT_ID, client_secret: file:secrets/verda}
backends:
  - name: h200
    driver: serverless
    url: https://containers.example/h200
    provider: {name: verda, deployment: h200}
    groups: [class-a, class-b]
    labels: {gpu: H200, where: "FIN, 01"}
    warm:
      - {days: mon-fri, from: 09:00, to: 17:00, min: 2}
      - {days: "sat,sun", from: 00:00, to: "24:00"}
      - {from: 22:30, to: 01:00}
`

func TestWarmPlans(t *testing.T) {
	t.Parallel()
	l, err := load(t, kept, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	weekdays, err := config.ParseDays("mon-fri")
	if err != nil {
		t.Fatal(err)
	}
	weekend, err := config.ParseDays("sat-sun")
	if err != nil {
		t.Fatal(err)
	}
	want := []config.Warm{
		{Days: weekdays, From: 9 * 60, To: 17 * 60, Min: 2},
		{Days: weekend, From: 0, To: 24 * 60, Min: 1},
		{From: 22*60 + 30, To: 60, Min: 1},
	}
	if diff := cmp.Diff(want, l.Backends[0].Warm); diff != "" {
		t.Fatal(diff)
	}
	if v := l.Providers.Verda; !v.IsSet() || !strings.HasSuffix(v.ClientSecret.Reference(), "secrets/verda") || v.URL != "https://api.verda.com/v1" {
		t.Errorf("account: %+v", v)
	}
	var b bytes.Buffer
	if err := l.Write(&b); err != nil {
		t.Fatal(err)
	}
	again, err := load(t, b.String(), nil, nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, &b)
	}
	if diff := cmp.Diff(l.Backends[0].Warm, again.Backends[0].Warm); diff != "" {
		t.Errorf("read back from what was shown: %s\n%s", diff, &b)
	}
	if diff := cmp.Diff(l.Backends[0].Groups, again.Backends[0].Groups); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(l.Backends[0].Labels, again.Backends[0].Labels); diff != "" {
		t.Error(diff)
	}
}

func TestWarmPlansThatAreWrong(t *testing.T) {
	t.Parallel()
	_, err := load(t, `providers:
  verda: {client_id: env:VERDA_CLIENT_ID, url: http://api.example/v1}
backends:
  - {name: lan, url: http://10.0.0.5:8188, warm: [{from: 09:00, to: 10:00}]}
  - name: far
    driver: serverless
    url: https://containers.example/far
    provider: {name: verda}
    warm:
      - {days: mo-fr, from: 9, to: 25:00}
      - {days: mon, from: 09:00}
      - {from: 10:00, to: 10:00, min: 0}
      - {from: 24:00, to: 10:00, mn: 1}
`, nil, nil)
	var p config.Problems
	if !errors.As(err, &p) {
		t.Fatal(err)
	}
	text := p.Error()
	for _, want := range []string{
		":2: providers.verda.client_secret: is needed beside",
		":2: providers.verda.url: \"http://api.example/v1\" would send the credential unencrypted",
		":4: backends[0].warm: belongs to the driver serverless",
		":8: backends[1].provider.deployment: is needed",
		":10: backends[1].warm[0].days: \"mo-fr\" is not a list of days such as mon-fri",
		":10: backends[1].warm[0].from: \"9\" is not a time of the day such as 09:00",
		":10: backends[1].warm[0].to: \"25:00\" is not a time of the day",
		":11: backends[1].warm[1].to: is needed",
		":12: backends[1].warm[2].to: is the same as from",
		":12: backends[1].warm[2].min: 0 is too little; it has to be at least 1",
		":13: backends[1].warm[3].from: 24:00 is the end of a day",
		":13: backends[1].warm[3].mn: there is no such setting; did you mean min?",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
}

func TestCredentialInClear(t *testing.T) {
	t.Parallel()
	const word = "s3cr3t-in-clear"
	_, err := load(t, "providers: {verda: {client_id: a, client_secret: "+word+"}}", nil, nil)
	if err == nil || strings.Contains(err.Error(), word) {
		t.Fatalf("%v", err)
	}
}

func TestWarmAt(t *testing.T) {
	t.Parallel()
	l, err := load(t, kept, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	plan := l.Backends[0].Warm
	zone, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Skip("this machine has no time zones: ", err)
	}
	for _, c := range []struct {
		at, next string
		least    int
	}{
		{"2026-06-01 08:59", "2026-06-01 09:00", 0}, // Monday
		{"2026-06-01 09:00", "2026-06-01 17:00", 2},
		{"2026-06-01 16:59", "2026-06-01 17:00", 2},
		{"2026-06-01 17:00", "2026-06-01 22:30", 0},
		{"2026-06-02 00:30", "2026-06-02 01:00", 1}, // over midnight
		{"2026-06-05 23:00", "2026-06-06 00:00", 1}, // into the weekend
		{"2026-06-06 12:00", "2026-06-06 22:30", 1},
		{"2026-06-08 01:00", "2026-06-08 09:00", 0},
		{"2026-03-29 12:00", "2026-03-29 22:30", 1}, // the night before had an hour less
	} {
		const form = "2006-01-02 15:04"
		at, err := time.ParseInLocation(form, c.at, zone)
		if err != nil {
			t.Fatal(err)
		}
		least, next := config.WarmAt(plan, at)
		if least != c.least || next.Format(form) != c.next {
			t.Errorf("%s: %d until %s, want %d until %s", c.at, least, next.Format(form), c.least, c.next)
		}
	}
	if least, next := config.WarmAt(nil, time.Now()); least != 0 || !next.IsZero() {
		t.Errorf("no plan: %d, %v", least, next)
	}
}

// TestWarmAtHolds: between a moment and the next change nothing changes.
func TestWarmAtHolds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var plan []config.Warm
		for range rapid.IntRange(1, 4).Draw(t, "entries") {
			from := rapid.IntRange(0, 24*60-1).Draw(t, "from")
			to := rapid.IntRange(0, 24*60).Filter(func(n int) bool { return n != from }).Draw(t, "to")
			plan = append(plan, config.Warm{
				Days: config.Days(rapid.IntRange(0, 127).Draw(t, "days")), From: config.Clock(from), To: config.Clock(to),
				Min: rapid.IntRange(1, 3).Draw(t, "min"),
			})
		}
		at := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(rapid.IntRange(0, 30*24*3600).Draw(t, "second")) * time.Second)
		least, next := config.WarmAt(plan, at)
		if !next.After(at) {
			t.Fatalf("the next change %v is not after %v", next, at)
		}
		between := at.Add(time.Duration(rapid.Float64Range(0, 0.999).Draw(t, "part") * float64(next.Sub(at))))
		if again, then := config.WarmAt(plan, between); again != least || !then.Equal(next) {
			t.Fatalf("%v: %d until %v, but %v: %d until %v", at, least, next, between, again, then)
		}
	})
}

func TestDaysReadBack(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d := config.Days(rapid.IntRange(0, 127).Draw(t, "days"))
		if again, err := config.ParseDays(d.String()); err != nil || again != d {
			t.Fatalf("%d is %q is %d, %v", d, d, again, err)
		}
	})
}
