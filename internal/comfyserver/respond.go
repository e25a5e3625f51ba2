package comfyserver

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/fault"
)

// Codes of faults that have a status of their own.
const (
	codeTooLarge     = "too_large"  // 413
	codeDiskFull     = "disk_full"  // 507
	codeDiskQuota    = "disk_quota" // 507
	codePromptIDUsed = "prompt_id_in_use"
	codeNoMethod     = "method_not_allowed"
	codeNoSignIn     = "not_signed_in"
	codeBadRange     = "bad_range" // 416
)

const jsonType = "application/json; charset=utf-8"

// empty is the answer where a real server sends nothing: programs that parse every answer as JSON take it.
var empty = []byte("{}")

// writeJSON answers with a whole JSON body. It returns nil: an error of writing means that the client left.
func writeJSON(w http.ResponseWriter, status int, body []byte) error {
	h := w.Header()
	h.Set("Content-Type", jsonType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body)
	return nil
}

// done answers 200 where there is nothing to say.
func done(w http.ResponseWriter) error { return writeJSON(w, http.StatusOK, empty) }

// encode answers 200 with v as JSON.
func encode(w http.ResponseWriter, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, b)
}

// errorBody is the form in which ComfyUI's clients read errors.
func errorBody(typ, message, details string) []byte {
	b := append([]byte(`{"error": {"type": `), pyjson.AppendString(nil, typ)...)
	b = pyjson.AppendString(append(b, `, "message": `...), message)
	b = pyjson.AppendString(append(b, `, "details": `...), details)
	return append(b, `, "extra_info": {}}, "node_errors": {}}`...)
}

// invalid is an error the caller of a route made.
func invalid(code, format string, args ...any) error {
	return fault.New(fault.Invalid, format, args...).WithCode(code)
}

// missing is the error for what is not there, or not theirs.
func missing(format string, args ...any) error {
	return fault.New(fault.Missing, format, args...).WithCode("not_found")
}

// statusOf maps an error to the status it is answered with.
func statusOf(err error) int {
	if f, ok := errors.AsType[*fault.Error](err); ok {
		switch f.Code {
		case codeTooLarge:
			return http.StatusRequestEntityTooLarge
		case codeDiskFull, codeDiskQuota:
			return http.StatusInsufficientStorage
		case codePromptIDUsed:
			return http.StatusBadRequest
		case codeNoMethod:
			return http.StatusMethodNotAllowed
		case codeNoSignIn:
			return http.StatusUnauthorized
		case codeBadRange:
			return http.StatusRequestedRangeNotSatisfiable
		}
	}
	return fault.KindOf(err).Status()
}

// writeError answers with err as JSON, and logs it when it is a defect.
func (s *Server) writeError(w http.ResponseWriter, r *http.Request, user string, err error) {
	if r.Context().Err() != nil && errors.Is(err, context.Canceled) {
		return // nobody is there to read it
	}
	status := statusOf(err)
	typ := fault.KindOf(err).String()
	if f, ok := errors.AsType[*fault.Error](err); ok {
		if f.Code != "" {
			typ = f.Code
		}
	}
	if seconds, ok := fault.RetryAfter(err); ok {
		w.Header().Set("Retry-After", seconds)
	}
	if status == http.StatusTooManyRequests && w.Header().Get("Retry-After") == "" {
		w.Header().Set("Retry-After", "5")
	}
	if status == http.StatusInternalServerError {
		s.log.LogAttrs(r.Context(), slog.LevelError, "request failed",
			slog.String("user", user), slog.String("route", r.URL.Path), slog.Any("err", err))
	}
	h := w.Header()
	for _, k := range []string{"Content-Encoding", "ETag", "Last-Modified", "Content-Disposition"} {
		h.Del(k)
	}
	h.Set("Cache-Control", "no-store")
	sentence, remedy := fault.Public(err)
	_ = writeJSON(w, status, errorBody(typ, sentence, remedy))
}

// serveContent answers with a file, or a range of it. Headers are set already.
func serveContent(w http.ResponseWriter, c *call, modified time.Time, content io.ReadSeeker) error {
	answer := &contentWriter{ResponseWriter: w}
	http.ServeContent(answer, c.Request, "", modified, content)
	if answer.refused {
		return invalid(codeBadRange, "The file has no such range.")
	}
	return nil
}

// contentWriter keeps net/http from refusing a range in its own words.
type contentWriter struct {
	http.ResponseWriter
	refused bool
}

func (w *contentWriter) WriteHeader(status int) {
	if w.refused = status == http.StatusRequestedRangeNotSatisfiable; !w.refused {
		w.ResponseWriter.WriteHeader(status)
	}
}

func (w *contentWriter) Write(b []byte) (int, error) {
	if w.refused {
		return len(b), nil
	}
	return w.ResponseWriter.Write(b)
}

// ReadFrom lets the kernel send files.
func (w *contentWriter) ReadFrom(r io.Reader) (int64, error) { return io.Copy(w.ResponseWriter, r) }

// millis is t in milliseconds, as ComfyUI counts.
func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}
