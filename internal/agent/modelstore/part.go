package modelstore

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"

	"github.com/ahelme/comfyume/internal/fault"
)

// A download lies beside its place, hidden, under an ending that ComfyUI does not list; what it is of stands beside it.
const (
	partEnding = ".part"
	noteEnding = ".part.json"
)

func hidden(name, ending string) string {
	return path.Join(path.Dir(name), "."+path.Base(name)+ending)
}

func partName(name string) string { return hidden(name, partEnding) }
func noteName(name string) string { return hidden(name, noteEnding) }

// note says what a part is of, so that only the same file is gone on with.
type note struct {
	URL      string `json:"url"`
	ETag     string `json:"etag,omitempty"`
	Modified string `json:"modified,omitempty"`
	Total    int64  `json:"total,omitempty"`
}

// same returns what an If-Range has to say; empty: the server gave nothing that would tell another file.
func (n note) same() string {
	if n.ETag != "" && n.ETag[0] == '"' { // weak ones do not tell bytes apart
		return n.ETag
	}
	return n.Modified
}

func (n note) write(root *os.Root, name string) error {
	raw, err := json.Marshal(n)
	if err != nil {
		return err
	}
	return root.WriteFile(noteName(name), raw, 0o600)
}

// open opens the part. What is there of the same download is gone on with.
func (d *download) open(ctx context.Context) (*os.File, error) {
	raw, err := d.root.ReadFile(noteName(d.want.Name))
	var n note
	fits := err == nil && json.Unmarshal(raw, &n) == nil && n.URL == d.want.URL && n.same() != ""
	part, err := d.root.OpenFile(partName(d.want.Name), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, cannotWrite(err, d.want.Folder)
	}
	if !fits {
		return part, d.begin(part)
	}
	d.note = n
	err = copyTo(ctx, io.MultiWriter(d.sum, counter{&d.have}), part, 0, func(at int64) { d.tell("checking", at, n.Total) })
	if err != nil {
		part.Close()
		return nil, fault.Wrap(fault.Unavailable, err, "What came of %s before can't be read.", d.want.Name).
			WithRemedy("Remove it with: comfyume backend models remove, and ask again.")
	}
	return part, nil
}

// begin forgets what came so far.
func (d *download) begin(part *os.File) error {
	if err := part.Truncate(0); err != nil {
		return &writeError{err}
	}
	if _, err := part.Seek(0, io.SeekStart); err != nil {
		return &writeError{err}
	}
	d.sum.Reset()
	d.have, d.checked, d.note = 0, 0, note{}
	return nil
}

// dropPart removes what is there of a download and reports whether there was something.
func dropPart(p place) (bool, error) {
	root, err := os.OpenRoot(p.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer root.Close()
	there := false
	for _, name := range []string{partName(p.name), noteName(p.name)} {
		err := root.Remove(name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return there, err
		}
		there = there || err == nil
	}
	return there, nil
}
