package rehearse

import (
	"cmp"
	"slices"
	"time"
)

// Who has demand in a window: an open job for so much of it, and a waiting one for so much.
const (
	openShare    = 0.75
	waitingShare = 0.5
)

// ledger is what one person had in each minute, in seconds.
type ledger struct {
	gpu     []float64 // time of GPUs
	open    []float64 // in which a job was open
	waiting []float64 // in which a job waited
}

// fairness returns Jain's index over windows: the worst, the mean, and that of each minute.
func (c *Class) fairness(runs []*Run, window time.Duration) (Fairness, []float64) {
	minutes, size := int(c.Length/time.Minute), int(window/time.Minute)
	f := Fairness{Minutes: size}
	curve := make([]float64, minutes+1)
	if size == 0 {
		return f, curve
	}
	books := c.books(runs, minutes)
	groups := c.groups()
	sum := 0.0
	for end := size; end <= minutes; end++ {
		worst := 0.0
		for _, members := range groups {
			var shares []float64
			for _, i := range members {
				b := books[i]
				seconds := window.Seconds()
				open := total(b.open[end-size : end])
				if open >= openShare*seconds && total(b.waiting[end-size:end]) >= waitingShare*seconds {
					shares = append(shares, total(b.gpu[end-size:end])/open/cmp.Or(c.People[i].Weight, 1))
				}
			}
			if len(shares) < 2 {
				continue
			}
			j := Jain(shares)
			f.Windows++
			sum += j
			if worst == 0 || j < worst {
				worst = j
			}
		}
		curve[end] = worst
		if worst > 0 && (f.Worst == 0 || worst < f.Worst) {
			f.Worst = worst
		}
	}
	if f.Windows > 0 {
		f.Mean = sum / float64(f.Windows)
	}
	return f, curve
}

// GPUTime returns the seconds of GPUs that each person had from one time to another.
func (c *Class) GPUTime(runs []*Run, from, to time.Duration) []float64 {
	got := make([]float64, len(c.People))
	for _, r := range runs {
		got[r.Person] += within(max(r.Started, from), r.Ended, to).Seconds()
	}
	return got
}

// Jain returns Jain's index of what people got.
func Jain(got []float64) float64 {
	sum, squares := 0.0, 0.0
	for _, x := range got {
		sum += x
		squares += x * x
	}
	if squares == 0 {
		return 1 // nobody got anything, all the same
	}
	return sum * sum / (float64(len(got)) * squares)
}

// groups returns the people of each group: what a group gets, its members share.
func (c *Class) groups() (list [][]int) {
	var names []string
	for i, p := range c.People {
		g := slices.Index(names, p.Group)
		if g < 0 {
			g = len(names)
			names, list = append(names, p.Group), append(list, nil)
		}
		list[g] = append(list[g], i)
	}
	return list
}

func (c *Class) books(runs []*Run, minutes int) []ledger {
	books := make([]ledger, len(c.People))
	open, waiting := make([][]Span, len(c.People)), make([][]Span, len(c.People))
	for i := range books {
		books[i] = ledger{make([]float64, minutes), make([]float64, minutes), make([]float64, minutes)}
	}
	for _, r := range runs { // in order of submission
		spread(books[r.Person].gpu, Span{r.Started, r.Ended})
		open[r.Person] = join(open[r.Person], Span{r.Submitted, r.Ended})
		waiting[r.Person] = join(waiting[r.Person], Span{r.Submitted, r.Started})
	}
	for i := range books {
		for _, s := range open[i] {
			spread(books[i].open, s)
		}
		for _, s := range waiting[i] {
			spread(books[i].waiting, s)
		}
	}
	return books
}

// join adds a span to those that begin before it: times that overlap count once.
func join(list []Span, s Span) []Span {
	if n := len(list); n > 0 && list[n-1].To >= s.From {
		list[n-1].To = max(list[n-1].To, s.To)
		return list
	}
	return append(list, s)
}

// spread adds a span to the minutes it lies in.
func spread(minutes []float64, s Span) {
	for i := int(s.From / time.Minute); i < len(minutes); i++ {
		from, to := time.Duration(i)*time.Minute, time.Duration(i+1)*time.Minute
		if from >= s.To {
			return
		}
		minutes[i] += (min(to, s.To) - max(from, s.From)).Seconds()
	}
}

func total(list []float64) (sum float64) {
	for _, x := range list {
		sum += x
	}
	return sum
}
