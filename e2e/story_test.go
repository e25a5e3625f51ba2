package e2e

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// journal is what was broken when. It is safe for concurrent use.
type journal struct {
	mu    sync.Mutex
	lines []fault
}

// fault is one thing that was broken.
type fault struct {
	at   time.Time
	name string
}

func (j *journal) note(name string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, fault{time.Now(), name})
}

// during lists what was broken between two times, and a moment before: some faults last.
func (j *journal) during(from, to time.Time) (names []string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, f := range j.lines {
		if f.at.After(from.Add(-3*time.Second)) && f.at.Before(to) {
			names = append(names, f.at.Format(clock)+" "+f.name)
		}
	}
	return names
}

// clock is how times stand in stories.
const clock = "15:04:05.000"

// attempt is one try of a job, as its owner reads it.
type attempt struct {
	N             int
	Backend       string
	Began, Ended  time.Time
	Posted        bool
	Cause, Reason string
}

func (a attempt) String() string {
	ended := "goes on"
	if !a.Ended.IsZero() {
		ended = a.Ended.Format(clock)
	}
	return fmt.Sprintf("attempt %d on %s, %s to %s, posted %t: %s. %s", a.N, a.Backend, a.Began.Format(clock), ended, a.Posted, a.Cause, a.Reason)
}

// wrong fails the test over one job, and tells all that is known of it: its order, its attempts, what was broken
// meanwhile, and what the server logged of it.
func (l *loader) wrong(t *testing.T, id, format string, args ...any) {
	t.Helper()
	t.Errorf("%s: job %s %s\n%s", l.name, id, fmt.Sprintf(format, args...), l.story(id))
}

// story is what is known of a job by its prompt id.
func (l *loader) story(id string) string {
	var told strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&told, "    "+format+"\n", args...) }
	if o, ok := l.acked[id]; ok {
		say("order: %+v", *o)
	} else {
		say("order: none was acknowledged")
	}
	job, err := l.jobID(id)
	if err != nil {
		say("its attempts can't be read: %v", err)
		return told.String()
	}
	var j struct {
		State    string
		Attempts []attempt
	}
	if err := l.call(http.MethodGet, "/studio/api/v1/jobs/"+job, nil, &j); err != nil {
		say("its attempts can't be read: %v", err)
		return told.String()
	}
	say("it is the job %s, %s", job, j.State)
	from, to := time.Now(), time.Now()
	for _, a := range j.Attempts {
		say("%v", a)
		if from = a.Began; a.N > 1 {
			from = j.Attempts[0].Began
		}
		if !a.Ended.IsZero() {
			to = a.Ended
		}
	}
	if l.journal != nil {
		for _, line := range l.journal.during(from, to) {
			say("broken: %s", line)
		}
	}
	for _, line := range l.logged(job) {
		say("log: %s", line)
	}
	return told.String()
}

// jobID finds the id of a job by its prompt id.
func (l *loader) jobID(promptID string) (string, error) {
	for n := 0; ; {
		var page struct{ Jobs []place }
		if err := l.call(http.MethodGet, fmt.Sprintf("/studio/api/v1/jobs?limit=200&offset=%d", n), nil, &page); err != nil {
			return "", err
		}
		for _, j := range page.Jobs {
			if j.PromptID == promptID {
				return j.ID, nil
			}
		}
		if n += len(page.Jobs); len(page.Jobs) == 0 {
			return "", fmt.Errorf("it is not among %d jobs", n)
		}
	}
}

// logged are the lines of the server's log about a job.
func (l *loader) logged(job string) (lines []string) {
	if l.log == "" {
		return nil
	}
	raw, err := os.ReadFile(l.log)
	if err != nil {
		return []string{err.Error()}
	}
	for line := range bytes.Lines(raw) {
		if bytes.Contains(line, []byte(job)) {
			lines = append(lines, strings.TrimSpace(string(line)))
		}
	}
	return lines
}
