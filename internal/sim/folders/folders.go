// Package folders knows the directories of a simulated ComfyUI: where input, output and temp files lie, how names
// in graphs and addresses lead to them, and which name the next saved file gets.
package folders

import (
	"errors"
	"fmt"
	"io/fs"
	"mime"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Folders are the directories of one server. The value is read-only after New and safe for concurrent use;
// NextName is called by the one worker only.
type Folders struct {
	Input, Output, Temp, User string // absolute
}

// New makes the directories that are missing and empties temp, as the start of a server does.
func New(f Folders) (*Folders, error) {
	for _, dir := range []*string{&f.Input, &f.Output, &f.Temp, &f.User} {
		abs, err := filepath.Abs(*dir)
		if err != nil {
			return nil, fmt.Errorf("folder %s: %w", *dir, err)
		}
		*dir = abs
	}
	if err := f.ClearTemp(); err != nil {
		return nil, err
	}
	for _, dir := range []string{f.Input, f.Output, f.Temp, f.User} {
		if err := os.MkdirAll(dir, 0o777); err != nil {
			return nil, fmt.Errorf("make folder: %w", err)
		}
	}
	return &f, nil
}

// ClearTemp removes what lies in the temp directory.
func (f *Folders) ClearTemp() error {
	entries, err := os.ReadDir(f.Temp)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("empty the temp folder: %w", err)
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(f.Temp, e.Name())); err != nil {
			return fmt.Errorf("empty the temp folder: %w", err)
		}
	}
	return nil
}

// Dir returns the directory of a type word; "" for a word that is none.
func (f *Folders) Dir(typ string) string {
	switch typ {
	case "input":
		return f.Input
	case "output":
		return f.Output
	case "temp":
		return f.Temp
	}
	return ""
}

// Annotated splits the directory off a name such as "cat.png [output]". typ is "" when the name says none. The
// blank before the bracket is cut off unseen, as a real server does.
func Annotated(name string) (bare, typ string) {
	for _, typ := range []string{"output", "input", "temp"} {
		if strings.HasSuffix(name, "["+typ+"]") {
			return name[:max(0, len(name)-len(typ)-3)], typ
		}
	}
	return name, ""
}

// Path returns where a name used in a graph leads. Unlike the real thing it never leads out of the directory;
// ok is false for names that would.
func (f *Folders) Path(name string) (path string, ok bool) {
	bare, typ := Annotated(name)
	if typ == "" {
		typ = "input"
	}
	return Within(f.Dir(typ), bare)
}

// Exists reports whether a name used in a graph leads to something.
func (f *Folders) Exists(name string) bool {
	path, ok := f.Path(name)
	if !ok {
		return false
	}
	_, err := os.Stat(path)
	return err == nil
}

// Within joins name to dir and reports whether the result stays inside.
func Within(dir, name string) (path string, ok bool) {
	if strings.ContainsRune(name, 0) {
		return "", false
	}
	path = filepath.Join(dir, name)
	if filepath.IsAbs(name) {
		path = filepath.Clean(name)
	}
	return path, path == dir || strings.HasPrefix(path, dir+string(filepath.Separator))
}

