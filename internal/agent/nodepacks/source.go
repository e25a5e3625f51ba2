package nodepacks

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/ahelme/comfyume/internal/agent/report"
	"github.com/ahelme/comfyume/internal/fault"
)

// source returns what makes a pack ready in a folder. The pack's name is filled in.
type source func(ctx context.Context, into string, tell report.Sink) error

func (s *Store) source(w *Want) (source, error) {
	u, err := url.Parse(w.URL)
	known := err == nil && u.Host != "" && !strings.HasPrefix(w.URL, "-")
	if known && u.User != nil {
		if _, secret := u.User.Password(); secret || u.Scheme == "https" {
			return nil, fault.New(fault.Invalid, "The address of a pack may not hold a name or password.").WithCode("bad_url").
				WithRemedy("Let git on the machine know them: a credential helper, or a key for ssh.")
		}
	}
	if known && s.options.transports != "file" && u.Scheme != "https" && u.Scheme != "ssh" {
		known = false
	}
	if !known && (s.options.transports != "file" || err != nil || u.Scheme != "file" && u.Scheme != "http") {
		return nil, fault.New(fault.Invalid, "The address of a pack has to begin with https:// or ssh://.").WithCode("bad_url").
			WithRemedy("Name a git repository, or a .zip or .tar.gz of one.")
	}
	kind := archiveKind(u.Path)
	if w.Name == "" {
		w.Name = nameOf(u.Path, kind)
	}
	if err := named(w.Name); err != nil {
		return nil, err
	}
	w.Commit, w.SHA256 = strings.ToLower(w.Commit), strings.ToLower(w.SHA256)
	if kind != "" {
		if !fileSum.MatchString(w.SHA256) {
			return nil, fault.New(fault.Invalid, "An archive needs its sha256, of 64 hexadecimal digits.").WithCode("bad_hash").
				WithRemedy("Name it with --sha256, so that only what was looked at is installed.")
		}
		w.Commit = ""
		return func(ctx context.Context, into string, tell report.Sink) error {
			return s.unpack(ctx, *w, kind, into, tell)
		}, nil
	}
	if !commitSum.MatchString(w.Commit) {
		return nil, fault.New(fault.Invalid, "A pack is installed at a commit, of 40 hexadecimal digits; %q is none.", w.Commit).WithCode("bad_commit").
			WithRemedy("Name it with --commit, so that only what was looked at is installed. Branches and tags can be moved.")
	}
	w.SHA256 = ""
	return func(ctx context.Context, into string, tell report.Sink) error { return s.clone(ctx, *w, into, tell) }, nil
}

// nameOf returns the folder's name that an address suggests. Archives of hosts are called after a branch or commit, and
// lie below the repository.
func nameOf(p, kind string) string {
	parts := strings.Split(strings.Trim(p, "/"), "/")
	if at := strings.Index(p, "/archive/"); kind != "" && at > 0 {
		return path.Base(p[:at])
	}
	return strings.TrimSuffix(strings.TrimSuffix(parts[len(parts)-1], kind), ".git")
}

func archiveKind(p string) string {
	for _, kind := range []string{".zip", ".tar.gz", ".tgz"} {
		if strings.HasSuffix(strings.ToLower(p), kind) {
			return kind
		}
	}
	return ""
}

func withoutPassword(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.User == nil {
		return address
	}
	u.User = nil
	return u.String()
}

// room makes an empty folder for a pack on its way, and clears what a crash left of one.
func (s *Store) room(name string) (string, error) {
	dir := filepath.Join(s.options.State, name, "ready")
	err := os.RemoveAll(dir)
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	if err != nil {
		return "", fault.Wrap(fault.Unavailable, err, "The agent's folder for packs on their way can't be made.").
			WithRemedy("See that its account may write in %s.", s.options.State)
	}
	return dir, nil
}

