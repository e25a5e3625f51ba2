package serverless

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/oneshot"
)

// The provider's queue: a request with the header Prefer: respond-async is answered with where its state and its
// answer will be, which are asked for with the header X-Inference-Id. Its words are Initialized, Queue, Inference and
// Completed.
const (
	preferHeader    = "Prefer"
	preferAsync     = "respond-async"
	inferenceHeader = "X-Inference-Id"
)

const (
	maxTicket    = 64 << 10         // of an answer that only names things
	maxInference = 512              // of an inference id
	queueLost    = 2 * time.Minute  // how long the provider may fail to tell the state of a run
	resultTries  = 5                // of fetching an answer that is there
	queueMost    = 10 * time.Second // longest pause after it failed
)

// queued puts the job into the provider's queue, unless it is there, and reads its answer once that is there. It is
// the reader of a stream.
func (f *follower) queued(ctx context.Context, s *stream, inputs handing) piece {
	if f.written().Inference == "" {
		resp, err := f.submit(ctx, inputs)
		if err != nil {
			return piece{err: err}
		}
		if resp != nil { // there is no queue: the answer is here
			f.d.log.Warn("the endpoint has no queue: it answers at once", "remedy", "set backends.mode to agent")
			return f.receive(ctx, s, func(context.Context) (*http.Response, error) { return resp, nil }, nil)
		}
	}
	if err := f.await(ctx, s); err != nil {
		return piece{err: err}
	}
	var p piece
	for try := range resultTries {
		p = f.receive(ctx, s, func(ctx context.Context) (*http.Response, error) {
			return f.ask(ctx, f.written().Result)
		}, nil)
		if p.err == nil || ctx.Err() != nil || errors.Is(p.err, backend.ErrNotComfyUI) {
			break
		}
		if _, ours := errors.AsType[diskError](p.err); ours {
			break
		}
		if err := pauseFor(ctx, f.d.options.PollEvery<<try); err != nil {
			return piece{err: err}
		}
	}
	if p.err != nil && !errors.Is(p.err, backend.ErrLost) { // the container's answer was none: it died
		p.err = fmt.Errorf("%w: %w", backend.ErrLost, p.err)
	}
	return p
}

// submit offers the job to the queue until it is taken. An answer that it returns is the run's own.
func (f *follower) submit(ctx context.Context, inputs handing) (*http.Response, error) {
	pause := 200 * time.Millisecond
	for {
		resp, err := f.post(ctx, inputs, http.Header{preferHeader: {preferAsync}})
		if err == nil && resp.StatusCode == http.StatusOK && resp.Header.Get("Content-Type") == oneshot.ContentType {
			return resp, nil
		}
		if err == nil && resp.StatusCode < 300 && !fromContainer(resp) {
			defer drop(resp)
			return nil, f.ticket(resp)
		}
		if err == nil {
			err = f.d.refusal(resp)
			drop(resp)
		}
		e, ok := errors.AsType[*fault.Error](err)
		if !ok || e.Kind != fault.Busy || time.Since(f.began) > f.d.options.BusyFor {
			return nil, err
		}
		if err := pauseFor(ctx, max(pause, min(e.RetryAfter, 30*time.Second))); err != nil {
			return nil, err
		}
		pause = min(2*pause, 5*time.Second)
	}
}

// ticket writes down where the answer will be.
func (f *follower) ticket(resp *http.Response) error {
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxTicket))
	if err != nil {
		return f.d.lineTrouble(context.Background(), err)
	}
	var t struct {
		ID         string `json:"Id"`
		StatusPath string
		ResultPath string
	}
	if json.Unmarshal(raw, &t) != nil || t.ID == "" || len(t.ID) > maxInference || strings.ContainsAny(t.ID, "\r\n\x00") {
		return f.d.foreign(resp, raw, fmt.Errorf("status %d without an inference id", resp.StatusCode))
	}
	state, err := f.d.near(t.StatusPath)
	if err != nil {
		return err
	}
	result, err := f.d.near(t.ResultPath)
	if err != nil {
		return err
	}
	return f.write(true, func(n *note) { n.Inference, n.Status, n.Result = t.ID, state, result })
}

// near resolves an address that the provider gave. It has to be on the endpoint's own host: the key goes there.
func (d *Driver) near(path string) (string, error) {
	u, err := d.base.Parse(path)
	if err != nil || path == "" || u.Host != d.base.Host || u.Scheme != d.base.Scheme || u.User != nil {
		return "", trouble(backend.ErrNotComfyUI, fault.New(fault.Unavailable, "%s keeps answers at another host, which is not asked.", d.options.Name).
			WithCode(CodeDeployment).WithRemedy("Set backends.mode to agent."))
	}
	return u.String(), nil
}

// ask asks the provider about the run.
func (f *follower) ask(ctx context.Context, address string) (*http.Response, error) {
	if u, err := url.Parse(address); err != nil || u.Host != f.d.base.Host { // notes are files, and could be anybody's
		return nil, fmt.Errorf("%w: the note of the run names another host", backend.ErrLost)
	}
	return f.d.request(ctx, http.MethodGet, address, http.Header{inferenceHeader: {f.written().Inference}}, nil, 0)
}

// await returns when the provider has the answer.
func (f *follower) await(ctx context.Context, s *stream) error {
	answered, pause, word := time.Now(), f.d.options.PollEvery, ""
	for {
		state, err := f.state(ctx)
		switch {
		case err == nil:
			answered, pause = time.Now(), f.d.options.PollEvery
			if state != word {
				word = state
				f.d.log.Debug("a run in the provider's queue", "req", f.id, "state", state)
				if !s.send(ctx, piece{state: state}) {
					return context.Cause(ctx)
				}
			}
			low := strings.ToLower(state)
			if low == "completed" {
				return nil
			}
			if strings.Contains(low, "fail") || strings.Contains(low, "error") || strings.Contains(low, "cancel") || strings.Contains(low, "expired") {
				return trouble(backend.ErrLost, fault.New(fault.Unavailable, "The provider gave up the run (%s).", clip(state)).WithCode(CodeCut).
					WithRemedy("The container was taken away, or the request waited longer than the deployment's queue_message_ttl_seconds."))
			}
		case errors.Is(err, backend.ErrLost), ctx.Err() != nil:
			return err
		case time.Since(answered) > queueLost:
			return err
		default:
			pause = min(2*pause, queueMost)
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-f.notInLine: // its container says that it is over
			t.Stop()
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		}
	}
}

// stateWithin bounds one question for the state of a run.
const stateWithin = 20 * time.Second

// state asks the provider how far the run is.
func (f *follower) state(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, stateWithin)
	defer cancel()
	resp, err := f.ask(ctx, f.written().Status)
	if err != nil {
		return "", err
	}
	defer drop(resp)
	if resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusGone {
		return "", trouble(backend.ErrLost, fault.New(fault.Unavailable, "The provider does not know the run any more.").WithCode(CodeCut).
			WithRemedy("Its queue was purged, or its answer waited for too long."))
	}
	if resp.StatusCode != http.StatusOK {
		return "", f.d.refusal(resp)
	}
	var body struct{ Status string }
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxTicket)).Decode(&body); err != nil || body.Status == "" {
		return "", f.d.foreign(resp, nil, errors.Join(errors.New("a state without a word"), err))
	}
	return body.Status, nil
}
