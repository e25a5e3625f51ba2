package modelstore

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/ahelme/comfyume/internal/agent/report"
	"github.com/ahelme/comfyume/internal/fault"
)

// maxRequest bounds a request's body.
const maxRequest = 64 << 10

// Handler serves /models and what lies below it. It asks for no key: whoever mounts it does.
//
//	GET    /models                        list of Model
//	POST   /models/hash                   the same with all hashes, as events (package report)
//	POST   /models/get                    body Want; events, at the end Model
//	DELETE /models?folder=F&name=N        the Model that is gone
func (s *Store) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /models", func(w http.ResponseWriter, _ *http.Request) {
		list, err := s.List()
		report.Answer(w, s.log, list, err)
	})
	mux.HandleFunc("POST /models/hash", func(w http.ResponseWriter, r *http.Request) {
		report.Serve(w, r, s.log, func(ctx context.Context, tell report.Sink) (any, error) {
			name := ""
			return s.Hash(ctx, func(of string, at, total int64) {
				e := report.Event{State: "hashing", At: at, Total: total}
				if of != name {
					name, e.Text = of, of
				}
				tell(e)
			})
		})
	})
	mux.HandleFunc("POST /models/get", func(w http.ResponseWriter, r *http.Request) {
		var want Want
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest)).Decode(&want); err != nil {
			report.Answer(w, s.log, nil, fault.Wrap(fault.Invalid, err, "The request is no JSON object with folder, name, url and sha256."))
			return
		}
		report.Serve(w, r, s.log, func(ctx context.Context, tell report.Sink) (any, error) {
			return s.Get(ctx, want, func(state string, at, total int64) { tell(report.Event{State: state, At: at, Total: total}) })
		})
	})
	mux.HandleFunc("DELETE /models", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		gone, err := s.Remove(q.Get("folder"), q.Get("name"))
		report.Answer(w, s.log, gone, err)
	})
	return mux
}
