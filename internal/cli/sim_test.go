package cli_test

import (
	"strings"
	"testing"

	"github.com/ahelme/comfyume/internal/cli"
)

// TestSimWrongUse refuses values that would do nothing, or not what was meant, in one sentence that names the flag.
func TestSimWrongUse(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"--step-time=5":            "--step-time",
		"--step-time=-1s":          "--step-time can't be less than 0.",
		"--freeze-for=-1s":         "--freeze-for can't be less than 0.",
		"--fail-rate=2":            "--fail-rate is a chance from 0 to 1.",
		"--crash-rate=NaN":         "--crash-rate is a chance from 0 to 1.",
		"--video-memory=lots":      "--video-memory",
		"--video-memory=0":         "--video-memory has to be more than 0.",
		"--bandwidth=0":            "--bandwidth has to be more than 0.",
		"--identity=new":           "--identity is a version such as 0.3.64",
		"--fail-nodes=Nope":        "There is no node Nope that could fail.",
		"--front-end-root=/nope":   "There is no built editor in /nope.",
		"--model-directory=/nope":  "The folder of models /nope can't be read.",
		"--there-is-no-such-thing": "unknown flag",
	} {
		var out, errs strings.Builder
		sys := cli.System{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs}
		code := cli.Main(t.Context(), []string{"sim", "comfyui", "--listen=127.0.0.1:0", args}, sys)
		if code != 2 || !strings.Contains(errs.String(), want) {
			t.Errorf("%s: code %d, %s", args, code, errs.String())
		}
		if out.Len() > 0 {
			t.Errorf("%s: %s", args, out.String())
		}
	}
}
