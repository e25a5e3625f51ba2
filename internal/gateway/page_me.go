package gateway

import (
	"fmt"
	"strconv"
	"time"

	dom "maragu.dev/gomponents"
	"maragu.dev/gomponents/html"

	"github.com/ahelme/comfyume/internal/account"
)

// bar is what stands over a person's own page.
func (p mePage) bar(v view) dom.Node {
	return html.Header(html.Class("bar"), lines(
		html.A(html.Class("brand"), v.href("/"), dom.Raw(logo), html.Span(dom.Text(v.Title))),
		html.Nav(v.primary("/", "Open the editor"), v.button("/signout", "Sign out")),
	))
}

func (p mePage) content(v view) dom.Node {
	who := string(p.Person.Role)
	if p.Person.Group != "" {
		who += " · " + p.Person.Group
	}
	return html.Main(lines(
		html.H1(dom.Text(p.Person.Name)),
		html.P(html.Class("who"), dom.Text(who)),
		p.Error.shown(),
		p.fresh(),
		p.runs(v),
		p.quotas(),
		p.work(v),
		p.sessions(v),
		p.tokens(v),
		html.Section(html.H2(dom.Text("This browser’s editor")), lines(
			hint(dom.Text("If the editor looks broken here: remove its drafts, panels and clipboard from this browser. Saved workflows and results stay.")),
			html.Form(html.Method("post"), v.action("/me/reset"), html.Button(dom.Text("Reset this browser’s editor"))),
		)),
		v.foot(),
	))
}

// hint is small print.
func hint(words ...dom.Node) dom.Node { return html.P(html.Class("hint"), dom.Group(words)) }

// which tells a form's target which of a list it is about.
func which(id string) dom.Node {
	return html.Input(html.Type("hidden"), html.Name("id"), html.Value(id))
}

// meterOf draws how much of something is used.
func meterOf(words string, percent int) dom.Node {
	share := strconv.Itoa(percent)
	return html.Div(html.Class("meter"), html.P(dom.Text(words)), html.Progress(html.Max("100"), html.Value(share), dom.Text(share+" %")))
}

// fresh shows a token that was just made.
func (p mePage) fresh() dom.Node {
	if p.NewToken == "" {
		return nil
	}
	heading := "Your new token"
	if p.Label != "" {
		heading += " “" + p.Label + "”"
	}
	return html.Section(html.Class("fresh"), html.Role("status"), html.H2(dom.Text(heading)), lines(
		html.P(dom.Text("Copy it now: it is shown this once.")),
		html.Code(html.Class("secret"), dom.Text(p.NewToken)),
		hint(dom.Text("As an address for programs that take nothing else: "), html.Code(dom.Text(p.Editor+"/k/"+p.NewToken+"/"))),
	))
}

func (p mePage) quotas() dom.Node {
	if len(p.Meters) == 0 {
		return nil
	}
	return html.Section(html.ID("quota"), html.H2(dom.Text("Your GPU time")), lines(dom.Map(p.Meters, func(m Meter) dom.Node {
		if m.Percent < 0 {
			return hint(dom.Text(m.Text))
		}
		return meterOf(m.Text, m.Percent)
	})...))
}

// sessions lists the browsers that are signed in.
func (p mePage) sessions(v view) dom.Node {
	list := dom.Map(p.Sessions, func(s account.Session) dom.Node {
		words := "since " + day(s.Created) + ", last used " + ago(s.Seen)
		if s.Address != "" {
			words += ", from " + s.Address
		}
		var tag, end dom.Node
		if s.ID == p.Current {
			tag = dom.Group{dom.Text(" "), html.Span(html.Class("tag"), dom.Text("this one"))}
		} else {
			end = html.Form(html.Method("post"), v.action("/me/sessions/end"), which(s.ID), html.Button(dom.Text("Sign out")))
		}
		return html.Li(html.Div(html.Strong(dom.Text(s.Device)), tag, hint(dom.Text(words))), end)
	})
	return html.Section(html.ID("access"), html.H2(dom.Text("Signed in")), lines(
		html.Ul(html.Class("list"), lines(list...)),
		dom.If(len(p.Sessions) > 1, html.Form(html.Method("post"), v.action("/me/sessions/end-others"), html.Button(dom.Text("Sign out everywhere else")))),
	))
}

// tokens lists what lets programs in, and makes more.
func (p mePage) tokens(v view) dom.Node {
	var list dom.Node
	if len(p.Tokens) > 0 {
		list = html.Ul(html.Class("list"), lines(dom.Map(p.Tokens, func(t account.Token) dom.Node { return tokenItem(v, t) })...))
	}
	return html.Section(html.H2(dom.Text("Tokens for programs")), lines(
		hint(dom.Text("A token lets a program run graphs as you, at "), html.Code(dom.Text(p.Editor)), dom.Text(". Whoever has it can use it.")),
		list,
		html.Form(html.Class("row"), html.Method("post"), v.action("/me/tokens"), lines(
			html.Input(html.Name("label"), html.Placeholder("What is it for?"), html.Aria("label", "Label"), html.MaxLength("80"), html.AutoComplete("off")),
			dom.Group{
				html.Select(html.Name("scope"), html.Aria("label", "Scope"),
					html.Option(html.Value("comfy"), dom.Text("ComfyUI only")), html.Option(html.Value("all"), dom.Text("Everything"))),
				html.Button(dom.Text("Make a token")),
			},
		)),
	))
}

