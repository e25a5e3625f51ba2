package app

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/ahelme/comfyume/internal/account"
	"github.com/ahelme/comfyume/internal/comfyserver"
	"github.com/ahelme/comfyume/internal/event"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/fleet"
	"github.com/ahelme/comfyume/internal/gateway"
	"github.com/ahelme/comfyume/internal/identity"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
	"github.com/ahelme/comfyume/internal/queueapi"
)

// newQueueAPI builds the queue manager's interface.
func (s *Studio) newQueueAPI() {
	s.queueAPI = queueapi.New(queueapi.Deps{
		Queue: managedQueue{s.queue}, Leases: s.queue, Line: lineFace{s}, Submit: submitFace{s.comfy}, People: rosterFace{s.accounts},
		Bus: s.bus, Studio: factsFace{s},
	}, queueapi.Options{SocketsPerUser: s.cfg.Limits.SocketsPerUser, Log: s.log})
}

// queuePlace is where the queue manager's interface is on the main address.
const queuePlace = "/qm"

// queueMounts are its addresses: all of them below its place, and on the main address those that are not ComfyUI's.
func (s *Studio) queueMounts() []gateway.Mount {
	below := http.StripPrefix(queuePlace, s.queueAPI)
	mounts := []gateway.Mount{
		{Prefix: queuePlace + "/health", Guests: true, Bare: true, Handler: below},
		{Prefix: queuePlace + "/api/health", Guests: true, Bare: true, Handler: below},
		{Prefix: queuePlace + "/api/workers/", Scope: account.ScopeWorker, Bare: true, Handler: below},
		{Prefix: queuePlace + "/", Bare: true, Handler: below},
	}
	for _, r := range queueapi.OnMain() {
		mounts = append(mounts, gateway.Mount{
			Prefix: r.Path, Methods: []string{r.Method}, Guests: r.Path == "/api/health", Bare: true, Handler: s.queueAPI,
		})
	}
	return mounts
}

// queueDoor opens the queue manager's own port. Beyond this machine it is encrypted like the main one; on it programs
// of old say http. A default port that is taken is left off; one that was set is an error.
func (s *Studio) queueDoor() error {
	if s.cfg.QueueAPI == "" {
		return nil
	}
	l, err := listen("queue-api", s.cfg.QueueAPI)
	if err != nil && !s.cfg.IsSet("queue_api") && fault.Is(err, fault.Conflict) {
		s.notes = append(s.notes, "The queue manager's API is below "+queuePlace+"/ only: "+s.cfg.QueueAPI+" is taken by another program.")
		s.log.Warn("the queue manager's API is on listen only", "err", err)
		return nil
	}
	if err != nil {
		return err
	}
	encrypted := s.certs.TLS()
	if loopback(s.cfg.QueueAPI) {
		encrypted = nil
	}
	s.queuePort = l.Addr().String()
	s.parts.serveOn("queue_api", l, s.door.Below(queuePlace), encrypted, s.log)
	return nil
}

// managedQueue is the queue as its interface wants it.
type managedQueue struct{ *queue.Service }

// endOfTime is after every lease.
var endOfTime = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)

func (q managedQueue) Running() []job.Job { return q.Expired(endOfTime) }

// lineFace is the schedule as the queue's interface wants it.
type lineFace struct{ s *Studio }

func (f lineFace) Places(ctx context.Context, ids []job.ID) map[job.ID]event.Place {
	return f.s.places(ctx, ids)
}

// submitFace is a person's ComfyUI server as the queue's interface wants it.
type submitFace struct{ c *comfyserver.Server }

func (f submitFace) Submit(ctx context.Context, p identity.Person, body []byte, o queueapi.Order, answer func(queueapi.Accepted) error) error {
	err := f.c.Submit(ctx, p, body, comfyserver.Order(o), func(a comfyserver.Accepted) error { return answer(queueapi.Accepted(a)) })
	if refused, ok := errors.AsType[*comfyserver.Refused](err); ok {
		return &queueapi.Refusal{Body: refused.Body}
	}
	return err
}

// rosterFace is the accounts as the queue's interface wants them.
type rosterFace struct{ s *account.Service }

func (f rosterFace) Person(ctx context.Context, name string) (identity.Person, error) {
	u, err := f.s.User(ctx, name)
	return u.Person(), err
}

func (f rosterFace) Members(ctx context.Context, group string) ([]string, error) {
	list, err := f.s.Users(ctx, group)
	return each(list, err, func(u account.User) string { return u.Name })
}

// factsFace says how the studio is.
type factsFace struct{ s *Studio }

func (f factsFace) Facts(ctx context.Context) queueapi.Facts {
	s := f.s
	store := "sqlite"
	if s.several() {
		store = "redis"
	}
	out := queueapi.Facts{
		Ready: len(s.whyNotReady(ctx)) == 0, Version: s.o.Version, Store: store, Since: s.since,
	}
	if store == "redis" {
		out.Redis = s.storeAnswers(ctx)
	}
	known := s.fleet.BackEnds()
	for _, b := range s.gpus.all() {
		one := queueapi.BackEnd{Name: b.Name, Driver: b.Driver, URL: b.URL}
		if i := slices.IndexFunc(known, func(k fleet.BackEnd) bool { return k.Name == b.Name }); i >= 0 {
			one.Alive = known[i].State == fleet.Ready || known[i].State == fleet.Trial
			for _, d := range known[i].Devices {
				one.GPUs = append(one.GPUs, d.Name)
			}
		}
		out.BackEnds = append(out.BackEnds, one)
	}
	return out
}

// storeWithin is how long the store may take to say that it is there.
const storeWithin = 2 * time.Second

// storeAnswers asks the queue's store for a job that there is not: no memory answers that.
func (s *Studio) storeAnswers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, storeWithin)
	defer cancel()
	_, err := s.queue.Get(ctx, "is-it-there")
	return err == nil || fault.Is(err, fault.Missing)
}

// ownJobs is the queue as the dispatcher wants it: what workers of the queue manager's interface hold is not its to
// take up. When their lease is over it lets them wait again like any other.
type ownJobs struct{ *queue.Service }

func (q ownJobs) EachOpen(ctx context.Context, fn func(job.Job) error) error {
	return q.Service.EachOpen(ctx, func(j job.Job) error {
		if j.State == job.Running && queueapi.OnWorker(j) {
			return nil
		}
		return fn(j)
	})
}

// forDispatch returns a change as the dispatcher is to hear of it: a job that a worker has does not wait any more,
// whatever else is said of it.
func forDispatch(c job.Changed) job.Changed {
	if c.Change != job.HistoryChanged && c.Job.State == job.Running && queueapi.OnWorker(*c.Job) {
		c.Change = job.Removed
	}
	return c
}
