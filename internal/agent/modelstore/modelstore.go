// Package modelstore looks after the model files beside a ComfyUI: it lists them with their hashes, brings new ones
// and removes old ones, for operators.
//
// Only folders that ComfyUI reads models from are touched, through os.Root, so that no name leads out of them. A
// download lies beside its place under another name until its size and hash are right. One that was cut goes on
// where it stopped.
package modelstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/volume"
)

// Endings are those of files that ComfyUI and its usual custom nodes take for models.
var Endings = []string{".safetensors", ".sft", ".ckpt", ".pt", ".pt2", ".pth", ".bin", ".pkl", ".gguf", ".onnx"}

// Options are the settings. All functions but Folders may be nil.
type Options struct {
	// Folders returns the model folders by type as ComfyUI calls it, such as checkpoints, with their directories. New
	// files go into the first one.
	Folders func() (map[string][]string, error)
	// Key returns the token for downloads from a host, empty for none. It goes to that host only, and only encrypted.
	Key func(host string) (string, error)
	// Changed is called after a file came or went. It must not block.
	Changed func()
	// Hashes is the file where hashes are kept between starts; empty: they are not.
	Hashes string
	// KeepFree is how many bytes a download leaves free on the disk; 0: 1 GB.
	KeepFree int64
	// Client fetches. Nil: one of its own, without an end for the whole.
	Client *http.Client
	Log    *slog.Logger

	free func(dir string) (int64, error) // of tests
}

// Model is one file.
type Model struct {
	Folder   string    `json:"folder"`
	Name     string    `json:"name"` // below the folder, with slashes, as graphs name it
	Size     int64     `json:"size"`
	Modified time.Time `json:"modified"`
	SHA256   string    `json:"sha256,omitempty"` // empty: not computed yet
	Partial  bool      `json:"partial,omitempty"`
}

// Store looks after the files. It is safe for concurrent use.
type Store struct {
	options Options
	log     *slog.Logger
	client  *http.Client
	hashes  hashes

	mu   sync.Mutex
	busy map[string]bool // files that are being brought, by path
}

// New returns a store.
func New(o Options) *Store {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.KeepFree == 0 {
		o.KeepFree = 1 << 30
	}
	if o.Changed == nil {
		o.Changed = func() {}
	}
	if o.Key == nil {
		o.Key = func(string) (string, error) { return "", nil }
	}
	if o.free == nil {
		o.free = volume.Free
	}
	s := &Store{options: o, log: o.Log, client: o.Client, busy: map[string]bool{}}
	if s.client == nil {
		s.client = newClient()
	}
	s.hashes.load(o.Hashes, o.Log)
	return s
}

// List lists the files, by folder and name. Their hashes are those that are known.
func (s *Store) List() ([]Model, error) {
	folders, err := s.options.Folders()
	if err != nil {
		return nil, fmt.Errorf("finding the model folders: %w", err)
	}
	list := []Model{}
	seen := map[string]bool{} // two folders may share a directory, and ComfyUI takes the first file of a name
	for folder, dirs := range folders {
		for _, dir := range dirs {
			for _, m := range s.listDir(folder, dir) {
				if key := folder + "\x00" + m.Name; !seen[key] {
					seen[key] = true
					list = append(list, m)
				}
			}
		}
	}
	slices.SortFunc(list, func(a, b Model) int {
		return strings.Compare(a.Folder+"\x00"+a.Name, b.Folder+"\x00"+b.Name)
	})
	return list, nil
}

// listDir lists the files of one directory. Links to files count as files, links to directories are not followed.
func (s *Store) listDir(folder, dir string) (list []Model) {
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			s.log.Warn("a model folder can't be read", "folder", folder, "err", err)
			return nil
		}
		partial := strings.HasPrefix(d.Name(), ".") && strings.HasSuffix(d.Name(), partEnding)
		if d.IsDir() || !partial && !isModel(p) {
			return nil
		}
		info, err := os.Stat(p)
		if err != nil || !info.Mode().IsRegular() {
			return nil //nolint:nilerr // a link that leads nowhere is no model
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		m := Model{Folder: folder, Name: filepath.ToSlash(rel), Size: info.Size(), Modified: info.ModTime().UTC(), Partial: partial}
		if partial {
			base := strings.TrimSuffix(strings.TrimPrefix(d.Name(), "."), partEnding)
			m.Name = path.Join(path.Dir(m.Name), base)
		} else {
			m.SHA256 = s.hashes.known(p, info)
		}
		list = append(list, m)
		return nil
	})
	if err != nil {
		s.log.Warn("a model folder can't be read", "folder", folder, "err", err)
	}
	return list
}

func isModel(name string) bool {
	return slices.Contains(Endings, strings.ToLower(path.Ext(filepath.ToSlash(name))))
}

