package cli_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
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

// TestSimSeveral runs two servers in one program, and refuses to give them one folder.
func TestSimSeveral(t *testing.T) {
	t.Parallel()
	ctx, stop := context.WithCancel(t.Context())
	said, ended := io.Pipe()
	code := make(chan int, 1)
	args := []string{"sim", "comfyui", "--listen=127.0.0.1:0", "--listen", "127.0.0.1:0"}
	go func() {
		code <- cli.Main(ctx, args, cli.System{Stdin: strings.NewReader(""), Stdout: ended, Stderr: io.Discard})
		ended.Close() //nolint:errcheck // a pipe's never fails
	}()
	lines := bufio.NewScanner(said)
	var seen []string
	for range 2 {
		if !lines.Scan() {
			t.Fatal("it ended early")
		}
		_, url, _ := strings.Cut(lines.Text(), " is at ")
		res, err := http.Get(url + "/queue")
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close() //nolint:errcheck // nothing of it is wanted
		if res.StatusCode != http.StatusOK || slices.Contains(seen, url) {
			t.Errorf("%s answers %s", url, res.Status)
		}
		seen = append(seen, url)
	}
	stop()
	if c := <-code; c != 0 {
		t.Errorf("code %d", c)
	}
	var errs strings.Builder
	c := cli.Main(t.Context(), append(args, "--output-directory", t.TempDir()), cli.System{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: &errs})
	if c != 2 || !strings.Contains(errs.String(), "can't share a folder") {
		t.Errorf("code %d, %s", c, errs.String())
	}
}

// TestSimSchedule rehearses a class and prints it as a table, as JSON, and as files, the same each time.
func TestSimSchedule(t *testing.T) {
	t.Parallel()
	run := func(args ...string) (out, errs string, code int) {
		var o, e strings.Builder
		sys := cli.System{Stdin: strings.NewReader(""), Stdout: &o, Stderr: &e}
		code = cli.Main(t.Context(), append([]string{"sim", "schedule", "--class=workshop", "--for=1h"}, args...), sys)
		return o.String(), e.String(), code
	}
	dir := t.TempDir()
	page, picture := filepath.Join(dir, "s.html"), filepath.Join(dir, "schedule-workshop.svg")
	table, errs, code := run("--users=5", "--gpus=1", "--html", page, "--pictures", dir)
	if code != 0 || !strings.Contains(table, "simulated") || !strings.Contains(table, "round_robin") {
		t.Fatalf("code %d, %s%s", code, table, errs)
	}
	for _, file := range []string{page, picture} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(text, []byte("</svg>")) || !bytes.Contains(bytes.ToLower(text), []byte("simulated")) {
			t.Errorf("%s: %.300s", file, text)
		}
		if bytes.Contains(text, []byte("<script")) || bytes.Contains(text, []byte(`src="http`)) {
			t.Errorf("%s needs something outside itself", file)
		}
	}
	flags := []string{"--json", "--modes=fair", "--affinity=on", "--users=6", "--gpus=3", "--speeds=1,0.5", "--memory=40GiB", "--models=4", "--load-times=5s,120s", "--seed=9"}
	facts, errs, code := run(flags...)
	if again, _, _ := run(flags...); code != 0 || again != facts {
		t.Fatalf("code %d, %s: another output\n%s\n%s", code, errs, facts, again)
	}
	var got []struct {
		People int
		Fleet  []struct{ Speed, GiB float64 }
		Models []struct{ Load float64 }
		Modes  []struct {
			Order string
			Jobs  int
		}
	}
	if err := json.Unmarshal([]byte(facts), &got); err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got[0].People != 6 || len(got[0].Fleet) != 3 || got[0].Fleet[1].Speed != 0.5 || got[0].Fleet[1].GiB != 40 ||
		len(got[0].Models) != 4 || got[0].Models[3].Load != 120 || len(got[0].Modes) != 1 || got[0].Modes[0].Order != "fair" || got[0].Modes[0].Jobs == 0 {
		t.Errorf("%s", facts)
	}
	for arg, want := range map[string]string{
		"--class=nope": "There is no class", "--modes=lottery": "There is no mode", "--memory=0.5": "memory is above 0", "--speeds=0": "speed",
		"--load-times=9s,2s": "quickest", "--load-times=1s,2s,3s": "--load-times", "--gpus=-1": "GPUs", "--memory=1GiB": "No GPU has room",
	} {
		if out, errs, code := run(arg); code != 2 || out != "" || !strings.Contains(errs, want) {
			t.Errorf("%s: code %d, %s%s", arg, code, out, errs)
		}
	}
}
