// Package args reads a tree of commands from structs, and what somebody typed into it. A field with the tag cmd is a
// command, one with arg an argument of it, and any other a flag of it and of all commands below.
//
// The other tags are: name; help; placeholder, default, enum (words between commas) and env of a value; group, short,
// xor (of the flags that share its word one may be given), negatable (--no-NAME) and sep ("none": a value is not cut at
// commas) of a flag; optional and passthrough (flags too are taken as they are) of an argument; hidden and
// default:"withargs" (it is meant where no other is named) of a command; embed for a struct whose fields belong to the
// one around it.
package args

import (
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"
	"unicode"
)

// Fields are pointers to structs that are made while the program runs, for a field with the tag embed.
type Fields []any

// Help is the type of the flag that asks for help.
type Help bool

// A Decoder is a flag that reads its values itself. With a method IsBool that says so, it is shown without a value.
type Decoder interface {
	Decode(words *Words, tag reflect.StructTag) error
}

// Command is a command, or the whole program, which is the root of the tree.
type Command struct {
	Name      string
	Help      string
	Detail    string // what its method Help says
	Hidden    bool
	Parent    *Command
	Commands  []*Command
	Flags     []*Value
	Arguments []*Value

	fallback *Command // whose arguments and flags may be given without its name
	target   reflect.Value
}

// Value is a flag or an argument.
type Value struct {
	Name string
	Help string

	flag        bool
	tag         reflect.StructTag
	target      reflect.Value
	fallback    string // the default
	hasFallback bool
	optional    bool
	pass        bool // takes flags too
	enum        []string
}

// Read reads the tree of commands of the struct that root points to. Its errors are the programmer's.
func Read(root any, name, help string) (*Command, error) {
	c := &Command{Name: name, Help: help, target: reflect.ValueOf(root).Elem()}
	return c, c.read(map[string]bool{})
}

// Target returns a pointer to the command's struct.
func (c *Command) Target() any { return c.target.Addr().Interface() }

// FullPath returns the command as it is typed.
func (c *Command) FullPath() string {
	if c.Parent == nil {
		return c.Name
	}
	return c.Parent.FullPath() + " " + c.Name
}

// read reads the fields of the command's struct. Seen has the flags of the commands above.
func (c *Command) read(seen map[string]bool) error {
	if h, ok := c.Target().(interface{ Help() string }); ok {
		c.Detail = h.Help()
	}
	err := fields(c.target, func(f reflect.StructField, v reflect.Value) error {
		if has(f.Tag, "cmd") {
			return c.readCommand(f, v, seen)
		}
		return c.readValue(f, v, seen)
	})
	for _, f := range c.Flags {
		delete(seen, f.Name)
		delete(seen, f.tag.Get("short"))
	}
	if err == nil && len(c.Arguments) > 0 && len(c.Commands) > 0 {
		err = fmt.Errorf("%s has arguments and commands; it can have one of them", c.FullPath())
	}
	return err
}

func (c *Command) readCommand(f reflect.StructField, v reflect.Value, seen map[string]bool) error {
	child := &Command{Name: nameOf(f), Help: f.Tag.Get("help"), Hidden: has(f.Tag, "hidden"), Parent: c, target: v}
	c.Commands = append(c.Commands, child)
	if f.Tag.Get("default") == "withargs" {
		c.fallback = child
	}
	return child.read(seen)
}

