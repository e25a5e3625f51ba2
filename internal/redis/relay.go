package redis

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/ahelme/comfyume/internal/event"
	"github.com/ahelme/comfyume/internal/job"
)

// Relay carries events between the servers of a studio: what is published on one reaches the subscribers of all. Changes
// of jobs do not travel this way: every server hears them from the queue.
//
// It keeps the promises of the bus's lanes: of previews the latest wins when Redis is slow, and where state events were
// missed, because a server was cut off or too slow, its subscribers get Lagged and look anew. It is safe for concurrent use.
type Relay struct {
	db      *DB
	bus     *event.Bus
	session string
	out     *event.Bus // what waits to be sent, in the same two lanes
	waits   *event.Subscription
	told    atomic.Int64 // batches of Tell
}

// NewRelay returns a relay for the events of a bus. Nothing travels before Run.
func NewRelay(db *DB, bus *event.Bus) *Relay {
	r := &Relay{db: db, bus: bus, session: rand.Text(), out: event.New()}
	r.waits = r.out.Subscribe("", event.Options{State: relayQueue})
	return r
}

// relayQueue is how many state events wait for Redis before those on other servers have to look anew.
const relayQueue = 4096

// Publish publishes an event here and on the other servers. It never waits.
func (r *Relay) Publish(e event.Event) {
	r.bus.Publish(e)
	if _, ok := e.Body.(event.JobChanged); !ok {
		r.out.Publish(e)
	}
}

