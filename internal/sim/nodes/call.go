package nodes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"io/fs"
	"strings"
	"syscall"
	"time"

	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/sim/folders"
	"github.com/ahelme/comfyume/internal/sim/media"
	"github.com/ahelme/comfyume/internal/sim/raster"
)

// Host is what a node may ask of the server it runs on. Its methods are called by the one worker.
type Host interface {
	Device
	// Progress tells that step value of max is done. It returns ErrInterrupted when somebody stopped the run.
	Progress(node string, value, max int, preview *Preview) error
}

// Device is the part of a Host that does not depend on the run.
type Device interface {
	Folders() *folders.Folders
	// Watched reports whether a preview would be seen by anybody.
	Watched() bool
	// Previews reports whether samplers send previews.
	Previews() bool
	// SendText shows a line of text on a node.
	SendText(node, text string)
	// Sleep lets simulated time pass; a server that is closed ends it with an error.
	Sleep(ctx context.Context, d time.Duration) error
	// Load brings a model into memory, which takes its time the first time.
	Load(ctx context.Context, name string) error
	// StepTime is how long a step of a sampler takes.
	StepTime() time.Duration
	// Fits returns an OutOfMemory failure when that many bytes are more than the simulated device has.
	Fits(bytes float64) error
	// MaxValues is how many numbers one batch of pictures may hold.
	MaxValues() float64
	// Now is the time of day, for names of files.
	Now() time.Time
	// Letters are n random small letters, for names of temp files.
	Letters(n int) string
}

// Preview is a picture shown while a node works. Max is the side it is brought to; 0: as it is.
type Preview struct {
	Picture image.Image
	PNG     bool
	Max     int
}

// ErrInterrupted ends a node whose run was stopped.
var ErrInterrupted = errors.New("processing interrupted")

// Failure is what a node raises: the name of a Python exception and its text.
type Failure struct {
	Type    string
	Message string
	Memory  bool // out of memory: everything loaded is dropped, and the report has advice
}

func (f *Failure) Error() string { return f.Message }

// OutOfMemory is the failure of a device that is too small.
func OutOfMemory() *Failure {
	return &Failure{Type: "torch.OutOfMemoryError", Message: "Allocation on device 0 would exceed allowed memory.", Memory: true}
}

// Raise returns a failure of the given Python exception.
func Raise(exception, format string, args ...any) *Failure {
	return &Failure{Type: exception, Message: fmt.Sprintf(format, args...)}
}

// AsFailure returns err as what Python would have raised.
func AsFailure(err error) *Failure {
	var f *Failure
	var outside *folders.ErrOutside
	switch {
	case errors.As(err, &f):
		return f
	case errors.As(err, &outside):
		return Raise("Exception", "%s", err.Error())
	case errors.Is(err, fs.ErrNotExist):
		return Raise("FileNotFoundError", "[Errno 2] No such file or directory")
	case errors.Is(err, syscall.ENOSPC):
		return Raise("OSError", "[Errno 28] No space left on device")
	case errors.Is(err, media.ErrTooLarge):
		return Raise("PIL.Image.DecompressionBombError", "%s", err.Error())
	default:
		return Raise("RuntimeError", "%s", err.Error())
	}
}

// Object is what lives as long as a node of one id and class stays in the graphs that are run.
type Object struct{ prefix string }

// Call is one run of one node.
type Call struct {
	Ctx    context.Context
	Host   Host
	Class  *Class
	Node   string // id
	Object *Object
	// Args are the values of the declared inputs by name; what was not given is not there.
	Args map[string]any
	// Prompt is the whole graph as it is written into files.
	Prompt func() json.RawMessage
	// Extra is extra_data.extra_pnginfo, nil when there is none.
	Extra json.RawMessage
	// Tainted is set when an input came from a simulated node.
	Tainted bool
	// UI is what the node shows, set by Run: a JSON object; nil: nothing.
	UI json.RawMessage
}

// Check returns the failure of a call whose arguments do not suit the class.
func (c *Call) Check() error {
	for _, in := range c.Class.Inputs {
		if in.Group == hidden {
			continue
		}
		v, given := c.Args[in.Name]
		if !given {
			if in.Group == optional {
				continue
			}
			return Raise("TypeError", "%s.execute() missing 1 required positional argument: '%s'", c.Class.Name, in.Name)
		}
		if !fits(in.Type, v) {
			return Raise("TypeError", "%s: input '%s' is not of type %s", c.Class.Name, in.Name, in.Type)
		}
	}
	return nil
}

