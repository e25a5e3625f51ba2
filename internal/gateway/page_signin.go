package gateway

import (
	dom "maragu.dev/gomponents"
	"maragu.dev/gomponents/html"
)

func (p signInPage) content(v view) dom.Node {
	var ca dom.Node
	if p.CA {
		ca = html.P(html.Class("hint"), dom.Text("Does the browser warn about this site? "),
			html.A(v.href("/signin/ca.crt"), dom.Attr("download"), dom.Text("Get the studio’s certificate")), dom.Text(" and install it once."))
	}
	if p.SignedInAs != "" {
		return lines(
			html.P(html.Class("lead"), dom.Text("You are here as "), html.Strong(dom.Text(p.SignedInAs)), dom.Text(". If that is somebody else, sign out first.")),
			v.primary("/", "Open the studio"),
			v.button("/signout", "Sign out"),
			ca,
		)
	}
	return lines(p.Error.shown(), p.form(v), joinForm(v), ca)
}

// form asks for name and password; who was not let in goes on at the password.
func (p signInPage) form(v view) dom.Node {
	return html.Form(html.Method("post"), v.action("/signin"), lines(
		html.Input(html.Type("hidden"), html.Name("next"), html.Value(p.Next)),
		html.Label(dom.Text("Name\n"), html.Input(nameField("100"), html.Value(p.Name), dom.If(p.Name == "", html.AutoFocus()))),
		html.Label(dom.Text("Password or PIN\n"), html.Input(html.Name("password"), html.Type("password"),
			html.AutoComplete("current-password"), html.MaxLength("256"), html.Required(), dom.If(p.Name != "", html.AutoFocus()))),
		html.Button(html.Class("primary"), dom.Text("Sign in")),
	))
}

// joinForm leads who is new to the page of their class code.
func joinForm(v view) dom.Node {
	return html.Form(html.Class("aside"), html.Method("get"), v.action("/join"), lines(
		html.Label(dom.Text("New here? Your class code\n"), html.Span(html.Class("row"), codeField(), html.Button(dom.Text("Join")))),
	))
}

func (p signOutPage) content(v view) dom.Node {
	return lines(
		html.P(html.Class("lead"), dom.Text("You are signed in as "), html.Strong(dom.Text(p.Name)), dom.Text(".")),
		html.P(dom.Text("Saved workflows and results stay in the studio. What is open in the editor and not saved is removed from this browser.")),
		html.Form(html.Method("post"), v.action("/signout"), html.Button(html.Class("primary"), dom.Text("Sign out"))),
		v.button("/", "Stay"),
	)
}

// signedOut says that the browser is emptied, and lets the script do it.
func signedOut(v view) dom.Node {
	return lines(
		html.P(html.Class("lead"), dom.Text("Your work is kept; nothing of it stays in this browser.")),
		html.NoScript(html.P(html.Class("problem"), dom.Text("Scripts are off here, so close all windows of this browser to be sure."))),
		v.primary("/signin", "Sign in again"),
		cleanUp(v, cleanPage{Tell: true}, ""),
	)
}

func (p cleanPage) content(v view) dom.Node {
	who := dom.Group{}
	if p.Name != "" {
		who = dom.Group{dom.Text(" for "), html.Strong(dom.Text(p.Name))}
	}
	return lines(
		html.P(html.Class("lead"), dom.Text("One moment: the editor gets a clean browser"), who, dom.Text(".")),
		html.Div(html.Class("busy"), html.Role("progressbar"), html.Aria("label", "Cleaning up")),
		html.NoScript(html.P(html.Class("problem"), dom.Text("The editor needs scripts, and they are off in this browser."))),
		cleanUp(v, p, v.Base+"/signin/cleared"),
	)
}

// cleanUp is the script that empties the browser, and what it reads: it is the same on all pages, so that the policy
// can name it.
func cleanUp(v view, p cleanPage, post string) dom.Node {
	tell := ""
	if p.Tell {
		tell = "yes"
	}
	return lines(
		html.I(html.ID("clean"), html.Data("mark", p.Mark), html.Data("next", p.Next), html.Data("post", post), html.Data("tell", tell), dom.Attr("hidden")),
		html.Script(dom.Raw(v.Script)),
	)
}

func (p messagePage) content(v view) dom.Node {
	way := v.primary("/signin", "Sign in")
	if p.Home {
		way = v.primary("/", "Open the studio")
	}
	return lines(dom.If(p.Text != "", html.P(html.Class("lead"), dom.Text(p.Text))), way)
}