// Run carries events until the context ends.
func (r *Relay) Run(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.send(ctx)
	}()
	defer func() { <-done }()
	for wait := 50 * time.Millisecond; ctx.Err() == nil; wait = min(2*wait, time.Second) {
		began := time.Now()
		err := r.receive(ctx)
		if ctx.Err() != nil {
			break
		}
		if time.Since(began) > time.Second {
			wait = 50 * time.Millisecond
		}
		r.db.log.Warn("the events of other servers don't come; trying again", "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
	return nil
}

// send sends what waits, batch by batch: each has a number, so that others notice when they missed one.
func (r *Relay) send(ctx context.Context) {
	var batch []event.Event
	for number := int64(1); ; number++ {
		var err error
		if batch, err = r.waits.Batch(ctx, batch[:0]); err != nil {
			return
		}
		if err := r.post(ctx, number, batch...); err != nil && ctx.Err() == nil {
			r.db.log.Warn("events did not reach the other servers", "events", len(batch), "err", err)
		}
	}
}

// post sends events as one batch.
func (r *Relay) post(ctx context.Context, number int64, batch ...event.Event) error {
	message := appendText(nil, r.session)
	message = binary.BigEndian.AppendUint64(message, uint64(number))
	for _, e := range batch {
		var err error
		if message, err = appendEvent(message, e); err != nil {
			r.db.log.Error("an event can't travel", "err", err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, r.db.patience)
	defer cancel()
	return r.db.client.Do(ctx, r.db.client.B().Spublish().Channel(r.channel()).Message(rueidis.BinaryString(message)).Build()).Error()
}

// Tell sends an event to the servers and waits until Redis has it. It is for programs that don't Run.
func (r *Relay) Tell(ctx context.Context, e event.Event) error {
	return classify(r.post(ctx, r.told.Add(1), e))
}

func (r *Relay) channel() string { return r.db.key("bus") }

// receive hands out what other servers send, until the connection ends.
func (r *Relay) receive(ctx context.Context) error {
	client, release := r.db.client.Dedicate()
	defer release()
	heard := map[string]int64{} // number of the last batch of each server
	ended := client.SetPubSubHooks(rueidis.PubSubHooks{OnMessage: func(m rueidis.PubSubMessage) { r.take(heard, m.Message) }})
	if err := client.Do(ctx, client.B().Ssubscribe().Channel(r.channel()).Build()).Error(); err != nil {
		return err
	}
	r.bus.Publish(event.Event{Body: event.Lagged{}}) // whatever was sent before nobody here has heard
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// take hands out a batch.
func (r *Relay) take(heard map[string]int64, message string) {
	d := reader{rest: message}
	session, number := d.text(), int64(d.uint64())
	if session == r.session {
		return
	}
	last, known := heard[session]
	heard[session] = number
	if known && number != last+1 || !known && number != 1 {
		r.bus.Publish(event.Event{Body: event.Lagged{Dropped: int(max(number-last-1, 1))}})
	}
	for d.rest != "" && !d.failed {
		if e, ok := readEvent(&d); ok {
			r.bus.Publish(e)
		}
	}
	if d.failed { // a newer program's words
		r.bus.Publish(event.Event{Body: event.Lagged{Dropped: 1}})
	}
}

// The letters of events.
const (
	eventFrame  = 'f'
	eventBinary = 'b'
	eventLines  = 'l'
	eventNotice = 'n'
	eventFleet  = 'c'
	eventQueued = 'q'
	eventOut    = 'o'
	eventLagged = 'g'
)

// appendEvent writes an event: a letter, whose it is, and its body.
func appendEvent(b []byte, e event.Event) ([]byte, error) {
	begin := func(letter byte, texts ...string) {
		b = append(b, letter)
		b = appendText(b, e.User)
		for _, text := range texts {
			b = appendText(b, text)
		}
	}
	switch body := e.Body.(type) {
	case event.RunFrame:
		begin(eventFrame, string(body.Job), body.PromptID, body.ClientID, body.Type, body.Node, string(body.Data))
		b = binary.BigEndian.AppendUint64(b, uint64(body.Attempt))
	case event.RunBinary:
		begin(eventBinary, string(body.Job), body.PromptID, body.ClientID, body.Node, bit(body.Result))
		b = binary.BigEndian.AppendUint64(b, uint64(body.Attempt))
		b = append(binary.AppendUvarint(b, uint64(len(body.Frame))), body.Frame...)
	case event.LogLines:
		begin(eventLines, string(body.Job))
		b = binary.BigEndian.AppendUint64(b, uint64(len(body.Lines)))
		for _, line := range body.Lines {
			b = appendText(b, line)
		}
	case event.Notice:
		begin(eventNotice, body.Severity, body.Text)
	case event.FleetChanged:
		begin(eventFleet)
	case event.Queued:
		places, err := json.Marshal(body.Places)
		if err != nil {
			return b, fmt.Errorf("encode places: %w", err)
		}
		begin(eventQueued, string(places))
	case event.SignedOut:
		begin(eventOut, body.ID)
	case event.Lagged:
		begin(eventLagged)
		b = binary.BigEndian.AppendUint64(b, uint64(body.Dropped))
	default:
		return b, fmt.Errorf("an event %T", e.Body)
	}
	return b, nil
}

// readEvent reads what appendEvent wrote; not ok: it can't be read.
func readEvent(d *reader) (e event.Event, ok bool) {
	letter := d.take(1)
	e.User = d.text()
	if d.failed {
		return e, false
	}
	switch letter[0] {
	case eventFrame:
		e.Body = event.RunFrame{
			Job: job.ID(d.text()), PromptID: d.text(), ClientID: d.text(), Type: d.text(), Node: d.text(),
			Data: json.RawMessage(d.text()), Attempt: int(d.uint64()),
		}
	case eventBinary:
		e.Body = event.RunBinary{
			Job: job.ID(d.text()), PromptID: d.text(), ClientID: d.text(), Node: d.text(), Result: d.text() == "1",
			Attempt: int(d.uint64()), Frame: []byte(d.text()),
		}
	case eventLines:
		body := event.LogLines{Job: job.ID(d.text())}
		for n := d.uint64(); n > 0 && !d.failed; n-- {
			body.Lines = append(body.Lines, d.text())
		}
		e.Body = body
	case eventNotice:
		e.Body = event.Notice{Severity: d.text(), Text: d.text()}
	case eventFleet:
		e.Body = event.FleetChanged{}
	case eventQueued:
		var body event.Queued
		if err := json.Unmarshal([]byte(d.text()), &body.Places); err != nil {
			d.failed = true
		}
		e.Body = body
	case eventOut:
		e.Body = event.SignedOut{ID: d.text()}
	case eventLagged:
		e.Body = event.Lagged{Dropped: int(d.uint64())}
	default:
		d.failed = true
	}
	return e, !d.failed
}
