package report

import (
	"fmt"
	"math"

	"github.com/ahelme/comfyume/internal/rehearse"
)

// drawn are the modes that charts show: each order once, with affinity where both are there; of fifo the one without,
// which is what a plain queue does.
func drawn(all []rehearse.Figures) (some []rehearse.Figures) {
	for _, f := range all {
		better := false
		for _, other := range all {
			better = better || other.Order == f.Order && other.Affinity != f.Affinity && other.Affinity == (f.Order != "fifo")
		}
		if !better {
			some = append(some, f)
		}
	}
	return some
}

// waitChart shows how many of the jobs had started after which time.
func waitChart(s Section) string {
	longest := 60.0
	for _, f := range drawn(s.Figures) {
		longest = max(longest, f.Wait.Max)
	}
	var d drawing
	f := d.chart("Jobs that started within", scale{1, longest, true}, scale{0, 1, false})
	d.axes(f, times(longest), []tick{{0, "0 %"}, {0.25, "25 %"}, {0.5, "50 %"}, {0.75, "75 %"}, {1, "100 %"}})
	for _, m := range drawn(s.Figures) {
		d.curve(m.Order, distribution(f, m.Curves.Waits))
	}
	return d.String()
}

// distribution returns the points of a sorted list's distribution.
func distribution(f frame, sorted []float64) (points []point) {
	const most = 160
	n := len(sorted)
	for i := range min(n, most) {
		k := (i + 1) * n / min(n, most)
		points = append(points, f.at(sorted[k-1], float64(k)/float64(n)))
	}
	return points
}

// queueChart shows how many jobs wait while the class goes on.
func queueChart(s Section) string {
	most := 1
	for _, m := range drawn(s.Figures) {
		for _, n := range m.Curves.Waiting {
			most = max(most, n)
		}
	}
	ys, end := steps(float64(most))
	var d drawing
	f := d.chart("Jobs that wait", s.clock(), scale{0, end, false})
	d.axes(f, s.hours(), ys)
	for _, m := range drawn(s.Figures) {
		var points []point
		for minute := range m.Curves.Waiting {
			points = append(points, f.at(float64(minute), around(m.Curves.Waiting, minute)))
		}
		d.curve(m.Order, points)
	}
	return d.String()
}

// around is the mean of the five minutes around one.
func around(minutes []int, i int) float64 {
	sum, n := 0, 0
	for _, x := range minutes[max(0, i-2):min(len(minutes), i+3)] {
		sum, n = sum+x, n+1
	}
	return float64(sum) / float64(n)
}

// kindChart shows what each kind of people waited: half of them, 95 of 100, and the longest.
func kindChart(s Section) string {
	modes := drawn(s.Figures)
	longest := 60.0
	for _, m := range modes {
		for _, k := range m.Kinds {
			longest = max(longest, k.Wait.Max)
		}
	}
	longest *= 1.2
	var d drawing
	f := d.chart("Waits by kind: half ●, 95 % ▮, longest ○", scale{1, longest, true}, scale{0, 1, false})
	f.left += 40
	for _, t := range times(longest) {
		p := f.at(t.value, 0)
		d.line("grid", p.x, f.top-6, p.x, f.bottom)
		d.text("axis", "middle", p.x, f.bottom+18, t.name)
	}
	d.line("base", f.left, f.bottom, f.right, f.bottom)
	if len(modes) == 0 {
		return d.String()
	}
	kinds := modes[0].Kinds
	row := (f.bottom - f.top) / float64(len(kinds))
	gap := min(11, row/float64(len(modes)+1))
	for i, k := range kinds {
		middle := f.top + row*(float64(i)+0.5)
		d.text("axis", "end", f.left-8, middle+4, k.Kind)
		for j, m := range modes {
			y := middle + gap*(float64(j)-float64(len(modes)-1)/2)
			w := m.Kinds[i].Wait
			p50, p95, most := f.at(w.P50, 0).x, f.at(w.P95, 0).x, f.at(w.Max, 0).x
			d.curve(m.Order, []point{{p50, y}, {p95, y}})
			d.curve("thin "+m.Order, []point{{p95, y}, {most, y}})
			d.dot("ring "+m.Order, most, y, 2.8)
			d.dot("fill "+m.Order, p50, y, 3.4)
			d.box("fill "+m.Order, p95-1.3, y-3.6, 2.6, 7.2)
		}
	}
	return d.String()
}

