package event_test

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"github.com/ahelme/comfyume/internal/event"
)

func TestLine(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]string{
		0: "", -1: "", 1: "First in line", 2: "2nd in line", 3: "3rd in line", 4: "4th in line", 11: "11th in line", 12: "12th in line",
		13: "13th in line", 21: "21st in line", 22: "22nd in line", 101: "101st in line", 111: "111th in line", 112: "112th in line", 1003: "1003rd in line",
	} {
		if got := (event.Place{Position: n}).Line(); got != want {
			t.Errorf("place %d is %q, want %q", n, got, want)
		}
	}
}

func TestWait(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		from, to float64
		want     string
	}{
		{0, 0, ""},
		{5, 3, ""},
		{math.NaN(), math.NaN(), ""},
		{0, math.Inf(1), ""},
		{0, 4, "in a few seconds"},
		{3, 10, "in a few seconds"},
		{3, 22, "within 25 s"},
		{22, 41, "about 20 to 45 s"},
		{20, 58, "about 20 s to 1 min"},
		{0, 70, "within 70 s"},
		{60, 60, "about 1 min"},
		{130, 230, "about 2 to 4 min"},
		{1300, 1900, "about 20 to 35 min"},
		{3000, 7500, "about 50 min to 3 h"},
		{7300, 7300 + 3600, "about 2 to 4 h"},
		{3600 * 50, 3600 * 60, "more than two days"},
	} {
		if got := (event.Place{From: c.from, To: c.to}).Wait(); got != c.want {
			t.Errorf("%v to %v s is %q, want %q", c.from, c.to, got, c.want)
		}
	}
}

var told = regexp.MustCompile(`^(?:about|within) (?:(\d+) ?(s|min|h)? to )?(\d+) (s|min|h)$`)

// TestWaitHoldsTheBand: what is told is never narrower than what is known, and not much wider.
func TestWaitHoldsTheBand(t *testing.T) {
	t.Parallel()
	seconds := map[string]float64{"s": 1, "min": 60, "h": 3600}
	rapid.Check(t, func(t *rapid.T) {
		from := rapid.Float64Range(0, 47*3600).Draw(t, "from")
		to := from + rapid.Float64Range(11, 10*3600).Draw(t, "width")
		text := (event.Place{From: from, To: to}).Wait()
		m := told.FindStringSubmatch(text)
		if m == nil {
			t.Fatalf("%v to %v s is %q", from, to, text)
		}
		unit := m[2]
		if unit == "" {
			unit = m[4]
		}
		low, _ := strconv.ParseFloat("0"+m[1], 64) // none: from now on
		high, err := strconv.ParseFloat(m[3], 64)
		if err != nil {
			t.Fatal(err)
		}
		low, high = low*seconds[unit], high*seconds[m[4]]
		if low > from || high < to {
			t.Fatalf("%v to %v s is told as %q", from, to, text)
		}
		if low < from/2-5 || high > to*1.7+5 {
			t.Fatal(fmt.Sprintf("%v to %v s is told as wide as %q", from, to, text))
		}
	})
}