// place is where a file is, or is to be.
type place struct {
	dir  string   // directory of the folder, as the system names it
	dirs []string // all of the folder
	name string   // below it, with slashes
}

func (p place) path() string { return filepath.Join(p.dir, filepath.FromSlash(p.name)) }

// place checks a folder and the name of a file below it.
func (s *Store) place(folder, name string) (place, error) {
	folders, err := s.options.Folders()
	if err != nil {
		return place{}, fmt.Errorf("finding the model folders: %w", err)
	}
	dirs := folders[folder]
	if len(dirs) == 0 {
		known := make([]string, 0, len(folders))
		for f := range folders {
			known = append(known, f)
		}
		slices.Sort(known)
		return place{}, fault.New(fault.Invalid, "This ComfyUI has no model folder %q.", folder).WithCode("unknown_folder").
			WithRemedy("Name one of: %s.", strings.Join(known, ", "))
	}
	bad := name == "" || len(name) > 255 || strings.ContainsAny(name, "\\\x00:*?\"<>|") || path.Clean("/"+name) != "/"+name || !filepath.IsLocal(filepath.FromSlash(name))
	for part := range strings.SplitSeq(name, "/") {
		bad = bad || strings.HasPrefix(part, ".") || strings.HasSuffix(part, " ") || strings.HasSuffix(part, ".")
	}
	if bad {
		return place{}, fault.New(fault.Invalid, "%q is not the name of a model file.", name).WithCode("bad_name").
			WithRemedy("Write it like base.safetensors or sdxl/base.safetensors.")
	}
	if !isModel(name) {
		return place{}, fault.New(fault.Invalid, "%s has not the ending of a model file.", name).WithCode("bad_name").
			WithRemedy("ComfyUI reads %s.", strings.Join(Endings, ", "))
	}
	return place{dir: dirs[0], dirs: dirs, name: name}, nil
}

// find returns where a file is among the directories of its folder.
func (p place) find() (place, fs.FileInfo, error) {
	for _, dir := range p.dirs {
		at := place{dir, p.dirs, p.name}
		if info, err := os.Lstat(at.path()); err == nil && !info.IsDir() {
			return at, info, nil
		}
	}
	return place{}, nil, fault.New(fault.Missing, "There is no model %s.", p.name).
		WithRemedy("See which there are with: comfyume backend models list NAME")
}

// Remove deletes a file, and what is there of a download of it.
func (s *Store) Remove(folder, name string) (Model, error) {
	want, err := s.place(folder, name)
	if err != nil {
		return Model{}, err
	}
	unlock, err := s.lock(want)
	if err != nil {
		return Model{}, err
	}
	defer unlock()
	begun, err := dropPart(want)
	if err != nil {
		return Model{}, err
	}
	at, info, err := want.find()
	if fault.Is(err, fault.Missing) && begun {
		return Model{Folder: folder, Name: name, Partial: true}, nil
	}
	if err != nil {
		return Model{}, err
	}
	root, err := os.OpenRoot(at.dir)
	if err != nil {
		return Model{}, fmt.Errorf("opening the model folder: %w", err)
	}
	defer root.Close()
	if err := root.Remove(at.name); err != nil {
		return Model{}, fault.Wrap(fault.Unavailable, err, "The model %s can't be removed.", name).
			WithRemedy("See whether the agent's account may write there, and whether ComfyUI holds the file open.")
	}
	s.log.Info("a model was removed", "folder", folder, "name", name, "size", info.Size())
	s.options.Changed()
	return Model{Folder: folder, Name: name, Size: info.Size(), Modified: info.ModTime().UTC()}, nil
}

// lock lets one change at a time at a file.
func (s *Store) lock(p place) (unlock func(), err error) {
	key := strings.ToLower(p.path()) // some systems take names for the same that differ in case
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy[key] {
		return nil, fault.New(fault.Conflict, "Something is being done to %s just now.", p.name).WithCode("busy").
			WithRemedy("Wait for its end.")
	}
	s.busy[key] = true
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.busy, key)
	}, nil
}

// Hash computes the hashes that are not known yet, and tells of each file.
func (s *Store) Hash(ctx context.Context, tell func(name string, at, total int64)) ([]Model, error) {
	list, err := s.List()
	if err != nil {
		return nil, err
	}
	for i, m := range list {
		if m.SHA256 != "" || m.Partial {
			continue
		}
		want, err := s.place(m.Folder, m.Name)
		if err != nil {
			continue // a name that this store would not give: it is listed without
		}
		at, _, err := want.find()
		if err != nil {
			continue // it went away meanwhile
		}
		sum, err := s.hashes.compute(ctx, at.path(), func(n int64) { tell(m.Folder+"/"+m.Name, n, m.Size) })
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != nil {
			s.log.Warn("a model can't be read", "folder", m.Folder, "name", m.Name, "err", err)
			continue
		}
		list[i].SHA256 = sum
	}
	return list, nil
}
