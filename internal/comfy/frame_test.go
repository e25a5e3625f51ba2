package comfy_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/internal/comfy"
)

// TestResultsAreToldFromPreviews: a PNG over the socket is a result in either form that a server gives it.
func TestResultsAreToldFromPreviews(t *testing.T) {
	t.Parallel()
	meta := func(typ string) comfy.Binary {
		return comfy.Binary{Event: comfy.EventPreviewMetadata, Metadata: []byte(`{"node_id": "3", "image_type": "` + typ + `"}`)}
	}
	for name, c := range map[string]struct {
		frame comfy.Binary
		want  bool
	}{
		"preview":                {comfy.Binary{Event: comfy.EventPreview, Format: comfy.FormatJPEG}, false},
		"preview with metadata":  {meta("image/jpeg"), false},
		"result":                 {comfy.Binary{Event: comfy.EventPreview, Format: comfy.FormatPNG}, true},
		"result with metadata":   {meta("image/png"), true},
		"text":                   {comfy.Binary{Event: comfy.EventText, Node: "3"}, true},
		"event of a custom node": {comfy.Binary{Event: 10}, true},
	} {
		f, err := comfy.DecodeBinary(c.frame.Encode())
		if err != nil || f.IsResult() != c.want {
			t.Errorf("%s: result %t, %v; want %t", name, f.IsResult(), err, c.want)
		}
	}
}

func TestFrames(t *testing.T) {
	t.Parallel()
	if got := string(comfy.EncodeFrame(`a"`, nil)); got != `{"type": "a\"", "data": null}` {
		t.Errorf("a frame without data is %s", got)
	}
}

func TestBinaryFrames(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]struct {
		frame  comfy.Binary
		result bool
		plain  *comfy.Binary
	}{
		"\x00\x00\x00\x01\x00\x00\x00\x01jpeg": {frame: comfy.Binary{Event: 1, Format: 1, Payload: []byte("jpeg")}},
		"\x00\x00\x00\x01\x00\x00\x00\x02png":  {comfy.Binary{Event: 1, Format: 2, Payload: []byte("png")}, true, nil},
		"\x00\x00\x00\x03\x00\x00\x00\x017hi":  {comfy.Binary{Event: 3, Node: "7", Payload: []byte("hi")}, true, nil},
		"\x00\x00\x00\x04\x00\x00\x00\x02{}x": {
			comfy.Binary{Event: 4, Metadata: json.RawMessage(`{}`), Payload: []byte("x")},
			false,
			&comfy.Binary{Event: 1, Format: 1, Payload: []byte("x")},
		},
		"\x00\x00\x00\x04\x00\x00\x00\x1b{\"image_type\": \"image/png\"}x": {
			comfy.Binary{Event: 4, Metadata: json.RawMessage(`{"image_type": "image/png"}`), Payload: []byte("x")},
			true,
			&comfy.Binary{Event: 1, Format: 2, Payload: []byte("x")},
		},
		"\x00\x00\x01\x00anything": {comfy.Binary{Event: 256, Payload: []byte("anything")}, true, nil},
	} {
		got, err := comfy.DecodeBinary([]byte(raw))
		if err != nil {
			t.Errorf("%q: %v", raw, err)
			continue
		}
		if diff := cmp.Diff(want.frame, got); diff != "" || got.IsResult() != want.result {
			t.Errorf("%q: result %v, %s", raw, got.IsResult(), diff)
		}
		plain, ok := got.Plain()
		if ok != (want.plain != nil) || ok && cmp.Diff(*want.plain, plain) != "" {
			t.Errorf("%q is plainly %+v", raw, plain)
		}
	}
	for _, raw := range []string{"", "abc", "\x00\x00\x00\x01\x00", "\x00\x00\x00\x03\x00\x00\x00", "\x00\x00\x00\x04\x00\x00\x00\x02{", "\x00\x00\x00\x03\xff\xff\xff\xff7"} {
		if b, err := comfy.DecodeBinary([]byte(raw)); err == nil {
			t.Errorf("%q is the frame %+v", raw, b)
		}
	}
}
