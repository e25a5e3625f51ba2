//go:build !linux && !darwin

package sqlite

import (
	"fmt"
	"os"
)

// localDisk only looks whether the folder is there: this system can't be asked for the kind of its disks.
func localDisk(dir string) error {
	if _, err := os.Stat(dir); err != nil {
		return classify(fmt.Errorf("look at the folder %s: %w", dir, err))
	}
	return nil
}
