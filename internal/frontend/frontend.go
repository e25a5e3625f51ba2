// Package frontend brings, verifies and serves the official ComfyUI editor page. The published package is served
// unchanged: nothing in it is rewritten, only packed at installation so that it travels compressed. Several
// versions live side by side in one folder that all studios of an account share.
package frontend

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/ahelme/comfyume/internal/fault"
)

// Pinned is the version that is installed when nobody asks for another.
const Pinned = "1.58.1"

// pinnedTemplates and pinnedDocs are the versions of the companion packages.
const (
	pinnedTemplates = "0.1.123"
	pinnedDocs      = "0.5.15"
)

// pinnedMedia are the packages with pictures and films of the templates. They are large and brought on request.
var pinnedMedia = map[string]string{
	"comfyui-workflow-templates-media-api":   "0.3.84",
	"comfyui-workflow-templates-media-image": "0.3.160",
	"comfyui-workflow-templates-media-other": "0.3.229",
	"comfyui-workflow-templates-media-video": "0.3.101",
}

// pins are the SHA-256 sums of the packages this version of ComfyuME was tried with. What has no pin is checked
// against the package index's own hash and the list of hashes inside the package.
var pins = map[string]string{
	"comfyui_frontend_package-1.27.10-py3-none-any.whl":        "822b2ef715771ec83ad19605d02e25b069991d366b81ccc550ab280ae9c831b8",
	"comfyui_frontend_package-1.40.10-py3-none-any.whl":        "d91882e3146d9fa9aea4f956deb35ef9d7f9b37dc36c406e80d3989f0c0e6241",
	"comfyui_frontend_package-1.58.1-py3-none-any.whl":         "37912597537a731a8f421179618a736c24184c5bdbfa327f38b2fb7c291852d9",
	"comfyui_workflow_templates_json-0.1.123-py3-none-any.whl": "fc321960cfc4f52dddc3ee111f33489b167eb7958028eb5b6a7f3fa8865a385e",
	"comfyui_workflow_templates-0.1.95-py3-none-any.whl":       "89e20f310f7e7c323d5fe69af895cdb9053d05442404f45e121773cdec95af8a",
	"comfyui_embedded_docs-0.5.15-py3-none-any.whl":            "7167e13b0f328a80184e69cd705ea1ff28b8032065517e4ef8293b08d5e528ee",
}

// Folder returns where frontends live: $COMFYUME_FRONTENDS, else comfyume/frontends in the account's data folder.
func Folder(getenv func(string) string) (string, error) {
	if dir := getenv("COMFYUME_FRONTENDS"); dir != "" {
		return filepath.Abs(dir)
	}
	if dir := getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "comfyume", "frontends"), nil
	}
	home := getenv("HOME")
	if home == "" {
		home = getenv("USERPROFILE")
	}
	if home == "" {
		return "", fault.New(fault.Invalid, "There is no home folder to keep the editor's page in.").
			WithRemedy("Set COMFYUME_FRONTENDS to a folder.")
	}
	return filepath.Join(home, ".local", "share", "comfyume", "frontends"), nil
}

// Kind is a sort of package that belongs to the editor's page.
type Kind string

// The kinds. Page is the editor, the others are data beside it.
const (
	Page      Kind = "page"
	Templates Kind = "templates"
	Media     Kind = "media"
	Docs      Kind = "docs"
)

// folder returns where versions of the kind live below the folder of frontends.
func (k Kind) folder(root string) string {
	if k == Page {
		return root
	}
	return filepath.Join(root, "_"+string(k))
}

// Installed is one installed version.
type Installed struct {
	Kind    Kind   `json:"kind"`
	Version string `json:"version"`
	Folder  string `json:"folder"`
	Files   int    `json:"files"`
	Size    int64  `json:"size"`
	Default bool   `json:"default"`
}

var versionWord = regexp.MustCompile(`^[0-9]+(\.[0-9]+)*[0-9A-Za-z.+-]*$`)

// List returns what is installed below root, newest first.
func List(root string, kind Kind) ([]Installed, error) {
	entries, err := os.ReadDir(kind.folder(root))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err, "The folder of installed frontends can't be read.")
	}
	var all []Installed
	for _, e := range entries {
		folder := filepath.Join(kind.folder(root), e.Name())
		if !e.IsDir() || !versionWord.MatchString(e.Name()) {
			continue
		}
		m, err := readManifest(folder)
		if err != nil {
			continue // an interrupted installation by other means; it is not offered
		}
		all = append(all, Installed{Kind: kind, Version: e.Name(), Folder: folder, Files: len(m.Files), Size: m.size()})
	}
	slices.SortFunc(all, func(a, b Installed) int { return compareVersions(b.Version, a.Version) })
	if kind == Page && len(all) > 0 {
		all[indexOfDefault(root, all)].Default = true
	}
	return all, nil
}

// indexOfDefault returns which of all is the default: the one that Use chose, else the newest.
func indexOfDefault(root string, all []Installed) int {
	chosen, err := os.ReadFile(filepath.Join(root, "default"))
	if err != nil {
		return 0
	}
	return max(0, slices.IndexFunc(all, func(i Installed) bool { return i.Version == strings.TrimSpace(string(chosen)) }))
}

// Use makes version the default of the account. The version "auto" goes back to the newest one.
func Use(root, version string) error {
	name := filepath.Join(root, "default")
	if version == "auto" {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fault.Wrap(fault.Internal, err, "The default frontend can't be changed.")
		}
		return nil
	}
	all, err := List(root, Page)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(all, func(i Installed) bool { return i.Version == version }) {
		return fault.New(fault.Missing, "Frontend %s is not installed.", version).WithRemedy("Type: comfyume frontend install %s", version)
	}
	if err := writeFile(name, []byte(version+"\n")); err != nil {
		return fault.Wrap(fault.Internal, err, "The default frontend can't be changed.")
	}
	return nil
}

// writeFile replaces a file at once: whoever reads it sees the old or the new text.
func writeFile(name string, text []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(name), ".tmp-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // gone already after the rename
	_, err = tmp.Write(text)
	if err = errors.Join(err, tmp.Sync(), tmp.Chmod(0o644), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), name)
}

// compareVersions orders dotted versions by their numbers.
func compareVersions(a, b string) int {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i := range min(len(as), len(bs)) {
		x, errX := strconv.Atoi(as[i])
		y, errY := strconv.Atoi(bs[i])
		order := cmp.Compare(x, y)
		if errX != nil || errY != nil {
			order = strings.Compare(as[i], bs[i])
		}
		if order != 0 {
			return order
		}
	}
	return cmp.Compare(len(as), len(bs))
}
