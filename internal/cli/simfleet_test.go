package cli_test

import (
	"strings"
	"testing"

	"github.com/ahelme/comfyume/internal/cli"
)

// TestSimFleetWrongUse refuses values that would do nothing, or not what was meant.
func TestSimFleetWrongUse(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"--replicas=0":             "--replicas has to be at least 1.",
		"--per-replica=0":          "--per-replica has to be at least 1.",
		"--warm=9":                 "9 of them warm",
		"--cold-start=-1s":         "--cold-start can't be less than 0.",
		"--visible-after=1s":       "--shared",
		"--agent-arg=--x":          "--agent-arg needs --agent.",
		"--bandwidth=lots":         "--bandwidth is a size a second",
		"--key=hunter2":            "--key: a secret is never written in clear",
		"--there-is-no-such-thing": "unknown flag",
	} {
		var out, errs strings.Builder
		sys := cli.System{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs}
		code := cli.Main(t.Context(), []string{"sim", "fleet", "--listen=127.0.0.1:0", args}, sys)
		if code != 2 || !strings.Contains(errs.String(), want) || strings.Contains(errs.String(), "hunter2") {
			t.Errorf("%s: code %d, %s", args, code, errs.String())
		}
	}
}
