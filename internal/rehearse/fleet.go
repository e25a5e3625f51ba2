package rehearse

import (
	"encoding/json"
	"math"
	"slices"
	"time"
)

// Model is a file that a graph needs in a GPU's memory.
type Model struct {
	Name string
	Size float64       // GiB
	Load time.Duration // how long it takes into the memory
}

// MarshalJSON writes the load time in seconds, like all times of the figures.
func (m *Model) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Name string  `json:"name"`
		Size float64 `json:"gib"`
		Load float64 `json:"load"`
	}{m.Name, m.Size, m.Load.Seconds()})
}

// GPU is one back end.
type GPU struct {
	Name   string  `json:"name"`
	Speed  float64 `json:"speed"` // 1: usual
	Memory float64 `json:"gib"`
}

// Fleet returns count GPUs whose speeds and memories repeat in turn.
func Fleet(count int, speeds, memory []float64) []GPU {
	gpus := make([]GPU, count)
	for i := range gpus {
		gpus[i] = GPU{Name: numbered("gpu", i), Speed: speeds[i%len(speeds)], Memory: memory[i%len(memory)]}
	}
	return gpus
}

// known are models in the order in which classes use them.
var known = []Model{{Name: "sd15", Size: 4}, {Name: "sdxl", Size: 8}, {Name: "flux", Size: 17}, {Name: "video", Size: 20}, {Name: "film", Size: 40}}

// Models returns the first count of the models that classes use, with load times from quickest to slowest, each so
// many times the one before.
func Models(count int, quickest, slowest time.Duration) []*Model {
	list := make([]*Model, count)
	for i := range list {
		m := known[i%len(known)]
		if i >= len(known) {
			m.Name = numbered(m.Name+"-", i/len(known))
		}
		step := 0.0
		if count > 1 {
			step = float64(i) / float64(count-1)
		}
		m.Load = millis(float64(quickest) * math.Pow(float64(slowest)/float64(quickest), step))
		list[i] = &m
	}
	return list
}

// card is a GPU at work. It keeps models like ComfyUI does: the one that was used longest ago goes when there is no
// room, and the nodes of the last graph stay in its cache.
type card struct {
	GPU
	loaded []*Model // the last used last
	cached int      // the graph whose nodes are in the cache; 0: none
	line   []*Run   // the first one runs or is about to
}

// holds reports whether the model would fit into the empty memory.
func (c *card) holds(m *Model) bool { return m.Size <= c.Memory }

// take has the model in memory and returns how long it takes to load.
func (c *card) take(m *Model) time.Duration {
	if i := slices.Index(c.loaded, m); i >= 0 {
		c.loaded = append(slices.Delete(c.loaded, i, i+1), m)
		return 0
	}
	used := m.Size
	for _, other := range c.loaded {
		used += other.Size
	}
	for used > c.Memory && len(c.loaded) > 0 {
		used -= c.loaded[0].Size
		c.loaded = slices.Delete(c.loaded, 0, 1)
	}
	c.loaded = append(c.loaded, m)
	return m.Load
}

// begin starts the run's graph and returns how long it will take.
func (c *card) begin(r *Run) time.Duration {
	g := r.graph
	r.Load = c.take(g.model)
	r.Cached = c.cached == g.nodes
	c.cached = g.nodes
	work := g.work
	if !r.Cached {
		work += g.prepare
	}
	r.Work = millis(float64(work) / c.Speed)
	return r.Load + r.Work
}
