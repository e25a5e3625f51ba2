package sqlite_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
	"github.com/ahelme/comfyume/internal/queue/queuetest"
	"github.com/ahelme/comfyume/internal/sqlite"
)

// crashFile names the database for the process that is going to be killed.
const crashFile = "COMFYUME_TEST_CRASH_FILE"

// TestCrash kills a process that submits, claims and finishes jobs, and holds what it had acknowledged against what
// is in the file: nothing acknowledged is lost, nothing half done, no fence comes twice.
func TestCrash(t *testing.T) {
	if path := os.Getenv(crashFile); path != "" {
		work(t, path)
		return
	}
	t.Parallel()
	path := filepath.Join(t.TempDir(), "comfyume.db")
	acks := map[job.ID]string{} // newest acknowledged word of each job: submitted, claimed, finished
	fence := int64(0)
	for round := range 6 {
		// Far apart and odd, so that it is hit at start, in commits and in checkpoints.
		lines := kill(t, path, time.Duration(15+round*round*17)*time.Millisecond)
		for _, line := range lines {
			var word, id string
			var n int64
			if _, err := fmt.Sscan(line, &word, &id, &n); err != nil {
				t.Fatalf("the process said %q", line)
			}
			acks[job.ID(id)] = word
			if word == "claimed" {
				if n <= fence {
					t.Errorf("fence %d after %d", n, fence)
				}
				fence = n
			}
		}
		audit(t, path, acks)
	}
	t.Logf("%d jobs were acknowledged over 6 kills", len(acks))
}

// kill starts the process, lets it work for a while, kills it, and returns what it had acknowledged.
func kill(t *testing.T, path string, after time.Duration) (lines []string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestCrash$")
	cmd.Env = append(os.Environ(), crashFile+"="+path)
	out, err := cmd.StdoutPipe()
	must(t, err)
	var trouble bytes.Buffer
	cmd.Stderr = &trouble
	must(t, cmd.Start())
	var once sync.Once
	for scan := bufio.NewScanner(out); scan.Scan(); {
		if line := scan.Text(); strings.HasPrefix(line, "ack ") {
			once.Do(func() { time.AfterFunc(after, func() { _ = cmd.Process.Kill() }) })
			lines = append(lines, line[4:])
		}
	}
	if err := cmd.Wait(); err == nil || trouble.Len() > 0 {
		t.Fatalf("the process ended by itself: %v\n%s", err, trouble.String())
	}
	return lines
}

// audit opens the database as after a crash.
func audit(t *testing.T, path string, acks map[job.ID]string) {
	t.Helper()
	ctx := context.Background()
	db, err := sqlite.Open(ctx, path, sqlite.Options{})
	must(t, err)
	defer db.Close()
	store, err := sqlite.NewQueue(ctx, db)
	must(t, err)
	defer store.Close()
	q, err := queue.New(ctx, store, queue.Options{})
	must(t, err)
	for id, word := range acks {
		j, err := q.Get(ctx, id)
		if err != nil {
			t.Errorf("%s was acknowledged as %s and is lost: %v", id, word, err)
			continue
		}
		late := map[string][]job.State{
			"submitted": {job.Pending, job.Running, job.Completed}, // the next step may be durable and not yet told
			"claimed":   {job.Running, job.Completed},
			"finished":  {job.Completed},
		}[word]
		if !contains(late, j.State) {
			t.Errorf("%s was acknowledged as %s and is %s", id, word, j.State)
		}
		e, err := q.Entry(ctx, j.User, j.PromptID)
		if err != nil || len(e.Request.Prompt) == 0 {
			t.Errorf("%s has lost what it asked for: %v", id, err)
		}
		if j.State == job.Completed && (e.Outcome == nil || !json.Valid(e.Outcome.Outputs)) {
			t.Errorf("%s has lost what it gave", id)
		}
	}
	var verdict string
	must(t, db.Read().QueryRow(`pragma integrity_check`).Scan(&verdict))
	if verdict != "ok" {
		t.Errorf("integrity: %s", verdict)
	}
	var broken int
	must(t, db.Read().QueryRow(`select count(*) from pragma_foreign_key_check`).Scan(&broken))
	if broken > 0 {
		t.Errorf("%d rows point nowhere", broken)
	}
}

func contains[T comparable](all []T, one T) bool {
	for _, x := range all {
		if x == one {
			return true
		}
	}
	return false
}

// work takes jobs through their lives until it is killed, and says what was acknowledged.
func work(t *testing.T, path string) {
	db, err := sqlite.Open(t.Context(), path, sqlite.Options{})
	must(t, err)
	store, err := sqlite.NewQueue(t.Context(), db)
	must(t, err)
	var mu sync.Mutex
	ack := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Printf("ack "+format+"\n", args...)
	}
	q, err := queue.New(t.Context(), store, queue.Options{Notify: func(c job.Changed) {
		if c.Change == job.Claimed { // in commit order, so that fences are told in theirs
			ack("claimed %s %d", c.Job.ID, c.Job.Attempt.Fence)
		}
	}})
	must(t, err)
	var wg sync.WaitGroup
	for u := range 8 {
		user := fmt.Sprint("user", u)
		wg.Go(func() {
			for i := 0; ; i++ {
				j, _, err := q.Submit(t.Context(), queuetest.Submission(user, i))
				must(t, err)
				ack("submitted %s 0", j.ID)
				e, _, err := q.Claim(t.Context(), j.ID, queuetest.Params())
				must(t, err)
				must(t, q.Finish(t.Context(), j.ID, e.Job.Attempt.Fence, queuetest.Outcome(job.Completed)))
				ack("finished %s 0", j.ID)
			}
		})
	}
	wg.Wait()
}
