package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/config"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/fleet"
)

// gpus is the studio's back ends: those of the settings, and those that operators added while it ran. It is safe for
// concurrent use.
type gpus struct {
	mu     sync.Mutex
	change sync.Mutex // one change at a time, the store included
	list   []gpu
}

// gpu is one back end.
type gpu struct {
	config.Back
	added   bool      // by an operator; else the settings name it
	drained bool      // taken out by an operator
	text    string    // that people read then; empty: that
	until   time.Time // when it takes work by itself again; zero: when somebody says so
	driver  backend.Driver
}

// all returns the back ends of now, in their order.
func (g *gpus) all() []gpu {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.list)
}

// backs returns their settings.
func (g *gpus) backs() []config.Back {
	list := g.all()
	out := make([]config.Back, 0, len(list))
	for _, b := range list {
		out = append(out, b.Back)
	}
	return out
}

func (g *gpus) named(name string) (gpu, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	i := slices.IndexFunc(g.list, func(b gpu) bool { return b.Name == name })
	if i < 0 {
		return gpu{}, false
	}
	return g.list[i], true
}

// set replaces one, or adds it at the end.
func (g *gpus) set(b gpu) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if i := slices.IndexFunc(g.list, func(x gpu) bool { return x.Name == b.Name }); i >= 0 {
		g.list[i] = b
		return
	}
	g.list = append(g.list, b)
}

func (g *gpus) drop(name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.list = slices.DeleteFunc(g.list, func(b gpu) bool { return b.Name == name })
}

// keptBack is what the store keeps of a back end: what an operator changed. A key is a reference, never the key.
type keptBack struct {
	Drained bool       `json:"drained,omitempty"`
	Text    string     `json:"text,omitempty"`  // that people read while it is drained
	Until   time.Time  `json:"until,omitzero"`  // the end of that; zero: when somebody says so
	Added   *addedBack `json:"added,omitempty"` // nil: the settings name it
}

