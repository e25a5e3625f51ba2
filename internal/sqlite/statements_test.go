package sqlite_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/internal/sqlite"
)

// growing are the tables that grow with what people do: no statement may read one of them from end to end.
var growing = []string{"job", "job_request", "job_outcome", "job_credential", "job_key", "file", "file_counter", "file_origin", "delivery", "usage_hour"}

// scansAllowed are the exceptions, with the reason.
var scansAllowed = map[string]string{
	"sqlCountAll":       "an operator's list of everybody's jobs, also of those that are in no index",
	"sqlSealed":         "only open jobs have credentials, at start",
	"sqlUsed":           "whether there is any row at all",
	"sqlOpen":           "an index of the open jobs only, at start",
	"sqlDeliveriesOver": "now and then; what is over goes, so that the table is as large as what is open",
}

// scanned returns the table that a step of a plan reads from end to end, by table or index, or "". Plans name tables by
// their aliases.
func scanned(query, step string) string {
	name, whole := strings.CutPrefix(step, "SCAN ")
	if !whole {
		return ""
	}
	name, _, _ = strings.Cut(name, " ")
	for _, table := range growing {
		if name == table || regexp.MustCompile(`\b`+table+`\s+`+regexp.QuoteMeta(name)+`\b`).MatchString(query) {
			return table
		}
	}
	return ""
}

// statements returns the SQL constants of the package by name: those whose name begins with sql, and what maps and
// variables are made of. They are read from the source, so that none is forgotten.
func statements(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("*.go")
	must(t, err)
	consts := map[string]ast.Expr{}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		must(t, err)
		for _, d := range f.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.CONST {
				continue
			}
			for _, s := range g.Specs {
				v := s.(*ast.ValueSpec)
				for i, n := range v.Names {
					if i < len(v.Values) {
						consts[n.Name] = v.Values[i]
					}
				}
			}
		}
	}
	out := map[string]string{}
	for name, e := range consts {
		if text, ok := text(consts, e); ok && isStatement(text) {
			out[name] = text
		}
	}
	return out
}

// text evaluates an expression of string constants.
func text(consts map[string]ast.Expr, e ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		s, err := strconv.Unquote(e.Value)
		return s, err == nil && e.Kind == token.STRING
	case *ast.Ident:
		inner, ok := consts[e.Name]
		if !ok {
			return "", false
		}
		return text(consts, inner)
	case *ast.BinaryExpr:
		x, ok1 := text(consts, e.X)
		y, ok2 := text(consts, e.Y)
		return x + y, ok1 && ok2
	}
	return "", false
}

func isStatement(s string) bool {
	first, _, _ := strings.Cut(strings.TrimSpace(strings.ToLower(s)), " ")
	return slices.Contains([]string{"select", "insert", "update", "delete", "with"}, first)
}

// TestStatements prepares every statement against the migrated schema.
func TestStatements(t *testing.T) {
	t.Parallel()
	db := open(t, filepath.Join(t.TempDir(), "comfyume.db"))
	all := statements(t)
	if len(all) < 20 {
		t.Fatalf("only %d statements were found", len(all))
	}
	var scans []string
	for name, query := range all {
		must(t, db.Write(t.Context(), func(tx *sqlite.Tx) error {
			st, err := tx.Plan(query)
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			for _, step := range st {
				if scanned(query, step) != "" {
					scans = append(scans, name)
				}
			}
			return nil
		}))
	}
	slices.Sort(scans)
	if diff := cmp.Diff(slices.Sorted(maps.Keys(scansAllowed)), slices.Compact(scans)); diff != "" {
		t.Errorf("statements that read a whole table: allowed -, found +\n%s", diff)
	}
}

