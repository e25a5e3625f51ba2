package redis

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
	"github.com/ahelme/comfyume/internal/queue/payload"
)

// Queue is the queue's store. It is safe for concurrent use, by any number of servers.
//
// A change is a command of change.lua. What waits is sent as one batch, one batch at a time: that is one step of Redis, one wait for its disk, and one order of results. A batch whose answer is lost is sent again and happens
// once.
type Queue struct {
	db      *DB
	pack    *payload.Packer
	session string // names what this store does, to itself and to others
	feed    feed

	requests chan *request
	turn     chan struct{} // holds a token while somebody has the writer
	writer   writer
	poke     chan struct{} // there is a request that nobody waits for
	closing  chan struct{}
	once     sync.Once
	work     sync.WaitGroup
}

var _ queue.Store = (*Queue)(nil)

// sessionStays is how long the last answer of a server is kept: longer than anybody asks for it again.
const sessionStays = 24 * time.Hour

// NewQueue returns the queue's store in the database; a Restore that was cut short is undone. Close it before the database.
func NewQueue(ctx context.Context, db *DB) (*Queue, error) {
	if _, err := db.restoring(ctx, "start", decimal(time.Now().Add(-sessionStays).UnixMilli())); err != nil {
		return nil, err
	}
	pack, err := payload.New()
	if err != nil {
		return nil, err
	}
	q := &Queue{
		db: db, pack: pack, session: rand.Text(), requests: make(chan *request, most), turn: make(chan struct{}, 1),
		poke: make(chan struct{}, 1), closing: make(chan struct{}),
	}
	q.feed = feed{q: q, moved: make(chan struct{}, 1)}
	q.writer = writer{q: q, keys: db.keys("meta", "tick", "last", "log", "open", "done", "request", "outcome",
		"sealed", "ids", "prompts", "keys", "keyends", "numbers", "settings", "history", "gone", "past", "tries")}
	return q, nil
}

// Close waits for the batch that is on its way and gives back what the store holds. No call goes on after it.
func (q *Queue) Close() error {
	q.once.Do(func() {
		close(q.closing)
		q.turn <- struct{}{} // it is never given back: nobody sends any more
	})
	q.work.Wait()
	return q.pack.Close()
}

func (q *Queue) closed() bool {
	select {
	case <-q.closing:
		return true
	default:
		return false
	}
}

// Insert implements queue.Store.
func (q *Queue) Insert(ctx context.Context, in queue.Insertion, done func(seq, fence int64)) (*queue.Clash, error) {
	r := rowOf(&in)
	rec, err := appendRecord(make([]byte, 0, 512), &r)
	if err != nil {
		return nil, err
	}
	replace := ""
	if in.Replace > 0 {
		replace = decimal(in.Replace)
	}
	numbers := 1
	if in.Attempt != nil {
		numbers = 2
	}
	var clash *queue.Clash
	err = q.write(ctx, &request{
		args: []string{
			"I", rueidis.BinaryString(rec), rueidis.BinaryString(q.pack.Request(in.Request)),
			rueidis.BinaryString(in.Credentials), replace, decimal(in.NumberMark), decimal(in.Now.UnixMilli()), decimal(in.KeyUntil.UnixMilli()),
		},
		results: 1, numbers: numbers, adds: true,
		apply: func(results []rueidis.RedisMessage) error {
			if found, err := results[0].ToString(); err == nil {
				clash, err = readClash(found)
				return err
			}
			seq, err := results[0].AsInt64()
			if err != nil {
				return fmt.Errorf("read the number of a new job: %w", err)
			}
			if in.Attempt == nil {
				done(seq, 0)
			} else {
				done(seq, seq+1)
			}
			return nil
		},
	})
	return clash, err
}

// readClash reads the job that is in the way of a new one.
func readClash(found string) (*queue.Clash, error) {
	if len(found) < 9 {
		return nil, errors.New("the job id is taken")
	}
	r, err := readRecord(int64(uint64At(found, 1)), found[9:])
	if err != nil {
		return nil, err
	}
	return &queue.Clash{Job: r.job, Key: found[0] == 'k'}, nil
}

