package comfyserver

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/event"
	"github.com/ahelme/comfyume/internal/fault"
)

// grace is how long a submission waits for word that somebody is there: the click on Run and the run that it asks for
// come on two connections.
const grace = 2 * time.Second

// presence knows when somebody touched a person's editor last. Our extension of the editor tells; whose editor never did
// has none that could, and is not asked. It is safe for concurrent use.
type presence struct {
	mu     sync.Mutex
	people map[string]*attendance
}

type attendance struct {
	touched time.Time
	said    bool          // that nobody is there
	news    chan struct{} // closed when touched changes
}

func newPresence() *presence { return &presence{people: map[string]*attendance{}} }

// hear takes in that a person touched their editor some time ago.
func (p *presence) hear(user string, ago time.Duration) {
	at := time.Now().Add(-ago)
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.people[user]
	if a == nil {
		p.people[user] = &attendance{touched: at, news: make(chan struct{})}
		return
	}
	if at.After(a.touched) {
		a.touched, a.said = at, false
		close(a.news)
		a.news = make(chan struct{})
	}
}

// idle reports whether nobody touched the person's editor for so long. news is closed when somebody does.
func (p *presence) idle(user string, long time.Duration) (idle bool, news <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.people[user]
	if a == nil {
		return false, nil
	}
	return time.Since(a.touched) >= long, a.news
}

// say reports whether it is still to be said that nobody is there, and notes that it was.
func (p *presence) say(user string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.people[user]
	first := a != nil && !a.said
	if first {
		a.said = true
	}
	return first
}

// attended says why an editor's submission is not taken: it queues by itself, and nobody is there. The editor stops then.
// Programs are not asked: all that the editor asks for bears its header, empty as it is.
func (s *Server) attended(c *call) error {
	long := s.options.IdleStop
	if _, editor := c.Header["Comfy-User"]; long <= 0 || !editor {
		return nil
	}
	if idle, news := s.presence.idle(c.user(), long); !idle || touchedNow(c.Context(), news) {
		return nil
	}
	why := fmt.Sprintf("Nobody touched the editor for %s, so it stopped queueing by itself.", spell(long))
	const remedy = "Press Run to go on."
	if s.presence.say(c.user()) {
		s.Bus.Publish(event.Event{User: c.user(), Body: event.Notice{Severity: "warn", Text: why + " " + remedy}})
		s.log.Info("an editor that was left alone was stopped", "user", c.user())
	}
	return fault.New(fault.Busy, "%s", why).WithRemedy(remedy).WithCode("idle_stop")
}

// touchedNow waits a moment for word that somebody is there after all.
func touchedNow(ctx context.Context, news <-chan struct{}) bool {
	t := time.NewTimer(grace)
	defer t.Stop()
	select {
	case <-news:
		return true
	case <-ctx.Done():
	case <-t.C:
	}
	return false
}

// spell writes a length of time for people.
func spell(d time.Duration) string {
	n, unit := int(d.Round(time.Second)/time.Second), "seconds"
	switch {
	case n%3600 == 0:
		n, unit = n/3600, "hours"
	case n%60 == 0:
		n, unit = n/60, "minutes"
	}
	if n == 1 {
		unit = unit[:len(unit)-1]
	}
	return fmt.Sprintf("%d %s", n, unit)
}

// touch notes what a request of our extension says: for how many seconds nobody has touched its page.
func (s *Server) touch(c *call) {
	seconds, err := strconv.ParseFloat(c.query().Get("idle"), 64)
	if err == nil && seconds >= 0 && seconds < 1e6 {
		s.presence.hear(c.user(), time.Duration(seconds*float64(time.Second)))
	}
}

// here answers our extension that it was heard.
func (s *Server) here(w http.ResponseWriter, c *call) error {
	s.touch(c)
	w.Header().Set("Cache-Control", "no-store")
	return done(w)
}

// touchEvery is after how many seconds our extension tells again that somebody is there; 0: it need not.
func (s *Server) touchEvery() float64 {
	return min(time.Minute, s.options.IdleStop/4).Seconds()
}
