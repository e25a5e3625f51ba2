package app_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/ahelme/comfyume/"

// words are the packages everybody may use: standard library only, no I/O.
var words = []string{"fault", "identity", "job", "file", "event", "comfy", "comfy/pyjson", "job/index", "near"}

// layers says which packages of ours a package may import, and why it may not have more. A package below another is
// of its family: it has the rule of the nearest one in this table, and a family's packages may import each other. A
// package without family fails the test: decide where it belongs before it grows.
var layers = map[string]struct {
	may []string
	why string
}{
	"fault":        {nil, "words use the standard library only"},
	"comfy/pyjson": {nil, "words use the standard library only"},
	"comfy":        {[]string{"comfy/pyjson", "fault"}, "ComfyUI's vocabulary knows nothing of the studio"},
	"job":          {[]string{"fault"}, "words use words only"},
	"job/index":    {nil, "words use the standard library only"},
	"near":         {nil, "words use the standard library only"},
	"identity":     {[]string{"fault"}, "words use words only"},
	"file":         {[]string{"fault", "job"}, "words use words only"},
	"event":        {[]string{"fault", "job"}, "the bus carries jobs and must not know who listens"},

	"account":             {[]string{"fault", "identity"}, "people are independent of what they run"},
	"account/accounttest": {[]string{"account", "fault", "identity"}, "a suite knows its contract only"},
	"agents":              {[]string{"fault"}, "who may dial home is independent of the line and of what runs"},
	"agents/agentstest":   {[]string{"agents", "fault"}, "a suite knows its contract only"},
	"audit":               {[]string{"fault", "identity"}, "a record is written by others"},
	"usage":               {[]string{"comfy", "comfy/pyjson", "job", "fault"}, "a ledger hears of jobs, and asks nobody"},
	"usage/usagetest":     {[]string{"usage"}, "a suite knows its contract only"},
	"blob":                {[]string{"fault", "identity"}, "bytes know nothing of jobs"},
	"volume":              {nil, "the system's word on disks"},
	"blob/disk":           {[]string{"blob", "fault", "volume"}, "a store knows its contract only"},
	"blob/blobtest":       {[]string{"blob", "fault"}, "a suite knows its contract only"},
	"bucket":              {[]string{"fault"}, "an adapter of one outside thing"},
	"bucket/buckettest":   {[]string{"bucket"}, "a test server knows what it serves only"},
	"blob/s3":             {[]string{"blob", "bucket", "fault"}, "a store knows its contract only"},
	"handover":            {[]string{"bucket", "fault", "volume"}, "what lies between two machines knows neither jobs nor people"},
	"queue":               {[]string{"job", "job/index", "fault"}, "the queue stores jobs; who runs them is dispatch's matter"},
	"queue/memory":        {[]string{"queue", "job", "fault"}, "a store knows its contract only"},
	"queue/queuetest":     {[]string{"queue", "job", "fault", "benchtest"}, "a suite knows its contract only"},
	"policy":              {[]string{"comfy", "comfy/pyjson", "job", "fault", "file"}, "policy is a pure rule over a graph"},
	"backend":             {[]string{"comfy", "job", "fault", "file"}, "the contract of a GPU source"},
	"backend/comfyui":     {[]string{"backend", "backend/apart", "comfy", "comfy/pyjson", "job", "fault", "file"}, "a driver knows its contract and words only"},
	"backend/serverless":  {[]string{"backend", "oneshot", "handover", "comfy", "comfy/pyjson", "job", "fault", "file"}, "a driver knows its contract, the language of its containers and words only"},
	"oneshot":             {[]string{"backend", "handover", "comfy", "comfy/pyjson", "job", "fault", "file"}, "how a job travels; who runs it comes as a driver"},
	"backend/apart":       {[]string{"backend", "comfy", "comfy/pyjson", "job", "fault", "file"}, "a driver around a driver knows their contract and words only"},
	"backend/balanced":    {[]string{"backend", "backend/apart", "backend/comfyui", "handover", "comfy", "comfy/pyjson", "job", "fault", "file"}, "it is many of the plain driver's servers at one address"},
	"backend/backendtest": {[]string{"backend", "comfy", "comfy/pyjson", "job", "fault", "file"}, "a suite knows its contract only"},
	"backend/dialhome":    {[]string{"backend", "backend/comfyui", "tunnel", "comfy", "job", "fault"}, "a ComfyUI behind an agent is driven as any other, over the agent's line"},
	"tunnel":              {[]string{"fault"}, "a line carries bytes and knows nothing of runs"},
	"sched":               {[]string{"job", "job/index", "backend", "fault"}, "the choice is a pure machine without I/O"},
	"fleet":               {[]string{"backend", "comfy", "comfy/pyjson", "fault", "file", "job"}, "back ends know nothing of people"},
	"catalog":             {[]string{"backend", "comfy", "comfy/pyjson", "fault", "file", "job"}, "what can run is independent of who asks"},
	"catalog/catalogtest": {[]string{"catalog", "fleet", "fault"}, "a suite knows its contracts only"},
	"workspace":           {[]string{"blob", "fault", "file", "job", "volume"}, "a person's files are independent of back ends"},
	"deliver":             {[]string{"blob", "job", "comfy", "fault", "file"}, "delivery gets bytes and gives names"},
	"thumb":               {[]string{"fault", "file", "identity"}, "pictures only, and whose turn it is"},
	"rewrite":             {[]string{"backend", "comfy", "comfy/pyjson", "job", "file", "fault"}, "the one translation between a person's and a back end's names"},
	"dispatch":            {[]string{"job", "sched", "backend", "event", "fault", "file", "comfy"}, "everything else comes as its own small interface"},
	"comfyserver/room":    {[]string{"comfy", "comfy/pyjson", "job", "event", "fault"}, "the live side of one person hears by the bus"},
	"comfyserver":         {[]string{"comfyserver/room", "comfy", "comfy/pyjson", "job", "event", "fault", "identity", "file"}, "everything else comes as its own small interface"},
	"api":                 {[]string{"job", "event", "fault", "identity"}, "everything else comes as its own small interface"},
	"queueapi":            {[]string{"comfy", "comfy/pyjson", "job", "event", "fault", "identity"}, "everything else comes as its own small interface"},
	"gateway":             {[]string{"account", "fault", "identity"}, "faces are handed in as http.Handler"},
	"frontend":            {[]string{"fault"}, "the official page is data"},
	"sqlite":              {append([]string{"queue", "account", "deliver", "workspace", "catalog", "fleet", "blob", "backend", "usage", "agents"}, words...), "an adapter knows the contracts it implements"},
	"redis":               {append([]string{"queue", "account", "deliver", "workspace", "catalog", "fleet", "blob", "backend", "usage", "agents"}, words...), "an adapter knows the contracts it implements"},
	"verda":               {[]string{"fault", "near"}, "an adapter of one outside thing"},
	"tlscert":             {[]string{"fault"}, "an adapter of one outside thing"},
	"telemetry":           {[]string{"fault"}, "an adapter of one outside thing"},
	"agent/report":        {[]string{"fault"}, "words on the line between a GPU machine and the studio"},
	"agent/modelstore":    {[]string{"agent/report", "fault", "volume"}, "files beside a ComfyUI; the agent mounts it"},
	"agent/nodepacks":     {[]string{"agent/report", "fault"}, "custom nodes beside a ComfyUI; the agent mounts it"},
	"sim":                 {[]string{"comfy", "comfy/pyjson", "fault", "sim/folders", "sim/raster", "sim/media", "sim/nodes", "sim/executor"}, "the simulator stands outside: it must not share our server's code"},
	"sim/folders":         {nil, "directories and names"},
	"rehearse":            {[]string{"sched", "queue", "queue/memory", "usage", "job", "fault"}, "a rehearsal runs the product's own decisions, and nothing that waits for a real clock"},
	"agent":               {[]string{"agent/modelstore", "agent/nodepacks", "agent/report", "backend", "backend/apart", "backend/comfyui", "comfy", "comfy/pyjson", "config", "fault", "file", "handover", "job", "near", "oneshot", "resident", "tunnel", "usage"}, "it stands beside a ComfyUI, knows a studio by what travels between them only, and learns of nodes as a studio does"},
	"config":              {[]string{"near"}, "settings are plain data; app translates them into each part's options"},
	"client":              {[]string{"agent/report", "api", "fault", "identity", "job"}, "a client sees the interface only"},
	"cli":                 {[]string{"agent", "agent/report", "app", "api", "client", "config", "fault", "frontend", "identity", "job", "near", "rehearse", "resident", "sim", "telemetry"}, "commands are clients of the interface"},
	"resident":            {nil, "the system's word on memory"},
	"benchtest":           {nil, "benchmarks of every package measure with it"},
	"app":                 {nil, ""}, // sees everything; see TestImports
	"../cmd/comfyume":     {[]string{"cli"}, "main only calls cli"},
	"../e2e":              {[]string{"client", "api", "sim", "bucket/buckettest"}, "end-to-end tests see the built binary from outside"},
}

