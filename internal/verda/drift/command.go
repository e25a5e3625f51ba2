package drift

import (
	"slices"
	"strings"

	"github.com/ahelme/comfyume/internal/verda"
)

// command is what a container starts, as far as its deployment says it.
type command struct {
	known   bool   // the deployment says it; else the image does
	program string // the words before the first flag
	flags   []flag // in their order
	shell   bool   // it is a line for a shell
	plain   bool   // of a shell's line: one command, to which a flag can be added
}

// flag is a flag with the words behind it.
type flag struct {
	name   string // --output-directory
	values []string
}

func (f flag) value() string { return strings.Join(f.values, " ") }

// shown is the value as it may be shown.
func (f flag) shown() string {
	shown := verda.ShownArgs(append([]string{f.name}, f.values...))
	return strings.Join(shown[1:], " ")
}

// commandOf reads what a container starts.
func commandOf(c verda.Container) command {
	e := c.Entrypoint
	if e == nil || !e.Enabled || len(e.Entrypoint)+len(e.Cmd) == 0 {
		return command{}
	}
	words := slices.Concat(e.Entrypoint, e.Cmd)
	out := command{known: true}
	if line, ok := shellLine(words); ok {
		out.shell, out.plain = true, !strings.ContainsAny(line, ";&|<>`\n$()")
		words = fields(line)
	}
	var program []string
	for _, w := range words {
		switch name, value, joined := strings.Cut(w, "="); {
		case strings.HasPrefix(w, "--") && joined:
			out.flags = append(out.flags, flag{name, []string{value}})
		case strings.HasPrefix(w, "--"):
			out.flags = append(out.flags, flag{name: w})
		case len(out.flags) == 0:
			program = append(program, w)
		default:
			last := &out.flags[len(out.flags)-1]
			last.values = append(last.values, w)
		}
	}
	out.program = strings.Join(program, " ")
	return out
}

// flag returns the last of the flags with one of these names: it is the one that counts.
func (c command) flag(names ...string) (flag, bool) {
	for _, f := range slices.Backward(c.flags) {
		if slices.Contains(names, f.name) {
			return f, true
		}
	}
	return flag{}, false
}

// agent reports whether the program is comfyume's agent.
func (c command) agent() bool {
	return strings.Contains(c.program, "comfyume") && slices.Contains(strings.Fields(c.program), "agent")
}

// shellLine returns the line of a shell that is called with one: sh -c LINE.
func shellLine(words []string) (string, bool) {
	for i, w := range words[:len(words)-1] {
		shell := strings.HasSuffix(words[0], "sh")
		if shell && strings.HasPrefix(w, "-") && !strings.HasPrefix(w, "--") && strings.HasSuffix(w, "c") {
			return strings.Join(words[i+1:], " "), true
		}
	}
	return "", false
}

// fields parts a line as a shell does, without expanding anything.
func fields(line string) []string {
	var out []string
	var word strings.Builder
	var quote rune
	inside := false
	for _, r := range line {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, inside = r, true
		case r == ' ' || r == '\t' || r == '\n':
			if inside {
				out = append(out, word.String())
				word.Reset()
			}
			inside = false
		default:
			word.WriteRune(r)
			inside = true
		}
	}
	if inside {
		out = append(out, word.String())
	}
	return out
}

// setFlag gives a container's command a flag, in place of one of the same name. It is false where that can't be done
// without guessing: the image says what is started, or a shell's line is more than one command.
func setFlag(c *verda.Container, f flag) bool {
	have := commandOf(*c)
	if !have.known {
		return false
	}
	e := c.Entrypoint
	if have.shell {
		if _, there := have.flag(f.name); there || !have.plain {
			return false
		}
		list := &e.Cmd
		if len(*list) == 0 {
			list = &e.Entrypoint
		}
		for _, w := range append([]string{f.name}, f.values...) {
			(*list)[len(*list)-1] += " '" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
		return true
	}
	for _, list := range []*[]string{&e.Entrypoint, &e.Cmd} {
		*list = without(*list, f.name)
	}
	e.Cmd = append(append(e.Cmd, f.name), f.values...)
	return true
}

// without returns words without a flag and what stands behind it.
func without(words []string, name string) []string {
	var out []string
	skip := false
	for _, w := range words {
		if strings.HasPrefix(w, "--") {
			skip = w == name || strings.HasPrefix(w, name+"=")
		}
		if !skip {
			out = append(out, w)
		}
	}
	return out
}