type addedBack struct {
	Driver      string            `json:"driver"`
	URL         string            `json:"url,omitempty"`
	Key         string            `json:"key,omitempty"`
	Mode        string            `json:"mode,omitempty"`
	MaxParallel int               `json:"max_parallel,omitempty"`
	Storage     string            `json:"storage,omitempty"`
	Provider    string            `json:"provider,omitempty"`
	Deployment  string            `json:"deployment,omitempty"`
	Groups      []string          `json:"groups,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Price       float64           `json:"price_per_hour,omitempty"`
	Prefer      int               `json:"prefer,omitempty"`
	MaxRun      time.Duration     `json:"max_run,omitempty"`
}

func addedOf(b config.Back) *addedBack {
	return &addedBack{
		b.Driver, b.URL, b.Key.Reference(), b.Mode, b.MaxParallel, b.Storage, b.Provider.Name, b.Provider.Deployment,
		b.Groups, b.Labels, b.PricePerHour, b.Prefer, time.Duration(b.MaxRun),
	}
}

// back returns the settings, checked as those of a file are.
func (a *addedBack) back(name string) (config.Back, error) {
	key, err := config.ParseSecret(a.Key)
	if err != nil {
		return config.Back{}, fmt.Errorf("key: %w", err)
	}
	return config.CheckBack(config.Back{
		Name: name, Driver: a.Driver, URL: a.URL, Key: key, Mode: a.Mode, MaxParallel: a.MaxParallel, Storage: a.Storage,
		Provider: config.Provider{Name: a.Provider, Deployment: a.Deployment}, Groups: a.Groups, Labels: a.Labels,
		PricePerHour: a.Price, Prefer: a.Prefer, MaxRun: config.Duration(a.MaxRun),
	})
}

// loadGPUs puts together the back ends of the settings and those of the store. The settings win where both have one.
func (s *Studio) loadGPUs(ctx context.Context) error {
	kept, err := s.stores.catalog.LoadMembers(ctx)
	if err != nil {
		return fmt.Errorf("loading the back ends that were added: %w", err)
	}
	names := make([]string, 0, len(kept))
	for name := range kept {
		names = append(names, name)
	}
	slices.Sort(names)
	s.gpus, s.wanted = &gpus{}, &wanted{s: s}
	for _, b := range s.cfg.Backends {
		s.gpus.set(gpu{Back: b})
	}
	for _, name := range names {
		k, err := readKept(kept[name])
		if err != nil {
			s.log.Warn("a back end that was added can't be read; add it again", "backend", name, "err", err)
			continue
		}
		at, configured := s.gpus.named(name)
		switch {
		case configured:
			if k.Added != nil {
				s.log.Warn("a back end is in the settings and was added too; the settings count", "backend", name)
			}
			at.drained, at.text, at.until = k.Drained, k.Text, k.Until
			s.gpus.set(at)
		case k.Added != nil:
			b, err := k.Added.back(name)
			if err != nil {
				s.log.Warn("a back end that was added does not fit this version; add it again", "backend", name, "err", err)
				continue
			}
			s.gpus.set(gpu{Back: b, added: true, drained: k.Drained, text: k.Text, until: k.Until})
		}
	}
	return nil
}

func readKept(body []byte) (k keptBack, err error) { return k, json.Unmarshal(body, &k) }

// keep writes down what an operator changed of a back end.
func (s *Studio) keep(ctx context.Context, b gpu) error {
	k := keptBack{Drained: b.drained, Text: b.text, Until: b.until}
	if b.added {
		k.Added = addedOf(b.Back)
	}
	if !b.added && !b.drained {
		return s.stores.catalog.DropMember(ctx, b.Name)
	}
	body, err := json.Marshal(k)
	if err != nil {
		return err
	}
	return s.stores.catalog.SaveMember(ctx, b.Name, body)
}

// connect makes a back end's driver and hands it to the fleet.
func (s *Studio) connect(b gpu) error {
	d, err := s.driver(b.Back)
	if err != nil {
		return err
	}
	b.driver = d
	s.gpus.set(b)
	s.arrange()
	if err := s.fleet.Add(s.member(b)); err != nil {
		s.gpus.drop(b.Name)
		return errors.Join(err, d.Close())
	}
	return nil
}

func (s *Studio) member(b gpu) fleet.Member {
	return fleet.Member{
		Name: b.Name, Driver: b.driver, Parallel: b.MaxParallel, Groups: b.Groups, Price: b.PricePerHour, Prefer: b.Prefer,
		MaxRun: time.Duration(b.MaxRun), Drained: b.drained, Text: b.text, Until: b.until,
	}
}

// disconnect lets go of a back end. What runs there begins anew elsewhere.
func (s *Studio) disconnect(b gpu) error {
	err := s.fleet.Remove(b.Name)
	s.gpus.drop(b.Name)
	s.arrange()
	if b.driver != nil {
		err = errors.Join(err, b.driver.Close())
	}
	return err
}

// arrange tells what is made of all back ends which there are now.
func (s *Studio) arrange() {
	backs := s.gpus.backs()
	s.packs.Arrange(packMembers(backs))
	if s.catalog.Arrange(catalogMembers(backs)) {
		s.fleetChanged()
	}
}

// closeGPUs closes all drivers.
func (s *Studio) closeGPUs(context.Context) error {
	var errs []error
	for _, b := range s.gpus.all() {
		if b.driver != nil {
			errs = append(errs, b.driver.Close())
		}
	}
	return errors.Join(errs...)
}

// followEvery is how often a server looks for back ends that another one took in.
const followEvery = 2 * time.Second

// followGPUs takes over what operators change at other servers of the studio.
func (s *Studio) followGPUs(ctx context.Context) error {
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := s.takeOver(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("back ends stay as they were", "err", err)
		}
	}
}

// takeOver makes the back ends what the store says.
func (s *Studio) takeOver(ctx context.Context) error {
	s.gpus.change.Lock()
	defer s.gpus.change.Unlock()
	kept, err := s.stores.catalog.LoadMembers(ctx)
	if err != nil {
		return err
	}
	for _, b := range s.gpus.all() {
		k, err := readKept(kept[b.Name])
		there := kept[b.Name] != nil && err == nil
		switch {
		case b.added && (!there || k.Added == nil):
			if err := s.disconnect(b); err != nil {
				return err
			}
		case b.drained != (there && k.Drained):
			b.drained, b.text, b.until = !b.drained, k.Text, k.Until
			s.gpus.set(b)
			if err := s.fleet.Maintain(b.Name, b.drained, b.text, b.until); err != nil {
				return err
			}
		}
	}
	for name, body := range kept {
		if _, known := s.gpus.named(name); known {
			continue
		}
		k, err := readKept(body)
		if err != nil || k.Added == nil {
			continue
		}
		back, err := k.Added.back(name)
		if err == nil {
			err = s.connect(gpu{Back: back, added: true, drained: k.Drained, text: k.Text, until: k.Until})
		}
		if err != nil {
			s.log.Warn("a back end that was added at another server can't be used here", "backend", name, "err", err)
		}
	}
	return nil
}

func noGPU(name string) error {
	return fault.New(fault.Missing, "There is no back end %s.", name).WithRemedy("See which there are with: comfyume backend list")
}