// savedDir is where a state of before is: alone in a folder made for it.
func (s *Store) savedDir(name string, b saved) string {
	return filepath.Join(s.options.State, name, b.Folder, "pack")
}

// drop deletes a state of before, if there is one.
func (s *Store) drop(name string, b saved) {
	if b.Folder == "" {
		return
	}
	if err := os.RemoveAll(filepath.Join(s.options.State, name, b.Folder)); err != nil {
		s.log.Warn("an old state of a pack stays", "pack", name, "folder", b.Folder, "err", err)
	}
}

// swap moves what is at a pack's place aside, and ready there; empty: nothing. before takes note of where it went.
func (s *Store) swap(name, ready string, before *saved) error {
	at := filepath.Join(s.options.Dir, name)
	aside, err := os.MkdirTemp(filepath.Join(s.options.State, name), "before-")
	if err != nil {
		return fault.Wrap(fault.Unavailable, err, "The agent's folder for packs of before can't be made.").
			WithRemedy("See that its account may write in %s.", s.options.State)
	}
	kept := filepath.Join(aside, "pack")
	before.Folder = filepath.Base(aside)
	switch err := os.Rename(at, kept); {
	case errors.Is(err, fs.ErrNotExist):
		before.Empty, before.Folder = true, ""
		if err := os.Remove(aside); err != nil {
			return err
		}
	case err != nil:
		return errors.Join(fault.Wrap(fault.Unavailable, err, "The pack %s can't be moved aside.", name).
			WithRemedy("See that the agent's account may write in custom_nodes, that %s is on the same disk, and that ComfyUI holds no file there open.", s.options.State), os.Remove(aside))
	}
	if ready == "" {
		return nil
	}
	if err := os.MkdirAll(s.options.Dir, 0o755); err != nil {
		return err
	}
	if err := os.Rename(ready, at); err != nil {
		if !before.Empty {
			err = errors.Join(err, os.Rename(kept, at))
		}
		return fault.Wrap(fault.Unavailable, err, "The pack %s can't be moved to its place; what was there stays.", name).
			WithRemedy("See that the agent's account may write in custom_nodes and that %s is on the same disk.", s.options.State)
	}
	return nil
}

// clone fetches one commit of a repository.
func (s *Store) clone(ctx context.Context, w Want, into string, tell report.Sink) error {
	tell(report.Event{State: "fetching", Text: fmt.Sprintf("fetching %s at %s", w.URL, w.Commit)})
	steps := [][]string{
		{"init", "--quiet"},
		{"remote", "add", "origin", w.URL},
		{"fetch", "--quiet", "--depth=1", "origin", w.Commit},
		{"checkout", "--quiet", "--detach", w.Commit},
	}
	for _, step := range steps {
		out, err := s.git(ctx, tell, into, step...)
		if err != nil && step[0] == "fetch" { // a host that gives whole branches only
			tell(report.Event{State: "fetching", Text: "fetching all of its history"})
			out, err = s.git(ctx, tell, into, "fetch", "--quiet", "origin")
		}
		if err != nil {
			return gitTrouble(ctx, err, out, w)
		}
	}
	at, err := s.git(ctx, nil, into, "rev-parse", "HEAD")
	if err != nil || strings.TrimSpace(at) != w.Commit {
		return fault.Wrap(fault.Conflict, err, "What came is not at commit %s.", w.Commit).WithCode("wrong_commit")
	}
	return nil
}

func gitTrouble(ctx context.Context, err error, out string, w Want) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return fault.Wrap(fault.Unavailable, err, "There is no git on this machine.").WithCode("no_git").
			WithRemedy("Install git, or install the pack from a .zip or .tar.gz.")
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	return fault.Wrap(fault.Unavailable, err, "%s can't be had at %s: %s", w.URL, w.Commit, lines[len(lines)-1]).WithCode("fetch_failed").
		WithRemedy("See the address and the commit, and that git on that machine may read it without asking for a password.")
}
