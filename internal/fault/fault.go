// Package fault gives every error of ComfyuME a kind, a sentence that may be shown to a person, and where
// possible a remedy. Only the kind crosses layers; the cause is for the log.
package fault

import (
	"errors"
	"fmt"
	"time"
)

// Kind says what sort of trouble an error is, and so what a face answers.
type Kind uint8

// The kinds. The zero value is Internal: an error nobody classified is never shown to a person.
const (
	Internal    Kind = iota // a defect of ours or of the machine
	Invalid                 // the request is wrong; the text says which field, which value, what to do
	Denied                  // the person may not do this
	Missing                 // there is no such thing, or it is not theirs
	Conflict                // it clashes with what is there
	Busy                    // a limit is reached; try again later
	Unavailable             // something that is needed does not answer now
)

// String returns the kind's word as it appears in logs and in JSON.
func (k Kind) String() string {
	switch k {
	case Invalid:
		return "invalid"
	case Denied:
		return "denied"
	case Missing:
		return "missing"
	case Conflict:
		return "conflict"
	case Busy:
		return "busy"
	case Unavailable:
		return "unavailable"
	default:
		return "internal"
	}
}

// Error is an error with a kind and a sentence for people.
type Error struct {
	Kind       Kind
	Code       string        // short machine word, such as "prompt_id_in_use"; may be empty
	Public     string        // one sentence that may be shown: what and why
	Remedy     string        // what to do next; may be empty
	RetryAfter time.Duration // for Busy and Unavailable; zero: not known
	Cause      error         // for the log only; may be nil
}

// New returns an error of kind k with a public sentence.
func New(k Kind, format string, args ...any) *Error {
	return &Error{Kind: k, Public: fmt.Sprintf(format, args...)}
}

// Wrap returns an error of kind k with a public sentence and cause for the log.
func Wrap(k Kind, cause error, format string, args ...any) *Error {
	return &Error{Kind: k, Public: fmt.Sprintf(format, args...), Cause: cause}
}

// WithCode returns e with a machine word.
func (e *Error) WithCode(code string) *Error { e.Code = code; return e }

// WithRemedy returns e with what to do next.
func (e *Error) WithRemedy(format string, args ...any) *Error {
	e.Remedy = fmt.Sprintf(format, args...)
	return e
}

// Error returns the whole story for logs and terminals: sentence, remedy, cause.
func (e *Error) Error() string {
	s := e.Public
	if e.Remedy != "" {
		s += " — " + e.Remedy
	}
	if e.Cause != nil {
		s += ": " + e.Cause.Error()
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// KindOf returns the kind of err, Internal when nobody gave it one.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return Internal
}

// Is reports whether err is of kind k.
func Is(err error, k Kind) bool { return err != nil && KindOf(err) == k }

// Public returns the sentence and the remedy that may be shown for err. Errors without a kind give a neutral
// sentence: their text may hold paths or other people's names.
func Public(err error) (sentence, remedy string) {
	if e, ok := errors.AsType[*Error](err); ok && e.Public != "" {
		return e.Public, e.Remedy
	}
	return "Something went wrong inside the studio.", "Tell the operator; the log has the details."
}
