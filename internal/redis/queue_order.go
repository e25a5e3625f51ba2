package redis

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
)

// Rank implements queue.Store.
func (q *Queue) Rank(ctx context.Context, ranks []queue.Rank, done func([]bool)) error {
	args := make([]string, 0, 9*len(ranks))
	for _, r := range ranks {
		fence := ""
		if r.Fence != 0 {
			fence = number8(r.Fence)
		}
		deadline := ""
		if !r.Deadline.IsZero() {
			deadline = time8(r.Deadline)
		}
		args = append(args, "M", decimal(r.Seq), fence, string([]byte{byte(r.Class)}),
			string(binary.BigEndian.AppendUint64(nil, math.Float64bits(r.Number))), bit(r.Held), r.User, decimal(r.NumberMark), deadline)
	}
	return q.write(ctx, &request{args: args, results: len(ranks), apply: func(results []rueidis.RedisMessage) error {
		ranked, err := held(results)
		if err == nil {
			done(ranked)
		}
		return err
	}})
}

// PutSetting implements queue.Store.
func (q *Queue) PutSetting(ctx context.Context, name string, value []byte, done func()) error {
	return q.write(ctx, &request{
		args: []string{"V", name, bit(value != nil), string(value)}, results: 1,
		apply: func([]rueidis.RedisMessage) error { done(); return nil },
	})
}

// Settings implements queue.Store.
func (q *Queue) Settings(ctx context.Context) (map[string][]byte, error) {
	results, err := q.db.read(ctx, q.db.client.B().Hgetall().Key(q.db.key("settings")).Build())
	if err != nil {
		return nil, err
	}
	texts, err := results[0].AsStrMap()
	if err != nil {
		return nil, fmt.Errorf("read the queue's settings: %w", err)
	}
	out := make(map[string][]byte, len(texts))
	for name, value := range texts {
		out[name] = []byte(value)
	}
	return out, nil
}

// FindKey implements queue.Store.
func (q *Queue) FindKey(ctx context.Context, user, key string, at time.Time) (job.Job, error) {
	results, err := q.db.read(ctx, q.db.client.B().Hget().Key(q.db.key("keys")).Field(person(user)+key).Build())
	if err != nil {
		return job.Job{}, err
	}
	used, err := results[0].ToString()
	if err != nil || len(used) < 9 || !timeAt(used, 0).After(at) {
		return job.Job{}, queue.ErrMissing
	}
	seq, err := strconv.ParseInt(used[8:], 10, 64)
	if err != nil {
		return job.Job{}, errRecord
	}
	rows, err := q.rows(ctx, []int64{seq})
	if err != nil {
		return job.Job{}, err
	}
	if rows[0] == nil {
		return job.Job{}, queue.ErrMissing
	}
	return rows[0].job, nil
}

// rows reads jobs by their numbers; nil where there is none.
func (q *Queue) rows(ctx context.Context, seqs []int64) ([]*row, error) {
	fields, b := decimals(seqs), q.db.client.B()
	// A job goes from open to done: read in this order it is in one of them.
	results, err := q.db.read(ctx,
		b.Hmget().Key(q.db.key("open")).Field(fields...).Build(),
		b.Hmget().Key(q.db.key("done")).Field(fields...).Build())
	if err != nil {
		return nil, err
	}
	all := make([]*row, len(seqs))
	for _, result := range results {
		list, err := result.ToArray()
		if err != nil {
			return nil, fmt.Errorf("read jobs: %w", err)
		}
		for i := range list {
			rec, err := list[i].ToString()
			if err != nil {
				continue // nil
			}
			if all[i] != nil {
				continue // while it is open its end is not true
			}
			r, err := readRecord(seqs[i], rec)
			if err != nil {
				return nil, err
			}
			all[i] = &r
		}
	}
	return all, nil
}

// keysAtOnce is how many expired keys go in one call of Prune.
const keysAtOnce = 10_000

// Prune implements queue.Store. What goes is looked up beside the writer, and taken out by it.
func (q *Queue) Prune(ctx context.Context, p queue.Pruning, done func([]queue.Gone)) error {
	old, err := q.prunable(ctx, p)
	if err != nil {
		return err
	}
	args := []string{"X", decimal(p.Now.UnixMilli()), strconv.Itoa(keysAtOnce)}
	for i := range old {
		args = append(args, "D", decimal(old[i].job.Seq), number8(old[i].ended))
	}
	return q.write(ctx, &request{args: args, results: 1 + len(old), apply: func(results []rueidis.RedisMessage) error {
		went, err := numbers(results[1:])
		if err != nil {
			return err
		}
		var gone []queue.Gone
		for i, how := range went {
			if j := &old[i].job; how > 0 { // else it was pruned meanwhile
				gone = append(gone, queue.Gone{ID: j.ID, User: j.User, PromptID: j.PromptID, Hidden: how == 2})
			}
		}
		done(gone)
		return nil
	}})
}

// prunable returns final jobs that are too old, or too many for their person.
func (q *Queue) prunable(ctx context.Context, p queue.Pruning) (old []*row, err error) {
	seqs, have := []int64{}, map[int64]bool{}
	add := func(seq int64) {
		if !have[seq] && len(seqs) < p.Limit {
			have[seq] = true
			seqs = append(seqs, seq)
		}
	}
	if !p.Before.IsZero() {
		results, err := q.db.read(ctx, q.db.client.B().Zrangebyscore().Key(q.db.key("past")).Min("-inf").
			Max("("+decimal(p.Before.UnixMilli())).Limit(0, int64(p.Limit)).Build())
		if err != nil {
			return nil, err
		}
		list, err := results[0].AsIntSlice()
		if err != nil {
			return nil, fmt.Errorf("read which jobs are old: %w", err)
		}
		for _, seq := range list {
			add(seq)
		}
	}
	if p.Keep > 0 {
		for _, index := range []string{"history", "gone"} {
			if err := q.eachBeyond(ctx, index, p.Keep, func(seq int64) bool { add(seq); return len(seqs) < p.Limit }); err != nil {
				return nil, err
			}
		}
	}
	for first := 0; first < len(seqs); first += scanCount {
		rows, err := q.rows(ctx, seqs[first:min(first+scanCount, len(seqs))])
		if err != nil {
			return nil, err
		}
		for _, r := range rows {
			if r != nil {
				old = append(old, r)
			}
		}
	}
	return old, nil
}

// eachBeyond calls fn for the jobs of each person that are beyond the newest keep of an index, until it returns false.
// It goes from one person to the next, whatever they have.
func (q *Queue) eachBeyond(ctx context.Context, index string, keep int, fn func(seq int64) bool) error {
	b, key := q.db.client.B(), q.db.key(index)
	for first := "-"; ; {
		results, err := q.db.read(ctx, b.Zrangebylex().Key(key).Min(first).Max("+").Limit(0, 1).Build())
		if err != nil {
			return err
		}
		next, err := results[0].AsStrSlice()
		if err != nil || len(next) == 0 {
			return err
		}
		who := next[0][:len(next[0])-entrySize]
		first = "(" + who + "\xff"
		if results, err = q.db.read(ctx, b.Zrevrangebylex().Key(key).Max(first).Min("["+who).Limit(int64(keep), entriesPage).Build()); err != nil {
			return err
		}
		beyond, err := results[0].AsStrSlice()
		if err != nil {
			return fmt.Errorf("read the index of jobs: %w", err)
		}
		for _, text := range beyond {
			e, err := readEntry(text)
			if err != nil {
				return err
			}
			if !fn(e.seq) {
				return nil
			}
		}
	}
}
