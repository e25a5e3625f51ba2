package raster_test

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/ahelme/comfyume/internal/sim/raster"
)

func anyImage(t *rapid.T) *raster.Image {
	m := raster.New(rapid.IntRange(1, 3).Draw(t, "n"), rapid.IntRange(1, 9).Draw(t, "h"),
		rapid.IntRange(1, 9).Draw(t, "w"), rapid.IntRange(1, 4).Draw(t, "c"))
	for i := range m.Pix {
		m.Pix[i] = raster.Unit(uint8(rapid.IntRange(0, 255).Draw(t, "v")))
	}
	return m
}

func same(a, b *raster.Image) bool { return a.SameShape(b) && slices.Equal(a.Pix, b.Pix) }

// TestIdentities are operations that give a picture back as it was.
func TestIdentities(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := anyImage(t)
		for _, method := range []string{raster.Nearest, raster.Bilinear, raster.Area, raster.Bicubic, raster.Lanczos} {
			if !same(m, m.Scale(m.W, m.H, method, rapid.Bool().Draw(t, "center"))) {
				t.Errorf("%s to the same size changes a picture of %v", method, m)
			}
		}
		if !same(m, m.FlipX().FlipX()) || !same(m, m.FlipY().FlipY()) {
			t.Errorf("flipped twice, a picture of %v is another", m)
		}
		k := rapid.IntRange(-5, 5).Draw(t, "k")
		if !same(m, m.Rotate(k).Rotate(-k)) {
			t.Errorf("turned %d times and back, a picture of %v is another", k, m)
		}
		if !same(m, m.Crop(0, 0, m.W, m.H)) || !same(m, m.WithChannels(m.C+1, 1).WithChannels(m.C, 1)) {
			t.Errorf("a whole cut or another channel changes a picture of %v", m)
		}
		if !same(m, raster.Composite(m, m, 0, 0, nil, false)) {
			t.Errorf("a picture of %v laid over itself is another", m)
		}
		for _, v := range m.Pix {
			if b := raster.Byte(v); raster.Unit(b) != v {
				t.Errorf("%v becomes the byte %d", v, b)
			}
		}
	})
}

// TestScaling keeps flat pictures flat and values inside what the method allows.
func TestScaling(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := anyImage(t)
		w, h := rapid.IntRange(1, 20).Draw(t, "w2"), rapid.IntRange(1, 20).Draw(t, "h2")
		low, high := slices.Min(m.Pix), slices.Max(m.Pix)
		for _, method := range []string{raster.Nearest, raster.Bilinear, raster.Area} {
			out := m.Scale(w, h, method, false)
			if out.W != w || out.H != h || out.N != m.N || out.C != m.C {
				t.Fatalf("%s gives %v", method, out)
			}
			const dust = 1e-6
			if slices.Min(out.Pix) < low-dust || slices.Max(out.Pix) > high+dust {
				t.Errorf("%s leaves %v…%v: %v…%v", method, low, high, slices.Min(out.Pix), slices.Max(out.Pix))
			}
		}
		flat := raster.Filled(1, 3, 4, 0.5, 0.25)
		for _, method := range []string{raster.Bicubic, raster.Area, raster.Nearest, raster.Bilinear} {
			for i, v := range flat.Scale(w, h, method, false).Pix {
				if want := []float32{0.5, 0.25}[i%2]; v < want-1e-6 || v > want+1e-6 {
					t.Errorf("%s makes %v of %v", method, v, want)
				}
			}
		}
	})
}

func BenchmarkScale(b *testing.B) {
	m := raster.Filled(1, 1024, 1024, 0.1, 0.2, 0.3)
	for _, method := range []string{raster.Bilinear, raster.Lanczos} {
		b.Run(method, func(b *testing.B) {
			for b.Loop() {
				m.Scale(512, 512, method, false)
			}
		})
	}
}
