package e2e

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// cutter is a TCP relay between a browser and the studio that can cut the line, as a bad network does.
type cutter struct {
	ln net.Listener
	to string

	mu    sync.Mutex
	down  bool
	conns map[net.Conn]struct{}

	muteUp, muteDown atomic.Bool // nothing passes from who dials, to who dials
}

// newCutter relays from a fresh loopback port to address to.
func newCutter(t *testing.T, to string) *cutter {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{ln: ln, to: to, conns: map[net.Conn]struct{}{}}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { c.relay(conn) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		c.cut()
		wg.Wait()
	})
	return c
}

// host is the address that the browser uses.
func (c *cutter) host() string { return c.ln.Addr().String() }

func (c *cutter) relay(in net.Conn) {
	defer in.Close()
	if !c.keep(in) {
		return
	}
	defer c.drop(in)
	out, err := net.Dial("tcp", c.to)
	if err != nil {
		return
	}
	defer out.Close()
	if !c.keep(out) {
		return
	}
	defer c.drop(out)
	var wg sync.WaitGroup
	wg.Go(func() { pipe(out, muted{in, &c.muteUp}) })
	wg.Go(func() { pipe(in, muted{out, &c.muteDown}) })
	wg.Wait()
}

// pipe copies until either side ends, then ends both: half-open lines are not what browsers leave behind.
func pipe(dst, src net.Conn) {
	_, _ = io.Copy(dst, src) // a cut line is the point of this type
	dst.Close()
	src.Close()
}

// muted is a side of a line of which nothing comes through while mute is set.
type muted struct {
	net.Conn
	mute *atomic.Bool
}

func (m muted) Read(p []byte) (int, error) {
	for {
		n, err := m.Conn.Read(p)
		if err != nil || !m.mute.Load() {
			return n, err
		}
	}
}

// deaf has nothing pass in a direction for a while, without a word to either side. Then the line breaks: what was
// swallowed is gone.
func (c *cutter) deaf(up, down bool, d time.Duration) {
	c.muteUp.Store(up)
	c.muteDown.Store(down)
	<-time.After(d)
	c.cut()
	c.muteUp.Store(false)
	c.muteDown.Store(false)
	c.mend()
}

func (c *cutter) keep(conn net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.down {
		return false
	}
	c.conns[conn] = struct{}{}
	return true
}

func (c *cutter) drop(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.conns, conn)
}

// cut ends every open connection and refuses new ones until mend.
func (c *cutter) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.down = true
	for conn := range c.conns {
		conn.Close()
	}
}

// blink ends every open connection; new ones are taken at once.
func (c *cutter) blink() {
	c.cut()
	c.mend()
}

// mend takes connections again.
func (c *cutter) mend() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.down = false
}
