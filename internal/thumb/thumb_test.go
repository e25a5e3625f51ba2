package thumb_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"
	"math"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/deepteams/webp"
	"github.com/deepteams/webp/animation"
	"golang.org/x/image/bmp"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/thumb"
)

// picture is w × h pixels with soft colours, and with alpha from left to right when clear is set.
func picture(w, h int, clear bool) *image.NRGBA {
	img := image.NewNRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			a := 255
			if clear {
				a = x * 255 / max(w-1, 1)
			}
			img.SetNRGBA(x, y, color.NRGBA{uint8(x * 255 / w), uint8(y * 255 / h), 128, uint8(a)})
		}
	}
	return img
}

func encode(t testing.TB, f func(io.Writer) error) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := f(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// passesJPEG is the beginning of a JPEG of three channels that comes in passes.
func passesJPEG(w, h uint16) []byte {
	b := []byte("\xff\xd8\xff\xc2\x00\x11\x08")
	b = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, h), w)
	return append(b, "\x03\x01\x11\x00\x02\x11\x00\x03\x11\x00\xff\xda\x00\x0c\x03\x01\x00\x02\x00\x03\x00\x00\x00\x00"...)
}

func asPNG(t testing.TB, img image.Image) []byte {
	return encode(t, func(w io.Writer) error { return png.Encode(w, img) })
}

// kinds are the same picture in every format that is read.
func kinds(t testing.TB, img image.Image) map[string][]byte {
	t.Helper()
	return map[string][]byte{
		"png":  asPNG(t, img),
		"jpeg": encode(t, func(w io.Writer) error { return jpeg.Encode(w, img, nil) }),
		"gif":  encode(t, func(w io.Writer) error { return gif.Encode(w, img, nil) }),
		"bmp":  encode(t, func(w io.Writer) error { return bmp.Encode(w, img) }),
		"webp": encode(t, func(w io.Writer) error { return webp.Encode(w, img, nil) }),
		"animated webp": encode(t, func(w io.Writer) error {
			e := animation.NewEncoder(w, img.Bounds().Dx(), img.Bounds().Dy(), &animation.EncodeOptions{Quality: 80})
			for range 2 {
				if err := e.AddFrame(img, 50*time.Millisecond); err != nil {
					return err
				}
			}
			return e.Close()
		}),
	}
}

func decode(t testing.TB, b []byte, kind string) image.Image {
	t.Helper()
	if kind == "webp" { // image.Decode takes its colours for those of a JPEG
		if string(b[8:12]) != "WEBP" {
			t.Fatalf("%q is no WebP", b[:12])
		}
		png, err := thumb.New(thumb.Options{}).Channel(t.Context(), bytes.NewReader(b), "rgb")
		if err != nil {
			t.Fatal(err)
		}
		b, kind = png, "png"
	}
	img, got, err := image.Decode(bytes.NewReader(b))
	if err != nil || got != kind {
		t.Fatalf("decode %d bytes as %s: %s, %v", len(b), kind, got, err)
	}
	return img
}

// distance is the mean difference of the colours of two pictures, 0 to 255.
func distance(a, b image.Image) float64 {
	if a.Bounds().Size() != b.Bounds().Size() {
		return math.Inf(1)
	}
	var sum float64
	size := a.Bounds().Size()
	for y := range size.Y {
		for x := range size.X {
			r, g, bl, _ := a.At(a.Bounds().Min.X+x, a.Bounds().Min.Y+y).RGBA()
			r2, g2, bl2, _ := b.At(b.Bounds().Min.X+x, b.Bounds().Min.Y+y).RGBA()
			for _, d := range [][2]uint32{{r, r2}, {g, g2}, {bl, bl2}} {
				sum += math.Abs(float64(d[0])-float64(d[1])) / 257
			}
		}
	}
	return sum / float64(3*size.X*size.Y)
}