// TestPlansOfTheQueue names the index of each hot query.
func TestPlansOfTheQueue(t *testing.T) {
	t.Parallel()
	db := open(t, filepath.Join(t.TempDir(), "comfyume.db"))
	all := statements(t)
	for name, want := range map[string]string{
		"sqlFind":          "SEARCH job USING INDEX job_prompt (prompt_id=? AND user=?)",
		"sqlGet":           "SEARCH job USING INDEX job_id (id=?)",
		"sqlOpen":          "SCAN job USING INDEX job_open",
		"sqlClaim":         "SEARCH job USING INTEGER PRIMARY KEY (rowid=?)",
		"sqlFinishRunning": "SEARCH job USING INTEGER PRIMARY KEY (rowid=?)",
		"sqlTask":          "SEARCH r USING INTEGER PRIMARY KEY (rowid=?)",
		"sqlEntry":         "SEARCH job USING INDEX job_prompt (prompt_id=? AND user=?)",
		"sqlHistoryPage":   "SEARCH job USING INDEX job_past (user=? AND ended>?)",
		"sqlHistorySkip":   "SEARCH job USING COVERING INDEX job_past (user=? AND ended>?)",
		"sqlHistoryLast":   "SEARCH job USING COVERING INDEX job_past (user=? AND ended>?)",
		"sqlCountOwn":      "SEARCH job USING COVERING INDEX job_past (user=? AND ended>? AND ended<?)",
		"sqlOwnNewest":     "SEARCH job USING COVERING INDEX job_past (user=? AND ended>? AND ended<?)",
		"sqlOwnOldest":     "SEARCH job USING COVERING INDEX job_past (user=? AND ended>? AND ended<?)",
		"sqlKeyed":         "SEARCH k USING PRIMARY KEY (user=? AND key=?)",
		"sqlRankPending":   "SEARCH job USING INTEGER PRIMARY KEY (rowid=?)",
		"sqlRankRunning":   "SEARCH job USING INTEGER PRIMARY KEY (rowid=?)",
		"sqlGoneOld":       "SEARCH job USING INDEX job_finished (finished<?)",
		"sqlGoneHistory":   "SEARCH j USING COVERING INDEX job_past (user=? AND ended>?)",
		"sqlGoneHiding":    "SEARCH j USING COVERING INDEX job_hidden (user=? AND ended>?)",
		"sqlKeysOver":      "SEARCH job_key USING INDEX job_key_until (until<?)",
		"sqlPruneKey":      "SEARCH job_key USING INDEX job_key_job (seq=?)",
		"sqlRecords":       "SEARCH job USING INTEGER PRIMARY KEY (rowid>?)",
		"sqlEnded":         "SEARCH job USING INDEX job_finished (finished>?)",
		"sqlHideAll":       "SEARCH job USING COVERING INDEX job_past (user=? AND ended>?)",
	} {
		query, ok := all[name]
		if !ok {
			t.Errorf("there is no statement %s", name)
			continue
		}
		must(t, db.Write(t.Context(), func(tx *sqlite.Tx) error {
			steps, err := tx.Plan(query)
			if err != nil {
				return err
			}
			if !slices.Contains(steps, want) {
				t.Errorf("%s goes by %q, want %q", name, steps, want)
			}
			picked := strings.HasPrefix(name, "sqlOwn") // sorts what the index has, not rows
			if !picked && slices.ContainsFunc(steps, func(s string) bool { return strings.Contains(s, "TEMP B-TREE") }) {
				t.Errorf("%s sorts: %q", name, steps)
			}
			return nil
		}))
	}
	for key, query := range sqlite.ListQueries() {
		own, sorted := !key[0], key[1]
		must(t, db.Write(t.Context(), func(tx *sqlite.Tx) error {
			steps, err := tx.Plan(query)
			if err != nil {
				return err
			}
			if own && !slices.ContainsFunc(steps, func(s string) bool {
				return strings.Contains(s, "job_past (user=?")
			}) {
				t.Errorf("list %v goes by %q", key, steps)
			}
			if !own && !sorted && slices.ContainsFunc(steps, func(s string) bool { return strings.Contains(s, "TEMP B-TREE") }) {
				t.Errorf("list %v sorts: %q", key, steps)
			}
			return nil
		}))
	}
}
