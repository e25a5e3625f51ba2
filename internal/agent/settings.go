package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/ahelme/comfyume/internal/agent/flags"
	"github.com/ahelme/comfyume/internal/config"
)

// Settings are what an agent's file and its flags say.
type Settings struct {
	Server    string        // studio to dial home to
	Name      string        // how it is called there; empty: the machine's name
	Data      string        // the agent's own folder: its key and ComfyUI's log
	Listen    string        // address for one request a job
	Key       config.Secret // of Listen
	Storage   string        // where outputs are left and inputs found, for studios that share it: file:///mnt/outputs or s3://bucket/prefix?endpoint=HOST
	URL       string        // a ComfyUI that runs
	Dir       string        // a ComfyUI to start
	Python    string
	CA        string        // PEM file of the studio's own authority
	StopAfter time.Duration // how long a run may go on when the agent is asked to end
	Flags     flags.Set     // ComfyUI's own

	AllowNodes bool                     // operators of the studio may install custom nodes
	ModelKeys  map[string]config.Secret // for downloads of models, by host
}

// settingNames are the keys of an agent's file.
func settingNames() []string {
	return []string{"server", "name", "data", "listen", "key", "storage", "comfyui_url", "comfyui_dir", "python", "ca", "stop_after", "allow_nodes", "model_keys", "comfyui", "comfyui_args"}
}

// maxSettings bounds how much of a settings file is read.
const maxSettings = 1 << 20

// ReadSettings reads an agent's file. Relative paths in it are meant from its folder. The error is config.Problems, with
// everything that is wrong.
func ReadSettings(file string) (Settings, error) {
	r := settingsReader{file: file, folder: filepath.Dir(file)}
	info, err := os.Stat(file)
	if err == nil && info.Size() > maxSettings {
		err = fmt.Errorf("it has %d bytes", info.Size())
	}
	var text []byte
	if err == nil {
		text, err = os.ReadFile(file)
	}
	if err != nil {
		why := "it can't be read: " + err.Error()
		if errors.Is(err, fs.ErrNotExist) {
			why = "there is no such file; name one with --config, or leave it out"
		}
		r.problem(0, "", "%s", why)
		return r.out, r.problems
	}
	if r.folder, err = filepath.Abs(r.folder); err != nil {
		r.problem(0, "", "%s", err)
		return r.out, r.problems
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		r.problem(0, "", "is not YAML: %s", strings.TrimPrefix(err.Error(), "yaml: "))
		return r.out, r.problems
	}
	if len(doc.Content) > 0 {
		r.root(doc.Content[0])
	}
	if len(r.problems) > 0 {
		return r.out, r.problems
	}
	r.out.Flags.Resolve(r.folder)
	return r.out, nil
}

type settingsReader struct {
	file, folder string
	out          Settings
	problems     config.Problems
}

func (r *settingsReader) problem(line int, path, format string, args ...any) {
	r.problems = append(r.problems, config.Problem{
		Where: config.Origin{File: r.file, Line: line}, Path: path, Text: fmt.Sprintf(format, args...),
	})
}

