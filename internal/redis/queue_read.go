package redis

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"

	"github.com/redis/rueidis"

	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
)

// scanCount is how many fields of a hash are read at once.
const scanCount = 1000

// Settled implements queue.Store: what was told, or can be read, is as durable as that Redis is.
func (q *Queue) Settled(context.Context) error { return nil }

// EachOpen implements queue.Store.
func (q *Queue) EachOpen(ctx context.Context, fn func(job.Job) error) (int64, error) {
	q.feed.mu.Lock()
	open, ended, err := q.readOpen(ctx)
	q.feed.mu.Unlock()
	if err != nil {
		return 0, err
	}
	for _, j := range open {
		if err := fn(j); err != nil {
			return 0, err
		}
	}
	return ended, nil
}

// readOpen returns everything that is open, in order of acceptance, and the last number that was given, both as they are
// at one place of the log: the feed goes on behind it. Its lock is held.
func (q *Queue) readOpen(ctx context.Context) (list []job.Job, ended int64, err error) {
	for range 5 {
		if list, ended, err = q.tryOpen(ctx); !errors.Is(err, errTooFast) {
			break
		}
	}
	return list, ended, err
}

// errTooFast says that the log did not reach back to the beginning of a read.
var errTooFast = errors.New("the queue changes faster than it can be read")

func (q *Queue) tryOpen(ctx context.Context) (list []job.Job, ended int64, err error) {
	_, before, _, err := q.logEnd(ctx)
	if err != nil {
		return nil, 0, err
	}
	open := map[int64]job.Job{}
	err = q.db.scan(ctx, "open", func(field, value string) error {
		seq, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return errRecord
		}
		r, err := readRecord(seq, value)
		open[seq] = r.job
		return err
	})
	if err != nil {
		return nil, 0, err
	}
	// What changed while we read: the log says it, in order, and saying it twice does no harm.
	for at := before; ; {
		last, end, by, err := q.logEnd(ctx)
		if err != nil {
			return nil, 0, err
		}
		for at < end {
			entries, err := q.logRange(ctx, at+1, end)
			if err != nil {
				return nil, 0, err
			}
			if at, err = q.replay(entries, at, open); err != nil {
				return nil, 0, err
			}
		}
		if at > end { // Redis has lost changes in this moment
			return nil, 0, errTooFast
		}
		if at == end {
			q.feed.at, q.feed.by, q.feed.highest = end, by, max(last, q.feed.highest)
			list = make([]job.Job, 0, len(open))
			for _, seq := range slices.Sorted(maps.Keys(open)) {
				list = append(list, open[seq])
			}
			return list, last, nil
		}
	}
}

// replay brings what was read up to the entries, and returns the place of the last one.
func (q *Queue) replay(entries []rueidis.XRangeEntry, at int64, open map[int64]job.Job) (int64, error) {
	if len(entries) == 0 {
		return 0, errTooFast
	}
	for _, e := range entries {
		place, _, err := readOrigin(e)
		if err != nil {
			return 0, err
		}
		if place != at+1 {
			return 0, errTooFast
		}
		changes, err := q.readChanges(e.FieldValues["c"])
		if err != nil {
			return 0, err
		}
		for _, c := range changes {
			if c.Job.State.Final() {
				delete(open, c.Job.Seq)
			} else if c.Job.ID != "" {
				open[c.Job.Seq] = c.Job
			}
		}
		at = place
	}
	return at, nil
}

// logEnd returns the last number that was given and where the log ends, of the same moment.
func (q *Queue) logEnd(ctx context.Context) (tick, place int64, by origin, err error) {
	reply, err := q.db.ask(ctx, scriptEnd, q.db.keys("meta", "tick", "log"), nil)
	if err != nil {
		return 0, 0, by, err
	}
	if tick, err = strconv.ParseInt(reply[1], 10, 64); err != nil {
		return 0, 0, by, fmt.Errorf("read the queue's counter: %w", err)
	}
	if len(reply) == 2 {
		return tick, 0, by, nil
	}
	place, by, err = readOrigin(rueidis.XRangeEntry{ID: reply[2], FieldValues: map[string]string{"s": reply[3], "b": reply[4]}})
	return tick, place, by, err
}

// scan calls fn for every field of a hash that is there from beginning to end; some may come twice.
func (db *DB) scan(ctx context.Context, name string, fn func(field, value string) error) error {
	for cursor := uint64(0); ; {
		results, err := db.read(ctx, db.client.B().Hscan().Key(db.key(name)).Cursor(cursor).Count(scanCount).Build())
		if err != nil {
			return err
		}
		page, err := results[0].AsScanEntry()
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		for i := 0; i+1 < len(page.Elements); i += 2 {
			if err := fn(page.Elements[i], page.Elements[i+1]); err != nil {
				return err
			}
		}
		if cursor = page.Cursor; cursor == 0 {
			return nil
		}
	}
}

