// Package file names the files of a workspace the way ComfyUI does: a type, a subfolder and a name.
package file

import (
	"time"

	"github.com/ahelme/comfyume/internal/job"
)

// The types of workspace files.
const (
	Input  = "input"
	Output = "output"
	Temp   = "temp"
)

// Ref names one file of a person. Subfolder uses forward slashes, no leading or trailing one, may be empty.
type Ref struct {
	Type      string `json:"type"`
	Subfolder string `json:"subfolder"`
	Name      string `json:"filename"`
}

// Info is what is known of a file.
type Info struct {
	Ref
	Size     int64
	Hash     string // SHA-256 of the bytes, lower-case hex
	Modified time.Time
	Job      job.ID // the job that made it; empty for uploads
	Node     string // the node that made it
}

// Entry is one file or folder of the userdata tree. Path is relative to the person's userdata root, with slashes.
type Entry struct {
	Path     string
	Size     int64
	Modified time.Time
	Created  time.Time
	Dir      bool
}
