package gateway

import (
	"cmp"

	dom "maragu.dev/gomponents"
	"maragu.dev/gomponents/html"
)

func (p joinPage) content(v view) dom.Node {
	switch {
	case p.PIN != "":
		return lines(
			html.P(html.Class("lead"), dom.Text("Hello "), html.Strong(dom.Text(p.Name)),
				dom.Text(". Write this down: with your name and this PIN you come back in.")),
			html.P(html.Class("pin"), html.Aria("label", "Your PIN"), dom.Text(p.PIN)),
			v.primary("/", "Open the studio"),
		)
	case p.Code != "":
		return lines(p.somebody(v), p.failure(false), p.newcomer(v), p.comeBack(v))
	}
	return lines(
		p.Error.shown(),
		html.Form(html.Method("get"), v.action("/join"), lines(
			html.Label(dom.Text("Class code\n"), codeField(html.Value(p.Typed), html.AutoFocus())),
			html.Button(html.Class("primary"), dom.Text("Go on")),
		)),
		html.P(html.Class("hint"), dom.Text("Your instructor has it. "),
			html.A(v.href("/signin"), dom.Text("Sign in with a password")), dom.Text(" instead.")),
	)
}

// failure is what went wrong, at the form it is of: that of who comes back, or that of who is new.
func (p joinPage) failure(back bool) dom.Node {
	if p.ErrorBack != back {
		return nil
	}
	return p.Error.shown()
}

// somebody says who is signed in at this browser already.
func (p joinPage) somebody(v view) dom.Node {
	if p.SignedInAs == "" {
		return nil
	}
	return html.P(html.Class("lead"), dom.Text("You are signed in as "), html.Strong(dom.Text(p.SignedInAs)), dom.Text(". "),
		html.A(v.href("/"), dom.Text("Go on as "+p.SignedInAs)), dom.Text(", or come in as somebody else:"))
}

// newcomer lets somebody choose a name, where there is room.
func (p joinPage) newcomer(v view) dom.Node {
	if p.Full {
		return html.P(html.Class("lead"), dom.Text("No new people can join with this code any more. If you were here before, come back in."))
	}
	return html.Form(html.Method("post"), v.action("/join/"+p.Code), lines(
		html.Label(dom.Text("Choose a name\n"), html.Input(nameField("60"), html.Value(cmp.Or(p.SuggestedName, p.New)),
			html.Placeholder("ann"), dom.If(!p.ErrorBack, html.AutoFocus()))),
		html.P(html.Class("hint"), dom.Text("Small letters and digits. Others in the class see it.")),
		html.Button(html.Class("primary"), dom.Text("Join the class")),
	))
}

// comeBack lets in who has a name and a PIN.
func (p joinPage) comeBack(v view) dom.Node {
	return html.Details(html.Class("aside"), dom.If(p.ErrorBack || p.Full, dom.Attr("open")), lines(
		html.Summary(dom.Text("I was here before")),
		p.failure(true),
		html.Form(html.Method("post"), v.action("/join/"+p.Code), lines(
			html.Label(dom.Text("Your name\n"), html.Input(nameField("60"), html.Value(p.Back))),
			html.Label(dom.Text("Your PIN\n"), html.Input(html.Class("code"), html.Name("pin"), html.Type("password"), dom.Attr("inputmode", "numeric"),
				html.AutoComplete("current-password"), html.MaxLength("256"), html.Required(), dom.If(p.ErrorBack, html.AutoFocus()))),
			html.Button(dom.Text("Come back in")),
		)),
	))
}
