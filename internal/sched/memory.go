package sched

import (
	"encoding/json"
	"maps"
	"math"
)

// memory is what runs taught a machine, in the form in which the next one takes it: a studio that is started anew, or
// goes on at another server, tells waits by what all its days taught.
type memory struct {
	Form   int                       `json:"form"`
	Kept   [len(farthest)][2]float64 `json:"kept"` // below, above
	Job    remembered                `json:"job"`
	Load   remembered                `json:"load"`
	Error  remembered                `json:"error"`
	Shared remembered                `json:"shared"`
	Recent remembered                `json:"recent"`
	Loads  map[string]remembered     `json:"loads,omitempty"` // by models
}

// remembered is a mean and over how many values it is.
type remembered [2]float64

// memoryForm is the present form; other ones are not read.
const memoryForm = 1

// Memory returns what runs taught, for Options.Memory of the next machine.
func (m *Machine) Memory() []byte {
	e := &m.known
	is := func(a mean) remembered { return remembered{a.value, a.n} }
	out := memory{
		Form: memoryForm, Job: is(e.typical), Load: is(e.load), Error: is(e.error), Shared: is(e.shared), Recent: is(e.recent),
		Loads: make(map[string]remembered, len(e.loads)),
	}
	for i, k := range e.kept {
		out.Kept[i] = [2]float64{k.below, k.above}
	}
	for models, one := range e.loads {
		out.Loads[models] = is(one)
	}
	b, err := json.Marshal(out)
	if err != nil {
		panic(err) // all are numbers
	}
	return b
}

// remember takes over what Memory returned. What can't be read, or can't be, is learnt again.
func (e *experience) remember(b []byte) {
	var in memory
	if json.Unmarshal(b, &in) != nil || in.Form != memoryForm || !in.sound() {
		return
	}
	was := func(r remembered) mean { return mean{r[0], r[1]} }
	e.typical, e.load, e.error, e.shared, e.recent = was(in.Job), was(in.Load), was(in.Error), was(in.Shared), was(in.Recent)
	for i, k := range in.Kept {
		e.kept[i] = kept{k[0], k[1]}
	}
	for models, one := range in.Loads {
		e.loads[models] = was(one)
	}
}

// sound reports whether all of it can be what runs taught.
func (m *memory) sound() bool {
	const year = 365 * 24 * 3600.
	of := func(r remembered, least, most float64) bool {
		return r[0] >= least && r[0] <= most && r[1] >= 0 && r[1] <= 1e6
	}
	for _, k := range m.Kept {
		if math.Abs(k[0]) > mostCorrected || math.Abs(k[1]) > mostCorrected {
			return false
		}
	}
	for one := range maps.Values(m.Loads) {
		if !of(one, 0, year) {
			return false
		}
	}
	return len(m.Loads) <= mostLoads && of(m.Job, 0, year) && of(m.Load, 0, year) && of(m.Error, 0, 9) && of(m.Shared, -9, 9) && of(m.Recent, -3, 3)
}
