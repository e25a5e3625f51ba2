package workspace

import (
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/volume"
)

// foldsNames reports whether the file system takes names that differ in case, or in how an accent is composed, for
// the same. Such a one would let a document overwrite another that only looks alike.
func foldsNames(root *os.Root) (bool, error) {
	name := ".probe-" + strings.ToLower(rand.Text())
	f, err := root.OpenFile(name+"-\u00e9", os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600) // é as one character
	if err != nil {
		return false, err
	}
	folds := false
	for _, other := range [...]string{strings.ToUpper(name) + "-\u00e9", name + "-e\u0301"} { // é as e and an accent
		_, err := root.Lstat(other)
		folds = folds || err == nil
	}
	return folds, errors.Join(f.Close(), root.Remove(name+"-\u00e9"))
}

// spelled refuses a path that the file system finds only because it does not look at the spelling.
func (h *Home) spelled(root *os.Root, p string) error {
	if !h.folds {
		return nil
	}
	return checkSpelling(p,
		func(p string) bool { _, err := root.Lstat(p); return err == nil },
		func(dir string) ([]string, error) {
			f, err := root.Open(dir)
			if err != nil {
				return nil, err
			}
			names, err := f.Readdirnames(-1)
			return names, errors.Join(err, f.Close())
		})
}

// checkSpelling looks at every part of p that is there: its folder must list it as it is written.
func checkSpelling(p string, there func(string) bool, list func(dir string) ([]string, error)) error {
	for end := 0; end < len(p); {
		next := strings.IndexByte(p[end:], '/')
		if next < 0 {
			next = len(p) - end
		}
		part := p[:end+next]
		if !there(part) {
			return nil // what is below is not there either
		}
		names, err := list(path.Dir(part))
		if err != nil {
			return homeError(err)
		}
		if !slices.Contains(names, path.Base(part)) {
			return fault.New(fault.Conflict, "Something is there whose name differs only in how it is spelled.").
				WithRemedy("Choose another name, or spell it in the same way.").WithCode(CodeExists)
		}
		end += next + 1
	}
	return nil
}

// CodeExists marks a document that is there already and may not be overwritten.
const CodeExists = "exists"

func errExists() error {
	return fault.New(fault.Conflict, "File already exists").WithCode(CodeExists)
}

func errFolder() error {
	return fault.New(fault.Invalid, "That is a folder, not a file.").WithCode("is_folder")
}

// homeError gives what the file system says about a person's documents a kind.
func homeError(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*fault.Error](err); ok {
		return err
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fault.Wrap(fault.Missing, err, "There is no such document.").WithCode("no_document")
	case errors.Is(err, fs.ErrExist):
		return fault.Wrap(fault.Conflict, err, "File already exists").WithCode(CodeExists)
	case volume.IsFull(err):
		return fault.Wrap(fault.Unavailable, err, "The disk with the studio's files is full.").
			WithRemedy("Tell the operator to free some space; nothing that was saved is lost.").WithCode("disk_full")
	case isNotFolder(err):
		return fault.Wrap(fault.Invalid, err, "A part of the path is a file, not a folder.").WithCode("is_file")
	case isBadName(err):
		return fault.Wrap(fault.Invalid, err, "The file system of the studio can't take such a name.").WithCode("bad_name")
	case isReadOnly(err):
		return fault.Wrap(fault.Unavailable, err, "The studio may not write to its folder of documents.").
			WithRemedy("Tell the operator to make it writable for the account that runs the studio.").WithCode("data_readonly")
	case strings.Contains(err.Error(), "path escapes from parent"): // os.Root has no name for this error
		return fault.Wrap(fault.Invalid, err, "The path leads out of your documents.").WithCode("outside")
	}
	return err
}
