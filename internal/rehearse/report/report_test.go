package report_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/rehearse"
	"github.com/ahelme/comfyume/internal/rehearse/report"
)

func TestSeconds(t *testing.T) {
	t.Parallel()
	for s, want := range map[float64]string{
		0: "0.0 s", 9.94: "9.9 s", 9.96: "10 s", 99.4: "99 s", 100: "1.7 min", 594: "9.9 min", 596: "10 min", 3600: "60 min",
		6000: "1 h 40", 7 * 3600: "7 h 00", 7199: "2 h 00",
	} {
		if got := report.Seconds(s); got != want {
			t.Errorf("%g: %s, want %s", s, got, want)
		}
	}
}

// TestPictures: charts of all shapes are well-formed, also where there is nothing to draw, and hold no number that is
// none.
func TestPictures(t *testing.T) {
	t.Parallel()
	c := &rehearse.Class{Title: `A "class" & <more>`, Text: "of <more>", Length: 90 * time.Minute, Window: 30 * time.Minute, People: make([]rehearse.Person, 1), Fleet: make([]rehearse.GPU, 1)}
	some := rehearse.Figures{
		Order: "fair", Affinity: true, Wait: rehearse.Waits{P50: 5, P95: 50, Max: 5000}, Loads: 12345, Use: 0.9, Loading: 0.1,
		Kinds:    []rehearse.Kind{{Kind: "other & <more>", People: 1, Jobs: 3, Wait: rehearse.Waits{P50: 5, P95: 50, Max: 5000}}},
		Fairness: rehearse.Fairness{Worst: 0.5, Mean: 0.9, Windows: 3, Minutes: 30},
		Bands:    rehearse.Bands{Told: 300, Held: 0.7, Places: []rehearse.Place{{From: 1, To: 1, Told: 100, Held: 0.7}, {From: 161, Told: 200, Held: 0.7}}},
		Curves:   rehearse.Curves{Waits: []float64{0, 5, 5000}, Waiting: []int{0, 3, 7}, Jain: []float64{0, 0.5, 1}},
	}
	plain := some
	plain.Order, plain.Affinity = "fifo", false
	hostile := some
	hostile.Order = `fair" onload="<more>`
	for name, figures := range map[string][]rehearse.Figures{"nothing": nil, "empty": {{Order: "fifo"}}, "all": {plain, some}, "hostile": {hostile}} {
		s := report.Section{Class: c, Figures: figures, Command: "comfyume <again>"}
		var page bytes.Buffer
		if err := report.Page(&page, []report.Section{s}); err != nil {
			t.Fatal(err)
		}
		picture := report.Picture(s)
		for _, text := range []string{picture, page.String()} {
			for _, bad := range []string{"NaN", "Inf", "<more>", "<again>", `onload="`} {
				if strings.Contains(text, bad) {
					t.Errorf("%s: it has %s in it", name, bad)
				}
			}
			for {
				from := strings.Index(text, "<svg")
				if from < 0 {
					break
				}
				to := strings.Index(text, "</svg>") + len("</svg>")
				wellFormed(t, name, text[from:to])
				text = text[to:]
			}
		}
	}
}

func wellFormed(t *testing.T, name, text string) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(text))
	for {
		_, err := d.Token()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, text)
		}
	}
}
