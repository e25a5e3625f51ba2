package fleet

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// share copies what replicas leave in their folders below Staging to Shared, once it has been there for VisibleAfter:
// so a file is seen elsewhere as late as through the attribute cache of a network disk.
func (f *Fleet) share() {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	done := map[string]time.Time{} // by path, with the time of the file that was copied
	for {
		select {
		case <-tick.C:
		case <-f.closed.Done():
			return
		}
		err := filepath.WalkDir(f.o.Staging, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return nil // a replica may just be writing it, or is gone
			}
			info, err := d.Info()
			if err != nil || time.Since(info.ModTime()) < f.o.VisibleAfter || done[path].Equal(info.ModTime()) {
				return nil
			}
			rel, err := filepath.Rel(f.o.Staging, path)
			if err != nil {
				return err
			}
			_, inside, ok := strings.Cut(filepath.ToSlash(rel), "/") // behind the replica's folder
			if !ok {
				return nil
			}
			done[path] = info.ModTime()
			return copyFile(filepath.Join(f.o.Shared, filepath.FromSlash(inside)), path)
		})
		if err != nil {
			f.log.Error("a file of the simulated shared disk was not copied", "err", err)
		}
	}
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close() //nolint:errcheck // the copy failed
		return err
	}
	return out.Close()
}
