package sim_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"flag"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"maps"
	"math"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/internal/sim"
)

// real is the address of a real ComfyUI to compare with. Its pixels can be kept with -update, so that later tests
// need none.
var (
	real   = flag.String("real", "", "address of a real ComfyUI to compare pixels with")
	update = flag.Bool("update", false, "keep the pixels of the real ComfyUI in testdata")
)

// pixelGraphs are graphs whose pictures must be those of a real server. IN stands for the test picture, ALPHA for
// one with transparency; OUT is linked to a SaveImage, MASK to a MaskToImage before it.
var pixelGraphs = map[string]string{
	"load":         `"OUT": {"class_type": "LoadImage", "inputs": {"image": "IN"}}`,
	"load alpha":   `"MASK": {"class_type": "LoadImageMask", "inputs": {"image": "ALPHA", "channel": "alpha"}}`,
	"load red":     `"MASK": {"class_type": "LoadImageMask", "inputs": {"image": "ALPHA", "channel": "red"}}`,
	"empty":        `"OUT": {"class_type": "EmptyImage", "inputs": {"width": 5, "height": 3, "batch_size": 2, "color": 1193046}}`,
	"invert":       graph("ImageInvert", `"image": ["1", 0]`),
	"crop":         graph("ImageCrop", `"image": ["1", 0], "width": 20, "height": 9, "x": 30, "y": 4`),
	"batch":        graph("ImageBatch", `"image1": ["2", 0], "image2": ["1", 0]`),
	"blur":         graph("ImageBlur", `"image": ["1", 0], "blur_radius": 3, "sigma": 0.7`),
	"blur wide":    graph("ImageBlur", `"image": ["1", 0], "blur_radius": 12, "sigma": 1.0`),
	"sharpen":      graph("ImageSharpen", `"image": ["1", 0], "sharpen_radius": 1, "sigma": 1.0, "alpha": 0.1`),
	"pad":          graph("ImagePadForOutpaint", `"image": ["1", 0], "left": 8, "top": 16, "right": 0, "bottom": 24, "feathering": 5`),
	"pad mask":     `"3": {"class_type": "ImagePadForOutpaint", "inputs": {"image": ["1", 0], "left": 8, "top": 16, "right": 0, "bottom": 24, "feathering": 5}}, "OUT": {"class_type": "MaskToImage", "inputs": {"mask": ["3", 1]}}`,
	"composite":    graph("ImageCompositeMasked", `"destination": ["1", 0], "source": ["2", 0], "x": 5, "y": 7, "resize_source": false`),
	"composite to": graph("ImageCompositeMasked", `"destination": ["1", 0], "source": ["2", 0], "x": 0, "y": 0, "resize_source": true, "mask": ["2", 1]`),
	"composite at": graph("ImageCompositeMasked", `"destination": ["1", 0], "source": ["2", 0], "x": 30, "y": 20, "resize_source": false, "mask": ["2", 1]`),
	"rotate":       graph("ImageRotate", `"image": ["1", 0], "rotation": "90 degrees"`),
	"rotate far":   graph("ImageRotate", `"image": ["1", 0], "rotation": "270 degrees"`),
	"flip":         graph("ImageFlip", `"image": ["1", 0], "flip_method": "y-axis: horizontally"`),
	"flip over":    graph("ImageFlip", `"image": ["1", 0], "flip_method": "x-axis: vertically"`),
	"stretch":      graph("ResizeAndPadImage", `"image": ["1", 0], "target_width": 50, "target_height": 50, "padding_color": "white", "interpolation": "area"`),
	"pixels":       graph("ImageScaleToTotalPixels", `"image": ["1", 0], "upscale_method": "bilinear", "megapixels": 0.01`),
	"dimension":    graph("ImageScaleToMaxDimension", `"image": ["1", 0], "upscale_method": "area", "largest_size": 64`),
	"scale by":     graph("ImageScaleBy", `"image": ["1", 0], "upscale_method": "nearest-exact", "scale_by": 1.7`),
	"scale center": graph("ImageScale", `"image": ["1", 0], "upscale_method": "bilinear", "width": 16, "height": 48, "crop": "center"`),
	"scale height": graph("ImageScale", `"image": ["1", 0], "upscale_method": "bicubic", "width": 0, "height": 48, "crop": "disabled"`),
	"repeat":       graph("RepeatImageBatch", `"image": ["1", 0], "amount": 2`),
	"from batch":   `"3": {"class_type": "ImageBatch", "inputs": {"image1": ["1", 0], "image2": ["2", 0]}}, "OUT": {"class_type": "ImageFromBatch", "inputs": {"image": ["3", 0], "batch_index": 1, "length": 5}}`,
	"join":         graph("JoinImageWithAlpha", `"image": ["1", 0], "alpha": ["2", 1]`),
	"split":        graph("SplitImageWithAlpha", `"image": ["2", 0]`),
	"to mask":      `"MASK": {"class_type": "ImageToMask", "inputs": {"image": ["1", 0], "channel": "green"}}`,
	"colour mask":  `"3": {"class_type": "EmptyImage", "inputs": {"width": 5, "height": 3, "batch_size": 1, "color": 1193046}}, "MASK": {"class_type": "ImageColorToMask", "inputs": {"image": ["3", 0], "color": 1193046}}`,
	"solid":        `"MASK": {"class_type": "SolidMask", "inputs": {"value": 0.3, "width": 7, "height": 5}}`,
	"invert mask":  `"MASK": {"class_type": "InvertMask", "inputs": {"mask": ["2", 1]}}`,
	"crop mask":    `"MASK": {"class_type": "CropMask", "inputs": {"mask": ["2", 1], "x": 3, "y": 2, "width": 9, "height": 100}}`,
	"feather":      `"MASK": {"class_type": "FeatherMask", "inputs": {"mask": ["2", 1], "left": 3, "top": 2, "right": 4, "bottom": 5}}`,
	"threshold":    `"MASK": {"class_type": "ThresholdMask", "inputs": {"mask": ["2", 1], "value": 0.4}}`,
	"grow":         `"MASK": {"class_type": "GrowMask", "inputs": {"mask": ["2", 1], "expand": 2, "tapered_corners": true}}`,
	"shrink":       `"MASK": {"class_type": "GrowMask", "inputs": {"mask": ["2", 1], "expand": -1, "tapered_corners": false}}`,
}

