package backendtest

import (
	"bytes"
	"encoding/json"
	"image"
	"image/color"
	"image/png"
	"testing"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/job"
)

// Graphs fills in the graphs of a ComfyUI that has the probe nodes of the recordings, such as the simulator with
// sim.Options.Probes.
func Graphs(t *testing.T, h Harness) Harness {
	t.Helper()
	const empty = `"1":{"class_type":"EmptyImage","inputs":{"width":64,"height":48,"batch_size":1,"color":255}}`
	h.Text = json.RawMessage(`{"1":{"class_type":"ProbeText","inputs":{"text":"hello"}}}`)
	h.Picture = json.RawMessage(`{` + empty + `,"2":{"class_type":"SaveImage","inputs":{"images":["1",0],"filename_prefix":"suite/picture"}}}`)
	h.Slow = json.RawMessage(`{` + empty + `,"2":{"class_type":"ProbeSlow","inputs":{"image":["1",0],"steps":300,"seconds":0.05,"preview":true}},
		"3":{"class_type":"PreviewImage","inputs":{"images":["2",0]}}}`)
	h.Fail = json.RawMessage(`{` + empty + `,"2":{"class_type":"ProbeFail","inputs":{"image":["1",0],"message":"boom"}},
		"3":{"class_type":"PreviewImage","inputs":{"images":["2",0]}}}`)
	h.Refused = json.RawMessage(`{"2":{"class_type":"SaveImage","inputs":{"filename_prefix":"x"}}}`)
	h.Input = json.RawMessage(`{"1":{"class_type":"LoadImage","inputs":{"image":"comfyume_suite.png"}},
		"2":{"class_type":"SaveImage","inputs":{"images":["1",0],"filename_prefix":"suite/input"}}}`)
	for _, word := range []string{"crash", "crash-mute", "crash-post"} { // the simulator does as it is told
		h.Deadly = append(h.Deadly, json.RawMessage(`{"1":{"class_type":"ProbeText","inputs":{"text":"sim:`+word+`"}}}`))
	}
	h.Previews = true
	h.InputName, h.InputBody = "comfyume_suite.png", picture(t, color.NRGBA{A: 255})
	h.Masked = json.RawMessage(`{"1":{"class_type":"LoadImage","inputs":{"image":"comfyume_suite.png"}},
		"2":{"class_type":"LoadImageMask","inputs":{"image":"comfyume_mask.png","channel":"red"}},
		"3":{"class_type":"ImageInvert","inputs":{"image":["1",0]}},
		"4":{"class_type":"ImageCompositeMasked","inputs":{"destination":["1",0],"source":["3",0],"x":0,"y":0,"resize_source":false,"mask":["2",0]}},
		"5":{"class_type":"SaveImage","inputs":{"images":["4",0],"filename_prefix":"suite/masked"}}}`)
	h.MaskName, h.MaskBody = "comfyume_mask.png", picture(t, color.NRGBA{R: 255, A: 255})
	h.Audio = json.RawMessage(`{"1":{"class_type":"EmptyAudio","inputs":{"duration":0.5,"sample_rate":8000,"channels":1}},
		"2":{"class_type":"SaveAudio","inputs":{"audio":["1",0],"filename_prefix":"suite/sound"}}}`)
	h.Animated = json.RawMessage(`{"1":{"class_type":"EmptyImage","inputs":{"width":64,"height":48,"batch_size":3,"color":255}},
		"2":{"class_type":"SaveAnimatedWEBP","inputs":{"images":["1",0],"filename_prefix":"suite/moves","fps":6.0,"lossless":true,"quality":80,"method":"default"}}}`)
	return h
}

// picture is a PNG of 16 by 16 pixels of one colour.
func picture(t *testing.T, c color.NRGBA) []byte {
	t.Helper()
	img := image.NewNRGBA(image.Rect(0, 0, 16, 16))
	for i := range img.Pix {
		img.Pix[i] = []uint8{c.R, c.G, c.B, c.A}[i%4]
	}
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// testMask paints over a black picture where a mask that is white all over allows it: what comes out is white.
func testMask(t *testing.T, h Harness, d backend.Driver) {
	if h.Masked == nil {
		t.Skip("this back end has no graph with a mask")
	}
	task := NewTask(d, h.Masked)
	task.Uploads = []backend.Upload{upload(h.InputName, h.InputBody), upload(h.MaskName, h.MaskBody)}
	a := Begin(t.Context(), t, d, task)
	a.Wait(t)
	img, err := png.Decode(bytes.NewReader(fetch(t, a.Run, file(t, a.Result.Outputs))))
	if err != nil {
		t.Fatal(err)
	}
	if r, g, b, _ := img.At(8, 8).RGBA(); min(r, g, b) != 0xffff {
		t.Errorf("the middle is %v, want white", img.At(8, 8))
	}
	a.Want(t, job.Completed)
}

// testSound and testAnimated want a file of the right kind.
func testSound(t *testing.T, h Harness, d backend.Driver) {
	gives(t, d, h.Audio, []byte("fLaC"), 0)
}

func testAnimated(t *testing.T, h Harness, d backend.Driver) {
	gives(t, d, h.Animated, []byte("WEBP"), 8)
}

// gives runs a graph and wants its one file to have these bytes at an offset.
func gives(t *testing.T, d backend.Driver, graph json.RawMessage, magic []byte, at int) {
	t.Helper()
	if graph == nil {
		t.Skip("this back end has no such graph")
	}
	a := Begin(t.Context(), t, d, NewTask(d, graph))
	a.Wait(t)
	ref := file(t, a.Result.Outputs)
	if got := fetch(t, a.Run, ref); len(got) < at+len(magic) || !bytes.Equal(got[at:at+len(magic)], magic) {
		t.Errorf("%s has %d bytes that are no %s", ref.Filename, len(got), magic)
	}
	a.Want(t, job.Completed)
}

// testBinary wants the previews of a run that sends them, each with its node.
func testBinary(t *testing.T, h Harness, d backend.Driver) {
	if !h.Previews {
		t.Skip("this back end sends no previews")
	}
	a := Begin(t.Context(), t, d, NewTask(d, h.Slow))
	a.Await(t, "") // binary frames have no type
	if err := a.Run.Interrupt(t.Context()); err != nil {
		t.Fatal(err)
	}
	a.Want(t, job.Cancelled)
	for _, u := range a.Updates {
		if u.Binary == nil {
			continue
		}
		if len(u.Binary) < 8 || u.Node == "" || u.Data != nil {
			t.Errorf("a binary frame of %d bytes, of node %q, with data %s", len(u.Binary), u.Node, u.Data)
		}
	}
}