// Text returns a text input.
func (c *Call) Text(name string) string { s, _ := c.Args[name].(string); return s }

// Num returns a number input; truth counts as 1 and 0.
func (c *Call) Num(name string) pyjson.Num {
	switch v := c.Args[name].(type) {
	case pyjson.Num:
		return v
	case bool:
		if v {
			return pyjson.IntNum(1)
		}
	}
	return pyjson.Num{}
}

// Int returns an integer input, cut to what an int holds.
func (c *Call) Int(name string) int {
	n, ok := c.Num(name).Int64()
	if !ok {
		f := c.Num(name).Float()
		switch {
		case f > 1<<62:
			return 1 << 62
		case f < -(1 << 62):
			return -(1 << 62)
		case f == f:
			return int(f)
		}
		return 0
	}
	return int(n)
}

// Float returns a number input as a float.
func (c *Call) Float(name string) float64 { return c.Num(name).Float() }

// Bool returns a truth input.
func (c *Call) Bool(name string) bool {
	switch v := c.Args[name].(type) {
	case bool:
		return v
	case pyjson.Num:
		return v.Float() != 0
	case string:
		return v != ""
	}
	return false
}

// Image returns a picture input, nil when it was not given.
func (c *Call) Image(name string) *raster.Image {
	p, _ := c.Args[name].(Pictures)
	return p.Image
}

// Mask returns a mask input, nil when it was not given.
func (c *Call) Mask(name string) *raster.Image {
	m, _ := c.Args[name].(Mask)
	return m.Image
}

// arg returns an input of any other type, its zero value when it was not given.
func arg[T any](c *Call, name string) T { v, _ := c.Args[name].(T); return v }

// room returns an error when a batch of that shape is more than the server lets a node make.
func (c *Call) room(n, h, w, channels int) error {
	if raster.Size(n, h, w, channels) > c.Host.MaxValues() {
		return OutOfMemory()
	}
	return nil
}

// texts are the metadata of a saved file.
func (c *Call) texts() ([]media.Text, error) {
	texts := []media.Text{{Key: "prompt", Value: string(c.Prompt())}}
	if pyjson.KindOf(c.Extra) == pyjson.Object {
		members, err := pyjson.Members(c.Extra)
		if err != nil {
			return nil, err
		}
		for _, m := range members {
			texts = append(texts, media.Text{Key: m.Key, Value: string(Dump(nil, m.Value))})
		}
	}
	if c.Tainted {
		texts = append(texts, media.Text{Key: "simulated", Value: SimulatedNote})
	}
	return texts, nil
}

// SimulatedNote stands in files made from simulated pictures and sounds.
const SimulatedNote = "Made by ComfyuME's simulated ComfyUI: no model was run."

// one wraps a single result.
func one(v any) ([]any, error) { return []any{v}, nil }

// picture wraps a single picture result.
func picture(m *raster.Image) ([]any, error) { return one(Pictures{m}) }

// Dump appends raw the way Python's json.dumps writes it: one blank after commas and colons, text in ASCII.
func Dump(dst []byte, raw json.RawMessage) []byte {
	switch pyjson.KindOf(raw) {
	case pyjson.Object:
		dst = append(dst, '{')
		members, _ := pyjson.Members(raw)
		for i, m := range members {
			if i > 0 {
				dst = append(dst, ", "...)
			}
			dst = append(pyjson.AppendString(dst, m.Key), ": "...)
			dst = Dump(dst, m.Value)
		}
		return append(dst, '}')
	case pyjson.Array:
		dst = append(dst, '[')
		elements, _ := pyjson.Elements(raw)
		for i, e := range elements {
			if i > 0 {
				dst = append(dst, ", "...)
			}
			dst = Dump(dst, e)
		}
		return append(dst, ']')
	case pyjson.String:
		return pyjson.AppendString(dst, pyjson.TextOf(raw))
	case pyjson.Number:
		n, _ := pyjson.ParseNum(raw)
		return append(dst, n.JSON()...)
	default:
		return append(dst, strings.TrimSpace(string(raw))...)
	}
}
