package nodes

import (
	"hash/fnv"
	"image"
	"math"
	"strconv"
	"strings"

	"golang.org/x/image/font"
	"golang.org/x/image/font/basicfont"
	"golang.org/x/image/math/fixed"

	"github.com/ahelme/comfyume/internal/sim/raster"
)

// hashed scrambles a number (splitmix64).
func hashed(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// unit is a hash as a number from 0 to 1.
func unit(h uint64) float64 { return float64(h>>11) / (1 << 53) }

// paint makes a landscape that depends on everything a sampler was given: sky, sun, ranges of hills.
func paint(w, h int, seed uint64, prompt, details string) *raster.Image {
	sum := fnv.New64a()
	sum.Write([]byte(prompt + "\x00" + details)) // never fails
	base := hashed(sum.Sum64() ^ hashed(seed))
	pick := func(i uint64) float64 { return unit(hashed(base + i)) }

	sw, sh := max(1, w/2), max(1, h/2)
	m := raster.New(1, sh, sw, 3)
	hue := pick(1)
	top, bottom := colour(hue, 0.55+0.4*pick(2), 0.25+0.3*pick(3)), colour(hue+0.08+0.2*pick(4), 0.5, 0.85)
	sunX, sunY, sunR := pick(5), 0.15+0.4*pick(6), 0.05+0.1*pick(7)
	sun := colour(hue+0.5, 0.4, 1)
	for y := range sh {
		v := float64(y) / float64(sh)
		for x := range sw {
			u := float64(x) / float64(sw)
			cloud := 0.12 * (noise(base, u*4, v*7) + 0.5*noise(base+1, u*9, v*16))
			d := math.Hypot((u-sunX)*float64(sw)/float64(sh), v-sunY)
			glow := math.Exp(-math.Max(0, d-sunR) * 9)
			for k := range 3 {
				c := top[k]*(1-v) + bottom[k]*v + cloud
				m.Pix[(y*sw+x)*3+k] = float32(c*(1-glow) + sun[k]*glow)
			}
		}
	}
	const ranges = 4
	for i := range uint64(ranges) {
		depth := float64(i+1) / ranges
		hill := colour(hue+0.3+0.15*depth*pick(20), 0.25+0.35*depth, 0.75-0.6*depth)
		for x := range sw {
			u := float64(x) / float64(sw)
			line := 0.45 + 0.4*depth - 0.16*noise(base+30+i, u*(2+3*pick(40+i)), 0) - 0.05*noise(base+50+i, u*14, 1)
			for y := int(line * float64(sh)); y < sh; y++ {
				if y < 0 {
					continue
				}
				shade := 0.85 + 0.3*noise(base+60+i, u*30, float64(y)/float64(sh)*30)
				for k := range 3 {
					m.Pix[(y*sw+x)*3+k] = float32(hill[k] * shade)
				}
			}
		}
	}
	return m.Scale(w, h, raster.Bilinear, false).Clamp()
}

// colour turns hue, saturation and brightness into red, green and blue.
func colour(hue, saturation, brightness float64) [3]float64 {
	var out [3]float64
	for k, shift := range []float64{5, 3, 1} {
		t := math.Mod(shift+math.Mod(hue, 1)*6, 6)
		out[k] = brightness * (1 - saturation*math.Max(0, math.Min(1, math.Min(t, 4-t))))
	}
	return out
}

// noise is smooth noise from 0 to 1 on a grid of unit cells.
func noise(seed uint64, x, y float64) float64 {
	x0, y0 := math.Floor(x), math.Floor(y)
	at := func(dx, dy float64) float64 {
		return unit(hashed(seed ^ hashed(uint64(int64(x0+dx))*0x1f123bb5^uint64(int64(y0+dy))<<32)))
	}
	smooth := func(t float64) float64 { return t * t * (3 - 2*t) }
	u, v := smooth(x-x0), smooth(y-y0)
	return (at(0, 0)*(1-u)+at(1, 0)*u)*(1-v) + (at(0, 1)*(1-u)+at(1, 1)*u)*v
}

// sign writes over a picture that it is simulated, with the prompt and the seed.
func sign(m *raster.Image, prompt string, seed uint64) {
	face := basicfont.Face7x13
	big := max(1, m.W/(8*len("SIMULATED")))
	small := max(1, min(m.W, m.H)/384)
	line := face.Height * small
	band := face.Height*big + 2*line
	letter := face.Advance * small
	text := strings.Join(strings.Fields(prompt), " ")
	if fit := m.W/letter - 1; fit > 3 && len([]rune(text)) > fit {
		text = string([]rune(text)[:fit-3]) + "..."
	}
	for y := max(0, m.H-band); y < m.H; y++ { // darken what is behind the words
		for x := range m.W * m.C {
			m.Pix[y*m.W*m.C+x] *= 0.45
		}
	}
	write(m, "SIMULATED", (m.W-face.Advance*len("SIMULATED")*big)/2, m.H-band, big)
	write(m, text, letter/2, m.H-2*line, small)
	write(m, "seed "+strconv.FormatUint(seed, 10), letter/2, m.H-line, small)
}

// write draws white text with its top left corner at (x, y), each pixel of a letter size × size.
func write(m *raster.Image, text string, x, y, size int) {
	face := basicfont.Face7x13
	stencil := image.NewAlpha(image.Rect(0, 0, face.Advance*len(text)+1, face.Height))
	d := font.Drawer{Dst: stencil, Src: image.Opaque, Face: face, Dot: fixed.P(0, face.Ascent)}
	d.DrawString(text)
	for py := range stencil.Rect.Dy() * size {
		for px := range stencil.Rect.Dx() * size {
			tx, ty := x+px, y+py
			if tx < 0 || tx >= m.W || ty < 0 || ty >= m.H || stencil.AlphaAt(px/size, py/size).A == 0 {
				continue
			}
			for k := range m.C {
				m.Pix[(ty*m.W+tx)*m.C+k] = 1
			}
		}
	}
}
