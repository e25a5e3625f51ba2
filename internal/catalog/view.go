package catalog

import (
	"crypto/sha256"
	"encoding/json"
	"slices"
	"strings"

	"github.com/ahelme/comfyume/internal/comfy"
	"github.com/ahelme/comfyume/internal/comfy/pyjson"
)

// View is the merged description of the back ends that run a group's jobs. It does not change, but for what it keeps
// encoded. It is safe for concurrent use.
type View struct {
	merged *merged
	asked  []string // back ends of which something is known, in their order
	dark   []string // those that were never asked
	none   bool     // there are back ends, and all of them are for other groups
	lists  listCache
}

// views are the descriptions for all groups. Groups that the same back ends serve share one.
type views struct {
	general *View            // of groups that no back end names
	groups  map[string]*View // of those that some do
	has     map[string]map[string]bool
	sum     [32]byte // of all that people see
}

// For returns what a group can run; the empty group is that of people without one.
func (c *Catalog) For(group string) *View {
	v := c.views.Load()
	if own := v.groups[group]; own != nil {
		return own
	}
	return v.general
}

// merge makes the views anew and reports whether something of them changed. The lock is held, or nobody else knows c
// yet.
func (c *Catalog) merge() (changed bool) {
	now := &views{groups: map[string]*View{}, has: map[string]map[string]bool{}}
	for name, k := range c.known {
		now.has[name] = k.has
	}
	made := map[string]*View{} // by the back ends in it
	names := []string{""}
	for _, m := range c.members {
		for _, g := range m.Groups {
			if !slices.Contains(names, g) {
				names = append(names, g)
			}
		}
	}
	sum := sha256.New()
	slices.Sort(names)
	for _, group := range names {
		var serve []string
		for _, m := range c.members {
			if len(m.Groups) == 0 || group != "" && slices.Contains(m.Groups, group) {
				serve = append(serve, m.Name)
			}
		}
		key := strings.Join(serve, "\x00")
		v := made[key]
		if v == nil {
			v = c.view(serve)
			made[key] = v
		}
		if group == "" {
			now.general = v
		} else {
			now.groups[group] = v
		}
		sum.Write([]byte(group + "\x00" + key + "\x00"))
		sum.Write(v.merged.sum[:])
	}
	sum.Sum(now.sum[:0])
	before := c.views.Swap(now)
	return before == nil || before.sum != now.sum
}

// view merges what is known of some back ends.
func (c *Catalog) view(names []string) *View {
	v := &View{merged: newMerged()}
	for _, name := range names {
		if k := c.known[name]; k != nil {
			v.merged.add(name, k, c.log)
			v.asked = append(v.asked, name)
		} else {
			v.dark = append(v.dark, name)
		}
	}
	v.none = len(names) == 0 && len(c.members) > 0
	v.merged.seal()
	v.lists.clear()
	return v
}

// BackEnds lists the back ends that serve the group, those of which nothing is known at the end.
func (v *View) BackEnds() []string { return slices.Concat(v.asked, v.dark) }

// Classes counts the node classes.
func (v *View) Classes() int { return len(v.merged.classes) }

// Needs lists what a back end must have for the graph: its node classes, and what its core nodes choose, such as
// models. Each is a name that people understand.
func (v *View) Needs(g *comfy.Graph) []string {
	m := v.merged
	var needs []string
	seen := map[string]bool{}
	add := func(name string) {
		if !seen[name] {
			seen[name] = true
			needs = append(needs, name)
		}
	}
	for _, n := range g.Nodes() {
		add(n.ClassType)
		k := m.classes[n.ClassType]
		if k == nil {
			continue
		}
		for _, value := range n.Inputs {
			if text, ok := pyjson.Text(value.Value); ok {
				if name := need(n.ClassType, value.Key, text); m.choices[name] {
					add(name)
				}
			}
		}
	}
	return needs
}

// Class returns one node's description with the person's inputs in its lists, nil when there is no such class.
func (v *View) Class(name string, inputs []string) json.RawMessage {
	m := v.merged
	p, ok := m.pieces[name]
	if !ok {
		return nil
	}
	return p.fill(nil, inputs)
}

// Models lists the model files of a folder.
func (v *View) Models(folder string) (names []string, ok bool) {
	names, ok = v.merged.models[folder]
	return names, ok
}

// Folders lists the model folders.
func (v *View) Folders() []string { return v.merged.folders }

// Embeddings lists the embeddings.
func (v *View) Embeddings() []string { return v.merged.embeddings }

// Extensions lists the web files of custom nodes by back end, as the back ends list them.
func (v *View) Extensions() map[string][]string { return v.merged.extensions }

// WebText returns what the back ends gave for a route such as "i18n", nil when none did.
func (v *View) WebText(route string) json.RawMessage { return v.merged.webTexts[route] }

// SystemStats returns the first back end's answer, fit for participants: no arguments, no paths. Nil when no back
// end was ever seen.
func (v *View) SystemStats() json.RawMessage { return v.merged.stats }
