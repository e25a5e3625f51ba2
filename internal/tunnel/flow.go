package tunnel

import (
	"io"
	"sync"
)

// Buffers of a flow. Most connections carry a few small messages and then wait; one that carries more gets a large buffer
// for as long as it lasts. With less, the programs at both its ends would be woken for every few packets.
const smallBuffer = 4 << 10

var (
	largeBuffers = buffers(256 << 10)
	fileBuffers  = buffers(1 << 20) // of connections beside the line
)

func buffers(size int) *sync.Pool {
	return &sync.Pool{New: func() any {
		b := make([]byte, size)
		return &b
	}}
}

// flow carries bytes until one side ends.
func flow(to io.Writer, from io.Reader, large *sync.Pool) {
	small := make([]byte, smallBuffer)
	for {
		n, err := pass(to, from, small)
		if err == nil && n == smallBuffer {
			err = rush(to, from, large)
		}
		if err != nil {
			return
		}
	}
}

// rush carries bytes while many come.
func rush(to io.Writer, from io.Reader, large *sync.Pool) error {
	buf := large.Get().(*[]byte)
	defer large.Put(buf)
	for {
		if n, err := pass(to, from, *buf); err != nil || n < smallBuffer {
			return err
		}
	}
}

// pass carries what one read gives.
func pass(to io.Writer, from io.Reader, buf []byte) (n int, err error) {
	n, err = from.Read(buf)
	if n > 0 {
		if _, failed := to.Write(buf[:n]); failed != nil {
			return n, failed
		}
	}
	return n, err
}
