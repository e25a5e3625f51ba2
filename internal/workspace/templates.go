package workspace

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/file"
)

// Studio is the pack of templates that everybody sees.
const Studio = "studio"

// Templates are workflows that the operator gives out: DIR/*.json to everybody, DIR/GROUP/*.json to a group, each
// with a picture of the same name beside it where there is one. They are read when asked for, so that a file that
// is put there shows at once. It is safe for concurrent use.
type Templates struct{ dir string }

// NewTemplates returns the templates below dir. A folder that is missing is empty.
func NewTemplates(dir string) *Templates { return &Templates{dir: dir} }

// Pack is a heading in the template browser with its workflows, without ".json".
type Pack struct {
	Name  string
	Names []string
}

// pictures are the endings of pictures beside a template.
var pictures = []string{".jpg", ".jpeg", ".png", ".webp"}

// Templates lists the packs that a member of group sees: the group's own first, then the studio's. Packs without
// workflows are left out. group may be empty.
func (t *Templates) Templates(group string) (packs []Pack, err error) {
	root, err := os.OpenRoot(t.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open the folder of templates: %w", err)
	}
	defer closeAfter(root, &err)
	if group != "" && group != Studio && file.CheckName("", group) == nil {
		names, err := templateNames(root, group)
		if err != nil {
			return nil, err
		}
		if len(names) > 0 {
			packs = append(packs, Pack{Name: group, Names: names})
		}
	}
	names, err := templateNames(root, ".")
	if err != nil {
		return nil, err
	}
	if len(names) > 0 {
		packs = append(packs, Pack{Name: Studio, Names: names})
	}
	return packs, nil
}

func templateNames(root *os.Root, dir string) ([]string, error) {
	f, err := root.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open a folder of templates: %w", err)
	}
	entries, err := f.ReadDir(-1)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("read a folder of templates: %w", err)
	}
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".json"); ok && name != "" && name[0] != '.' && !e.IsDir() {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// Template opens one file of a pack that a member of group sees: NAME.json, or the picture beside it. Missing:
// there is no such file, or the pack is another group's.
func (t *Templates) Template(group, pack, name string) (_ file.Entry, _ io.ReadSeekCloser, err error) {
	none := fault.New(fault.Missing, "There is no such template.").WithCode("no_template")
	if file.CheckName("", name) != nil || name[0] == '.' || !slices.Contains(append(pictures, ".json"), path.Ext(name)) {
		return file.Entry{}, nil, none
	}
	switch {
	case pack == Studio:
	case pack != "" && pack == group && file.CheckName("", pack) == nil:
		name = pack + "/" + name
	default:
		return file.Entry{}, nil, none
	}
	root, err := os.OpenRoot(t.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return file.Entry{}, nil, none
	}
	if err != nil {
		return file.Entry{}, nil, fmt.Errorf("open the folder of templates: %w", err)
	}
	defer closeAfter(root, &err)
	info, err := root.Stat(name)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
		return file.Entry{}, nil, none
	}
	if err != nil {
		return file.Entry{}, nil, fmt.Errorf("open a template: %w", err)
	}
	f, err := root.Open(name)
	if err != nil {
		return file.Entry{}, nil, fmt.Errorf("open a template: %w", err)
	}
	return entryOf(name, info), f, nil
}