// Numbers implements queue.Store.
func (q *Queue) Numbers(ctx context.Context) (map[string]int64, error) {
	results, err := q.db.read(ctx, q.db.client.B().Hgetall().Key(q.db.key("numbers")).Build())
	if err != nil {
		return nil, err
	}
	return results[0].AsIntMap()
}

// Find implements queue.Store.
func (q *Queue) Find(ctx context.Context, user, promptID string) (job.Job, error) {
	r, _, _, err := q.find(ctx, "prompts", promptField(user, promptID), false)
	return r.job, err
}

// Get implements queue.Store.
func (q *Queue) Get(ctx context.Context, id job.ID) (job.Job, error) {
	r, _, _, err := q.find(ctx, "ids", string(id), false)
	return r.job, err
}

// find looks a job up, with its payloads if they are wanted.
func (q *Queue) find(ctx context.Context, index, field string, whole bool) (r row, request, outcome string, err error) {
	if len(field) > 3*maxName { // nothing has such a name
		return r, "", "", queue.ErrMissing
	}
	reply, err := q.db.ask(ctx, scriptFind, q.db.keys("meta", index, "open", "done", "request", "outcome"), []string{field, bit(whole)})
	if err != nil {
		return r, "", "", err
	}
	if len(reply) < 3 {
		return r, "", "", queue.ErrMissing
	}
	seq, err := strconv.ParseInt(reply[1], 10, 64)
	if err != nil {
		return r, "", "", errRecord
	}
	if whole {
		request, outcome = reply[3], reply[4]
	}
	r, err = readRecord(seq, reply[2])
	return r, request, outcome, err
}

// ask runs a script that reads. Its answer begins with the generation.
func (db *DB) ask(ctx context.Context, s *rueidis.Lua, keys, args []string) ([]string, error) {
	list, err := db.exec(ctx, s, keys, args).ToArray()
	if err != nil {
		return nil, db.fail(ctx, err)
	}
	reply := make([]string, len(list))
	for i := range list {
		if reply[i], err = list[i].ToString(); err != nil && i > 0 {
			return nil, fmt.Errorf("read an answer: %w", err)
		}
		if i == 0 {
			if err := db.trouble(ctx, err, reply[0]); err != nil {
				return nil, err
			}
		}
	}
	return reply, nil
}

// Task implements queue.Store.
func (q *Queue) Task(ctx context.Context, seq int64) (job.Request, []byte, error) {
	b, field := q.db.client.B(), decimal(seq)
	results, err := q.db.read(ctx,
		b.Hget().Key(q.db.key("request")).Field(field).Build(),
		b.Hget().Key(q.db.key("sealed")).Field(field).Build())
	if err != nil {
		return job.Request{}, nil, err
	}
	body, err := results[0].AsBytes()
	if err != nil {
		return job.Request{}, nil, queue.ErrMissing
	}
	var sealed []byte
	if results[1].Error() == nil {
		if sealed, err = results[1].AsBytes(); err != nil {
			return job.Request{}, nil, fmt.Errorf("read credentials: %w", err)
		}
	}
	req, err := q.pack.ReadRequest(body)
	return req, sealed, err
}

