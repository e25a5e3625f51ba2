package report

import (
	"fmt"
	"html"
	"io"
	"math"
	"strconv"
	"strings"
)

// drawing is SVG in the making. Colours are classes, which the page or the picture around it defines. What is not a
// number of ours is escaped when it is drawn.
type drawing struct{ strings.Builder }

// Render writes the drawing into a page.
func (d *drawing) Render(w io.Writer) error {
	_, err := io.WriteString(w, d.String())
	return err
}

func (d *drawing) add(format string, args ...any) { fmt.Fprintf(d, format, args...) }

// at writes a length or a place.
func at(x float64) string { return strconv.FormatFloat(math.Round(x*10)/10, 'f', -1, 64) }

func (d *drawing) line(class string, x1, y1, x2, y2 float64) {
	d.add(`<line class="%s" x1="%s" y1="%s" x2="%s" y2="%s"/>`, html.EscapeString(class), at(x1), at(y1), at(x2), at(y2))
}

func (d *drawing) box(class string, x, y, width, height float64) {
	d.add(`<rect class="%s" x="%s" y="%s" width="%s" height="%s"/>`, html.EscapeString(class), at(x), at(y), at(max(width, 0)), at(max(height, 0)))
}

// path draws along a path.
func (d *drawing) path(class, along string) {
	d.add(`<path class="%s" d="%s"/>`, html.EscapeString(class), along)
}

// dot draws a small circle.
func (d *drawing) dot(class string, x, y, radius float64) {
	d.add(`<circle class="%s" cx="%s" cy="%s" r="%g"/>`, html.EscapeString(class), at(x), at(y), radius)
}

// text writes words at a place; class says how, anchor is start, middle or end.
func (d *drawing) text(class, anchor string, x, y float64, words string) {
	d.add(`<text class="%s" text-anchor="%s" x="%s" y="%s">%s</text>`, html.EscapeString(class), anchor, at(x), at(y), html.EscapeString(words))
}

// curve draws a line through points; a point that is not a number ends a piece of it.
func (d *drawing) curve(class string, points []point) {
	if len(points) == 0 {
		return
	}
	d.add(`<path class="curve %s" d="`, html.EscapeString(class))
	pen := "M"
	for _, p := range points {
		if math.IsNaN(p.y) {
			pen = "M"
			continue
		}
		d.add("%s%s %s", pen, at(p.x), at(p.y))
		pen = "L"
	}
	d.add(`"/>`)
}

type point struct{ x, y float64 }

// frame is the part of a chart that curves are drawn in.
type frame struct {
	left, top, right, bottom float64
	x, y                     scale
}

// scale translates values to places.
type scale struct {
	from, to float64
	log      bool
}

func (s scale) part(v float64) float64 {
	if s.log {
		return math.Log(max(v, s.from)/s.from) / math.Log(s.to/s.from)
	}
	return (v - s.from) / (s.to - s.from)
}

func (f frame) at(x, y float64) point {
	return point{f.left + (f.right-f.left)*f.x.part(x), f.bottom - (f.bottom-f.top)*f.y.part(y)}
}

// The size of one chart, and what its axes take of it.
const (
	width, height = 400.0, 250.0
	marginLeft    = 44.0
	marginTop     = 34.0
	marginRight   = 12.0
	marginBottom  = 30.0
)

// chart begins a chart with its heading.
func (d *drawing) chart(heading string, x, y scale) frame {
	d.text("heading", "start", 2, 15, heading)
	return frame{marginLeft, marginTop, width - marginRight, height - marginBottom, x, y}
}

// tick is a value that an axis names.
type tick struct {
	value float64
	name  string
}

func (d *drawing) axes(f frame, xs, ys []tick) {
	for _, t := range ys {
		p := f.at(f.x.from, t.value)
		d.line("grid", f.left, p.y, f.right, p.y)
		d.text("axis", "end", f.left-6, p.y+4, t.name)
	}
	for i, t := range xs {
		p := f.at(t.value, f.y.from)
		d.line("grid", p.x, f.bottom, p.x, f.bottom+4)
		anchor := "middle"
		if i == len(xs)-1 && p.x > f.right-14 {
			anchor = "end"
		}
		d.text("axis", anchor, p.x, f.bottom+18, t.name)
	}
	d.line("base", f.left, f.bottom, f.right, f.bottom)
}

// steps returns round values from zero to the most, and a round most above it.
func steps(most float64) (ticks []tick, end float64) {
	if most <= 0 {
		most = 1
	}
	size := math.Pow(10, math.Floor(math.Log10(most/3)))
	for _, k := range []float64{1, 2, 5, 10} {
		if most/(size*k) <= 4 {
			size *= k
			break
		}
	}
	for v := 0.0; ; v += size {
		ticks = append(ticks, tick{v, strconv.FormatFloat(v, 'f', -1, 64)})
		if v >= most {
			return ticks, v
		}
	}
}
