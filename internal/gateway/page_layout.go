package gateway

import (
	"fmt"
	"io"
	"net/url"

	dom "maragu.dev/gomponents"
	"maragu.dev/gomponents/html"
)

// view is what every page is made of.
type view struct {
	Title    string // of the studio
	Heading  string
	Base     string // what stands before our paths
	Insecure bool
	Style    string
	Script   string
	Page     any
}

// Drawings of the door. Only constants of ours are written without being escaped.
const (
	tabIcon = `data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'%3E%3Crect width='32' height='32' rx='8' fill='%237057e8'/%3E%3Cpath d='M9 10.5c9 0 5 11 14 11' fill='none' stroke='%23fff' stroke-width='3' stroke-linecap='round'/%3E%3Ccircle cx='8.5' cy='10.5' r='3.4' fill='%23ffc44d'/%3E%3Ccircle cx='23.5' cy='21.5' r='3.4' fill='%2367d3f5'/%3E%3C/svg%3E`

	logo = `<svg class="logo" viewBox="0 0 32 32" aria-hidden="true"><rect width="32" height="32" rx="9" class="logo-ground"/><path d="M9 10.5c9 0 5 11 14 11" class="logo-cable"/><circle cx="8.8" cy="10.5" r="3.3" class="logo-a"/><circle cx="23.2" cy="21.5" r="3.3" class="logo-b"/></svg>`

	cables = `<svg class="cable in" viewBox="0 0 600 420" preserveAspectRatio="none" aria-hidden="true"><path class="c1" d="M0 0C320 0 300 104 600 104"/><path class="c2" d="M0 330C240 330 330 155.5 600 155.5"/></svg>
<svg class="cable out" viewBox="0 0 600 420" preserveAspectRatio="none" aria-hidden="true"><path class="c3" d="M0 163.5C300 163.5 260 370 600 370"/><path class="c4" d="M0 163.5C280 163.5 330 40 600 40"/></svg>
<i class="socket one" aria-hidden="true"></i><i class="socket two" aria-hidden="true"></i><i class="socket three" aria-hidden="true"></i>`
)

// document is the whole page of a name.
func document(name string, v view) dom.Node {
	switch p := v.Page.(type) {
	case mePage:
		return v.document("me", p.bar(v), p.content(v))
	case interface{ content(view) dom.Node }:
		if name == "signedout" {
			return v.door(signedOut(v))
		}
		return v.door(p.content(v))
	}
	return dom.NodeFunc(func(io.Writer) error { return fmt.Errorf("no page is called %q", name) })
}

// lines puts every node on a line of its own. Browsers show the space between two buttons that are not in a row, so
// that it matters where lines end.
func lines(nodes ...dom.Node) dom.Group {
	var all dom.Group
	for _, n := range nodes {
		if n != nil {
			all = append(all, n, dom.Text("\n"))
		}
	}
	return all
}

// document is the page around a body.
func (v view) document(class string, body ...dom.Node) dom.Node {
	return html.Doctype(lines(html.HTML(html.Lang("en"),
		html.Head(lines(
			html.Meta(html.Charset("utf-8")),
			html.Meta(html.Name("viewport"), html.Content("width=device-width, initial-scale=1")),
			html.Meta(html.Name("color-scheme"), html.Content("light dark")),
			html.TitleEl(dom.Text(v.Heading+" · "+v.Title)),
			html.Link(html.Rel("icon"), html.Href(tabIcon)),
			html.StyleEl(dom.Raw(v.Style)),
		)),
		html.Body(html.Class(class), lines(body...)),
	)))
}

// door is a page with one box, which cables lead to.
func (v view) door(content dom.Node) dom.Node {
	return v.document("door", html.Main(lines(
		html.P(html.Class("brand"), dom.Raw(logo), html.Span(dom.Text(v.Title))),
		html.Section(html.Class("node"), html.Aria("labelledby", "heading"), lines(
			dom.Raw(cables),
			html.Header(html.I(html.Aria("hidden", "true")), html.H1(html.ID("heading"), dom.Text(v.Heading))),
			html.Div(html.Class("inside"), content),
		)),
		v.foot(),
	)))
}

func (v view) foot() dom.Node {
	return html.Footer(lines(
		dom.If(v.Insecure, html.P(html.Class("open-net"), dom.Text("This studio runs without encryption: others on this network could read along."))),
		html.P(dom.Text("ComfyuME · the official ComfyUI editor, shared")),
	))
}

// shown is why a form was not taken.
func (p *problem) shown() dom.Node {
	if p == nil {
		return nil
	}
	return html.Div(html.Class("problem"), html.Role("alert"), html.Strong(dom.Text(p.Sentence)),
		dom.If(p.Remedy != "", dom.Text(" "+p.Remedy)))
}

// href links to a path of the door.
func (v view) href(path string) dom.Node { return html.Href(webAddress(v.Base + path)) }

// action sends a form to a path of the door.
func (v view) action(path string) dom.Node { return html.Action(webAddress(v.Base + path)) }

// button is a link that looks like a button; what leads on is drawn stronger.
func (v view) button(path, words string) dom.Node {
	return html.A(html.Class("button"), v.href(path), dom.Text(words))
}

func (v view) primary(path, words string) dom.Node {
	return html.A(html.Class("button primary"), v.href(path), dom.Text(words))
}

// webAddress returns an address a page may lead to: one of the web, or one that is relative to the page. What could
// run in the page leads nowhere.
func webAddress(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "" && u.Scheme != "http" && u.Scheme != "https" {
		return "#"
	}
	return address
}

// nameField is what every input for a person's name has.
func nameField(most string) dom.Group {
	return dom.Group{html.Name("name"), html.AutoComplete("username"), asTyped("none"), html.MaxLength(most), html.Required()}
}

// asTyped keeps browsers from changing what is typed, but for capitals.
func asTyped(capitals string) dom.Group {
	return dom.Group{dom.Attr("autocapitalize", capitals), dom.Attr("autocorrect", "off"), dom.Attr("spellcheck", "false")}
}

// codeField is an input for a class code.
func codeField(more ...dom.Node) dom.Node {
	return html.Input(html.Class("code"), html.Name("code"), html.Placeholder("ABCD-EFGH"), html.AutoComplete("off"),
		asTyped("characters"), html.MaxLength("20"), html.Required(), dom.Group(more))
}
