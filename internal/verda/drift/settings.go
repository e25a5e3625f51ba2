package drift

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/ahelme/comfyume/internal/verda"
)

// settings finds what a deployment lacks of what the studio's settings ask for. others may have what it lacks.
func (s *subject) settings(others []*subject) {
	if len(s.have.Containers) == 0 {
		s.find(Finding{What: "containers", Why: "settings: back end " + s.BackEnd}, nil)
		return
	}
	main := s.have.Containers[0]
	if s.Folder != "" {
		s.mounted(others)
	}
	if s.Mode == "plain" {
		s.output(commandOf(main))
	} else {
		s.key(main, others)
	}
	for i, c := range s.have.Containers {
		s.clear(i, c)
	}
	if s.have.Scaling != nil {
		s.scaling()
	}
}

// output finds a plain ComfyUI that does not write to the folder that the studio reads.
func (s *subject) output(c command) {
	want := flag{"--output-directory", []string{s.Folder}}
	if c.agent() {
		want.name = "--comfyui-output-directory"
	}
	s.decided["flag "+want.name] = true
	f := Finding{What: want.name, Want: s.Folder, Why: "settings: storage of " + s.BackEnd}
	if !c.known {
		f.Remedy = "The image says what is started: see that it has this flag, or name the command under entrypoint_overrides."
		f.Have = "unknown"
		s.find(f, nil)
		return
	}
	have, ok := c.flag("--output-directory", "--comfyui-output-directory")
	if ok && path.Clean(have.value()) == path.Clean(s.Folder) {
		return
	}
	if ok {
		f.Have, want.name = have.shown(), have.name
	}
	s.find(f, func(d *verda.Deployment) bool { return setFlag(&d.Containers[0], want) })
}

// mounted finds a folder for outputs that is on the container's own disk.
func (s *subject) mounted(others []*subject) {
	covers := func(m verda.Mount) bool {
		root := strings.TrimSuffix(path.Clean(m.Path), "/")
		return m.Type == "shared" && (s.Folder == root || strings.HasPrefix(s.Folder, root+"/"))
	}
	if slices.ContainsFunc(s.have.Containers[0].Mounts, covers) {
		return
	}
	f := Finding{
		What: "a shared mount for", Want: s.Folder, Why: "settings: storage of " + s.BackEnd,
		Remedy: "Mount the shared file system there at Verda; without it outputs stay on the container's own disk and are lost.",
	}
	for _, o := range others {
		if len(o.have.Containers) == 0 {
			continue
		}
		if i := slices.IndexFunc(o.have.Containers[0].Mounts, covers); i >= 0 {
			m := o.have.Containers[0].Mounts[i]
			s.decided["mount "+m.Path] = true
			s.find(f, func(d *verda.Deployment) bool { return setMount(&d.Containers[0], m) })
			return
		}
	}
	s.find(f, nil)
}

// key finds an agent that anybody could give work to.
func (s *subject) key(main verda.Container, others []*subject) {
	c := commandOf(main)
	why := "settings: mode " + s.Mode + " of " + s.BackEnd
	if !c.known || !c.agent() && !strings.Contains(c.program, "main.py") {
		return // the image, or a script in it, says what is started
	}
	if !c.agent() {
		s.find(Finding{
			What: "program", Have: strings.Join(verda.ShownArgs(strings.Fields(c.program)), " "), Want: "comfyume agent", Why: why,
			Remedy: "Start comfyume agent --listen in the container; see deploy/verda.",
		}, nil)
		return
	}
	const usual = "COMFYUME_AGENT_KEY"
	name := usual
	f, ok := c.flag("--key")
	if ok {
		ref, isEnv := strings.CutPrefix(f.value(), "env:")
		if !isEnv {
			return // a file, which a mount may bring; in clear is found elsewhere
		}
		name = ref
	} else {
		want := flag{"--key", []string{"env:" + usual}}
		s.decided["flag --key"] = true
		s.find(Finding{What: "--key", Want: want.value(), Why: why}, func(d *verda.Deployment) bool { return setFlag(&d.Containers[0], want) })
	}
	if slices.ContainsFunc(main.Env, func(v verda.Variable) bool { return v.Name == name }) {
		return
	}
	finding := Finding{
		What: "variable " + name, Why: why,
		Remedy: "Make a secret with the back end's key at Verda, and refer to it: comfyume backend verda env " + s.have.Name + " --secret " + name + "=SECRET",
	}
	for _, o := range others {
		if len(o.have.Containers) == 0 {
			continue
		}
		for _, v := range o.have.Containers[0].Env {
			if v.Name == name && v.Type == verda.Reference && o.have.Name != s.have.Name {
				s.decided["variable "+name] = true
				finding.Want = v.Shown()
				s.find(finding, func(d *verda.Deployment) bool { setVariable(&d.Containers[0], v); return true })
				return
			}
		}
	}
	s.find(finding, nil)
}

