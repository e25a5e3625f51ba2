package args

import (
	"fmt"
	"go/doc/comment"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

const (
	indent = 2 // of what stands below a heading
	gap    = 4 // between columns
)

// page collects the lines of a help text.
type page struct {
	b     strings.Builder
	width int
}

func (p *page) line(text string) { p.b.WriteString(strings.TrimRight(text, " ") + "\n") }

// wrap returns a text in lines.
func wrap(text, code string, width int) []string {
	printer := comment.Printer{TextCodePrefix: code, TextWidth: width}
	return strings.Split(strings.TrimRight(string(printer.Text(new(comment.Parser).Parse(text))), "\n"), "\n")
}

// paragraph writes a text, with an empty line before it.
func (p *page) paragraph(text string) {
	p.line("")
	for _, l := range wrap(strings.TrimSpace(text), "    ", p.width) {
		p.line(l)
	}
}

// columns writes rows of two columns.
func (p *page) columns(rows [][2]string) {
	width, left := p.width-indent, 0
	most := max(375*width/1000, 30)
	for _, row := range rows {
		if n := len(row[0]); n < most {
			left = max(left, n)
		}
	}
	margin := strings.Repeat(" ", indent)
	for _, row := range rows {
		lines := wrap(row[1], "  ", width-left-gap)
		first := fmt.Sprintf("%-*s", left, row[0])
		if len(row[0]) < most {
			first += strings.Repeat(" ", gap) + lines[0]
			lines = lines[1:]
		}
		p.line(margin + first)
		for _, l := range lines {
			p.line(margin + strings.Repeat(" ", left+gap) + l)
		}
	}
}

// WriteHelp writes what people read of a command, in lines of at most width letters.
func (c *Command) WriteHelp(w io.Writer, width int) error {
	p := &page{width: width}
	p.line("Usage: " + c.usage())
	for _, text := range []string{c.Help, c.Detail} {
		if text != "" {
			p.paragraph(text)
		}
	}
	if len(c.Arguments) > 0 {
		p.paragraph("Arguments:")
		var rows [][2]string
		for _, a := range c.Arguments {
			rows = append(rows, [2]string{a.String(), a.about()})
		}
		p.columns(rows)
	}
	p.flags(c)
	if rows := c.leaves(""); len(rows) > 0 {
		p.paragraph("Commands:")
		_, path, _ := strings.Cut(c.FullPath()+" ", " ")
		for i := range rows {
			rows[i][0] = path + rows[i][0]
		}
		p.columns(rows)
	}
	_, err := io.WriteString(w, p.b.String())
	return err
}

// usage returns how the command is typed.
func (c *Command) usage() string {
	text, optional := c.FullPath(), 0
	for _, a := range c.Arguments {
		name := a.String()
		if a.optional {
			name = strings.TrimSuffix(name, "]")
			optional++
		}
		text += " " + name
	}
	text += strings.Repeat("]", optional)
	if len(c.Commands) > 0 {
		text += " <command>"
	}
	if len(c.Flags) > 0 || c.Parent != nil && len(c.Parent.Flags) > 0 {
		text += " [flags]"
	}
	return text
}

// leaves returns the commands below that do something, with their help.
func (c *Command) leaves(path string) [][2]string {
	var rows [][2]string
	for _, child := range c.Commands {
		switch {
		case child.Hidden:
		case len(child.Commands) == 0:
			rows = append(rows, [2]string{path + child.Name, child.Help})
		default:
			rows = append(rows, child.leaves(path+child.Name+" ")...)
		}
	}
	return rows
}

// flags writes the flags of a command by groups, and in each first those of the commands above.
func (p *page) flags(c *Command) {
	titles := []string{""}
	for _, f := range c.visible() {
		if group := f.tag.Get("group"); !slices.Contains(titles, group) {
			titles = append(titles, group)
		}
	}
	for _, title := range titles {
		var levels [][]*Value
		letters := false
		for at := c; at != nil; at = at.Parent {
			var level []*Value
			for _, f := range at.Flags {
				if f.tag.Get("group") == title {
					level = append(level, f)
					letters = letters || f.tag.Get("short") != ""
				}
			}
			if len(level) > 0 {
				levels = append([][]*Value{level}, levels...)
			}
		}
		var rows [][2]string
		for i, level := range levels {
			if i > 0 {
				rows = append(rows, [2]string{})
			}
			for _, f := range level {
				rows = append(rows, [2]string{f.form(letters), f.about()})
			}
		}
		if len(rows) == 0 {
			continue
		}
		if title == "" {
			title = "Flags:"
		}
		p.paragraph(title)
		p.columns(rows)
	}
}

// about returns the help of a value, with its variable of the environment.
func (v *Value) about() string {
	env := v.tag.Get("env")
	if env == "" {
		return v.Help
	}
	text, full := strings.CutSuffix(v.Help, ".")
	if text += " ($" + env + ")"; full {
		text += "."
	}
	return strings.TrimSpace(text)
}

// form returns how a flag is typed; letters says whether some flag of its group has a short form.
func (v *Value) form(letters bool) string {
	name := "--" + v.Name
	if has(v.tag, "negatable") {
		name = "--[no-]" + v.Name
	}
	switch letter := v.tag.Get("short"); {
	case letter != "":
		name = "-" + letter + ", " + name
	case letters:
		name = "    " + name
	}
	if v.bare() {
		return name
	}
	return name + "=" + v.placeholder()
}

// placeholder returns what stands for the value of a flag.
func (v *Value) placeholder() string {
	more := v.separator()
	if more != "" {
		more += "..."
	}
	switch t := v.target.Type(); {
	case v.tag.Get("placeholder") != "":
		if t.Kind() == reflect.Map {
			more = ""
		}
		return v.tag.Get("placeholder") + more
	case v.hasFallback && t.Kind() == reflect.String:
		return strconv.Quote(v.fallback)
	case v.hasFallback:
		return v.fallback + more
	case t.Kind() == reflect.Map:
		return "KEY=VALUE" + more
	case t.Name() != "":
		return strings.ToUpper(dashed(t.Name()))
	}
	return strings.ToUpper(v.Name) + more
}
