package frontend

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
)

// noTime keeps Last-Modified away: the hash is the truth, and times differ between machines.
var noTime time.Time

// bundle is one installed version, opened for serving.
type bundle struct {
	version string
	root    *os.Root
	files   map[string]item
	bare    bool // a folder that somebody else made, without manifest
}

func (b *bundle) versionOf() string {
	if b == nil {
		return ""
	}
	return b.version
}

func openBundle(folder string) (*bundle, error) {
	m, err := readManifest(folder)
	if err != nil {
		return nil, damagedVersion(folder, err)
	}
	root, err := os.OpenRoot(folder)
	if err != nil {
		return nil, damagedVersion(folder, err)
	}
	return &bundle{version: m.Version, root: root, files: m.Files}, nil
}

func damagedVersion(folder string, err error) error {
	version := filepath.Base(folder)
	return fault.Wrap(fault.Unavailable, err, "The installed frontend %s can't be read.", version).
		WithRemedy("Type: comfyume frontend install --again %s", version)
}

// folderBundle serves a folder as it is, uncompressed: it is what developers of a page point the studio at.
func folderBundle(folder string) (*bundle, error) {
	root, err := os.OpenRoot(folder)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "The frontend folder %s can't be read.", folder)
	}
	b := &bundle{root: root, files: map[string]item{}, bare: true}
	err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			b.files[name] = item{}
		}
		return err
	})
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "The frontend folder %s can't be read.", folder)
	}
	return b, nil
}

// hashedName is a file whose name changes with its content.
var hashedName = regexp.MustCompile(`^assets/(?:.*/)?[^/]*-([A-Za-z0-9_-]{8})\.(?:js|css|mjs|woff2?|svg|png|webp|webm|mp4|json|wasm|ttf|eot)$`)

// cacheRule returns how long a browser may keep a file without asking.
func cacheRule(name string) string {
	if name == "index.html" {
		return "no-store"
	}
	if m := hashedName.FindStringSubmatch(name); m != nil && strings.ContainsAny(m[1], "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_") {
		return "public, max-age=31536000, immutable"
	}
	switch path.Ext(name) {
	case ".js", ".mjs", ".css", ".json", ".html", ".md":
		return "no-cache"
	default:
		return "public, max-age=3600"
	}
}

// bestForm chooses among the compressed forms of a file by the browser's Accept-Encoding; "" is the plain one.
func bestForm(accept string, f item) string {
	gzip, zstd := false, false
	for part := range strings.SplitSeq(accept, ",") {
		word, params, _ := strings.Cut(part, ";")
		if q := strings.TrimSpace(params); strings.HasPrefix(q, "q=0") && strings.Trim(q[3:], ".0") == "" {
			continue // refused
		}
		switch strings.ToLower(strings.TrimSpace(word)) {
		case "zstd":
			zstd = true
		case "gzip", "*":
			gzip = true
		}
	}
	switch {
	case zstd && f.Zstd > 0 && (!gzip || f.Gzip == 0 || f.Zstd <= f.Gzip):
		return "zstd"
	case gzip && f.Gzip > 0:
		return "gzip"
	default:
		return ""
	}
}

// matches reports whether a browser's If-None-Match names the tag.
func matches(header, tag string) bool {
	if strings.TrimSpace(header) == "*" {
		return true
	}
	for part := range strings.SplitSeq(header, ",") {
		if strings.TrimPrefix(strings.TrimSpace(part), "W/") == tag {
			return true
		}
	}
	return false
}
