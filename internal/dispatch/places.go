package dispatch

import (
	"math"
	"time"

	"github.com/ahelme/comfyume/internal/event"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/sched"
)

const (
	// mostTold is how many of a person's waiting jobs are told their places.
	mostTold = 50
	// tellFor is how long the loop tells places at a stretch, and restAfter how many times as long it does other work
	// then: however many watch and wait, jobs come first.
	tellFor   = 4 * time.Millisecond
	restAfter = 10
	// tellAgain is when places are looked at anew although nothing happened: what runs may take longer than expected.
	tellAgain = 10 * time.Second
	// foreseeAfter is how many times as long as it took nobody looks ahead again.
	foreseeAfter = 20
	// teachEvery is how often what the schedule learnt is given away to be kept.
	teachEvery = time.Minute
)

// places is what people were told of their waiting jobs, and what is to be told.
type places struct {
	told  map[string]map[job.ID]toldPlace
	left  []string // people who are still to be told
	seen  sched.Forecast
	next  time.Time // when to look ahead again
	ahead bool      // somebody is looking ahead
	fresh bool      // somebody just did, and it is to be told
	asked []why     // questions that wait for it

	taught time.Time // when what bands taught was last given away
}

type toldPlace struct {
	event.Place
	at time.Time
}

func newPlaces() places { return places{told: make(map[string]map[job.ID]toldPlace)} }

// foreseen is what was seen ahead: how long jobs wait.
type foreseen struct {
	sched.Forecast
	took time.Duration
}

// foreseen takes in how long jobs wait.
func (l *loop) foreseen(f foreseen, now time.Time) {
	p := &l.places
	p.ahead, p.fresh = false, true
	p.seen = f.Forecast
	if next := now.Add(foreseeAfter * f.took); next.After(p.next) {
		p.next = next
	}
	l.machine.Said(f.Forecast)
	l.stale = true
	if now.Sub(p.taught) >= teachEvery {
		l.teach(now)
	}
}

// teach gives away what runs taught the schedule, for the next start.
func (l *loop) teach(now time.Time) {
	l.places.taught = now
	if l.deps.Teach != nil {
		l.deps.Teach(l.machine.Memory())
	}
}

// band returns the seconds from now in which the job is expected to begin.
func (p *places) band(id job.ID, position int, now time.Time) (from, to float64) {
	b := p.seen.Band(id, position)
	if b.To == 0 {
		return 0, 0
	}
	age := now.Sub(p.seen.At)
	return max(0, math.Round((b.From - age).Seconds())), max(1, math.Round((b.To - age).Seconds()))
}

// near reports whether what a person was told still holds: a band may move a little without being told anew.
func (t toldPlace) near(now toldPlace) bool {
	if t.Position != now.Position || t.Code != now.Code || t.Reason != now.Reason || (t.To == 0) != (now.To == 0) {
		return false
	}
	age := now.at.Sub(t.at).Seconds()
	close := func(old, new float64) bool { return math.Abs(max(old-age, 0)-new) <= max(2, new/5) }
	return close(t.From, now.From) && close(t.To, now.To)
}

// lookAhead lets somebody look ahead, beside the loop.
func (l *loop) lookAhead(now time.Time) {
	p := &l.places
	if p.ahead || now.Before(p.next) {
		return
	}
	p.ahead = true
	outlook := l.machine.Outlook(now)
	p.next = now.Add(max(l.options.BandsEvery, 100*time.Since(now)))
	l.wg.Go(func() {
		start := time.Now()
		f := outlook.Look()
		l.inbox.send(foreseen{f, time.Since(start)})
	})
}

// tellPlaces tells the people who watch where their waiting jobs stand, as far as that changed. It returns when it is to
// go on; zero: when something changes.
func (l *loop) tellPlaces(now time.Time) time.Duration {
	p := &l.places
	if len(p.left) == 0 {
		l.stale = false
		for user := range l.waiting {
			switch {
			case !l.machine.Waits(user) && p.told[user] == nil:
				delete(l.waiting, user)
			case !l.deps.Bus.Watched(user):
				delete(p.told, user)
			default:
				p.left = append(p.left, user)
			}
		}
		if len(p.left) > 0 && !p.fresh {
			l.lookAhead(now)
		}
		p.fresh = false
	}
	var took time.Duration
	for len(p.left) > 0 && took < tellFor {
		user := p.left[len(p.left)-1]
		p.left = p.left[:len(p.left)-1]
		l.tell(user, now)
		took = time.Since(now)
	}
	switch {
	case l.stale, len(p.left) > 0:
		return max(l.options.PlacesEvery, restAfter*took)
	case len(p.told) > 0:
		return tellAgain
	}
	return 0
}

// tell tells one person where their waiting jobs stand, if that is news.
func (l *loop) tell(user string, now time.Time) {
	p := &l.places
	standings := l.machine.Standings(user, mostTold, now)
	told := make(map[job.ID]toldPlace, len(standings))
	before, known := p.told[user]
	news := len(before) != len(standings)
	for _, s := range standings {
		t := toldPlace{l.placeOf(s.Job, s.Position, s.Reason, now), now}
		if old, ok := before[s.Job]; ok && old.near(t) {
			t = old
		} else {
			news = true
		}
		told[s.Job] = t
	}
	if len(told) == 0 {
		delete(p.told, user)
	} else {
		p.told[user] = told
	}
	if !news || !known && len(told) == 0 {
		return
	}
	out := make(map[job.ID]event.Place, len(told))
	for id, t := range told {
		t.From, t.To = p.aged(t, now)
		out[id] = t.Place
	}
	l.deps.Bus.Publish(event.Event{User: user, Body: event.Queued{Places: out}})
}

// aged returns the band of what was told some time ago, as it is from now.
func (p *places) aged(t toldPlace, now time.Time) (from, to float64) {
	if t.To == 0 {
		return 0, 0
	}
	age := math.Round(now.Sub(t.at).Seconds())
	return max(0, t.From-age), max(1, t.To-age)
}

// placeOf is what a person is told of a job.
func (l *loop) placeOf(id job.ID, position int, r sched.Reason, now time.Time) event.Place {
	place := event.Place{Position: position, Code: r.Code, Reason: r.Sentence}
	if r.Code == sched.WhyNext || r.Code == sched.WhyTurn || r.Code == sched.WhyLimit || r.Code == sched.WhyRetry {
		place.From, place.To = l.places.band(id, position, now)
	}
	return place
}

// ask answers who asks about one job. As long as nobody watches nobody looks ahead: the answer waits for that then.
func (l *loop) ask(m why, now time.Time) {
	p := &l.places
	if now.Sub(p.seen.At) > l.options.BandsEvery {
		l.lookAhead(now)
	}
	if p.ahead && now.Sub(p.seen.At) > l.options.BandsEvery {
		p.asked = append(p.asked, m)
		return
	}
	m.answer <- l.why(m.id, now)
}

// answer answers the questions that waited.
func (l *loop) answer(now time.Time) {
	for _, m := range l.places.asked {
		m.answer <- l.why(m.id, now)
	}
	l.places.asked = nil
}

// why says where one job stands and why.
func (l *loop) why(id job.ID, now time.Time) whyAnswer {
	position, _ := l.machine.Place(id)
	reason := l.machine.Why(id, now)
	return whyAnswer{l.placeOf(id, position, reason, now), reason}
}
