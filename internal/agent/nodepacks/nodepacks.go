// Package nodepacks looks after the custom nodes beside a ComfyUI: it lists them, installs one at a commit, and puts
// back what was there before, for operators.
//
// Custom nodes are programs that ComfyUI runs with all the rights of its account. So nothing is changed unless the
// agent's own settings allow it: an operator of the studio is not by that the owner of the machine. A pack is made
// ready beside its place and moved there whole; what was there is kept, with the Python packages there were.
package nodepacks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/agent/report"
	"github.com/ahelme/comfyume/internal/fault"
)

// Options are the settings.
type Options struct {
	// Allow lets packs be installed, pinned and rolled back. Without it they are listed only.
	Allow bool
	// Dir is ComfyUI's custom_nodes.
	Dir string
	// State is a folder of the agent's own, on the same disk as Dir, for packs on their way and those of before.
	State string
	// Python is ComfyUI's interpreter; empty: requirements can't be installed.
	Python string
	// Git is the git command; empty: "git".
	Git string
	// Restart starts ComfyUI anew so that it loads what changed. Nil: it can't be.
	Restart func(ctx context.Context, why string) error
	// Client fetches archives. Nil: one of its own.
	Client *http.Client
	Log    *slog.Logger

	transports string // of git, in tests
}

// Pack is one custom node pack.
type Pack struct {
	Name         string    `json:"name"` // its folder
	From         string    `json:"from,omitempty"`
	Commit       string    `json:"commit,omitempty"`
	Disabled     bool      `json:"disabled,omitempty"`
	Changed      bool      `json:"changed,omitempty"` // files differ from the commit
	Managed      bool      `json:"managed"`           // installed through here
	Requirements []string  `json:"requirements,omitempty"`
	Before       []Before  `json:"before,omitempty"` // what can be rolled back to, newest first
	Installed    time.Time `json:"installed,omitzero"`
}

// Before is what was there before.
type Before struct {
	Commit string    `json:"commit,omitempty"`
	Empty  bool      `json:"empty,omitempty"` // there was no such pack
	Until  time.Time `json:"until"`
}

// Want is a pack that is to be installed.
type Want struct {
	Name         string `json:"name"`         // folder; empty: from the address
	URL          string `json:"url"`          // of a git repository, or of a .zip or .tar.gz; empty with pin: that of before
	Commit       string `json:"commit"`       // 40 hex digits, for git
	SHA256       string `json:"sha256"`       // 64 hex digits, for an archive
	Requirements bool   `json:"requirements"` // install what requirements.txt asks for
	Restart      bool   `json:"restart"`      // start ComfyUI anew afterwards
}

// Outcome is what came of a change.
type Outcome struct {
	Pack         Pack     `json:"pack"`
	Requirements []string `json:"requirements"` // what its requirements.txt asks for
	Missing      bool     `json:"missing"`      // they were not installed
	Packages     []string `json:"packages"`     // Python packages that changed, as "name before → after"
	Restarted    bool     `json:"restarted"`
	Gone         bool     `json:"gone,omitempty"` // rolled back to no pack
}

// Store looks after the packs. It is safe for concurrent use.
type Store struct {
	options Options
	log     *slog.Logger
	changes sync.Mutex // one at a time: they share the interpreter
}

// New returns a store.
func New(o Options) *Store {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Git == "" {
		o.Git = "git"
	}
	if o.Client == nil {
		o.Client = &http.Client{Timeout: 30 * time.Minute}
	}
	if o.transports == "" {
		o.transports = "https:ssh"
	}
	return &Store{options: o, log: o.Log}
}

