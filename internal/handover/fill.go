package handover

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"io"
	"sync"

	"github.com/ahelme/comfyume/internal/fault"
)

// buffers are what bytes are copied through.
var buffers = sync.Pool{New: func() any { b := make([]byte, 256<<10); return &b }}

// fill copies r to w and says what it was. Errors of either come back as they are.
func fill(ctx context.Context, w io.Writer, r io.Reader) (size int64, sum string, err error) {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	h := sha256.New()
	for idle := 0; ; {
		if ctx.Err() != nil {
			return 0, "", context.Cause(ctx)
		}
		n, err := r.Read(*buf)
		if n > 0 {
			idle = 0
			h.Write((*buf)[:n])
			if _, err := w.Write((*buf)[:n]); err != nil {
				return 0, "", err
			}
			size += int64(n)
		} else if idle++; idle > 100 && err == nil {
			err = io.ErrNoProgress
		}
		if err == io.EOF {
			return size, hex.EncodeToString(h.Sum(nil)), nil
		}
		if err != nil {
			return 0, "", err
		}
	}
}

// damaged is the error of bytes that are not those of the manifest.
func damaged(e Entry, format string, args ...any) error {
	return fault.New(fault.Unavailable, "The output %.80q was damaged on its way: "+format+".", append([]any{e.Name}, args...)...).
		WithCode("handover_damaged").WithRemedy("It is fetched again; if that does not help, look at the storage's disk and the back end's log.")
}

// checked gives the bytes of an entry and holds them against its size and hash. It opens them again where it was when
// they could not be read further, at most maxReopen times without a byte in between.
type checked struct {
	entry  Entry
	src    io.ReadCloser
	reopen func(at int64) (io.ReadCloser, error)
	again  func(error) bool // whether reading goes on after an error

	at    int64
	hash  hash.Hash
	tries int
	err   error // what all later reads give
}

const maxReopen = 4

func newChecked(e Entry, src io.ReadCloser, reopen func(int64) (io.ReadCloser, error), again func(error) bool) *checked {
	return &checked{entry: e, src: src, reopen: reopen, again: again, hash: sha256.New()}
}

// Read gives the next bytes; io.EOF only when size and hash are right. No more than the entry's size is ever given.
func (c *checked) Read(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	left := c.entry.Size - c.at
	if left == 0 {
		c.err = c.end()
		return 0, c.err
	}
	for {
		n, err := c.src.Read(p[:min(int64(len(p)), left)])
		if n > 0 {
			c.hash.Write(p[:n])
			c.at += int64(n)
			c.tries = 0
			return n, nil // an error comes again
		}
		switch {
		case err == nil:
			return 0, nil
		case err == io.EOF || err == io.ErrUnexpectedEOF && c.tries == maxReopen:
			c.err = damaged(c.entry, "it has %d bytes of %d", c.at, c.entry.Size)
		case c.tries < maxReopen && c.again(err):
			c.tries++
			if err = c.open(); err == nil {
				continue
			}
			c.err = err
		default:
			c.err = err
		}
		return 0, c.err
	}
}

func (c *checked) open() error {
	src, err := c.reopen(c.at)
	if err != nil {
		return err
	}
	old := c.src
	c.src = src
	_ = old.Close() // it could not be read: there is nothing left to learn from it
	return nil
}

// end says whether what came is the entry.
func (c *checked) end() error {
	var more [1]byte
	if n, _ := io.ReadFull(c.src, more[:]); n > 0 {
		return damaged(c.entry, "it has more than %d bytes", c.entry.Size)
	}
	if sum := hex.EncodeToString(c.hash.Sum(nil)); sum != c.entry.SHA256 {
		return damaged(c.entry, "its SHA-256 is %s and not %s", sum, c.entry.SHA256)
	}
	return io.EOF
}

func (c *checked) Close() error { return c.src.Close() }
