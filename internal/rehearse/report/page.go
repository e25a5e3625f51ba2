package report

import (
	_ "embed"
	"fmt"
	"io"
	"strings"

	dom "maragu.dev/gomponents"
	"maragu.dev/gomponents/html"

	"github.com/ahelme/comfyume/internal/rehearse"
)

var (
	//go:embed page.css
	pageStyle string
	//go:embed picture.css
	pictureStyle string
	//go:embed words.html
	words string
)

const (
	title = "The schedule, rehearsed"

	lead = `<p class="lead">The studio's own queue and schedule, with classes that press Run in virtual time. Each class happens once in every mode; people press Run with the same graphs in all of them.</p>
<p class="note"><strong>Simulated.</strong> People and GPUs are made up. What decides is the real program.</p>`
)

// Page writes the whole report as HTML.
func Page(w io.Writer, sections []Section) error {
	head := html.Head(lines(
		html.Meta(html.Charset("utf-8")),
		html.Meta(html.Name("viewport"), html.Content("width=device-width,initial-scale=1")),
		html.Meta(html.Name("color-scheme"), html.Content("light dark")),
		html.TitleEl(dom.Text(title)),
		html.StyleEl(dom.Raw("\n"+pictureStyle+"\n"+pageStyle)),
	))
	body := html.Body(lines(html.Main(
		lines(html.H1(dom.Text(title)), dom.Raw(lead)),
		dom.Map(sections, func(s Section) dom.Node { return lines(s.node()) }),
		dom.Text("\n"), dom.Raw(words),
	)))
	return html.Doctype(dom.Group{dom.Text("\n"), html.HTML(html.Lang("en"), lines(head, body)), dom.Text("\n")}).Render(w)
}

// lines puts every node on a line of its own, so that changes of a report can be read.
func lines(nodes ...dom.Node) dom.Group {
	all := dom.Group{dom.Text("\n")}
	for _, n := range nodes {
		all = append(all, n, dom.Text("\n"))
	}
	return all
}

// node is the part of the page about one class.
func (s Section) node() dom.Node {
	var again dom.Node
	if s.Command != "" {
		again = html.Details(html.Summary(dom.Text("The same again")), html.P(html.Class("words"), html.Code(dom.Text(s.Command))))
	}
	return html.Section(lines(
		html.H2(dom.Text(s.Class.Title)),
		html.P(html.Class("facts"), dom.Text(s.Class.Text)),
		html.P(html.Class("facts"), dom.Text(s.numbers())),
		table([]string{"mode", "wait\np50", "\np95", "\nmax", "Jain\nworst", "\nmean", "jobs\nan hour", "model\nloads", "GPU\nuse", "of it\nloading", "cached", "in the\nband"},
			dom.Map(s.Figures, modeRow)),
		html.Ul(html.Class("legend"), s.legend()),
		html.Div(html.Class("charts"), lines(s.charts()...)),
		html.Details(html.Summary(dom.Text("Waits by kind of people")), dom.Text("\n"),
			table([]string{"mode", "who", "people", "jobs", "p50", "p95", "max"}, s.kindRows())),
		again,
	))
}

func (s Section) numbers() string {
	var loads []string
	for _, m := range s.Class.Models {
		loads = append(loads, Seconds(m.Load.Seconds()))
	}
	return fmt.Sprintf("%d people · %s · %d GPUs · %d models that take %s to load",
		len(s.Class.People), length(s.Class.Length), len(s.Class.Fleet), len(s.Class.Models), strings.Join(loads, ", "))
}

// table is a table that can be wider than the page. Headings may have two lines.
func table(headings []string, rows []dom.Node) dom.Node {
	head := dom.Map(headings, func(words string) dom.Node {
		first, second, two := strings.Cut(words, "\n")
		if !two {
			return html.Th(dom.Text(first))
		}
		return html.Th(dom.Text(first), html.Br(), dom.Text(second))
	})
	return html.Div(html.Class("wide"), html.Table(lines(html.THead(html.Tr(head))), html.TBody(lines(rows...))))
}

// row is one row of a table, of what its mode is called and what was measured.
func row(f rehearse.Figures, cells ...string) dom.Node {
	return html.Tr(html.Th(html.Scope("row"), dom.Text(modeName(f))), dom.Map(cells, func(words string) dom.Node { return html.Td(dom.Text(words)) }))
}

func modeRow(f rehearse.Figures) dom.Node {
	held := "–"
	if f.Bands.Told != 0 {
		held = Percent(f.Bands.Held)
	}
	return row(f, Seconds(f.Wait.P50), Seconds(f.Wait.P95), Seconds(f.Wait.Max), Index(f.Fairness, f.Fairness.Worst), Index(f.Fairness, f.Fairness.Mean),
		fmt.Sprintf("%.0f", f.PerHour), thousands(f.Loads), Percent(f.Use), Percent(f.Loading), Percent(f.Cached), held)
}

func (s Section) kindRows() (rows []dom.Node) {
	for _, f := range s.Figures {
		for _, k := range f.Kinds {
			rows = append(rows, row(f, k.Kind, fmt.Sprint(k.People), thousands(k.Jobs), Seconds(k.Wait.P50), Seconds(k.Wait.P95), Seconds(k.Wait.Max)))
		}
	}
	return rows
}

// legend lists the drawn modes with a sample of their line.
func (s Section) legend() dom.Node {
	return dom.Map(drawn(s.Figures), func(f rehearse.Figures) dom.Node {
		var d drawing
		d.add(`<svg viewBox="0 0 30 10" aria-hidden="true">`)
		d.path("curve "+f.Order, "M1 5h28")
		d.add("</svg>")
		return html.Li(&d, dom.Text(modeName(f)))
	})
}

// charts returns the charts of a class as drawings of their own.
func (s Section) charts() (list []dom.Node) {
	for _, draw := range []func(Section) string{waitChart, kindChart, queueChart, fairChart, useChart, bandChart} {
		var d drawing
		d.add(`<svg viewBox="0 0 %g %g" role="img">%s</svg>`, width, height, draw(s))
		list = append(list, &d)
	}
	return list
}
