package agent

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/config"
)

func write(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestReadSettings(t *testing.T) {
	t.Parallel()
	file := write(t, `
server: https://lab.example/studio
name: lab-1
data: data
comfyui_dir: ../ComfyUI
python: .venv/bin/python
stop_after: 90s
key: file:key
allow_nodes: true
model_keys: {huggingface.co: env:HF_TOKEN}
comfyui:
  verbose: debug
  lowvram: true
  highvram: false
  listen: true
  reserve-vram: 1.5
  output-directory: out
  extra-model-paths-config: [a.yaml, /b.yaml]
  fast: [autotune]
comfyui_args: [--new-flag, 7]
`)
	s, err := ReadSettings(file)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(file)
	if s.Server != "https://lab.example/studio" || s.Name != "lab-1" || s.Data != filepath.Join(dir, "data") || s.Dir != filepath.Join(dir, "..", "ComfyUI") ||
		s.Python != filepath.Join(dir, ".venv", "bin", "python") || s.StopAfter != 90*time.Second || s.Key.Reference() != "file:"+filepath.Join(dir, "key") ||
		!s.AllowNodes || s.ModelKeys["huggingface.co"].Reference() != "env:HF_TOKEN" {
		t.Errorf("%+v", s)
	}
	want := "--listen --verbose DEBUG --output-directory " + filepath.Join(dir, "out") + " --lowvram --reserve-vram 1.5 --new-flag 7 --extra-model-paths-config " +
		filepath.Join(dir, "a.yaml") + " /b.yaml --fast autotune"
	if got := strings.Join(s.Flags.Args(), " "); got != want {
		t.Errorf("the command line is\n%s, want\n%s", got, want)
	}
}

// TestSettingsAreAllNamed: every wrong line is named at once, with what was probably meant.
func TestSettingsAreAllNamed(t *testing.T) {
	t.Parallel()
	file := write(t, `
sever: x
lowvram: true
key: hunter2
stop_after: soon
allow_nodes: perhaps
name: [a]
model_keys: {huggingface: env:X, civitai.com: plain}
comfyui:
  lowram: true
  lowvram: maybe
  --cpu: true
  reserve_vram: 1
  port: 8188
  port: 8189
  verbose: [DEBUG, INFO]
  output-directory: {a: b}
comfyui_args: --x
`)
	_, err := ReadSettings(file)
	var problems config.Problems
	if !errors.As(err, &problems) {
		t.Fatalf("%v", err)
	}
	text := problems.Error()
	for _, want := range []string{
		file + ":2: sever: there is no such setting; did you mean server?",
		":3: lowvram: is a flag of ComfyUI and belongs below comfyui:",
		":4: key: a secret is never written in clear",
		":5: stop_after:", ":6: allow_nodes:", ":7: name: is a single value",
		"model_keys.huggingface: \"huggingface\" is no name of a host", "model_keys.civitai.com: a secret is never written in clear",
		":10: comfyui.lowram: ComfyUI has no flag --lowram; did you mean lowvram?",
		`:11: comfyui.lowvram: "maybe" is neither true nor false`,
		"comfyui.--cpu: is written without the dashes: cpu",
		"comfyui.reserve_vram: is written as ComfyUI writes it: reserve-vram",
		"comfyui.port: is there twice",
		"comfyui.verbose: takes one value, not 2",
		"comfyui.output-directory: is a single value or a list",
		"comfyui_args: is a list",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("it does not say %q:\n%s", want, text)
		}
	}
	if strings.Contains(text, "hunter2") || strings.Contains(text, "plain") {
		t.Errorf("a secret is told:\n%s", text)
	}
	for name, bad := range map[string]string{"a tab": "a:\n\tb: c\n", "a list": "- a\n"} {
		if _, err := ReadSettings(write(t, bad)); !errors.As(err, &problems) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ReadSettings(filepath.Join(t.TempDir(), "none.yaml")); err == nil || !strings.Contains(err.Error(), "there is no such file") {
		t.Errorf("%v", err)
	}
	if s, err := ReadSettings(write(t, "")); err != nil || s.Server != "" {
		t.Errorf("an empty file: %+v %v", s, err)
	}
}

func FuzzReadSettings(f *testing.F) {
	f.Add("server: x\ncomfyui: {port: 1}\n")
	f.Add("comfyui: &a {fast: [*a]}\n")
	f.Add("model_keys: {a.b: [c]}\ncomfyui_args: [[x]]\n")
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := ReadSettings(write(t, text)); err != nil {
			var problems config.Problems
			if !errors.As(err, &problems) || len(problems) == 0 {
				t.Errorf("%q: %v", text, err)
			}
		}
	})
}

func TestFindPython(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	make := func(parts ...string) string {
		path := filepath.Join(append([]string{root}, parts...)...)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		return path
	}
	make("ComfyUI", "main.py")
	dir, err := ComfyUIDir(root)
	if err != nil || dir != filepath.Join(root, "ComfyUI") {
		t.Errorf("the portable folder: %q %v", dir, err)
	}
	if _, err := ComfyUIDir(filepath.Join(root, "none")); err == nil || !strings.Contains(err.Error(), "There is no folder") {
		t.Error(err)
	}
	if _, err := ComfyUIDir(t.TempDir()); err == nil || !strings.Contains(err.Error(), "has no main.py") {
		t.Error(err)
	}
	portable := make("python_embeded", "python.exe")
	if p, err := FindPython(dir, ""); err != nil || p.Path != portable || !p.Portable {
		t.Errorf("the portable Python: %+v %v", p, err)
	}
	dotted := make("ComfyUI", ".venv", "bin", "python")
	if p, err := FindPython(dir, ""); err != nil || p.Path != dotted || p.Portable {
		t.Errorf(".venv: %+v %v", p, err)
	}
	venv := make("ComfyUI", "venv", "bin", "python")
	if p, err := FindPython(dir, ""); err != nil || p.Path != venv {
		t.Errorf("venv: %+v %v", p, err)
	}
	if p, err := FindPython(dir, portable); err != nil || !p.Portable {
		t.Errorf("the portable Python by name: %+v %v", p, err)
	}
	if _, err := FindPython(dir, filepath.Join(root, "none")); err == nil || !strings.Contains(err.Error(), "There is no Python at") {
		t.Error(err)
	}
	s := NewSupervisor(Own{Dir: dir})
	if got := strings.Join(s.Command(Python{Portable: true}), " "); !strings.HasPrefix(got, "-s main.py ") || !strings.Contains(got, "--windows-standalone-build") || !strings.Contains(got, "--disable-auto-launch") {
		t.Errorf("the portable command line is %s", got)
	}
}

func TestCommitOf(t *testing.T) {
	t.Parallel()
	const sum = "a125cd84b054a57729b5eecab930ca9408719832"
	dir := t.TempDir()
	put := func(name, text string) {
		path := filepath.Join(dir, ".git", filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := commitOf(dir); got != "" {
		t.Errorf("no repository: %q", got)
	}
	put("HEAD", "ref: refs/heads/master\n")
	put("packed-refs", "# pack-refs\n"+sum+" refs/heads/master\n")
	if got := commitOf(dir); got != sum {
		t.Errorf("packed: %q", got)
	}
	put("refs/heads/master", strings.Repeat("b", 40)+"\n")
	if got := commitOf(dir); got != strings.Repeat("b", 40) {
		t.Errorf("loose: %q", got)
	}
	put("HEAD", sum+"\n")
	if got := commitOf(dir); got != sum {
		t.Errorf("detached: %q", got)
	}
}
