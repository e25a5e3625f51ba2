package redis

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"

	"github.com/redis/rueidis"

	"github.com/ahelme/comfyume/internal/queue"
)

// recordsPage is how many records are read, or put in, at once.
const recordsPage = 100

// EachRecord implements queue.Store. It reads page by page and holds nothing open.
func (q *Queue) EachRecord(ctx context.Context, fn func(queue.Record) error) error {
	seen := map[int64]bool{}
	err := q.db.scan(ctx, "ids", func(_, value string) error {
		seq, err := strconv.ParseInt(value, 10, 64)
		seen[seq] = true
		return err
	})
	if err != nil {
		return err
	}
	for page := range slices.Chunk(slices.Sorted(maps.Keys(seen)), recordsPage) {
		records, err := q.records(ctx, page)
		if err != nil {
			return err
		}
		for _, rec := range records {
			if err := fn(rec); err != nil {
				return err
			}
		}
	}
	return nil
}

// records reads everything that is kept of jobs; those that are gone are left out.
func (q *Queue) records(ctx context.Context, seqs []int64) (out []queue.Record, err error) {
	rows, err := q.rows(ctx, seqs)
	if err != nil {
		return nil, err
	}
	fields, keyed := decimals(seqs), make([]string, len(seqs))
	for i, r := range rows {
		if r != nil {
			keyed[i] = person(r.job.User) + r.key
		}
	}
	b := q.db.client.B()
	results, err := q.db.read(ctx,
		b.Hmget().Key(q.db.key("request")).Field(fields...).Build(),
		b.Hmget().Key(q.db.key("outcome")).Field(fields...).Build(),
		b.Hmget().Key(q.db.key("sealed")).Field(fields...).Build(),
		b.Hmget().Key(q.db.key("keys")).Field(keyed...).Build(),
		b.Hmget().Key(q.db.key("tries")).Field(fields...).Build())
	if err != nil {
		return nil, err
	}
	var lists [5][]rueidis.RedisMessage
	for i := range lists {
		if lists[i], err = results[i].ToArray(); err != nil {
			return nil, fmt.Errorf("read records: %w", err)
		}
	}
	for i, r := range rows {
		if r == nil {
			continue
		}
		request, outcome := text(lists[0][i]), text(lists[1][i])
		e, err := q.unpack(*r, request, outcome)
		if err != nil {
			return nil, err
		}
		rec := queue.Record{Job: r.job, Request: e.Request, Ended: r.ended}
		if outcome != "" {
			rec.Outcome = e.Outcome
		}
		if sealed, err := lists[2][i].AsBytes(); err == nil {
			rec.Credentials = sealed
		}
		if used := text(lists[3][i]); r.key != "" && len(used) > 8 && used[8:] == fields[i] {
			rec.Key, rec.KeyUntil = r.key, timeAt(used, 0)
		}
		if rec.Tries, err = readTries(text(lists[4][i])); err != nil {
			return nil, err
		}
		out = append(out, rec)
	}
	return out, nil
}

// text is a value, or empty where there is none.
func text(m rueidis.RedisMessage) string {
	s, err := m.ToString()
	if err != nil {
		return ""
	}
	return s
}

// restoring runs one step of a Restore.
func (db *DB) restoring(ctx context.Context, step string, more ...string) (string, error) {
	keys := db.keys("meta", "tick", "last", "ids", "numbers", "open", "done", "request", "outcome", "sealed", "prompts", "keys", "keyends",
		"history", "gone", "past", "tries")
	word, err := db.exec(ctx, scriptRestore, keys, append([]string{db.generation, step}, more...)).ToString()
	switch {
	case err != nil:
		return "", db.fail(ctx, err)
	case word == "other":
		return "", db.lost()
	}
	return word, nil
}

// undoRestore takes out what a Restore that was cut short has put in.
func (db *DB) undoRestore(ctx context.Context) error {
	_, err := db.restoring(ctx, "undo")
	return err
}

// Restore implements queue.Store. It happens chunk by chunk, between a mark and its end.
func (q *Queue) Restore(ctx context.Context, marks map[string]int64, records iter.Seq2[queue.Record, error]) error {
	word, err := q.db.restoring(ctx, "begin")
	if err != nil {
		return err
	}
	if word == "full" {
		return queue.ErrNotEmpty
	}
	if err := q.restore(ctx, marks, records); err != nil {
		return errors.Join(err, q.db.undoRestore(context.WithoutCancel(ctx)))
	}
	return nil
}

func (q *Queue) restore(ctx context.Context, marks map[string]int64, records iter.Seq2[queue.Record, error]) error {
	chunk, last := []queue.Record{}, int64(0)
	for rec, err := range records {
		if err != nil {
			return err
		}
		last = max(last, rec.Job.Seq, rec.Job.Attempt.Fence, rec.Ended)
		if chunk = append(chunk, rec); len(chunk) == recordsPage {
			if err := q.restoreSome(ctx, chunk); err != nil {
				return err
			}
			chunk = chunk[:0]
		}
	}
	if err := q.restoreSome(ctx, chunk); err != nil {
		return err
	}
	end := []string{decimal(last)}
	for _, user := range slices.Sorted(maps.Keys(marks)) {
		end = append(end, user, decimal(marks[user]))
	}
	_, err := q.db.restoring(ctx, "end", end...)
	return err
}

func (q *Queue) restoreSome(ctx context.Context, chunk []queue.Record) error {
	if len(chunk) == 0 {
		return nil
	}
	args := make([]string, 0, 8*len(chunk))
	for _, rec := range chunk {
		r := row{job: rec.Job, ended: rec.Ended, key: rec.Key, until: rec.KeyUntil}
		if rec.Credentials != nil {
			r.flags = flagSealed
		}
		body, err := appendRecord(nil, &r)
		if err != nil {
			return err
		}
		var request, outcome string
		if !rec.Job.Hidden {
			request = rueidis.BinaryString(q.pack.Request(rec.Request))
		}
		if rec.Outcome != nil {
			outcome = rueidis.BinaryString(q.pack.Outcome(*rec.Outcome))
		}
		args = append(args, "T", decimal(rec.Job.Seq), rueidis.BinaryString(body), request, outcome,
			rueidis.BinaryString(rec.Credentials), decimal(rec.KeyUntil.UnixMilli()), tryLines(rec.Tries))
	}
	return q.write(ctx, &request{args: args, results: len(chunk), adds: true, apply: func([]rueidis.RedisMessage) error { return nil }})
}
