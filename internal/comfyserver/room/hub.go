package room

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/event"
	"github.com/ahelme/comfyume/internal/job"
)

// Queue is what rooms ask of the queue. All answers are those of one person.
type Queue interface {
	// Remaining is how many jobs of user are open. It is called for every status frame and must not block.
	Remaining(user string) int
	// Open lists user's open jobs.
	Open(ctx context.Context, user string) ([]job.Job, error)
	// Entry is the job that user's history or queue shows under promptID.
	Entry(ctx context.Context, user, promptID string) (job.Entry, error)
	// EachHistory calls fn for user's finished jobs, oldest end first.
	EachHistory(ctx context.Context, user string, q job.HistoryQuery, fn func(job.Entry) error) error
}

// Bus is where rooms hear what happened.
type Bus interface {
	Subscribe(user string, o event.Options) *event.Subscription
}

// Options of a Hub. The zero value is good.
type Options struct {
	// Features is the data of the feature_flags frame. Nil: {}.
	Features json.RawMessage
	// SocketsPerUser is how many sockets one person may have open. 0: 32.
	SocketsPerUser int
	// WriteTimeout ends a socket whose client takes nothing for so long. 0: 10 s.
	WriteTimeout time.Duration
	// Ping is how often a socket is pinged; one that was silent for two and a half times as long is cut. 0: 25 s.
	Ping time.Duration
	// Idle is after how much silence a program that waits for its job is sent a status frame. 0: 5 s.
	Idle time.Duration
	// Several says that other servers serve the same people: a session may have been at another one before, and of a run
	// elsewhere frames may be lost, or come after its end.
	Several bool
	// Log takes what went wrong. Nil: slog.Default().
	Log *slog.Logger
}

// Hub holds the rooms of all people. It is safe for concurrent use.
type Hub struct {
	queue   Queue
	bus     Bus
	options Options
	log     *slog.Logger
	started time.Time
	wg      sync.WaitGroup // readers, writers, pumps
	ctx     context.Context
	stop    context.CancelFunc

	mu     sync.RWMutex
	closed bool
	rooms  map[string]*room
	next   int // spreads pings over their period

	pagesMu sync.Mutex
	pages   map[string]time.Time // when a page of a person last began to load
}

// New returns a hub without rooms. Close ends it; Run keeps its sockets alive.
func New(q Queue, b Bus, o Options) *Hub {
	if o.Features == nil {
		o.Features = json.RawMessage("{}")
	}
	if o.SocketsPerUser <= 0 {
		o.SocketsPerUser = 32
	}
	if o.WriteTimeout <= 0 {
		o.WriteTimeout = 10 * time.Second
	}
	if o.Ping <= 0 {
		o.Ping = 25 * time.Second
	}
	if o.Idle <= 0 {
		o.Idle = 5 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	h := &Hub{queue: q, bus: b, options: o, log: o.Log, started: time.Now(), rooms: make(map[string]*room), pages: make(map[string]time.Time)}
	h.ctx, h.stop = context.WithCancel(context.Background())
	return h
}

// Run pings sockets, keeps waiting programs awake and forgets what is over, until ctx ends.
func (h *Hub) Run(ctx context.Context) error {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for second := 0; ; second++ {
		select {
		case <-ctx.Done():
			return nil
		case <-h.ctx.Done():
			return nil
		case now := <-t.C:
			for _, r := range h.all() {
				r.tick(now, second)
			}
		}
	}
}

func (h *Hub) all() []*room {
	h.mu.RLock()
	defer h.mu.RUnlock()
	rooms := make([]*room, 0, len(h.rooms))
	for _, r := range h.rooms {
		rooms = append(rooms, r)
	}
	return rooms
}

// Close tells every socket that the server goes away, gives the clients a moment to answer, and cuts those that don't.
// It does not wait beyond the end of ctx. Upgrades are refused from now on.
func (h *Hub) Close(ctx context.Context) error {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.stop()
	for _, r := range h.all() {
		r.close()
	}
	gone := make(chan struct{})
	go func() {
		h.wg.Wait()
		close(gone)
	}()
	polite := time.NewTimer(farewell)
	defer polite.Stop()
	select {
	case <-gone:
		return nil
	case <-polite.C:
	case <-ctx.Done():
	}
	for _, r := range h.all() {
		r.cut()
	}
	<-gone
	return nil
}

// farewell is how long clients have to answer our goodbye. Browsers do at once; what does not is gone or no browser.
const farewell = time.Second

// look returns user's room, or nil.
func (h *Hub) look(user string) *room {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.rooms[user]
}

// enter returns user's room with its lock held, made when there is none. It is nil after Close.
func (h *Hub) enter(user string) *room {
	for {
		h.mu.Lock()
		if h.closed {
			h.mu.Unlock()
			return nil
		}
		r := h.rooms[user]
		if r == nil {
			r = &room{hub: h, user: user}
			h.rooms[user] = r
			r.mu.Lock() // nobody else knows it yet; its pump may start before Subscribe returns
			r.sub = h.bus.Subscribe(user, event.Options{Wake: r.wake})
			r.created = time.Now() // what ends from here on is heard of
			h.mu.Unlock()
			return r
		}
		h.mu.Unlock()
		r.mu.Lock()
		if !r.dead {
			return r
		}
		r.mu.Unlock()
	}
}

// spawn runs f in a goroutine that Close waits for. After Close it does nothing and reports false.
func (h *Hub) spawn(f func()) bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if h.closed {
		return false
	}
	h.wg.Go(f)
	return true
}

// forget removes a room that died. The room's lock is held.
func (h *Hub) forget(r *room) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.rooms[r.user] == r {
		delete(h.rooms, r.user)
	}
}

// Sockets is how many sockets are open, for metrics.
func (h *Hub) Sockets() int {
	n := 0
	for _, r := range h.all() {
		r.mu.Lock()
		n += len(r.sockets)
		r.mu.Unlock()
	}
	return n
}

// Watching reports whether a session of user with that client id is open, so that previews are worth their cost.
func (h *Hub) Watching(user, clientID string) bool {
	r := h.look(user)
	if r == nil {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.sockets {
		if s.sid == clientID {
			return true
		}
	}
	return false
}
