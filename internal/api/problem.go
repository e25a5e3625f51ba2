package api

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/ahelme/comfyume/internal/fault"
)

// Problem is the body of every error, after RFC 9457.
type Problem struct {
	Status int    `json:"status"`
	Title  string `json:"title"`
	Detail string `json:"detail"`
	Code   string `json:"code,omitempty"`
	Remedy string `json:"remedy,omitempty"`

	retry http.Header
}

// Error returns the sentence.
func (p *Problem) Error() string { return p.Detail }

// GetStatus returns the status of the answer.
func (p *Problem) GetStatus() int { return p.Status }

// GetHeaders returns Retry-After where it is known.
func (p *Problem) GetHeaders() http.Header { return p.retry }

// ContentType names the kind of body.
func (p *Problem) ContentType(string) string { return "application/problem+json" }

// statusOf is the status of an error. What is wrong in a body that can be read is 422 here.
func statusOf(err error) int {
	if fault.Is(err, fault.Invalid) {
		return http.StatusUnprocessableEntity
	}
	return fault.KindOf(err).Status()
}

// problem turns an error into an answer. An error that nobody classified is logged here, once, and not shown.
func (f *Face) problem(ctx context.Context, err error, status int) error {
	kind := fault.KindOf(err)
	if kind == fault.Internal {
		f.log.LogAttrs(ctx, slog.LevelError, "request", slog.Any("err", err))
	}
	p := &Problem{Status: status, retry: http.Header{}}
	if status == 0 {
		p.Status = statusOf(err)
	}
	p.Title = http.StatusText(p.Status)
	p.Detail, p.Remedy = fault.Public(err)
	if e, ok := errors.AsType[*fault.Error](err); ok {
		p.Code = e.Code
	}
	if seconds, ok := fault.RetryAfter(err); ok {
		p.retry.Set("Retry-After", seconds)
	}
	return p
}

// inOneSentence turns what a request's checks found into a Problem: where it is, what was sent and what belongs there.
func inOneSentence(_ huma.Context, _ string, v any) (any, error) {
	found, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	p := &Problem{Status: found.Status, Title: found.Title, Detail: found.Detail}
	var parts []string
	for _, e := range found.Errors {
		_, field, inside := strings.Cut(e.Location, ".") // body.name
		part := e.Message
		if inside {
			part = field + ": " + part
		}
		switch sent, err := json.Marshal(e.Value); {
		case err != nil || e.Value == nil || e.Value == "":
		case len(sent) <= 100 && sent[0] != '{' && sent[0] != '[':
			part += ", and not " + string(sent)
		}
		parts = append(parts, part)
	}
	if len(parts) > 0 {
		p.Detail, p.Remedy = strings.Join(parts, "; ")+".", "See what is taken in "+Base+"/openapi.json."
	}
	return p, nil
}

// noSuchRoute answers in JSON where no operation is.
func (f *Face) noSuchRoute(w http.ResponseWriter, r *http.Request) {
	p := &Problem{Status: http.StatusNotFound, Detail: "There is no " + r.Method + " " + r.URL.Path + " in this interface."}
	rec := &allowed{header: http.Header{}}
	f.mux.ServeHTTP(rec, r) // the mux knows whether only the method is wrong
	if rec.status == http.StatusMethodNotAllowed {
		p.Status = rec.status
		w.Header().Set("Allow", rec.header.Get("Allow"))
	}
	p.Title = http.StatusText(p.Status)
	w.Header().Set("Content-Type", p.ContentType(""))
	w.WriteHeader(p.Status)
	if err := json.NewEncoder(w).Encode(p); err != nil {
		f.log.LogAttrs(r.Context(), slog.LevelDebug, "request", slog.Any("err", err)) // who asked is gone
	}
}

// allowed takes the mux's own answer, of which only status and Allow are of use.
type allowed struct {
	header http.Header
	status int
}

func (a *allowed) Header() http.Header         { return a.header }
func (a *allowed) Write(p []byte) (int, error) { return len(p), nil }
func (a *allowed) WriteHeader(status int)      { a.status = status }
