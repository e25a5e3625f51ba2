package rehearse

import (
	"cmp"
	"slices"
	"time"
)

// Figures are what a class was like in one mode. Times are seconds.
type Figures struct {
	Order    string   `json:"order"`
	Affinity bool     `json:"affinity"`
	Jobs     int      `json:"jobs"` // that people submitted
	Wait     Waits    `json:"wait"`
	Kinds    []Kind   `json:"kinds"` // the same for each kind of people
	Fairness Fairness `json:"fairness"`
	// PerHour is how many jobs ended in an hour, while the class lasted.
	PerHour float64 `json:"jobs_per_hour"`
	Loads   int     `json:"model_loads"`
	Use     float64 `json:"gpu_use"`     // share of the class in which GPUs worked, loading included
	Loading float64 `json:"gpu_loading"` // share of it in which they loaded models
	Cached  float64 `json:"cached"`      // share of jobs that found their nodes in a GPU's cache
	Over    float64 `json:"over"`        // when the last job ended
	Bands   Bands   `json:"bands"`

	Curves Curves `json:"-"`
}

// Waits are times between submission and start, in seconds.
type Waits struct {
	P50 float64 `json:"p50"`
	P95 float64 `json:"p95"`
	Max float64 `json:"max"`
}

// Kind are the waits of one kind of people.
type Kind struct {
	Kind   string `json:"kind"`
	People int    `json:"people"`
	Jobs   int    `json:"jobs"`
	Wait   Waits  `json:"wait"`
}

// Fairness is Jain's index of the GPU time of people with demand: 1 when all got the same, 1/n when one of n got
// everything. It is taken over every window of the class's length for that, minute by minute, among those of a group
// who had a job open most of the time and a waiting one half of it, each by their weight and the time in which they had
// one open: nobody is owed what they did not ask for.
type Fairness struct {
	Worst   float64 `json:"worst"`
	Mean    float64 `json:"mean"`
	Windows int     `json:"windows"` // in which two people or more had demand; 0: the index says nothing
	Minutes int     `json:"minutes"` // how long a window is
}

// Curves are what the report draws.
type Curves struct {
	Waits   []float64 // seconds, in order
	Waiting []int     // jobs that wait, at each minute
	Jain    []float64 // at each minute over the window that ends there; 0: nobody to compare
}

// Measure returns the figures of what Hold returned.
func (c *Class) Measure(m Mode, runs []*Run) Figures {
	f := Figures{Order: string(m.Order), Affinity: m.Affinity, Jobs: len(runs)}
	f.Curves.Waits = waits(runs, func(*Run) bool { return true })
	f.Wait = summary(f.Curves.Waits)
	ended, cached := 0, 0
	var busy, loading, over time.Duration
	for _, r := range runs {
		if r.Ended <= c.Length {
			ended++
		}
		if r.Cached {
			cached++
		}
		if r.Load > 0 {
			f.Loads++
		}
		busy += within(r.Started, r.Ended, c.Length)
		loading += within(r.Started, r.Started+r.Load, c.Length)
		over = max(over, r.Ended)
	}
	all := c.Length.Seconds() * float64(len(c.Fleet))
	f.PerHour, f.Over = float64(ended)/c.Length.Hours(), over.Seconds()
	f.Use, f.Loading = busy.Seconds()/all, loading.Seconds()/all
	if len(runs) > 0 {
		f.Cached = float64(cached) / float64(len(runs))
	}
	f.Kinds = c.kinds(runs)
	f.Curves.Waiting = c.waiting(runs)
	f.Fairness, f.Curves.Jain = c.fairness(runs, c.Window)
	f.Bands = bands(runs)
	return f
}

// within is how much of a time lies before the end.
func within(from, to, end time.Duration) time.Duration { return max(0, min(to, end)-from) }

// waits returns the waits of some runs in order, in seconds.
func waits(runs []*Run, of func(*Run) bool) (list []float64) {
	for _, r := range runs {
		if of(r) {
			list = append(list, r.Wait().Seconds())
		}
	}
	slices.Sort(list)
	return list
}

func summary(sorted []float64) Waits {
	return Waits{P50: quantile(sorted, 0.5), P95: quantile(sorted, 0.95), Max: quantile(sorted, 1)}
}

// quantile returns the smallest of the values that a share of q are not above.
func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	i := int(q*float64(len(sorted))+0.999999) - 1
	return sorted[min(max(i, 0), len(sorted)-1)]
}

// kinds returns the waits of each kind of people, those with most people first.
func (c *Class) kinds(runs []*Run) (list []Kind) {
	for _, p := range c.People {
		if i := slices.IndexFunc(list, func(k Kind) bool { return k.Kind == p.Kind }); i >= 0 {
			list[i].People++
		} else {
			list = append(list, Kind{Kind: p.Kind, People: 1})
		}
	}
	for i := range list {
		of := waits(runs, func(r *Run) bool { return c.People[r.Person].Kind == list[i].Kind })
		list[i].Jobs, list[i].Wait = len(of), summary(of)
	}
	slices.SortStableFunc(list, func(x, y Kind) int { return cmp.Compare(y.People, x.People) })
	return list
}

// waiting counts the jobs that wait at each minute of the class.
func (c *Class) waiting(runs []*Run) []int {
	minutes := int(c.Length / time.Minute)
	change := make([]int, minutes+2)
	at := func(d time.Duration) int { return min(int((d+time.Minute-1)/time.Minute), minutes+1) }
	for _, r := range runs {
		change[at(r.Submitted)]++
		change[at(r.Started)]--
	}
	for i := 1; i < len(change); i++ {
		change[i] += change[i-1]
	}
	return change[:minutes+1]
}
