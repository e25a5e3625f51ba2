package rehearse

import (
	"math"
	"math/rand/v2"
	"time"
)

// chance is a stream of draws. Times are whole milliseconds, so that the last bit of a logarithm, in which
// processors may differ, decides nothing.
type chance struct{ *rand.Rand }

// newChance returns the n-th stream of a seed.
func newChance(seed, n uint64) chance {
	return chance{rand.New(rand.NewPCG(seed, n*0x9e3779b97f4a7c15+1))}
}

// happens is true with probability p.
func (c chance) happens(p float64) bool { return c.Float64() < p }

// between draws evenly from lo to hi.
func (c chance) between(lo, hi time.Duration) time.Duration {
	return lo + millis(c.Float64()*float64(hi-lo))
}

// about draws around the median: two thirds lie between median/e^spread and median*e^spread.
func (c chance) about(median time.Duration, spread float64) time.Duration {
	return millis(float64(median) * c.factor(spread))
}

// factor draws around 1.
func (c chance) factor(spread float64) float64 {
	const most = 2.5 // nobody waits for the end of a tail
	return math.Exp(spread * min(max(c.NormFloat64(), -most), most))
}

// number draws from lo to hi.
func (c chance) number(lo, hi int) int { return lo + c.IntN(hi-lo+1) }

func millis(d float64) time.Duration {
	return time.Duration(math.Round(d/float64(time.Millisecond))) * time.Millisecond
}
