package redis

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/ahelme/comfyume/internal/fault"
)

// most is how many requests go into one batch.
const most = 128

// request is one change somebody waits for: commands of change.lua that go in one batch.
type request struct {
	args    []string // commands and their arguments
	results int      // how many results they give
	numbers int      // how many numbers they may take
	adds    bool     // they take room that nobody gives back: a full Redis refuses them

	// apply learns the results, one request at a time in the order in which they became true.
	apply func([]rueidis.RedisMessage) error

	state atomic.Int32
	err   error
	ready chan struct{}
}

// States of a request: its caller may take it back until the writer takes it up.
const (
	waiting = iota
	taken
	given
)

// write has the request's commands run and returns after its apply. Nil: they happened, as durably as the Redis keeps
// what it acknowledges. A context that ends before the request is taken up gives its error; one that ends later undoes
// nothing. Where Redis does not answer, it returns after the database's patience: nothing has happened then, or, if that
// can't be told, it is made known like a change of another server.
func (q *Queue) write(ctx context.Context, r *request) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r.ready = make(chan struct{})
	bound := time.NewTimer(q.db.patience)
	defer bound.Stop()
	select {
	case <-q.closing:
		return errClosed()
	default:
	}
	select {
	case q.requests <- r:
	case <-ctx.Done():
		return ctx.Err()
	case <-q.closing:
		return errClosed()
	case <-bound.C:
		return classify(errNoAnswer)
	}
	gone := func(err error) error {
		if r.state.CompareAndSwap(waiting, given) {
			return err
		}
		<-r.ready // it is on its way, and that has a bound of its own
		return r.err
	}
	select {
	case q.turn <- struct{}{}:
		q.writer.lead(r)
		return r.err
	case <-r.ready:
		return r.err
	case <-ctx.Done():
		return gone(ctx.Err())
	case <-bound.C:
		return gone(classify(errNoAnswer))
	case <-q.closing:
		return gone(errClosed())
	}
}

var errNoAnswer = errors.New("no answer in time")

// writer sends batches, one at a time, and hands out their results. It belongs to whoever has the queue's turn: a caller
// who finds nobody at work does it, for all who wait, until what they asked for is done. So a lone caller waits for no
// other goroutine, and many share a batch.
type writer struct {
	q      *Queue
	number int64 // of the last batch
	keys   []string
	batch  []*request
}

// lead sends batches until the request is done, or without one until nobody waits, and gives the turn back.
func (w *writer) lead(r *request) {
	for w.needed(r) {
		w.fill()
		unknown := w.commit(w.batch)
		clear(w.batch)
		if unknown { // the turn comes back when it is known what happened
			w.q.work.Go(func() {
				w.settle()
				<-w.q.turn
			})
			if r != nil {
				<-r.ready
			}
			return
		}
	}
	<-w.q.turn
}

func (w *writer) needed(r *request) bool {
	if r == nil {
		return len(w.q.requests) > 0
	}
	select {
	case <-r.ready:
		return false
	default:
		return true
	}
}

// fill takes up what waits, and leaves out what its caller has taken back.
func (w *writer) fill() {
	batch, yielded := w.batch[:0], false
	for len(batch) < most {
		select {
		case r := <-w.q.requests:
			if r.state.CompareAndSwap(waiting, taken) {
				batch = append(batch, r)
			}
			continue
		default:
		}
		if yielded {
			break
		}
		// Whoever is about to ask and only waits for a processor comes into this batch.
		yielded = true
		runtime.Gosched()
	}
	w.batch = batch
}

func (r *request) end(err error) {
	r.err = err
	close(r.ready)
}

// commit has one batch happen and ends its requests; unknown says that nobody can tell whether it happened. Where Redis is
// full, what adds to it is refused, and everything else happens all the same: jobs end, and old ones go.
func (w *writer) commit(batch []*request) (unknown bool) {
	if len(batch) == 0 {
		return false
	}
	w.number++
	adding := slices.ContainsFunc(batch, func(r *request) bool { return r.adds })
	run := scriptSettle
	if adding {
		run = scriptChange
	}
	answer, err := w.send(run, w.args("do", batch))
	if adding && isFull(err) {
		return w.commit(slices.DeleteFunc(batch, func(r *request) bool {
			if r.adds {
				r.end(err)
			}
			return r.adds
		}))
	}
	if err == nil {
		err = w.q.feed.hand(answer.place, w.origin(), func() error { return w.apply(batch, answer.results) })
	}
	for _, r := range batch {
		if err != nil {
			r.err = err
		}
		close(r.ready)
	}
	return errors.Is(err, errUnknown)
}