var (
	packName  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$`)
	commitSum = regexp.MustCompile(`^[0-9a-f]{40}$`)
	fileSum   = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// maxBefore is how many states of before are kept of each pack.
const maxBefore = 3

// record is what is kept of a pack that was installed through here.
type record struct {
	From      string    `json:"from"`
	Commit    string    `json:"commit"` // of an archive: its hash
	Installed time.Time `json:"installed"`
	Before    []saved   `json:"before"` // newest first
}

// saved is a state of before: a folder of the state, and the packages of Python there were.
type saved struct {
	Before
	From     string   `json:"from,omitempty"`
	Folder   string   `json:"folder,omitempty"` // below the pack's folder of the state
	Packages []string `json:"packages,omitempty"`
}

// List lists the packs by name.
func (s *Store) List(ctx context.Context) ([]Pack, error) {
	entries, err := os.ReadDir(s.options.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fault.Wrap(fault.Unavailable, err, "The folder of custom nodes can't be read.").
			WithRemedy("See that %s is ComfyUI's custom_nodes and that the agent's account may read it.", s.options.Dir)
	}
	list := []Pack{}
	for _, e := range entries {
		if !e.IsDir() && filepath.Ext(e.Name()) != ".py" || strings.HasPrefix(e.Name(), ".") || e.Name() == "__pycache__" || e.Name() == "example_node.py.example" {
			continue
		}
		list = append(list, s.pack(ctx, e.Name()))
	}
	return list, nil
}

// pack looks at one pack.
func (s *Store) pack(ctx context.Context, folder string) Pack {
	dir := filepath.Join(s.options.Dir, folder)
	p := Pack{Name: folder, Requirements: requirementsOf(dir)}
	p.Name, p.Disabled = strings.CutSuffix(folder, ".disabled")
	if rec, err := s.load(p.Name); err != nil {
		s.log.Warn("what is kept of a pack can't be read", "pack", p.Name, "err", err)
	} else if rec != nil {
		p.Managed, p.From, p.Commit, p.Installed = true, rec.From, rec.Commit, rec.Installed
		for _, b := range rec.Before {
			p.Before = append(p.Before, b.Before)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, ".git")); err != nil {
		return p
	}
	if at, err := s.git(ctx, nil, dir, "rev-parse", "HEAD"); err == nil {
		p.Commit = strings.TrimSpace(at)
	}
	if from, err := s.git(ctx, nil, dir, "config", "--get", "remote.origin.url"); err == nil && p.From == "" {
		p.From = withoutPassword(strings.TrimSpace(from))
	}
	if changed, err := s.git(ctx, nil, dir, "status", "--porcelain", "--untracked-files=no"); err == nil {
		p.Changed = strings.TrimSpace(changed) != ""
	}
	return p
}

// requirementsOf lists what a pack asks pip for.
func requirementsOf(dir string) []string {
	raw, err := os.ReadFile(filepath.Join(dir, "requirements.txt"))
	if err != nil {
		return nil
	}
	var list []string
	for line := range strings.Lines(string(raw)) {
		line, _, _ = strings.Cut(line, " #")
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			list = append(list, line)
		}
	}
	return list
}

func (s *Store) recordFile(name string) string {
	return filepath.Join(s.options.State, name, "pack.json")
}

// load returns what is kept of a pack; nil: nothing.
func (s *Store) load(name string) (*record, error) {
	raw, err := os.ReadFile(s.recordFile(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // documented
	}
	if err != nil {
		return nil, err
	}
	rec := new(record)
	return rec, json.Unmarshal(raw, rec)
}

func (s *Store) save(name string, rec *record) error {
	raw, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	file := s.recordFile(name)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(file+".new", raw, 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// allowed says whether packs may be changed here.
func (s *Store) allowed() error {
	if s.options.Allow {
		return nil
	}
	return fault.New(fault.Denied, "This agent does not let custom nodes be changed: they are programs, and run with all the rights of its account.").
		WithCode("nodes_not_allowed").WithRemedy("Who owns the machine allows it in the agent's own settings.")
}

// named checks the name of a pack.
func named(name string) error {
	if !packName.MatchString(name) || strings.HasSuffix(name, ".disabled") || strings.HasSuffix(name, ".") {
		return fault.New(fault.Invalid, "%q is not the name of a pack.", name).WithCode("bad_name").
			WithRemedy("It is a folder's name: letters, digits, dot, dash and underscore.")
	}
	return nil
}

// Install brings a pack at a commit. A pack of the name that is there is kept to be rolled back to.
func (s *Store) Install(ctx context.Context, w Want, tell report.Sink) (Outcome, error) {
	if err := s.allowed(); err != nil {
		return Outcome{}, err
	}
	src, err := s.source(&w)
	if err != nil {
		return Outcome{}, err
	}
	if !s.changes.TryLock() {
		return Outcome{}, fault.New(fault.Conflict, "Custom nodes are being changed here just now.").WithCode("busy").WithRemedy("Wait for its end.")
	}
	defer s.changes.Unlock()
	ready, err := s.room(w.Name)
	if err != nil {
		return Outcome{}, err
	}
	defer os.RemoveAll(ready) //nolint:errcheck // it was moved, or is looked for again at the next change
	if err := src(ctx, ready, tell); err != nil {
		return Outcome{}, err
	}
	return s.put(ctx, w, ready, tell)
}

// Pin puts a pack that came from a git repository at another commit.
func (s *Store) Pin(ctx context.Context, w Want, tell report.Sink) (Outcome, error) {
	if err := named(w.Name); err != nil {
		return Outcome{}, err
	}
	if w.URL == "" {
		w.URL = s.pack(ctx, w.Name).From
	}
	if w.URL == "" {
		return Outcome{}, fault.New(fault.Missing, "There is no pack %s whose origin is known.", w.Name).
			WithRemedy("Install it with its address: comfyume backend nodes install.")
	}
	return s.Install(ctx, w, tell)
}

// put moves a pack that is ready into its place.
func (s *Store) put(ctx context.Context, w Want, ready string, tell report.Sink) (Outcome, error) {
	rec, err := s.load(w.Name)
	if err != nil {
		return Outcome{}, fmt.Errorf("reading what is kept of the pack: %w", err)
	}
	if rec == nil {
		rec = &record{From: s.pack(ctx, w.Name).From, Commit: s.pack(ctx, w.Name).Commit}
	}
	before := saved{Before: Before{Commit: rec.Commit, Until: time.Now().UTC()}, From: rec.From}
	if before.Packages, err = s.freeze(ctx); err != nil {
		return Outcome{}, err
	}
	if err := s.swap(w.Name, ready, &before); err != nil {
		return Outcome{}, err
	}
	if before.Empty {
		before.Commit, before.From = "", ""
	}
	at := w.Commit
	if at == "" {
		at = w.SHA256
	}
	now := record{From: w.URL, Commit: at, Installed: time.Now().UTC(), Before: slices.Insert(rec.Before, 0, before)}
	for _, old := range now.Before[min(maxBefore, len(now.Before)):] {
		s.drop(w.Name, old)
	}
	now.Before = now.Before[:min(maxBefore, len(now.Before))]
	if err := s.save(w.Name, &now); err != nil {
		return Outcome{}, fmt.Errorf("keeping what was done: %w", err)
	}
	s.log.Info("a pack of custom nodes was installed", "pack", w.Name, "from", w.URL, "commit", at)
	return s.settle(ctx, w, before.Packages, tell)
}

// settle installs what a pack asks for, if it is to, and starts ComfyUI anew.
func (s *Store) settle(ctx context.Context, w Want, packages []string, tell report.Sink) (Outcome, error) {
	out := Outcome{Requirements: requirementsOf(filepath.Join(s.options.Dir, w.Name)), Packages: []string{}}
	if out.Missing = len(out.Requirements) > 0 && !w.Requirements; len(out.Requirements) > 0 && w.Requirements {
		tell(report.Event{State: "requirements", Text: "installing " + strings.Join(out.Requirements, ", ")})
		if err := s.pip(ctx, tell, "install", "-r", filepath.Join(s.options.Dir, w.Name, "requirements.txt")); err != nil {
			return Outcome{}, err
		}
		after, err := s.freeze(ctx)
		if err != nil {
			return Outcome{}, err
		}
		out.Packages = difference(packages, after)
	}
	out.Pack = s.pack(ctx, w.Name)
	return s.restart(ctx, w, out, tell)
}

func (s *Store) restart(ctx context.Context, w Want, out Outcome, tell report.Sink) (Outcome, error) {
	if !w.Restart {
		return out, nil
	}
	err := errors.New("this agent did not start ComfyUI")
	if s.options.Restart != nil {
		tell(report.Event{State: "restarting", Text: "starting ComfyUI anew"})
		err = s.options.Restart(ctx, "custom nodes "+w.Name+" changed")
	}
	if err != nil {
		return out, fault.Wrap(fault.Unavailable, err, "The pack %s is in its place, but ComfyUI was not started anew: %v.", w.Name, err).
			WithCode("not_restarted").WithRemedy("Start ComfyUI anew by hand: it loads custom nodes at its start only.")
	}
	out.Restarted = true
	return out, nil
}

// Rollback puts back what was there before the last change, with the versions of Python packages there were.
func (s *Store) Rollback(ctx context.Context, w Want, tell report.Sink) (Outcome, error) {
	if err := s.allowed(); err != nil {
		return Outcome{}, err
	}
	if err := named(w.Name); err != nil {
		return Outcome{}, err
	}
	if !s.changes.TryLock() {
		return Outcome{}, fault.New(fault.Conflict, "Custom nodes are being changed here just now.").WithCode("busy").WithRemedy("Wait for its end.")
	}
	defer s.changes.Unlock()
	rec, err := s.load(w.Name)
	if err != nil {
		return Outcome{}, fmt.Errorf("reading what is kept of the pack: %w", err)
	}
	if rec == nil || len(rec.Before) == 0 {
		return Outcome{}, fault.New(fault.Missing, "Nothing is kept of what the pack %s was before.", w.Name).
			WithRemedy("What was installed through the agent can be rolled back, three states at most.")
	}
	back := rec.Before[0]
	ready := ""
	if !back.Empty {
		ready = s.savedDir(w.Name, back)
	}
	undone := saved{}
	if err := s.swap(w.Name, ready, &undone); err != nil {
		return Outcome{}, err
	}
	s.drop(w.Name, undone)
	s.drop(w.Name, back)
	now := record{From: back.From, Commit: back.Commit, Installed: time.Now().UTC(), Before: rec.Before[1:]}
	if err := s.save(w.Name, &now); err != nil {
		return Outcome{}, fmt.Errorf("keeping what was done: %w", err)
	}
	s.log.Info("a pack of custom nodes was rolled back", "pack", w.Name, "commit", back.Commit, "gone", back.Empty)
	out, err := s.restore(ctx, back.Packages, tell)
	if err != nil {
		return Outcome{}, err
	}
	if out.Gone = back.Empty; !out.Gone {
		out.Pack = s.pack(ctx, w.Name)
		out.Requirements = requirementsOf(filepath.Join(s.options.Dir, w.Name))
	} else {
		out.Pack.Name = w.Name
	}
	return s.restart(ctx, w, out, tell)
}
