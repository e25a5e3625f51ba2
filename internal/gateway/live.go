package gateway

import (
	"net"
	"sync"

	"github.com/ahelme/comfyume/internal/account"
)

// Live knows the connections that faces took over, such as editors' sockets, by the credential that opened them, so
// that they end when it does. It is safe for concurrent use.
type Live struct {
	mu    sync.Mutex
	conns map[string]map[*liveConn]struct{} // by person
}

// NewLive returns an empty Live.
func NewLive() *Live { return &Live{conns: map[string]map[*liveConn]struct{}{}} }

type liveConn struct {
	net.Conn
	live *Live
	user string
	id   string // of the session or token
	once sync.Once
}

// Close closes the connection and forgets it.
func (c *liveConn) Close() error {
	c.once.Do(func() {
		c.live.mu.Lock()
		defer c.live.mu.Unlock()
		mine := c.live.conns[c.user]
		delete(mine, c)
		if len(mine) == 0 {
			delete(c.live.conns, c.user)
		}
	})
	return c.Conn.Close()
}

func (l *Live) add(conn net.Conn, cred account.Credential) net.Conn {
	if cred.Person.Name == "" {
		return conn
	}
	c := &liveConn{Conn: conn, live: l, user: cred.Person.Name, id: cred.ID}
	l.mu.Lock()
	defer l.mu.Unlock()
	mine := l.conns[c.user]
	if mine == nil {
		mine = map[*liveConn]struct{}{}
		l.conns[c.user] = mine
	}
	mine[c] = struct{}{}
	return c
}

// End cuts the connections of credentials that ended: of one session or token, or all of a person's. Whose
// credential is still good comes back by itself. It is what account.Options.Ended wants.
func (l *Live) End(e account.Ended) {
	l.mu.Lock()
	var ending []*liveConn
	for c := range l.conns[e.User] {
		if e.ID == "" || c.id == e.ID {
			ending = append(ending, c)
		}
	}
	l.mu.Unlock()
	for _, c := range ending {
		c.Close() //nolint:errcheck // the other side may have gone already
	}
}

// Connections returns how many connections a person has open.
func (l *Live) Connections(user string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.conns[user])
}
