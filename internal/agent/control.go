package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/ahelme/comfyume/internal/agent/report"
	"github.com/ahelme/comfyume/internal/fault"
)

// Control returns the agent's control interface. Whoever mounts it sees to it that only the studio reaches it.
//
//	GET  /status                 Status as JSON
//	GET  /logs?after=N&follow=1  lines NUMBER TIME TEXT after line N, as text; with follow until the caller goes
//	POST /restart                {"why":"…"}; Status, at once; with ?wait=1 when ComfyUI is ready, or why it is not
//
// Errors are report.Problem. more holds what is mounted beside, by prefix such as /models.
func (a *Agent) Control(more map[string]http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) { a.answer(w, a.Status(), nil) })
	mux.HandleFunc("GET /logs", a.logs)
	mux.HandleFunc("POST /restart", a.restart)
	for prefix, h := range more {
		prefix = "/" + strings.Trim(prefix, "/")
		mux.Handle(prefix, h)
		mux.Handle(prefix+"/", h)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		a.answer(w, nil, fault.New(fault.Missing, "The agent has no such address.").WithRemedy("The studio and the agent may be of different versions."))
	})
	return mux
}

func (a *Agent) logs(w http.ResponseWriter, r *http.Request) {
	after, err := uint64(0), error(nil)
	if text := r.FormValue("after"); text != "" {
		if after, err = strconv.ParseUint(text, 10, 64); err != nil {
			a.answer(w, nil, fault.New(fault.Invalid, "after: %q is not the number of a line.", text).WithRemedy("Leave it out, or give the number at the start of the last line you have."))
			return
		}
	}
	follow := r.FormValue("follow")
	if follow != "" && follow != "0" && follow != "1" {
		a.answer(w, nil, fault.New(fault.Invalid, "follow: %q is neither 0 nor 1.", follow))
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	flush := http.NewResponseController(w)
	send := func(lines []Line) error {
		for _, l := range lines {
			if _, err := fmt.Fprintf(w, "%d %s %s\n", l.N, l.At.UTC().Format(time.RFC3339Nano), l.Text); err != nil {
				return err
			}
			after = l.N
		}
		return flush.Flush()
	}
	if err := send(a.output.After(after)); err != nil || follow != "1" {
		return // whoever asked is gone, or has all
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(a.open, cancel)()
	for {
		lines := a.output.Next(ctx, after)
		if len(lines) == 0 {
			return
		}
		if err := send(lines); err != nil {
			return
		}
	}
}

func (a *Agent) restart(w http.ResponseWriter, r *http.Request) {
	var ask struct {
		Why string `json:"why"`
	}
	if r.ContentLength != 0 {
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4096)).Decode(&ask); err != nil {
			a.answer(w, nil, fault.Wrap(fault.Invalid, err, "The body is no JSON object.").WithRemedy(`Send {"why":"…"}, or nothing.`))
			return
		}
	}
	why := clip(strings.Map(func(c rune) rune {
		if c < ' ' {
			return ' '
		}
		return c
	}, ask.Why))
	if why == "" {
		why = "no reason was given"
	}
	if st := a.comfy.Status().ComfyUI; !st.Owned {
		a.answer(w, nil, a.comfy.Restart(r.Context(), why))
		return
	}
	if r.FormValue("wait") == "1" {
		if err := a.comfy.Restart(r.Context(), why); err != nil {
			a.answer(w, nil, err)
			return
		}
		a.answer(w, a.Status(), nil)
		return
	}
	a.background.Go(func() {
		// The outcome is in the status and in the log.
		a.comfy.Restart(a.life, why) //nolint:errcheck // see above
	})
	a.answer(w, a.Status(), nil)
}

func (a *Agent) answer(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Cache-Control", "no-store")
	report.Answer(w, a.o.Log, v, err)
}

// refused answers a caller without the key, in the forms of both the control interface and jobs.
func refused(w http.ResponseWriter, err error) {
	p := report.ProblemOf(err)
	w.Header().Set("WWW-Authenticate", "Bearer")
	writeJSON(w, http.StatusUnauthorized, map[string]any{
		"kind": p.Kind, "code": p.Code, "text": p.Text, "remedy": p.Remedy,
		"error": map[string]string{"code": p.Code, "message": p.Text, "remedy": p.Remedy},
	})
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(v) //nolint:errcheck // whoever asked is gone
}
