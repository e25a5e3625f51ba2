package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"math/rand/v2"
	"mime/multipart"
)

// The kinds of orders.
const (
	picture = iota // one file
	slowly         // one file after some steps with previews
	several        // files, temp files and a text
	ofInput        // one file made of an upload
)

// order is a job that somebody asked for.
type order struct {
	id          string
	kind        int
	colour      int
	input       string // name of the upload
	again       bool   // an equal graph ran before
	asked       bool   // it was asked for its end; the answer may have been cut off
	deleted     bool   // it was acknowledged that it left the queue, if it was still waiting
	interrupted bool   // it was acknowledged that it ends, if it was still open
}

// batch is how many pictures an order of several has.
const batch = 3

// newOrder chooses what to ask for.
func (l *loader) newOrder() order {
	switch n := rand.IntN(20); {
	case n == 0:
		return order{kind: slowly, colour: int(l.colours.Add(1))}
	case n < 4:
		return order{kind: several, colour: int(l.colours.Add(1))}
	case n < 7 && len(l.uploads) > 0:
		for name, colour := range l.uploads { // any of them
			return order{kind: ofInput, colour: colour, input: name, again: true}
		}
	case n < 9 && len(l.repeated) > 0:
		o := l.repeated[rand.IntN(len(l.repeated))]
		return order{kind: o.kind, colour: o.colour, again: true}
	}
	return order{kind: picture, colour: int(l.colours.Add(1))}
}

// graph is what is sent.
func (o *order) graph() node {
	g := plain(o.colour)
	switch o.kind {
	case slowly:
		g["3"] = class("ProbeSlow", node{"image": []any{"1", 0}, "steps": 5, "seconds": 0.02, "preview": true})
		g["2"] = class("SaveImage", node{"images": []any{"3", 0}, "filename_prefix": "slow/e2e"})
	case several:
		g["1"] = class("EmptyImage", node{"width": 64, "height": 48, "batch_size": batch, "color": o.colour})
		g["4"] = class("PreviewImage", node{"images": []any{"1", 0}})
		g["5"] = class("PrimitiveString", node{"value": o.text()})
		g["6"] = class("PreviewAny", node{"source": []any{"5", 0}})
	case ofInput:
		g["1"] = class("LoadImage", node{"image": o.input})
	}
	return g
}

func (o *order) text() string { return fmt.Sprintf("colour %06x", o.colour) }

// asked reads an order back from the graph of a history entry.
func asked(graph json.RawMessage) (order, error) {
	var g map[string]struct {
		Inputs struct {
			Image json.RawMessage `json:"image"`
			Color int             `json:"color"`
		} `json:"inputs"`
	}
	if err := json.Unmarshal(graph, &g); err != nil {
		return order{}, err
	}
	o := order{kind: picture, colour: g["1"].Inputs.Color}
	_, slow := g["3"]
	_, many := g["4"]
	switch {
	case slow:
		o.kind = slowly
	case many:
		o.kind = several
	case g["1"].Inputs.Image != nil:
		o.kind = ofInput
		if err := json.Unmarshal(g["1"].Inputs.Image, &o.input); err != nil {
			return order{}, err
		}
		if _, err := fmt.Sscanf(o.input, "in-%06x.png", &o.colour); err != nil {
			return order{}, fmt.Errorf("input %q: %w", o.input, err)
		}
	}
	return o, nil
}

// upload gives the studio an input of a colour of its own.
func (l *loader) upload() {
	colour := int(l.colours.Add(1))
	m := image.NewNRGBA(image.Rect(0, 0, 64, 48))
	draw.Draw(m, m.Rect, image.NewUniform(color.NRGBA{uint8(colour >> 16), uint8(colour >> 8), uint8(colour), 255}), image.Point{}, draw.Src)
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	name := fmt.Sprintf("in-%06x.png", colour)
	// Nothing of this can fail: it writes to memory.
	part, _ := form.CreateFormFile("image", name)
	_ = png.Encode(part, m)
	_ = form.Close()
	var answer struct{ Name string }
	if l.send("POST", "/upload/image", form.FormDataContentType(), body.Bytes(), &answer) == nil {
		l.uploads[answer.Name] = colour
	}
}
