package frontend

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/ahelme/comfyume/internal/fault"
)

// download brings one package by pip into folder and returns its file. pip knows the account's package index,
// proxy and certificates, and compares the download with the index's hash.
func download(ctx context.Context, folder, name, version string) (string, error) {
	python, err := findPython()
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, python, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:",
		"--no-input", "--disable-pip-version-check", "--quiet", "--dest", folder, name+"=="+version)
	cmd.Env = append(os.Environ(), "PYTHONUNBUFFERED=1")
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return "", fault.Wrap(fault.Unavailable, context.Cause(ctx), "The download of %s was stopped.", name)
	}
	if err != nil {
		return "", explain(string(out), err, name, version)
	}
	found, err := filepath.Glob(filepath.Join(folder, "*.whl"))
	if err != nil || len(found) != 1 {
		return "", fault.Wrap(fault.Internal, errors.Join(err, fmt.Errorf("found %q", found)), "pip brought no package of %s.", name)
	}
	return found[0], nil
}

// findPython returns the Python whose pip is used.
func findPython() (string, error) {
	for _, name := range []string{"python3", "python", "py"} {
		if found, err := exec.LookPath(name); err == nil {
			return found, nil
		}
	}
	return "", fault.New(fault.Unavailable, "Python is not here, and its pip brings the editor's page.").
		WithRemedy("Install Python 3 with pip, or bring the package yourself and type: comfyume frontend install FILE.whl")
}

// explain turns pip's complaint into one sentence with what to do.
func explain(out string, cause error, name, version string) error {
	last := ""
	for line := range strings.Lines(out) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "WARNING") {
			last = line
		}
	}
	cause = fmt.Errorf("pip: %s: %w", last, cause)
	offline := "bring the package yourself and type: comfyume frontend install FILE.whl"
	switch {
	case strings.Contains(out, "No module named pip"):
		return fault.Wrap(fault.Unavailable, cause, "pip is missing, and it brings the editor's page.").
			WithRemedy("Install it (on Debian: apt-get install python3-pip), or %s", offline)
	case strings.Contains(out, "DO NOT MATCH THE HASHES"):
		return fault.Wrap(fault.Invalid, cause, "The package %s %s is not what the index says: its hash differs.", name, version).
			WithRemedy("Try again; if it stays so, do not use this package index.")
	case strings.Contains(out, "from versions: none"), strings.Contains(out, "NewConnectionError"),
		strings.Contains(out, "ConnectTimeoutError"), strings.Contains(out, "Could not fetch URL"):
		return fault.Wrap(fault.Unavailable, cause, "The package index does not answer or has no %s.", name).
			WithRemedy("Check the network and pip's settings (pip config list), or %s", offline)
	case strings.Contains(out, "No matching distribution found"):
		return fault.Wrap(fault.Missing, cause, "There is no version %s of %s.", version, name).
			WithRemedy("Leave the version out for the tried one, %s.", Pinned)
	default:
		return fault.Wrap(fault.Unavailable, cause, "pip could not bring %s %s.", name, version).
			WithRemedy("Try again, or %s", offline)
	}
}
