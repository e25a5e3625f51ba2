package e2e

import (
	"bytes"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
)

// photo makes a picture with gradients and detail, new each time: no cache has it.
func photo(t *testing.T) []byte {
	t.Helper()
	seed := uuid.New()
	img := image.NewNRGBA(image.Rect(0, 0, 601, 397))
	for y := range 397 {
		for x := range 601 {
			wave := math.Sin(float64(x)/float64(5+seed[0]%40)) + math.Cos(float64(y*x)/float64(300+int(seed[1])))
			img.Set(x, y, color.NRGBA{R: uint8(x * 255 / 601), G: uint8(y * 255 / 397), B: uint8(127 + 60*wave), A: 255})
		}
	}
	var b bytes.Buffer
	if err := jpeg.Encode(&b, img, &jpeg.Options{Quality: 92}); err != nil {
		t.Fatal(err)
	}
	return append(b.Bytes(), seed[:]...) // bytes after the end are nobody's
}

// blend loads a photo, scales it, blends it with a colour and saves it.
func blend(photo fileRef) node {
	name := photo.Filename
	if photo.Subfolder != "" {
		name = photo.Subfolder + "/" + name
	}
	return node{
		"10": class("LoadImage", node{"image": name}),
		"20": class("ImageScale", node{"image": []any{"10", 0}, "upscale_method": "bicubic", "width": 320, "height": 200, "crop": "center"}),
		"30": class("EmptyImage", node{"width": 320, "height": 200, "batch_size": 1, "color": 0x4080c0}),
		"40": class("ImageBlend", node{"image1": []any{"20", 0}, "image2": []any{"30", 0}, "blend_factor": 0.35, "blend_mode": "soft_light"}),
		"50": class("SaveImage", node{"images": []any{"40", 0}, "filename_prefix": "compare/blend"}),
	}
}

// workflow is what an editor sends along to be written into the pictures.
func workflow(of string) node {
	return node{"extra_pnginfo": node{"workflow": node{"id": of, "nodes": []any{}, "note": "größer als 0 你好 " + of}}}
}

// TestCompare runs one graph on a photo through the studio and on the back end itself: the same picture with the
// same workflow in it comes out. Another person's like graph has a file of its own.
func TestCompare(t *testing.T) {
	s := startStudio(t, studioOptions{})
	ann, bob := s.person(t, "ann"), s.person(t, "bob")
	direct := connect(t, s.urls[0], "", "e2e-direct-"+uuid.NewString())
	content := photo(t)
	upload := func(c *client) fileRef {
		return c.upload(t, "/upload/image", "phötö 你.jpg", content, map[string]string{"subfolder": "e2e compare", "overwrite": "true"})
	}

	graph := blend(upload(ann))
	if diff := cmp.Diff(graph, blend(upload(direct))); diff != "" {
		t.Fatalf("the photo is called otherwise (-studio +direct):\n%s", diff)
	}
	through := ann.run(t, graph, workflow("ann"))
	mine := through.files(t, "50", "images")
	// A back end remembers its last run only, so this comes before the next one.
	t.Run("again is cached", func(t *testing.T) {
		again := ann.run(t, graph, workflow("ann"))
		if n := len(again.cached(t)); n != len(graph) {
			t.Errorf("%d nodes of %d were cached", n, len(graph))
		}
		if diff := cmp.Diff(mine, again.files(t, "50", "images")); diff != "" {
			t.Errorf("other pictures than before (-want +got):\n%s", diff)
		}
	})
	straight := direct.run(t, graph, workflow("ann"))
	theirs := straight.files(t, "50", "images")
	a, d := ann.read(t, mine[0]), direct.read(t, theirs[0])
	samePicture(t, a, d)
	t.Logf("%s through the studio, %s directly; equal bytes: %t", mine[0].Filename, theirs[0].Filename, bytes.Equal(a, d))

	t.Run("another person", func(t *testing.T) {
		upload(bob)
		e := bob.run(t, graph, workflow("bob"))
		if strings.Contains(strings.Join(e.cached(t), " "), "50") {
			t.Error("the node that saves was taken from another person's run")
		}
		b := bob.read(t, e.files(t, "50", "images")[0])
		texts, err := pngTexts(b)
		if err != nil {
			t.Fatal(err)
		}
		if got := texts["workflow"]; !strings.Contains(got, `"id": "bob"`) {
			t.Errorf("the workflow in bob's picture is %s", got)
		}
		samePixels(t, a, b, 0)
	})
}

// samePicture holds pixels and text chunks of two PNGs against each other.
func samePicture(t *testing.T, studio, direct []byte) {
	t.Helper()
	samePixels(t, studio, direct, 0)
	got, err := pngTexts(studio)
	if err != nil {
		t.Fatal(err)
	}
	want, err := pngTexts(direct)
	if err != nil {
		t.Fatal(err)
	}
	if want["prompt"] == "" || want["workflow"] == "" {
		t.Fatalf("the back end wrote no workflow into its picture: %v", want)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("text chunks (-direct +studio):\n%s", diff)
	}
}

// samePixels holds the pixels of two PNGs against each other, whose channels may differ by so much.
func samePixels(t *testing.T, one, other []byte, within int) {
	t.Helper()
	a, b := decodePNG(t, one), decodePNG(t, other)
	if a.Bounds() != b.Bounds() {
		t.Fatalf("sizes %v and %v", a.Bounds(), b.Bounds())
	}
	differ := 0
	for y := range a.Bounds().Dy() {
		for x := range a.Bounds().Dx() {
			p, q := color.NRGBAModel.Convert(a.At(x, y)).(color.NRGBA), color.NRGBAModel.Convert(b.At(x, y)).(color.NRGBA)
			for _, d := range []int{int(p.R) - int(q.R), int(p.G) - int(q.G), int(p.B) - int(q.B), int(p.A) - int(q.A)} {
				if max(d, -d) > within {
					differ++
					break
				}
			}
		}
	}
	if differ > 0 {
		t.Errorf("%d pixels differ by more than %d", differ, within)
	}
}

func decodePNG(t *testing.T, b []byte) image.Image {
	t.Helper()
	img, err := png.Decode(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return img
}
