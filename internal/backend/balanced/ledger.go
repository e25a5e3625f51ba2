package balanced

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/ahelme/comfyume/internal/handover"
)

// ledger is what a studio made in a shared folder that others may use too: an empty file for each, called like it, whose
// time says when it was last wanted. Nothing else there is ever cleared away. It is the name of the folder of these files.
type ledger string

func ledgerOf(studio string) ledger { return ledger(".comfyume-" + studio) }

// note writes down that something is wanted now.
func (l ledger) note(root *os.Root, name string) error {
	// Only the studio writes here: who could, would have it delete what is not its own.
	if err := root.Mkdir(string(l), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	dir, err := handover.OpenFolder(root, string(l))
	if err != nil {
		return err
	}
	now := time.Now()
	err = dir.Chtimes(name, now, now)
	if errors.Is(err, fs.ErrNotExist) {
		var file *os.File
		if file, err = dir.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o644); err == nil {
			err = file.Close()
		}
	}
	return errors.Join(err, dir.Close())
}

// strike forgets what was deleted.
func (l ledger) strike(root *os.Root, name string) error {
	dir, err := handover.OpenFolder(root, string(l))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err = dir.Remove(name); errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, dir.Close())
}

// old lists what was not wanted since a time.
func (l ledger) old(root *os.Root, since time.Time) (names []string, err error) {
	dir, err := handover.OpenFolder(root, string(l))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	all, err := list(dir)
	for _, name := range all {
		if l.isOld(dir, name, since) {
			names = append(names, name)
		}
	}
	return names, errors.Join(err, dir.Close())
}

func (l ledger) isOld(dir *os.Root, name string, since time.Time) bool {
	info, err := dir.Lstat(name)
	return err == nil && info.Mode().IsRegular() && info.ModTime().Before(since)
}

// still reports whether something is as old as it was: it may have been wanted meanwhile.
func (l ledger) still(root *os.Root, name string, since time.Time) bool {
	dir, err := handover.OpenFolder(root, string(l))
	if err != nil {
		return false
	}
	defer dir.Close() //nolint:errcheck // it was read
	return l.isOld(dir, name, since)
}

// maxListed bounds how much of a folder is read: containers may fill it.
const maxListed = 100_000

// list returns the names in a folder.
func list(root *os.Root) ([]string, error) {
	dir, err := root.Open(".")
	if err != nil {
		return nil, err
	}
	names, err := dir.Readdirnames(maxListed)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return names, errors.Join(err, dir.Close())
}
