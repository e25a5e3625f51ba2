package warm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"

	"github.com/ahelme/comfyume/internal/fault"
)

// book is the file in which raised minimums are written down.
type book struct{ file string }

// page is what is in the file.
type page struct {
	Note   string            `json:"note"`
	Raised map[string]Raised `json:"raised"`
}

const note = "Minimums of containers that ComfyuME raised at the provider. They are taken back at the end of the plan and when the studio starts; do not delete this file while it has any."

// read returns what is written down; nothing where there is no file.
func (b *book) read() (map[string]Raised, error) {
	text, err := os.ReadFile(b.file)
	if errors.Is(err, fs.ErrNotExist) {
		return map[string]Raised{}, nil
	}
	var p page
	if err == nil {
		err = json.Unmarshal(text, &p)
	}
	for name, r := range p.Raised {
		if err == nil && (len(r.Set) == 0 || r.Deployment != name) {
			err = fmt.Errorf("the entry %q is not whole", name)
		}
	}
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, err, "The file %s says which containers are kept awake for money, and can't be read.", b.file).
			WithRemedy("Look at it. If it is broken, see with comfyume backend verda list what is awake, lower that with comfyume backend verda scale NAME --min 0, and delete the file.")
	}
	if p.Raised == nil {
		p.Raised = map[string]Raised{}
	}
	return p.Raised, nil
}

// write writes everything down, and returns when it survives a crash of the machine.
func (b *book) write(raised map[string]Raised) error {
	text, err := json.MarshalIndent(page{note, raised}, "", "  ")
	if err == nil {
		err = b.replace(append(text, '\n'))
	}
	if err != nil {
		return fault.Wrap(fault.Unavailable, err, "What is about to be raised can't be written down in %s, so it is not raised.", b.file).
			WithRemedy("See whether the disk is full, and whether this account may write there.")
	}
	return nil
}

func (b *book) replace(text []byte) error {
	if old, err := os.ReadFile(b.file); err == nil && bytes.Equal(old, text) {
		return nil
	}
	tmp, err := os.CreateTemp(filepath.Dir(b.file), ".tmp-*") // readable by this account only
	if err != nil {
		return err
	}
	_, err = tmp.Write(text)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), b.file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return syncFolder(filepath.Dir(b.file))
}

// syncFolder makes a rename durable. Systems that can't do it with folders say so; there the file system has to.
func syncFolder(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, fs.ErrInvalid) || errors.Is(err, fs.ErrPermission) {
		err = nil
	}
	return errors.Join(err, d.Close())
}

func clone(m map[string]Raised) map[string]Raised {
	if m == nil {
		return map[string]Raised{}
	}
	return maps.Clone(m)
}
