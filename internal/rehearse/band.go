package rehearse

import (
	"slices"
	"time"
)

// band is what somebody was told of a job's wait, and when.
type band struct {
	at       time.Duration
	place    int
	from, to time.Duration
}

// holds reports whether the wait that was left when it was told lies in the band.
func (b band) holds(r *Run) bool {
	left := r.Started - b.at
	return b.from <= left && left <= b.to
}

// Bands say how often the wait lay in the band that people were told, which is meant to hold three times in five.
type Bands struct {
	Told   int     `json:"told"`
	Held   float64 `json:"held"` // share of them
	Places []Place `json:"places"`
}

// Place is the same for places of the queue.
type Place struct {
	From int     `json:"from"`
	To   int     `json:"to"` // 0: all beyond
	Told int     `json:"told"`
	Held float64 `json:"held"`
}

// steps are the first places of each row.
var steps = []int{1, 2, 3, 4, 6, 9, 13, 21, 41, 81, 161}

func bands(runs []*Run) (b Bands) {
	for i, from := range steps {
		p := Place{From: from}
		if i+1 < len(steps) {
			p.To = steps[i+1] - 1
		}
		b.Places = append(b.Places, p)
	}
	held := make([]int, len(steps))
	for _, r := range runs {
		for _, t := range r.bands {
			i, exact := slices.BinarySearch(steps, t.place)
			if !exact {
				i--
			}
			b.Told++
			b.Places[i].Told++
			if t.holds(r) {
				held[i]++
			}
		}
	}
	sum := 0
	for i := range b.Places {
		sum += held[i]
		b.Places[i].Held = share(held[i], b.Places[i].Told)
	}
	b.Held = share(sum, b.Told)
	b.Places = slices.DeleteFunc(b.Places, func(p Place) bool { return p.Told == 0 })
	return b
}

func share(n, of int) float64 {
	if of == 0 {
		return 0
	}
	return float64(n) / float64(of)
}

// ask tells everybody who waits how long it still takes.
func (s *studio) ask() {
	s.desk.bands(s.now, func(seq, place int, from, to time.Duration) {
		r := s.runs[seq]
		r.bands = append(r.bands, band{s.now, place, from, to})
	})
	if s.now+s.Ask <= s.Length {
		s.at(s.now+s.Ask, s.ask)
	}
}
