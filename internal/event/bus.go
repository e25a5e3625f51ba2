package event

import (
	"slices"
	"sync"
)

// Bus hands events to subscribers. The zero value is not usable; see New. It is safe for concurrent use.
//
// Order: events published one after another (by happens-before) reach every subscriber in that order, whatever
// lane they travel in. Events published at the same time by different goroutines may reach two subscribers in
// different orders.
type Bus struct {
	mu     sync.RWMutex
	byUser map[string][]*Subscription // slices are replaced, never changed, so that Publish can read them unlocked
	all    []*Subscription
}

// New returns a bus without subscribers.
func New() *Bus { return &Bus{byUser: make(map[string][]*Subscription)} }

// Options says what a subscriber wants. The zero value is good for a person's sessions.
type Options struct {
	// State is how many state events may wait before the subscriber counts as lagging. 0: 4096.
	State int
	// OnlyState leaves out previews and progress. Queued and FleetChanged still come.
	OnlyState bool
	// Wake, when set, is called after events arrived for a subscription that had none waiting, so that a subscriber
	// needs no goroutine of its own while nothing happens. It runs on the publisher's goroutine, must not block
	// and must not publish.
	Wake func()
}

// defaultState is deep enough for the busiest second of one person and small enough to bound a dead reader.
const defaultState = 4096

// Subscribe returns a subscription to the events of user and to those of everybody; an empty user subscribes to
// all events of all people. Every event whose Publish began after Subscribe returned is seen. Close it.
func (b *Bus) Subscribe(user string, o Options) *Subscription {
	if o.State <= 0 {
		o.State = defaultState
	}
	s := &Subscription{bus: b, user: user, options: o, ready: make(chan struct{}, 1), done: make(chan struct{})}
	b.mu.Lock()
	defer b.mu.Unlock()
	if user == "" {
		b.all = append(slices.Clip(b.all), s)
	} else {
		b.byUser[user] = append(slices.Clip(b.byUser[user]), s)
	}
	return s
}

// Publish hands e to everybody it concerns: the subscribers of e.User and those of all events; an event without a
// user goes to every subscriber.
func (b *Bus) Publish(e Event) {
	key, lane := classify(e)
	b.mu.RLock()
	all, own := b.all, b.byUser[e.User]
	var rest []*Subscription
	if e.User == "" {
		for _, subs := range b.byUser {
			rest = append(rest, subs...)
		}
	}
	b.mu.RUnlock()
	for _, s := range all {
		s.push(e, key, lane)
	}
	for _, s := range own {
		s.push(e, key, lane)
	}
	for _, s := range rest {
		s.push(e, key, lane)
	}
}

// Watched reports whether somebody subscribed to the events of user alone, that is whether a session of theirs is
// open. Subscribers of all events do not count.
func (b *Bus) Watched(user string) bool {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return len(b.byUser[user]) > 0
}

// remove forgets s.
func (b *Bus) remove(s *Subscription) {
	b.mu.Lock()
	defer b.mu.Unlock()
	without := func(subs []*Subscription) []*Subscription {
		return slices.DeleteFunc(slices.Clone(subs), func(x *Subscription) bool { return x == s })
	}
	if s.user == "" {
		b.all = without(b.all)
		return
	}
	if rest := without(b.byUser[s.user]); len(rest) > 0 {
		b.byUser[s.user] = rest
	} else {
		delete(b.byUser, s.user)
	}
}
