package fleet

import (
	"context"
	"net"
	"sync/atomic"
	"time"
)

// lossy takes connections whose lines can be slowed, cut, or deaf in a direction.
type lossy struct {
	net.Listener
	fleet *Fleet
}

// Accept takes the next connection.
func (l *lossy) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &line{Conn: conn, fleet: l.fleet}
	l.fleet.mu.Lock()
	l.fleet.lines[c] = struct{}{}
	l.fleet.mu.Unlock()
	return c, nil
}

// line is a client's connection.
type line struct {
	net.Conn
	fleet    *Fleet
	up, down atomic.Bool // nothing passes any more: from the client, to the client
	broken   atomic.Bool
}

func (c *line) Read(p []byte) (int, error) {
	for {
		n, err := c.Conn.Read(p)
		if err != nil {
			return n, err
		}
		c.fleet.slow(n)
		if !c.up.Load() {
			return n, nil
		}
	}
}

func (c *line) Write(p []byte) (int, error) {
	c.fleet.slow(len(p))
	if c.down.Load() && !c.broken.Load() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func (c *line) Close() error {
	c.broken.Store(true)
	c.fleet.mu.Lock()
	delete(c.fleet.lines, c)
	c.fleet.mu.Unlock()
	return c.Conn.Close()
}

// slow lets as much time pass as so many bytes take.
func (f *Fleet) slow(n int) {
	if f.o.BytesPerSecond > 0 {
		_ = pause(f.closed, time.Duration(int64(n)*int64(time.Second)/f.o.BytesPerSecond)) // a fleet that ends is in no hurry
	}
}

// Cut breaks all lines to clients, as a balancer does that is started anew: what waits in the queue is gone too.
func (f *Fleet) Cut() {
	for _, c := range f.open() {
		c.Close() //nolint:errcheck // it is to break
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.counts.Cuts++
}

// Deafen has nothing pass over the lines that are open now, from clients (up), to them (down), or both. Nobody is told:
// connections stay open until they are given up, or broken after d.
func (f *Fleet) Deafen(up, down bool, d time.Duration) {
	lines := f.open()
	for _, c := range lines {
		c.up.Store(c.up.Load() || up)
		c.down.Store(c.down.Load() || down)
	}
	f.mu.Lock()
	f.counts.Deafened++
	f.mu.Unlock()
	f.parts.Go(func() {
		ctx, cancel := context.WithTimeout(f.closed, d)
		defer cancel()
		<-ctx.Done()
		for _, c := range lines {
			c.Close() //nolint:errcheck // it is to break
		}
	})
}

func (f *Fleet) open() []*line {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := make([]*line, 0, len(f.lines))
	for c := range f.lines {
		all = append(all, c)
	}
	return all
}
