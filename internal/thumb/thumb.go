// Package thumb turns pictures into small or otherwise encoded ones: thumbnails, previews and single channels for
// viewing, and the picture with a mask for its alpha that the mask editor stores.
package thumb

import (
	"bytes"
	"context"
	"fmt"
	"image"
	"image/jpeg"
	"image/png"
	"io"
	"runtime"
	"sync"

	"golang.org/x/image/draw"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/identity"
)

// Options are the bounds of a Service. The zero value is right for a studio.
type Options struct {
	Workers   int // most pictures at once; 0: half of the processors, at least one
	MaxPixels int // most pixels of a picture, looked at before it is decoded; 0: 64 Mi, which is 8192 × 8192
	MaxBytes  int // most bytes of a picture; 0: 256 MiB
	Side      int // longer side of a thumbnail; 0: 384
}

// Service works on pictures, a bounded number at a time: each needs much memory and a processor. The person in the
// context has one at work or next in line, however many they ask for, so that people take turns. It is safe for
// concurrent use.
type Service struct {
	opt   Options
	slots chan struct{}

	mu    sync.Mutex
	lines map[string]*line // by person
}

// line is where one person's pictures wait.
type line struct {
	head  chan struct{} // holds a token while one of them is at work or next
	users int
}

// New returns a service.
func New(o Options) *Service {
	if o.Workers <= 0 {
		o.Workers = max(1, runtime.GOMAXPROCS(0)/2)
	}
	if o.MaxPixels <= 0 {
		o.MaxPixels = 64 << 20
	}
	if o.MaxBytes <= 0 {
		o.MaxBytes = 256 << 20
	}
	if o.Side <= 0 {
		o.Side = 384
	}
	return &Service{opt: o, slots: make(chan struct{}, o.Workers), lines: make(map[string]*line)}
}

// queue waits until no other picture of the person in ctx goes first. Pictures of nobody wait for none.
func (s *Service) queue(ctx context.Context) (leave func(), err error) {
	p, ok := identity.From(ctx)
	if !ok {
		return func() {}, nil
	}
	s.mu.Lock()
	l := s.lines[p.Name]
	if l == nil {
		l = &line{head: make(chan struct{}, 1)}
		s.lines[p.Name] = l
	}
	l.users++
	s.mu.Unlock()
	gone := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(s.lines, p.Name)
		}
	}
	select {
	case l.head <- struct{}{}:
		return func() { <-l.head; gone() }, nil
	case <-ctx.Done():
		gone()
		return nil, context.Cause(ctx)
	}
}

// turn waits for a free slot and calls f in it.
func (s *Service) turn(ctx context.Context, f func() error) error {
	leave, err := s.queue(ctx)
	if err != nil {
		return err
	}
	defer leave()
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-s.slots }()
	return f()
}

// Thumbnail writes a small JPEG of the picture src to dst, transparent parts in white. A picture that is smaller
// keeps its size. Invalid, code not_a_picture or picture_too_large: src has no thumbnail.
func (s *Service) Thumbnail(ctx context.Context, dst io.Writer, src io.Reader) error {
	return s.turn(ctx, func() error {
		img, err := s.decode(src)
		if err != nil {
			return err
		}
		small := image.NewRGBA(fit(img.Bounds(), s.opt.Side))
		draw.Draw(small, small.Bounds(), image.White, image.Point{}, draw.Src)
		if small.Bounds().Size() == img.Bounds().Size() {
			draw.Draw(small, small.Bounds(), img, img.Bounds().Min, draw.Over)
		} else {
			draw.BiLinear.Scale(small, small.Bounds(), img, img.Bounds(), draw.Over, nil)
		}
		return encodeJPEG(dst, small, 82)
	})
}

// fit returns the bounds of a picture whose longer side is at most side.
func fit(b image.Rectangle, side int) image.Rectangle {
	w, h := b.Dx(), b.Dy()
	if longer := max(w, h); longer > side {
		w, h = max(1, w*side/longer), max(1, h*side/longer)
	}
	return image.Rect(0, 0, w, h)
}

// Preview encodes the picture src anew: format is "jpeg", which loses transparency, or "webp"; any other means
// "webp", as ComfyUI has it. quality is 1 to 100, anything else means 90. Errors are those of Thumbnail.
func (s *Service) Preview(ctx context.Context, src io.Reader, format string, quality int) (body []byte, contentType string, err error) {
	if quality < 1 || quality > 100 {
		quality = 90
	}
	var b bytes.Buffer
	err = s.turn(ctx, func() error {
		img, err := s.decode(src)
		if err != nil {
			return err
		}
		if format == "jpeg" {
			contentType = "image/jpeg"
			return encodeJPEG(&b, opaque(img), quality)
		}
		contentType = "image/webp"
		return encodeWebP(&b, img, quality)
	})
	if err != nil {
		return nil, "", err
	}
	return b.Bytes(), contentType, nil
}

// Channel returns a PNG of the picture src: with channel "rgb" its colours without the alpha, with "a" its alpha
// alone, over black. Colours under transparent parts stay what they are. Errors are those of Thumbnail, and
// Invalid for another channel.
func (s *Service) Channel(ctx context.Context, src io.Reader, channel string) ([]byte, error) {
	if channel != "rgb" && channel != "a" {
		return nil, fault.New(fault.Invalid, "The channel of a picture is rgb or a.").WithCode("bad_channel")
	}
	var b bytes.Buffer
	err := s.turn(ctx, func() error {
		img, err := s.decode(src)
		if err != nil {
			return err
		}
		if channel == "rgb" {
			return encodePNG(&b, opaque(img))
		}
		return encodePNG(&b, alphaOnly(straight(img)))
	})
	if err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// Mask returns a PNG of original with the alpha of mask. The text of an original PNG is kept, among it the graph
// that made it. Errors are those of Thumbnail, and Invalid, code mask_size, for pictures of different sizes.
func (s *Service) Mask(ctx context.Context, original, mask io.Reader) ([]byte, error) {
	var b bytes.Buffer
	err := s.turn(ctx, func() error {
		raw, err := s.read(original)
		if err != nil {
			return err
		}
		img, err := s.decodeBytes(raw)
		if err != nil {
			return err
		}
		with, err := s.decode(mask)
		if err != nil {
			return err
		}
		if img.Bounds().Size() != with.Bounds().Size() {
			return fault.New(fault.Invalid, "The mask has %s and the picture %s.", dimensions(with), dimensions(img)).
				WithRemedy("Make the mask as large as the picture.").WithCode("mask_size")
		}
		out := straight(img)
		copyAlpha(out, straight(with))
		var plain bytes.Buffer
		if err := encodePNG(&plain, out); err != nil {
			return err
		}
		return withTexts(&b, plain.Bytes(), texts(raw))
	})
	if err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func dimensions(img image.Image) string {
	return fmt.Sprintf("%d × %d pixels", img.Bounds().Dx(), img.Bounds().Dy())
}

func encodeJPEG(w io.Writer, img image.Image, quality int) error {
	if err := jpeg.Encode(w, img, &jpeg.Options{Quality: quality}); err != nil {
		return fmt.Errorf("encode a JPEG: %w", err)
	}
	return nil
}

func encodePNG(w io.Writer, img image.Image) error {
	// Fast rather than small: the result is viewed once, or is the input of the next run.
	e := png.Encoder{CompressionLevel: png.BestSpeed}
	if err := e.Encode(w, img); err != nil {
		return fmt.Errorf("encode a PNG: %w", err)
	}
	return nil
}
