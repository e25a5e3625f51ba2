package tunnel

import (
	"io"
	"sync"
)

// Buffers of a flow. Most connections carry a few small messages and then wait; one that carries a large file gets large
// buffers for as long as it lasts.
const (
	smallBuffer = 4 << 10
	largeBuffer = 128 << 10
)

var largeBuffers = sync.Pool{New: func() any { return new([largeBuffer]byte) }}

// flow carries bytes until one side ends.
func flow(to io.Writer, from io.Reader) {
	small := make([]byte, smallBuffer)
	for {
		n, err := from.Read(small)
		if n > 0 {
			if _, err := to.Write(small[:n]); err != nil {
				return
			}
		}
		if err != nil || n == smallBuffer && !rush(to, from) {
			return
		}
	}
}

// rush carries bytes while many come: the next are read while the last go out. It reports false when one side ended.
func rush(to io.Writer, from io.Reader) bool {
	type chunk struct {
		buf *[largeBuffer]byte
		n   int
	}
	free, full := make(chan *[largeBuffer]byte, 2), make(chan chunk)
	for range cap(free) {
		free <- largeBuffers.Get().(*[largeBuffer]byte)
	}
	dead := make(chan struct{}) // closed when nothing goes out any more
	var writing sync.WaitGroup
	alive := true // the writer's, and read after its end
	writing.Go(func() {
		for c := range full {
			if alive {
				if _, err := to.Write(c.buf[:c.n]); err != nil {
					alive = false
					close(dead)
				}
			}
			free <- c.buf
		}
	})
	var err error
	for n := smallBuffer; err == nil && n >= smallBuffer; {
		select {
		case <-dead:
			n = 0
			continue
		default:
		}
		buf := <-free
		n, err = from.Read(buf[:])
		full <- chunk{buf, n}
	}
	close(full)
	writing.Wait()
	for range cap(free) {
		largeBuffers.Put(<-free)
	}
	return err == nil && alive
}