// times are the ticks of a logarithmic axis of waits.
func times(longest float64) (xs []tick) {
	for _, t := range []tick{{1, "1 s"}, {10, "10 s"}, {60, "1 min"}, {600, "10 min"}, {3600, "1 h"}, {36000, "10 h"}} {
		if t.value <= longest {
			xs = append(xs, t)
		}
	}
	return xs
}

// fairChart shows Jain's index over the window that ends at each minute.
func fairChart(s Section) string {
	worst := 0.9
	for _, m := range drawn(s.Figures) {
		if m.Fairness.Windows > 0 {
			worst = min(worst, m.Fairness.Worst)
		}
	}
	worst = math.Floor(worst*10) / 10
	var d drawing
	f := d.chart(fmt.Sprintf("Jain's index of GPU time over %s", length(s.Class.Window)), s.clock(), scale{worst, 1, false})
	var ys []tick
	for i := range 3 {
		v := worst + (1-worst)*float64(i)/2
		ys = append(ys, tick{v, fmt.Sprintf("%.2f", v)})
	}
	d.axes(f, s.hours(), ys)
	seen := false
	for _, m := range drawn(s.Figures) {
		var points []point
		for minute, j := range m.Curves.Jain {
			if j == 0 {
				j = math.NaN()
			}
			seen = seen || j > 0
			points = append(points, f.at(float64(minute), j))
		}
		d.curve(m.Order, points)
	}
	if !seen {
		d.text("axis", "middle", (f.left+f.right)/2, (f.top+f.bottom)/2, "Nobody waited that long.")
	}
	return d.String()
}

// useChart shows what GPUs did: work, and loading of models.
func useChart(s Section) string {
	var d drawing
	d.text("heading", "start", 2, 15, "GPU time: work, and loading of models")
	const left, bar = 128.0, 15.0
	row := (height - marginTop) / float64(len(s.Figures))
	for i, m := range s.Figures {
		y := marginTop + row*float64(i) + (row-bar)/2
		full := width - left - 96
		d.text("axis", "end", left-8, y+bar-3, short(m))
		d.box("empty", left, y, full, bar)
		d.box("fill "+m.Order, left, y, full*(m.Use-m.Loading), bar)
		d.box("loading", left+full*(m.Use-m.Loading), y, full*m.Loading, bar)
		d.text("axis", "start", left+full+6, y+bar-3, fmt.Sprintf("%s loads", thousands(m.Loads)))
	}
	return d.String()
}

// bandChart shows how often the wait lay in the band that people were told, by place in the queue.
func bandChart(s Section) string {
	var d drawing
	const few = 20 // of fewer, a share says nothing
	var places []rehearse.Place
	for _, m := range drawn(s.Figures) {
		for _, p := range m.Bands.Places {
			if p.Told >= few && len(places) < len(m.Bands.Places) && (len(places) == 0 || p.From > places[len(places)-1].From) {
				places = append(places, p)
			}
		}
	}
	f := d.chart("Waits within the band that was told, by place", scale{-0.5, float64(max(len(places), 1)) - 0.5, false}, scale{0, 1, false})
	zone := f.at(f.x.from, 0.8)
	d.box("zone", f.left, zone.y, f.right-f.left, f.at(0, 0.6).y-zone.y)
	var xs []tick
	for i, p := range places {
		xs = append(xs, tick{float64(i), placeName(p)})
	}
	d.axes(f, xs, []tick{{0, "0 %"}, {0.2, "20 %"}, {0.4, "40 %"}, {0.6, "60 %"}, {0.8, "80 %"}, {1, "100 %"}})
	for _, m := range drawn(s.Figures) {
		var points []point
		for i, p := range places {
			y := math.NaN()
			for _, q := range m.Bands.Places {
				if q.From == p.From && q.Told >= few {
					y = q.Held
				}
			}
			points = append(points, f.at(float64(i), y))
		}
		d.curve(m.Order, points)
	}
	return d.String()
}

func placeName(p rehearse.Place) string {
	switch {
	case p.To == 0:
		return fmt.Sprintf("%d+", p.From)
	case p.To == p.From:
		return fmt.Sprint(p.From)
	}
	return fmt.Sprintf("%d–%d", p.From, p.To)
}
