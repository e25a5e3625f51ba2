package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/api"
)

func TestBudgetRows(t *testing.T) {
	t.Parallel()
	left, none := 1.5, 0.0
	at := time.Date(2026, 11, 27, 15, 0, 0, 0, time.Local)
	var lines []string
	for _, row := range budgetRows(&api.Budget{
		Studio: api.Spending{Hour: 2, Day: 7, PerHour: 4, Awake: 1.25, Aside: 0.5, Left: &left},
		Groups: []api.Spending{{Group: "red", Day: 3, PerDay: 3, Left: &none, Stopped: "The budget of red of today is spent.", GoesOn: &at}, {Group: "blue"}},
	}) {
		lines = append(lines, strings.Join(row, ": "))
	}
	want := `money: 2.00 of 4.00 spent this hour, 7.00 today, 1.25 of it for keeping containers awake, 0.50 taken aside for what runs, 1.50 left
of red: 0.00 spent this hour, 3.00 of 3.00 today, 0.00 left
stopped: The budget of red of today is spent. Nothing more begins that costs money. It goes on at 15:00 on 27 November.`
	if got := strings.Join(lines, "\n"); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	if rows := budgetRows(&api.Budget{}); rows != nil {
		t.Errorf("without money: %q", rows)
	}
}
