package args

import (
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"github.com/ahelme/comfyume/internal/near"
)

// ErrHelp says that help was asked for.
var ErrHelp = errors.New("help was asked for")

// parser reads the words of one command line.
type parser struct {
	words  Words
	path   []*Command // the commands that were named, from the root on
	values map[*Value]reflect.Value
	set    map[*Value]bool // has a value, from wherever
}

// Parse reads what was typed into the structs of the tree, and returns the command that it names, as far as it was read.
// Variables of the environment are looked up by env.
func (c *Command) Parse(typed []string, env func(string) (string, bool)) (*Command, error) {
	p := &parser{path: []*Command{c}, values: map[*Value]reflect.Value{}, set: map[*Value]bool{}}
	for _, text := range typed {
		p.words.left = append(p.words.left, word{text, untold})
	}
	err := p.walk(c)
	at := p.path[len(p.path)-1]
	if err != nil {
		return at, err
	}
	for v := range p.values {
		if v.target.Type() == reflect.TypeFor[Help]() {
			return at, ErrHelp
		}
	}
	c.reset()
	for _, on := range p.path {
		if err := p.fallBack(on, env); err != nil {
			return at, err
		}
	}
	for v, read := range p.values {
		v.target.Set(read)
	}
	return at, p.check(at)
}

// reset makes all values what they are without a word.
func (c *Command) reset() {
	for _, list := range [][]*Value{c.Flags, c.Arguments} {
		for _, v := range list {
			v.target.SetZero()
			if v.hasFallback { // it was read before
				_ = v.decode(&Words{left: []word{{v.fallback, attached}}}, v.target)
			}
		}
	}
	for _, child := range c.Commands {
		child.reset()
	}
}

// fallBack gives values of a command what the environment or their default says.
func (p *parser) fallBack(c *Command, env func(string) (string, bool)) error {
	for _, list := range [][]*Value{c.Flags, c.Arguments} {
		for _, v := range list {
			p.set[v] = p.set[v] || v.hasFallback
			name := v.tag.Get("env")
			text, ok := "", false
			if name != "" {
				text, ok = env(name)
			}
			if !ok {
				continue
			}
			v.target.SetZero()
			if err := v.decode(&Words{left: []word{{text, attached}}}, v.target); err != nil {
				return fmt.Errorf("%s: %w (from envar %s=%q)", v, err, name, text)
			}
			p.set[v] = true
		}
	}
	return nil
}

// visible returns the flags that may be given for a command: its own and those of the commands above.
func (c *Command) visible() []*Value {
	var all []*Value
	for at := c; at != nil; at = at.Parent {
		all = append(at.Flags[:len(at.Flags):len(at.Flags)], all...)
	}
	return all
}

// walk reads words as arguments and flags of a command, or of one below it.
func (p *parser) walk(c *Command) error {
	flags, left := c.visible(), c.Arguments
	if c.fallback != nil {
		flags = c.fallback.visible()
	}
	for {
		switch w := p.words.peek(); w.kind {
		case end:
			if c.fallback != nil {
				p.path = append(p.path, c.fallback)
			}
			return nil
		case untold:
			p.tell(w, len(left) > 0 && left[0].pass)
		case tail:
			p.words.put(shortWords(w.text)...)
		case long, short:
			err := p.flag(flags, w)
			if unknown := (*unknownError)(nil); errors.As(err, &unknown) && len(left) > 0 && left[0].pass {
				p.words.put(word{w.String(), plain})
				err = nil
			}
			if err != nil {
				return err
			}
		case attached:
			return fmt.Errorf("unexpected flag argument %q", w.text)
		default:
			if len(left) == 0 {
				return p.command(c, w)
			}
			if left[0].pass {
				p.words.allPlain()
			}
			if err := p.read(left[0]); err != nil {
				return err
			}
			left = left[1:]
		}
	}
}

// tell finds out what the first word is.
func (p *parser) tell(w word, pass bool) {
	name, value, hasValue := strings.Cut(strings.TrimPrefix(w.text, "--"), "=")
	switch w.looks() {
	case short:
		p.words.put(shortWords(w.text[1:])...)
	case long:
		switch {
		case w.text == "--":
			p.words.allPlain()
			if !pass {
				p.words.pop()
			}
		case hasValue:
			p.words.put(word{name, long}, word{value, attached})
		default:
			p.words.put(word{name, long})
		}
	default:
		p.words.put(word{w.text, plain})
	}
}

// shortWords takes the first letter off.
func shortWords(letters string) []word {
	words := []word{{letters[:1], short}}
	if len(letters) > 1 {
		words = append(words, word{letters[1:], tail})
	}
	return words
}

