package fleet

import (
	"bufio"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
)

// Counters are what happened in a fleet.
type Counters struct {
	Replicas, Working, Waiting int // now: started, with a request, and requests in the queue

	Requests         int            // that came
	Forwarded        int            // that reached a replica
	Later            int            // that were taken to be done later
	TimedOut         int            // for which no replica was free in time
	ColdStarts       int            // replicas that were ordered
	FailedStarts     int            // of which so many did not start
	ScaledDown       int            // replicas that were put to sleep
	ScaledDownAtWork int            // of which so many worked at a prompt
	SpotLosses       int            // replicas that were killed
	Cuts, Deafened   int            // how often all lines were
	Faults           map[string]int // requests that met one, by kind

	Runs    int      // runs that a ComfyUI of the fleet began
	Doubles []string // ids of runs that were begun more than once
}

// Counters returns what happened until now.
func (f *Fleet) Counters() (Counters, error) {
	f.mu.Lock()
	c := f.counts
	c.Faults = make(map[string]int, len(f.counts.Faults))
	for k, n := range f.counts.Faults {
		c.Faults[k] = n
	}
	c.Waiting = len(f.waiting)
	for _, r := range f.replicas {
		if r.unit != nil {
			c.Replicas++
		}
		if r.used > 0 {
			c.Working++
		}
	}
	f.mu.Unlock()
	return c, c.readRuns(f.o.RunLog)
}

// readRuns counts the runs that replicas wrote down.
func (c *Counters) readRuns(name string) error {
	if name == "" {
		return nil
	}
	log, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) { // none began yet
		return nil
	}
	if err != nil {
		return err
	}
	defer log.Close()
	times := map[string]int{}
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		id, _, _ := strings.Cut(lines.Text(), " ")
		c.Runs++
		if times[id]++; times[id] == 2 {
			c.Doubles = append(c.Doubles, id)
		}
	}
	return lines.Err()
}

// Lose kills up to n replicas as a provider takes spot machines back: without a word. Those with a request go first;
// with n below 0 all go.
func (f *Fleet) Lose(n int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	lost := 0
	for _, working := range []bool{true, false} {
		for _, r := range f.replicas {
			if r.unit == nil || (r.used > 0) != working || n >= 0 && lost >= n {
				continue
			}
			f.log.Info("a simulated spot machine is taken back", "replica", r.id)
			f.drop(r)
			lost++
		}
	}
	f.counts.SpotLosses += lost
	f.serve()
	return lost
}

// Capacity says how many replicas the provider has from now on, for all there is. Those that run stay.
func (f *Fleet) Capacity(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.limit = max(n, 0)
	f.serve()
}

// Control is the interface for tests: what happened, and trouble to order. It asks for nothing: keep it on loopback.
//
//	GET  /counters
//	POST /faults    a Fault
//	POST /lose      {"replicas": N}, -1 for all
//	POST /capacity  {"replicas": N}
//	POST /cut       all lines break
//	POST /deafen    {"up": true, "down": true, "for": NANOSECONDS}
func (f *Fleet) Control() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /counters", func(w http.ResponseWriter, _ *http.Request) {
		c, err := f.Counters()
		answer(w, c, err)
	})
	mux.HandleFunc("POST /faults", func(w http.ResponseWriter, r *http.Request) {
		var t Fault
		err := read(w, r, &t)
		if err == nil {
			err = f.Inject(t)
		}
		answer(w, map[string]bool{"ordered": true}, err)
	})
	var n struct{ Replicas *int }
	count := func(w http.ResponseWriter, r *http.Request) (int, error) {
		mine := n
		if err := read(w, r, &mine); err != nil {
			return 0, err
		}
		if mine.Replicas == nil {
			return 0, fault.New(fault.Invalid, "replicas is missing: say how many.")
		}
		return *mine.Replicas, nil
	}
	mux.HandleFunc("POST /lose", func(w http.ResponseWriter, r *http.Request) {
		n, err := count(w, r)
		if err == nil {
			n = f.Lose(n)
		}
		answer(w, map[string]int{"lost": n}, err)
	})
	mux.HandleFunc("POST /capacity", func(w http.ResponseWriter, r *http.Request) {
		n, err := count(w, r)
		if err == nil {
			f.Capacity(n)
		}
		answer(w, map[string]int{"replicas": n}, err)
	})
	mux.HandleFunc("POST /cut", func(w http.ResponseWriter, _ *http.Request) {
		f.Cut()
		answer(w, map[string]bool{"cut": true}, nil)
	})
	mux.HandleFunc("POST /deafen", func(w http.ResponseWriter, r *http.Request) {
		var how struct {
			Up, Down bool
			For      time.Duration
		}
		err := read(w, r, &how)
		if err == nil {
			f.Deafen(how.Up, how.Down, how.For)
		}
		answer(w, how, err)
	})
	return mux
}

// read takes an order in.
func read(w http.ResponseWriter, r *http.Request, into any) error {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fault.Wrap(fault.Invalid, err, "The order can't be read: %v.", err)
	}
	return nil
}

func answer(w http.ResponseWriter, v any, err error) {
	if err != nil {
		status := http.StatusInternalServerError
		if fault.Is(err, fault.Invalid) {
			status = http.StatusBadRequest
		}
		sentence, remedy := fault.Public(err)
		http.Error(w, strings.TrimSpace(sentence+" "+remedy), status)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	tell(w, v)
}
