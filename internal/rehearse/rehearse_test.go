package rehearse_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/ahelme/comfyume/internal/rehearse"
	"github.com/ahelme/comfyume/internal/rehearse/report"
)

func class(t testing.TB, o rehearse.Options) *rehearse.Class {
	t.Helper()
	c, err := rehearse.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func hold(t testing.TB, c *rehearse.Class, m rehearse.Mode) ([]*rehearse.Run, rehearse.Figures) {
	t.Helper()
	runs, err := c.Hold(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	return runs, c.Measure(m, runs)
}

// held is a class of each name in each mode, which happens once for all tests that look at it.
type held struct {
	*rehearse.Class
	mode    rehearse.Mode
	runs    []*rehearse.Run
	figures rehearse.Figures
}

var everything = sync.OnceValues(func() (all []held, err error) {
	for _, name := range rehearse.Names() {
		c, err := rehearse.New(rehearse.Options{Class: name, Seed: 7, Ask: -1})
		if err != nil {
			return nil, err
		}
		for _, m := range rehearse.Modes() {
			runs, err := c.Hold(context.Background(), m)
			if err != nil {
				return nil, err
			}
			all = append(all, held{c, m, runs, c.Measure(m, runs)})
		}
	}
	return all, nil
})

// each runs a test for every class in every mode.
func each(t *testing.T, test func(t *testing.T, h held)) {
	t.Helper()
	all, err := everything()
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range all {
		t.Run(fmt.Sprintf("%s/%s", h.Name, h.mode), func(t *testing.T) { test(t, h) })
	}
}

// TestWorldIsPossible: every job runs once, on a GPU that has room for its model, and no GPU runs two at a time.
func TestWorldIsPossible(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, h held) {
		c, runs, f := h.Class, h.runs, h.figures
		if len(runs) < 100 || f.Use < 0.3 || f.Use > 1 {
			t.Fatalf("%d jobs, %.2f of the GPUs' time: that is no class", len(runs), f.Use)
		}
		onGPU := make([][]*rehearse.Run, len(c.Fleet))
		for i, r := range runs {
			if r.Started < r.Submitted || r.Ended <= r.Started || r.Ended != r.Started+r.Load+r.Work {
				t.Fatalf("job %d: submitted %s, started %s, ended %s", i, r.Submitted, r.Started, r.Ended)
			}
			if size := r.Model().Size; size > c.Fleet[r.GPU].Memory {
				t.Fatalf("job %d: a model of %g GiB on %+v", i, size, c.Fleet[r.GPU])
			}
			onGPU[r.GPU] = append(onGPU[r.GPU], r)
		}
		for gpu, list := range onGPU {
			slices.SortFunc(list, func(x, y *rehearse.Run) int { return int(x.Started - y.Started) })
			for i, r := range list {
				if i > 0 && list[i-1].Ended > r.Started {
					t.Fatalf("GPU %d runs two jobs at %s", gpu, r.Started)
				}
				if i == 0 != (r.Load > 0) && (i == 0 || r.Model() == list[i-1].Model()) {
					t.Fatalf("GPU %d, job %d: the model %s took %s to load", gpu, i, r.Model().Name, r.Load)
				}
			}
		}
	})
}

// TestSameAgain: the same input gives the same figures and the same report, byte for byte; another seed another day.
func TestSameAgain(t *testing.T) {
	t.Parallel()
	render := func(seed uint64) []byte {
		var sections []report.Section
		var out bytes.Buffer
		for _, name := range []string{"workshop", "studio"} {
			s := report.Section{Class: class(t, rehearse.Options{Class: name, Users: 30, GPUs: 4, Length: time.Hour, Seed: seed, Ask: 20 * time.Minute}), Command: "again"}
			for _, m := range rehearse.Modes() {
				_, f := hold(t, s.Class, m)
				s.Figures = append(s.Figures, f)
			}
			if err := json.NewEncoder(&out).Encode(s.Figures); err != nil {
				t.Fatal(err)
			}
			out.WriteString(report.Picture(s))
			sections = append(sections, s)
		}
		if err := report.Page(&out, sections); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	first := render(3)
	if !bytes.Equal(first, render(3)) {
		t.Error("the same input gave another output")
	}
	if bytes.Equal(first, render(4)) {
		t.Error("the seed makes no difference")
	}
}

// TestModesMeetTheSamePeople: what somebody runs, and in which order, does not depend on the mode.
func TestModesMeetTheSamePeople(t *testing.T) {
	t.Parallel()
	first := map[string]map[int][]string{}
	each(t, func(t *testing.T, h held) {
		asked := map[int][]string{}
		for _, r := range h.runs {
			asked[r.Person] = append(asked[r.Person], r.Model().Name)
		}
		if first[h.Name] == nil {
			first[h.Name] = asked
		}
		for person, list := range asked {
			before := first[h.Name][person]
			n := min(len(list), len(before))
			if diff := cmp.Diff(before[:n], list[:n]); diff != "" || n == 0 {
				t.Fatalf("person %d: %s", person, diff)
			}
		}
	})
}

func TestJain(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		got  []float64
		want float64
	}{{[]float64{5, 5, 5}, 1}, {[]float64{9, 0, 0}, 1.0 / 3}, {[]float64{1, 2}, 0.9}, {[]float64{0, 0}, 1}} {
		if j := rehearse.Jain(c.got); math.Abs(j-c.want) > 1e-9 {
			t.Errorf("%v: %g, want %g", c.got, j, c.want)
		}
	}
}

// TestFlagsOfAClass: what is given counts, and what can't be is refused.
func TestOptions(t *testing.T) {
	t.Parallel()
	c := class(t, rehearse.Options{
		Class: "batch", Users: 3, Length: 2 * time.Hour, GPUs: 3, Speeds: []float64{1, 2}, Memory: []float64{48}, Models: 5,
		Quickest: 5 * time.Second, Slowest: 80 * time.Second,
	})
	want := []rehearse.GPU{{"gpu001", 1, 48}, {"gpu002", 2, 48}, {"gpu003", 1, 48}}
	if diff := cmp.Diff(want, c.Fleet, cmpopts.EquateEmpty()); diff != "" || len(c.People) != 3 || c.Length != 2*time.Hour {
		t.Errorf("%d people, %s, %s", len(c.People), c.Length, diff)
	}
	var loads []time.Duration
	for _, m := range c.Models {
		loads = append(loads, m.Load)
	}
	if diff := cmp.Diff([]time.Duration{5 * time.Second, 10 * time.Second, 20 * time.Second, 40 * time.Second, 80 * time.Second}, loads); diff != "" {
		t.Error(diff)
	}
	for _, o := range []rehearse.Options{
		{Class: "nope"},
		{Class: "film", Users: -1},
		{Class: "film", GPUs: 5000},
		{Class: "film", Length: -time.Hour},
		{Class: "film", Speeds: []float64{math.NaN()}},
		{Class: "film", Memory: []float64{0}},
		{Class: "film", Memory: []float64{24}},
		{Class: "film", Quickest: time.Minute, Slowest: time.Second},
	} {
		if _, err := rehearse.New(o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
}
