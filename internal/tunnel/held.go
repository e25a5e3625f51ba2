package tunnel

import (
	"io"
	"sync"
)

// held is what a WebSocket client writes on. The library masks 4 KiB at a time and writes each; held back until the
// message is whole they go out at once, and while a large one goes out the next is made ready.
type held struct {
	io.ReadWriteCloser
	idle chan struct{} // holds a token while nothing goes out

	mu      sync.Mutex
	holding bool
	buf     []byte // what is held
	out     []byte // what goes out, or room for it; its user has the token
	err     error  // why it did not; likewise
}

// aside is the size from which a message goes out while the next is made ready. Below it a switch costs more.
const aside = 32 << 10

func newHeld(rwc io.ReadWriteCloser) *held {
	h := &held{ReadWriteCloser: rwc, idle: make(chan struct{}, 1)}
	h.idle <- struct{}{}
	return h
}

// begin holds back what is written until flush.
func (h *held) begin() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.holding = true
}

// Write holds p back while a message is made ready, and else writes it.
func (h *held) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.buf = append(h.buf, p...)
	if h.holding {
		return len(p), nil
	}
	return len(p), h.send()
}

// flush sends what is held. The error may be that of the message before.
func (h *held) flush() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.holding = false
	return h.send()
}

// send sends what is held, behind what goes out. The lock is held.
func (h *held) send() error {
	<-h.idle
	h.buf, h.out = h.out[:0], h.buf
	if h.err != nil || len(h.out) < aside {
		h.write()
		return h.err
	}
	go h.write()
	return nil
}

// write writes out, and gives the token back.
func (h *held) write() {
	if h.err == nil {
		_, h.err = h.ReadWriteCloser.Write(h.out)
	}
	h.idle <- struct{}{}
}

// Close closes the connection, and waits for what goes out to fail.
func (h *held) Close() error {
	err := h.ReadWriteCloser.Close()
	<-h.idle
	h.idle <- struct{}{}
	return err
}
