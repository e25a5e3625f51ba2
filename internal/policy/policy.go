// Package policy says whether a person may run a graph here, with a reason in one sentence. It knows nothing of
// back ends: who asks tells which nodes of the graph are of which kind.
package policy

import (
	"slices"

	"github.com/ahelme/comfyume/internal/comfy"
	"github.com/ahelme/comfyume/internal/fault"
)

// Rules are what the operator has set. The zero value is the default: nothing that spends people's credits, nothing
// that reads paths of its own choice.
type Rules struct {
	Paid  bool     // nodes that spend a person's own Comfy credits may run
	Allow []string // classes that may run although they read free paths
	Deny  []string // classes that may not run at all
}

// Graph is what the rules look at.
type Graph struct {
	Nodes    []comfy.Node
	Paid     []comfy.Node // those that spend credits
	Unnamed  []comfy.Node // those that read files whose names are not written in the graph
	FreePath []comfy.Node // those that read or write paths of their own choice: they can't be kept to a person's files
}

// Check returns a fault of kind Denied for the first node that may not run.
func (r Rules) Check(g Graph) error {
	for _, n := range g.Nodes {
		if slices.Contains(r.Deny, n.ClassType) {
			return deny(n, "The operator has switched this node off.", "Leave it out, or ask the operator.").WithCode("node_denied")
		}
	}
	if !r.Paid && len(g.Paid) > 0 {
		return deny(g.Paid[0], "Nodes that spend Comfy credits are switched off in this studio.",
			"Use a node that runs on the studio's own GPUs, or ask the operator to set comfy_account: allow.").WithCode("comfy_account_denied")
	}
	for _, n := range g.Unnamed {
		if !slices.Contains(r.Allow, n.ClassType) {
			return deny(n, "The name of its file is made while the graph runs, and could be that of anybody's file.",
				"Write the name of one of your files into the node.").WithCode("free_path_denied")
		}
	}
	for _, n := range g.FreePath {
		if !slices.Contains(r.Allow, n.ClassType) {
			return deny(n, "It reads files by a path of its own, which could be anybody's.",
				"Use a node that takes one of your uploaded files, or ask the operator.").WithCode("free_path_denied")
		}
	}
	return nil
}

func deny(n comfy.Node, why, remedy string) *fault.Error {
	name := n.ClassType
	if n.Title != "" && n.Title != name {
		name = n.Title + " (" + name + ")"
	}
	return fault.New(fault.Denied, "Node %s, %s, may not run here. %s", n.ID, name, why).WithRemedy("%s", remedy)
}