func TestThumbnail(t *testing.T) {
	t.Parallel()
	s := thumb.New(thumb.Options{Side: 64})
	for kind, raw := range kinds(t, picture(200, 100, false)) {
		small := decode(t, encode(t, func(w io.Writer) error { return s.Thumbnail(t.Context(), w, bytes.NewReader(raw)) }), "jpeg")
		if d := distance(picture(64, 32, false), small); d > 12 {
			t.Errorf("the thumbnail of a %s differs by %.1f", kind, d)
		}
	}
	for _, size := range []image.Point{{10, 5}, {1, 1}, {64, 64}} {
		raw := asPNG(t, picture(size.X, size.Y, false))
		small := decode(t, encode(t, func(w io.Writer) error { return s.Thumbnail(t.Context(), w, bytes.NewReader(raw)) }), "jpeg")
		if small.Bounds().Size() != size {
			t.Errorf("a picture of %v became %v", size, small.Bounds().Size())
		}
	}
	raw := asPNG(t, picture(3000, 2, false))
	small := decode(t, encode(t, func(w io.Writer) error { return s.Thumbnail(t.Context(), w, bytes.NewReader(raw)) }), "jpeg")
	if small.Bounds().Size() != (image.Point{64, 1}) {
		t.Errorf("a thin picture became %v", small.Bounds().Size())
	}
	// What is transparent shows white, at full size and made smaller.
	for _, n := range []int{8, 200} {
		raw := asPNG(t, image.NewNRGBA(image.Rect(0, 0, n, n)))
		small := decode(t, encode(t, func(w io.Writer) error { return s.Thumbnail(t.Context(), w, bytes.NewReader(raw)) }), "jpeg")
		if r, g, b, _ := small.At(3, 3).RGBA(); min(r, g, b) < 0xf000 {
			t.Errorf("a clear picture of %d pixels shows %v", n, small.At(3, 3))
		}
	}
}

func TestPreview(t *testing.T) {
	t.Parallel()
	s := thumb.New(thumb.Options{})
	want := picture(50, 40, false)
	for kind, raw := range kinds(t, want) {
		most := 5.0
		if kind == "gif" {
			most = 12 // it has 256 colours
		}
		for _, c := range []struct{ format, contentType, kind string }{
			{"webp", "image/webp", "webp"}, {"jpeg", "image/jpeg", "jpeg"}, {"tiff", "image/webp", "webp"}, {"", "image/webp", "webp"},
		} {
			b, contentType, err := s.Preview(t.Context(), bytes.NewReader(raw), c.format, 90)
			if err != nil || contentType != c.contentType {
				t.Errorf("preview of a %s as %s: %s, %v", kind, c.format, contentType, err)
				continue
			}
			if d := distance(want, decode(t, b, c.kind)); d > most {
				t.Errorf("preview of a %s as %s differs by %.1f", kind, c.format, d)
			}
		}
	}
	// Lower quality is smaller; a senseless one means 90.
	raw := asPNG(t, want)
	size := func(format string, q int) int {
		b, _, err := s.Preview(t.Context(), bytes.NewReader(raw), format, q)
		if err != nil {
			t.Fatal(err)
		}
		return len(b)
	}
	for _, format := range []string{"webp", "jpeg"} {
		if size(format, 10) >= size(format, 90) || size(format, 0) != size(format, 90) || size(format, 101) != size(format, 90) {
			t.Errorf("%s ignores the quality: %d, %d, %d bytes", format, size(format, 10), size(format, 90), size(format, 0))
		}
	}
	// JPEG loses the alpha and keeps the colours, WebP keeps both.
	raw = asPNG(t, picture(50, 40, true))
	b, _, err := s.Preview(t.Context(), bytes.NewReader(raw), "jpeg", 95)
	if err != nil {
		t.Fatal(err)
	}
	if d := distance(want, decode(t, b, "jpeg")); d > 4 {
		t.Errorf("a clear picture as JPEG differs by %.1f", d)
	}
	b, _, err = s.Preview(t.Context(), bytes.NewReader(raw), "webp", 95)
	if err != nil {
		t.Fatal(err)
	}
	img, err := webp.Decode(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, _, a := img.At(0, 0).RGBA(); a > 0x0800 {
		t.Errorf("WebP lost the alpha: %x", a)
	}
}

func TestChannel(t *testing.T) {
	t.Parallel()
	s := thumb.New(thumb.Options{})
	src := picture(16, 8, true)
	b, err := s.Channel(t.Context(), bytes.NewReader(asPNG(t, src)), "rgb")
	if err != nil {
		t.Fatal(err)
	}
	rgb := decode(t, b, "png")
	if distance(picture(16, 8, false), rgb) != 0 {
		t.Error("rgb changed colours under transparent pixels")
	}
	if b, err = s.Channel(t.Context(), bytes.NewReader(asPNG(t, src)), "a"); err != nil {
		t.Fatal(err)
	}
	a, ok := decode(t, b, "png").(*image.NRGBA)
	if !ok {
		t.Fatal("the alpha channel came without alpha")
	}
	for x := range 16 {
		if got, want := a.NRGBAAt(x, 3), (color.NRGBA{A: src.NRGBAAt(x, 3).A}); got != want {
			t.Errorf("alpha at %d is %v, want %v", x, got, want)
		}
	}
	for kind, raw := range kinds(t, picture(20, 10, false)) {
		if _, err := s.Channel(t.Context(), bytes.NewReader(raw), "a"); err != nil {
			t.Errorf("alpha of a %s: %v", kind, err)
		}
	}
	if _, err := s.Channel(t.Context(), bytes.NewReader(b), "rgba"); !fault.Is(err, fault.Invalid) {
		t.Errorf("channel rgba gave %v", err)
	}
}

func TestPalettedKeepsColours(t *testing.T) {
	t.Parallel()
	img := image.NewPaletted(image.Rect(0, 0, 2, 1), color.Palette{color.NRGBA{200, 100, 50, 0}, color.NRGBA{1, 2, 3, 255}})
	img.SetColorIndex(1, 0, 1)
	b, err := thumb.New(thumb.Options{}).Channel(t.Context(), bytes.NewReader(asPNG(t, img)), "rgb")
	if err != nil {
		t.Fatal(err)
	}
	if r, g, bl, a := decode(t, b, "png").At(0, 0).RGBA(); r>>8 != 200 || g>>8 != 100 || bl>>8 != 50 || a != 0xffff {
		t.Errorf("a clear colour became %d %d %d %d", r>>8, g>>8, bl>>8, a>>8)
	}
}

func textChunk(kind, text string) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(text)))
	b = append(append(b, kind...), text...)
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b[4:]))
}

