package nodepacks

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/ahelme/comfyume/internal/agent/report"
	"github.com/ahelme/comfyume/internal/fault"
)

// maxRequest bounds a request's body.
const maxRequest = 64 << 10

// Handler serves /nodes and what lies below it. It asks for no key: whoever mounts it does.
//
//	GET  /nodes            list of Pack
//	POST /nodes/install    body Want; events (package report), at the end Outcome
//	POST /nodes/pin        the same; without url, that of the pack
//	POST /nodes/rollback   the same, of which name and restart count
func (s *Store) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /nodes", func(w http.ResponseWriter, r *http.Request) {
		list, err := s.List(r.Context())
		report.Answer(w, s.log, list, err)
	})
	change := func(route string, do func(context.Context, Want, report.Sink) (Outcome, error)) {
		mux.HandleFunc("POST /nodes/"+route, func(w http.ResponseWriter, r *http.Request) {
			var want Want
			if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest)).Decode(&want); err != nil {
				report.Answer(w, s.log, nil, fault.Wrap(fault.Invalid, err, "The request is no JSON object that names a pack."))
				return
			}
			report.Serve(w, r, s.log, func(ctx context.Context, tell report.Sink) (any, error) { return do(ctx, want, tell) })
		})
	}
	change("install", s.Install)
	change("pin", s.Pin)
	change("rollback", s.Rollback)
	return mux
}