// pairs yields the keys of a mapping with their values, each once.
func (r *settingsReader) pairs(n *yaml.Node, path string, take func(key, value *yaml.Node)) {
	if isNull(n) {
		return
	}
	if n.Kind != yaml.MappingNode {
		r.problem(n.Line, path, "is not a list of settings (KEY: VALUE)")
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if value.Kind == yaml.AliasNode {
			value = value.Alias
		}
		if seen[key.Value] {
			r.problem(key.Line, strings.TrimPrefix(path+"."+key.Value, "."), "is there twice")
			continue
		}
		seen[key.Value] = true
		take(key, value)
	}
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

func (r *settingsReader) root(n *yaml.Node) {
	r.pairs(n, "", func(key, value *yaml.Node) {
		switch name := key.Value; name {
		case "comfyui":
			r.pairs(value, name, r.flag)
		case "model_keys":
			r.pairs(value, name, r.modelKey)
		case "comfyui_args":
			r.out.Flags.Extra = r.list(value, name)
		default:
			if !slices.Contains(settingNames(), name) {
				text := "there is no such setting" + flags.Meant(name, settingNames())
				if _, isFlag := flags.Lookup(name); isFlag {
					text = "is a flag of ComfyUI and belongs below comfyui:, moved in"
				}
				r.problem(key.Line, name, "%s", text)
				return
			}
			if isNull(value) {
				return
			}
			if value.Kind != yaml.ScalarNode {
				r.problem(value.Line, name, "is a single value")
				return
			}
			if err := r.single(name, value.Value); err != nil {
				r.problem(value.Line, name, "%s", err)
			}
		}
	})
}

// single takes one setting that holds one value.
func (r *settingsReader) single(name, text string) error {
	path, o := r.path, &r.out
	switch name {
	case "server":
		o.Server = text
	case "name":
		o.Name = text
	case "data":
		o.Data = path(text)
	case "listen":
		o.Listen = text
	case "storage":
		o.Storage = text
	case "comfyui_url":
		o.URL = text
	case "comfyui_dir":
		o.Dir = path(text)
	case "python":
		o.Python = text
		if strings.ContainsAny(text, `/\`) { // else it is looked for in PATH
			o.Python = path(text)
		}
	case "key":
		key, err := r.secret(text)
		if err != nil {
			return err
		}
		o.Key = key
	case "ca":
		o.CA = path(text)
	case "allow_nodes":
		switch text {
		case "true":
			o.AllowNodes = true
		case "false":
		default:
			return fmt.Errorf("%q is neither true nor false", text)
		}
	case "stop_after":
		d, err := config.ParseDuration(text)
		if err != nil {
			return err
		}
		o.StopAfter = time.Duration(d)
	}
	return nil
}

// path makes a path of the file absolute.
func (r *settingsReader) path(p string) string {
	if p == "" || filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(r.folder, p)
}

func (r *settingsReader) secret(text string) (config.Secret, error) {
	s, err := config.ParseSecret(text)
	if file, ok := strings.CutPrefix(s.Reference(), "file:"); ok && err == nil {
		return config.ParseSecret("file:" + r.path(file))
	}
	return s, err
}

// modelKey takes HOST: env:NAME.
func (r *settingsReader) modelKey(key, value *yaml.Node) {
	at := "model_keys." + key.Value
	if value.Kind != yaml.ScalarNode || value.Value == "" {
		r.problem(value.Line, at, "is a single value: env:NAME or file:PATH")
		return
	}
	if strings.ContainsAny(key.Value, ":/ ") || !strings.Contains(key.Value, ".") {
		r.problem(key.Line, at, "%q is no name of a host such as huggingface.co", key.Value)
		return
	}
	s, err := r.secret(value.Value)
	if err != nil {
		r.problem(value.Line, at, "%s", err)
		return
	}
	if r.out.ModelKeys == nil {
		r.out.ModelKeys = map[string]config.Secret{}
	}
	r.out.ModelKeys[key.Value] = s
}

// flag takes one flag of ComfyUI: true, one value or a list of values.
func (r *settingsReader) flag(key, value *yaml.Node) {
	at := "comfyui." + key.Value
	var values []string
	f, known := flags.Lookup(key.Value)
	switch {
	case !known && strings.HasPrefix(key.Value, "--"):
		r.problem(key.Line, at, "is written without the dashes: %s", strings.TrimPrefix(key.Value, "--"))
		return
	case !known && strings.Contains(key.Value, "_"):
		if _, dashed := flags.Lookup(strings.ReplaceAll(key.Value, "_", "-")); dashed {
			r.problem(key.Line, at, "is written as ComfyUI writes it: %s", strings.ReplaceAll(key.Value, "_", "-"))
			return
		}
	}
	switch {
	case isNull(value):
	case value.Kind == yaml.SequenceNode:
		values = r.list(value, at)
	case value.Kind != yaml.ScalarNode:
		r.problem(value.Line, at, "is a single value or a list")
		return
	case f.Bare && value.Tag == "!!bool": // listen: true is the flag without a value
		if value.Value != "true" {
			return
		}
	default:
		values = []string{value.Value}
	}
	if err := r.out.Flags.Put(key.Value, values...); err != nil {
		r.problem(key.Line, at, "%s", err)
	}
}

func (r *settingsReader) list(n *yaml.Node, path string) []string {
	if isNull(n) {
		return nil
	}
	if n.Kind != yaml.SequenceNode {
		r.problem(n.Line, path, "is a list")
		return nil
	}
	var all []string
	for _, item := range n.Content {
		if item.Kind == yaml.AliasNode {
			item = item.Alias
		}
		if item.Kind != yaml.ScalarNode {
			r.problem(item.Line, path, "is a list of single values")
			continue
		}
		all = append(all, item.Value)
	}
	return all
}
