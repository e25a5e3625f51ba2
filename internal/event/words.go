package event

import (
	"fmt"
	"math"
	"time"
)

// Line says where a waiting job stands, such as "3rd in line"; empty where it has no place, as a held one.
func (p Place) Line() string {
	switch {
	case p.Position <= 0:
		return ""
	case p.Position == 1:
		return "First in line"
	}
	return ordinal(p.Position) + " in line"
}

// ordinal writes n as a place: 2nd, 3rd, 11th.
func ordinal(n int) string {
	suffix := "th"
	if teen := n % 100; teen < 11 || teen > 13 {
		switch n % 10 {
		case 1:
			suffix = "st"
		case 2:
			suffix = "nd"
		case 3:
			suffix = "rd"
		}
	}
	return fmt.Sprintf("%d%s", n, suffix)
}

// Wait says how long it is until the job begins, such as "about 2 to 4 min"; empty where nobody can tell. It is rounded
// outwards, so that it never promises more than From and To do.
func (p Place) Wait() string {
	from, to := p.From, p.To
	switch {
	case !(to > 0) || math.IsInf(to, 1) || from > to: // also for NaN
		return ""
	case to <= 10:
		return "in a few seconds"
	case from >= longest.Seconds():
		return "more than two days"
	}
	low, lowUnit := rounded(max(0, from), math.Floor)
	high, highUnit := rounded(to, math.Ceil)
	switch {
	case low == 0:
		return fmt.Sprintf("within %d %s", high, highUnit)
	case lowUnit != highUnit:
		return fmt.Sprintf("about %d %s to %d %s", low, lowUnit, high, highUnit)
	case low == high:
		return fmt.Sprintf("about %d %s", low, lowUnit)
	}
	return fmt.Sprintf("about %d to %d %s", low, high, lowUnit)
}

// longest is the longest wait that is told in numbers.
const longest = 48 * time.Hour

// rounded writes seconds as few digits of the unit in which people would say them.
func rounded(seconds float64, round func(float64) float64) (n int, unit string) {
	step := func(value, step float64) int { return int(round(value/step) * step) }
	if seconds <= 90 {
		if n := step(seconds, 5); n != 60 {
			return n, "s"
		}
		return 1, "min"
	}
	if minutes := seconds / 60; minutes < 90 {
		if minutes <= 20 {
			return step(minutes, 1), "min"
		}
		return step(minutes, 5), "min"
	}
	return step(seconds/3600, 1), "h"
}
