package oneshot

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// inputs are the files that came with a job, or out of storage, until its ComfyUI has them. They are called by their numbers.
type inputs struct {
	folder string
	have   map[int]bool
}

// keep gives the place of an input's bytes.
func (in *inputs) keep(n int, _ Input) (io.WriteCloser, error) {
	if in.have == nil {
		in.have = make(map[int]bool)
	}
	in.have[n] = true
	return os.OpenFile(in.path(n), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
}

// drop forgets an input that did not come whole.
func (in *inputs) drop(n int) error {
	delete(in.have, n)
	if err := os.Remove(in.path(n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (in *inputs) path(n int) string { return filepath.Join(in.folder, strconv.Itoa(n)) }

// open opens an input. errNotSent: it did not come along.
func (in *inputs) open(n int) (io.ReadCloser, error) {
	if !in.have[n] {
		return nil, fmt.Errorf("input %d: %w", n, errNotSent)
	}
	return os.Open(in.path(n))
}

// discard deletes what is there.
func (in *inputs) discard() { os.RemoveAll(in.folder) } //nolint:errcheck // a folder of temporary files

// inputsPrefix begins the names of folders of inputs.
const inputsPrefix = "comfyume-run-"

// oldInputs is the age from which a folder of inputs belongs to no run any more: its agent was killed.
const oldInputs = 24 * time.Hour

// tidy deletes the inputs that an agent left in its folder when it was killed.
func (j *Jobs) tidy() {
	if j.options.Dir == "" {
		return
	}
	entries, err := os.ReadDir(j.options.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	for _, e := range entries {
		info, bad := e.Info()
		if bad != nil || !e.IsDir() || !strings.HasPrefix(e.Name(), inputsPrefix) || time.Since(info.ModTime()) < oldInputs {
			continue
		}
		err = errors.Join(err, os.RemoveAll(filepath.Join(j.options.Dir, e.Name())))
	}
	if err != nil {
		j.log.Warn("inputs of an agent that was killed stay", "folder", j.options.Dir, "err", err)
	}
}

// patient reads a request's body and gives up when nothing comes for a while.
type patient struct {
	r     io.Reader
	rc    *http.ResponseController
	stall time.Duration
	next  time.Time
}

func newPatient(w http.ResponseWriter, r *http.Request, stall time.Duration) *patient {
	return &patient{r: r.Body, rc: http.NewResponseController(w), stall: stall}
}

// Read reads with a deadline. A writer without deadlines, as in tests, has none.
func (p *patient) Read(b []byte) (int, error) {
	if now := time.Now(); now.After(p.next) { // not for each of thousands of reads
		p.rc.SetReadDeadline(now.Add(p.stall)) //nolint:errcheck // see above
		p.next = now.Add(p.stall / 4)
	}
	n, err := p.r.Read(b)
	if err != nil {
		p.rc.SetReadDeadline(time.Time{}) //nolint:errcheck // see above
	}
	return n, err
}
