package fault_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
)

// TestHTTP holds what faces share: a status for each kind, and whole seconds that are never too few.
func TestHTTP(t *testing.T) {
	for k, want := range map[fault.Kind]int{
		fault.Internal: 500, fault.Invalid: 400, fault.Denied: 403, fault.Missing: 404, fault.Conflict: 409, fault.Busy: 429, fault.Unavailable: 503,
	} {
		if got := k.Status(); got != want {
			t.Errorf("%v is %d, want %d", k, got, want)
		}
	}
	for wait, want := range map[time.Duration]string{0: "", time.Millisecond: "1", time.Second: "1", 1001 * time.Millisecond: "2", time.Minute: "60"} {
		e := fault.New(fault.Busy, "x")
		e.RetryAfter = wait
		if got, ok := fault.RetryAfter(fmt.Errorf("wrapped: %w", e)); got != want || ok != (want != "") {
			t.Errorf("%v is %q, %t", wait, got, ok)
		}
	}
	if _, ok := fault.RetryAfter(errors.New("x")); ok {
		t.Error("an error without a kind says when to try again")
	}
}
