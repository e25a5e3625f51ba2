package fleet

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
)

// The kinds of faults that requests can be given.
const (
	Status     = "status"      // answered with Fault.Status, and not passed on
	CutRequest = "cut-request" // After bytes of the request's body reach the replica, then the line breaks
	CutAnswer  = "cut-answer"  // the replica answers, and nothing of it arrives
	Truncate   = "truncate"    // After bytes of the answer's body arrive, then the line breaks
	Corrupt    = "corrupt"     // a byte of the answer's body is another one
	Slow       = "slow"        // the answer trickles, a byte every tenth of a second, for For
	Hang       = "hang"        // taken, and neither passed on nor answered for For; then the line breaks
)

var kinds = []string{Status, CutRequest, CutAnswer, Truncate, Corrupt, Slow, Hang}

// Fault is trouble for requests to come.
type Fault struct {
	Kind   string        `json:"kind"`
	Method string        `json:"method,omitempty"` // of the requests; empty: any
	Path   string        `json:"path,omitempty"`   // beginning of their paths, behind the deployment's name
	Times  int           `json:"times,omitempty"`  // how many requests get it; 0: 1
	Status int           `json:"status,omitempty"` // of Status; 0: 503
	After  int64         `json:"after,omitempty"`  // bytes
	For    time.Duration `json:"for,omitempty"`    // nanoseconds; 0: 10 s
}

// Inject has requests to come meet trouble, each at most one.
func (f *Fleet) Inject(t Fault) error {
	if !slices.Contains(kinds, t.Kind) {
		return fault.New(fault.Invalid, "kind: %q is no fault of a simulated fleet.", t.Kind).WithRemedy("Choose one of %s.", strings.Join(kinds, ", "))
	}
	if t.Times < 0 || t.After < 0 || t.For < 0 || t.Status != 0 && (t.Status < 400 || t.Status > 599) {
		return fault.New(fault.Invalid, "times, after and for can't be less than 0, and status is an error's, from 400 to 599.")
	}
	if t.Times == 0 {
		t.Times = 1
	}
	if t.Status == 0 {
		t.Status = http.StatusServiceUnavailable
	}
	if t.For == 0 {
		t.For = 10 * time.Second
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = append(f.faults, &t)
	return nil
}

// Clear takes back what Inject ordered and no request has met yet.
func (f *Fleet) Clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = nil
}

// pick takes the trouble that is meant for a request; nil: none.
func (f *Fleet) pick(r *http.Request) *Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, t := range f.faults {
		if t.Method != "" && t.Method != r.Method || !strings.HasPrefix(r.URL.Path, t.Path) {
			continue
		}
		if t.Times--; t.Times == 0 {
			f.faults = slices.Delete(f.faults, i, i+1)
		}
		f.counts.Faults[t.Kind]++
		mine := *t
		return &mine
	}
	return nil
}

func (t *Fault) is(kind string) bool { return t != nil && t.Kind == kind }

// refuse answers what never reaches a replica. It reports false when the request is to go on.
func (f *Fleet) refuse(w http.ResponseWriter, r *http.Request, t *Fault) bool {
	switch t.Kind {
	case Status:
		if t.Status == http.StatusTooManyRequests {
			w.Header().Set("Retry-After", "1")
		}
		http.Error(w, "A simulated fault.", t.Status)
	case Hang:
		ctx, cancel := context.WithTimeout(r.Context(), t.For)
		defer cancel()
		select {
		case <-ctx.Done():
		case <-f.closed.Done():
		}
		panic(http.ErrAbortHandler)
	default:
		return false
	}
	return true
}

// spoil changes an answer on its way.
func (t *Fault) spoil(resp *http.Response) error {
	if t == nil || resp.StatusCode == http.StatusSwitchingProtocols {
		return nil
	}
	switch t.Kind {
	case CutAnswer:
		_, err := io.Copy(io.Discard, resp.Body) // the replica has done all of it
		return errors.Join(errCut, err)
	case Truncate:
		resp.Body = &cutBody{ReadCloser: resp.Body, left: t.After}
	case Corrupt:
		resp.Body = &corruptBody{ReadCloser: resp.Body, at: t.After}
	case Slow:
		resp.Body = &slowBody{ReadCloser: resp.Body, until: time.Now().Add(t.For)}
	}
	return nil
}

// corruptBody is a body of which one byte is another.
type corruptBody struct {
	io.ReadCloser
	at int64
}

func (b *corruptBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.at >= 0 && b.at < int64(n) {
		p[b.at] ^= 0x55
	}
	b.at -= int64(n)
	return n, err
}

// slowBody trickles, and breaks in the end.
type slowBody struct {
	io.ReadCloser
	until time.Time
}

func (b *slowBody) Read(p []byte) (int, error) {
	if time.Now().After(b.until) {
		return 0, errCut
	}
	time.Sleep(100 * time.Millisecond)
	return b.ReadCloser.Read(p[:min(len(p), 1)])
}
