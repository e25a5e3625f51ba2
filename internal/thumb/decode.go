package thumb

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"
	"slices"

	"golang.org/x/image/bmp"

	"github.com/ahelme/comfyume/internal/fault"
)

// format is a kind of pictures that can be decoded.
type format struct {
	magic  string // '?' stands for any byte
	config func(io.Reader) (image.Config, error)
	decode func(io.Reader) (image.Image, error)
}

// formats are chosen by how a picture begins. Packages of formats register themselves for image.Decode as well, but
// what is decoded here shall not depend on who else is in the program.
func formats() []format {
	return []format{
		{"\x89PNG\r\n\x1a\n", png.DecodeConfig, png.Decode},
		{"\xff\xd8\xff", jpeg.DecodeConfig, jpeg.Decode},
		{"RIFF????WEBP", webpConfig, decodeWebP},
		{"GIF8?a", gif.DecodeConfig, gif.Decode}, // the first picture of an animation
		{"BM", bmp.DecodeConfig, bmp.Decode},
	}
}

func (f format) matches(b []byte) bool {
	if len(b) < len(f.magic) {
		return false
	}
	for i := range len(f.magic) {
		if f.magic[i] != '?' && f.magic[i] != b[i] {
			return false
		}
	}
	return true
}

// longestMagic is how many bytes tell a picture's kind.
const longestMagic = 12

// read reads a whole picture. What does not begin like one is not read on: a film can have gigabytes.
func (s *Service) read(r io.Reader) ([]byte, error) {
	var b bytes.Buffer
	head, err := io.CopyN(&b, r, longestMagic)
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("read a picture: %w", err)
	}
	if !slices.ContainsFunc(formats(), func(f format) bool { return f.matches(b.Bytes()) }) {
		return nil, notPicture(nil)
	}
	rest, err := io.Copy(&b, io.LimitReader(r, int64(s.opt.MaxBytes)-head+1))
	if err != nil {
		return nil, fmt.Errorf("read a picture: %w", err)
	}
	if head+rest > int64(s.opt.MaxBytes) {
		return nil, tooLarge("The picture has more than %d MB.", s.opt.MaxBytes/1e6)
	}
	return b.Bytes(), nil
}

func (s *Service) decode(r io.Reader) (image.Image, error) {
	b, err := s.read(r)
	if err != nil {
		return nil, err
	}
	return s.decodeBytes(b)
}

// decodeBytes decodes a picture of a known kind after a look at its size: a few bytes can ask for gigabytes.
func (s *Service) decodeBytes(b []byte) (img image.Image, err error) {
	// Decoders are fed what anybody uploads. A defect in one of them must not end the program.
	defer func() {
		if p := recover(); p != nil {
			img, err = nil, notPicture(fmt.Errorf("a decoder panicked: %v", p))
		}
	}()
	for _, f := range formats() {
		if !f.matches(b) {
			continue
		}
		c, err := f.config(bytes.NewReader(b))
		if err != nil {
			return nil, notPicture(err)
		}
		if c.Width <= 0 || c.Height <= 0 {
			return nil, notPicture(fmt.Errorf("%d × %d pixels", c.Width, c.Height))
		}
		limit := s.opt.MaxPixels
		if channels := progressive(c, b); channels > 0 {
			limit = min(limit, maxPixelBytes*limit/(5*channels))
		}
		if c.Width > limit/c.Height {
			return nil, tooLarge("The picture has %d × %d pixels, more than the %d million that are shown in another form.",
				c.Width, c.Height, limit/1e6)
		}
		img, err := f.decode(bytes.NewReader(b))
		if err != nil {
			return nil, notPicture(err)
		}
		if img.Bounds().Empty() {
			return nil, notPicture(fmt.Errorf("no pixels"))
		}
		return img, nil
	}
	return nil, notPicture(nil)
}

// maxPixelBytes is what a decoder may need for a pixel when a picture has as many as are taken: two bytes each for
// three colours and the transparency.
const maxPixelBytes = 8

// progressive returns how many channels a JPEG has that comes in passes, else 0. Its decoder keeps five bytes of each
// channel of a pixel until the last pass, and a few bytes of such a file can ask for gigabytes. The mark of such a file
// may stand for something else in the picture's notes; then only the largest pictures are refused for it.
func progressive(c image.Config, b []byte) int {
	if !bytes.HasPrefix(b, []byte("\xff\xd8\xff")) || !bytes.Contains(b, []byte("\xff\xc2")) {
		return 0
	}
	switch c.ColorModel {
	case color.GrayModel:
		return 1
	case color.CMYKModel:
		return 4
	default:
		return 3
	}
}

func notPicture(cause error) error {
	return fault.Wrap(fault.Invalid, cause, "The file is not a picture that can be read.").WithCode("not_a_picture")
}

func tooLarge(text string, args ...any) error {
	return fault.New(fault.Invalid, text, args...).WithRemedy("Download the file as it is.").WithCode("picture_too_large")
}
