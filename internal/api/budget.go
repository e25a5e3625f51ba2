package api

import (
	"context"
	"net/http"
	"time"

	"github.com/ahelme/comfyume/internal/identity"
)

// Budget is what was spent on back ends with a price, and what may be.
type Budget struct {
	Wait   float64    `json:"wait" doc:"seconds; a back end with a price is used when people would wait longer for the others"`
	Studio Spending   `json:"studio"`
	Groups []Spending `json:"groups" nullable:"false" doc:"those that have a budget or spent something; for instructors their own"`
}

// Spending is what was spent in the present hour and day of the clock, in the unit of price_per_hour.
type Spending struct {
	Group   string  `json:"group,omitempty"`
	Hour    float64 `json:"hour"`
	Day     float64 `json:"day"`
	PerHour float64 `json:"per_hour,omitempty" doc:"most that may be; missing: no bound"`
	PerDay  float64 `json:"per_day,omitempty" doc:"most that may be; missing: no bound"`

	Awake   float64    `json:"awake,omitempty" doc:"of day: containers that were kept awake by plan and worked at nothing"`
	Aside   float64    `json:"aside,omitempty" doc:"what the runs that go on are expected to cost, taken aside"`
	Left    *float64   `json:"left,omitempty" doc:"what may still be spent beside that; missing: no bound"`
	Stopped string     `json:"stopped,omitempty" doc:"a sentence while nothing is left: no run begins that costs money, and no container is kept awake by plan"`
	GoesOn  *time.Time `json:"goes_on,omitempty" doc:"when there is money again"`
}

// Purse knows what is spent.
type Purse interface {
	// Budget tells of the studio, and of all groups or the one.
	Budget(ctx context.Context, group string, all bool) Budget
}

func (f *Face) budget() {
	on(f, route{http.MethodGet, "/budget", "budget", "What was spent on GPU sources with a price, and what may be", staff, 0},
		func(ctx context.Context, who identity.Person, _ *struct{}) (*body[Budget], error) {
			return answer(f.Studio.Budget(ctx, who.Group, who.Role == identity.Operator), nil)
		})
}
