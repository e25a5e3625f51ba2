package policy_test

import (
	"strings"
	"testing"

	"github.com/ahelme/comfyume/internal/comfy"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/policy"
)

func TestCheck(t *testing.T) {
	t.Parallel()
	paid := comfy.Node{ID: "1", ClassType: "PaidNode"}
	free := comfy.Node{ID: "2", ClassType: "LoadFromPath", Title: "My loader"}
	plain := comfy.Node{ID: "3", ClassType: "Plain"}
	for name, c := range map[string]struct {
		rules policy.Rules
		graph policy.Graph
		want  string
	}{
		"nothing special":      {policy.Rules{}, policy.Graph{Nodes: []comfy.Node{plain}}, ""},
		"credits":              {policy.Rules{}, policy.Graph{Nodes: []comfy.Node{paid}, Paid: []comfy.Node{paid}}, "Comfy credits"},
		"credits allowed":      {policy.Rules{Paid: true}, policy.Graph{Nodes: []comfy.Node{paid}, Paid: []comfy.Node{paid}}, ""},
		"unnamed file":         {policy.Rules{}, policy.Graph{Nodes: []comfy.Node{free}, Unnamed: []comfy.Node{free}}, "made while the graph runs"},
		"unnamed, allowed":     {policy.Rules{Allow: []string{"LoadFromPath"}}, policy.Graph{Nodes: []comfy.Node{free}, Unnamed: []comfy.Node{free}}, ""},
		"free path":            {policy.Rules{}, policy.Graph{Nodes: []comfy.Node{free}, FreePath: []comfy.Node{free}}, "Node 2, My loader (LoadFromPath)"},
		"free path, allowed":   {policy.Rules{Allow: []string{"LoadFromPath"}}, policy.Graph{Nodes: []comfy.Node{free}, FreePath: []comfy.Node{free}}, ""},
		"denied by the studio": {policy.Rules{Deny: []string{"Plain"}}, policy.Graph{Nodes: []comfy.Node{plain}}, "switched this node off"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := c.rules.Check(c.graph)
			if c.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !fault.Is(err, fault.Denied) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want a denial with %q", err, c.want)
			}
		})
	}
}
