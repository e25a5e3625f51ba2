package comfy_test

import (
	"testing"

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
