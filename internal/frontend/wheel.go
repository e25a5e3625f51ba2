package frontend

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/csv"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/ahelme/comfyume/internal/fault"
)

// largestPackage bounds what a package may unpack to: a small archive can hold a very large nothing.
const largestPackage = 4 << 30

// wheelName is how packages are called: NAME-VERSION-PYTHON-ABI-PLATFORM.whl.
var wheelName = regexp.MustCompile(`^([A-Za-z0-9_]+)-([0-9][0-9A-Za-z.+]*)-[^-]+-[^-]+-[^-]+\.whl$`)

// sources says what is taken from which package: the folder inside it and the kind it becomes.
var sources = map[string]struct {
	kind Kind
	root string
}{
	"comfyui_frontend_package":        {Page, "comfyui_frontend_package/static/"},
	"comfyui_workflow_templates":      {Templates, "comfyui_workflow_templates/templates/"},
	"comfyui_workflow_templates_json": {Templates, "comfyui_workflow_templates_json/templates/"},
	"comfyui_embedded_docs":           {Docs, "comfyui_embedded_docs/docs/"},
}

// mediaPackage begins the names of the packages with pictures and films of the templates.
const mediaPackage = "comfyui_workflow_templates_media_"

// wheel is an opened package.
type wheel struct {
	kind    Kind
	version string
	name    string // file name
	sum     string // SHA-256 of the file
	root    string // folder inside it that is taken
	zip     *zip.ReadCloser
	hashes  map[string]string // by path inside, hex
}

func damaged(name string, cause error, what string) error {
	return fault.Wrap(fault.Invalid, cause, "The package %s is damaged: %s.", name, what).
		WithRemedy("Delete it, bring it again and compare its hash with the one on its download page.")
}

// openWheel opens a package and checks it against its pin. The caller closes it.
func openWheel(file string) (*wheel, error) {
	name := filepath.Base(file)
	parts := wheelName.FindStringSubmatch(name)
	if parts == nil {
		return nil, fault.New(fault.Invalid, "%s is not named like a Python package (NAME-VERSION-py3-none-any.whl).", name).
			WithRemedy("Keep the name under which it was downloaded.")
	}
	src, ok := sources[parts[1]]
	version := parts[2]
	if part, media := strings.CutPrefix(parts[1], mediaPackage); media {
		src.kind, src.root, ok = Media, parts[1]+"/templates/", true
		version += "-" + part
	}
	if !ok {
		return nil, fault.New(fault.Invalid, "%s is not a package of the ComfyUI editor.", name).
			WithRemedy("Bring comfyui_frontend_package, comfyui_workflow_templates_json or comfyui_embedded_docs.")
	}
	sum, err := hashFile(file)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "The package %s can't be read.", name)
	}
	if pin := pins[name]; pin != "" && pin != sum {
		return nil, damaged(name, fmt.Errorf("sha256 is %s, not %s", sum, pin), "its hash is not the known one")
	}
	z, err := zip.OpenReader(file)
	if err != nil {
		return nil, damaged(name, err, "it is not an archive")
	}
	w := &wheel{kind: src.kind, version: version, name: name, sum: sum, root: src.root, zip: z}
	if err := w.readRecord(); err != nil {
		z.Close()
		return nil, err
	}
	return w, nil
}

func (w *wheel) Close() error { return w.zip.Close() }

func hashFile(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// readRecord reads the package's own list of hashes.
func (w *wheel) readRecord() error {
	i := strings.LastIndex(w.name, "-py")
	if i < 0 {
		i = len(w.name) - len(".whl")
	}
	f, err := w.zip.Open(w.name[:i] + ".dist-info/RECORD")
	if err != nil {
		return damaged(w.name, err, "it has no list of hashes")
	}
	defer f.Close()
	rows := csv.NewReader(f)
	rows.FieldsPerRecord = -1
	w.hashes = map[string]string{}
	for {
		row, err := rows.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return damaged(w.name, err, "its list of hashes can't be read")
		}
		if len(row) < 2 {
			continue
		}
		sum, ok := strings.CutPrefix(row[1], "sha256=")
		raw, err := base64.RawURLEncoding.DecodeString(sum)
		if ok && err == nil {
			w.hashes[row[0]] = hex.EncodeToString(raw)
		}
	}
}

// entry is one file to take from a package.
type entry struct {
	path string // as it will be asked for
	file *zip.File
}

// entries returns the files to take. keep decides by path.
func (w *wheel) entries(keep func(name string) bool) ([]entry, int64, error) {
	var all []entry
	var total uint64
	for _, f := range w.zip.File {
		name, inside := strings.CutPrefix(f.Name, w.root)
		if !inside || name == "" || f.FileInfo().IsDir() || !keep(name) {
			continue
		}
		if !fs.ValidPath(name) || !filepath.IsLocal(filepath.FromSlash(name)) || strings.Contains(name, `\`) || !f.Mode().IsRegular() {
			return nil, 0, damaged(w.name, fmt.Errorf("entry %q", f.Name), "it holds a file with an unsafe name")
		}
		total += f.UncompressedSize64
		if total > largestPackage {
			return nil, 0, damaged(w.name, nil, "it unpacks to more than 4 GiB")
		}
		all = append(all, entry{path: name, file: f})
	}
	if len(all) == 0 {
		return nil, 0, damaged(w.name, nil, "it holds none of the files it is known for")
	}
	return all, int64(total), nil
}

// read returns the bytes of an entry after comparing them with the package's list of hashes.
func (w *wheel) read(e entry) ([]byte, string, error) {
	want := w.hashes[e.file.Name]
	if want == "" {
		return nil, "", damaged(w.name, nil, path.Base(e.path)+" is not in its list of hashes")
	}
	r, err := e.file.Open()
	if err != nil {
		return nil, "", damaged(w.name, err, path.Base(e.path)+" can't be unpacked")
	}
	defer r.Close()
	var b bytes.Buffer
	b.Grow(int(min(e.file.UncompressedSize64, 1<<20)))
	n, err := io.Copy(&b, io.LimitReader(r, int64(e.file.UncompressedSize64)+1))
	if err != nil || uint64(n) != e.file.UncompressedSize64 {
		return nil, "", damaged(w.name, err, path.Base(e.path)+" can't be unpacked")
	}
	sum := sha256.Sum256(b.Bytes())
	if got := hex.EncodeToString(sum[:]); got != want {
		return nil, "", damaged(w.name, fmt.Errorf("%s: sha256 is %s, not %s", e.path, got, want), "a file in it is not what its list says")
	}
	return b.Bytes(), want, nil
}