// allGraphs are the graphs of the table and those of every method and mode.
func allGraphs() map[string]string {
	all := maps.Clone(pixelGraphs)
	for _, method := range []string{"nearest-exact", "bilinear", "area", "bicubic", "lanczos"} {
		all["up "+method] = graph("ImageScale", `"image": ["1", 0], "upscale_method": "`+method+`", "width": 53, "height": 71, "crop": "disabled"`)
		all["down "+method] = graph("ImageScale", `"image": ["1", 0], "upscale_method": "`+method+`", "width": 13, "height": 11, "crop": "disabled"`)
	}
	for _, mode := range []string{"normal", "multiply", "screen", "overlay", "soft_light", "difference"} {
		all["blend "+mode] = graph("ImageBlend", `"image1": ["1", 0], "image2": ["2", 0], "blend_factor": 0.3, "blend_mode": "`+mode+`"`)
	}
	for _, operation := range []string{"multiply", "add", "subtract", "and", "or", "xor"} {
		all["mask "+operation] = `"3": {"class_type": "LoadImageMask", "inputs": {"image": "ALPHA", "channel": "red"}}, ` +
			`"MASK": {"class_type": "MaskComposite", "inputs": {"destination": ["2", 1], "source": ["3", 0], "x": 2, "y": 3, "operation": "` + operation + `"}}`
	}
	return all
}

// graph applies one node to the test pictures.
func graph(class, inputs string) string {
	return `"OUT": {"class_type": "` + class + `", "inputs": {` + inputs + `}}`
}

// prompt completes a graph of the table. Every other part of it is in each of them.
func prompt(parts, in, alpha, prefix string) string {
	if strings.Contains(parts, `"MASK"`) {
		parts += `, "OUT": {"class_type": "MaskToImage", "inputs": {"mask": ["MASK", 0]}}`
	}
	all := `{"1": {"class_type": "LoadImage", "inputs": {"image": "IN"}}, "2": {"class_type": "LoadImage", "inputs": {"image": "ALPHA"}}, ` +
		parts + `, "save": {"class_type": "SaveImage", "inputs": {"images": ["OUT", 0], "filename_prefix": "` + prefix + `"}}}`
	return strings.NewReplacer(`"IN"`, `"`+in+`"`, `"ALPHA"`, `"`+alpha+`"`).Replace(all)
}

// testPicture is a picture with slopes, edges and noise.
func testPicture(w, h int, alpha bool) []byte {
	m := image.NewNRGBA(image.Rect(0, 0, w, h))
	seed := uint32(12345)
	for y := range h {
		for x := range w {
			seed = seed*1664525 + 1013904223
			c := color.NRGBA{uint8(x * 255 / w), uint8(y * 255 / h), uint8(seed >> 24), 255}
			if x > w/2 && y > h/3 {
				c.R, c.G = 255-c.R, uint8(seed>>16)
			}
			if alpha {
				c.A = uint8(seed >> 8)
			}
			m.SetNRGBA(x, y, c)
		}
	}
	var buf bytes.Buffer
	if err := png.Encode(&buf, m); err != nil {
		panic(err) // into memory
	}
	return buf.Bytes()
}

const pixelFile = "testdata/pixels.json.gz"

// shot is what is kept of a picture: its size and the bytes of its pixels, RGBA, in hexadecimal digits.
type shot struct {
	W, H int
	Pix  string
}

