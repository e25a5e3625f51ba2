package cli

import (
	"fmt"
	"strings"

	"github.com/ahelme/comfyume/internal/api"
)

// budgetRows say what was spent on back ends with a price, what may be, what stopped spending and when it goes on; none
// where there is nothing to say.
func budgetRows(b *api.Budget) (rows [][]string) {
	if b == nil {
		return nil
	}
	for _, s := range append([]api.Spending{b.Studio}, b.Groups...) {
		if s == (api.Spending{Group: s.Group}) {
			continue
		}
		of := "money"
		if s.Group != "" {
			of = "of " + s.Group
		}
		parts := []string{
			amountOf(s.Hour, s.PerHour) + " spent this hour", amountOf(s.Day, s.PerDay) + " today",
		}
		if s.Awake > 0 {
			parts = append(parts, fmt.Sprintf("%.2f of it for keeping containers awake", s.Awake))
		}
		if s.Aside > 0 {
			parts = append(parts, fmt.Sprintf("%.2f taken aside for what runs", s.Aside))
		}
		if s.Left != nil {
			parts = append(parts, fmt.Sprintf("%.2f left", *s.Left))
		}
		rows = append(rows, []string{of, strings.Join(parts, ", ")})
		if s.Stopped == "" {
			continue
		}
		stopped := s.Stopped + " Nothing more begins that costs money."
		if s.GoesOn != nil {
			stopped += fmt.Sprintf(" It goes on at %s.", s.GoesOn.Local().Format("15:04 on 2 January"))
		}
		rows = append(rows, []string{"stopped", stopped})
	}
	return rows
}

// amountOf is what was spent of what may be.
func amountOf(spent, most float64) string {
	if most == 0 {
		return fmt.Sprintf("%.2f", spent)
	}
	return fmt.Sprintf("%.2f of %.2f", spent, most)
}
