package sched

import (
	"cmp"
	"container/heap"
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/ahelme/comfyume/internal/job"
)

// happening is something that comes.
type happening struct {
	at  time.Time
	run *run // that is over then; nil: somebody presses Run
	no  int
}

type happenings []happening

func (h happenings) Len() int { return len(h) }
func (h happenings) Less(i, j int) bool {
	return cmp.Or(h[i].at.Compare(h[j].at), cmp.Compare(h[i].no, h[j].no)) < 0
}
func (h happenings) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *happenings) Push(x any)   { *h = append(*h, x.(happening)) }
func (h *happenings) Pop() any {
	old := *h
	last := old[len(old)-1]
	*h = old[:len(old)-1]
	return last
}

// play is one simulation.
type play struct {
	*Outlook
	m      *Machine
	draw   *rand.Rand
	coming happenings
	now    time.Time
	no     int
	same   float64                // by how much all estimates are wrong
	own    float64                // by how much each is beside that
	often  float64                // presses per second
	turns  time.Time              // when they press more or less often again
	ran    map[*run]time.Duration // how long what runs will have run
	waits  map[job.ID][]time.Duration
	left   int // jobs that are still to begin
	added  int // jobs of people who pressed Run
}

// play simulates once, and adds to the waits of the jobs that begin. It returns how many decisions it took, and how far it
// saw.
func (o *Outlook) play(seed uint64, waits map[job.ID][]time.Duration) (steps int, seen time.Duration) {
	p := &play{Outlook: o, m: o.machine(), draw: rand.New(rand.NewPCG(seed, 1)), now: o.now, ran: map[*run]time.Duration{}, waits: waits, left: o.jobs}
	shared, own := o.known.errors()
	p.same, p.own = p.draw.NormFloat64()*shared, own
	for _, b := range p.m.backends {
		p.start(b)
	}
	p.press()
	for end := o.now.Add(lookAhead); p.left > 0; {
		for id, ok := p.m.Recall(p.now); ok; id, ok = p.m.Recall(p.now) {
			p.m.Apply(Released{Job: id})
			if d, ok := p.m.Next(p.now); ok { // for whom it was taken back
				p.begun(d)
				steps++
			}
		}
		for d, ok := p.m.Next(p.now); ok; d, ok = p.m.Next(p.now) {
			p.begun(d)
			steps++
		}
		if steps > 2*mostSteps/fewReplays || p.added > mostPressed {
			return steps + 1, p.now.Sub(o.now)
		}
		if len(p.coming) == 0 || p.left == 0 {
			break
		}
		h := heap.Pop(&p.coming).(happening)
		if p.now = h.at; p.now.After(end) {
			break
		}
		if h.run == nil {
			p.pressed()
			p.press()
			continue
		}
		r := h.run
		p.m.Apply(Ended{Job: p.m.id(r.item), Ran: p.ran[r], At: p.now})
		delete(p.ran, r)
		p.start(r.on)
	}
	return steps + 1, lookAhead
}

// begun takes in a decision.
func (p *play) begun(d Decision) {
	if b := p.m.backEnd(d.BackEnd); len(b.runs) <= b.Parallel {
		p.start(b)
	}
}

// start lets the next runs of a back end begin, or go on.
func (p *play) start(b *backEnd) {
	for _, r := range b.runs[:min(b.Parallel, len(b.runs))] {
		if _, goes := p.ran[r]; !goes {
			p.goOn(r)
		}
	}
}

// goOn lets a run begin, or go on, and draws when it will be over.
func (p *play) goOn(r *run) {
	if !r.posted {
		id := p.m.id(r.item)
		p.m.Apply(Posted{Job: id, At: p.now})
		if w, ok := p.waits[id]; ok {
			p.waits[id] = append(w, p.now.Sub(p.Outlook.now))
			p.left--
		}
	}
	gone := p.now.Sub(r.began)
	var lasts time.Duration
	for range 8 { // longer than it ran already
		// The mean of the draws is what was expected.
		lasts = time.Duration(float64(r.charged) * math.Exp(p.same+p.own*(p.draw.NormFloat64()-p.own/2)))
		if lasts > gone {
			break
		}
	}
	if lasts <= gone {
		lasts = gone + time.Duration(float64(gone)*p.draw.ExpFloat64()/4)
	}
	p.ran[r] = lasts
	p.no++
	heap.Push(&p.coming, happening{r.began.Add(lasts), r, p.no})
}

// press sets when somebody presses Run next.
func (p *play) press() {
	if !p.now.Before(p.turns) {
		p.often, p.turns = p.rate*math.Exp(p.draw.NormFloat64()*unsteady), p.now.Add(lately)
	}
	if p.often > 0 {
		p.no++
		heap.Push(&p.coming, happening{at: p.now.Add(seconds(p.draw.ExpFloat64() / p.often)), no: p.no})
	}
}

// pressed adds the jobs of somebody who pressed Run as one did lately.
func (p *play) pressed() {
	b := p.presses[p.draw.IntN(len(p.presses))]
	for range b.times {
		p.no++
		j := b.Job
		j.ID, j.Created = job.ID(fmt.Sprint("+", p.no)), p.now
		j.Seq, j.Number = math.MaxInt64/2+int64(p.no), math.MaxInt32+float64(p.no)
		p.m.add(j)
	}
	p.added += b.times
}
