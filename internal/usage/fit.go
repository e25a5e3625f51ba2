package usage

import (
	"cmp"
	"math"
	"slices"
)

// maxSamples is how many runs of graphs that are alike are remembered, the latest.
const maxSamples = 16

// leastWeight is what an old run counts at least beside a new one: a single new one never outvotes all others.
const leastWeight = 1.0 / maxSamples

// leastWork is what is told from nothing: a single pixel.
const leastWork = 1e-6

// sample is one run.
type sample struct {
	work    float64
	seconds float64
	at      int64  // Unix seconds
	backEnd uint32 // hash of its name
}

// fit is what was learned of graphs that are alike: they take base + slope × work seconds at usual speed. Neither is
// negative, so that more work never takes less time.
type fit struct {
	base, slope float64
	spread      float64 // relative to the time
	n           int
}

func (f fit) seconds(work float64) float64 { return f.base + f.slope*work }

// weighted is a value and how much it counts.
type weighted struct{ value, weight float64 }

// median returns the value that half of the weight is below. It orders list.
func median(list []weighted) float64 {
	slices.SortFunc(list, func(a, b weighted) int { return cmp.Compare(a.value, b.value) })
	var all, below float64
	for _, w := range list {
		all += w.weight
	}
	for i, w := range list {
		switch below += w.weight; {
		case below > all/2*(1+1e-9):
			return w.value
		case below >= all/2*(1-1e-9) && i+1 < len(list):
			return w.value + (list[i+1].value-w.value)/2
		}
	}
	return list[len(list)-1].value
}

// learn fits a line to runs. It goes by medians: of the times where all had the same work, else of the slopes from each
// run to the others (Siegel's repeated median), so that a few runs that loaded a model, or found everything in the
// cache, don't move it. speed tells how fast the back end of a run is; halfLife is after how many seconds a run counts
// half.
func learn(samples []sample, speed func(backEnd uint32) float64, halfLife float64) fit {
	f := fit{n: len(samples)}
	if f.n == 0 {
		return f
	}
	newest := samples[0].at
	for _, s := range samples {
		newest = max(newest, s.at)
	}
	var x, y, weight [maxSamples]float64
	for i, s := range samples {
		x[i], y[i] = s.work, s.seconds*speed(s.backEnd)
		if x[i] < leastWork {
			x[i] = 0
		}
		weight[i] = max(math.Exp2(-float64(newest-s.at)/halfLife), leastWeight)
	}
	var room [maxSamples]weighted
	over := func(value func(i int) float64, fits func(i int) bool) float64 {
		list := room[:0]
		for i := range samples {
			if fits == nil || fits(i) {
				list = append(list, weighted{value(i), weight[i]})
			}
		}
		return median(list)
	}
	// Two runs tell a slope when what they had to do was different enough.
	least, most := slices.Min(x[:f.n]), slices.Max(x[:f.n])
	apart := max((most-least)/4, most/100)
	var slopes, others [maxSamples]weighted
	known := slopes[:0]
	for i := range samples {
		list := others[:0]
		for j := range samples {
			if dx := x[i] - x[j]; math.Abs(dx) > apart {
				list = append(list, weighted{(y[i] - y[j]) / dx, weight[j]})
			}
		}
		if len(list) > 0 {
			known = append(known, weighted{median(list), weight[i]})
		}
	}
	if len(known) > 0 {
		f.slope = max(median(known), 0)
		f.base = over(func(i int) float64 { return y[i] - f.slope*x[i] }, nil)
	}
	switch positive := func(i int) bool { return x[i] > 0 }; {
	case len(known) > 0 && f.base >= 0:
	case slices.ContainsFunc(x[:f.n], func(x float64) bool { return x > 0 }):
		f.base, f.slope = 0, over(func(i int) float64 { return y[i] / x[i] }, positive)
	default:
		f.base = over(func(i int) float64 { return y[i] }, nil)
	}
	away := over(func(i int) float64 {
		expected := max(f.seconds(x[i]), 1e-3)
		return math.Abs(y[i]-expected) / expected
	}, nil)
	// 1.48 makes a standard deviation of the median of what is between. A few runs don't know theirs yet.
	const doubt, doubts = 0.75, 2
	f.spread = (1.4826*away*float64(f.n) + doubt*doubts) / (float64(f.n) + doubts)
	return f
}
