package frontend

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	fastgzip "github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"

	"github.com/ahelme/comfyume/internal/fault"
)

// Installer brings versions into a folder.
type Installer struct {
	Root     string                               // where versions live
	Media    bool                                 // take pictures and films of templates too
	Progress func(what string, done, total int64) // called often, from one goroutine at a time; may be nil
}

// Install brings what: a version of the editor's page, "" for the pinned one, or the file of a package. A version
// that is there already stays untouched unless again is set.
func (in *Installer) Install(ctx context.Context, what string, again bool) (Installed, error) {
	if strings.HasSuffix(what, ".whl") {
		return in.unpack(ctx, what, again)
	}
	if what == "" {
		what = Pinned
	}
	return in.bring(ctx, Page, "comfyui-frontend-package", what, again)
}

// InstallTemplates brings the workflow templates that the page's template browser shows, without pictures.
func (in *Installer) InstallTemplates(ctx context.Context, again bool) (Installed, error) {
	return in.bring(ctx, Templates, "comfyui-workflow-templates-json", pinnedTemplates, again)
}

// InstallMedia brings the pictures and films of the templates.
func (in *Installer) InstallMedia(ctx context.Context, again bool) ([]Installed, error) {
	var all []Installed
	for _, name := range slices.Sorted(maps.Keys(pinnedMedia)) {
		one, err := in.bring(ctx, Media, name, pinnedMedia[name], again)
		if err != nil {
			return all, err
		}
		all = append(all, one)
	}
	return all, nil
}

// InstallDocs brings the help pages of the nodes.
func (in *Installer) InstallDocs(ctx context.Context, again bool) (Installed, error) {
	return in.bring(ctx, Docs, "comfyui-embedded-docs", pinnedDocs, again)
}

// find returns an installed version.
func (in *Installer) find(kind Kind, version string) (Installed, bool, error) {
	all, err := List(in.Root, kind)
	if err != nil {
		return Installed{}, false, err
	}
	i := slices.IndexFunc(all, func(i Installed) bool { return i.Version == version })
	if i < 0 {
		return Installed{}, false, nil
	}
	return all[i], true, nil
}

// bring downloads a package and unpacks it.
func (in *Installer) bring(ctx context.Context, kind Kind, name, version string, again bool) (Installed, error) {
	if !versionWord.MatchString(version) {
		return Installed{}, fault.New(fault.Invalid, "%q is neither a version such as %s nor the file of a package.", version, Pinned)
	}
	installedAs := version
	if kind == Media {
		installedAs += "-" + name[strings.LastIndexByte(name, '-')+1:]
	}
	if found, ok, err := in.find(kind, installedAs); err != nil || ok && !again {
		return found, err
	}
	if err := os.MkdirAll(in.Root, 0o755); err != nil {
		return Installed{}, noRoom(err)
	}
	tmp, err := os.MkdirTemp(in.Root, ".download-*")
	if err != nil {
		return Installed{}, noRoom(err)
	}
	defer os.RemoveAll(tmp)
	in.report("downloading "+name+" "+version, 0, 0)
	file, err := download(ctx, tmp, name, version)
	if err != nil {
		return Installed{}, err
	}
	return in.unpack(ctx, file, again)
}

func noRoom(err error) error {
	return fault.Wrap(fault.Internal, err, "The folder for frontends can't be written.").
		WithRemedy("Make it writable, or set COMFYUME_FRONTENDS to another folder.")
}

func (in *Installer) report(what string, done, total int64) {
	if in.Progress != nil {
		in.Progress(what, done, total)
	}
}

// unpack makes an installed version of a package: into a folder beside it first, then renamed at once.
func (in *Installer) unpack(ctx context.Context, file string, again bool) (Installed, error) {
	w, err := openWheel(file)
	if err != nil {
		return Installed{}, err
	}
	defer w.Close()
	if found, ok, err := in.find(w.kind, w.version); err != nil || ok && !again {
		return found, err
	}
	parent := w.kind.folder(in.Root)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return Installed{}, noRoom(err)
	}
	tmp, err := os.MkdirTemp(parent, ".unpack-*")
	if err != nil {
		return Installed{}, noRoom(err)
	}
	defer os.RemoveAll(tmp)
	m, err := in.fill(ctx, tmp, w)
	if err != nil {
		return Installed{}, err
	}
	final := filepath.Join(parent, w.version)
	if err := replace(tmp, final); err != nil {
		return Installed{}, noRoom(err)
	}
	return Installed{Kind: w.kind, Version: w.version, Folder: final, Files: len(m.Files), Size: m.size()}, nil
}

// replace renames tmp to final, which may be there already.
func replace(tmp, final string) error {
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	err := os.Rename(tmp, final)
	if err == nil {
		return nil
	}
	old := tmp + ".old"
	if moved := os.Rename(final, old); moved != nil {
		return errors.Join(err, moved)
	}
	if err := os.Rename(tmp, final); err != nil {
		return errors.Join(err, os.Rename(old, final))
	}
	return os.RemoveAll(old)
}

// fill unpacks, verifies and compresses every file of a package into folder and writes the manifest last.
func (in *Installer) fill(ctx context.Context, folder string, w *wheel) (*manifest, error) {
	all, total, err := w.entries(func(name string) bool {
		return w.kind != Templates || in.Media || path.Ext(name) == ".json"
	})
	if err != nil {
		return nil, err
	}
	m := &manifest{Kind: w.kind, Version: w.version, Wheel: w.name, SHA256: w.sum, Files: map[string]item{}}
	var mu sync.Mutex
	var done int64
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for _, e := range all {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			one, err := w.place(folder, e)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			m.Files[e.path] = one
			done += one.Size
			in.report("unpacking "+string(w.kind)+" "+w.version, done, total)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	text, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	if err := writeFile(filepath.Join(folder, manifestName), text); err != nil {
		return nil, noRoom(err)
	}
	return m, nil
}

// place writes one file and its compressed forms.
func (w *wheel) place(folder string, e entry) (item, error) {
	text, hash, err := w.read(e)
	if err != nil {
		return item{}, err
	}
	one := item{Size: int64(len(text)), Hash: hash}
	if err := put(filepath.Join(folder, filesName, filepath.FromSlash(e.path)), text); err != nil {
		return item{}, noRoom(err)
	}
	if !shrinks(e.path, one.Size) {
		return one, nil
	}
	packed := filepath.Join(folder, packedName, filepath.FromSlash(e.path))
	for _, form := range []struct {
		suffix string
		pack   func([]byte) ([]byte, error)
		size   *int64
	}{{".gz", packGzip, &one.Gzip}, {".zst", packZstd, &one.Zstd}} {
		small, err := form.pack(text)
		if err != nil {
			return item{}, err
		}
		if len(small) >= len(text)*9/10 {
			continue // not worth the browser's work
		}
		if err := put(packed+form.suffix, small); err != nil {
			return item{}, noRoom(err)
		}
		*form.size = int64(len(small))
	}
	return one, nil
}

func put(name string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("two files of the package are called %s here: %w", filepath.Base(name), err)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Close())
}

func packGzip(text []byte) ([]byte, error) {
	var b bytes.Buffer
	z, err := fastgzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	_, err = z.Write(text)
	err = errors.Join(err, z.Close()) // flushes into b, so before its bytes are taken
	return b.Bytes(), err
}

func packZstd(text []byte) ([]byte, error) {
	// Browsers refuse windows over 8 MiB.
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithWindowSize(8<<20), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	return z.EncodeAll(text, nil), z.Close()
}
