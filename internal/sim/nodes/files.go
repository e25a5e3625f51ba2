package nodes

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"image"
	"os"
	"strconv"

	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/sim/folders"
	"github.com/ahelme/comfyume/internal/sim/media"
	"github.com/ahelme/comfyume/internal/sim/raster"
)

// read returns the file a name in the graph leads to.
func (c *Call) read(name string) ([]byte, error) {
	path, ok := c.Host.Folders().Path(name)
	if !ok {
		return nil, Raise("FileNotFoundError", "[Errno 2] No such file or directory: '%s'", name)
	}
	file, err := os.ReadFile(path)
	if info, statErr := os.Stat(path); statErr == nil && info.IsDir() {
		return nil, Raise("IsADirectoryError", "[Errno 21] Is a directory: '%s'", path)
	}
	if err != nil {
		return nil, Raise("FileNotFoundError", "[Errno 2] No such file or directory: '%s'", name)
	}
	return file, nil
}

// contentHash makes a node run again when the file behind its input was replaced.
func contentHash(input string) func(*Call) (json.RawMessage, error) {
	return func(c *Call) (json.RawMessage, error) {
		file, err := c.read(c.Text(input))
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(file)
		return json.RawMessage(`["` + hex.EncodeToString(sum[:]) + `"]`), nil
	}
}

func (c *Call) decode() (*media.Picture, error) {
	file, err := c.read(c.Text("image"))
	if err != nil {
		return nil, err
	}
	p, err := media.Decode(file, int(c.Host.MaxValues()/3))
	if err != nil {
		return nil, Raise("PIL.UnidentifiedImageError", "%s", err.Error())
	}
	return p, nil
}

// emptyMask is what nodes give for pictures without transparency.
func emptyMask(n int) *raster.Image { return raster.New(n, 64, 64, 1) }

func runLoadImage(c *Call) ([]any, error) {
	p, err := c.decode()
	if err != nil {
		return nil, err
	}
	colours, mask := p.Batch()
	if mask == nil {
		mask = emptyMask(colours.N)
	}
	return []any{Pictures{colours}, Mask{mask}}, nil
}

var runLoadImageOutput = runLoadImage

func runLoadImageMask(c *Call) ([]any, error) {
	p, err := c.decode()
	if err != nil {
		return nil, err
	}
	f := p.Frames[0]
	k := channelIndex(c.Text("channel"))
	if k < 0 {
		return one(Mask{emptyMask(1)})
	}
	out := raster.New(1, f.Rect.Dy(), f.Rect.Dx(), 1)
	for i := range out.Pix {
		out.Pix[i] = raster.Unit(f.Pix[i*4+k])
		if k == 3 {
			out.Pix[i] = 1 - out.Pix[i]
		}
	}
	return one(Mask{out})
}

// saved is a row of files a node made.
type saved struct {
	target *folders.Target
	list   []byte
}

// save prepares to save under the node's prefix; nodes that only show use temp names.
func (c *Call) save(typ string, w, h int) (*saved, error) {
	prefix := "ComfyUI"
	if typ == "output" {
		prefix = c.Text("filename_prefix")
	} else {
		if c.Object.prefix == "" {
			c.Object.prefix = "_temp_" + c.Host.Letters(5)
		}
		prefix += c.Object.prefix
	}
	target, err := c.Host.Folders().NextName(typ, prefix, w, h, c.Host.Now())
	if err != nil {
		return nil, err
	}
	return &saved{target: target}, nil
}

func (s *saved) add(content []byte, ext string, batch int) error {
	name, err := s.target.Save(content, ext, batch)
	if err != nil {
		return err
	}
	if len(s.list) > 0 {
		s.list = append(s.list, ", "...)
	}
	s.list = pyjson.AppendString(append(s.list, `{"filename": `...), name)
	s.list = pyjson.AppendString(append(s.list, `, "subfolder": `...), s.target.Subfolder)
	s.list = append(pyjson.AppendString(append(s.list, `, "type": `...), s.target.Type), '}')
	return nil
}

// ui is what the node shows: the files under key, and more members when given.
func (s *saved) ui(key, more string) json.RawMessage {
	return json.RawMessage(`{"` + key + `": [` + string(s.list) + `]` + more + `}`)
}

