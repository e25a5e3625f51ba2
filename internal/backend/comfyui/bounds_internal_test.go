package comfyui

import (
	"bytes"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/ahelme/comfyume/internal/backend"
)

// TestRecordIsBounded: what frames told is kept for a history that never tells, and a graph may tell without end.
func TestRecordIsBounded(t *testing.T) {
	t.Parallel()
	r := record{size: maxRecord} // the last one that fits
	for _, node := range []string{"1", "2"} {
		r.note(frame{Update: backend.Update{Type: "executed", Node: node, Data: []byte(`{"node":"1","output":{"text":["a"]}}`)}})
	}
	if len(r.outputs) != 1 || len(r.nodes) != 1 || r.size <= maxRecord {
		t.Errorf("%d bytes of nodes %q are kept", r.size, r.nodes)
	}
}

// TestLongTextsAreLeftOut: the connection goes on behind them.
func TestLongTextsAreLeftOut(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind       websocket.MessageType
		sent, want int
	}{
		{websocket.MessageText, 100, 100},
		{websocket.MessageText, maxText, maxText},
		{websocket.MessageText, maxText + 1, 0},
		{websocket.MessageText, maxText + 1<<20, 0},
		{websocket.MessageBinary, maxText + 1<<20, maxText + 1<<20},
	} {
		var buf bytes.Buffer
		r := strings.NewReader(strings.Repeat("a", c.sent))
		if err := readFrame(&buf, c.kind, r); err != nil || buf.Len() != c.want || r.Len() != 0 {
			t.Errorf("%v of %d: %d bytes, %d left, %v", c.kind, c.sent, buf.Len(), r.Len(), err)
		}
	}
}
