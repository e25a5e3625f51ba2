package drift

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ahelme/comfyume/internal/verda"
)

// facet is one thing that deployments should have in common.
type facet struct {
	what  string // as a finding names it
	value string // for comparing; it may be a secret
	shown string
	put   func(*verda.Deployment) bool // gives it to another deployment; false: that can't be done
}

// facets are all things of a deployment that others should have too, by what they are. What makes deployments different
// from each other on purpose is none of them: name, GPU, spot or not, and how many containers may run.
func facets(d verda.Deployment) map[string]facet {
	out := map[string]facet{}
	add := func(f facet) { out[f.what] = f }
	for i, c := range d.Containers {
		of := nth(i)
		at := func(put func(*verda.Container) bool) func(*verda.Deployment) bool {
			return func(d *verda.Deployment) bool { return i < len(d.Containers) && put(&d.Containers[i]) }
		}
		name, tag := c.Image.Split()
		add(facet{"image" + of, name, name, nil})
		add(facet{"image tag" + of, tag, tag, at(func(to *verda.Container) bool {
			base, _ := to.Image.Split()
			if base == name && tag != "" && tag != "latest" {
				to.Image = c.Image
				return true
			}
			return false
		})})
		add(facet{"exposed_port" + of, fmt.Sprint(c.Port), fmt.Sprint(c.Port), at(func(to *verda.Container) bool { to.Port = c.Port; return true })})
		if h := c.Health; h != nil {
			shown := fmt.Sprintf("%s on port %d", h.Path, h.Port)
			if !h.Enabled {
				shown = "off"
			}
			add(facet{"healthcheck" + of, shown, shown, at(func(to *verda.Container) bool { health := *h; to.Health = &health; return true })})
		}
		commandFacets(c, of, at, add)
		for _, v := range c.Env {
			add(facet{"variable " + v.Name + of, v.Type + "\x00" + v.Value, v.Shown(), at(func(to *verda.Container) bool {
				if v.InClear() { // it is not spread further
					return false
				}
				setVariable(to, v)
				return true
			})})
		}
		for _, m := range c.Mounts {
			shown := strings.TrimSpace(m.Type + " " + m.Volume + m.Secret)
			if m.SizeMB > 0 {
				shown += fmt.Sprintf(" of %d MB", m.SizeMB)
			}
			add(facet{"mount " + m.Path + of, shown, shown, at(func(to *verda.Container) bool { return setMount(to, m) })})
		}
	}
	add(facet{"containers", fmt.Sprint(len(d.Containers)), fmt.Sprint(len(d.Containers)), nil})
	if d.Scaling != nil {
		scalingFacets(*d.Scaling, add)
	}
	return out
}

// commandFacets are the program and the flags of a container.
func commandFacets(c verda.Container, of string, at func(func(*verda.Container) bool) func(*verda.Deployment) bool, add func(facet)) {
	cmd := commandOf(c)
	if !cmd.known {
		add(facet{"program" + of, "", "that of the image", nil})
		return
	}
	add(facet{"program" + of, cmd.program, strings.Join(verda.ShownArgs(strings.Fields(cmd.program)), " "), nil})
	for _, f := range cmd.flags {
		shown := f.shown()
		if len(f.values) == 0 {
			shown = "(without a value)"
		}
		add(facet{f.name + of, f.value(), shown, at(func(to *verda.Container) bool {
			// Another program may understand it differently, and a secret in clear is not spread further.
			return commandOf(*to).program == cmd.program && f.shown() == f.value() && setFlag(to, f)
		})})
	}
}