// savePictures writes each picture of a batch as PNG.
func (c *Call) savePictures(m *raster.Image, typ string, fast bool) ([]any, error) {
	texts, err := c.texts()
	if err != nil {
		return nil, err
	}
	s, err := c.save(typ, m.W, m.H)
	if err != nil {
		return nil, err
	}
	for i := range m.N {
		file, err := media.PNG(media.RGBA8(m, i), texts, fast)
		if err != nil {
			return nil, err
		}
		if err := s.add(file, "png", i); err != nil {
			return nil, err
		}
	}
	c.UI = s.ui("images", "")
	return nil, nil
}

func runSaveImage(c *Call) ([]any, error) { return c.savePictures(c.Image("images"), "output", false) }

func runPreviewImage(c *Call) ([]any, error) { return c.savePictures(c.Image("images"), "temp", true) }

func runMaskPreview(c *Call) ([]any, error) {
	return c.savePictures(c.Mask("mask").WithChannels(1, 0), "temp", false)
}

func frames(m *raster.Image) []*image.NRGBA {
	out := make([]*image.NRGBA, m.N)
	for i := range out {
		out[i] = media.RGBA8(m, i)
	}
	return out
}

func runSaveAnimatedWEBP(c *Call) ([]any, error) { return c.saveAnimation("webp", media.WebP) }

func runSaveAnimatedPNG(c *Call) ([]any, error) { return c.saveAnimation("png", media.AnimatedPNG) }

func (c *Call) saveAnimation(ext string, encode func([]*image.NRGBA, int, []media.Text) ([]byte, error)) ([]any, error) {
	m := c.Image("images")
	texts, err := c.texts()
	if err != nil {
		return nil, err
	}
	s, err := c.save("output", m.W, m.H)
	if err != nil {
		return nil, err
	}
	file, err := encode(frames(m), int(1000/c.Float("fps")), texts)
	if err != nil {
		return nil, err
	}
	if err := s.add(file, ext, 0); err != nil {
		return nil, err
	}
	moving := ext == "png" || m.N != 1
	c.UI = s.ui("images", `, "animated": [`+strconv.FormatBool(moving)+`]`)
	return nil, nil
}

// runSaveImageWebsocket sends each picture as a preview in full size; nothing is written.
func runSaveImageWebsocket(c *Call) ([]any, error) {
	m := c.Image("images")
	for i := range m.N {
		if err := c.Host.Progress(c.Node, i, m.N, &Preview{Picture: media.RGBA8(m, i), PNG: true}); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// timeStamp makes a node run each time.
func timeStamp(c *Call) (json.RawMessage, error) {
	now := float64(c.Host.Now().UnixNano()) / 1e9
	return json.RawMessage("[" + strconv.FormatFloat(now, 'f', 7, 64) + "]"), nil
}

func runEmptyAudio(c *Call) ([]any, error) {
	rate, channels := c.Int("sample_rate"), c.Int("channels")
	samples := c.Float("duration") * float64(rate)
	if rate < 1 || samples*float64(channels) > c.Host.MaxValues() {
		return nil, Raise("RuntimeError", "a sound of %g samples can't be made", samples)
	}
	s := &media.Sound{Rate: rate}
	for range channels {
		s.Channels = append(s.Channels, make([]float32, raster.Round(samples)))
	}
	return one(Sounds{s})
}

func runLoadAudio(c *Call) ([]any, error) {
	file, err := c.read(c.Text("audio"))
	if err != nil {
		return nil, err
	}
	s, err := media.DecodeAudio(file)
	if err != nil {
		return nil, Raise("ValueError", "No audio stream found in the file. (The simulated ComfyUI reads WAV and FLAC.)")
	}
	return one(Sounds{s})
}

func runSaveAudio(c *Call) ([]any, error) { return c.saveAudio("output") }

func runPreviewAudio(c *Call) ([]any, error) { return c.saveAudio("temp") }

func (c *Call) saveAudio(typ string) ([]any, error) {
	texts, err := c.texts()
	if err != nil {
		return nil, err
	}
	s, err := c.save(typ, 0, 0)
	if err != nil {
		return nil, err
	}
	for i, sound := range arg[Sounds](c, "audio") {
		if n := len(sound.Channels); n < 1 || n > 8 {
			return nil, Raise("ValueError", "audio with %d channels can't be saved", n)
		}
		if err := s.add(media.FLAC(sound, texts), "flac", i); err != nil {
			return nil, err
		}
	}
	c.UI = s.ui("audio", "")
	return nil, nil
}
