package comfyui

import (
	"bytes"
	"encoding/binary"
	"encoding/json"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/comfy/pyjson"
)

// frameKind sorts frames by what the driver has to do about them.
type frameKind uint8

const (
	frameNone   frameKind = iota // nothing anybody needs
	framePass                    // passed on to the run's owner
	frameStatus                  // the queue changed
	frameStart                   // the run has begun
	frameEnd                     // the run is over: success, error or interrupted
	frameNull                    // executing null: over, and the history has it
)

// frame is one frame of the server, read as far as the driver needs it.
type frame struct {
	backend.Update
	kind  frameKind
	runID string // empty when the frame names none
}

// decode reads a frame. The result does not share b's memory.
func decode(isBinary bool, b []byte) (f frame, remaining int64) {
	if isBinary {
		if len(b) < 4 {
			return frame{}, 0
		}
		f = frame{kind: framePass, Update: backend.Update{Binary: bytes.Clone(b)}}
		f.readPreview()
		return f, 0
	}
	typ, data := split(b)
	switch typ {
	case "":
		return frame{}, 0
	case "status":
		n, ok := pyjson.Get(data, "status", "exec_info", "queue_remaining")
		if !ok {
			return frame{}, 0
		}
		return frame{kind: frameStatus}, digits(n)
	case "feature_flags", "logs":
		return frame{}, 0
	}
	f = frame{kind: framePass, Update: backend.Update{Type: typ, Data: bytes.Clone(data)}}
	blocked := false
	err := pyjson.EachMember(f.Data, func(key string, value json.RawMessage, _ int) error {
		switch key {
		case "prompt_id":
			f.runID = pyjson.TextOf(value)
		case "node", "node_id":
			f.Node = pyjson.TextOf(value)
			if key == "node" && typ == "executing" && pyjson.KindOf(value) == pyjson.Null {
				f.kind = frameNull
			}
		case "exception_type":
			blocked = pyjson.TextOf(value) == "ExecutionBlocked"
		}
		return nil
	})
	if err != nil { // a custom node may send data that is no object
		f.runID, f.Node = "", ""
	}
	switch typ {
	case "execution_start":
		f.kind = frameStart
	case "execution_success", "execution_interrupted":
		f.kind = frameEnd
	case "execution_error":
		if !blocked { // a blocked node is told this way too, and the run goes on
			f.kind = frameEnd
		}
	}
	return f, 0
}

// readPreview reads whose preview a frame is, as far as it says so.
func (f *frame) readPreview() {
	b := f.Binary
	const previewWithMetadata = 4
	if len(b) < 8 || binary.BigEndian.Uint32(b) != previewWithMetadata {
		return
	}
	n := int(binary.BigEndian.Uint32(b[4:]))
	if n > len(b)-8 {
		return
	}
	id, _ := pyjson.Get(b[8:8+n], "prompt_id")
	node, _ := pyjson.Get(b[8:8+n], "node_id")
	f.runID, f.Node = pyjson.TextOf(id), pyjson.TextOf(node)
}

// split returns the two parts of a text frame; typ is empty when it is none.
func split(b []byte) (typ string, data json.RawMessage) {
	err := pyjson.EachMember(b, func(key string, value json.RawMessage, _ int) error {
		switch key {
		case "type":
			typ = pyjson.TextOf(value)
		case "data":
			data = value
		}
		return nil
	})
	if err != nil {
		return "", nil
	}
	return typ, data
}

// digits reads a whole number; the server counts in small ones.
func digits(raw []byte) int64 {
	var n int64
	for _, c := range raw {
		if c < '0' || c > '9' || n > 1<<40 {
			break
		}
		n = n*10 + int64(c-'0')
	}
	return n
}
