package sim

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/ahelme/comfyume/internal/comfy/pyjson"
)

// reply writes JSON. A client that is gone does not hear it, and nobody else needs to.
func reply(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// text writes plain text.
func text(w http.ResponseWriter, status int, s string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(s)))
	w.WriteHeader(status)
	_, _ = io.WriteString(w, s)
}

// empty answers without a body.
func empty(w http.ResponseWriter, status int) {
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(status)
}

// broken is the answer of a real server whose handler raised.
func broken(w http.ResponseWriter) {
	text(w, http.StatusInternalServerError, "500 Internal Server Error\n\nServer got itself in trouble")
}

// body reads a request's body. ok is false when it has been answered because that went wrong.
func body(w http.ResponseWriter, r *http.Request) (b []byte, ok bool) {
	b, err := io.ReadAll(r.Body)
	if err == nil {
		return b, true
	}
	tooLarge(w, err)
	return nil, false
}

// tooLarge answers a body that could not be read: most often it was over the limit.
func tooLarge(w http.ResponseWriter, err error) {
	var limit *http.MaxBytesError
	if errors.As(err, &limit) {
		text(w, http.StatusRequestEntityTooLarge, "Maximum request body size "+strconv.FormatInt(limit.Limit, 10)+" exceeded.")
		return
	}
	broken(w)
}

// jsonBody reads a request's body as one JSON value, whatever its content type says.
func jsonBody(w http.ResponseWriter, r *http.Request) (raw json.RawMessage, ok bool) {
	b, ok := body(w, r)
	if !ok {
		return nil, false
	}
	if !pyjson.Valid(b) {
		broken(w)
		return nil, false
	}
	return b, true
}

// query reads the parameters of an address. Other than the standard library's it takes a semicolon for what it is
// here: a part of a value such as webp;90.
func query(r *http.Request) url.Values {
	values, err := url.ParseQuery(strings.ReplaceAll(r.URL.RawQuery, ";", "%3B"))
	if err != nil {
		return values // what could be read of it
	}
	return values
}

// wishes reads a request's body as a JSON object of which nothing has to be there. Python finds nothing in a list or
// a text either, and stumbles over the rest.
func wishes(w http.ResponseWriter, r *http.Request) (raw json.RawMessage, ok bool) {
	if raw, ok = jsonBody(w, r); !ok {
		return nil, false
	}
	switch pyjson.KindOf(raw) {
	case pyjson.Object:
		return raw, true
	case pyjson.Array, pyjson.String:
		return emptyObject, true
	}
	broken(w)
	return nil, false
}

// object reads a request's body as a JSON object.
func object(w http.ResponseWriter, r *http.Request) (raw json.RawMessage, ok bool) {
	raw, ok = jsonBody(w, r)
	if ok && pyjson.KindOf(raw) != pyjson.Object {
		broken(w)
		return nil, false
	}
	return raw, ok
}