// onlyIn keeps each library behind one or two packages, so that it can be replaced in one place.
var onlyIn = map[string][]string{
	"modernc.org/sqlite":                  {"sqlite"},
	"github.com/pressly/goose":            {"sqlite"},
	"github.com/redis/rueidis":            {"redis"},
	"github.com/coder/websocket":          {"comfyserver", "comfyserver/room", "backend/comfyui", "backend/backendtest", "sim", "queueapi", "tunnel", "../e2e"},
	"github.com/hashicorp/yamux":          {"tunnel"},
	"github.com/caddyserver/certmagic":    {"tlscert"},
	"go.uber.org/zap":                     {"tlscert"},
	"github.com/danielgtaylor/huma":       {"api"},
	"github.com/prometheus/client_golang": {"telemetry"}, // and every package's metrics.go
	"github.com/deepteams/webp":           {"thumb"},
	"golang.org/x/image":                  {"thumb", "sim"},
	"go.yaml.in/yaml":                     {"config", "agent"},
	"github.com/caarlos0/env":             {"config"},
	"github.com/gofrs/flock":              {"app"},
	"golang.org/x/crypto":                 {"account"},
	"golang.org/x/term":                   {"cli", "telemetry"},
	"github.com/mattn/go-isatty":          {"cli", "telemetry"},
	"github.com/minio/minio-go":           {"bucket"},
	"maragu.dev/gomponents":               {"gateway", "frontend", "rehearse/report"},
	// Only tests and suites.
	"github.com/johannesboyne/gofakes3": nil,
	"github.com/google/go-cmp":          nil,
	"go.uber.org/goleak":                nil,
	"pgregory.net/rapid":                nil,
	"github.com/chromedp":               nil,
	"github.com/rogpeppe/go-internal":   nil,
	"github.com/letsencrypt/pebble":     nil,
}

