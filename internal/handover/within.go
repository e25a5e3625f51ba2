package handover

import (
	"errors"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// OpenWithin opens the file rel of a folder that others write to. No link on the way to it is followed, nor one in its
// place, and what is no plain file is refused: whoever writes there must not have the studio deliver its own files, or
// other people's.
func OpenWithin(dir, rel string) (*os.File, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	file, err := openWithin(root, filepath.ToSlash(rel))
	return file, errors.Join(err, root.Close())
}

func openWithin(root *os.Root, at string) (*os.File, error) {
	dir, err := OpenFolder(root, path.Dir(at))
	if err != nil {
		return nil, err
	}
	file, err := openFresh(dir, path.Base(at))
	return file, errors.Join(err, dir.Close())
}

// OpenFolder opens the folder name, with slashes, of one that others write to. A link in the place of any part of it is
// refused: what is done with what it returns happens there and nowhere else, whatever is put in its place meanwhile.
func OpenFolder(root *os.Root, name string) (*os.Root, error) {
	at, err := openPart(root, ".")
	for part := range strings.SplitSeq(name, "/") {
		if err != nil {
			return nil, err
		}
		var next *os.Root
		next, err = openPart(at, part)
		if bad := at.Close(); bad != nil && err == nil {
			err = errors.Join(bad, next.Close())
		}
		at = next
	}
	return at, err
}

func openPart(root *os.Root, part string) (*os.Root, error) {
	named, err := root.Lstat(part)
	if err != nil {
		return nil, err
	}
	if !named.IsDir() {
		return nil, notPlain(part)
	}
	folder, err := root.OpenRoot(part)
	if err != nil {
		return nil, err
	}
	is, err := folder.Stat(".")
	if err == nil && !os.SameFile(is, named) { // a link was put in its place just now
		err = notPlain(part)
	}
	if err != nil {
		return nil, errors.Join(err, folder.Close())
	}
	return folder, nil
}