// Files lists the names directly in the directory of a type, sorted, those only that are files.
func (f *Folders) Files(typ string) ([]string, error) {
	entries, err := os.ReadDir(f.Dir(typ))
	if err != nil {
		return nil, fmt.Errorf("list %s files: %w", typ, err)
	}
	var names []string
	for _, e := range entries {
		if info, err := os.Stat(filepath.Join(f.Dir(typ), e.Name())); err == nil && info.Mode().IsRegular() {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

// Kind is the first word of a file's media type by its name: image, audio, video, model, text …; "" when unknown.
func Kind(name string) string {
	kind, _, _ := strings.Cut(ContentType(name), "/")
	return kind
}

// extensions are media types by extension, so that they do not depend on what the machine has installed.
var extensions = map[string]string{
	".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".gif": "image/gif", ".webp": "image/webp",
	".bmp": "image/bmp", ".tif": "image/tiff", ".tiff": "image/tiff", ".avif": "image/avif", ".svg": "image/svg+xml",
	".ico": "image/vnd.microsoft.icon",
	".wav": "audio/x-wav", ".flac": "audio/flac", ".mp3": "audio/mpeg", ".ogg": "audio/ogg", ".opus": "audio/opus",
	".m4a": "audio/mp4", ".aac": "audio/aac", ".mp4": "video/mp4", ".webm": "video/webm", ".mov": "video/quicktime",
	".mkv": "video/x-matroska", ".avi": "video/x-msvideo", ".glb": "model/gltf-binary", ".gltf": "model/gltf+json",
	".obj": "model/obj", ".stl": "model/stl", ".json": "application/json", ".txt": "text/plain", ".css": "text/css",
	".html": "text/html", ".htm": "text/html", ".js": "text/javascript", ".xhtml": "application/xhtml+xml",
}

// ContentType is a file's media type by its name; "" when unknown.
func ContentType(name string) string {
	ext := strings.ToLower(filepath.Ext(name))
	if t, ok := extensions[ext]; ok {
		return t
	}
	t, _, _ := strings.Cut(mime.TypeByExtension(ext), ";")
	return t
}

// Target is where a node saves a row of files.
type Target struct {
	Dir       string // absolute, made
	Subfolder string
	Stem      string
	Type      string
	counter   int
}

// ErrOutside is what a node raises whose prefix leads out of the directory.
type ErrOutside struct{ Folder, Dir string }

func (e *ErrOutside) Error() string {
	return "**** ERROR: Saving image outside the output folder is not allowed." +
		"\n full_output_folder: " + e.Folder + "\n         output_dir: " + e.Dir +
		"\n         commonpath: " + common(e.Folder, e.Dir)
}

// common is the deepest folder that both paths are in.
func common(a, b string) string {
	for {
		if _, ok := Within(a, b); ok || a == filepath.Dir(a) {
			return a
		}
		a = filepath.Dir(a)
	}
}

// NextName prepares to save below the directory of typ under a prefix, which may have a subfolder and the words
// %width%, %height% and those of the date.
func (f *Folders) NextName(typ, prefix string, width, height int, now time.Time) (*Target, error) {
	if strings.Contains(prefix, "%") {
		prefix = strings.NewReplacer("%width%", strconv.Itoa(width), "%height%", strconv.Itoa(height),
			"%year%", strconv.Itoa(now.Year()), "%month%", now.Format("01"), "%day%", now.Format("02"),
			"%hour%", now.Format("15"), "%minute%", now.Format("04"), "%second%", now.Format("05")).Replace(prefix)
	}
	clean := filepath.Clean(prefix)
	t := &Target{Type: typ, Subfolder: filepath.ToSlash(filepath.Dir(clean)), Stem: filepath.Base(clean)}
	if t.Subfolder == "." {
		t.Subfolder = ""
	}
	root := f.Dir(typ)
	dir, ok := Within(root, t.Subfolder)
	if !ok {
		return nil, &ErrOutside{Folder: dir, Dir: root}
	}
	t.Dir = dir
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, err
	}
	last, err := highest(dir, t.Stem)
	if err != nil {
		return nil, err
	}
	t.counter = last + 1
	return t, nil
}

// highest finds the largest number between "stem_" and the next underscore among the names in dir.
func highest(dir, stem string) (int, error) {
	d, err := os.Open(dir)
	if err != nil {
		return 0, err
	}
	defer d.Close() // opened to read
	names, err := d.Readdirnames(-1)
	if err != nil {
		return 0, err
	}
	top := 0
	for _, name := range names {
		rest, ok := strings.CutPrefix(name, stem+"_")
		if !ok {
			continue
		}
		digits, _, _ := strings.Cut(rest, "_")
		if n, err := strconv.Atoi(strings.TrimSpace(digits)); err == nil && n > top {
			top = n
		}
	}
	return top, nil
}

// Save writes the next file of the row, picture number batch of it, and returns its name.
func (t *Target) Save(content []byte, ext string, batch int) (name string, err error) {
	stem := strings.ReplaceAll(t.Stem, "%batch_num%", strconv.Itoa(batch))
	name = fmt.Sprintf("%s_%05d_.%s", stem, t.counter, ext)
	t.counter++
	return name, os.WriteFile(filepath.Join(t.Dir, name), content, 0o666)
}