// isFull reports whether Redis refused a batch before anything of it happened, because it has no memory left.
func isFull(err error) bool {
	f, ok := errors.AsType[*fault.Error](err)
	return ok && f.Code == codeFull
}

func (w *writer) origin() origin { return origin{w.q.session, w.number} }

// args are the arguments of a batch's script.
func (w *writer) args(what string, batch []*request) []string {
	n, numbers := 7, 0
	for _, r := range batch {
		n += len(r.args)
		numbers += r.numbers
	}
	args := append(make([]string, 0, n), w.q.db.generation, w.q.session, decimal(w.number), what,
		decimal(time.Now().UnixMilli()), strconv.Itoa(numbers), decimal(w.q.feed.seen()))
	for _, r := range batch {
		args = append(args, r.args...)
	}
	return args
}

// answer is what change.lua says.
type answer struct {
	void    bool
	place   int64
	results []rueidis.RedisMessage
}

// errUnknown says that nobody can tell yet whether a batch happened.
var errUnknown = errors.New("the answer was lost")

// send runs the script, again while that can help: a batch that comes twice happens once.
func (w *writer) send(run *rueidis.Lua, args []string) (answer, error) {
	deadline := time.Now().Add(w.q.db.patience)
	unknown := false
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		a, err := w.once(run, deadline, args)
		if err == nil {
			return a, nil
		}
		if _, ours := errors.AsType[*fault.Error](err); ours {
			return a, err
		}
		if _, redis := rueidis.IsRedisErr(err); redis && !isPassing(err) {
			return a, classify(err)
		} else if !redis {
			unknown = true
		}
		if time.Until(deadline) < wait || w.q.closed() {
			err = classify(err)
			if unknown {
				err = errors.Join(err, errUnknown)
			}
			return a, err
		}
		time.Sleep(wait)
	}
}

func (w *writer) once(run *rueidis.Lua, deadline time.Time, args []string) (a answer, err error) {
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	list, err := run.Exec(ctx, w.q.db.changes, w.keys, args).ToArray()
	if err != nil {
		return a, err
	}
	switch word, err := list[0].ToString(); {
	case err != nil:
		return a, err
	case word == "void":
		return answer{void: true}, nil
	case word == "other":
		return a, w.q.db.lost()
	}
	if a.place, err = list[1].AsInt64(); err != nil {
		return a, err
	}
	tick, err := list[2].AsInt64()
	if err != nil {
		return a, err
	}
	w.q.feed.given(tick)
	a.results = list[3:]
	return a, nil
}

// lost says which of the two it is when a script finds another generation.
func (db *DB) lost() error {
	ctx, cancel := context.WithTimeout(context.Background(), db.patience)
	defer cancel()
	generation, err := db.client.Do(ctx, db.client.B().Hget().Key(db.key("meta")).Field("generation").Build()).ToString()
	if err := db.trouble(ctx, err, generation); err != nil {
		return err
	}
	return errOther()
}

// apply hands each request its results.
func (w *writer) apply(batch []*request, results []rueidis.RedisMessage) error {
	for _, r := range batch {
		if len(results) < r.results {
			return fmt.Errorf("a batch has too few results")
		}
		r.err = w.protect(r, results[:r.results])
		results = results[r.results:]
	}
	return nil
}

// protect calls what a request wants to be called. It has happened by now, so that a panic there must neither stop the
// writer nor make the request look failed.
func (w *writer) protect(r *request, results []rueidis.RedisMessage) (err error) {
	defer func() {
		if p := recover(); p != nil {
			w.q.db.log.Error("a call after a change panicked", "panic", p, "stack", string(debug.Stack()))
		}
	}()
	return r.apply(results)
}

// settle finds out what became of the last batch, whose callers have gone, before anything else is sent: if it has not
// happened it never will, and if it has, it is told as if another server had done it.
func (w *writer) settle() {
	w.q.db.log.Warn("the studio's Redis does not answer; its changes wait")
	for wait := 50 * time.Millisecond; !w.q.closed(); wait = min(2*wait, 400*time.Millisecond) {
		a, err := w.once(scriptSettle, time.Now().Add(w.q.db.patience), w.args("void", nil))
		if err == nil {
			if !a.void {
				w.q.feed.adopt(a.place, w.origin())
			}
			w.q.db.log.Info("the studio's Redis answers again", "happened", !a.void)
			return
		}
		if _, ours := errors.AsType[*fault.Error](err); ours {
			return // it is another Redis: every batch will say so
		}
		select {
		case <-w.q.closing:
		case <-time.After(wait):
		}
	}
}
