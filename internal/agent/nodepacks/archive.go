package nodepacks

import (
	"archive/tar"
	"archive/zip"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"strings"

	"github.com/ahelme/comfyume/internal/agent/report"
	"github.com/ahelme/comfyume/internal/fault"
)

// Bounds of an archive: a small one can unfold to any size.
const (
	maxArchive  = 1 << 30
	maxUnpacked = 4 << 30
	maxFiles    = 50_000
)

// unpack fetches an archive, checks its hash and lays its files out. The one folder that archives of hosts begin with
// is left out.
func (s *Store) unpack(ctx context.Context, w Want, kind, into string, tell report.Sink) error {
	file, err := s.fetch(ctx, w, tell)
	if err != nil {
		return err
	}
	defer func() {
		if err := errors.Join(file.Close(), os.Remove(file.Name())); err != nil {
			s.log.Warn("an archive stays", "file", file.Name(), "err", err)
		}
	}()
	tell(report.Event{State: "unpacking", Text: "unpacking"})
	root, err := os.OpenRoot(into)
	if err != nil {
		return err
	}
	defer root.Close()
	u := &unpacker{root: root, left: maxUnpacked}
	if kind == ".zip" {
		err = u.zip(file)
	} else {
		err = u.tar(file)
	}
	if err != nil {
		return fault.Wrap(fault.Invalid, err, "The archive can't be unpacked.").WithCode("bad_archive").
			WithRemedy("See that it is a .zip or .tar.gz of a pack, below %d files and %d GB.", maxFiles, maxUnpacked>>30)
	}
	return u.lift()
}

// fetch brings the archive into a file whose hash is right.
func (s *Store) fetch(ctx context.Context, w Want, tell report.Sink) (*os.File, error) {
	tell(report.Event{State: "fetching", Text: "fetching " + w.URL})
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, w.URL, nil)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "The address of the archive is none.").WithCode("bad_url")
	}
	resp, err := s.options.Client.Do(r)
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, err, "The archive can't be fetched.").WithCode("fetch_failed").WithRemedy("See the address and the network.")
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fault.New(fault.Unavailable, "The archive can't be fetched: its host answered with status %d.", resp.StatusCode).
			WithCode("fetch_failed").WithRemedy("See the address.")
	}
	file, err := os.CreateTemp(s.options.State, "archive-")
	if err != nil {
		return nil, err
	}
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(file, sum), io.LimitReader(resp.Body, maxArchive+1))
	switch {
	case err != nil:
		err = fault.Wrap(fault.Unavailable, err, "The archive did not come whole.").WithCode("fetch_failed")
	case n > maxArchive:
		err = fault.New(fault.Invalid, "The archive has more than %d GB.", maxArchive>>30).WithCode("bad_archive")
	case hex.EncodeToString(sum.Sum(nil)) != w.SHA256:
		err = fault.New(fault.Conflict, "The archive has sha256 %x, not %s.", sum.Sum(nil), w.SHA256).WithCode("wrong_hash").
			WithRemedy("See the address and the hash. Nothing of it was kept.")
	default:
		_, err = file.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close(), os.Remove(file.Name()))
	}
	return file, nil
}

// unpacker lays out files within bounds. Links and devices are left out: a pack needs none.
type unpacker struct {
	root  *os.Root
	left  int64
	files int
	tops  map[string]bool // first parts of names
	plain bool            // a file lies at the top
}

func (u *unpacker) zip(file *os.File) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	z, err := zip.NewReader(file, info.Size())
	if err != nil {
		return err
	}
	for _, f := range z.File {
		if !f.Mode().IsRegular() {
			continue
		}
		r, err := f.Open()
		if err != nil {
			return err
		}
		err = u.write(f.Name, f.Mode(), r)
		if err = errors.Join(err, r.Close()); err != nil {
			return err
		}
	}
	return nil
}

func (u *unpacker) tar(file *os.File) error {
	gz, err := gzip.NewReader(file)
	if err != nil {
		return err
	}
	for t := tar.NewReader(gz); ; {
		h, err := t.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if err := u.write(h.Name, h.FileInfo().Mode(), t); err != nil {
			return err
		}
	}
}

func (u *unpacker) write(name string, mode fs.FileMode, r io.Reader) error {
	if !fs.ValidPath(name) || strings.ContainsAny(name, "\\:\x00") {
		return fmt.Errorf("a file is called %q", name)
	}
	if u.files++; u.files > maxFiles {
		return fmt.Errorf("it has more than %d files", maxFiles)
	}
	top, rest, below := strings.Cut(name, "/")
	if u.tops == nil {
		u.tops = map[string]bool{}
	}
	u.tops[top] = true
	u.plain = u.plain || !below && rest == ""
	if err := u.root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	f, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644|mode&0o111)
	if err != nil {
		return err
	}
	n, err := io.Copy(f, io.LimitReader(r, u.left+1))
	if u.left -= n; err == nil && u.left < 0 {
		err = fmt.Errorf("it unfolds to more than %d GB", maxUnpacked>>30)
	}
	return errors.Join(err, f.Close())
}

// lift moves all out of the one folder there is at the top.
func (u *unpacker) lift() error {
	if u.files == 0 {
		return fault.New(fault.Invalid, "The archive has no files.").WithCode("bad_archive")
	}
	if u.plain || len(u.tops) != 1 {
		return nil
	}
	const aside = ".comfyume-top"
	for top := range u.tops {
		if err := u.root.Rename(top, aside); err != nil {
			return err
		}
	}
	dir, err := u.root.Open(aside)
	if err != nil {
		return err
	}
	names, err := dir.Readdirnames(-1)
	if err = errors.Join(err, dir.Close()); err != nil {
		return err
	}
	for _, name := range names {
		if err := u.root.Rename(aside+"/"+name, name); err != nil {
			return err
		}
	}
	return u.root.Remove(aside)
}
