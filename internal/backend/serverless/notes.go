package serverless

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/oneshot"
)

// note is what is needed to find a run again.
type note struct {
	Sent      time.Time `json:"sent"`                // when it was about to be sent
	Container string    `json:"container,omitempty"` // who has it; empty: not known
	Inference string    `json:"inference,omitempty"` // id in the provider's queue
	Status    string    `json:"status,omitempty"`    // address of its state there
	Result    string    `json:"result,omitempty"`    // address of its answer there
}

// memory is what is known of an endpoint between its runs.
type memory struct {
	Epoch string       `json:"epoch"`
	Info  oneshot.Info `json:"info"`
	Cold  float64      `json:"cold,omitempty"` // seconds that the last cold start took
}

// notes are kept in a folder: a file for each run under way, and one for the endpoint. Without a folder they are kept
// in memory alone. It is safe for concurrent use.
type notes struct {
	folder string
	memory *volatile
}

type volatile struct {
	mu   sync.Mutex
	runs map[string]note
}

// notesFor is how long a run that nobody took up again is remembered.
const notesFor = 7 * 24 * time.Hour

// openNotes opens the folder, and forgets runs of long ago.
func openNotes(folder string, log *slog.Logger) (notes, error) {
	n := notes{folder: folder}
	if folder == "" {
		n.memory = &volatile{runs: make(map[string]note)}
		return n, nil
	}
	if err := os.MkdirAll(filepath.Join(folder, "runs"), 0o700); err != nil {
		return n, folderTrouble(folder, err)
	}
	entries, err := os.ReadDir(filepath.Join(folder, "runs"))
	if err != nil {
		return n, folderTrouble(folder, err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > notesFor {
			if err := os.Remove(filepath.Join(folder, "runs", e.Name())); err != nil {
				log.Warn("an old note of a run stays", "err", err)
			}
		}
	}
	return n, nil
}

func folderTrouble(folder string, err error) error {
	return fault.Wrap(fault.Unavailable, err, "The folder %s, where serverless runs are written down, can't be used.", folder).
		WithRemedy("See that this account may write there, and that the disk is not full.")
}

func (n notes) path(run string) string { return filepath.Join(n.folder, "runs", run+".json") }

// keep writes a run down. With sure it is on disk when keep returns.
func (n notes) keep(run string, v note, sure bool) error {
	if n.memory != nil {
		n.memory.mu.Lock()
		defer n.memory.mu.Unlock()
		n.memory.runs[run] = v
		return nil
	}
	if strings.ContainsAny(run, "/\\.") || run == "" {
		return fmt.Errorf("%q is no run id", run)
	}
	if err := write(n.path(run), v, sure); err != nil {
		return folderTrouble(n.folder, err)
	}
	return nil
}

// run returns what was written down of a run.
func (n notes) run(run string) (v note, ok bool, err error) {
	if n.memory != nil {
		n.memory.mu.Lock()
		defer n.memory.mu.Unlock()
		v, ok = n.memory.runs[run]
		return v, ok, nil
	}
	if strings.ContainsAny(run, "/\\.") || run == "" {
		return v, false, nil
	}
	raw, err := os.ReadFile(n.path(run))
	if errors.Is(err, fs.ErrNotExist) {
		return v, false, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &v)
	}
	if err != nil {
		return v, false, folderTrouble(n.folder, err)
	}
	return v, true, nil
}

// forget takes a run out.
func (n notes) forget(run string) error {
	if n.memory != nil {
		n.memory.mu.Lock()
		defer n.memory.mu.Unlock()
		delete(n.memory.runs, run)
		return nil
	}
	if err := os.Remove(n.path(run)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return folderTrouble(n.folder, err)
	}
	return nil
}

// recall returns what was known of the endpoint. Nothing, or nothing that can be read, is nothing known.
func (n notes) recall() (m memory, ok bool) {
	if n.folder == "" {
		return m, false
	}
	raw, err := os.ReadFile(filepath.Join(n.folder, "endpoint.json"))
	if err != nil || json.Unmarshal(raw, &m) != nil || m.Info.Hash == "" || m.Epoch == "" {
		return memory{}, false
	}
	return m, true
}

// remember writes down what is known of the endpoint.
func (n notes) remember(m memory) error {
	if n.folder == "" {
		return nil
	}
	if err := write(filepath.Join(n.folder, "endpoint.json"), m, false); err != nil {
		return folderTrouble(n.folder, err)
	}
	return nil
}

// write replaces a file at once.
func write(path string, v any, sure bool) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // with mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	if err == nil && sure {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
