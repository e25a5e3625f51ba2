package redis

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

// versions are numbers that grow with every change of a person's files, whichever server makes it: caches hold what they
// know against them. This server's changes count before they are answered; the others' tell a channel in the same step
// in which they happen. While nobody can listen, every look gives a new number, so that no cache is believed.
type versions struct {
	db      *DB
	session string // what this server tells begins with it

	once   sync.Once
	stop   context.CancelFunc
	work   sync.WaitGroup
	deaf   atomic.Bool   // nobody listens
	every  atomic.Uint64 // counts for everybody
	people sync.Map      // user → *atomic.Uint64
}

// channelFiles is where changes of files are told, by the person's name.
const channelFiles = "files:changed"

// begin listens, from the first use until end.
func (v *versions) begin() {
	v.once.Do(func() {
		ctx, stop := context.WithCancel(context.Background())
		v.stop = stop
		v.deaf.Store(true)
		v.work.Go(func() { v.run(ctx) })
	})
}

func (v *versions) end() {
	v.once.Do(func() {}) // it never begins then
	if v.stop != nil {
		v.stop()
	}
	v.work.Wait()
}

func (v *versions) run(ctx context.Context) {
	for ctx.Err() == nil {
		err := v.listen(ctx)
		if ctx.Err() != nil {
			return
		}
		v.db.log.Warn("changes of files on other servers can't be heard; trying again", "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (v *versions) listen(ctx context.Context) error {
	client, release := v.db.client.Dedicate()
	defer release()
	defer v.deaf.Store(true)
	ended := client.SetPubSubHooks(rueidis.PubSubHooks{OnMessage: func(m rueidis.PubSubMessage) {
		if who, user, ok := strings.Cut(m.Message, " "); ok && who != v.session {
			v.grow(user)
		}
	}})
	if err := client.Do(ctx, client.B().Ssubscribe().Channel(v.db.key(channelFiles)).Build()).Error(); err != nil {
		return err
	}
	v.every.Add(1) // whatever was told before was not heard
	v.deaf.Store(false)
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (v *versions) of(user string) *atomic.Uint64 {
	if n, ok := v.people.Load(user); ok {
		return n.(*atomic.Uint64)
	}
	n, _ := v.people.LoadOrStore(user, new(atomic.Uint64))
	return n.(*atomic.Uint64)
}

// tell has a change tell the other servers of it.
func (v *versions) tell(c *change, user string) { c.tell(channelFiles, v.session+" "+user) }

func (v *versions) grow(user string) { v.of(user).Add(1) }

// version returns the person's number. Both of its parts only grow.
func (v *versions) version(user string) uint64 {
	if v.deaf.Load() {
		v.every.Add(1)
	}
	return v.every.Load() + v.of(user).Load()
}
