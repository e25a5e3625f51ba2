package sched

import (
	"time"

	"github.com/ahelme/comfyume/internal/job"
)

// Order is how the machine chooses between people.
type Order string

// The orders.
const (
	FIFO       Order = "fifo"        // whose next job was accepted first
	RoundRobin Order = "round_robin" // who was served longest ago
	Priority   Order = "priority"    // by class, then by acceptance
	Fair       Order = "fair"        // who got the least GPU time, by weight, within the group that got the least
)

// Job is what the machine has to know of a job.
type Job struct {
	ID      job.ID
	User    string
	Group   string // the person's; empty: those without a group are one
	Class   job.Class
	Number  float64
	Seq     int64
	Created time.Time
	Held    bool
	Needs   []string      // node classes it cannot do without; nil: any back end will do
	Memory  int64         // bytes that a back end must have for it; 0: any will do
	Models  string        // the models that it loads, job.Profile.Models
	Like    string        // the same for like graphs, job.Profile.Like
	Cost    time.Duration // how long it is expected to run on a back end of usual speed; 0: nobody knows
	// Deadline is when it is needed; zero: nobody says. It changes nobody's turn.
	Deadline time.Time
}

// Of returns what the machine has to know of j, which needs the node classes.
func Of(j job.Job, needs []string) Job {
	return Job{
		ID: j.ID, User: j.User, Group: j.Group, Class: j.Class, Number: j.Number, Seq: j.Seq, Created: j.Created, Held: j.Held,
		Needs: needs, Models: j.Profile.Models, Like: j.Profile.Like, Deadline: j.Deadline,
	}
}

// Event is something that happened. The types below are the events.
type Event interface{ event() }

// Added says that a job waits. A job that is known already is taken as changed: moved, held, let go.
type Added struct{ Job Job }

// Needed says what a waiting job turned out to need.
type Needed struct {
	Job    job.ID
	Needs  []string
	Memory int64
}

// Estimated says how long a waiting job is expected to run.
type Estimated struct {
	Job  job.ID
	Cost time.Duration
}

// Resumed says that a job was claimed for a back end before the machine was made.
type Resumed struct {
	Job     Job
	BackEnd string
	Posted  bool
	At      time.Time // when it began; zero: nobody knows
}

// Posted says that a back end was given a staged job.
type Posted struct {
	Job job.ID
	At  time.Time // zero: at the last time that the machine heard of
}

// Released says that a claimed job waits again, where it stood before.
type Released struct {
	Job       job.ID
	Avoid     []string      // back ends that it is not given to as long as another one that is ready can run it
	NotBefore time.Time     // zero: at once
	Reason    string        // a sentence for the person, such as "The GPU gpu1 was lost."
	Ran       time.Duration // how long a paid back end worked at it for nothing
}

// Ended says that a job is over, or was taken out of the queue, in whatever state it was.
type Ended struct {
	Job job.ID
	Ran time.Duration // how long a back end worked at it; the person's share is charged with that
	At  time.Time     // zero: at the last time that the machine heard of
}

// BackEnd says what a back end is like now. The order in which back ends become known decides between equals.
type BackEnd struct {
	Name   string
	Ready  bool
	Reason string // why it is not ready, in a sentence
	Slots  int    // most claimed jobs at once; 0: those that run and a few that are staged
	// Parallel is how many jobs it runs at the same time; 0: 1.
	Parallel int
	Groups   []string // whose jobs it runs; empty: everybody's
	Price    float64  // of an hour in which it works; 0: it is ours
	Prefer   int      // the higher one gets a job first; among equals, the cheaper one
	// Cold is a sentence when it sleeps, and the next run has to wake it; empty: it is awake.
	Cold   string
	Wake   time.Duration // how long waking usually takes; 0: nobody knows
	Speed  float64       // how many times as fast as usual; 0: as its runs show
	Memory int64         // bytes of the GPU; 0: enough for anything
	// Models is what it has loaded, where that is known from elsewhere. Empty: what ran there last, as the machine
	// saw it, and nothing after it was not ready.
	Models string
	// Missing returns which of the needed node classes the back end lacks; nil: it lacks none. It must give the
	// same answer until the next BackEnd event for this name.
	Missing func(needs []string) []string
}

// BackEndGone says that a back end is no longer configured. Jobs claimed for it stay claimed until Released or Ended.
type BackEndGone struct{ Name string }

// Paused stops decisions, or lets them go on: all of them, or those for the jobs of a group, or for a back end.
type Paused struct {
	On      bool
	Reason  string // a sentence for people; may be empty
	Group   string // only this group's jobs wait
	BackEnd string // only this back end gets no more
}

// Mode changes the order. Nobody's jobs are lost by it; what people used stays known.
type Mode struct{ Order Order }

// Share gives a person, or a group, a weight in Fair: with 2 they get twice the GPU time of one with 1, as long as both
// have jobs. Everybody has 1 until told otherwise.
type Share struct {
	User   string
	Group  string // when User is empty
	Weight float64
}

func (Added) event()       {}
func (Needed) event()      {}
func (Estimated) event()   {}
func (Resumed) event()     {}
func (Posted) event()      {}
func (Released) event()    {}
func (Ended) event()       {}
func (BackEnd) event()     {}
func (BackEndGone) event() {}
func (Paused) event()      {}
func (Mode) event()        {}
func (Share) event()       {}