// scalingFacets are what should be the same in all deployments of how they scale.
func scalingFacets(s verda.Scaling, add func(facet)) {
	number := func(what string, n any, put func(*verda.Scaling)) {
		add(facet{"scaling " + what, fmt.Sprint(n), fmt.Sprint(n), func(d *verda.Deployment) bool {
			if d.Scaling == nil {
				return false
			}
			put(d.Scaling)
			return true
		}})
	}
	number("concurrent_requests_per_replica", s.Concurrent, func(to *verda.Scaling) { to.Concurrent = s.Concurrent })
	number("queue_message_ttl_seconds", s.TTL, func(to *verda.Scaling) { to.TTL = s.TTL })
	if s.Down != nil {
		number("scale_down_policy.delay_seconds", s.Down.Seconds, func(to *verda.Scaling) { to.Down = s.Down })
	}
	if s.Up != nil {
		number("scale_up_policy.delay_seconds", s.Up.Seconds, func(to *verda.Scaling) { to.Up = s.Up })
	}
	t := s.Triggers
	if t == nil {
		t = &verda.Triggers{}
	}
	trigger := func(what string, shown string, put func(*verda.Triggers)) {
		number("scaling_triggers."+what, shown, func(to *verda.Scaling) {
			var all verda.Triggers
			if to.Triggers != nil {
				all = *to.Triggers
			}
			put(&all)
			to.Triggers = &all
		})
	}
	if t.Queue != nil {
		trigger("queue_load", fmt.Sprint(t.Queue.Threshold), func(to *verda.Triggers) { to.Queue = t.Queue })
	}
	for what, u := range map[string]*verda.Utilization{"cpu_utilization": t.CPU, "gpu_utilization": t.GPU} {
		shown := "off"
		if u != nil && u.Enabled {
			shown = fmt.Sprint(u.Threshold)
		}
		trigger(what, shown, func(to *verda.Triggers) {
			if what == "cpu_utilization" {
				to.CPU = u
			} else {
				to.GPU = u
			}
		})
	}
}

// compare finds what deployments do not have in common. A model decides everything that the settings do not; without one
// more than half of the deployments do.
func compare(subjects []*subject, model *subject) {
	all := make([]map[string]facet, len(subjects))
	whats := map[string]bool{}
	for i, s := range subjects {
		all[i] = facets(s.have)
		for what := range all[i] {
			whats[what] = true
		}
	}
	var like map[string]facet
	if model != nil {
		like = facets(model.have)
		for what := range like {
			whats[what] = true
		}
	}
	for _, what := range slices.Sorted(maps.Keys(whats)) {
		t := tally(all, what)
		for i, s := range subjects {
			have, has := all[i][what]
			switch {
			case s.decided[what] || s.decided["flag "+what]:
			case model != nil && s.have.Name != model.have.Name:
				s.differ(what, have, has, like[what], "as in "+model.have.Name)
			case model == nil && t.most != nil && (!has || have.value != t.most.value):
				s.differ(what, have, has, *t.most, fmt.Sprintf("as in %d of %d deployments", t.count, len(subjects)))
			case model == nil && t.most == nil && !has:
				s.find(Finding{
					What: what, Why: "which " + strings.Join(t.who(subjects, all), ", ") + " has; nobody decides",
					Remedy: "Name the deployment that is right: comfyume backend verda drift --like NAME",
				}, nil)
			case model == nil && t.most == nil && len(t.values) > 1 && strings.HasPrefix(what, "image tag"):
				s.find(Finding{
					What: what, Have: have.shown, Why: "others differ; nobody decides",
					Remedy: "Name the deployment that is right: comfyume backend verda drift --like NAME",
				}, nil)
			}
		}
	}
}

// differ notes that a deployment has something else than it should.
func (s *subject) differ(what string, have facet, has bool, want facet, why string) {
	if has && want.what != "" && have.value == want.value || !has && want.what == "" {
		return
	}
	f := Finding{What: what, Have: have.shown, Want: want.shown, Why: why}
	if has && have.shown == "" {
		f.Have = "(empty)"
	}
	if want.what == "" { // the model lacks it: taking things away is left to people
		f.Why += ", which lacks it"
		s.find(f, nil)
		return
	}
	s.find(f, want.put)
}

// count is how often each value of a facet is there.
type count struct {
	what   string
	values map[string]int
	most   *facet // what more than half of the deployments have; nil: nothing is
	count  int    // of these
}

func tally(all []map[string]facet, what string) count {
	t := count{what: what, values: map[string]int{}}
	for _, facets := range all {
		f, has := facets[what]
		if !has {
			continue
		}
		t.values[f.value]++
		if n := t.values[f.value]; 2*n > len(all) && len(all) > 1 {
			t.most, t.count = &f, n
		}
	}
	return t
}

// who names the deployments that have a facet.
func (t count) who(subjects []*subject, all []map[string]facet) (names []string) {
	for i, s := range subjects {
		if _, has := all[i][t.what]; has {
			names = append(names, s.have.Name)
		}
	}
	return names
}