// TestPixels runs every graph of the table here and holds the pictures to those of a real server: at most one
// step of 255 away, and hardly ever that.
func TestPixels(t *testing.T) {
	t.Parallel()
	_, base := start(t, sim.Options{})
	want := map[string][]shot{}
	if *real != "" {
		want = pictures(t, strings.TrimSuffix(*real, "/"))
		keep(t, pixelFile, want)
	} else {
		kept(t, pixelFile, &want)
	}
	got := pictures(t, base)
	total, off := 0, 0
	for _, name := range slices.Sorted(maps.Keys(allGraphs())) {
		if len(got[name]) != len(want[name]) || len(got[name]) == 0 {
			t.Errorf("%s: %d pictures, real %d", name, len(got[name]), len(want[name]))
			continue
		}
		for i := range got[name] {
			a, b := got[name][i], want[name][i]
			if a.W != b.W || a.H != b.H {
				t.Errorf("%s: %d x %d, real %d x %d", name, a.W, a.H, b.W, b.H)
				continue
			}
			worst, differ := compare(a.Pix, b.Pix)
			total += len(a.Pix) / 2
			off += differ
			allowed := 0.02
			if name == "sharpen" {
				allowed = 0.15 // sums of negative weights land just beside whole numbers, and order decides
			}
			if worst > 1 || float64(differ) > allowed*float64(len(a.Pix)/2) {
				t.Errorf("%s: %d of %d values differ, by at most %d", name, differ, len(a.Pix)/2, worst)
			}
		}
	}
	t.Logf("%d of %d values are one step off", off, total)
}

func compare(a, b string) (worst, differ int) {
	for i := 0; i < len(a); i += 2 {
		var x, y int
		if _, err := fmt.Sscanf(a[i:i+2]+" "+b[i:i+2], "%x %x", &x, &y); err != nil {
			return math.MaxInt, len(a)
		}
		if x != y {
			differ++
			worst = max(worst, max(x-y, y-x))
		}
	}
	return worst, differ
}

// pictures runs all graphs on a server and returns what they saved.
func pictures(t *testing.T, base string) map[string][]shot {
	t.Helper()
	in := send(t, base, "comfyume_in.png", testPicture(37, 29, false))
	alpha := send(t, base, "comfyume_alpha.png", testPicture(23, 31, true))
	c := dial(t, base, "prepare")
	c.next(t)
	out, graphs := map[string][]shot{}, allGraphs()
	for _, name := range slices.Sorted(maps.Keys(allGraphs())) {
		_, entry := run(t, base, c, prompt(graphs[name], in, alpha, "comfyume_test"))
		raw, err := json.Marshal(entry["outputs"])
		if err != nil {
			t.Fatal(err)
		}
		var outputs map[string]struct {
			Images []struct{ Filename, Subfolder, Type string }
		}
		if err := json.Unmarshal(raw, &outputs); err != nil {
			t.Fatal(err)
		}
		if len(outputs["save"].Images) == 0 {
			t.Errorf("%s: nothing saved: %v", name, entry["status"])
		}
		for _, f := range outputs["save"].Images {
			q := url.Values{"filename": {f.Filename}, "subfolder": {f.Subfolder}, "type": {f.Type}}
			response, err := http.Get(base + "/view?" + q.Encode())
			if err != nil {
				t.Fatal(err)
			}
			m, err := png.Decode(response.Body)
			response.Body.Close()
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			s := shot{W: m.Bounds().Dx(), H: m.Bounds().Dy()}
			var hex strings.Builder
			for y := range s.H {
				for x := range s.W {
					p := color.NRGBAModel.Convert(m.At(x, y)).(color.NRGBA)
					fmt.Fprintf(&hex, "%02x%02x%02x%02x", p.R, p.G, p.B, p.A)
				}
			}
			s.Pix = hex.String()
			out[name] = append(out[name], s)
		}
	}
	return out
}

// send uploads a file and returns its name.
func send(t *testing.T, base, name string, content []byte) string {
	t.Helper()
	p := &player{t: t, files: map[string][]byte{"": content}}
	header := http.Header{}
	body := p.form(header, map[string]any{"image": map[string]any{"filename": name}, "overwrite": "true"}, "")
	response, err := http.Post(base+"/upload/image", header.Get("Content-Type"), body)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	var reply struct{ Name string }
	if err != nil || json.Unmarshal(answer, &reply) != nil || reply.Name == "" {
		t.Fatalf("upload: %s %v", answer, err)
	}
	return reply.Name
}

// keep writes what a real server gave into testdata, when asked.
func keep(t *testing.T, name string, v any) {
	t.Helper()
	if !*update {
		return
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	if err := json.NewEncoder(z).Encode(v); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, buf.Bytes(), 0o666); err != nil {
		t.Fatal(err)
	}
}

// kept reads what keep wrote.
func kept(t *testing.T, name string, into any) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.NewDecoder(z).Decode(into); err != nil {
		t.Fatal(err)
	}
}
