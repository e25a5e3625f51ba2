package usage

import (
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

// median returns the value that half of the weight is below. It orders list, which is short.
func median(list []weighted) float64 {
	var all, below float64
	for i, w := range list {
		all += w.weight
		for ; i > 0 && list[i-1].value > w.value; i-- {
			list[i] = list[i-1]
		}
		list[i] = w
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

// cloud is what is known of like graphs as points: time over work, and how much each counts.
type cloud struct {
	x, y, weight [maxSamples]float64
	n            int
}

// cloudOf makes points of runs. speed tells how fast the back end of a run is; halfLife is after how many seconds a run
// counts half.
func cloudOf(samples []sample, speed func(backEnd uint32) float64, halfLife float64) (c cloud) {
	c.n = len(samples)
	newest := samples[0].at
	for _, s := range samples {
		newest = max(newest, s.at)
	}
	for i, s := range samples {
		if s.work >= leastWork {
			c.x[i] = s.work
		}
		c.y[i] = s.seconds * speed(s.backEnd)
		c.weight[i] = max(math.Exp2(-float64(newest-s.at)/halfLife), leastWeight)
	}
	return c
}

// median is the median of a value of each point, or of those that fit.
func (c *cloud) median(value func(x, y float64) float64, fits func(x float64) bool) (m float64, ok bool) {
	var room [maxSamples]weighted
	list := room[:0]
	for i := range c.n {
		if fits == nil || fits(c.x[i]) {
			list = append(list, weighted{value(c.x[i], c.y[i]), c.weight[i]})
		}
	}
	if len(list) == 0 {
		return 0, false
	}
	return median(list), true
}

// slope is the median of the medians of the slopes from each point to the others (Siegel's repeated median). Two points
// tell a slope when there was different enough to do.
func (c *cloud) slope() (m float64, ok bool) {
	least, most := slices.Min(c.x[:c.n]), slices.Max(c.x[:c.n])
	apart := max((most-least)/4, most/100)
	if most-least <= apart {
		return 0, false
	}
	var room, others [maxSamples]weighted
	slopes := room[:0]
	for i := range c.n {
		list := others[:0]
		for j := range c.n {
			if dx := c.x[i] - c.x[j]; math.Abs(dx) > apart {
				list = append(list, weighted{(c.y[i] - c.y[j]) / dx, c.weight[j]})
			}
		}
		if len(list) > 0 {
			slopes = append(slopes, weighted{median(list), c.weight[i]})
		}
	}
	return max(median(slopes), 0), true
}

// learn fits a line to runs, at least one. It goes by medians: of the times where all had the same to do, else of the
// slopes between them, so that a few runs that loaded a model, or found everything in the cache, don't move it.
func learn(samples []sample, speed func(backEnd uint32) float64, halfLife float64) fit {
	c := cloudOf(samples, speed, halfLife)
	f := fit{n: c.n}
	slope, ok := c.slope()
	if ok {
		f.slope = slope
		f.base, _ = c.median(func(x, y float64) float64 { return y - slope*x }, nil)
	}
	if !ok || f.base < 0 { // a line through nothing, or none at all where nothing was to do
		f.base = 0
		f.slope, ok = c.median(func(x, y float64) float64 { return y / x }, func(x float64) bool { return x > 0 })
	}
	if !ok {
		f.base, _ = c.median(func(_, y float64) float64 { return y }, nil)
	}
	away, _ := c.median(func(x, y float64) float64 {
		expected := max(f.seconds(x), 1e-3)
		return math.Abs(y-expected) / expected
	}, nil)
	// 1.48 makes a standard deviation of the median of what is between. A few runs don't know theirs yet.
	const doubt, doubts = 0.75, 2
	f.spread = (1.4826*away*float64(f.n) + doubt*doubts) / (float64(f.n) + doubts)
	return f
}