// drawers are names that say nothing: packages called so collect what belongs elsewhere.
var drawers = []string{"util", "utils", "common", "helper", "helpers", "types", "models", "core", "manager", "base", "misc", "shared"}

const (
	maxSource   = 500 // lines of a source file
	maxTest     = 800 // lines of a test file
	maxFunction = 80  // lines of a function outside tests
)

// source is one Go file of the module.
type source struct {
	path string // relative to the module's root, with slashes
	pkg  string // key into layers
	test bool
	file *ast.File
	fset *token.FileSet
	size int // lines
}

// suite reports whether the package exists for tests: a conformance suite or fakes.
func (s source) suite() bool {
	name := path.Base(s.pkg)
	return strings.HasSuffix(name, "test") || name == "e2e"
}

// sources parses every Go file below cmd, internal and e2e.
func sources(t *testing.T) []source {
	t.Helper()
	root := filepath.Join("..", "..")
	var all []source
	for _, top := range []string{"cmd", "internal", "e2e"} {
		dir := filepath.Join(root, top)
		if _, err := os.Stat(dir); err != nil {
			continue
		}
		err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.IsDir() && (d.Name() == "testdata" || d.Name() == "node_modules") {
				return fs.SkipDir
			}
			if d.IsDir() || !strings.HasSuffix(p, ".go") {
				return nil
			}
			s, err := parse(root, p)
			if err != nil {
				return err
			}
			all = append(all, s)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(all) < 5 {
		t.Fatalf("found %d Go files: the walk looks at the wrong place", len(all))
	}
	return all
}

func parse(root, p string) (source, error) {
	text, err := os.ReadFile(p)
	if err != nil {
		return source{}, err
	}
	rel, err := filepath.Rel(root, p)
	if err != nil {
		return source{}, err
	}
	rel = filepath.ToSlash(rel)
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, rel, text, parser.ParseComments)
	if err != nil {
		return source{}, err
	}
	pkg, inside := strings.CutPrefix(path.Dir(rel), "internal/")
	if !inside {
		pkg = "../" + path.Dir(rel)
	}
	return source{
		path: rel, pkg: pkg, test: strings.HasSuffix(rel, "_test.go"), file: f, fset: fset,
		size: strings.Count(string(text), "\n"),
	}, nil
}