// Requests implements queue.Store.
func (q *Queue) Requests(ctx context.Context, user string, seqs []int64) (map[int64]job.Request, error) {
	out := make(map[int64]job.Request, len(seqs))
	for page := range slices.Chunk(seqs, scanCount) {
		fields := decimals(page)
		b := q.db.client.B()
		// A job goes from open to done: read in this order it is in one of them.
		results, err := q.db.read(ctx,
			b.Hmget().Key(q.db.key("open")).Field(fields...).Build(),
			b.Hmget().Key(q.db.key("done")).Field(fields...).Build(),
			b.Hmget().Key(q.db.key("request")).Field(fields...).Build())
		if err != nil {
			return nil, err
		}
		var lists [3][]rueidis.RedisMessage
		for i := range lists {
			if lists[i], err = results[i].ToArray(); err != nil {
				return nil, fmt.Errorf("read what jobs ask for: %w", err)
			}
		}
		for i, seq := range page {
			rec, err := lists[0][i].ToString()
			if err != nil {
				rec, err = lists[1][i].ToString()
			}
			body, berr := lists[2][i].AsBytes()
			if err != nil || berr != nil {
				continue // there is no such job, or it is out of history
			}
			r, err := readRecord(seq, rec)
			if err != nil {
				return nil, err
			}
			if r.job.User != user || r.job.Hidden {
				continue
			}
			if out[seq], err = q.pack.ReadRequest(body); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

func decimals(seqs []int64) []string {
	all := make([]string, len(seqs))
	for i, seq := range seqs {
		all[i] = decimal(seq)
	}
	return all
}

// Entry implements queue.Store.
func (q *Queue) Entry(ctx context.Context, user, promptID string) (job.Entry, error) {
	r, request, outcome, err := q.find(ctx, "prompts", promptField(user, promptID), true)
	if err != nil {
		return job.Entry{}, err
	}
	return q.unpack(r, request, outcome)
}

// unpack reads the payloads of an entry; a final job always gets an outcome.
func (q *Queue) unpack(r row, request, outcome string) (e job.Entry, err error) {
	e.Job = r.job
	if request != "" {
		if e.Request, err = q.pack.ReadRequest([]byte(request)); err != nil {
			return e, err
		}
	}
	if !e.Job.State.Final() {
		return e, nil
	}
	out := job.Outcome{}
	if outcome != "" {
		if out, err = q.pack.ReadOutcome([]byte(outcome)); err != nil {
			return e, err
		}
	}
	out.State, out.Error, out.Summary = e.Job.State, e.Job.Error, e.Job.Summary
	e.Outcome = &out
	return e, nil
}

// historyPage is how many entries are read at once, and historyBytes from how many bytes on no further one is: a graph
// may have many megabytes.
const (
	historyPage  = 64
	historyBytes = 8 << 20
)

// EachHistory implements queue.Store. It reads page by page and holds nothing.
func (q *Queue) EachHistory(ctx context.Context, user string, hq job.HistoryQuery, fn func(job.Entry) error) error {
	if hq.MaxItems == 0 {
		return nil
	}
	left := hq.MaxItems
	if left < 0 {
		left = math.MaxInt
	}
	from, last, err := q.historyBounds(ctx, user, hq)
	if err != nil || last == "" {
		return err
	}
	keys := q.db.keys("meta", "history", "done", "request", "outcome")
	for left > 0 {
		reply, err := q.db.ask(ctx, scriptHistory, keys, []string{from, "[" + last, strconv.Itoa(min(historyPage, left)), strconv.Itoa(historyBytes)})
		if err != nil {
			return err
		}
		page := reply[1:]
		for ; len(page) >= 4; page = page[4:] {
			at, err := readEntry(page[0])
			if err != nil {
				return err
			}
			r, err := readRecord(at.seq, page[1])
			if err != nil {
				return err
			}
			e, err := q.unpack(r, page[2], page[3])
			if err != nil {
				return err
			}
			if err := fn(e); err != nil {
				return err
			}
			from = "(" + page[0]
			left--
		}
		if len(reply) == 1 {
			return nil
		}
	}
	return nil
}

// historyBounds returns where reading begins, and the last entry: what ends while we read is not part of the answer.
// last is empty when there is nothing to read.
func (q *Queue) historyBounds(ctx context.Context, user string, hq job.HistoryQuery) (from, last string, err error) {
	who, b, key := person(user), q.db.client.B(), q.db.key("history")
	first, behind := "["+who, "("+who+"\xff"
	cmds := rueidis.Commands{b.Zrevrangebylex().Key(key).Max(behind).Min(first).Limit(0, 1).Build()}
	switch {
	case hq.Offset > 0:
		cmds = append(cmds, b.Zrangebylex().Key(key).Min(first).Max(behind).Limit(int64(hq.Offset), 1).Build())
	case hq.Offset < 0 && hq.MaxItems > 0:
		cmds = append(cmds, b.Zrevrangebylex().Key(key).Max(behind).Min(first).Limit(int64(hq.MaxItems-1), 1).Build())
	}
	results, err := q.db.read(ctx, cmds...)
	if err != nil {
		return "", "", err
	}
	found := make([]string, len(results))
	for i, r := range results {
		list, err := r.AsStrSlice()
		if err != nil {
			return "", "", fmt.Errorf("read the bounds of a history: %w", err)
		}
		if len(list) > 0 {
			found[i] = list[0]
		}
	}
	switch {
	case len(found) == 1 || hq.Offset < 0 && found[1] == "": // all, or fewer than are wanted
		return first, found[0], nil
	case found[1] == "": // it begins behind the end
		return "", "", nil
	}
	return "[" + found[1], found[0], nil
}
