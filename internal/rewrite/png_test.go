package rewrite

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"image"
	"image/color"
	"image/png"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

// withText returns a small PNG with chunks of a kind before its pixels.
func withText(t *testing.T, kind string, texts ...string) []byte {
	t.Helper()
	img := image.NewNRGBA(image.Rect(0, 0, 3, 2))
	img.Set(1, 1, color.NRGBA{R: 9, G: 8, B: 7, A: 200})
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		t.Fatal(err)
	}
	raw := b.Bytes()
	const afterHeader = 8 + 12 + 13
	out := bytes.Clone(raw[:afterHeader])
	for _, text := range texts {
		chunk := append([]byte(kind), text...)
		out = binary.BigEndian.AppendUint32(out, uint32(len(text)))
		out = append(out, chunk...)
		out = binary.BigEndian.AppendUint32(out, crc32.ChecksumIEEE(chunk))
	}
	return append(out, raw[afterHeader:]...)
}

func TestPNGReaderChangesOneChunk(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"tEXt", "comf"} { // of still pictures, and of animated ones
		src := withText(t, kind, "prompt\x00old", "workflow\x00kept")
		var got bytes.Buffer
		r := NewPNGReader(iotest.OneByteReader(bytes.NewReader(src)), func(keyword string, text []byte) []byte {
			if keyword == "prompt" {
				return append(bytes.Clone(text), " and new"...)
			}
			return text
		})
		if _, err := got.ReadFrom(r); err != nil {
			t.Fatal(err)
		}
		want := withText(t, kind, "prompt\x00old and new", "workflow\x00kept")
		if diff := cmp.Diff(want, got.Bytes()); diff != "" {
			t.Errorf("%s: %s", kind, diff)
		}
		if _, err := png.Decode(&got); err != nil {
			t.Errorf("%s: the result is no PNG: %v", kind, err)
		}
	}
}

// FuzzPNGReader: whatever comes in, an edit that changes nothing changes no byte.
func FuzzPNGReader(f *testing.F) {
	f.Add([]byte("\x89PNG\r\n\x1a\n\x00\x00\x00\x05tEXta\x00b"))
	f.Add([]byte("GIF89a"))
	f.Add([]byte("\x89PNG\r\n\x1a\n\xff\xff\xff\xfftEXta\x00b"))
	f.Fuzz(func(t *testing.T, src []byte) {
		var got bytes.Buffer
		if _, err := got.ReadFrom(NewPNGReader(bytes.NewReader(src), func(_ string, text []byte) []byte { return text })); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(src, got.Bytes()) {
			t.Errorf("%q became %q", src, got.Bytes())
		}
	})
}
