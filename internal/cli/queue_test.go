package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/internal/api"
	"github.com/ahelme/comfyume/internal/cli"
	"github.com/ahelme/comfyume/internal/job"
)

// asked runs a command with --json that has to succeed and reads what it prints.
func asked[T any](p program, args ...string) (out T) {
	p.t.Helper()
	if err := json.Unmarshal([]byte(p.must(append(args, "--json")...)), &out); err != nil {
		p.t.Fatalf("%q: %v", args, err)
	}
	return out
}

// submit sends a small graph as somebody and returns the job's id.
func (p program) submit(address, token string, colour int) string {
	p.t.Helper()
	body := fmt.Sprintf(`{"prompt": {"1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": %d}},
		"2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}}, "extra_data": {"extra_pnginfo": {"workflow": {"id": "w", "nodes": []}}}}`, colour)
	r, err := http.NewRequestWithContext(p.t.Context(), http.MethodPost, address+"/prompt", strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	r.Header.Set("X-API-Key", token)
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		p.t.Fatal(err)
	}
	defer res.Body.Close()
	var answer struct {
		PromptID string `json:"prompt_id"`
	}
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil || answer.PromptID == "" {
		p.t.Fatalf("POST /prompt: %s %v", res.Status, err)
	}
	return answer.PromptID // of a submission without one, the job's own id
}

