package backendtest

import (
	"context"
	"net"
	"sync"
	"syscall"
)

// Net is a network inside the process: connections are pipes, so that a whole server can live in a
// testing/synctest bubble. It is safe for concurrent use.
type Net struct {
	mu     sync.Mutex
	accept chan net.Conn
	down   error // what new connections meet; nil: nothing is wrong
	conns  map[*conn]struct{}
	dials  int
	closed chan struct{}
	once   sync.Once
}

// NewNet returns a network with one listener and nobody connected.
func NewNet() *Net {
	return &Net{accept: make(chan net.Conn), conns: make(map[*conn]struct{}), closed: make(chan struct{})}
}

// conn is the server's end of a connection.
type conn struct {
	net.Conn
	peer net.Conn
	net  *Net
}

// Close closes both ends.
func (c *conn) Close() error {
	c.net.mu.Lock()
	delete(c.net.conns, c)
	c.net.mu.Unlock()
	c.peer.Close()
	return c.Conn.Close()
}

// Dial connects to the listener, whatever the address.
func (n *Net) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	refused := &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
	client, server := net.Pipe()
	c := &conn{Conn: server, peer: client, net: n}
	n.mu.Lock()
	if down := n.down; down != nil {
		n.mu.Unlock()
		return nil, &net.OpError{Op: "dial", Net: network, Err: down}
	}
	n.conns[c] = struct{}{}
	n.dials++
	n.mu.Unlock()
	select {
	case n.accept <- c:
		return client, nil
	case <-n.closed:
		c.Close()
		return nil, refused
	case <-ctx.Done():
		c.Close()
		return nil, context.Cause(ctx)
	}
}

// Dials counts the connections that were opened.
func (n *Net) Dials() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dials
}

// SetDown has no way lead to the host, or one again, and cuts the connections there are when it goes down.
func (n *Net) SetDown(down bool) { n.set(down, syscall.EHOSTUNREACH) }

// SetRefusing has the host refuse new connections, as one whose program has ended, or take them again, and cuts those
// there are.
func (n *Net) SetRefusing(refusing bool) { n.set(refusing, syscall.ECONNREFUSED) }

func (n *Net) set(down bool, how error) {
	if !down {
		how = nil
	}
	n.mu.Lock()
	n.down = how
	n.mu.Unlock()
	if down {
		n.Cut()
	}
}

// Cut cuts every connection.
func (n *Net) Cut() {
	n.mu.Lock()
	all := make([]*conn, 0, len(n.conns))
	for c := range n.conns {
		all = append(all, c)
	}
	n.mu.Unlock()
	for _, c := range all {
		c.Close()
	}
}

// Accept waits for a connection.
func (n *Net) Accept() (net.Conn, error) {
	select {
	case c := <-n.accept:
		return c, nil
	case <-n.closed:
		return nil, net.ErrClosed
	}
}

// Close ends the listener and every connection.
func (n *Net) Close() error {
	n.once.Do(func() { close(n.closed) })
	n.Cut()
	return nil
}

// Addr names the listener.
func (n *Net) Addr() net.Addr { return &net.UnixAddr{Name: "inside", Net: "pipe"} }
