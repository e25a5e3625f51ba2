package nodepacks

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/ahelme/comfyume/internal/agent/report"
	"github.com/ahelme/comfyume/internal/fault"
)

// git runs git in a folder and returns what it printed. It asks nobody for a password, runs no hooks and speaks only
// the transports that are allowed.
func (s *Store) git(ctx context.Context, tell report.Sink, dir string, args ...string) (string, error) {
	safe := []string{
		"-c", "core.hooksPath=" + os.DevNull, "-c", "protocol.allow=never", "-c", "core.fsmonitor=false", "-c", "submodule.recurse=false",
		"-c", "core.symlinks=false", "-c", "safe.directory=*",
	}
	for t := range strings.SplitSeq(s.options.transports, ":") {
		safe = append(safe, "-c", "protocol."+t+".allow=always")
	}
	return s.tool(ctx, tell, dir, s.options.Git, append(safe, args...), "GIT_TERMINAL_PROMPT=0", "GIT_ALLOW_PROTOCOL="+s.options.transports, "GCM_INTERACTIVE=never", "LC_ALL=C")
}

// pip runs pip of ComfyUI's Python.
func (s *Store) pip(ctx context.Context, tell report.Sink, args ...string) error {
	if s.options.Python == "" {
		return fault.New(fault.Unavailable, "The agent does not know ComfyUI's Python.").WithCode("no_python").
			WithRemedy("Name it in the agent's settings, and install the requirements by hand meanwhile.")
	}
	args = append([]string{"-m", "pip", "--disable-pip-version-check", "--no-input"}, args...)
	out, err := s.tool(ctx, tell, s.options.State, s.options.Python, args, "PYTHONUNBUFFERED=1", "PIP_PROGRESS_BAR=off")
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	return fault.Wrap(fault.Unavailable, err, "pip ended with an error: %s", lines[len(lines)-1]).WithCode("pip_failed").
		WithRemedy("Roll the pack back with: comfyume backend nodes rollback, or install its requirements by hand.")
}

// freeze lists the packages of ComfyUI's Python; none where it is not known.
func (s *Store) freeze(ctx context.Context) ([]string, error) {
	if s.options.Python == "" {
		return nil, nil
	}
	out, err := s.tool(ctx, nil, s.options.State, s.options.Python, []string{"-m", "pip", "--disable-pip-version-check", "list", "--format=freeze"})
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, err, "ComfyUI's Python does not say which packages it has.").WithCode("pip_failed").
			WithRemedy("See that %s has pip.", s.options.Python)
	}
	list := []string{}
	for line := range strings.Lines(out) {
		if name, _, ok := strings.Cut(strings.TrimSpace(line), "=="); ok && name != "" {
			list = append(list, strings.TrimSpace(line))
		}
	}
	slices.Sort(list)
	return list, nil
}

// restore gives packages the versions of before. Those that came since stay: others may use them by now.
func (s *Store) restore(ctx context.Context, before []string, tell report.Sink) (Outcome, error) {
	out := Outcome{Packages: []string{}, Requirements: []string{}}
	now, err := s.freeze(ctx)
	if err != nil || len(before) == 0 {
		return out, err
	}
	var back []string
	for _, p := range before {
		if !slices.Contains(now, p) {
			back = append(back, p)
		}
	}
	if len(back) == 0 {
		return out, nil
	}
	tell(report.Event{State: "requirements", Text: "putting back " + strings.Join(back, ", ")})
	if err := s.pip(ctx, tell, append([]string{"install", "--no-deps"}, back...)...); err != nil {
		return out, err
	}
	after, err := s.freeze(ctx)
	out.Packages = difference(now, after)
	return out, err
}

// difference lists what changed between two lists of packages.
func difference(before, after []string) []string {
	versions := func(list []string) map[string]string {
		m := make(map[string]string, len(list))
		for _, p := range list {
			name, version, _ := strings.Cut(p, "==")
			m[name] = version
		}
		return m
	}
	was, is := versions(before), versions(after)
	out := []string{}
	for name, v := range is {
		switch old, had := was[name]; {
		case !had:
			out = append(out, fmt.Sprintf("%s – → %s", name, v))
		case old != v:
			out = append(out, fmt.Sprintf("%s %s → %s", name, old, v))
		}
	}
	for name, v := range was {
		if _, has := is[name]; !has {
			out = append(out, fmt.Sprintf("%s %s → –", name, v))
		}
	}
	slices.Sort(out)
	return out
}

// maxPrinted bounds what is kept of what a tool printed.
const maxPrinted = 256 << 10

// tool runs a program and returns what it printed, of which tell is told line by line.
func (s *Store) tool(ctx context.Context, tell report.Sink, dir, program string, args []string, env ...string) (string, error) {
	path, err := exec.LookPath(program)
	if err != nil {
		return "", fmt.Errorf("%s: %w", program, errors.Join(err, fs.ErrNotExist))
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir, cmd.Env, cmd.WaitDelay = dir, append(os.Environ(), env...), 10*time.Second
	read, write := io.Pipe()
	cmd.Stdout, cmd.Stderr = write, write
	var printed bytes.Buffer
	done := make(chan struct{})
	go func() {
		defer close(done)
		lines := bufio.NewReader(read)
		for {
			line, err := lines.ReadString('\n')
			if printed.Len() < maxPrinted {
				printed.WriteString(line)
			}
			if text := strings.TrimSpace(line); text != "" && tell != nil {
				tell(report.Event{State: "working", Text: text})
			}
			if err != nil {
				return
			}
		}
	}()
	err = cmd.Run()
	write.Close() //nolint:errcheck // never fails
	<-done
	return printed.String(), err
}