// withChunks puts chunks after the head of a PNG.
func withChunks(png []byte, chunks ...[]byte) []byte {
	return append(append(bytes.Clone(png[:33]), bytes.Join(chunks, nil)...), png[33:]...)
}

func TestMask(t *testing.T) {
	t.Parallel()
	s := thumb.New(thumb.Options{})
	graph := textChunk("tEXt", "prompt\x00{\"1\": {\"seed\": 18446744073709551615}}")
	long := textChunk("iTXt", "workflow\x00\x00\x00\x00\x00"+strings.Repeat("é", 100000))
	original := withChunks(asPNG(t, picture(16, 8, false)), graph, long)
	mask := asPNG(t, picture(16, 8, true))
	b, err := s.Mask(t.Context(), iotest.HalfReader(bytes.NewReader(original)), bytes.NewReader(mask))
	if err != nil {
		t.Fatal(err)
	}
	got, ok := decode(t, b, "png").(*image.NRGBA)
	if !ok || !bytes.Equal(got.Pix, picture(16, 8, true).Pix) {
		t.Error("the picture is not the original with the alpha of the mask")
	}
	if !bytes.Contains(b, graph) || !bytes.Contains(b, long) {
		t.Error("the text of the original is not kept as it is")
	}
	// A mask over a mask, and originals of other kinds.
	if _, err := s.Mask(t.Context(), bytes.NewReader(b), bytes.NewReader(mask)); err != nil {
		t.Error(err)
	}
	for kind, raw := range kinds(t, picture(16, 8, false)) {
		b, err := s.Mask(t.Context(), bytes.NewReader(raw), bytes.NewReader(mask))
		if err != nil {
			t.Errorf("a mask on a %s: %v", kind, err)
			continue
		}
		if img, ok := decode(t, b, "png").(*image.NRGBA); !ok || img.NRGBAAt(0, 0).A != 0 || img.NRGBAAt(15, 0).A != 255 {
			t.Errorf("a mask on a %s has no effect", kind)
		}
	}
	_, err = s.Mask(t.Context(), bytes.NewReader(original), bytes.NewReader(asPNG(t, picture(8, 8, true))))
	if e, ok := errors.AsType[*fault.Error](err); !ok || e.Code != "mask_size" {
		t.Errorf("a mask of another size gave %v", err)
	}
}

// hugePNG is a head that promises more pixels than anybody has memory for.
func hugePNG(w, h uint32) []byte {
	b := append([]byte("\x89PNG\r\n\x1a\n"), 0, 0, 0, 13)
	b = append(b, "IHDR"...)
	b = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, w), h)
	b = append(b, 8, 6, 0, 0, 0)
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b[12:]))
}

