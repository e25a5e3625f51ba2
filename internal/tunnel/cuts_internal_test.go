package tunnel

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// TestCutsAreRecognised: a proxy with a time limit cuts at equal times; a bad network does not.
func TestCutsAreRecognised(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		lasted []time.Duration
		why    error
		says   string
	}{
		"a proxy's limit": {[]time.Duration{60 * time.Second, 60100 * time.Millisecond, 59900 * time.Millisecond}, errCut, "after 1m0s each time"},
		"a bad network":   {[]time.Duration{60 * time.Second, 5 * time.Second, 200 * time.Second}, errCut, ""},
		"restarts":        {[]time.Duration{60 * time.Second, 60 * time.Second, 60 * time.Second}, errGoodbye, ""},
		"at once":         {[]time.Duration{time.Second, time.Second, time.Second}, errCut, ""},
		"twice only":      {[]time.Duration{60 * time.Second, 60 * time.Second}, errCut, ""},
	} {
		var k cuts
		var last error
		for _, d := range c.lasted {
			last = k.note(d, c.why)
		}
		if c.says == "" && last != nil || c.says != "" && (last == nil || !strings.Contains(last.Error(), c.says) || codeOf(last) != CodeCut) {
			t.Errorf("%s: %v, want %q", name, last, c.says)
		}
	}
}

// FuzzPolice: however frames are cut into reads, the same is seen.
func FuzzPolice(f *testing.F) {
	f.Add([]byte("\x00\x01\x00\x01\x00\x00\x00\x02\x00\x00\x00\x00"), byte(5))
	f.Add([]byte("\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x03abc\x00\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), byte(1))
	f.Fuzz(func(t *testing.T, b []byte, size byte) {
		whole, parts := police{only: true}, police{only: true}
		want := whole.look(b)
		var got error
		for step := int(size) + 1; len(b) > 0 && got == nil; b = b[min(step, len(b)):] {
			got = parts.look(b[:min(step, len(b))])
		}
		if !errors.Is(got, want) || !errors.Is(parts.said(), whole.said()) {
			t.Errorf("whole: %v (%v), in parts: %v (%v)", want, whole.said(), got, parts.said())
		}
	})
}
