package redis_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
	"github.com/ahelme/comfyume/internal/queue/queuetest"
	"github.com/ahelme/comfyume/internal/redis"
)

const (
	// crashSocket names the Redis for the process that is going to be killed.
	crashSocket = "COMFYUME_TEST_CRASH_REDIS"
	// crashKills is how many kills there are; empty: a few.
	crashKills = "COMFYUME_KILLS"
)

// TestCrash kills Redis, and the process that works with it, at random instants under load, and holds what was
// acknowledged against what is there afterwards: with appendfsync always nothing acknowledged is lost, with everysec only
// what was acknowledged in the last second before a kill of Redis; nothing is there twice, no fence comes twice.
func TestCrash(t *testing.T) {
	if socket := os.Getenv(crashSocket); socket != "" {
		work(t, socket)
		return
	}
	t.Parallel()
	kills := 6
	if n, err := strconv.Atoi(os.Getenv(crashKills)); err == nil {
		kills = n
	}
	for _, fsync := range []string{"always", "everysec"} {
		t.Run(fsync, func(t *testing.T) {
			t.Parallel()
			s := startServer(t, fsync)
			l := &ledger{acks: map[string]ack{}, fences: map[int64]bool{}}
			for round := range kills {
				l.round(t, s, round%2 == 0)
				l.audit(t, s, fsync == "everysec")
				if t.Failed() {
					return
				}
			}
			t.Logf("%d jobs were acknowledged over %d kills", len(l.acks), kills)
		})
	}
}

// ack is the newest word of a job and when it was heard.
type ack struct {
	word string
	at   time.Time
}

// ledger is what was acknowledged.
type ledger struct {
	acks   map[string]ack // by prompt id
	fences map[int64]bool
	killed time.Time // Redis, the last time
}

// round lets the process work and kills Redis, or the process, after a while. Redis comes back while the process goes on.
func (l *ledger) round(t *testing.T, s *server, redisDies bool) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestCrash$")
	cmd.Env = append(os.Environ(), crashSocket+"="+s.Socket)
	out, err := cmd.StdoutPipe()
	must(t, err)
	var trouble bytes.Buffer
	cmd.Stderr = &trouble
	must(t, cmd.Start())
	first, end := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(end)
		<-first
		<-time.After(time.Duration(5+rand.IntN(150)) * time.Millisecond)
		if redisDies {
			s.kill()
			l.killed = time.Now()
			s.start()
			<-time.After(100 * time.Millisecond)
		}
		_ = cmd.Process.Kill()
	}()
	var once sync.Once
	for scan := bufio.NewScanner(out); scan.Scan(); {
		var word, id string
		var fence int64
		if n, _ := fmt.Sscan(strings.TrimPrefix(scan.Text(), "ack "), &word, &id, &fence); n < 3 {
			continue
		}
		once.Do(func() { close(first) })
		l.acks[id] = ack{word, time.Now()}
		if word == "claimed" {
			if l.fences[fence] {
				t.Errorf("fence %d came twice", fence)
			}
			l.fences[fence] = true
		}
	}
	once.Do(func() { close(first) })
	<-end
	if err := cmd.Wait(); err == nil || trouble.Len() > 0 {
		t.Fatalf("the process ended by itself: %v\n%s", err, trouble.String())
	}
}

// audit opens the queue as after a crash.
func (l *ledger) audit(t *testing.T, s *server, mayLose bool) {
	t.Helper()
	db := s.open(t, redis.Options{})
	store, err := redis.NewQueue(t.Context(), db)
	must(t, err)
	defer func() { must(t, errors.Join(store.Close(), db.Close())) }()
	q, err := queue.New(t.Context(), store, queue.Options{})
	must(t, err)
	there := map[string]queue.Record{}
	open := 0
	must(t, store.EachRecord(t.Context(), func(r queue.Record) error {
		if old, twice := there[r.Job.PromptID]; twice {
			t.Errorf("%s is there twice: %s and %s", r.Job.PromptID, old.Job.ID, r.Job.ID)
		}
		if there[r.Job.PromptID] = r; !r.Job.State.Final() {
			open++
		}
		return nil
	}))
	if c := q.Counts(); c.Pending+c.Running != open {
		t.Errorf("%d open jobs are counted, %d are there", c.Pending+c.Running, open)
	}
	lost := 0
	for id, a := range l.acks {
		r, ok := there[id]
		late := map[string][]job.State{
			"submitted": {job.Pending, job.Running, job.Completed}, // the next step may be durable and not yet told
			"claimed":   {job.Running, job.Completed},
			"finished":  {job.Completed},
		}[a.word]
		if ok && contains(late, r.Job.State) {
			if len(r.Request.Prompt) == 0 || r.Job.State == job.Completed && r.Outcome == nil {
				t.Errorf("%s has lost what it asked or gave", id)
			}
			continue
		}
		// A word may lie in the pipe for a moment before it is heard.
		if mayLose && l.killed.Sub(a.at) < 1500*time.Millisecond {
			lost++
			delete(l.acks, id)
			continue
		}
		t.Errorf("%s was acknowledged as %s %s before the kill and is %q there: %v", id, a.word, l.killed.Sub(a.at), r.Job.State, ok)
	}
	if lost > 0 {
		t.Logf("%d words of the last second were lost", lost)
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

// work takes jobs through their lives until it is killed, and says what was acknowledged. While Redis is away it tries again.
func work(t *testing.T, socket string) {
	db, err := redis.Open(t.Context(), "unix://"+socket, redis.Options{Patience: 2 * time.Second})
	must(t, err)
	store, err := redis.NewQueue(t.Context(), db)
	must(t, err)
	var mu sync.Mutex
	say := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Printf("ack "+format+"\n", args...)
	}
	q, err := queue.New(t.Context(), store, queue.Options{})
	must(t, err)
	again := func(fn func() error) error {
		for {
			if err := fn(); !fault.Is(err, fault.Unavailable) {
				return err
			}
		}
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := 0; ; i++ {
				sub := queuetest.Submission("ann", i)
				sub.PromptID = strconv.FormatUint(rand.Uint64(), 36)
				var j job.Job
				must(t, again(func() (err error) { j, _, err = q.Submit(context.Background(), sub); return err }))
				say("submitted %s 0", j.PromptID)
				var e job.Entry
				err := again(func() (err error) { e, _, err = q.Claim(context.Background(), j.ID, queuetest.Params()); return err })
				if fault.Is(err, fault.Conflict) { // Redis has lost it, or the answer to an earlier claim was lost
					continue
				}
				must(t, err)
				say("claimed %s %d", j.PromptID, e.Job.Attempt.Fence)
				err = again(func() error {
					return q.Finish(context.Background(), j.ID, e.Job.Attempt.Fence, queuetest.Outcome(job.Completed))
				})
				if fault.Is(err, fault.Conflict) {
					continue
				}
				must(t, err)
				say("finished %s 0", j.PromptID)
			}
		})
	}
	wg.Wait()
}
