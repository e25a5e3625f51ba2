package comfy

import (
	"encoding/binary"
	"encoding/json"
	"errors"

	"github.com/ahelme/comfyume/internal/comfy/pyjson"
)

// EncodeFrame returns a JSON frame with its type first, as clients expect that look at the first bytes only.
func EncodeFrame(typ string, data json.RawMessage) []byte {
	b := make([]byte, 0, len(typ)+len(data)+24)
	b = append(b, `{"type": `...)
	b = pyjson.AppendString(b, typ)
	b = append(b, `, "data": `...)
	if len(data) == 0 {
		data = json.RawMessage("null")
	}
	return append(append(b, data...), '}')
}

// The events of binary frames.
const (
	EventPreview         = 1 // image without metadata
	EventText            = 3 // text for a node
	EventPreviewMetadata = 4 // image with metadata
)

// The image formats of a preview without metadata.
const (
	FormatJPEG = 1
	FormatPNG  = 2
)

// Binary is a binary frame. Unknown events keep their bytes in Payload.
type Binary struct {
	Event    uint32
	Format   uint32          // EventPreview
	Node     string          // EventText
	Metadata json.RawMessage // EventPreviewMetadata: an object
	Payload  []byte          // image, text, or all that follows the event word
}

// errShort is a frame that ends before it should.
var errShort = errors.New("binary frame is too short")

// DecodeBinary reads a binary frame. Its slices share raw's memory.
func DecodeBinary(raw []byte) (Binary, error) {
	if len(raw) < 4 {
		return Binary{}, errShort
	}
	f := Binary{Event: binary.BigEndian.Uint32(raw), Payload: raw[4:]}
	switch f.Event {
	case EventPreview:
		if len(f.Payload) < 4 {
			return Binary{}, errShort
		}
		f.Format, f.Payload = binary.BigEndian.Uint32(f.Payload), f.Payload[4:]
	case EventText, EventPreviewMetadata:
		if len(f.Payload) < 4 {
			return Binary{}, errShort
		}
		n := binary.BigEndian.Uint32(f.Payload)
		rest := f.Payload[4:]
		if uint64(n) > uint64(len(rest)) {
			return Binary{}, errShort
		}
		if f.Event == EventText {
			f.Node = string(rest[:n])
		} else {
			f.Metadata = json.RawMessage(rest[:n:n])
		}
		f.Payload = rest[n:]
	}
	return f, nil
}

// Encode returns the frame's bytes.
func (f Binary) Encode() []byte {
	b := make([]byte, 0, 12+len(f.Node)+len(f.Metadata)+len(f.Payload))
	b = binary.BigEndian.AppendUint32(b, f.Event)
	switch f.Event {
	case EventPreview:
		b = binary.BigEndian.AppendUint32(b, f.Format)
	case EventText:
		b = binary.BigEndian.AppendUint32(b, uint32(len(f.Node))) //nolint:gosec // ids are short
		b = append(b, f.Node...)
	case EventPreviewMetadata:
		b = binary.BigEndian.AppendUint32(b, uint32(len(f.Metadata))) //nolint:gosec // metadata is short
		b = append(b, f.Metadata...)
	}
	return append(b, f.Payload...)
}

// Plain returns a preview without its metadata, for clients that did not ask for it. ok is false for other frames.
func (f Binary) Plain() (plain Binary, ok bool) {
	if f.Event != EventPreviewMetadata {
		return Binary{}, false
	}
	format := uint32(FormatJPEG)
	if kind, ok := pyjson.Get(f.Metadata, "image_type"); ok && pyjson.TextOf(kind) == "image/png" {
		format = FormatPNG
	}
	return Binary{Event: EventPreview, Format: format, Payload: f.Payload}, true
}

// IsResult reports whether the frame carries a result and not a preview. Nodes that send their pictures over the
// socket use PNG, which a server gives metadata like a preview's where they were asked for; previews are JPEG. What other
// events mean only their senders know.
func (f Binary) IsResult() bool {
	if plain, ok := f.Plain(); ok {
		f = plain
	}
	return f.Event != EventPreview || f.Format != FormatJPEG
}
