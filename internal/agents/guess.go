package agents

import (
	"net/netip"
	"sync"
	"time"
)

// guesses slows down who tries codes: an address has a budget of wrong ones, and so have all together.
type guesses struct {
	mu   sync.Mutex
	full map[string]time.Time // when the budget of an address is whole again; "" is everybody's
}

const (
	guessBurst  = 10               // wrong codes in a row from one address
	guessEvery  = 30 * time.Second // and then one each time
	allBurst    = 200              // from all addresses
	allEvery    = time.Second
	maxGuessers = 10_000 // addresses that are remembered
)

// budget returns a key's whole budget and how fast it fills.
func budget(key string) (whole, every time.Duration) {
	if key == "" {
		return allBurst * allEvery, allEvery
	}
	return guessBurst * guessEvery, guessEvery
}

// wait is how long who asks from an address has to wait for another try.
func (g *guesses) wait(from string) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	var most time.Duration
	for _, key := range []string{"", network(from)} {
		whole, every := budget(key)
		most = max(most, max(time.Until(g.full[key]), 0)-whole+every)
	}
	return most
}

// wrong counts a wrong code.
func (g *guesses) wrong(from string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.full == nil || len(g.full) > maxGuessers { // everybody's is kept
		g.full = map[string]time.Time{"": g.full[""]}
	}
	for _, key := range []string{"", network(from)} {
		_, every := budget(key)
		at := time.Now()
		if g.full[key].After(at) {
			at = g.full[key]
		}
		g.full[key] = at.Add(every)
	}
}

// network is what counts as one address: all of one IPv6 network counts as one.
func network(from string) string {
	a, err := netip.ParseAddr(from)
	if err != nil {
		return "?" + from
	}
	a = a.Unmap().WithZone("")
	if a.Is4() {
		return a.String()
	}
	p, err := a.Prefix(64)
	if err != nil {
		return a.String()
	}
	return p.String()
}