// until asks again until it holds.
func (p program) until(what string, holds func() bool) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 20*time.Second)
	defer cancel()
	for !holds() {
		select {
		case <-ctx.Done():
			p.t.Fatalf("waiting for %s", what)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// TestQueueCommands goes through the commands of queue and jobs while the queue stands still, and lets it run then.
func TestQueueCommands(t *testing.T) {
	t.Parallel()
	p := program{t, t.TempDir()}
	address, _, _ := strings.Cut(p.serve()["ann"], "/link/")
	ann, ben := p.must("token", "new", "ann"), p.must("token", "new", "ben")
	p.until("nodes", func() bool { return strings.Contains(p.must("backend", "list"), "ready") })
	as := func(token string, args ...string) (code int, out, errs string) {
		t.Helper()
		return p.run(append(args, "--server", address, "--token", token)...)
	}

	q := asked[api.QueueState](p, "queue", "pause", "--reason", "Lunch.")
	if len(q.Pauses) != 1 || q.Pauses[0].Scope != "all" || q.Pauses[0].Reason != "Lunch." {
		t.Errorf("paused is %+v", q.Pauses)
	}
	ids := []string{p.submit(address, ann, 1), p.submit(address, ann, 2), p.submit(address, ann, 3)}
	bens := p.submit(address, ben, 4)
	j := asked[api.Job](p, "job", "show", ids[1])
	if j.State != job.Pending || j.Code != "paused" || !strings.Contains(j.Why, "Lunch.") || j.Position == 0 {
		t.Errorf("a job in a paused queue is %+v", j)
	}
	if got := p.must("queue", "show"); !strings.Contains(got, "paused   all") || !strings.Contains(got, "ann   demo") {
		t.Errorf("the queue is\n%s", got)
	}

	if j := asked[api.Job](p, "job", "front", ids[2]); j.Position > asked[api.Job](p, "job", "show", ids[0]).Position {
		t.Errorf("at the front is %+v", j)
	}
	if got := p.must("job", "hold", ids[0]); !strings.Contains(got, "state      held") {
		t.Errorf("a held job is\n%s", got)
	}
	if got := p.must("job", "list", "--user", "ann", "--state", "pending"); !strings.Contains(got, "held") || strings.Contains(got, bens) {
		t.Errorf("ann's jobs are\n%s", got)
	}
	if j := asked[api.Job](p, "job", "priority", ids[1], "low"); j.Class != job.ClassLow {
		t.Errorf("priority is %d", j.Class)
	}
	soon := time.Now().Add(time.Hour).Truncate(time.Second)
	if j := asked[api.Job](p, "job", "deadline", ids[1], soon.Format(time.RFC3339)); j.Deadline == nil || !j.Deadline.Equal(soon) || j.Late {
		t.Errorf("a deadline is %+v", j)
	}
	if got := p.must("job", "show", ids[1]); !strings.Contains(got, "needed by  "+soon.Local().Format(time.DateTime)) || !strings.Contains(got, "needed by "+soon.Local().Format("15:04")) {
		t.Errorf("a job with a deadline is\n%s", got)
	}
	clock := asked[api.Job](p, "job", "deadline", ids[1], "23:59").Deadline
	if clock == nil || clock.Local().Format("15:04") != "23:59" || time.Until(*clock) > 25*time.Hour {
		t.Errorf("23:59 is %v", clock)
	}
	if j := asked[api.Job](p, "job", "deadline", ids[1], "none"); j.Deadline != nil {
		t.Errorf("without a deadline it is %+v", j)
	}
	for what, c := range map[string]struct {
		args []string
		says string
	}{
		"sets another's deadline":  {[]string{"job", "deadline", bens, "23:59"}, "There is no job"},
		"needs a job at no time":   {[]string{"job", "deadline", ids[1], "soon"}, "is not a time"},
		"raises her priority":      {[]string{"job", "priority", ids[1], "normal"}, "not raise it"},
		"holds another's job":      {[]string{"job", "hold", bens}, "There is no job"},
		"pauses the queue":         {[]string{"queue", "pause"}, "may not do this"},
		"changes the mode":         {[]string{"queue", "mode", "fifo"}, "may not do this"},
		"ends all jobs of another": {[]string{"job", "cancel", "--user", "ben"}, "somebody else"},
		"exports another's job":    {[]string{"job", "export", bens}, "There is no job"},
	} {
		if code, _, errs := as(ann, c.args...); code != 1 || !strings.Contains(errs, c.says) {
			t.Errorf("ann %s: %d %s", what, code, errs)
		}
	}
	if code, out, errs := as(ann, "job", "release", ids[0]); code != 0 || !strings.Contains(out, "state      pending") {
		t.Errorf("ann releases her job: %d %s %s", code, out, errs)
	}
	if c := asked[api.Cancelled](p, "job", "cancel", "--user", "ben"); !slices.Equal(c.Removed, []job.ID{job.ID(bens)}) || len(c.Stopping) != 0 {
		t.Errorf("of ben's %+v", c)
	}
	if got := p.must("queue", "mode", "priority"); got != "priority" {
		t.Errorf("the mode is %q", got)
	}
	if q := asked[api.QueueState](p, "queue", "resume"); len(q.Pauses) != 0 || q.Mode != "priority" {
		t.Errorf("resumed is %+v", q)
	}
	p.until("all runs", func() bool { return strings.Count(p.must("job", "list", "--user", "ann"), "completed") == 3 })
	again := asked[api.Job](p, "job", "retry", ids[0])
	if string(again.ID) == ids[0] || again.User != "ann" {
		t.Errorf("tried again is %+v", again)
	}
	p.exports(ids[0])
}

// TestMoveQueue takes a queue out of a studio that runs, and into a new one.
func TestMoveQueue(t *testing.T) {
	t.Parallel()
	p := program{t, t.TempDir()}
	address, _, _ := strings.Cut(p.serve()["ann"], "/link/")
	ann := p.must("token", "new", "ann")
	p.until("nodes", func() bool { return strings.Contains(p.must("backend", "list"), "ready") })
	over := p.submit(address, ann, 1)
	p.until("a run", func() bool { return asked[api.Job](p, "job", "show", over).State == job.Completed })
	p.must("queue", "pause")
	waits := p.submit(address, ann, 2)
	file := filepath.Join(p.dir, "queue.ndjson")
	p.must("queue", "export", file)
	if code, _, errs := p.run("queue", "import", file); code != 1 || !strings.Contains(errs, "uses the data folder") {
		t.Errorf("into a studio that runs: %d %s", code, errs)
	}
	if code, _, errs := p.run("queue", "export", "-", "--server", address, "--token", ann); code != 1 || !strings.Contains(errs, "may not do this") {
		t.Errorf("ann exports the queue: %d %s", code, errs)
	}

	other := program{t, t.TempDir()}
	if got := other.must("queue", "import", file); got != "jobs taken over  2" {
		t.Errorf("the import says %q", got)
	}
	if j := asked[api.Job](other, "job", "show", waits); j.State != job.Pending || j.User != "ann" {
		t.Errorf("what waited is %+v", j)
	}
	if r := asked[api.Record](other, "job", "export", over); r.Job.State != job.Completed || len(r.Results) != 1 {
		t.Errorf("what was over is %+v", r)
	}
	again := filepath.Join(p.dir, "again.ndjson")
	other.must("queue", "export", again)
	a, err1 := os.ReadFile(file)
	b, err2 := os.ReadFile(again)
	if diff := cmp.Diff(string(a), string(b)); diff != "" || err1 != nil || err2 != nil {
		t.Errorf("the queue is another one: %v %v\n%s", err1, err2, diff)
	}
	if code, _, errs := other.run("queue", "import", file); code != 1 || !strings.Contains(errs, "has some already") {
		t.Errorf("into a queue with jobs: %d %s", code, errs)
	}
	if err := os.WriteFile(file, a[:len(a)-20], 0o600); err != nil {
		t.Fatal(err)
	}
	third := program{t, t.TempDir()}
	if code, _, errs := third.run("queue", "import", file); code != 1 {
		t.Errorf("a file that was cut: %d %s", code, errs)
	}
	if got := third.must("job", "list"); strings.Contains(got, over) {
		t.Errorf("half an import is left: %s", got)
	}
}

// exports writes a finished job to stdout and to a file.
func (p program) exports(id string) {
	t := p.t
	t.Helper()
	r := asked[api.Record](p, "job", "export", id)
	var workflow bytes.Buffer
	if err := json.Compact(&workflow, r.Workflow); err != nil || workflow.String() != `{"id":"w","nodes":[]}` || !strings.Contains(string(r.Prompt), "EmptyImage") {
		t.Errorf("exported are %s and %s (%v)", r.Prompt, r.Workflow, err)
	}
	if len(r.Results) != 1 || r.Results[0].Node != "2" || r.Results[0].Type != "temp" {
		t.Errorf("the results are %+v", r.Results)
	}
	file := filepath.Join(p.dir, "job.json")
	p.must("job", "export", id, file)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(p.must("job", "export", id), strings.TrimSpace(string(text))); diff != "" {
		t.Error(diff)
	}
	if code, _, errs := p.run("job", "export", id, file); code != 1 || !strings.Contains(errs, "already") {
		t.Errorf("a file that is there: %d %s", code, errs)
	}
}

// TestWatch follows a job from a paused queue to its end: a line for each change.
func TestWatch(t *testing.T) {
	t.Parallel()
	p := program{t, t.TempDir()}
	address, _, _ := strings.Cut(p.serve()["ann"], "/link/")
	ann := p.must("token", "new", "ann")
	p.until("nodes", func() bool { return strings.Contains(p.must("backend", "list"), "ready") })
	p.must("queue", "pause")
	id := p.submit(address, ann, 1)
	out := &heard{said: make(chan string, 100)}
	ended := make(chan int, 1)
	go func() {
		sys := cli.System{Stdin: strings.NewReader(""), Stdout: out, Stderr: os.Stderr, Environ: []string{"HOME=" + p.dir}}
		ended <- cli.Main(t.Context(), []string{"job", "show", id, "--watch", "--data", filepath.Join(p.dir, "data")}, sys)
	}()
	if first := <-out.said; !strings.Contains(first, "pending") || !strings.Contains(first, "The queue is paused") {
		t.Errorf("the first line is %q", first)
	}
	p.must("queue", "resume")
	if code := <-ended; code != 0 {
		t.Errorf("it ended with %d", code)
	}
	close(out.said)
	last := ""
	for line := range out.said {
		last = line
	}
	if !strings.HasSuffix(last, "  completed\n") {
		t.Errorf("the last line is %q", last)
	}
}

// heard passes on each line that is written.
type heard struct{ said chan string }

func (h *heard) Write(p []byte) (int, error) {
	h.said <- string(p)
	return len(p), nil
}

// TestMoneyCommands: an operator reads what a back end costs, what may be spent and what was.
func TestMoneyCommands(t *testing.T) {
	t.Parallel()
	p := program{t, t.TempDir()}
	file := filepath.Join(p.dir, "money.yaml")
	if err := os.WriteFile(file, []byte("budget: {per_hour: 5}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.serve("--config", file)
	if got := p.must("backend", "list"); strings.Contains(got, "spent") {
		t.Errorf("nothing has a price, and money is told of:\n%s", got)
	}
	p.must("backend", "add", "rented", "http://127.0.0.1:1", "--price", "2.8")
	for _, c := range []struct {
		args []string
		says []string
	}{
		{[]string{"backend", "list"}, []string{"2.80/h", "money  0.00 of 5.00 spent this hour, 0.00 today, 5.00 left"}},
		{[]string{"backend", "show", "rented"}, []string{"2.80 per hour, 0.000778 per second", "0.00 of 5.00 spent this hour"}},
		{[]string{"queue", "show"}, []string{"0.00 of 5.00 spent this hour"}},
	} {
		got := p.must(c.args...)
		for _, want := range c.says {
			if !strings.Contains(got, want) {
				t.Errorf("%v does not say %q:\n%s", c.args, want, got)
			}
		}
	}
	if b := asked[api.BackEnd](p, "backend", "show", "rented"); b.Price != 2.8 || b.Second != 2.8/3600 {
		t.Errorf("%+v", b)
	}
	if code, _, errs := p.run("backend", "show", "nope"); code != 1 || !strings.Contains(errs, "backend list") {
		t.Errorf("one that is not there: %d %s", code, errs)
	}
}