// clear finds secrets in clear.
func (s *subject) clear(i int, c verda.Container) {
	for _, v := range c.Env {
		if v.InClear() {
			s.find(Finding{
				What: fmt.Sprintf("variable %s in clear%s", v.Name, nth(i)), Have: v.Shown(), Want: "a secret", Why: "settings: secrets by reference",
				Remedy: "Make a secret of it at Verda, and refer to it: comfyume backend verda env " + s.have.Name + " --secret " + v.Name + "=SECRET",
			}, nil)
		}
	}
	if e := c.Entrypoint; e != nil {
		all := slices.Concat(e.Entrypoint, e.Cmd)
		if line, ok := commandLine(all); ok {
			all = line
		}
		if shown := verda.ShownArgs(all); !slices.Equal(shown, all) {
			s.find(Finding{
				What: "command with a secret in clear" + nth(i), Have: strings.Join(shown, " "), Want: "env:NAME", Why: "settings: secrets by reference",
				Remedy: "Make a secret of it at Verda, give it to the container as a variable, and name that: --key env:NAME.",
			}, nil)
		}
	}
}

func commandLine(words []string) ([]string, bool) {
	if len(words) == 0 {
		return nil, false
	}
	line, ok := shellLine(words)
	return fields(line), ok
}

// nth says which container is meant, where there are several.
func nth(i int) string {
	if i == 0 {
		return ""
	}
	return fmt.Sprintf(" of container %d", i+1)
}

// scaling finds settings of the provider under which the studio's work would wait or cost for nothing.
func (s *subject) scaling() {
	have := s.have.Scaling
	if s.Mode != "plain" && have.Concurrent != 1 { // a ComfyUI runs one job at a time; a second one would wait inside
		s.decided["scaling concurrent_requests_per_replica"] = true
		s.find(Finding{
			What: "scaling concurrent_requests_per_replica", Have: strconv.Itoa(have.Concurrent), Want: "1", Why: "settings: mode " + s.Mode + " of " + s.BackEnd,
		}, func(d *verda.Deployment) bool { d.Scaling.Concurrent = 1; return true })
	}
	if have.Max < s.Parallel {
		s.decided["scaling max_replica_count"] = true
		s.find(Finding{
			What: "scaling max_replica_count", Have: strconv.Itoa(have.Max), Want: strconv.Itoa(s.Parallel), Why: "settings: max_parallel of " + s.BackEnd,
		}, func(d *verda.Deployment) bool { d.Scaling.Max = s.Parallel; return true })
	}
	switch f := (Finding{What: "scaling min_replica_count", Have: strconv.Itoa(have.Min), Want: strconv.Itoa(s.Least)}); {
	case have.Min > s.Least:
		f.Why = "settings: outside every plan under warm of " + s.BackEnd
		if extra := float64(have.Min-s.Least) * s.Price; extra > 0 {
			f.Why += fmt.Sprintf(", which costs %.2f per hour", extra)
		}
		s.find(f, func(d *verda.Deployment) bool { d.Scaling.Min = s.Least; return true })
	case have.Min < s.Least: // who raises it has to write that down first
		f.Why = "settings: warm of " + s.BackEnd
		f.Remedy = "The studio raises it while it runs, and takes it back; see what comfyume status says about it."
		s.find(f, nil)
	}
}

// setMount gives a container a mount, in place of one at the same path.
func setMount(c *verda.Container, m verda.Mount) bool {
	c.Mounts = slices.DeleteFunc(c.Mounts, func(have verda.Mount) bool { return have.Path == m.Path })
	c.Mounts = append(c.Mounts, m)
	return true
}

// setVariable gives a container a variable, in place of one of the same name.
func setVariable(c *verda.Container, v verda.Variable) {
	if i := slices.IndexFunc(c.Env, func(have verda.Variable) bool { return have.Name == v.Name }); i >= 0 {
		c.Env[i] = v
		return
	}
	c.Env = append(c.Env, v)
}
