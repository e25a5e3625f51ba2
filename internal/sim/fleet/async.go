package fleet

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"time"

	"github.com/google/uuid"
)

// inference is a request that the provider keeps, with its answer once it has one.
type inference struct {
	state  string // Queue, Inference, Completed
	ended  time.Time
	answer *kept
}

// kept is an answer in memory. It is a http.ResponseWriter.
type kept struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (k *kept) Header() http.Header { return k.header }

func (k *kept) WriteHeader(status int) {
	if k.status == 0 && status >= 200 {
		k.status = status
	}
}

func (k *kept) Write(p []byte) (int, error) {
	k.WriteHeader(http.StatusOK)
	return k.body.Write(p)
}

// Flush lets the proxy stream, to nobody.
func (k *kept) Flush() {}

// maxLater bounds a request that is kept: what a provider of queues takes.
const maxLater = 512 << 20

// takeLater keeps a request, tells its id, and gives it to a replica when there is one.
func (f *Fleet) takeLater(w http.ResponseWriter, r *http.Request, trouble *Fault) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxLater))
	if err != nil {
		http.Error(w, "The request can't be read.", http.StatusBadRequest)
		return
	}
	id := uuid.NewString()
	f.mu.Lock()
	f.later[id] = &inference{state: "Queue"}
	f.counts.Later++
	f.mu.Unlock()
	later := r.Clone(context.WithoutCancel(r.Context()))
	later.Header.Del("Prefer")
	later.Header.Set("X-Inference-Id", id)
	later.Body, later.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	f.parts.Go(func() { f.inference(id, later, trouble) })
	head := w.Header()
	head.Set("X-Inference-Id", id)
	head.Set("Preference-Applied", "respond-async")
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusAccepted)
	tell(w, map[string]string{"Id": id, "Status": "Initialized", "StatusPath": "/status/" + f.o.Deployment, "ResultPath": "/result/" + f.o.Deployment})
}

// inference runs a kept request.
func (f *Fleet) inference(id string, r *http.Request, trouble *Fault) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(f.closed, cancel)()
	answer := &kept{header: http.Header{}}
	func() {
		defer func() {
			// A line that breaks ends the handler so; the provider calls that a bad gateway.
			if v := recover(); v != nil && v != http.ErrAbortHandler {
				panic(v)
			} else if v != nil {
				answer = &kept{header: http.Header{}, status: http.StatusBadGateway}
			}
		}()
		f.forward(answer, r.WithContext(ctx), trouble)
	}()
	f.mu.Lock()
	defer f.mu.Unlock()
	if in := f.later[id]; in != nil {
		in.state, in.answer, in.ended = "Completed", answer, time.Now()
	}
}

// forget drops results that nobody came for.
func (f *Fleet) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	maps.DeleteFunc(f.later, func(_ string, in *inference) bool {
		return in.answer != nil && time.Since(in.ended) > f.o.KeepResult
	})
}

// asyncStatus says how far a kept request is.
func (f *Fleet) asyncStatus(w http.ResponseWriter, r *http.Request) {
	id := r.Header.Get("X-Inference-Id")
	f.mu.Lock()
	in, state := f.later[id], ""
	if in != nil {
		state = in.state
	}
	f.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	if in == nil {
		w.WriteHeader(http.StatusNotFound)
		tell(w, map[string]string{"message": "This simulated endpoint has no such inference."})
		return
	}
	tell(w, map[string]string{"Id": id, "Status": state})
}

// asyncResult gives the answer to a kept request. It may be asked for again.
func (f *Fleet) asyncResult(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	var answer *kept
	in := f.later[r.Header.Get("X-Inference-Id")]
	if in != nil {
		answer = in.answer
	}
	f.mu.Unlock()
	if answer == nil {
		status := http.StatusNotFound
		if in != nil {
			status = http.StatusAccepted
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		tell(w, map[string]string{"message": "This simulated inference has no result."})
		return
	}
	maps.Copy(w.Header(), answer.header)
	w.WriteHeader(max(answer.status, http.StatusOK))
	_, _ = w.Write(answer.body.Bytes()) // who asked may have gone
}

// tell writes JSON.
func tell(w io.Writer, v any) {
	_ = json.NewEncoder(w).Encode(v) // as above
}
