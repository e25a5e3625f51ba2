// Package modelpaths reads extra_model_paths.yaml as ComfyUI does and says what ComfyUI would stumble over, or pass over
// in silence. Source of the facts: folder_paths.py and utils/extra_config.py of ComfyUI 0.3.64.
package modelpaths

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/ahelme/comfyume/internal/near"
)

// Problem is one thing that is wrong with a file.
type Problem struct {
	File   string
	Line   int    // 0: the file as a whole
	Key    string // SECTION.KEY; empty: none
	Text   string
	Remedy string
	Fatal  bool // ComfyUI ends with an error at it
}

// String returns the problem without its remedy.
func (p Problem) String() string {
	where := p.File
	if p.Line > 0 {
		where = fmt.Sprintf("%s:%d", p.File, p.Line)
	}
	if p.Key != "" {
		where += ": " + p.Key
	}
	return where + ": " + p.Text
}

// Kinds are the folder types that ComfyUI itself reads.
func Kinds() []string {
	return []string{
		"audio_encoders", "checkpoints", "classifiers", "clip_vision", "configs", "controlnet", "custom_nodes", "diffusers",
		"diffusion_models", "embeddings", "gligen", "hypernetworks", "loras", "model_patches", "photomaker", "style_models",
		"text_encoders", "upscale_models", "vae", "vae_approx",
	}
}

// Aliases are the only names that ComfyUI takes for another folder type.
func Aliases() map[string]string {
	return map[string]string{"unet": "diffusion_models", "clip": "text_encoders"}
}

// known are folder types that well-known packs of custom nodes read. They are no mistake, and mean nothing to ComfyUI itself.
func known() []string {
	return []string{
		"animatediff_models", "animatediff_motion_lora", "bert-base-uncased", "birefnet", "clipseg", "CogVideo", "deepbump", "depthanything", "EasyOCR",
		"FBCNN", "facerestore_models", "facexlib", "grounding-dino", "inpaint", "insightface", "instantid", "ipadapter", "layerstyle", "LLM", "luts",
		"mmdets", "mmdets_bbox", "mmdets_segm", "nsfw_detector", "onnx", "prompt_generator", "pulid", "reactor", "rembg", "sam2", "sams", "SEEDVR2",
		"t5", "tensorrt", "ultralytics", "ultralytics_bbox", "ultralytics_segm", "video_formats", "vfi_models", "wildcards", "xlabs", "latent_upscale_models",
	}
}

// mistaken are names that people write for a folder type: from other programs, in the singular, or of another version.
func mistaken() map[string]string {
	return map[string]string{
		"checkpoint": "checkpoints", "ckpt": "checkpoints", "ckpts": "checkpoints", "models": "checkpoints", "stable-diffusion": "checkpoints",
		"lora": "loras", "lycoris": "loras", "vaes": "vae", "embedding": "embeddings", "textual_inversion": "embeddings", "controlnets": "controlnet",
		"control_net": "controlnet", "t2i_adapter": "controlnet", "upscalers": "upscale_models", "upscaler": "upscale_models", "esrgan": "upscale_models",
		"upscale": "upscale_models", "clips": "clip", "text_encoder": "text_encoders", "diffusion_model": "diffusion_models", "unets": "unet",
		"clipvision": "clip_vision", "hypernetwork": "hypernetworks", "custom_node": "custom_nodes", "nodes": "custom_nodes",
		"audio_encoder": "audio_encoders", "model_patch": "model_patches", "style_model": "style_models", "config": "configs",
	}
}

// maxFile bounds what is read.
const maxFile = 1 << 20

// Check reads a file and returns what is wrong with it, in the order of its lines.
func Check(file string) []Problem {
	f, err := os.Open(file)
	if err != nil {
		return []Problem{{File: file, Text: "can't be read: " + plain(err) + ".", Fatal: true}}
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil || len(text) > maxFile {
		return []Problem{{File: file, Text: fmt.Sprintf("can't be read: it has more than %d bytes, or the disk fails.", maxFile), Fatal: true}}
	}
	c := checker{file: file, folder: filepath.Dir(file)}
	c.check(text)
	return c.found
}

func plain(err error) string {
	if p, ok := errors.AsType[*os.PathError](err); ok {
		return p.Err.Error()
	}
	return err.Error()
}

type checker struct {
	file, folder string
	found        []Problem
}

func (c *checker) add(n *yaml.Node, key string, fatal bool, remedy, format string, args ...any) {
	c.found = append(c.found, Problem{
		File: c.file, Line: n.Line, Key: key, Text: fmt.Sprintf(format, args...), Remedy: remedy, Fatal: fatal,
	})
}

func (c *checker) check(text []byte) {
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		c.found = append(c.found, Problem{
			File: c.file, Text: "is not YAML: " + strings.TrimPrefix(err.Error(), "yaml: ") + ".", Remedy: "Move lines in by spaces, and write NAME: VALUE.", Fatal: true,
		})
		return
	}
	if len(doc.Content) == 0 {
		c.found = append(c.found, Problem{
			File: c.file, Text: "is empty, at which ComfyUI ends with an error.", Remedy: "Delete it, or write a section into it.", Fatal: true,
		})
		return
	}
	root := follow(doc.Content[0])
	if root.Kind != yaml.MappingNode {
		c.add(root, "", true, "Write a name, such as studio:, and below it, moved in, base_path and the folders.", "is no list of sections (NAME: …).")
		return
	}
	for i := 0; i+1 < len(root.Content); i += 2 {
		c.section(root.Content[i], follow(root.Content[i+1]))
	}
}