func tokenItem(v view, t account.Token) dom.Node {
	label, words := t.Label, "made "+day(t.Created)+", never used"
	if label == "" {
		label = "without a label"
	}
	if !t.Used.IsZero() {
		words = "made " + day(t.Created) + ", last used " + ago(t.Used)
	}
	if !t.Expires.IsZero() {
		words += ", good until " + day(t.Expires)
	}
	var tag dom.Node
	if t.Scope == account.ScopeComfy {
		tag = dom.Group{dom.Text(" "), html.Span(html.Class("tag"), dom.Text("ComfyUI only"))}
	}
	return html.Li(html.Div(html.Strong(dom.Text(label)), tag, hint(dom.Text(words))), dom.Text("\n"),
		html.Form(html.Method("post"), v.action("/me/tokens/revoke"), which(t.ID), html.Button(dom.Text("Revoke"))))
}

// runs lists a person's open jobs with what can be done to each.
func (p mePage) runs(v view) dom.Node {
	if len(p.Runs) == 0 {
		return nil
	}
	var more dom.Node
	if len(p.Runs) < p.RunsTotal {
		more = hint(dom.Text(fmt.Sprintf("The first %d of %d.", len(p.Runs), p.RunsTotal)))
	}
	return html.Section(html.ID("runs"), lines(
		html.Div(html.Class("head"), html.H2(dom.Text("Your runs "), html.Small(dom.Text(strconv.Itoa(p.RunsTotal)))), v.button("/me", "Refresh")),
		html.Ul(html.Class("list runs"), lines(dom.Map(p.Runs, func(r Run) dom.Node { return r.item(v) })...)),
		more,
	))
}

func (r Run) item(v view) dom.Node {
	var wait dom.Node
	if r.State == RunWaiting && r.Wait != "" {
		wait = dom.Group{dom.Text(" "), html.Span(dom.Text(r.Wait))}
	}
	words := "Sent " + ago(r.Since) + "."
	if r.State == RunRunning {
		words = "Began " + ago(r.Since) + "."
	}
	if r.Why != "" {
		words = r.Why + " " + words
	}
	return html.Li(html.Class(string(r.State)), html.Div(lines(
		html.P(html.Class("standing"), html.Strong(dom.Text(r.standing())), wait),
		hint(dom.Text(words)),
	)), html.Form(html.Class("acts"), html.Method("post"), v.action("/me/runs"), which(r.ID), r.acts()))
}

// standing is where a run is on its way, in a word or two.
func (r Run) standing() string {
	on := ""
	if r.Where != "" {
		on = " on " + r.Where
	}
	switch {
	case r.State == RunRunning:
		return "Running" + on
	case r.State == RunNext:
		return "Next" + on
	case r.State == RunHeld:
		return "Held"
	case r.Line != "":
		return r.Line
	}
	return "Waiting"
}

// acts are the buttons beside a run.
func (r Run) acts() dom.Node {
	button := func(act Act, words string) dom.Node {
		return html.Button(html.Name("act"), html.Value(string(act)), dom.Text(words))
	}
	var all dom.Group
	if r.State == RunHeld {
		all = append(all, button(ActRelease, "Release"))
	}
	if r.State == RunWaiting {
		if !r.First {
			all = append(all, button(ActFront, "To front"))
		}
		all = append(all, button(ActHold, "Hold"))
	}
	if r.State == RunRunning {
		return append(all, button(ActCancel, "Stop"))
	}
	return append(all, button(ActCancel, "Cancel"))
}

// work shows what a person made and the room it takes.
func (p mePage) work(v view) dom.Node {
	if !p.HasWork {
		return nil
	}
	var total, everything dom.Node
	if p.Total != 0 {
		total = dom.Group{dom.Text(" "), html.Small(dom.Text(strconv.Itoa(p.Total)))}
		everything = v.button("/me/everything.zip", "Download everything")
	}
	room := hint(dom.Text(p.Used + " used"))
	if p.Limit != "" {
		room = meterOf(p.Used+" of "+p.Limit+" used", p.Percent)
	}
	results := html.P(html.Class("empty"), dom.Text("Nothing yet. Open the editor and press Run; what you make appears here."))
	if len(p.Results) > 0 {
		results = html.Ul(html.Class("grid"), lines(dom.Map(p.Results, resultCard.item)...))
	}
	return html.Section(lines(
		html.Div(html.Class("head"), html.H2(dom.Text("Results"), total), everything),
		results,
		p.leaf(),
		room,
	))
}

// leaf leads to the results before and after these.
func (p mePage) leaf() dom.Node {
	if len(p.Results) == 0 || p.Newer == "" && p.Older == "" {
		return nil
	}
	to := func(address, words string) dom.Node {
		if address == "" {
			return nil
		}
		return html.A(html.Class("button"), html.Href(webAddress(address)), dom.Text(words))
	}
	return html.P(html.Class("pages"), to(p.Newer, "Newer"),
		html.Span(dom.Text(fmt.Sprintf("%d–%d of %d", p.From, p.To, p.Total))), to(p.Older, "Older"))
}

func (c resultCard) item() dom.Node {
	var picture dom.Node
	if c.Kind == "image" || c.Kind == "video" {
		picture = html.Img(html.Src(webAddress(c.Thumb)), html.Alt(""), html.Loading("lazy"))
	}
	full := c.Name
	if c.Folder != "" {
		full = c.Folder + "/" + c.Name
	}
	return html.Li(lines(
		html.A(html.Href(webAddress(c.File)), picture, html.Span(html.Class("kind"), dom.Text(c.Kind))),
		html.P(html.Title(full), dom.Text(c.Name)),
		hint(
			html.Time(html.DateTime(c.Modified.Format(time.RFC3339)), html.Title(day(c.Modified)+", "+size(c.Size)), dom.Text(ago(c.Modified))),
			dom.Text(" "), html.A(html.Href(webAddress(c.File+"&save")), dom.Text("Save")),
		),
	))
}
