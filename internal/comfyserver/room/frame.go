package room

import (
	"encoding/json"
	"strconv"

	"github.com/ahelme/comfyume/internal/comfy"
	"github.com/ahelme/comfyume/internal/comfy/pyjson"
)

// kind says how a frame may be treated when its socket is slow.
type kind uint8

const (
	kindState    kind = iota // never dropped alone
	kindStatus               // only the latest of several in a row counts
	kindProgress             // progress, progress_state, previews: the latest of its key counts
	kindResult               // a picture that exists nowhere else: never dropped at all
)

// frame is one message as it goes out. Its bytes are shared by all sockets and never changed.
type frame struct {
	kind  kind
	first byte   // its first byte on the wire: text, binary or ping
	key   string // kindProgress: what it replaces
	data  []byte
	run   *run   // whose it is; nil for frames of no run
	after func() // called once when the frame has been written, or never will be
}

// text returns a JSON frame.
func text(k kind, typ string, data json.RawMessage) frame {
	return frame{kind: k, first: textFrame, data: comfy.EncodeFrame(typ, data)}
}

// statusFrame tells how many of the person's jobs are left. sid is set on the first frame of a socket alone.
func statusFrame(remaining int, sid string) frame {
	b := make([]byte, 0, 128)
	b = append(b, `{"status": {"exec_info": {"queue_remaining": `...)
	b = strconv.AppendInt(b, int64(remaining), 10)
	b = append(b, `}}`...)
	if sid != "" {
		b = append(b, `, "sid": `...)
		b = pyjson.AppendString(b, sid)
	}
	b = append(b, '}')
	return text(kindStatus, "status", b)
}

// executingFrame is what a real server sends to a socket that connects while its session's run is at node.
func executingFrame(node string) frame {
	b := append([]byte(`{"node": `), pyjson.AppendString(nil, node)...)
	return text(kindState, "executing", append(b, '}'))
}

// overFrame is the classic sign that a run is over, however it ended.
func overFrame(promptID string) frame {
	b := append(make([]byte, 0, 96), `{"node": null, "prompt_id": `...)
	b = pyjson.AppendString(b, promptID)
	return text(kindState, "executing", append(b, '}'))
}

// plainPreview is a preview with metadata as clients take it that did not ask for any. ok is false for other frames.
func plainPreview(b []byte) (plain []byte, ok bool) {
	f, err := comfy.DecodeBinary(b)
	if err != nil {
		return nil, false
	}
	p, ok := f.Plain()
	if !ok {
		return nil, false
	}
	return p.Encode(), true
}
