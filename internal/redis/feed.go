package redis

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
)

var _ queue.Shared = (*Queue)(nil)

// origin names the batch that made an entry of the log.
type origin struct {
	session string
	batch   int64
}

// feed brings the changes of all servers into one order, that of the log: this server's own come with their answers, the
// others' out of the log. Where nobody follows it only hands out the own ones.
type feed struct {
	q *Queue

	mu      sync.Mutex // held while changes are handed out
	follow  func(queue.Change)
	at      int64  // place of the last entry that was handed out
	by      origin // of that entry
	highest int64  // number that was given, as far as this server knows
	orphan  origin // a batch of ours whose callers have gone: it is handed out like another server's
	lost    bool   // entries were missed: everything has to be read anew

	moved chan struct{} // at has grown, or entries were missed
}

// logPage is how many entries of the log are read at once.
const logPage = 200

// hand hands out an own batch that became true at a place of the log, after what others did before it. Zero: it
// changed nothing.
func (f *feed) hand(place int64, by origin, apply func() error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.follow == nil || place == 0 {
		return apply()
	}
	if place > f.at+1 {
		if err := f.catchUp(context.Background(), place-1); err != nil {
			f.miss("they can't be read", err)
		}
	}
	if place <= f.at { // Redis has lost changes, or all was read anew while the batch was on its way
		f.miss("the log has gone back", nil)
	}
	f.at, f.by = place, by
	defer f.poke()
	return apply()
}

// seen returns the highest number that was given as far as this server knows, and given raises it.
func (f *feed) seen() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.highest
}

func (f *feed) given(n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.highest = max(f.highest, n)
}

// miss notes that entries were missed; the lock is held.
func (f *feed) miss(why string, err error) {
	f.lost = true
	f.q.db.log.Warn("changes of the queue were missed; everything is read anew", "why", why, "err", err)
	f.poke()
}

func (f *feed) poke() {
	select {
	case f.moved <- struct{}{}:
	default:
	}
}

// adopt hands out a batch of ours whose callers have gone.
func (f *feed) adopt(place int64, by origin) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.follow == nil {
		return
	}
	f.orphan = by
	defer f.poke()
	if err := f.catchUp(context.Background(), place); err != nil {
		f.miss("they can't be read", err)
	}
}

// catchUp hands out what the log has up to a place; the lock is held.
func (f *feed) catchUp(ctx context.Context, to int64) error {
	for f.at < to {
		entries, err := f.q.logRange(ctx, f.at+1, to)
		if err != nil {
			return err
		}
		before := f.at
		if err := f.take(entries, true); err != nil {
			return err
		}
		if f.at == before {
			return fmt.Errorf("the log has no entry %d", f.at+1)
		}
	}
	return nil
}

func (q *Queue) logRange(ctx context.Context, from, to int64) ([]rueidis.XRangeEntry, error) {
	results, err := q.db.read(ctx, q.db.client.B().Xrange().Key(q.db.key("log")).Start(logID(from)).End(logID(to)).Count(logPage).Build())
	if err != nil {
		return nil, err
	}
	return results[0].AsXRange()
}

func logID(place int64) string { return "0-" + decimal(place) }

// take hands out entries in order; the lock is held. Own ones whose answer is still to come end it, unless a later answer
// has been seen already.
func (f *feed) take(entries []rueidis.XRangeEntry, passed bool) error {
	for _, e := range entries {
		place, by, err := readOrigin(e)
		if err != nil {
			return err
		}
		switch {
		case place <= f.at:
			continue
		case place > f.at+1:
			return fmt.Errorf("the log goes on at %d behind %d", place, f.at)
		case by.session == f.q.session && by != f.orphan && !passed:
			return nil
		}
		changes, err := f.q.readChanges(e.FieldValues["c"])
		if err != nil {
			return err
		}
		for i := range changes {
			f.highest = max(f.highest, changes[i].Job.Seq, changes[i].Job.Attempt.Fence, changes[i].Ended)
			f.follow(changes[i])
		}
		f.at, f.by = place, by
	}
	return nil
}

func readOrigin(e rueidis.XRangeEntry) (place int64, by origin, err error) {
	if place, err = strconv.ParseInt(strings.TrimPrefix(e.ID, "0-"), 10, 64); err != nil {
		return 0, by, fmt.Errorf("the log has an entry %q", e.ID)
	}
	by.session = e.FieldValues["s"]
	by.batch, err = strconv.ParseInt(e.FieldValues["b"], 10, 64)
	return place, by, err
}

// whats are the letters of change.lua; a removed job is told by its record.
var whats = map[byte]job.Change{
	'I': job.Submitted, 'C': job.Claimed, 'N': "", 'P': job.Posted, 'R': job.Released, 'S': job.StopRequested, 'M': job.Moved,
	'F': job.Finished, 'H': job.HistoryChanged, 'V': "",
}