// Claim implements queue.Store.
func (q *Queue) Claim(ctx context.Context, seq int64, a job.Attempt, done func(int64)) error {
	return q.write(ctx, &request{
		args:    []string{"C", decimal(seq), time8(a.LeaseUntil), rueidis.BinaryString(appendAttempt(nil, &a))},
		results: 1, numbers: 1,
		apply: func(results []rueidis.RedisMessage) error {
			fence, err := results[0].AsInt64()
			if err != nil {
				return fmt.Errorf("read a fence: %w", err)
			}
			if fence == 0 {
				return queue.ErrStale
			}
			done(fence)
			return nil
		},
	})
}

// Renew implements queue.Store.
func (q *Queue) Renew(ctx context.Context, renewals []queue.Renewal, until time.Time) (renewed []bool, err error) {
	args, lease := make([]string, 0, 6*len(renewals)), time8(until)
	for _, r := range renewals {
		args = append(args, "N", decimal(r.Seq), number8(r.Fence), lease, bit(r.Posted), time8(r.Started))
	}
	err = q.write(ctx, &request{args: args, results: len(renewals), apply: func(results []rueidis.RedisMessage) (err error) {
		renewed, err = held(results)
		return err
	}})
	return renewed, err
}

// Release implements queue.Store.
func (q *Queue) Release(ctx context.Context, seq, fence int64, try *job.Try, done func()) error {
	return q.write(ctx, &request{
		args: []string{"R", decimal(seq), number8(fence), tryLine(try)}, results: 1,
		apply: func(results []rueidis.RedisMessage) error {
			was, err := held(results)
			switch {
			case err != nil:
				return err
			case !was[0]:
				return queue.ErrStale
			}
			done()
			return nil
		},
	})
}

// Stop implements queue.Store.
func (q *Queue) Stop(ctx context.Context, jobs []queue.Ref, done func([]bool)) error {
	args := make([]string, 0, 3*len(jobs))
	for _, r := range jobs {
		args = append(args, "S", decimal(r.Seq), number8(r.Fence))
	}
	return q.write(ctx, &request{args: args, results: len(jobs), apply: func(results []rueidis.RedisMessage) error {
		stopped, err := held(results)
		if err == nil {
			done(stopped)
		}
		return err
	}})
}

// Finish implements queue.Store.
func (q *Queue) Finish(ctx context.Context, ends []queue.Ending, done func([]int64)) error {
	args := make([]string, 0, 10*len(ends))
	for i := range ends {
		args = q.appendEnding(args, &ends[i])
	}
	return q.write(ctx, &request{
		args: args, results: len(ends), numbers: len(ends),
		apply: func(results []rueidis.RedisMessage) error {
			ended, err := numbers(results)
			if err == nil {
				done(ended)
			}
			return err
		},
	})
}

func (q *Queue) appendEnding(args []string, e *queue.Ending) []string {
	var fence, outcome, message string
	var summary []byte
	if e.Fence != 0 {
		fence = number8(e.Fence)
	}
	if e.Outcome != nil {
		message, summary = e.Outcome.Error, e.Outcome.Summary
		if !e.Hidden {
			outcome = rueidis.BinaryString(q.pack.Outcome(*e.Outcome))
		}
	}
	return append(args, "F", decimal(e.Seq), fence, string(letters[e.State]), bit(e.Hidden), time8(e.Started), time8(e.Finished),
		outcome, rueidis.BinaryString(appendEnd(nil, message, summary)), tryLine(e.Try))
}

// Hide implements queue.Store.
func (q *Queue) Hide(ctx context.Context, user string, prompts []string, done func(int)) error {
	n := len(prompts)
	if prompts == nil {
		n = -1
	}
	args := append([]string{"H", person(user), decimal(int64(n))}, prompts...)
	return q.write(ctx, &request{args: args, results: 1, apply: func(results []rueidis.RedisMessage) error {
		n, err := results[0].AsInt64()
		if err == nil {
			done(int(n))
		}
		return err
	}})
}

func bit(on bool) string {
	if on {
		return "1"
	}
	return "0"
}

func numbers(results []rueidis.RedisMessage) ([]int64, error) {
	all := make([]int64, len(results))
	for i := range results {
		var err error
		if all[i], err = results[i].AsInt64(); err != nil {
			return nil, fmt.Errorf("read what became of a change: %w", err)
		}
	}
	return all, nil
}

// held reads which conditions held.
func held(results []rueidis.RedisMessage) ([]bool, error) {
	all, err := numbers(results)
	if err != nil {
		return nil, err
	}
	out := make([]bool, len(all))
	for i, n := range all {
		out[i] = n > 0
	}
	return out, nil
}
