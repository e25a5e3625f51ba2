package e2e

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"mime"
	"net/http"
	"path"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
)

// made is a kind of result that is a file.
type made struct {
	needs  []string // classes of nodes that not every back end has
	graph  func(t *testing.T, c *client) node
	node   string // the node that saves
	key    string // where its outputs name the file
	ext    string
	mime   []string                       // what /view calls it, on one system or another
	folder string                         // type of the file
	moves  bool                           // outputs say that it is animated
	body   func(b []byte) ([]byte, error) // what is in it beside the graph that ComfyUI writes into it
}

// results are the kinds of files that nodes without models make, beside the pictures of TestCompare.
var results = map[string]made{
	"audio": {
		needs: []string{"LoadAudio", "SaveAudio"},
		graph: sound("SaveAudio", node{"filename_prefix": "audio/e2e"}),
		node:  "2", key: "audio", ext: ".flac", mime: []string{"audio/flac", "audio/x-flac"}, folder: "output", body: flacBody,
	},
	"audio preview": {
		needs: []string{"LoadAudio", "PreviewAudio"},
		graph: sound("PreviewAudio", node{}),
		node:  "2", key: "audio", ext: ".flac", mime: []string{"audio/flac", "audio/x-flac"}, folder: "temp", body: flacBody,
	},
	"mp3": {
		needs: []string{"LoadAudio", "SaveAudioMP3"},
		graph: sound("SaveAudioMP3", node{"filename_prefix": "audio/e2e", "quality": "128k"}),
		node:  "2", key: "audio", ext: ".mp3", mime: []string{"audio/mpeg"}, folder: "output", body: mp3Body,
	},
	"animated PNG": {
		graph: film("SaveAnimatedPNG", node{"filename_prefix": "film", "fps": 6.0, "compress_level": 4}),
		node:  "4", key: "images", ext: ".png", mime: []string{"image/png"}, folder: "output", moves: true, body: apngBody,
	},
	"animated WebP": {
		graph: film("SaveAnimatedWEBP", node{"filename_prefix": "film", "fps": 6.0, "lossless": true, "quality": 80, "method": "default"}),
		node:  "4", key: "images", ext: ".webp", mime: []string{"image/webp"}, folder: "output", moves: true, body: webpBody,
	},
	"WebM": {
		needs: []string{"SaveWEBM"},
		graph: film("SaveWEBM", node{"filename_prefix": "film", "codec": "vp9", "fps": 24.0, "crf": 32.0}),
		node:  "4", key: "images", ext: ".webm", mime: []string{"video/webm"}, folder: "output", moves: true, body: webmBody,
	},
	"video": {
		needs: []string{"CreateVideo", "SaveVideo"},
		graph: func(t *testing.T, c *client) node {
			g := film("CreateVideo", node{"fps": 24.0})(t, c)
			g["5"] = class("SaveVideo", node{"video": []any{"4", 0}, "filename_prefix": "video/e2e", "format": "mp4", "codec": "h264"})
			return g
		},
		node: "5", key: "images", ext: ".mp4", mime: []string{"video/mp4"}, folder: "output", moves: true, body: mp4Body,
	},
	"latent": {
		needs: []string{"SaveLatent"},
		graph: func(*testing.T, *client) node {
			return node{
				"1": class("EmptyLatentImage", node{"width": 8 * (2 + rand.IntN(60)), "height": 64, "batch_size": 1}),
				"2": class("SaveLatent", node{"samples": []any{"1", 0}, "filename_prefix": "latents/e2e"}),
			}
		},
		node: "2", key: "latents", ext: ".latent", mime: []string{"application/octet-stream"}, folder: "output", body: latentBody,
	},
}

// TestOutputs makes a result of every kind that needs no model, through the studio and on the back end itself: outputs
// of the same form that name a file of the same content, which is there for whoever made it and for nobody else.
func TestOutputs(t *testing.T) {
	s := startStudio(t, studioOptions{})
	ann, bob := s.person(t, "ann"), s.person(t, "bob")
	direct := connect(t, s.urls[0], "", "e2e-direct-"+uuid.NewString())
	t.Run("text", func(t *testing.T) { textOutput(t, ann, direct) })
	for name, m := range results {
		t.Run(name, func(t *testing.T) { m.skip(t, direct); fileOutput(t, m, ann, bob, direct) })
	}
}

// skip skips the test where the back end lacks a node for it.
func (m made) skip(t *testing.T, direct *client) {
	t.Helper()
	for _, class := range m.needs {
		if status, _, raw := direct.request(t, http.MethodGet, "/object_info/"+class, nil, nil); status != http.StatusOK || string(raw) == "{}" {
			t.Skipf("the back end has no %s", class)
		}
	}
}

// textOutput shows a text that no back end has seen before.
func textOutput(t *testing.T, ann, direct *client) {
	text := "größer als 0, 你好 \"" + uuid.NewString() + "\"\n<b>&amp;"
	graph := node{
		"1": class("PrimitiveString", node{"value": text}),
		"2": class("PreviewAny", node{"source": []any{"1", 0}}),
	}
	through := ann.run(t, graph, nil)
	var got []string
	if err := json.Unmarshal(through.Outputs["2"]["text"], &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{text}, got); diff != "" {
		t.Errorf("the text in history (-want +got):\n%s", diff)
	}
	sameOutputs(t, direct.run(t, graph, nil), through)
}