// readChanges reads an entry of the log.
func (q *Queue) readChanges(s string) (all []queue.Change, err error) {
	d := reader{rest: s}
	for d.rest != "" && !d.failed {
		letter := d.take(1)
		seq := int64(d.uint64())
		rec := d.take(int(d.uint32()))
		more := d.take(int(d.uint32()))
		what, known := whats[letter[0]]
		if d.failed || !known {
			return nil, errRecord
		}
		c := queue.Change{What: what}
		switch letter {
		case "H":
			c.Job.User = rec
		case "V":
			c.Setting = rec
			if more != "" {
				c.Value = []byte(more[1:])
			}
		default:
			r, err := readRecord(seq, rec)
			if err != nil {
				return nil, err
			}
			c.Job = r.job
			if letter == "F" {
				if c.Ended = r.ended; r.job.Hidden {
					c.What = job.Removed
				}
				e, err := q.unpack(r, "", more)
				if err != nil {
					return nil, err
				}
				c.Outcome = e.Outcome
			}
		}
		all = append(all, c)
	}
	return all, nil
}

// Follow implements queue.Shared.
func (q *Queue) Follow(fn func(queue.Change)) {
	q.feed.mu.Lock()
	q.feed.follow = fn
	q.feed.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	q.work.Go(func() {
		<-q.closing
		cancel()
	})
	q.work.Go(func() { q.feed.run(ctx) })
	q.work.Go(q.post)
}

// Post implements queue.Shared.
func (q *Queue) Post(r queue.Renewal) {
	select {
	case q.requests <- &request{
		args: []string{"P", decimal(r.Seq), number8(r.Fence), time8(r.Started)}, results: 1, ready: make(chan struct{}),
		apply: func([]rueidis.RedisMessage) error { return nil },
	}:
	default: // Redis is slow: the next renewal tells it
		return
	}
	select {
	case q.poke <- struct{}{}:
	default:
	}
}

// post sees that what nobody waits for is sent, until the store closes.
func (q *Queue) post() {
	for {
		select {
		case <-q.closing:
			return
		case <-q.poke:
		}
		select {
		case <-q.closing:
			return
		case q.turn <- struct{}{}:
			q.writer.lead(nil)
		}
	}
}

// run hands out what others do, until the context ends.
func (f *feed) run(ctx context.Context) {
	for wait := time.Duration(0); ctx.Err() == nil; {
		err := f.listen(ctx)
		if err == nil {
			wait = 0
			continue
		}
		if ctx.Err() != nil {
			return
		}
		wait = min(max(2*wait, 50*time.Millisecond), time.Second)
		f.q.db.log.Warn("the changes of other servers can't be read; trying again", "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		f.verify(ctx)
	}
}

// listen waits a while for entries behind the last one and hands them out.
func (f *feed) listen(ctx context.Context) error {
	f.mu.Lock()
	at, lost := f.at, f.lost
	f.mu.Unlock()
	if lost {
		return f.anew(ctx)
	}
	b := f.q.db.client.B()
	streams, err := f.q.db.client.Do(ctx, b.Xread().Count(logPage).Block(listenFor.Milliseconds()).Streams().
		Key(f.q.db.key("log")).Id(logID(at)).Build()).AsXRead()
	if rueidis.IsRedisNil(err) {
		f.verify(ctx)
		return nil
	}
	if err != nil {
		return err
	}
	entries := streams[f.q.db.key("log")]
	f.mu.Lock()
	err = f.take(entries, false)
	if err != nil {
		f.miss("entries are gone", err)
	}
	waits := err == nil && f.at == at
	f.mu.Unlock()
	switch {
	case waits: // an own batch is next: its answer is on the way
		select {
		case <-f.moved:
		case <-ctx.Done():
		}
	case f.own(entries): // while own batches come one after another, they bring what others do
		select {
		case <-time.After(listenAgain):
		case <-ctx.Done():
		}
	}
	return nil
}

// own reports whether all the entries are this server's.
func (f *feed) own(entries []rueidis.XRangeEntry) bool {
	return !slices.ContainsFunc(entries, func(e rueidis.XRangeEntry) bool { return e.FieldValues["s"] != f.q.session })
}

// listenFor is how long the log is listened to at once, and listenAgain how long not after own entries only.
const (
	listenFor   = time.Second
	listenAgain = 2 * time.Millisecond
)

// verify looks whether the log still has the last entry that was handed out: a Redis that has lost changes has not, or
// another one in its place.
func (f *feed) verify(ctx context.Context) {
	f.mu.Lock()
	at, by := f.at, f.by
	f.mu.Unlock()
	if at == 0 || by == (origin{}) {
		return
	}
	entries, err := f.q.logRange(ctx, at, at)
	if err != nil {
		return // the next look says it
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.at != at || f.by != by {
		return
	}
	if len(entries) == 1 {
		if _, is, err := readOrigin(entries[0]); err == nil && is == by {
			return
		}
	}
	f.miss("the log has another past", nil)
}

// anew reads everything that is open and hands it out.
func (f *feed) anew(ctx context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	open, ended, err := f.q.readOpen(ctx)
	if err != nil {
		return err
	}
	f.lost = false
	f.follow(queue.Change{Anew: true, Open: open, Ended: ended})
	settings, err := f.q.Settings(ctx)
	if err != nil {
		return err
	}
	for name, value := range settings {
		f.follow(queue.Change{Setting: name, Value: value})
	}
	return nil
}