// command goes on with the command that a word names.
func (p *parser) command(c *Command, w word) error {
	var names []string
	for _, child := range c.Commands {
		if !child.Hidden {
			names = append(names, child.Name)
		}
		if child.Name != w.text {
			continue
		}
		if c.fallback != nil && c.fallback != child {
			for _, f := range c.fallback.Flags {
				if _, given := p.values[f]; given {
					return fmt.Errorf("flag %s applies to the default command %q, not %q", f, c.fallback.Name, child.Name)
				}
			}
		}
		p.words.pop()
		p.path = append(p.path, child)
		return p.walk(child)
	}
	if c.fallback != nil {
		p.path = append(p.path, c.fallback)
		return p.walk(c.fallback)
	}
	return errors.New("unexpected argument " + w.text + meant(w.text, names))
}

// read reads an occurrence of a value.
func (p *parser) read(v *Value) error {
	to, ok := p.values[v]
	if !ok {
		to = reflect.New(v.target.Type()).Elem()
		if to.Kind() == reflect.Slice {
			to.Set(reflect.MakeSlice(to.Type(), 0, 0))
		}
		p.values[v] = to
	}
	if err := v.decode(&p.words, to); err != nil {
		return fmt.Errorf("%s: %w", v, err)
	}
	p.set[v] = true
	return nil
}

// unknownError says that there is no such flag.
type unknownError struct{ text string }

// Error says which flag, and what may have been meant.
func (e *unknownError) Error() string { return e.text }

// flag reads a flag.
func (p *parser) flag(flags []*Value, w word) error {
	var names []string
	typed := w.String()
	for _, f := range flags {
		names = append(names, f.String())
		letter, negated := f.tag.Get("short"), has(f.tag, "negatable") && typed == "--no-"+f.Name
		if letter != "" {
			names = append(names, "-"+letter)
		}
		if typed != f.String() && (letter == "" || typed != "-"+letter) && !negated {
			continue
		}
		p.words.pop()
		if negated {
			if err := p.negate(); err != nil {
				return err
			}
		}
		err := p.read(f)
		if wrong := (*notValueError)(nil); errors.As(err, &wrong) && wrong.got.isFlag() {
			return fmt.Errorf("%w; perhaps try %s=%q?", err, f, wrong.got)
		}
		return err
	}
	return &unknownError{"unknown flag " + typed + meant(typed, names)}
}

// negate puts the opposite of what was said for --no-NAME.
func (p *parser) negate() error {
	no := true
	if text, given := p.words.Attached(); given {
		var err error
		if no, err = parseBool(text); err != nil {
			return err
		}
	}
	p.words.left = append([]word{{strconv.FormatBool(!no), attached}}, p.words.left...)
	return nil
}

// check finds what is wrong with the whole.
func (p *parser) check(at *Command) error {
	for _, c := range p.path {
		for _, list := range [][]*Value{c.Flags, c.Arguments} {
			for _, v := range list {
				if v.enum == nil || !v.optional && !p.set[v] {
					continue
				}
				if err := v.allowed(); err != nil {
					return err
				}
			}
		}
	}
	if err := p.missing(at); err != nil {
		return err
	}
	for _, c := range p.path {
		first := map[string]*Value{}
		for _, f := range c.Flags {
			group := f.tag.Get("xor")
			if group == "" || !p.set[f] {
				continue
			}
			if first[group] != nil {
				return fmt.Errorf("%s and %s can't be used together", first[group], f)
			}
			first[group] = f
		}
	}
	return nil
}

// missing finds arguments or commands that ought to follow.
func (p *parser) missing(at *Command) error {
	var arguments, all []string
	for _, v := range at.Arguments {
		if !v.optional && !p.set[v] {
			arguments = append(arguments, v.String())
		}
	}
	if len(arguments) > 0 {
		all = append(all, strconv.Quote(strings.Join(arguments, " ")))
	}
	for _, child := range at.Commands {
		if !child.Hidden {
			all = append(all, strconv.Quote(child.Name))
		}
	}
	switch {
	case len(all) == 0:
		return nil
	case len(all) == 1:
		return errors.New("expected " + all[0])
	case len(all) > 5:
		all = append(all[:5], "...")
	}
	return errors.New("expected one of " + strings.Join(all, ", "))
}

// meant asks whether a candidate was meant, or returns "".
func meant(typed string, candidates []string) string {
	var found []string
	for _, c := range candidates {
		if strings.HasPrefix(c, typed) || near.Distance(c, typed) <= 2 {
			found = append(found, strconv.Quote(c))
		}
	}
	switch len(found) {
	case 0:
		return ""
	case 1:
		return ", did you mean " + found[0] + "?"
	}
	return ", did you mean one of " + strings.Join(found, ", ") + "?"
}
