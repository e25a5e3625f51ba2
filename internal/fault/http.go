package fault

import (
	"errors"
	"net/http"
	"strconv"
	"time"
)

// Status returns the HTTP status that says what kind of error it is. Faces whose clients know other ones for single codes
// look at those first.
func (k Kind) Status() int {
	switch k {
	case Invalid:
		return http.StatusBadRequest
	case Denied:
		return http.StatusForbidden
	case Missing:
		return http.StatusNotFound
	case Conflict:
		return http.StatusConflict
	case Busy:
		return http.StatusTooManyRequests
	case Unavailable:
		return http.StatusServiceUnavailable
	default:
		return http.StatusInternalServerError
	}
}

// RetryAfter returns when to try again as the header of that name has it, in whole seconds, rounded up; false: err does
// not say.
func RetryAfter(err error) (seconds string, ok bool) {
	e, ok := errors.AsType[*Error](err)
	if !ok || e.RetryAfter <= 0 {
		return "", false
	}
	return strconv.Itoa(int((e.RetryAfter + time.Second - 1) / time.Second)), true
}
