package account

import (
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
)

// guard slows down guessing. Every account has a budget of tries, one per address and one over all; every class code
// has one for wrong PINs and one for newcomers. A try is paid in advance and paid back when it was right, so that
// many tries at once are no way around. An address pays for failures only: a whole class sits behind one.
type guard struct {
	accountHere throttle // account and address
	account     throttle // account
	code        throttle // wrong PINs with one class code
	newcomers   throttle // new people by one class code
	address     throttle // failures from one address
}

func (g *guard) init() {
	g.accountHere = throttle{burst: 6, every: 20 * time.Second}
	g.account = throttle{burst: 30, every: time.Minute}
	g.code = throttle{burst: 60, every: 2 * time.Second}
	g.newcomers = throttle{burst: 200, every: 500 * time.Millisecond}
	g.address = throttle{burst: 100, every: 2 * time.Second}
}

// try is a paid try.
type try struct {
	g      *guard
	paid   []func()
	origin string
}

// enter pays for a try for account, from address, and by code unless that is empty. It refuses when a budget is
// used up.
func (g *guard) enter(account, address, code string) (*try, error) {
	t := &try{g: g, origin: addressKey(address)}
	if wait := g.address.wait(t.origin); wait > 0 {
		return nil, errThrottled(wait)
	}
	steps := []struct {
		th  *throttle
		key string
	}{{&g.accountHere, account + "\x00" + t.origin}, {&g.account, account}, {&g.code, code}}
	for _, s := range steps {
		if s.key == "" {
			continue
		}
		if wait := s.th.take(s.key); wait > 0 {
			t.right()
			return nil, errThrottled(wait)
		}
		t.paid = append(t.paid, func() { s.th.giveBack(s.key) })
	}
	return t, nil
}

// right pays everything back.
func (t *try) right() {
	for _, back := range t.paid {
		back()
	}
	t.paid = nil
}

// wrong leaves the try paid and charges the address.
func (t *try) wrong() { t.g.address.take(t.origin) }

func errThrottled(wait time.Duration) error {
	wait = max(wait.Round(time.Second), time.Second)
	e := fault.New(fault.Busy, "Too many wrong tries.").WithCode(CodeThrottled).
		WithRemedy("Wait %s and try again, or ask your instructor for a sign-in link.", spell(wait))
	e.RetryAfter = wait
	return e
}

func spell(d time.Duration) string {
	switch seconds := int(d / time.Second); {
	case seconds <= 1:
		return "a second"
	case seconds < 90:
		return fmt.Sprintf("%d seconds", seconds)
	default:
		return fmt.Sprintf("%d minutes", (seconds+59)/60)
	}
}

// addressKey is what counts as one address: all of one IPv6 network of a household or a room counts as one.
func addressKey(address string) string {
	a, err := netip.ParseAddr(address)
	if err != nil {
		return address
	}
	a = a.Unmap()
	if a.Is4() {
		return a.String()
	}
	p, err := a.WithZone("").Prefix(64)
	if err != nil {
		return address
	}
	return p.String()
}

// throttle lets each key have burst tries and then one more each time every has passed. The zero budget of a key
// that was not used for a while takes no memory. Safe for concurrent use.
type throttle struct {
	burst int
	every time.Duration

	mu   sync.Mutex
	full map[string]time.Time // when the key's budget is whole again
}

// maxKeys bounds what somebody with many addresses or invented names can make us remember.
const maxKeys = 50_000

// wait returns how long the key has to wait for its next try, zero if not at all.
func (t *throttle) wait(key string) time.Duration {
	at := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.lacks(t.whole(key, at), at)
}

// whole returns when the key's budget is whole, at the earliest now.
func (t *throttle) whole(key string, at time.Time) time.Time {
	if full := t.full[key]; full.After(at) {
		return full
	}
	return at
}

// lacks returns how long after at a budget that is whole at full has room for one more try.
func (t *throttle) lacks(full, at time.Time) time.Duration {
	return max(0, full.Sub(at)-time.Duration(t.burst-1)*t.every)
}

// take pays for a try and returns zero, or returns how long to wait and pays nothing.
func (t *throttle) take(key string) time.Duration {
	at := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	full := t.whole(key, at)
	if wait := t.lacks(full, at); wait > 0 {
		return wait
	}
	if t.full == nil {
		t.full = map[string]time.Time{}
	}
	if len(t.full) >= maxKeys {
		t.shrink(at)
	}
	t.full[key] = full.Add(t.every)
	return 0
}

// giveBack undoes one take.
func (t *throttle) giveBack(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if full := t.full[key].Add(-t.every); full.After(time.Now()) {
		t.full[key] = full
		return
	}
	delete(t.full, key)
}

// shrink forgets whole budgets, and arbitrary ones when that is not enough.
func (t *throttle) shrink(at time.Time) {
	for k, full := range t.full {
		if !full.After(at) {
			delete(t.full, k)
		}
	}
	for k := range t.full {
		if len(t.full) < maxKeys*3/4 {
			return
		}
		delete(t.full, k)
	}
}
