//go:build unix

package disk

import (
	"errors"
	"os"
)

// syncFolder makes renames in the folder durable.
func syncFolder(root *os.Root, dir string) error {
	f, err := root.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
