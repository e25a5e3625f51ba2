package program

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ahelme/comfyume/internal/agent/report"
	"github.com/ahelme/comfyume/internal/backend/comfyui"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/usage"
)

// patience is how long the ComfyUI that the agent keeps may be silent, by the nodes at work: as the studio says, which
// follows the runs over the line, or as the agent's own driver learned. What that learned is kept in a file.
type patience struct {
	file   string
	log    *slog.Logger
	driver atomic.Pointer[comfyui.Driver] // that runs here, with one request a job; nil: none does

	learned usage.Silences
	mu      sync.Mutex
	kept    map[string][]byte // what is in the file, by keys in hexadecimal
	told    time.Duration
	until   time.Time // of told
}

// toldFor is for how long what the studio said holds at most: a line may be lost before it takes that back.
const toldFor = 15 * time.Minute

func newPatience(file string, log *slog.Logger) *patience {
	p := &patience{file: file, log: log, kept: map[string][]byte{}}
	text, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(text, &p.kept)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Warn("how long nodes may be silent is learnt anew", "file", file, "err", err)
	}
	if p.kept == nil {
		p.kept = map[string][]byte{}
	}
	var saved []usage.Learned
	for name, body := range p.kept {
		if key, err := hex.DecodeString(name); err == nil { // else it is nothing of ours
			saved = append(saved, usage.Learned{Key: key, Body: body})
		}
	}
	p.learned.Restore(saved)
	return p
}

// now is how long the ComfyUI may be silent now; 0: as usual.
func (p *patience) now() time.Duration {
	p.mu.Lock()
	bound := p.told
	if time.Now().After(p.until) {
		bound = 0
	}
	p.mu.Unlock()
	if d := p.driver.Load(); d != nil {
		bound = max(bound, d.Bound())
	}
	return bound
}

// Bound implements comfyui.Patience.
func (p *patience) Bound(class string) (time.Duration, bool) { return p.learned.Bound("", class) }

// Silent implements comfyui.Patience.
func (p *patience) Silent(class string, longest time.Duration) {
	p.learned.Silent("", class, longest)
	list, undo := p.learned.Changed()
	if len(list) == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range list {
		if l.Body == nil {
			delete(p.kept, hex.EncodeToString(l.Key))
		} else {
			p.kept[hex.EncodeToString(l.Key)] = l.Body
		}
	}
	if err := p.save(); err != nil { // it is tried again with the next one
		undo()
		p.log.Warn("how long nodes may be silent could not be written down", "file", p.file, "err", err)
	}
}

// save writes the file. The lock is held.
func (p *patience) save() error {
	text, err := json.Marshal(p.kept)
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(p.file), ".tmp-*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(text)
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), p.file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}

// ServeHTTP takes what the studio says: POST {"seconds": 80}, or 0 when the node is over.
func (p *patience) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var ask struct {
		Seconds float64 `json:"seconds"`
	}
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1024)).Decode(&ask)
	switch {
	case r.Method != http.MethodPost:
		err = fault.New(fault.Invalid, "There is no %s of patience.", r.Method).WithRemedy("Send POST.")
	case err != nil || ask.Seconds < 0 || ask.Seconds > toldFor.Seconds():
		err = fault.Wrap(fault.Invalid, err, "seconds: %v is no time that a node may be silent.", ask.Seconds).WithRemedy("Send 0 to %v.", toldFor.Seconds())
	default:
		p.mu.Lock()
		p.told, p.until = time.Duration(ask.Seconds*float64(time.Second)), time.Now().Add(toldFor)
		p.mu.Unlock()
	}
	report.Answer(w, p.log, struct{}{}, err)
}
