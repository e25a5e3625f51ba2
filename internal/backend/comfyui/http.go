package comfyui

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
)

// Answers that are read whole are bounded: a server that never ends one must not take the studio's memory.
const (
	maxAnswer = 512 << 20 // what carries every node or every graph: object_info of a server with many packs has 60 MB
	maxLight  = 32 << 20  // all else
)

// mostOf returns how large the answer of a path may be.
func mostOf(path string) int64 {
	for _, heavy := range []string{"/object_info", "/queue", "/history/"} {
		if strings.HasPrefix(path, heavy) {
			return maxAnswer
		}
	}
	return maxLight
}

// errStalled is the cause of a transfer that was given up because nothing moved.
var errStalled = errors.New("the transfer stood still")

// largeFrom is the size from which a file is large.
const largeFrom = 16 << 20

// open sends a request and returns the answer with its body still to be read. cancel frees what the request holds
// and has to be called when the body is done. Every error is ErrUnreachable.
func (d *Driver) open(ctx context.Context, method, path, contentType string, body io.Reader, size int64) (*http.Response, context.CancelCauseFunc, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	resp, err := d.send(ctx, method, path, contentType, body, size)
	if err != nil {
		cancel(nil)
		return nil, nil, err
	}
	return resp, cancel, nil
}

// send is open for those whose context ends with the answer's body. size is that of body, or of the answer where it is
// known to be large.
func (d *Driver) send(ctx context.Context, method, path, contentType string, body io.Reader, size int64) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, d.prefix+path, body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", backend.ErrUnreachable, err)
	}
	if size > 0 && body != nil {
		req.ContentLength = size
	}
	maps.Copy(req.Header, d.header)
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	carrier := d.wire
	if size >= largeFrom {
		carrier = d.large
	}
	resp, err := carrier.RoundTrip(req)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
			err = fmt.Errorf("%w: %w", err, cause)
		}
		return nil, fmt.Errorf("%w: %w", backend.ErrUnreachable, err)
	}
	return resp, nil
}

// do sends a request and reads the whole answer, whatever its status.
func (d *Driver) do(ctx context.Context, method, path string, body []byte) (status int, answer []byte, err error) {
	var r io.Reader
	contentType := ""
	if body != nil {
		r, contentType = bytes.NewReader(body), "application/json"
	}
	resp, err := d.send(ctx, method, path, contentType, r, int64(len(body)))
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	if answer, err = readAll(resp, mostOf(path)); err != nil {
		return 0, nil, fmt.Errorf("%w: %s %s: %w", backend.ErrUnreachable, method, path, err)
	}
	return resp.StatusCode, answer, nil
}

// get reads an answer that has to be 200.
func (d *Driver) get(ctx context.Context, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, d.options.RequestTimeout)
	defer cancel()
	status, answer, err := d.do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		return nil, statusError{"GET " + path, status}
	}
	return answer, nil
}

// post sends JSON that may be sent twice; the answer has to be 200 and says nothing.
func (d *Driver) post(ctx context.Context, path string, body []byte) error {
	status, _, err := d.do(ctx, http.MethodPost, path, body)
	if err != nil && ctx.Err() == nil { // a kept connection may have been closed by the server just now
		status, _, err = d.do(ctx, http.MethodPost, path, body)
	}
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return statusError{"POST " + path, status}
	}
	return nil
}

// statusError is an answer with a status that was not expected. Servers behind a balancer that is not up answer
// 502 to 504: that is a server out of reach, all else is one that is not what we take it for.
type statusError struct {
	what   string
	status int
}

func errStatus(what string, resp *http.Response) error { return statusError{what, resp.StatusCode} }

func (e statusError) Error() string {
	return fmt.Sprintf("%s was answered with status %d", e.what, e.status)
}

func (e statusError) Is(target error) bool {
	gone := e.status >= 502 && e.status <= 504
	return (target == backend.ErrUnreachable && gone) || (target == backend.ErrNotComfyUI && !gone)
}

// readAll reads a body of known or unknown length, of most bytes at most.
func readAll(resp *http.Response, most int64) ([]byte, error) {
	if n := resp.ContentLength; n > most {
		return nil, fmt.Errorf("an answer of %d bytes", n)
	} else if n >= 0 {
		b := make([]byte, n)
		_, err := io.ReadFull(resp.Body, b)
		return b, err
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, most+1))
	if err == nil && int64(len(b)) > most {
		err = fmt.Errorf("an answer of more than %d bytes", most)
	}
	return b, err
}

// drop reads the little that is left of a body, so that the connection can be used again, and closes it.
func drop(resp *http.Response) {
	io.CopyN(io.Discard, resp.Body, 16<<10) //nolint:errcheck // only to spare a connection
	resp.Body.Close()
}

// stream is the body of a file that is given up when nothing arrives for a while.
type stream struct {
	body  io.ReadCloser
	stall *time.Timer
	limit time.Duration
	ctx   context.CancelCauseFunc
	once  sync.Once
}

func newStream(body io.ReadCloser, limit time.Duration, cancel context.CancelCauseFunc) *stream {
	return &stream{body: body, limit: limit, ctx: cancel, stall: time.AfterFunc(limit, func() { cancel(errStalled) })}
}

// Read reads from the body. Its errors are ErrUnreachable: what was promised did not come whole.
func (s *stream) Read(p []byte) (int, error) {
	s.stall.Reset(s.limit)
	n, err := s.body.Read(p)
	s.stall.Stop() // a reader that takes its time is no stall
	if err != nil && err != io.EOF {
		err = fmt.Errorf("%w: %w", backend.ErrUnreachable, err)
	}
	return n, err
}

// Close ends the transfer.
func (s *stream) Close() error {
	var err error
	s.once.Do(func() {
		s.stall.Stop()
		err = s.body.Close()
		s.ctx(nil)
	})
	return err
}

// paced is the body of an upload that is given up when the server takes nothing more of it for a while, or does
// not answer for as long after its end.
type paced struct {
	r     io.Reader
	stall *time.Timer
	limit time.Duration
}

func newPaced(r io.Reader, limit time.Duration, cancel context.CancelCauseFunc) *paced {
	return &paced{r: r, limit: limit, stall: time.AfterFunc(limit, func() { cancel(errStalled) })}
}

func (p *paced) Read(b []byte) (int, error) {
	p.stall.Reset(p.limit)
	return p.r.Read(b)
}
