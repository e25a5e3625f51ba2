package usage

import (
	"math"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

func usual(uint32) float64 { return 1 }

const week = 7 * 24 * 3600

func TestMedian(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		list []weighted
		want float64
	}{
		{[]weighted{{3, 1}}, 3},
		{[]weighted{{3, 1}, {1, 1}}, 2},
		{[]weighted{{9, 1}, {1, 1}, {2, 1}}, 2},
		{[]weighted{{9, 5}, {1, 1}, {2, 1}}, 9},
		{[]weighted{{1, 0.5}, {2, 0.25}, {3, 0.25}}, 1.5},
	} {
		if got := median(c.list); got != c.want {
			t.Errorf("median of %v is %v, want %v", c.list, got, c.want)
		}
	}
}

// runs draws runs that take base + slope × work seconds, with some noise.
func runs(t *rapid.T, base, slope, noise float64) []sample {
	r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
	n := rapid.IntRange(8, maxSamples).Draw(t, "runs")
	list := make([]sample, n)
	for i, at := range r.Perm(n) {
		work := 1 + 99*(float64(i)+r.Float64())/float64(n) // of every size
		list[i] = sample{work: work, seconds: (base + slope*work) * (1 + noise*(2*r.Float64()-1)), at: int64(1000 + at*60)}
	}
	return list
}

// largest is the longest time of runs: what is noise there is much beside a short one.
func largest(list []sample) (most float64) {
	for _, s := range list {
		most = max(most, s.seconds)
	}
	return most
}

func TestFitConverges(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		base := rapid.Float64Range(0, 60).Draw(t, "base")
		slope := rapid.Float64Range(0.01, 10).Draw(t, "slope")
		list := runs(t, base, slope, 0.02)
		f := learn(list, usual, week)
		for _, s := range list {
			if got, want := f.seconds(s.work), base+slope*s.work; math.Abs(got-want) > 0.06*want+0.03*largest(list) {
				t.Fatalf("for work %.1f expected %.2f s, is %.2f s (%+v)", s.work, got, want, f)
			}
		}
		if f.spread > 0.35 {
			t.Fatalf("spread is %v", f.spread)
		}
	})
}

// TestFitStands holds that one run that took as long as it likes moves nothing much.
func TestFitStands(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		base := rapid.Float64Range(0, 60).Draw(t, "base")
		slope := rapid.Float64Range(0.01, 10).Draw(t, "slope")
		list := runs(t, base, slope, 0.02)
		at := rapid.IntRange(0, len(list)-1).Draw(t, "which")
		noise := 0.15 * largest(list)
		list[at].seconds = rapid.OneOf(rapid.Float64Range(0.001, 0.1), rapid.Float64Range(1e3, 1e7)).Draw(t, "took")
		f := learn(list, usual, week)
		for i, s := range list {
			if got, want := f.seconds(s.work), base+slope*s.work; i != at && math.Abs(got-want) > 0.2*want+noise {
				t.Fatalf("for work %.1f expected %.2f s, is %.2f s (%+v)", s.work, got, want, f)
			}
		}
	})
}

// TestFitStandsWithLikeWork is TestFitStands where every run had the same to do: the usual case.
func TestFitStandsWithLikeWork(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		seconds := rapid.Float64Range(0.01, 1000).Draw(t, "seconds")
		list := make([]sample, rapid.IntRange(3, maxSamples).Draw(t, "runs"))
		for i := range list {
			list[i] = sample{work: 20, seconds: seconds, at: int64(i)}
		}
		list[rapid.IntRange(0, len(list)-1).Draw(t, "which")].seconds = rapid.Float64Range(1e-3, 1e7).Draw(t, "took")
		f := learn(list, usual, week)
		for _, work := range []float64{20, 40} {
			if got, want := f.seconds(work), seconds*work/20; math.Abs(got-want) > 1e-6*want {
				t.Fatalf("for work %v expected %v s, is %v s", work, got, want)
			}
		}
	})
}

// TestFitGrows holds that whatever was seen, more work is never expected to take less time, and no time is negative.
func TestFitGrows(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		list := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) sample {
			return sample{
				work:    rapid.OneOf(rapid.Just(0.0), rapid.Float64Range(0, 1e15)).Draw(t, "work"),
				seconds: rapid.Float64Range(1e-6, 1e8).Draw(t, "seconds"),
				at:      rapid.Int64Range(-1e10, 1e11).Draw(t, "at"),
			}
		}), 1, maxSamples).Draw(t, "samples")
		f := learn(list, usual, week)
		a := rapid.Float64Range(0, 1e15).Draw(t, "a")
		b := rapid.Float64Range(a, 1e15).Draw(t, "b")
		less, more := f.seconds(a), f.seconds(b)
		if !(less >= 0 && less <= more) || math.IsNaN(f.spread) || f.spread < 0 {
			t.Fatalf("%v for %v, %v for %v, %+v", less, a, more, b, f)
		}
	})
}

func TestFitFollowsWhatIsNew(t *testing.T) {
	t.Parallel()
	var list []sample
	for i := range maxSamples {
		s := sample{work: 10, seconds: 20, at: int64(i)}
		if i >= maxSamples-3 { // three runs on a machine that is twice as fast, a month later
			s.seconds, s.at = 10, 30*24*3600
		}
		list = append(list, s)
	}
	if f := learn(list, usual, week); math.Abs(f.seconds(10)-10) > 0.1 {
		t.Errorf("expected %v s after a month, want those of the new machine", f.seconds(10))
	}
	for i := range list {
		list[i].at = int64(i)
	}
	if f := learn(list, usual, week); math.Abs(f.seconds(10)-20) > 0.1 {
		t.Errorf("expected %v s within the same minute, want what most took", f.seconds(10))
	}
}

func BenchmarkFit(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	equal, spread := make([]sample, maxSamples), make([]sample, maxSamples)
	for i := range equal {
		equal[i] = sample{work: 10, seconds: r.Float64(), at: int64(i)}
		spread[i] = sample{work: 10 * r.Float64(), seconds: r.Float64(), at: int64(i)}
	}
	for name, list := range map[string][]sample{"same work": equal, "any work": spread} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				learn(list, usual, week)
			}
		})
	}
}
