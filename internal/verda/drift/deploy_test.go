package drift_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/internal/agent/flags"
	"github.com/ahelme/comfyume/internal/verda"
	"github.com/ahelme/comfyume/internal/verda/drift"
)

// examples is the folder of the OpenTofu example.
var examples = filepath.Join("..", "..", "..", "deploy", "verda")

// TestExample holds the example in deploy/verda to what the studio asks of deployments.
func TestExample(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile(filepath.Join(examples, "main.tf"))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer("${local.port}", "8000", "var.comfyui_dir", `"/comfyui"`).Replace(string(b))
	cmd, entrypoint := words(t, text, "cmd"), words(t, text, "entrypoint")
	variable := regexp.MustCompile(`type\s*=\s*"(secret)"\s*name\s*=\s*"(\w+)"`).FindStringSubmatch(text)
	if len(variable) != 3 {
		t.Fatal("the example has no variable of type secret")
	}
	d := verda.Deployment{
		Name: "example",
		Containers: []verda.Container{{
			Image: "i:1", Entrypoint: &verda.Entrypoint{Enabled: true, Entrypoint: entrypoint, Cmd: cmd},
			Env: []verda.Variable{{Type: variable[1], Name: variable[2], Value: "comfyume-agent-key"}},
		}},
		Scaling: &verda.Scaling{Max: 4, Concurrent: number(t, text, "concurrent_requests_per_replica"), Min: number(t, text, "min_replica_count")},
	}
	r := drift.Compare([]drift.Expected{{BackEnd: "example", Deployment: "example", Mode: "agent", Parallel: 4}}, map[string]verda.Deployment{"example": d}, "")
	for _, f := range r.Findings {
		t.Error(f.Says())
	}
	for _, w := range cmd {
		if name, ok := strings.CutPrefix(w, "--comfyui-"); ok && name != "dir" {
			if f, known := flags.Lookup(name); !known || f.Refused != "" {
				t.Errorf("the agent does not take %s", w)
			}
		}
	}
}

// words reads a list of texts.
func words(t *testing.T, text, name string) (out []string) {
	t.Helper()
	list := regexp.MustCompile(`(?s)\b` + name + `\s*=\s*\[(.*?)\]`).FindStringSubmatch(text)
	if list == nil {
		t.Fatalf("there is no list %s", name)
	}
	for _, w := range regexp.MustCompile(`"([^"]*)"`).FindAllStringSubmatch(list[1], -1) {
		out = append(out, w[1])
	}
	return out
}

func number(t *testing.T, text, name string) (n int) {
	t.Helper()
	m := regexp.MustCompile(`\b` + name + `\s*=\s*(\d)\b`).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("there is no number %s", name)
	}
	return int(m[1][0] - '0')
}

// TestExampleIsWritten: as far as it can be said without the provider, the files are right: brackets match, no secret is in
// them, and where OpenTofu or Terraform is installed it reads them and finds them well formed.
func TestExampleIsWritten(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join(examples, "*.tf"))
	if err != nil || len(files) < 4 {
		t.Fatalf("%v, %v", files, err)
	}
	secret := regexp.MustCompile(`(?i)\b(client_secret|client_id|access_token|password|secret_access_key)\s*=`)
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if at := unmatched(string(text)); at != 0 {
			t.Errorf("%s:%d: a bracket does not match", name, at)
		}
		if m := secret.Find(text); m != nil {
			t.Errorf("%s has %s: secrets come from the environment or by their names", name, m)
		}
	}
	for _, program := range []string{"tofu", "terraform"} {
		path, err := exec.LookPath(program)
		if err != nil {
			continue
		}
		if out, err := exec.Command(path, "fmt", "-check", "-diff", "-no-color", examples).CombinedOutput(); err != nil { //nolint:gosec // found in the path
			t.Errorf("%s fmt: %v\n%s", program, err, out)
		}
		return
	}
	t.Log("neither tofu nor terraform is installed: only brackets and secrets were looked at")
}

// unmatched returns the line of the first bracket without its counterpart; 0: all match. Texts and comments are left out.
func unmatched(text string) int {
	var open []rune
	var lines []int
	line, quoted, comment := 1, false, false
	closes := map[rune]rune{')': '(', ']': '[', '}': '{'}
	var before rune
	for _, r := range text {
		switch {
		case r == '\n':
			if quoted {
				return line
			}
			line, comment = line+1, false
		case comment:
		case quoted:
			quoted = r != '"' || before == '\\'
		case r == '"':
			quoted = true
		case r == '#':
			comment = true
		case strings.ContainsRune("([{", r):
			open, lines = append(open, r), append(lines, line)
		case closes[r] != 0:
			if len(open) == 0 || open[len(open)-1] != closes[r] {
				return line
			}
			open, lines = open[:len(open)-1], lines[:len(lines)-1]
		}
		before = r
	}
	if len(lines) > 0 {
		return lines[len(lines)-1]
	}
	return 0
}

func TestUnmatched(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int{
		"a = {\n  b = [\"}\"] # {\n}\n": 0, "a = {\n": 1, "a = [\n}\n": 2, "a = \"b\n\"": 1, "a = \"\\\"{\"": 0, ")": 1,
	} {
		if got := unmatched(text); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
}
