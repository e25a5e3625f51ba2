package queueapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"strings"

	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/fault"
)

// Codes of errors that have a status of their own.
const (
	codeSignedOut = "signed_out"
	codeTooLarge  = "too_large"
	codeNoJob     = "no_such_job"
)

// Problem is the body of every error. Programs of old read detail.
type Problem struct {
	Detail     string          `json:"detail"`
	Code       string          `json:"code,omitempty"`
	Remedy     string          `json:"remedy,omitempty"`
	Error      json.RawMessage `json:"error,omitempty"`       // of a graph that can't run, as ComfyUI says it
	NodeErrors json.RawMessage `json:"node_errors,omitempty"` // the same
}

// statusOf is the status of an error. What is wrong in a body that can be read is 422 here.
func statusOf(err error) int {
	if fault.Is(err, fault.Invalid) {
		return http.StatusUnprocessableEntity
	}
	return fault.KindOf(err).Status()
}

// codes are those of errors whose status is another than their kind's.
var codes = map[string]int{
	codeSignedOut: http.StatusUnauthorized,
	codeTooLarge:  http.StatusRequestEntityTooLarge,
	"disk_full":   http.StatusInsufficientStorage,
	"disk_quota":  http.StatusInsufficientStorage,
}

// fail answers with an error. One that nobody classified is logged here, once, and not shown.
func (f *Face) fail(w http.ResponseWriter, r *http.Request, err error) {
	if refusal, ok := errors.AsType[*Refusal](err); ok {
		f.refused(w, refusal)
		return
	}
	status := statusOf(err)
	if status == http.StatusInternalServerError && r.Context().Err() == nil {
		f.log.LogAttrs(r.Context(), slog.LevelError, "request failed", slog.String("route", r.Pattern), slog.Any("err", err))
	}
	var p Problem
	p.Detail, p.Remedy = fault.Public(err)
	if e, ok := errors.AsType[*fault.Error](err); ok {
		p.Code = e.Code
		if s, ok := codes[e.Code]; ok {
			status = s
		}
	}
	if seconds, ok := fault.RetryAfter(err); ok {
		w.Header().Set("Retry-After", seconds)
	}
	if status == http.StatusTooManyRequests && w.Header().Get("Retry-After") == "" {
		w.Header().Set("Retry-After", "5")
	}
	f.write(w, status, p)
}

// refused answers with what is wrong with a graph.
func (f *Face) refused(w http.ResponseWriter, refusal *Refusal) {
	p := Problem{Detail: refusal.Error(), Code: "invalid_workflow"}
	p.Error, _ = pyjson.Get(refusal.Body, "error")
	p.NodeErrors, _ = pyjson.Get(refusal.Body, "node_errors")
	text := func(key string) string {
		raw, _ := pyjson.Get(p.Error, key)
		s, _ := pyjson.Text(raw)
		return strings.TrimSpace(s)
	}
	if m, d := text("message"), text("details"); m != "" {
		p.Detail = "workflow: " + m
		if d != "" && d != m {
			p.Detail = strings.TrimRight(p.Detail, ".") + ": " + strings.ReplaceAll(d, "\n", "; ")
		}
	}
	f.write(w, http.StatusUnprocessableEntity, p)
}

// write answers with v as JSON. That the client has gone is nobody's trouble.
func (f *Face) write(w http.ResponseWriter, status int, v any) {
	var b bytes.Buffer
	if err := encode(&b, v); err != nil { // only our own types come here
		f.log.Error("encode an answer", "err", err)
		b.Reset()
		b.WriteString(`{"detail":"Something went wrong inside the studio."}`)
		status = http.StatusInternalServerError
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(b.Len()))
	w.WriteHeader(status)
	if _, err := w.Write(b.Bytes()); err != nil {
		f.log.Debug("write an answer", "err", err)
	}
}

func encode(b *bytes.Buffer, v any) error {
	e := json.NewEncoder(b)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// noRoute answers in JSON where no address is.
func (f *Face) noRoute(w http.ResponseWriter, r *http.Request) {
	probe := &allowed{header: http.Header{}}
	f.mux.ServeHTTP(probe, r) // the mux knows whether only the method is wrong
	p := Problem{Detail: "There is no " + r.Method + " " + r.URL.Path + " in the queue manager's interface.", Code: "no_such_address"}
	status := http.StatusNotFound
	if probe.status == http.StatusMethodNotAllowed {
		status, p.Code = probe.status, "method_not_allowed"
		p.Remedy = "It takes " + probe.header.Get("Allow") + "."
		w.Header().Set("Allow", probe.header.Get("Allow"))
	}
	f.write(w, status, p)
}

// allowed takes the mux's own answer, of which only status and Allow are of use.
type allowed struct {
	header http.Header
	status int
}

func (a *allowed) Header() http.Header         { return a.header }
func (a *allowed) Write(p []byte) (int, error) { return len(p), nil }
func (a *allowed) WriteHeader(status int)      { a.status = status }

// wrong is the error of a field: which, what is wrong with its value, and what to send instead.
func wrong(field, remedy, format string, args ...any) error {
	return fault.New(fault.Invalid, field+": "+format, args...).WithRemedy("%s", remedy).WithCode("invalid_" + field)
}

func noJob(id string) error {
	return fault.New(fault.Missing, "There is no job %s.", clip(id)).
		WithRemedy("GET /api/jobs shows those that you may see.").WithCode(codeNoJob)
}

// clip shortens what somebody sent for a sentence.
func clip(s string) string {
	const most = 100
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