func TestBadPictures(t *testing.T) {
	t.Parallel()
	s := thumb.New(thumb.Options{MaxPixels: 1 << 20, MaxBytes: 1 << 20})
	good := asPNG(t, picture(8, 8, false))
	// A WebP whose canvas is small and whose frame is not.
	sly := []byte("RIFF\x00\x00\x00\x00WEBPVP8X\x0a\x00\x00\x00\x02\x00\x00\x00\x07\x00\x00\x07\x00\x00" +
		"ANMF\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\x3f\x00\xff\x3f\x00\x00\x00\x00\x00")
	for name, c := range map[string]struct {
		raw  []byte
		code string
	}{
		"nothing":     {nil, "not_a_picture"},
		"text":        {[]byte("<svg/>"), "not_a_picture"},
		"cut":         {good[:len(good)/2], "not_a_picture"},
		"head alone":  {good[:8], "not_a_picture"},
		"no pixels":   {hugePNG(0, 5), "not_a_picture"},
		"huge":        {hugePNG(1<<15, 1<<15), "picture_too_large"},
		"wide":        {hugePNG(1<<30, 1), "picture_too_large"},
		"just beyond": {hugePNG(1<<20+1, 1), "picture_too_large"},
		"many bytes":  {append(bytes.Clone(good), make([]byte, 1<<20)...), "picture_too_large"},
		"webp frame":  {sly, "picture_too_large"},
		"passes":      {passesJPEG(700, 700), "not_a_picture"}, // its size is taken
		"many passes": {passesJPEG(800, 800), "picture_too_large"},
		"webp head":   {[]byte("RIFF\x00\x00\x00\x00WEBP"), "not_a_picture"},
		"gif head":    {[]byte("GIF89a"), "not_a_picture"},
	} {
		err := s.Thumbnail(t.Context(), io.Discard, bytes.NewReader(c.raw))
		if e, ok := errors.AsType[*fault.Error](err); !ok || e.Kind != fault.Invalid || e.Code != c.code {
			t.Errorf("%s gave %v, want code %s", name, err, c.code)
		}
	}
	film := &counter{}
	if err := s.Thumbnail(t.Context(), io.Discard, film); !fault.Is(err, fault.Invalid) || film.n > 1<<16 {
		t.Errorf("of a film %d bytes were read, %v", film.n, err)
	}
	boom := errors.New("boom")
	if err := s.Thumbnail(t.Context(), io.Discard, iotest.ErrReader(boom)); !errors.Is(err, boom) {
		t.Errorf("an error of the reader came back as %v", err)
	}
}

func TestBounded(t *testing.T) {
	t.Parallel()
	s := thumb.New(thumb.Options{Workers: 1})
	started, release := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		r := io.MultiReader(readerFunc(func([]byte) (int, error) { close(started); <-release; return 0, io.EOF }))
		if err := s.Thumbnail(t.Context(), io.Discard, r); !fault.Is(err, fault.Invalid) {
			t.Error(err)
		}
	})
	<-started
	gone := errors.New("gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(gone)
	if _, _, err := s.Preview(ctx, strings.NewReader(""), "webp", 90); !errors.Is(err, gone) {
		t.Errorf("while the only worker is busy, who leaves gets %v", err)
	}
	close(release)
	wg.Wait()
}

// counter is a film without end.
type counter struct{ n int }

func (c *counter) Read(p []byte) (int, error) {
	c.n += len(p)
	return len(p), nil
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func FuzzDecode(f *testing.F) {
	for _, raw := range kinds(f, picture(9, 7, true)) {
		f.Add(raw)
	}
	f.Add(withChunks(asPNG(f, picture(2, 2, true)), textChunk("tEXt", "a\x00b")))
	s := thumb.New(thumb.Options{MaxPixels: 1 << 12, MaxBytes: 1 << 16})
	mask := asPNG(f, picture(9, 7, true))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var small bytes.Buffer
		if err := s.Thumbnail(t.Context(), &small, bytes.NewReader(raw)); err != nil {
			if !fault.Is(err, fault.Invalid) {
				t.Fatal(err)
			}
			return
		}
		c, err := jpeg.DecodeConfig(&small)
		if err != nil || c.Width*c.Height > 1<<12 {
			t.Fatalf("a thumbnail of %d × %d, %v", c.Width, c.Height, err)
		}
		b, err := s.Mask(t.Context(), bytes.NewReader(raw), bytes.NewReader(mask))
		if err != nil {
			if !fault.Is(err, fault.Invalid) {
				t.Fatal(err)
			}
			return
		}
		if _, err := png.Decode(bytes.NewReader(b)); err != nil {
			t.Fatal(err)
		}
	})
}

func BenchmarkThumb(b *testing.B) {
	s := thumb.New(thumb.Options{})
	raw := asPNG(b, picture(1024, 1024, false))
	b.Run("Thumbnail", func(b *testing.B) {
		for b.Loop() {
			if err := s.Thumbnail(b.Context(), io.Discard, bytes.NewReader(raw)); err != nil {
				b.Fatal(err)
			}
		}
	})
	for _, format := range []string{"jpeg", "webp"} {
		b.Run("Preview/"+format, func(b *testing.B) {
			for b.Loop() {
				if _, _, err := s.Preview(b.Context(), bytes.NewReader(raw), format, 90); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
