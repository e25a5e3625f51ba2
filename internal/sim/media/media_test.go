package media_test

import (
	"bytes"
	"image"
	"image/color"
	"image/draw"
	"math/rand/v2"
	"testing"

	"golang.org/x/image/webp"

	"github.com/ahelme/comfyume/internal/sim/media"
)

func TestWebPRoundTrip(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	for _, size := range []image.Point{{1, 1}, {3, 2}, {64, 48}, {513, 7}, {600, 530}} {
		for _, kind := range []string{"flat", "noise", "gradient", "alpha", "skewed"} {
			m := image.NewNRGBA(image.Rectangle{Max: size})
			for i := range m.Pix {
				switch {
				case i%4 == 3 && kind != "alpha":
					m.Pix[i] = 255
				case kind == "flat":
					m.Pix[i] = 77
				case kind == "gradient":
					m.Pix[i] = uint8(i / 16)
				case kind == "skewed":
					m.Pix[i] = uint8(rng.ExpFloat64() * 3)
				default:
					m.Pix[i] = uint8(rng.Uint32())
				}
			}
			file, err := media.WebP([]*image.NRGBA{m}, 0, nil)
			if err != nil {
				t.Fatal(err)
			}
			got, err := webp.Decode(bytes.NewReader(file))
			if err != nil {
				t.Fatalf("%v %s: %v", size, kind, err)
			}
			back := image.NewNRGBA(got.Bounds())
			draw.Draw(back, back.Bounds(), got, image.Point{}, draw.Src)
			if n, ok := got.(*image.NRGBA); ok {
				back = n
			}
			if !bytes.Equal(back.Pix, m.Pix) {
				t.Errorf("%v %s: pixels differ", size, kind)
			}
		}
	}
}

func TestPNGTexts(t *testing.T) {
	t.Parallel()
	m := image.NewNRGBA(image.Rect(0, 0, 2, 2))
	m.Set(0, 0, color.White)
	want := []media.Text{{Key: "prompt", Value: `{"a": "b"}`}, {Key: "note", Value: "Überfluß"}, {Key: "more", Value: "猫"}}
	file, err := media.PNG(m, want, true)
	if err != nil {
		t.Fatal(err)
	}
	got := media.Texts(file)
	if len(got) != len(want) {
		t.Fatalf("texts %v", got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("text %d: %v, want %v", i, got[i], want[i])
		}
	}
	if _, err := media.PNG(m, nil, false); err != nil {
		t.Fatal(err)
	}
}
