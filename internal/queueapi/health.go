package queueapi

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/identity"
	"github.com/ahelme/comfyume/internal/job"
)

// Health is the studio at a glance, for probes.
type Health struct {
	Status             string  `json:"status"` // healthy or unhealthy
	Version            string  `json:"version"`
	InferenceMode      string  `json:"inference_mode"` // local, redis or serverless
	ActiveGPU          *string `json:"active_gpu"`     // names of the devices that can be given work
	ServerlessEndpoint *string `json:"serverless_endpoint"`
	RedisConnected     bool    `json:"redis_connected"`
	Store              string  `json:"store"`
	WorkersActive      int     `json:"workers_active"`
	QueueDepth         int     `json:"queue_depth"`
	UptimeSeconds      int64   `json:"uptime_seconds"`
}

// health answers GET /health. Addresses are for staff.
func (f *Face) health(w http.ResponseWriter, r *http.Request, p identity.Person) error {
	facts := f.Studio.Facts(r.Context())
	depth, _ := f.open(f.Queue.Counts(), "")
	h := Health{
		Status: "healthy", Version: facts.Version, InferenceMode: "local", RedisConnected: facts.Redis, Store: facts.Store,
		QueueDepth: depth, UptimeSeconds: int64(time.Since(facts.Since) / time.Second),
	}
	_, h.WorkersActive = f.workforce(facts)
	if facts.Store == "redis" {
		h.InferenceMode = "redis"
	}
	var gpus []string
	for _, b := range facts.BackEnds {
		if b.Driver == "serverless" {
			h.InferenceMode = "serverless"
			if h.ServerlessEndpoint == nil && (p.Role == identity.Operator || p.Role == identity.Instructor) {
				h.ServerlessEndpoint = &b.URL
			}
		}
		for _, name := range b.GPUs {
			if b.Alive && !slices.Contains(gpus, name) {
				gpus = append(gpus, name)
			}
		}
	}
	if len(gpus) > 0 {
		all := strings.Join(gpus, ", ")
		h.ActiveGPU = &all
	}
	status := http.StatusOK
	if !facts.Ready || facts.Store == "redis" && !facts.Redis {
		h.Status, status = "unhealthy", http.StatusServiceUnavailable
	}
	f.write(w, status, h)
	return nil
}

// Status is the queue at a glance. A participant's counts are of their own jobs; the depth is everybody's.
type Status struct {
	Mode          string `json:"mode"`
	PendingJobs   int    `json:"pending_jobs"`
	RunningJobs   int    `json:"running_jobs"`
	CompletedJobs int    `json:"completed_jobs"`
	FailedJobs    int    `json:"failed_jobs"`
	CancelledJobs int    `json:"cancelled_jobs"`
	TotalWorkers  int    `json:"total_workers"`
	ActiveWorkers int    `json:"active_workers"`
	QueueDepth    int    `json:"queue_depth"`
}

func (f *Face) status(w http.ResponseWriter, r *http.Request, p identity.Person) error {
	s, err := f.statusFor(r.Context(), p)
	if err == nil {
		f.write(w, http.StatusOK, s)
	}
	return err
}

func (f *Face) statusFor(ctx context.Context, p identity.Person) (Status, error) {
	all := f.Queue.Counts()
	s := Status{Mode: f.Queue.Mode()}
	s.QueueDepth, _ = f.open(all, "")
	s.TotalWorkers, s.ActiveWorkers = f.workforce(f.Studio.Facts(ctx))
	ended := all
	var err error
	if p.Role == identity.Participant {
		s.PendingJobs, s.RunningJobs = f.open(f.Queue.CountsByUser()[p.Name], p.Name)
		ended, err = f.ended(ctx, p.Name)
	} else {
		s.PendingJobs, s.RunningJobs = f.open(all, "")
		ended, err = f.totals.get(ctx, f)
	}
	s.CompletedJobs, s.FailedJobs, s.CancelledJobs = ended.Completed, ended.Failed, ended.Cancelled
	return s, err
}

// open returns how many jobs of a person, or of all, people see waiting and running: one that is only staged waits.
func (f *Face) open(c job.Counts, user string) (pending, running int) {
	for _, j := range f.Queue.Running() {
		if visible(j) == job.Running && (user == "" || j.User == user) {
			running++
		}
	}
	running = min(running, c.Pending+c.Running) // the two are not counted at one instant
	return c.Pending + c.Running - running, running
}

// workforce counts what runs jobs: the back ends of the settings and workers that came for some.
func (f *Face) workforce(facts Facts) (total, active int) {
	total, active = f.workers.count(time.Now())
	for _, b := range facts.BackEnds {
		total++
		if b.Alive {
			active++
		}
	}
	return total, active
}

// ended counts the jobs that are over and kept, of a person or of all.
func (f *Face) ended(ctx context.Context, user string) (c job.Counts, err error) {
	for _, state := range states {
		if !state.Final() {
			continue
		}
		_, n, err := f.Queue.ListAll(ctx, job.ListQuery{States: []job.State{state}, Limit: 1}, user)
		if err != nil {
			return c, err
		}
		c.Add(state, n)
	}
	return c, nil
}

// recountAfter is how old a count of everybody's jobs may be that are over. A count that took long lives a hundred times
// as long.
const recountAfter = time.Minute

// totals counts everybody's jobs that are over and kept: as they were counted lately, and those that ended since. Counting
// them anew each time would read the whole history. It is safe for concurrent use.
type totals struct {
	mu    sync.Mutex
	base  job.Counts // what had ended before this process counts
	until time.Time  // how long base is good
}

func (t *totals) get(ctx context.Context, f *Face) (job.Counts, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for try := 1; !time.Now().Before(t.until); try++ {
		began, before := time.Now(), f.Queue.Counts()
		kept, err := f.ended(ctx, "")
		if err != nil {
			return kept, err
		}
		now := f.Queue.Counts()
		if same := before.Completed == now.Completed && before.Failed == now.Failed && before.Cancelled == now.Cancelled; !same && try < 5 {
			continue // some ended between the two looks
		}
		t.base = job.Counts{Completed: kept.Completed - now.Completed, Failed: kept.Failed - now.Failed, Cancelled: kept.Cancelled - now.Cancelled}
		t.until = time.Now().Add(max(recountAfter, 100*time.Since(began)))
	}
	now := f.Queue.Counts()
	now.Completed += t.base.Completed
	now.Failed += t.base.Failed
	now.Cancelled += t.base.Cancelled
	return now, nil
}
