package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
)

// Python is the interpreter that runs a ComfyUI.
type Python struct {
	Path     string
	Portable bool // that of the portable Windows folder
}

// ComfyUIDir returns the folder that main.py is in: dir itself, or ComfyUI below it in the portable Windows folder.
func ComfyUIDir(dir string) (string, error) {
	full, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("finding %s: %w", dir, err)
	}
	for _, d := range []string{full, filepath.Join(full, "ComfyUI")} {
		if isFile(filepath.Join(d, "main.py")) {
			return d, nil
		}
	}
	f := fault.New(fault.Invalid, "There is no ComfyUI in %s: it has no main.py.", full).WithCode(CodeNotComfyUI)
	if _, err := os.Stat(full); err != nil {
		f = fault.New(fault.Invalid, "There is no folder %s.", full).WithCode(CodeNotComfyUI)
	}
	return "", f.WithRemedy("Name the folder that ComfyUI's main.py is in with --comfyui-dir DIR.")
}

// FindPython returns the Python for the ComfyUI in dir: the given one, else that of a venv in the folder, else that of
// the portable Windows folder, else the system's.
func FindPython(dir, given string) (Python, error) {
	if given != "" {
		path, err := exec.LookPath(given)
		if err == nil {
			path, err = filepath.Abs(path) // it is started in ComfyUI's folder
		}
		if err != nil {
			return Python{}, fault.Wrap(fault.Invalid, err, "There is no Python at %s that can be started.", given).
				WithCode(CodeNoPython).WithRemedy("Name one with --python FILE, or leave it out.")
		}
		portable := filepath.Base(filepath.Dir(path)) == "python_embeded"
		return Python{Path: path, Portable: portable}, nil
	}
	for _, c := range []struct {
		path     string
		portable bool
	}{
		{filepath.Join(dir, "venv", "bin", "python"), false},
		{filepath.Join(dir, ".venv", "bin", "python"), false},
		{filepath.Join(dir, "venv", "Scripts", "python.exe"), false},
		{filepath.Join(dir, ".venv", "Scripts", "python.exe"), false},
		{filepath.Join(dir, "..", "python_embeded", "python.exe"), true},
	} {
		if isFile(c.path) {
			return Python{filepath.Clean(c.path), c.portable}, nil
		}
	}
	names := []string{"python3", "python"}
	if runtime.GOOS == "windows" { // its python3 is a page of the shop
		names = []string{"python", "py"}
	}
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return Python{Path: path}, nil
		}
	}
	return Python{}, fault.New(fault.Invalid, "There is no Python: neither a venv in %s nor python3.", dir).WithCode(CodeNoPython).
		WithRemedy("Install Python 3.12 and ComfyUI's requirements, or name one with --python FILE.")
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// inspection is what a Python says of itself.
type inspection struct {
	Version [3]int   `json:"version"`
	Torch   string   `json:"torch"`  // version; empty: not installed
	CUDA    string   `json:"cuda"`   // torch was built for it; empty: for none
	Other   string   `json:"other"`  // torch was built for another kind of device (HIP, XPU)
	Missing []string `json:"absent"` // of the requirements
}

// inspectScript asks a Python about itself without loading torch, which takes seconds. Its argument is a
// requirements.txt.
const inspectScript = `
import sys, json
out = {"version": list(sys.version_info[:3]), "torch": "", "cuda": "", "other": "", "absent": []}
try:
    import importlib.util, importlib.metadata, os, re
    spec = importlib.util.find_spec("torch")
    if spec is not None and spec.origin:
        out["torch"] = "?"
        facts = {}
        try:
            with open(os.path.join(os.path.dirname(spec.origin), "version.py")) as f:
                exec(f.read(), facts)
            out["torch"] = str(facts.get("__version__", "?"))
            out["cuda"] = str(facts.get("cuda") or "")
            out["other"] = str(facts.get("hip") or facts.get("xpu") or "")
        except Exception:
            pass
    try:
        lines = open(sys.argv[1], encoding="utf-8").read().split("\n")
    except Exception:
        lines = []
    for line in lines:
        m = re.match(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)", line)
        if not m or ";" in line:
            continue
        try:
            importlib.metadata.version(m.group(1))
        except importlib.metadata.PackageNotFoundError:
            out["absent"].append(m.group(1))
except Exception:
    pass
print("comfyume:" + json.dumps(out))
`

// inspect asks a Python about itself.
func inspect(ctx context.Context, python Python, dir string, env []string) (inspection, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	args := []string{"-c", inspectScript, filepath.Join(dir, "requirements.txt")}
	if python.Portable {
		args = append([]string{"-s"}, args...)
	}
	cmd := exec.CommandContext(ctx, python.Path, args...)
	cmd.Dir, cmd.Env, cmd.WaitDelay = dir, env, time.Second
	out, err := cmd.Output()
	if err != nil {
		if failed, ok := errors.AsType[*exec.ExitError](err); ok && len(failed.Stderr) > 0 {
			err = fmt.Errorf("%w: %s", err, clip(lastLine(string(failed.Stderr))))
		}
		return inspection{}, fmt.Errorf("asking %s about itself: %w", python.Path, err)
	}
	_, text, found := strings.Cut(string(out), "comfyume:")
	var in inspection
	if !found || json.Unmarshal([]byte(text), &in) != nil {
		return in, fmt.Errorf("%s is no Python: it answered %q", python.Path, clip(string(out)))
	}
	return in, nil
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}

// needs is the oldest Python that a ComfyUI wants, from its pyproject.toml.
var needs = regexp.MustCompile(`(?m)^requires-python\s*=\s*">=\s*3\.(\d+)`)

// oldestPython returns the minor number of the oldest Python 3 that the ComfyUI in dir wants.
func oldestPython(dir string) int {
	const known = 9 // of 0.3.64
	text, err := os.ReadFile(filepath.Join(dir, "pyproject.toml"))
	if err != nil {
		return known
	}
	if m := needs.FindStringSubmatch(string(text)); m != nil {
		if n, err := strconv.Atoi(m[1]); err == nil {
			return n
		}
	}
	return known
}
