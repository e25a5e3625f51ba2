package verda

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
)

// request is one call of the interface.
type request struct {
	method string
	path   string // below the base, escaped
	query  url.Values
	in     any           // sent as JSON; nil: no body
	out    any           // what the answer is read into; nil: it is not looked at
	kind   resource      // what it is about
	name   string        // of what it is about; empty: a list
	longer time.Duration // how much longer than usual the answer may take

	open       bool     // it needs no token
	repeatable bool     // a POST that does no harm twice
	hidden     []string // secrets in it
	carries    bool     // its purpose is to bring a secret: nothing of what the provider says to it is shown
}

// outcome is what came of one attempt.
type outcome struct {
	res   *answer // nil: there was no answer
	err   error   // of the transport
	sent  bool    // something may have arrived
	token string  // that it was made with
}

// answer is a response that was read.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// call makes a request, again where that is of use and does no harm, and reads the answer.
func (c *Client) call(ctx context.Context, r request) error {
	var body []byte
	if r.in != nil {
		var err error
		if body, err = json.Marshal(r.in); err != nil {
			return fmt.Errorf("writing the request: %w", err)
		}
	}
	refused, again := "", false // the token that was just refused; whether an earlier attempt may have been carried out
	for n := 1; ; n++ {
		o, err := c.attempt(ctx, r, body, refused, n)
		if err != nil {
			return err
		}
		r.hidden = append(slices.Clip(r.hidden), o.token) // another may have taken its place meanwhile
		switch {
		case o.res != nil && o.res.status == http.StatusUnauthorized && !r.open && refused == "":
			refused = o.token
			n-- // an ended token is nobody's fault
			continue
		case o.res != nil && o.res.status < 300:
			return c.take(r, o.res)
		case o.res != nil && o.res.status == http.StatusNotFound && r.method == http.MethodDelete && again:
			return nil // the attempt without an answer did it
		}
		pause, ok := c.pause(r, o, n)
		if !ok || !c.waits(ctx, pause) {
			return c.trouble(ctx, r, o)
		}
		again = again || o.sent
	}
}

// attempt sends a request once. The error is one of having no token; what came of the request is in the outcome.
func (c *Client) attempt(ctx context.Context, r request, body []byte, refused string, n int) (outcome, error) {
	var o outcome
	if !r.open {
		var err error
		if o.token, err = c.tokens.get(ctx, refused); err != nil {
			return o, c.ended(ctx, err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, c.patience+r.longer)
	defer cancel()
	var sent atomic.Bool // it is set by the transport's goroutine, which may outlive the attempt
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { sent.Store(true) }})
	address := c.base + r.path
	if len(r.query) > 0 {
		address += "?" + r.query.Encode()
	}
	req, err := http.NewRequestWithContext(traced, r.method, address, bytes.NewReader(body))
	if err != nil {
		return o, fmt.Errorf("making the request: %w", err)
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", c.agent)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if o.token != "" {
		req.Header.Set("Authorization", "Bearer "+o.token)
	}
	began := time.Now()
	o.res, o.err = c.send(req)
	o.sent = sent.Load()
	r.hidden = append(slices.Clip(r.hidden), o.token)
	c.note(ctx, r, o, n, time.Since(began))
	return o, nil
}

// send makes one round trip and reads the answer, as far as that is sensible.
func (c *Client) send(req *http.Request) (*answer, error) {
	res, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, largest+1))
	if err == nil && len(body) > largest {
		err = fmt.Errorf("the answer has more than %d MB", largest>>20)
	}
	if err != nil && res.StatusCode < 300 {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	return &answer{status: res.StatusCode, header: res.Header, body: body}, nil // of a refusal the status is enough
}

// note logs an attempt: what and how long, never what was sent or came back.
func (c *Client) note(ctx context.Context, r request, o outcome, n int, took time.Duration) {
	attrs := []slog.Attr{slog.String("call", r.method+" "+r.path), slog.Int("attempt", n), slog.Duration("dur", took)}
	if o.res != nil {
		attrs = append(attrs, slog.Int("status", o.res.status))
	} else {
		attrs = append(attrs, slog.String("err", c.scrub(r, o.err.Error())))
	}
	c.log.LogAttrs(ctx, slog.LevelDebug, "verda", attrs...)
}

// pause returns how long to wait before the request is made again, and whether it is.
func (c *Client) pause(r request, o outcome, n int) (time.Duration, bool) {
	if n >= c.attempts {
		return 0, false
	}
	once := r.method == http.MethodPost && !r.repeatable // doing it twice may do harm
	bound := min(longest, firstPause<<(n-1))
	switch {
	case o.res == nil:
		return rand.N(bound), !once || !o.sent //nolint:gosec // jitter
	case o.res.status == http.StatusTooManyRequests: // nothing was done
	case o.res.status >= 500 && !once:
	default:
		return 0, false
	}
	pause := rand.N(bound) //nolint:gosec // jitter
	if asked := retryAfter(o.res.header); asked > 0 {
		pause += asked
	}
	return pause, pause <= longestWait
}

// waits waits. It is false when ctx ends first, or is sure to.
func (c *Client) waits(ctx context.Context, d time.Duration) bool {
	if end, ok := ctx.Deadline(); ok && time.Until(end) <= d {
		return false
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// retryAfter reads how long a refusal asks to wait: seconds or a date.
func retryAfter(h http.Header) time.Duration {
	text := h.Get("Retry-After")
	if text == "" {
		return 0
	}
	if n, err := strconv.ParseUint(text, 10, 32); err == nil {
		return time.Duration(n) * time.Second //nolint:gosec // 32 bits
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(0, time.Until(at))
	}
	return 0
}

// take reads an answer into what was asked for.
func (c *Client) take(r request, a *answer) error {
	if r.out == nil || len(bytes.TrimSpace(a.body)) == 0 && r.method != http.MethodGet {
		return nil
	}
	if err := json.Unmarshal(a.body, r.out); err != nil {
		// What can't be read may hold anything: of the cause only its place is told.
		return fault.Wrap(fault.Unavailable, shape(err), "Verda gave an answer to %s %s that is not understood.", r.method, r.path).WithCode("verda_answer").
			WithRemedy("See whether providers.verda.url is the address of Verda's control interface, and whether this program is old.")
	}
	return nil
}

// shape says where an answer is not what it should be, without the text that stands there.
func shape(err error) error {
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Errorf("%s is a %s", wrong.Field, kindOf(wrong.Value))
	}
	if wrong, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("it is no JSON at byte %d", wrong.Offset)
	}
	return errors.New("it has another form")
}

// kindOf is the kind of a JSON value, of which the decoder may tell the text too: "number 17".
func kindOf(value string) string {
	for i, r := range value {
		if r == ' ' {
			return value[:i]
		}
	}
	return value
}
