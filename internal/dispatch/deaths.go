package dispatch

import (
	"slices"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/job"
)

// steady is how long a back end has to live with other jobs, before and after, for its death to count against a job.
const steady = 10 * time.Minute

// mostDeaths bounds what is remembered of each back end, and of graphs.
const (
	mostDeaths = 64
	mostWell   = 1000
)

// death is a back end's end while it worked at a job.
type death struct {
	job  job.ID
	like likeness
	at   time.Time
}

// victim is a back end that died while it worked at the job in question.
type victim struct {
	backEnd string
	at      time.Time
	taken   bool // it had said that it took the job
}

// deaths knows under which jobs back ends died lately, so that one that dies under everything, or is killed now and then,
// accuses none of the jobs that happened to be there. It is safe for concurrent use.
type deaths struct {
	mu   sync.Mutex
	of   map[string][]death     // by back end
	well map[likeness]time.Time // when a graph came to its end the last time, by likeness
	from time.Time              // what died before is not known; zero: all is
}

// knows says since when deaths are known: a process that has just started learns of those before it from the last jobs.
func (d *deaths) knows(from time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.from = from
}

// enough is how many deaths make a job deadly: one more while those who could excuse it may not be known.
func (d *deaths) enough(now time.Time) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.from.IsZero() && now.Sub(d.from) < steady {
		return mostDeathsOf
	}
	return 2
}

func likenessOf(j *job.Job) likeness { return likeness{j.Profile.Like, j.Profile.Models} }

// died notes that a back end died while it worked at a job.
func (d *deaths) died(backEnd string, j *job.Job, at time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	list := slices.DeleteFunc(d.of[backEnd], func(x death) bool { return at.Sub(x.at) > 2*steady })
	if len(list) >= mostDeaths {
		list = slices.Delete(list, 0, 1)
	}
	if d.of == nil {
		d.of = make(map[string][]death)
	}
	d.of[backEnd] = append(list, death{j.ID, likenessOf(j), at})
}

// ended notes that a job came to its end.
func (d *deaths) ended(j *job.Job, at time.Time) {
	if j.Profile.Like == "" {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.well == nil || len(d.well) >= mostWell {
		d.well = make(map[likeness]time.Time)
	}
	if of := likenessOf(j); at.After(d.well[of]) {
		d.well[of] = at
	}
}

// explained forgets the deaths of a job that was stopped for them: they say nothing of the back ends.
func (d *deaths) explained(id job.ID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for name, list := range d.of {
		d.of[name] = slices.DeleteFunc(list, func(x death) bool { return x.job == id })
	}
}

// against returns those of the back ends whose deaths speak against the job: they did not die under other jobs as well.
// That they died under graphs like this one, of which none has come to its end lately, is no excuse for it.
func (d *deaths) against(j *job.Job, victims []victim) (names []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	of := likenessOf(j)
	for _, v := range victims {
		excuse := func(x death) bool {
			accomplice := x.like == of && of.like != "" && v.at.Sub(d.well[of]) > steady
			return x.job != j.ID && !accomplice && x.at.Sub(v.at).Abs() <= steady
		}
		if !slices.ContainsFunc(d.of[v.backEnd], excuse) {
			names = append(names, v.backEnd)
		}
	}
	return names
}
