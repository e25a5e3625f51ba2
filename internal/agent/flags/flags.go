// Package flags knows ComfyUI's own command line: every flag with its kind of value, which of them exclude each other,
// and what is wrong with a choice of them, told before ComfyUI is started. Source of the facts: comfy/cli_args.py,
// comfy/model_management.py and main.py of ComfyUI 0.3.64. What another version has or lacks is read from its own
// cli_args.py.
package flags

import (
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Kind is what a flag's value is.
type Kind uint8

// The kinds.
const (
	Switch Kind = iota // there or not
	Text
	Number // with a fraction
	Whole
	Choice
	Folder
	File
)

// Flag is one flag of ComfyUI.
type Flag struct {
	Name    string // as ComfyUI writes it, without the dashes
	Kind    Kind
	Choices []string // of a Choice, in ComfyUI's spelling
	Bare    bool     // the value may be left out, which means something of its own
	Many    bool     // takes several values
	Group   string   // of those in one group only one may be given; empty: none
	Low     float64  // smallest Number or Whole
	High    float64  // largest; 0: as large as one likes
	Doc     string   // one sentence
	Section string   // heading in the help
	Refused string   // why the agent does not take it; empty: it does
}

// Value returns what stands for the flag's value in help.
func (f Flag) Value() string {
	switch f.Kind {
	case Number, Whole:
		return "N"
	case Choice:
		return strings.Join(f.Choices, "|")
	case Folder:
		return "DIR"
	case File:
		return "FILE"
	default:
		return "TEXT"
	}
}

// All returns every flag, in the order of the help.
func All() []Flag {
	return slices.Concat(serverFlags, logFlags, folderFlags, memoryFlags, precisionFlags, speedFlags, otherFlags)
}

// Names returns the names of all flags.
func Names() []string {
	all := All()
	names := make([]string, len(all))
	for i, f := range all {
		names[i] = f.Name
	}
	return names
}

// Lookup returns the flag called name.
func Lookup(name string) (Flag, bool) {
	for _, f := range All() {
		if f.Name == name {
			return f, true
		}
	}
	return Flag{}, false
}

// Set is a choice of flags with their values. The zero value is empty and ready. It is not safe for concurrent use.
type Set struct {
	chosen map[string][]string
	Extra  []string // arguments that are passed on as they are
}

// Has reports whether the flag was chosen.
func (s *Set) Has(name string) bool {
	_, ok := s.chosen[name]
	return ok
}

// Get returns the first value of a flag; "" when it was not chosen, or without a value.
func (s *Set) Get(name string) string {
	if v := s.chosen[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// Values returns all values of a flag.
func (s *Set) Values(name string) []string { return s.chosen[name] }

// Clear takes a flag out of the choice.
func (s *Set) Clear(name string) { delete(s.chosen, name) }

// Put chooses a flag in place of what was chosen of it before. Without values a Switch is on, and a flag that may stand
// bare means what it means bare. Values are checked and brought into ComfyUI's spelling.
func (s *Set) Put(name string, values ...string) error {
	f, ok := Lookup(name)
	if !ok {
		return fmt.Errorf("ComfyUI has no flag --%s%s", name, Meant(name, Names()))
	}
	if len(values) == 0 && f.Kind != Switch && !f.Bare {
		return fmt.Errorf("needs a value: %s", f.Value())
	}
	if len(values) > 1 && !f.Many {
		return fmt.Errorf("takes one value, not %d", len(values))
	}
	kept := make([]string, 0, len(values))
	for _, text := range values {
		v, err := f.read(text)
		if err != nil {
			return err
		}
		kept = append(kept, v)
	}
	if f.Kind == Switch && len(kept) > 0 {
		if kept[0] == "false" {
			s.Clear(name)
			return nil
		}
		kept = nil
	}
	if s.chosen == nil {
		s.chosen = map[string][]string{}
	}
	s.chosen[name] = kept
	return nil
}

// read checks one value. An error's text says what is expected.
func (f Flag) read(text string) (string, error) {
	switch f.Kind {
	case Switch:
		switch strings.ToLower(text) {
		case "true", "yes", "on", "1":
			return "true", nil
		case "false", "no", "off", "0":
			return "false", nil
		}
		return "", fmt.Errorf("%q is neither true nor false", text)
	case Number, Whole:
		n, err := strconv.ParseFloat(text, 64)
		if err != nil || math.IsNaN(n) || math.IsInf(n, 0) {
			return "", fmt.Errorf("%q is not a number", text)
		}
		if f.Kind == Whole && n != math.Trunc(n) {
			return "", fmt.Errorf("%q is not a whole number", text)
		}
		if n < f.Low || f.High != 0 && n > f.High {
			return "", fmt.Errorf("%s is out of range: %s", text, f.rangeText())
		}
		return strconv.FormatFloat(n, 'f', -1, 64), nil
	case Choice:
		for _, c := range f.Choices {
			if strings.EqualFold(c, text) {
				return c, nil
			}
		}
		return "", fmt.Errorf("%q is none of %s%s", text, strings.Join(f.Choices, ", "), Meant(text, f.Choices))
	default:
		if text == "" {
			return "", fmt.Errorf("is empty: it needs %s", f.Value())
		}
		if strings.ContainsAny(text, "\x00\n\r") {
			return "", fmt.Errorf("%q has a line break", text)
		}
		return text, nil
	}
}

func (f Flag) rangeText() string {
	if f.High == 0 {
		return fmt.Sprintf("at least %v", f.Low)
	}
	return fmt.Sprintf("%v to %v", f.Low, f.High)
}

// Args returns the command line: flags in the order of All, Extra, and last those that take any number of values.
func (s *Set) Args() []string {
	var args, many []string
	for _, f := range All() {
		values, ok := s.chosen[f.Name]
		switch {
		case !ok:
		case f.Many: // it would take what follows for its values, so it comes last
			many = append(append(many, "--"+f.Name), values...)
		case len(values) == 1 && strings.HasPrefix(values[0], "-"): // a value that looks like a flag
			args = append(args, "--"+f.Name+"="+values[0])
		default:
			args = append(append(args, "--"+f.Name), values...)
		}
	}
	return slices.Concat(args, s.Extra, many)
}

// Resolve makes the paths of the flags absolute. Relative ones are meant from folder.
func (s *Set) Resolve(folder string) {
	for _, f := range All() {
		if f.Kind != Folder && f.Kind != File {
			continue
		}
		for i, path := range s.chosen[f.Name] {
			if !filepath.IsAbs(path) {
				s.chosen[f.Name][i] = filepath.Join(folder, path)
			}
		}
	}
}

// Clone returns a set that can be changed by itself.
func (s *Set) Clone() Set {
	c := Set{Extra: slices.Clone(s.Extra), chosen: make(map[string][]string, len(s.chosen))}
	for name, values := range s.chosen {
		c.chosen[name] = slices.Clone(values)
	}
	return c
}
