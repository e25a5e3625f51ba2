package config_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/internal/config"
)

func TestBudget(t *testing.T) {
	t.Parallel()
	l, err := load(t, "budget:\n  wait: 5m\n  per_hour: 2.5\n  groups:\n    class-a: {per_day: 10}\n", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := config.Budget{Wait: config.Duration(5 * time.Minute), PerHour: 2.5, Groups: map[string]config.Money{"class-a": {PerDay: 10}}}
	if diff := cmp.Diff(want, l.Budget); diff != "" {
		t.Error(diff)
	}
	if wait := config.Default().Budget.Wait; wait != config.Duration(2*time.Minute) {
		t.Errorf("without a word people wait %v", time.Duration(wait))
	}
}

func TestBudgetThatIsWrong(t *testing.T) {
	t.Parallel()
	_, err := load(t, "budget:\n  wait: 0s\n  per_day: -1\n  groups:\n    Class A: {per_hour: 1}\n    class-b: {per_hour: -2}\n", nil, nil)
	if err == nil {
		t.Fatal("it was taken")
	}
	for _, field := range []string{"budget.wait", "budget.per_day", "budget.groups.Class A", "budget.groups.class-b.per_hour"} {
		if !strings.Contains(err.Error(), field) {
			t.Errorf("%s is not named:\n%v", field, err)
		}
	}
}
