package nodes

import (
	"image"
	"image/color"
	"image/draw"
	"time"
)

// runProbeSlow passes its picture on after a number of slow steps, with previews when asked.
func runProbeSlow(c *Call) ([]any, error) {
	steps := c.Int("steps")
	pause := time.Duration(c.Float("seconds") * float64(time.Second))
	for i := range steps {
		if err := c.Host.Sleep(c.Ctx, pause); err != nil {
			return nil, err
		}
		var p *Preview
		if c.Bool("preview") {
			p = &Preview{Max: previewSide}
			if c.Host.Watched() {
				m := image.NewNRGBA(image.Rect(0, 0, 16, 16))
				draw.Draw(m, m.Rect, image.NewUniform(color.NRGBA{uint8(i * 20 % 255), 10, 10, 255}), image.Point{}, draw.Src)
				p.Picture = m
			}
		}
		if err := c.Host.Progress(c.Node, i+1, steps, p); err != nil {
			return nil, err
		}
	}
	return picture(c.Image("image"))
}

func runProbeFail(c *Call) ([]any, error) {
	return nil, Raise("RuntimeError", "%s", c.Text("message"))
}

func runProbeOOM(*Call) ([]any, error) {
	f := OutOfMemory()
	f.Type = "torch.cuda.OutOfMemoryError"
	return nil, f
}

func runProbeText(c *Call) ([]any, error) {
	c.UI = uiText(c.Text("text"))
	return one(c.Text("text"))
}
