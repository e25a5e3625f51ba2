package tunnel

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
)

// A large file is no matter for the line: the multiplexer and the WebSocket copy each byte several times. So the studio
// asks, on a stream, for a connection beside the line; the agent dials it with the word that the stream brought, and from
// then on it is bytes. It lives no longer than its stream, and counts as one. Where it does not come about, because a
// proxy knows no upgrade but that to WebSockets, or the agent is an older one, the line carries the file.

// tokenSize is the length of the word that says which stream a connection is for.
const tokenSize = 16

// beside are the connections beside a line. Its zero value is ready; it is safe for concurrent use.
type beside struct {
	mu      sync.Mutex
	ended   bool
	not     time.Time                    // until when none is asked for
	awaited map[[tokenSize]byte]*awaited // by token
	open    map[*apartConn]struct{}      // that somebody has
}

// awaited is a connection that was asked for.
type awaited struct {
	conn chan net.Conn
	over chan struct{} // closed when nobody waits any more
}

// await begins to wait for a connection. over ends it.
func (b *beside) await() (token [tokenSize]byte, a *awaited, over func()) {
	rand.Read(token[:]) //nolint:errcheck // it can't fail
	a = &awaited{conn: make(chan net.Conn), over: make(chan struct{})}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.awaited == nil {
		b.awaited = map[[tokenSize]byte]*awaited{}
	}
	b.awaited[token] = a
	return token, a, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.awaited, token)
		close(a.over)
	}
}

// take says who waits for a connection with this token; nil: nobody. It is good for once.
func (b *beside) take(word string) *awaited {
	raw, err := hex.DecodeString(word)
	if err != nil || len(raw) != tokenSize {
		return nil
	}
	token := [tokenSize]byte(raw)
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.awaited[token]
	delete(b.awaited, token)
	return a
}

// add gives a connection the life of its stream: it ends when it is closed, or when the line ends.
func (b *beside) add(conn, stream net.Conn) (net.Conn, error) {
	c := &apartConn{Conn: conn, stream: stream, of: b}
	b.mu.Lock()
	ended := b.ended
	if b.open == nil {
		b.open = map[*apartConn]struct{}{}
	}
	b.open[c] = struct{}{}
	b.mu.Unlock()
	if ended {
		c.Close() //nolint:errcheck // it ends with the line
		return nil, fault.Wrap(fault.Unavailable, errCut, "The line to the agent is being lost.").WithCode(CodeOffline)
	}
	return c, nil
}

// end closes the connections.
func (b *beside) end() {
	b.mu.Lock()
	b.ended = true
	all := b.open
	b.open = nil
	b.mu.Unlock()
	for c := range all {
		c.Conn.Close() //nolint:errcheck // whoever uses it meets the end
	}
}

// apartConn is a connection beside the line at the studio's end.
type apartConn struct {
	net.Conn
	stream net.Conn
	of     *beside
}

// Close closes the connection and the stream that it belongs to.
func (c *apartConn) Close() error {
	c.of.mu.Lock()
	delete(c.of.open, c)
	c.of.mu.Unlock()
	return errors.Join(c.Conn.Close(), c.stream.Close())
}

// dialApart opens a connection to the ComfyUI beside the line. CodeApart, CodeVersion: there can be none.
func (h *Hub) dialApart(ctx context.Context, m *member, l *line) (net.Conn, error) {
	l.beside.mu.Lock()
	not := time.Now().Before(l.beside.not)
	l.beside.mu.Unlock()
	if not {
		return nil, noneApart("it was tried a moment ago", nil)
	}
	conn, err := h.callApart(ctx, m, l)
	if code := codeOf(err); code == CodeApart || code == CodeVersion {
		h.log.Info("large files of an agent take its line", "agent", l.agent, "why", err, "for", apartAgain)
		l.beside.mu.Lock()
		l.beside.not = time.Now().Add(apartAgain)
		l.beside.mu.Unlock()
	}
	return conn, err
}

// callApart asks an agent for a connection and waits for it.
func (h *Hub) callApart(ctx context.Context, m *member, l *line) (net.Conn, error) {
	token, a, over := l.beside.await()
	defer over()
	stream, err := h.openStream(ctx, m, l, append([]byte{byte(Large)}, token[:]...))
	if err != nil {
		return nil, err
	}
	waiting, cancel := context.WithTimeoutCause(ctx, arriveWithin, noneApart("it did not arrive, though the agent made it", nil))
	defer cancel()
	select {
	case conn := <-a.conn:
		return l.beside.add(conn, stream)
	case <-waiting.Done():
		stream.Close() //nolint:errcheck // it leads nowhere
		return nil, context.Cause(waiting)
	}
}

// noneApart is the error of a connection that did not come about.
func noneApart(why string, err error) error {
	return fault.Wrap(fault.Unavailable, err, "There is no connection beside the line: %s.", why).WithCode(CodeApart).WithRemedy(passUpgrade)
}

// apart takes a connection beside a line.
func (h *Hub) apart(w http.ResponseWriter, r *http.Request) {
	name, err := h.whose(r)
	if err != nil {
		h.fail(w, "apart", err)
		return
	}
	if !strings.EqualFold(r.Header.Get("Upgrade"), bytesOnly) {
		h.fail(w, "apart", noneApart("the Upgrade header was lost", nil))
		return
	}
	var a *awaited
	h.mu.Lock()
	if m := h.agents[name]; m != nil && m.line != nil {
		a = m.line.beside.take(r.Header.Get(headerToken))
	}
	h.mu.Unlock()
	if a == nil {
		h.fail(w, "apart", fault.New(fault.Missing, "Nobody waits for this connection.").WithCode(CodeApart))
		return
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		h.fail(w, "apart", noneApart("it can't be taken over", err))
		return
	}
	if rw.Reader.Buffered() > 0 || h.switched(conn) != nil {
		conn.Close() //nolint:errcheck // the agent hears of it
		return
	}
	select {
	case a.conn <- conn:
	case <-a.over:
		conn.Close() //nolint:errcheck // likewise
	}
}

// switched tells an agent that from now on the connection is bytes.
func (h *Hub) switched(conn net.Conn) error {
	if err := conn.SetDeadline(time.Now().Add(apartWithin)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+bytesOnly+"\r\n"+
		headerStudio+": "+h.o.Studio+"\r\n\r\n"); err != nil {
		return err
	}
	return conn.SetDeadline(time.Time{})
}

// apart reads which connection beside the line the studio waits for, and dials it. The studio sends nothing on it before it
// has heard that it is there.
func (d *dialer) apart(ctx context.Context, key string, stream io.Reader) (net.Conn, error) {
	var token [tokenSize]byte
	if _, err := io.ReadFull(stream, token[:]); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, apartWithin)
	defer cancel()
	var conn net.Conn
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { conn = i.Conn }})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.address("/apart"), nil)
	if err != nil {
		return nil, err
	}
	req.Header = http.Header{"Authorization": {"Bearer " + key}, headerToken: {hex.EncodeToString(token[:])}, "Connection": {"Upgrade"}, "Upgrade": {bytesOnly}}
	resp, err := (&http.Client{Transport: d.through, CheckRedirect: follow}).Do(req)
	if err != nil {
		return nil, noneApart(reason(err), err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get(headerStudio) == "" {
		resp.Body.Close() //nolint:errcheck // it is not read
		return nil, noneApart("it was answered "+resp.Status, nil)
	}
	return conn, nil
}