func (c *Command) readValue(f reflect.StructField, v reflect.Value, seen map[string]bool) error {
	value := &Value{Name: nameOf(f), Help: f.Tag.Get("help"), flag: !has(f.Tag, "arg"), tag: f.Tag, target: v, pass: has(f.Tag, "passthrough")}
	value.fallback, value.hasFallback = f.Tag.Lookup("default")
	value.optional = value.flag || value.hasFallback || has(f.Tag, "optional")
	if enum, ok := f.Tag.Lookup("enum"); ok {
		value.enum = strings.Split(enum, ",")
	}
	where := c.FullPath() + " " + value.String()
	switch {
	case !known(v.Type()):
		return fmt.Errorf("%s is a %s, which cannot be read", where, v.Type())
	case value.enum != nil && v.Kind() != reflect.String:
		return fmt.Errorf("%s is a %s, which cannot have an enum", where, v.Type())
	case value.enum != nil && value.optional && !value.hasFallback:
		return fmt.Errorf("%s has an enum and no default", where)
	case value.hasFallback:
		w := &Words{left: []word{{value.fallback, attached}}}
		if err := value.decode(w, reflect.New(v.Type()).Elem()); err != nil {
			return fmt.Errorf("the default of %s cannot be read: %w", where, err)
		}
	}
	if !value.flag {
		if n := len(c.Arguments); n > 0 && (c.Arguments[n-1].several() || c.Arguments[n-1].optional && !value.optional) {
			return fmt.Errorf("%s can't stand behind %s", where, c.Arguments[n-1])
		}
		c.Arguments = append(c.Arguments, value)
		return nil
	}
	for _, name := range []string{value.Name, f.Tag.Get("short")} {
		if seen[name] && name != "" {
			return fmt.Errorf("%s is there already, as %s", where, name)
		}
		seen[name] = true
	}
	c.Flags = append(c.Flags, value)
	return nil
}

// fields calls each with the fields of a struct, and of those that are embedded in it.
func fields(v reflect.Value, each func(reflect.StructField, reflect.Value) error) error {
	for i := range v.NumField() {
		f, inner := v.Type().Field(i), v.Field(i)
		embed := f.Anonymous || has(f.Tag, "embed")
		if !embed && !f.IsExported() {
			continue
		}
		var err error
		switch {
		case embed && inner.Type() == reflect.TypeFor[Fields]():
			for _, m := range inner.Interface().(Fields) {
				err = errors.Join(err, fields(reflect.ValueOf(m).Elem(), each))
			}
		case embed:
			err = fields(inner, each)
		default:
			err = each(f, inner)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func has(tag reflect.StructTag, key string) bool {
	_, ok := tag.Lookup(key)
	return ok
}

// known says whether values of a type can be read.
func known(t reflect.Type) bool {
	switch p := reflect.PointerTo(t); {
	case p.Implements(reflect.TypeFor[Decoder]()):
		return true
	case p.Implements(reflect.TypeFor[encoding.TextUnmarshaler]()):
		return false // which would want to be asked
	case t == reflect.TypeFor[time.Duration]():
		return true
	}
	switch t.Kind() {
	case reflect.String, reflect.Bool, reflect.Int, reflect.Uint64, reflect.Float64:
		return true
	case reflect.Pointer, reflect.Slice:
		return known(t.Elem())
	}
	return t == reflect.TypeFor[map[string]string]()
}

// nameOf returns how a field is called on a command line.
func nameOf(f reflect.StructField) string {
	if name := f.Tag.Get("name"); name != "" {
		return name
	}
	return dashed(f.Name)
}

// dashed writes FailRate as fail-rate, and FLOAT64 as float-64.
func dashed(name string) string {
	var b strings.Builder
	letters := []rune(name)
	for i, r := range letters {
		if i > 0 {
			before, upper := letters[i-1], unicode.IsUpper(r)
			begins := upper && i+1 < len(letters) && unicode.IsLower(letters[i+1])
			if unicode.IsDigit(r) != unicode.IsDigit(before) || upper && (!unicode.IsUpper(before) || begins) {
				b.WriteByte('-')
			}
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// several says whether an argument takes all that is left, and a flag may be repeated.
func (v *Value) several() bool {
	return v.target.Kind() == reflect.Slice || v.target.Kind() == reflect.Map
}

// bare says whether a flag is shown without a value.
func (v *Value) bare() bool {
	if b, ok := v.target.Addr().Interface().(interface{ IsBool() bool }); ok {
		return b.IsBool()
	}
	t := v.target.Type()
	return t.Kind() == reflect.Bool || t.Kind() == reflect.Pointer && t.Elem().Kind() == reflect.Bool
}

// String returns the value as errors and the help of a command name it.
func (v *Value) String() string {
	if v.flag {
		return "--" + v.Name
	}
	text := "<" + v.Name + ">"
	if v.several() {
		text += " ..."
	}
	if v.optional {
		text = "[" + text + "]"
	}
	return text
}
