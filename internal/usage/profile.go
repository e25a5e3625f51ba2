package usage

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/ahelme/comfyume/internal/comfy"
	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/job"
)

// Bounds of what is believed of a graph: it is whatever somebody sends.
const (
	maxModels   = 16
	maxModel    = 256  // bytes of a model's name
	maxHops     = 4096 // links followed in one graph
	maxChain    = 64   // links followed from one node
	maxValue    = 1e6  // of a size, a count, a number of steps
	maxWork     = 1e15
	megapixel   = 1 << 20
	perSecond   = 1 << 14 // of sound, in pixels: it only has to be the same everywhere
	usualPixels = megapixel
)

// Profile says what the schedule has to know of a graph: which graphs are like it, how much there is to do in it, and
// which models it loads. It reads what is written in the graph and follows links no further than from a sampler to
// the size of what it works on, so that it can stand on the way of a submission.
func Profile(g *comfy.Graph) job.Profile {
	r := reader{graph: g, hops: maxHops}
	var like uint64
	var models []string
	nodes := g.Nodes()
	for i := range nodes {
		n := &nodes[i]
		like += spread(hashOf(n.ClassType)) // a sum: the order of the nodes does not count, how many there are does
		if len(models) < maxModels {
			models = appendModels(models, n)
		}
	}
	if len(nodes) == 0 {
		return job.Profile{}
	}
	slices.Sort(models)
	models = slices.Compact(models)
	return job.Profile{Like: name(like), Work: r.work(nodes), Models: strings.Join(models, "\n")}
}

// name writes a hash as text.
func name(h uint64) string {
	var raw [8]byte
	for i := range raw {
		raw[i] = byte(h >> (56 - 8*i)) //nolint:gosec // one byte at a time
	}
	return hex.EncodeToString(raw[:])
}

// hashOf is FNV-1a: the same in every version of the program.
func hashOf(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}

// spread makes hashes that can be added up: sums of different bags of classes differ.
func spread(h uint64) uint64 {
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}

