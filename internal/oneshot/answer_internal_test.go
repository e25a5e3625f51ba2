package oneshot

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

// TestKeptFilesAreBounded: a file that was left in storage counts as one that comes: it may be one hole without an end, and
// is copied to the studio's disk.
func TestKeptFilesAreBounded(t *testing.T) {
	t.Parallel()
	stream := bytes.NewBufferString(preface)
	for _, r := range []struct {
		kind kind
		body any
	}{
		{kindHello, Hello{Protocol: Version, Run: "r"}},
		{kindKept, kept{opening{N: 0}, closing{600, strings.Repeat("0", 64)}, "a"}},
		{kindKept, kept{opening{N: 1}, closing{600, strings.Repeat("0", 64)}, "b"}},
	} {
		b, err := jsonRecord(r.kind, r.body)
		if err != nil {
			t.Fatal(err)
		}
		stream.Write(b)
	}
	a := NewAnswer(stream, nil, 1000)
	for range 2 {
		if _, err := a.Next(); err != nil {
			t.Fatal(err)
		}
	}
	if e, err := a.Next(); !errors.Is(err, ErrCorrupt) {
		t.Errorf("1,200 bytes of 1,000 gave %+v, %v", e, err)
	}
}
