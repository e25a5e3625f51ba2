package agent

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCausesAreDocumented: whoever sees a code finds it on the page.
func TestCausesAreDocumented(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "agent.md"))
	if err != nil {
		t.Fatal(err)
	}
	file, err := parser.ParseFile(token.NewFileSet(), "cause.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	ast.Inspect(file, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok || len(v.Values) != 1 || !strings.HasPrefix(v.Names[0].Name, "Code") {
			return true
		}
		code := strings.Trim(v.Values[0].(*ast.BasicLit).Value, `"`)
		found++
		if !strings.Contains(string(page), "`"+code+"`") {
			t.Errorf("docs/agent.md does not name %s", code)
		}
		return true
	})
	if found < 20 {
		t.Errorf("found %d codes in cause.go", found)
	}
}
