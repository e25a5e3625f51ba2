package workspace

import (
	"path"
	"slices"
	"strings"
	"testing"
)

// folding is a file system that takes names that differ in case for the same, as macOS and Windows have them.
type folding []string

func (f folding) there(p string) bool {
	return slices.ContainsFunc(f, func(e string) bool {
		return strings.EqualFold(e, p) || strings.HasPrefix(strings.ToLower(e), strings.ToLower(p)+"/")
	})
}

func (f folding) list(dir string) (names []string, _ error) {
	for _, e := range f {
		below := e
		if dir != "." {
			if len(e) <= len(dir) || !strings.EqualFold(e[:len(dir)+1], dir+"/") {
				continue
			}
			below = e[len(dir)+1:]
		}
		first, _, _ := strings.Cut(below, "/")
		names = append(names, path.Base(first))
	}
	return names, nil
}

func TestSpellingOnFoldingFileSystems(t *testing.T) {
	t.Parallel()
	fs := folding{"workflows/a.json", "workflows/Sub/b.json", "c.json"}
	for p, fine := range map[string]bool{
		"workflows/a.json": true, "workflows/new.json": true, "workflows/Sub/b.json": true, "new/a.json": true, "c.json": true,
		"workflows/A.json": false, "Workflows/a.json": false, "Workflows/new.json": false, "workflows/sub/b.json": false,
		"workflows/SUB/new.json": false, "C.json": false,
	} {
		if err := checkSpelling(p, fs.there, fs.list); (err == nil) != fine {
			t.Errorf("%s gave %v", p, err)
		}
	}
}