// modelEndings are how names of model files end.
var modelEndings = []string{".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".sft", ".pkl", ".onnx"}

// appendModels appends the model files that a node names.
func appendModels(models []string, n *comfy.Node) []string {
	for i := range n.Inputs {
		in := &n.Inputs[i]
		if len(in.Value) > maxModel || !namesModel(in.Key) {
			continue
		}
		text, ok := pyjson.Text(in.Value)
		if !ok || strings.ContainsRune(text, '\n') || !isModel(text) {
			continue
		}
		if models = append(models, text); len(models) == maxModels {
			break
		}
	}
	return models
}

// namesModel reports whether an input is called as loaders call what they load: ckpt_name, clip_name2.
func namesModel(input string) bool {
	return strings.HasSuffix(strings.TrimRight(input, "0123456789"), "_name")
}

func isModel(value string) bool {
	dot := strings.LastIndexByte(value, '.')
	return dot > 0 && slices.ContainsFunc(modelEndings, func(e string) bool { return strings.EqualFold(e, value[dot:]) })
}

// reader finds out how much there is to do in a graph.
type reader struct {
	graph *comfy.Graph
	hops  int // that may still be followed
}

// work sums up steps times megapixels of all samplers. A graph without one has the steps or the sizes of its nodes.
func (r *reader) work(nodes []comfy.Node) float64 {
	var sampled, stepped, sized float64
	for i := range nodes {
		n := &nodes[i]
		var latent, sigmas, steps, width, seconds json.RawMessage
		for j := range n.Inputs {
			switch in := &n.Inputs[j]; in.Key {
			case "latent_image":
				latent = in.Value
			case "sigmas":
				sigmas = in.Value
			case "steps":
				steps = in.Value
			case "width":
				width = in.Value
			case "seconds":
				seconds = in.Value
			}
		}
		switch {
		case latent != nil && (steps != nil || sigmas != nil):
			sampled += r.steps(n) * r.size(latent)
		case sampled > 0: // what has no sampler's size counts for nothing beside one
		case steps != nil:
			stepped += r.steps(n) * r.sizeOf(n)
		case width != nil || seconds != nil:
			sized += r.sizeOf(n)
		}
	}
	for _, w := range []float64{sampled, stepped, sized} {
		if w > 0 {
			return min(w/megapixel, maxWork)
		}
	}
	return 0
}

// steps is how many steps a sampler makes: its own, or those of the schedule that leads to it.
func (r *reader) steps(n *comfy.Node) float64 {
	for range maxChain {
		if raw, ok := n.Input("steps"); ok {
			return r.between(n, r.number(raw, 1))
		}
		raw, ok := n.Input("sigmas")
		if n = r.follow(raw); !ok || n == nil {
			break
		}
	}
	return 1
}

// between cuts steps to the part that an advanced sampler makes.
func (r *reader) between(n *comfy.Node, steps float64) float64 {
	from, to := 0.0, steps
	if raw, ok := n.Input("start_at_step"); ok {
		from = r.number(raw, from)
	}
	if raw, ok := n.Input("end_at_step"); ok {
		to = min(to, r.number(raw, to))
	}
	return max(to-from, 1)
}

// onward are the inputs by which what is worked on comes to a node.
var onward = []string{"samples", "latent_image", "latent", "pixels", "image", "images"}

// size is how many pixels come along a link, over all pictures of a batch and all frames of a film.
func (r *reader) size(link json.RawMessage) float64 {
	n := r.follow(link)
	if n == nil {
		return usualPixels
	}
	return r.sizeOf(n)
}

// sizeOf is size for what a node gives. The nearest word about a picture's size counts, and all about how many.
func (r *reader) sizeOf(n *comfy.Node) float64 {
	var pixels, frames float64
	times := 1.0
	for range maxChain {
		if pixels == 0 {
			pixels = r.pixels(n, &times)
		}
		if raw, ok := n.Input("length"); ok && frames == 0 {
			frames = r.number(raw, 1)
		}
		for _, key := range []string{"batch_size", "amount"} {
			if raw, ok := n.Input(key); ok {
				times *= max(r.number(raw, 1), 1)
			}
		}
		if n = r.before(n); n == nil {
			break
		}
	}
	if pixels == 0 {
		pixels = usualPixels
	}
	return min(pixels*max(frames, 1)*times, maxWork)
}

// pixels is what a node itself says of a picture's size; 0: nothing. A scale multiplies what comes before it.
func (r *reader) pixels(n *comfy.Node, times *float64) float64 {
	var width, height float64
	for i := range n.Inputs {
		switch in := &n.Inputs[i]; in.Key {
		case "width":
			width = r.number(in.Value, 0)
		case "height":
			height = r.number(in.Value, 0)
		case "megapixels":
			return r.number(in.Value, 1) * megapixel
		case "seconds":
			return r.number(in.Value, 1) * perSecond
		case "scale_by":
			by := r.number(in.Value, 1)
			*times = min(*times*by*by, maxWork)
		}
	}
	return width * height
}

// before is the node whose picture a node works on, nil when it is the first.
func (r *reader) before(n *comfy.Node) *comfy.Node {
	for _, key := range onward {
		if raw, ok := n.Input(key); ok {
			return r.follow(raw)
		}
	}
	return nil
}

// number reads a number that is written in the graph, or in the node of values that a link leads to.
func (r *reader) number(raw json.RawMessage, otherwise float64) float64 {
	if n := r.follow(raw); n != nil {
		for _, key := range []string{"value", "int", "float", "number", "Number"} {
			if inner, ok := n.Input(key); ok && pyjson.KindOf(inner) == pyjson.Number {
				raw = inner
				break
			}
		}
	}
	raw = bytes.TrimSpace(raw)
	if len(raw) > 32 || pyjson.KindOf(raw) != pyjson.Number {
		return otherwise
	}
	f, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || math.IsNaN(f) || f < 0 {
		return otherwise
	}
	return min(f, maxValue)
}

// follow returns the node that a link leads to, nil where raw is none or enough links were followed.
func (r *reader) follow(raw json.RawMessage) *comfy.Node {
	raw = bytes.TrimSpace(raw)
	if r.hops == 0 || len(raw) < 4 || raw[0] != '[' {
		return nil
	}
	rest := bytes.TrimLeft(raw[1:], " \t\r\n")
	if len(rest) == 0 || rest[0] != '"' {
		return nil
	}
	end := bytes.IndexAny(rest[1:], `"\`)
	if end < 0 || rest[1+end] != '"' { // ids of editors have nothing to escape
		return nil
	}
	r.hops--
	n, ok := r.graph.Node(string(rest[1 : 1+end]))
	if !ok {
		return nil
	}
	return n
}
