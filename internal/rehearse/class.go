package rehearse

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
)

// Class is who comes, for how long, and what they find. It is not changed once it is made.
type Class struct {
	Name   string
	Title  string
	Text   string // what happens, in two sentences
	Length time.Duration
	Window time.Duration // fairness is looked at over times as long as this
	People []Person
	Shares map[string]float64 // weights of groups; those that are left out have 1
	Fleet  []GPU
	Models []*Model
	Seed   uint64
	// MaxRunning is the most GPUs that work for one person at once; 0: no limit.
	MaxRunning int
	// Affinity is how much GPU time somebody may be overtaken by where that spares loading a model; 0: the schedule's.
	Affinity time.Duration
	// Ask is how often everybody who waits is told how long it still takes; 0: never.
	Ask time.Duration

	before []*Class // days that the studio has behind it
}

// Options change what a class is by itself. The zero value of each field leaves it as it is.
type Options struct {
	Class    string // its name, one of Names
	Users    int
	Length   time.Duration
	GPUs     int
	Speeds   []float64 // in turn
	Memory   []float64 // in turn, GiB
	Models   int
	Quickest time.Duration // load time of the first model
	Slowest  time.Duration // load time of the last model
	Seed     uint64
	Ask      time.Duration // how often everybody who waits is told how long it still takes; negative: never
	Practice int           // days like it that the studio has behind it and has learnt from
}

// Names are the classes that there are.
func Names() (names []string) {
	for _, p := range plans {
		names = append(names, p.name)
	}
	return names
}

// plan is what a class is by itself.
type plan struct {
	name, title, text string

	users  int
	length time.Duration
	window time.Duration
	gpus   int
	speeds []float64
	memory []float64
	models int
	load   Span
	shares map[string]float64
	people func(i, users int, length time.Duration, draw chance) Person
}

// Limits keep a slip of the finger from taking all memory.
const (
	mostUsers  = 20_000
	mostGPUs   = 1024
	mostModels = 100
	mostLength = 7 * 24 * time.Hour
	mostDays   = 100
)

// New makes a class.
func New(o Options) (*Class, error) {
	i := slices.IndexFunc(plans, func(p plan) bool { return p.name == o.Class })
	if i < 0 {
		return nil, fault.New(fault.Invalid, "There is no class %q.", o.Class).
			WithRemedy("Use one of: %s.", strings.Join(Names(), ", ")).WithCode("wrong_use")
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	p := plans[i]
	users, length := cmp.Or(o.Users, p.users), cmp.Or(o.Length, p.length)
	speeds, memory := p.speeds, p.memory
	if len(o.Speeds) > 0 {
		speeds = o.Speeds
	}
	if len(o.Memory) > 0 {
		memory = o.Memory
	}
	quickest, slowest := cmp.Or(o.Quickest, p.load.From), cmp.Or(o.Slowest, p.load.To)
	c := &Class{
		Name: p.name, Title: p.title, Text: p.text, Length: length, Window: min(p.window, length), Shares: p.shares,
		Fleet:  Fleet(cmp.Or(o.GPUs, p.gpus), speeds, memory),
		Models: Models(cmp.Or(o.Models, p.models), quickest, max(quickest, slowest)),
		Seed:   o.Seed, Ask: max(0, cmp.Or(o.Ask, 5*time.Minute)),
	}
	for i := range users {
		person := p.people(i, users, length, newChance(o.Seed, uint64(mostUsers+i)))
		person.Name = numbered("p", i)
		c.People = append(c.People, person)
	}
	for day := range o.Practice {
		before := o
		before.Practice, before.Seed = 0, o.Seed+uint64(day+1)<<32
		past, err := New(before)
		if err != nil {
			return nil, err
		}
		c.before = append(c.before, past)
	}
	return c, c.fits()
}

func (o Options) check() error {
	wrong := func(format string, args ...any) error {
		return fault.New(fault.Invalid, format, args...).WithCode("wrong_use")
	}
	switch {
	case o.Users < 0 || o.Users > mostUsers:
		return wrong("A class has from 1 to %d people.", mostUsers)
	case o.GPUs < 0 || o.GPUs > mostGPUs:
		return wrong("A fleet has from 1 to %d GPUs.", mostGPUs)
	case o.Models < 0 || o.Models > mostModels:
		return wrong("A class uses from 1 to %d models.", mostModels)
	case o.Length < 0 || o.Length > mostLength:
		return wrong("A class lasts up to %d hours.", int(mostLength.Hours()))
	case o.Practice < 0 || o.Practice > mostDays:
		return wrong("A studio has from 0 to %d days behind it.", mostDays)
	case o.Quickest < 0 || o.Slowest < 0 || o.Slowest > 0 && o.Slowest < o.Quickest:
		return wrong("Load times go from the quickest to the slowest model.")
	case slices.ContainsFunc(o.Speeds, func(x float64) bool { return !(x >= 0.01 && x <= 100) }): // also not NaN
		return wrong("A GPU's speed is from 0.01 to 100; 1 is usual.")
	case slices.ContainsFunc(o.Memory, func(x float64) bool { return !(x > 0) }):
		return wrong("A GPU's memory is above 0.")
	}
	return nil
}

// fits reports a model that no GPU has room for: its jobs would wait for ever.
func (c *Class) fits() error {
	for _, m := range c.Models {
		if !slices.ContainsFunc(c.Fleet, func(g GPU) bool { return m.Size <= g.Memory }) {
			return fault.New(fault.Invalid, "No GPU has room for the model %s, which takes %g GiB.", m.Name, m.Size).
				WithRemedy("Give one more memory, or use fewer models.").WithCode("wrong_use")
		}
	}
	return nil
}
