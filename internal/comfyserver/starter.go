package comfyserver

import "encoding/json"

// workflow is a graph in the form the editor opens.
type workflow struct {
	LastNode int            `json:"last_node_id"`
	LastLink int            `json:"last_link_id"`
	Nodes    []workflowNode `json:"nodes"`
	Links    [][6]any       `json:"links"`
	Groups   []any          `json:"groups"`
	Config   struct{}       `json:"config"`
	Extra    struct{}       `json:"extra"`
	Version  float64        `json:"version"`
}

type workflowNode struct {
	ID         int               `json:"id"`
	Type       string            `json:"type"`
	Pos        [2]int            `json:"pos"`
	Size       [2]int            `json:"size"`
	Flags      struct{}          `json:"flags"`
	Order      int               `json:"order"`
	Mode       int               `json:"mode"`
	Inputs     []workflowInput   `json:"inputs"`
	Outputs    []workflowOutput  `json:"outputs"`
	Properties map[string]string `json:"properties"`
	Widgets    []any             `json:"widgets_values"`
}

type workflowInput struct {
	Name string `json:"name"`
	Type string `json:"type"`
	Link *int   `json:"link"`
}

type workflowOutput struct {
	Name  string `json:"name"`
	Type  string `json:"type"`
	Links []int  `json:"links"`
}

// add puts a node in. inputs and outputs are pairs of name and type.
func (w *workflow) add(typ string, x, y, width, height int, inputs, outputs [][2]string, widgets ...any) int {
	w.LastNode++
	n := workflowNode{
		ID: w.LastNode, Type: typ, Pos: [2]int{x, y}, Size: [2]int{width, height}, Order: w.LastNode - 1,
		Inputs: []workflowInput{}, Outputs: []workflowOutput{},
		Properties: map[string]string{"Node name for S&R": typ}, Widgets: widgets,
	}
	for _, in := range inputs {
		n.Inputs = append(n.Inputs, workflowInput{Name: in[0], Type: in[1]})
	}
	for _, out := range outputs {
		n.Outputs = append(n.Outputs, workflowOutput{Name: out[0], Type: out[1], Links: []int{}})
	}
	w.Nodes = append(w.Nodes, n)
	return n.ID
}

// link leads output slot out of node from to input slot in of node to.
func (w *workflow) link(from, out, to, in int) {
	w.LastLink++
	id := w.LastLink
	output, input := &w.Nodes[from-1].Outputs[out], &w.Nodes[to-1].Inputs[in]
	output.Links = append(output.Links, id)
	input.Link = &id
	w.Links = append(w.Links, [6]any{id, from, out, to, in, output.Type})
}

func (w *workflow) raw() json.RawMessage {
	w.Groups, w.Version = []any{}, 0.4
	b, err := json.Marshal(w)
	if err != nil { // plain values can always be encoded
		return empty
	}
	return b
}

// textToImage is a picture from words with a checkpoint.
func textToImage(checkpoint string) json.RawMessage {
	w := &workflow{}
	clip, latent, image := [2]string{"clip", "CLIP"}, [2]string{"LATENT", "LATENT"}, [2]string{"IMAGE", "IMAGE"}
	load := w.add("CheckpointLoaderSimple", 30, 260, 320, 100, nil,
		[][2]string{{"MODEL", "MODEL"}, {"CLIP", "CLIP"}, {"VAE", "VAE"}}, checkpoint)
	want := w.add("CLIPTextEncode", 400, 60, 400, 170, [][2]string{clip}, [][2]string{{"CONDITIONING", "CONDITIONING"}},
		"a lighthouse on a cliff at dawn, soft mist over the sea, warm light in the window")
	avoid := w.add("CLIPTextEncode", 400, 280, 400, 150, [][2]string{clip}, [][2]string{{"CONDITIONING", "CONDITIONING"}},
		"blurry, letters")
	size := w.add("EmptyLatentImage", 400, 480, 320, 110, nil, [][2]string{latent}, 512, 512, 1)
	sample := w.add("KSampler", 850, 120, 320, 270,
		[][2]string{{"model", "MODEL"}, {"positive", "CONDITIONING"}, {"negative", "CONDITIONING"}, {"latent_image", "LATENT"}},
		[][2]string{latent}, 20261124, "randomize", 20, 7, "euler", "normal", 1)
	decode := w.add("VAEDecode", 1220, 120, 210, 50, [][2]string{{"samples", "LATENT"}, {"vae", "VAE"}}, [][2]string{image})
	save := w.add("SaveImage", 1220, 230, 420, 460, [][2]string{{"images", "IMAGE"}}, nil, "ComfyUI")
	w.link(load, 1, want, 0)
	w.link(load, 1, avoid, 0)
	w.link(load, 0, sample, 0)
	w.link(want, 0, sample, 1)
	w.link(avoid, 0, sample, 2)
	w.link(size, 0, sample, 3)
	w.link(sample, 0, decode, 0)
	w.link(load, 2, decode, 1)
	w.link(decode, 0, save, 0)
	return w.raw()
}

// plainPicture needs no model: one colour laid into another.
func plainPicture() json.RawMessage {
	w := &workflow{}
	image := [2]string{"IMAGE", "IMAGE"}
	ground := w.add("EmptyImage", 60, 80, 300, 140, nil, [][2]string{image}, 512, 512, 1, 0x1d3557)
	patch := w.add("EmptyImage", 60, 290, 300, 140, nil, [][2]string{image}, 256, 256, 1, 0xf4a261)
	lay := w.add("ImageCompositeMasked", 430, 160, 300, 150,
		[][2]string{{"destination", "IMAGE"}, {"source", "IMAGE"}, {"mask", "MASK"}}, [][2]string{image}, 128, 128, false)
	save := w.add("SaveImage", 800, 120, 420, 460, [][2]string{{"images", "IMAGE"}}, nil, "ComfyUI")
	w.link(ground, 0, lay, 0)
	w.link(patch, 0, lay, 1)
	w.link(lay, 0, save, 0)
	return w.raw()
}
