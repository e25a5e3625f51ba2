package frontend

import (
	"encoding/json"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// Names inside an installed version.
const (
	manifestName = "comfyume.json" // what the version holds
	filesName    = "files"         // the package's files, unchanged
	packedName   = "packed"        // the same compressed, with .gz and .zst behind the name
)

// manifest says what an installed version holds.
type manifest struct {
	Kind    Kind            `json:"kind"`
	Version string          `json:"version"`
	Wheel   string          `json:"wheel"`
	SHA256  string          `json:"sha256"` // of the wheel
	Files   map[string]item `json:"files"`  // by path as it is asked for, without leading slash
}

// item is one file.
type item struct {
	Size int64  `json:"size"`
	Hash string `json:"hash"`           // SHA-256, lower-case hex
	Gzip int64  `json:"gzip,omitempty"` // size of the compressed form; 0: there is none
	Zstd int64  `json:"zstd,omitempty"`
}

func (m *manifest) size() int64 {
	var n int64
	for _, f := range m.Files {
		n += f.Size + f.Gzip + f.Zstd
	}
	return n
}

func readManifest(folder string) (*manifest, error) {
	text, err := os.ReadFile(filepath.Join(folder, manifestName))
	if err != nil {
		return nil, err
	}
	var m manifest
	if err := json.Unmarshal(text, &m); err != nil {
		return nil, fmt.Errorf("reading %s: %w", manifestName, err)
	}
	return &m, nil
}

// contentTypes are the types browsers insist on, not left to the machine's own table.
var contentTypes = map[string]string{
	".html":  "text/html; charset=utf-8",
	".js":    "text/javascript; charset=utf-8",
	".mjs":   "text/javascript; charset=utf-8",
	".css":   "text/css; charset=utf-8",
	".json":  "application/json; charset=utf-8",
	".map":   "application/json; charset=utf-8",
	".md":    "text/markdown; charset=utf-8",
	".txt":   "text/plain; charset=utf-8",
	".svg":   "image/svg+xml",
	".wasm":  "application/wasm",
	".woff":  "font/woff",
	".woff2": "font/woff2",
	".ttf":   "font/ttf",
	".eot":   "application/vnd.ms-fontobject",
	".ico":   "image/x-icon",
	".png":   "image/png",
	".jpg":   "image/jpeg",
	".jpeg":  "image/jpeg",
	".gif":   "image/gif",
	".webp":  "image/webp",
	".avif":  "image/avif",
	".webm":  "video/webm",
	".mp4":   "video/mp4",
	".mp3":   "audio/mpeg",
	".flac":  "audio/flac",
	".ogg":   "audio/ogg",
	".wav":   "audio/wav",
	".glb":   "model/gltf-binary",
	".hdr":   "image/vnd.radiance",
}

// contentType returns the type of a file by its name.
func contentType(name string) string {
	if t, ok := contentTypes[strings.ToLower(path.Ext(name))]; ok {
		return t
	}
	return "application/octet-stream"
}

// shrinks reports whether compressing a file is worth it. Source maps are asked for by nobody but developers.
func shrinks(name string, size int64) bool {
	switch strings.ToLower(path.Ext(name)) {
	case ".html", ".js", ".mjs", ".css", ".json", ".svg", ".txt", ".wasm", ".ttf", ".eot", ".ico":
		return size >= 256
	default:
		return false
	}
}
