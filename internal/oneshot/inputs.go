package oneshot

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// inputs are the files that came with a job, until its ComfyUI has them. They are called by their numbers.
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