func fileOutput(t *testing.T, m made, ann, bob, direct *client) {
	graph := m.graph(t, ann)
	if m.key == "audio" {
		m.graph(t, direct) // uploads the sound there too
	}
	through, straight := ann.run(t, graph, workflow("ann")), direct.run(t, graph, workflow("ann"))
	sameOutputs(t, straight, through)
	f := through.files(t, m.node, m.key)[0]
	if path.Ext(f.Filename) != m.ext || f.Type != m.folder {
		t.Errorf("the file is %+v, want a %s in %s", f, m.ext, m.folder)
	}
	if got := string(through.Outputs[m.node]["animated"]); (got == "[true]") != m.moves {
		t.Errorf("animated is %q", got)
	}
	content := ann.read(t, f)
	want, err := m.body(direct.read(t, straight.files(t, m.node, m.key)[0]))
	if err != nil {
		t.Fatalf("what the back end itself made: %v", err)
	}
	if got, err := m.body(content); err != nil || !bytes.Equal(got, want) {
		t.Errorf("what came through the studio differs: %d bytes, %d directly (%v)", len(got), len(want), err)
	}
	viewed(t, m, ann, f, content)
	if status, _, _ := bob.request(t, http.MethodGet, f.view(), nil, nil); status != http.StatusNotFound {
		t.Errorf("another person gets %d, want 404", status)
	}
}

// viewed looks at how a file is served: its type, its size, and a part of it, as a player asks for.
func viewed(t *testing.T, m made, c *client, f fileRef, content []byte) {
	t.Helper()
	_, header, _ := c.request(t, http.MethodGet, f.view(), nil, nil)
	got, _, err := mime.ParseMediaType(header.Get("Content-Type"))
	if err != nil || !strings.Contains(" "+strings.Join(m.mime, " ")+" ", " "+got+" ") {
		t.Errorf("Content-Type is %q, want one of %q", header.Get("Content-Type"), m.mime)
	}
	status, header, part := c.request(t, http.MethodGet, f.view(), nil, http.Header{"Range": {"bytes=4-19"}})
	if want := fmt.Sprintf("bytes 4-19/%d", len(content)); status != http.StatusPartialContent || header.Get("Content-Range") != want || !bytes.Equal(part, content[4:20]) {
		t.Errorf("a part of the file: %d %q, %d bytes, want 206 %q, 16 bytes", status, header.Get("Content-Range"), len(part), want)
	}
}

// sameOutputs holds the outputs of two runs against each other; only names of files differ.
func sameOutputs(t *testing.T, direct, studio entry) {
	t.Helper()
	plain := func(e entry) any {
		var v any
		if err := json.Unmarshal([]byte(text(e.Outputs)), &v); err != nil {
			t.Fatal(err)
		}
		return v
	}
	names := cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == `["filename"]` }, cmp.Ignore())
	if diff := cmp.Diff(plain(direct), plain(studio), names); diff != "" {
		t.Errorf("outputs (-direct +studio):\n%s", diff)
	}
}

// film has two pictures of new colours go through a node of this class.
func film(name string, inputs node) func(*testing.T, *client) node {
	return func(*testing.T, *client) node {
		inputs := node{"images": []any{"3", 0}}.with(inputs)
		return node{
			"1": class("EmptyImage", node{"width": 64, "height": 48, "batch_size": 1, "color": rand.IntN(1 << 24)}),
			"2": class("EmptyImage", node{"width": 64, "height": 48, "batch_size": 1, "color": rand.IntN(1 << 24)}),
			"3": class("ImageBatch", node{"image1": []any{"1", 0}, "image2": []any{"2", 0}}),
			"4": class(name, inputs),
		}
	}
}

// Of the sound that is uploaded.
const (
	soundRate    = 44100
	soundSamples = 11025 // of each of two channels
)

// sound uploads a recording and has it go through a node of this class.
func sound(name string, inputs node) func(*testing.T, *client) node {
	return func(t *testing.T, c *client) node {
		f := c.upload(t, "/upload/image", "e2e tön.wav", wav(), map[string]string{"overwrite": "true"})
		return node{
			"1": class("LoadAudio", node{"audio": f.Filename}),
			"2": class(name, node{"audio": []any{"1", 0}}.with(inputs)),
		}
	}
}

// with returns n and more in one.
func (n node) with(more node) node {
	all := node{}
	for _, m := range []node{n, more} {
		for k, v := range m {
			all[k] = v
		}
	}
	return all
}

