// Package report draws what rehearsals of classes gave: a page that needs nothing but itself, and a picture of each
// class.
package report

import (
	"fmt"
	"html"
	"math"
	"time"

	"github.com/ahelme/comfyume/internal/rehearse"
)

// Section is one class in some modes.
type Section struct {
	Class   *rehearse.Class
	Figures []rehearse.Figures
	Command string // that gives the same again
}

// Picture returns the class as a picture of its own: four charts with heading and legend.
func Picture(s Section) string {
	const gap, head = 24.0, 74.0
	full, high := 2*width+3*gap, head+2*height+2*gap
	var d drawing
	d.add(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" role="img"><title>%s</title><style>%s</style>`,
		full, high, html.EscapeString(s.Class.Title+", simulated"), pictureStyle)
	d.add(`<rect class="ground" width="%g" height="%g" rx="14"/>`, full, high)
	d.text("title", "start", gap, 34, s.Class.Title)
	d.text("axis", "end", full-gap, 33, "simulated: "+facts(s.Class))
	x := gap
	for _, m := range drawn(s.Figures) {
		d.path("curve "+m.Order, "M"+at(x)+" 56h28")
		name := modeName(m)
		d.text("axis", "start", x+34, 60, name)
		x += 34 + 6.3*float64(len(name)) + 22
	}
	for i, draw := range []func(Section) string{waitChart, kindChart, queueChart, useChart} {
		d.add(`<g transform="translate(%g %g)">%s</g>`, gap+float64(i%2)*(width+gap), head+8+float64(i/2)*(height+gap/2), draw(s))
	}
	d.add("</svg>\n")
	return d.String()
}

func facts(c *rehearse.Class) string {
	return fmt.Sprintf("%d people, %s, %s", len(c.People), length(c.Length), plural(len(c.Fleet), "GPU"))
}

func plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// clock is the axis of the class's time in minutes.
func (s Section) clock() scale { return scale{0, s.Class.Length.Minutes(), false} }

func (s Section) hours() (ticks []tick) {
	whole := s.Class.Length.Hours()
	step := math.Max(1, math.Ceil(whole/8))
	if whole < 2 {
		step = 0.25
	}
	for h := 0.0; h <= whole+1e-9; h += step {
		ticks = append(ticks, tick{h * 60, fmt.Sprintf("%g h", h)})
	}
	return ticks
}

// modeName is the mode in words.
func modeName(f rehearse.Figures) string {
	if f.Affinity {
		return f.Order
	}
	return f.Order + ", no affinity"
}

func short(f rehearse.Figures) string {
	if f.Affinity {
		return f.Order + " +"
	}
	return f.Order
}

// Seconds writes a time given in seconds like a person would.
func Seconds(s float64) string {
	d := time.Duration(s * float64(time.Second))
	switch {
	case s < 9.95:
		return fmt.Sprintf("%.1f s", s)
	case s < 99.5:
		return fmt.Sprintf("%.0f s", s)
	case s < 595:
		return fmt.Sprintf("%.1f min", s/60)
	case d < 100*time.Minute:
		return fmt.Sprintf("%d min", int(d.Round(time.Minute).Minutes()))
	}
	d = d.Round(time.Minute)
	return fmt.Sprintf("%d h %02d", int(d.Hours()), int(d.Minutes())%60)
}

// Percent writes a share.
func Percent(x float64) string { return fmt.Sprintf("%.0f %%", 100*x) }

// Index writes Jain's index of people who could be compared; a dash when there were none.
func Index(f rehearse.Fairness, x float64) string {
	if f.Windows == 0 {
		return "–"
	}
	return fmt.Sprintf("%.3f", x)
}

func length(d time.Duration) string {
	if h := d.Hours(); h == math.Trunc(h) {
		return plural(int(h), "hour")
	}
	return plural(int(d.Minutes()), "minute")
}

func thousands(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
