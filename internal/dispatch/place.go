package dispatch

import (
	"slices"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/job"
)

// offers are the back ends that would run a job at once. A job that is about to be accepted takes one, so that its
// claim is in the same commit: an idle studio has it at the back end the sooner.
//
// The loop owns the schedule and offers only while nothing waits. Until it hears of the job it may give the back end
// to another one, which then goes first.
type offers struct {
	mu    sync.Mutex
	list  []offer
	shut  []string             // groups whose jobs are paused
	taken map[string]time.Time // by back end; the loop has not heard of the job yet
	holds int                  // changes that the loop has not heard of yet and that may close them
}

type offer struct {
	backEnd string
	driver  backend.Driver
	user    string // for whom it worked last
	models  string // what it has loaded
	groups  []string
	prefer  int
	memory  int64
}

// takenFor is how long the loop waits for a job that took an offer: it may not have been accepted after all.
const takenFor = time.Second

// take gives a job an offer: of a back end that has its models loaded, then of one that worked for the person last,
// else the first.
func (o *offers) take(j job.Job, need int64) (offer, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.list) == 0 || j.Held || slices.Contains(o.shut, j.Group) {
		return offer{}, false
	}
	i, best := 0, -1
	for k, of := range o.list { // the preferred ones come first
		if len(of.groups) > 0 && !slices.Contains(of.groups, j.Group) || of.memory > 0 && need > of.memory {
			continue
		}
		if best >= 0 && of.prefer < o.list[i].prefer {
			break
		}
		fits := 0
		if of.user == j.User {
			fits = 1
		}
		if of.models == j.Profile.Models {
			fits += 2
		}
		if fits > best {
			i, best = k, fits
		}
	}
	if best < 0 {
		return offer{}, false
	}
	taken := o.list[i]
	o.list = slices.Delete(o.list, i, i+1)
	if o.taken == nil {
		o.taken = make(map[string]time.Time)
	}
	o.taken[taken.backEnd] = time.Now()
	return taken, true
}

// came notes that the loop has heard of the job that took an offer.
func (o *offers) came(backEnd string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.taken, backEnd)
}

// hold closes the offers until release.
func (o *offers) hold() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.holds++
	o.list = nil
}

func (o *offers) release() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.holds--
}

// set replaces the offers.
func (o *offers) set(list []offer, shut []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.shut = shut
	if o.holds > 0 {
		list = nil
	}
	o.list = slices.DeleteFunc(list, func(of offer) bool {
		at, ok := o.taken[of.backEnd]
		return ok && time.Since(at) < takenFor
	})
}

// offer says which back ends would run a job at once.
func (l *loop) offer() {
	var list []offer
	// How many back ends work for a person is not counted here: with fewer attempts in all nobody is at their limit.
	if most := l.options.MaxRunningPerUser; l.full == nil && (most <= 0 || len(l.attempts) < most) {
		for _, b := range l.machine.Idle() {
			if driver := l.drivers[b.BackEnd]; driver != nil {
				list = append(list, offer{b.BackEnd, driver, b.User, b.Models, b.Groups, b.Prefer, b.Memory})
			}
		}
	}
	l.offers.set(list, l.shut)
}

// Place chooses, for a job that is about to be accepted, a back end that would run it at once. It does not block.
func (d *Dispatcher) Place(j job.Job) (p job.ClaimParams, ok bool) {
	o, ok := d.offers.take(j, d.hunger.of(j))
	if !ok {
		return job.ClaimParams{}, false
	}
	return d.params(o.backEnd, o.driver), true
}

// params says what a claim of a job for a back end writes down.
func (d *Dispatcher) params(backEnd string, driver backend.Driver) job.ClaimParams {
	return job.ClaimParams{BackEnd: backEnd, RunID: d.newID(), ClientID: driver.ClientID(), LeaseUntil: time.Now().Add(d.options.Lease)}
}