// follow returns what an alias stands for.
func follow(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

func (c *checker) section(name, n *yaml.Node) {
	switch {
	case isNull(n):
		c.add(name, name.Value, false, "Delete it, or move the lines below it in.", "is an empty section and does nothing.")
		return
	case n.Kind != yaml.MappingNode:
		hint := "Write the section's name on a line of its own, and below it, moved in, base_path and the folders."
		c.add(n, name.Value, true, hint, "has a value where a section with folders belongs.")
		return
	}
	base := ""
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], follow(n.Content[i+1])
		if key.Value == "base_path" {
			base = c.base(name.Value, value)
		}
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], follow(n.Content[i+1])
		at := name.Value + "." + key.Value
		if seen[key.Value] {
			c.add(key, at, false, "Write several folders below one another under one "+key.Value+": |", "is there twice; only the last one counts.")
		}
		seen[key.Value] = true
		switch key.Value {
		case "base_path":
		case "is_default":
			if value.Kind != yaml.ScalarNode || value.Tag != "!!bool" {
				c.add(value, at, false, "Write is_default: true, or leave it out.", "%q is neither true nor false; ComfyUI takes it for true.", value.Value)
			}
		default:
			c.kind(key, at)
			c.folders(key, value, at, base)
		}
	}
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// base returns the folder that the others are below; empty when that is not known.
func (c *checker) base(section string, n *yaml.Node) string {
	at := section + ".base_path"
	if n.Kind != yaml.ScalarNode || n.Tag != "!!str" {
		c.add(n, at, true, "Write base_path: /folder/of/models.", "has to be the path of one folder.")
		return ""
	}
	path := expand(n.Value)
	if strings.Contains(path, "$") {
		c.add(n, at, false, "Set the variable for the agent, or write the path out.", "%q names a variable that is not set.", n.Value)
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(c.folder, path)
	}
	c.lookAt(n, at, path)
	return path
}

// expand puts variables and the home folder in, as ComfyUI does with base_path. A variable that is not set stays.
func expand(path string) string {
	if path == "~" || strings.HasPrefix(path, "~/") {
		if home, err := os.UserHomeDir(); err == nil {
			path = home + path[1:]
		}
	}
	return os.Expand(path, func(name string) string {
		if v, ok := os.LookupEnv(name); ok {
			return v
		}
		return "$" + name
	})
}

// lookAt finds paths that are not there, or no folder.
func (c *checker) lookAt(n *yaml.Node, at, path string) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		c.add(n, at, false, "Make it, or see whether its disk is mounted.", "there is no folder %s.", path)
	case err != nil:
		c.add(n, at, false, "Give it to the user that the agent runs as.", "%s can't be read: %s.", path, plain(err))
	case !info.IsDir():
		c.add(n, at, false, "Name the folder that it is in.", "%s is no folder.", path)
	default:
		if f, err := os.Open(path); err != nil {
			c.add(n, at, false, "Give it to the user that the agent runs as.", "%s can't be read: %s.", path, plain(err))
		} else {
			f.Close() //nolint:errcheck // it was only opened
		}
	}
}

// kind finds folder types that nobody knows.
func (c *checker) kind(key *yaml.Node, at string) {
	word := key.Value
	kinds := Kinds()
	if slices.Contains(kinds, word) || Aliases()[word] != "" || slices.Contains(known(), word) {
		return
	}
	all := append(kinds, "unet", "clip")
	meant := mistaken()[strings.ToLower(word)]
	if meant == "" {
		if slices.Contains(all, strings.ToLower(word)) {
			meant = strings.ToLower(word)
		} else {
			meant = near.Best(strings.ToLower(word), all)
		}
	}
	text := "ComfyUI knows no folder type of this name, so that no loader of its own looks there"
	remedy := "Leave it if a custom node reads it. The types are " + strings.Join(all, ", ") + "."
	if meant != "" {
		text += "; did you mean " + meant + "?"
		remedy = "The name is taken as it stands; only unet (diffusion_models) and clip (text_encoders) are other words for a type."
	} else {
		text += "."
	}
	c.add(key, at, false, remedy, "%s", text)
}

// folders checks what is said for one folder type: text, one folder a line.
func (c *checker) folders(key, n *yaml.Node, at, base string) {
	switch {
	case n.Kind == yaml.SequenceNode:
		c.add(n, at, true, fmt.Sprintf("Write %s: | and below it, moved in, one folder a line, without dashes.", key.Value), "is a list, and ComfyUI wants text.")
		return
	case n.Kind == yaml.MappingNode:
		c.add(n, at, true, fmt.Sprintf("Write %s: FOLDER. Is a line further in than it should be?", key.Value), "is a section, and ComfyUI wants text.")
		return
	case isNull(n):
		c.add(key, at, true, "Name a folder, or delete the line.", "names no folder, at which ComfyUI ends with an error.")
		return
	case n.Tag != "!!str":
		c.add(n, at, true, fmt.Sprintf("Put it into quotes: %s: %q.", key.Value, n.Value), "%s is not text for YAML, and ComfyUI wants text.", n.Value)
		return
	}
	for entry := range strings.SplitSeq(n.Value, "\n") {
		if entry == "" {
			continue
		}
		if trimmed := strings.TrimSpace(entry); trimmed != entry || strings.HasPrefix(trimmed, "- ") {
			c.add(n, at, false, "Write one folder a line, without dashes and spaces around it.", "%q is taken as it stands, with what is around the name.", entry)
		}
		path := entry
		switch {
		case base != "" && !filepath.IsAbs(path):
			path = filepath.Join(base, path)
		case !filepath.IsAbs(path):
			path = filepath.Join(c.folder, path)
		}
		c.lookAt(n, at, filepath.Clean(path))
	}
}