// wav makes a quarter of a second of two notes.
func wav() []byte {
	const size = soundSamples * 4
	b := []byte("RIFF")
	b = binary.LittleEndian.AppendUint32(b, 36+size)
	b = append(b, "WAVEfmt \x10\x00\x00\x00\x01\x00\x02\x00"...)
	b = binary.LittleEndian.AppendUint32(b, soundRate)
	b = binary.LittleEndian.AppendUint32(b, soundRate*4)
	b = append(b, "\x04\x00\x10\x00data"...)
	b = binary.LittleEndian.AppendUint32(b, size)
	for i := range soundSamples {
		for _, hertz := range []float64{440, 554.37} {
			b = binary.LittleEndian.AppendUint16(b, uint16(int16(12000*math.Sin(2*math.Pi*hertz*float64(i)/soundRate))))
		}
	}
	return b
}

// flacBody returns the frames of a FLAC that is as long as the sound that was uploaded.
func flacBody(b []byte) ([]byte, error) {
	if !bytes.HasPrefix(b, []byte("fLaC")) || len(b) < 42 {
		return nil, errors.New("no FLAC")
	}
	packed := binary.BigEndian.Uint64(b[18:])
	rate, channels, samples := packed>>44, packed>>41&7+1, packed&(1<<36-1)
	if rate != soundRate || channels != 2 || samples != soundSamples {
		return nil, fmt.Errorf("%d samples of %d channels at %d Hz, want %d of 2 at %d", samples, channels, rate, soundSamples, soundRate)
	}
	for last := false; !last; { // blocks before the frames
		b = b[4:]
		if len(b) < 4 {
			return nil, errors.New("no frames")
		}
		last = b[0]&0x80 != 0
		b = b[min(len(b), int(binary.BigEndian.Uint32(b)&0xffffff)):]
	}
	return b[4:], nil
}

// mp3Body returns what follows the tags at the beginning of an MP3.
func mp3Body(b []byte) ([]byte, error) {
	if len(b) < 10 || string(b[:3]) != "ID3" {
		return nil, errors.New("no MP3 with tags")
	}
	size := 10
	for i, x := range b[6:10] {
		size += int(x) << (21 - 7*i)
	}
	if size+4 > len(b) || b[size] != 0xff {
		return nil, errors.New("no frame after the tags")
	}
	return b[size:], nil
}

// apngBody returns all of a PNG of two frames: what ComfyUI writes into one is put right.
func apngBody(b []byte) ([]byte, error) {
	i := bytes.Index(b, []byte("acTL"))
	if !bytes.HasPrefix(b, []byte("\x89PNG\r\n\x1a\n")) || i < 0 || i+8 > len(b) {
		return nil, errors.New("no animated PNG")
	}
	if n := binary.BigEndian.Uint32(b[i+4:]); n != 2 {
		return nil, fmt.Errorf("%d frames, want 2", n)
	}
	if !bytes.Contains(b, []byte("comfprompt\x00{")) {
		return nil, errors.New("no graph in it")
	}
	return b, nil
}

// webpBody returns the two frames of a WebP.
func webpBody(b []byte) ([]byte, error) {
	if len(b) < 16 || string(b[:4]) != "RIFF" || string(b[8:16]) != "WEBPVP8X" {
		return nil, errors.New("no animated WebP")
	}
	var frames []byte
	n := 0
	for b := b[12:]; len(b) >= 8; {
		size := int(binary.LittleEndian.Uint32(b[4:]))
		end := min(len(b), 8+size+size%2)
		if string(b[:4]) == "ANMF" {
			n++
			frames = append(frames, b[:end]...)
		}
		b = b[end:]
	}
	if n != 2 {
		return nil, fmt.Errorf("%d frames, want 2", n)
	}
	return frames, nil
}

// webmBody returns the clusters of a WebM.
func webmBody(b []byte) ([]byte, error) {
	const ebml, cluster, cues = "\x1a\x45\xdf\xa3", "\x1f\x43\xb6\x75", "\x1c\x53\xbb\x6b"
	begin, end := bytes.Index(b, []byte(cluster)), bytes.LastIndex(b, []byte(cues))
	if !bytes.HasPrefix(b, []byte(ebml)) || begin < 0 || end < begin {
		return nil, errors.New("no WebM")
	}
	return b[begin:end], nil
}

// mp4Body returns the box of an MP4 that has the media.
func mp4Body(b []byte) ([]byte, error) {
	if len(b) < 12 || string(b[4:8]) != "ftyp" {
		return nil, errors.New("no MP4")
	}
	for len(b) >= 8 {
		size := int(binary.BigEndian.Uint32(b))
		if size < 8 || size > len(b) {
			break
		}
		if string(b[4:8]) == "mdat" && size > 8 {
			return b[:size], nil
		}
		b = b[size:]
	}
	return nil, errors.New("no media in the MP4")
}

// latentBody returns the numbers of a latent.
func latentBody(b []byte) ([]byte, error) {
	if len(b) < 8 {
		return nil, errors.New("no safetensors")
	}
	size := binary.LittleEndian.Uint64(b)
	if size > uint64(len(b)-8) || !bytes.Contains(b[8:8+size], []byte(`"latent_tensor"`)) {
		return nil, errors.New("no safetensors with a latent_tensor")
	}
	return b[8+size:], nil
}