// TestImports holds the layers: downward only, programs → faces and adapters → rules → words.
func TestImports(t *testing.T) {
	t.Parallel()
	for _, s := range sources(t) {
		family := familyOf(s.pkg)
		layer := layers[family]
		if family == "" {
			t.Errorf("%s: package %s is not in the table of layers; add it there with what it may import", s.path, s.pkg)
			continue
		}
		for _, spec := range s.file.Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			ours, isOurs := strings.CutPrefix(name, module+"internal/")
			switch {
			case !isOurs:
				checkWall(t, s, name)
			case s.test || s.pkg == "app" || familyOf(ours) == family:
				if s.pkg == "app" && ours == "cli" {
					t.Errorf("%s imports cli: commands start the app, never the other way", s.path)
				}
			case !slices.Contains(layer.may, familyOf(ours)):
				t.Errorf("%s: %s must not import %s: %s", s.path, s.pkg, ours, layer.why)
			}
		}
	}
}

// familyOf returns the nearest of pkg and the packages above it that is in the table.
func familyOf(pkg string) string {
	for ; pkg != "." && pkg != ".."; pkg = path.Dir(pkg) {
		if _, ok := layers[pkg]; ok {
			return pkg
		}
	}
	return ""
}

func checkWall(t *testing.T, s source, name string) {
	t.Helper()
	for lib, where := range onlyIn {
		if name != lib && !strings.HasPrefix(name, lib+"/") {
			continue
		}
		metrics := lib == "github.com/prometheus/client_golang" && path.Base(s.path) == "metrics.go"
		if s.test || s.suite() || metrics || slices.Contains(where, s.pkg) || slices.Contains(where, familyOf(s.pkg)) {
			return
		}
		if where == nil {
			t.Errorf("%s imports %s: that library is for tests", s.path, name)
			return
		}
		t.Errorf("%s imports %s: only %s may, so that it can be replaced in one place", s.path, name, strings.Join(where, ", "))
	}
}

// TestHouseRules holds what a glance at one file can miss: size, package comments, names, hidden registration.
func TestHouseRules(t *testing.T) {
	t.Parallel()
	documented := map[string]bool{}
	for _, s := range sources(t) {
		if slices.Contains(drawers, path.Base(s.pkg)) {
			t.Errorf("%s: a package called %s collects what belongs elsewhere; name it after what it is", s.path, path.Base(s.pkg))
		}
		if limit := map[bool]int{false: maxSource, true: maxTest}[s.test]; s.size > limit && !ast.IsGenerated(s.file) {
			t.Errorf("%s has %d lines; the limit is %d: split it by what it does", s.path, s.size, limit)
		}
		documented[s.pkg] = documented[s.pkg] || s.test || s.file.Doc != nil
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || s.test {
				continue
			}
			lines := s.fset.Position(f.End()).Line - s.fset.Position(f.Pos()).Line + 1
			if lines > maxFunction {
				t.Errorf("%s: %s has %d lines; the limit is %d", s.path, f.Name.Name, lines, maxFunction)
			}
			if f.Recv == nil && f.Name.Name == "init" {
				t.Errorf("%s: init runs before anybody can hand in what it needs; build it in a constructor", s.path)
			}
		}
		if s.test {
			checkSleep(t, s)
		}
	}
	for pkg, ok := range documented {
		if !ok {
			t.Errorf("package %s has no package comment", pkg)
		}
	}
}

// checkSleep refuses time.Sleep in tests: a sleep is either too short on a slow machine or too long on all.
// Inside a testing/synctest bubble time is virtual, and sleeping is how a test lets it pass.
func checkSleep(t *testing.T, s source) {
	t.Helper()
	for _, spec := range s.file.Imports {
		if spec.Path.Value == `"testing/synctest"` {
			return
		}
	}
	ast.Inspect(s.file, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if id, ok := sel.X.(*ast.Ident); ok && id.Name == "time" && sel.Sel.Name == "Sleep" {
			t.Errorf("%s: time.Sleep in a test; wait for the event, or use testing/synctest", s.fset.Position(n.Pos()))
		}
		return true
	})
}
