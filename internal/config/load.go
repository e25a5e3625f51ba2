package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/ahelme/comfyume/internal/near"
)

// Prefix begins the name of every setting in the environment.
const Prefix = "COMFYUME_"

// Names in the environment that begin with Prefix and are no settings.
var otherEnv = []string{"COMFYUME_FRONTENDS", "COMFYUME_CONFIG", "COMFYUME_SERVER", "COMFYUME_TOKEN"}

// A cluster that runs a service called comfyume puts such names into every container.
var clusterEnv = regexp.MustCompile(`^COMFYUME_(SERVICE_(HOST|PORT).*|PORT(_[0-9]+_(TCP|UDP).*)?)$`)

// Source says where settings come from, weakest first.
type Source struct {
	File     string            // settings file; empty: none
	Optional bool              // File may be missing
	Environ  []string          // as os.Environ gives it
	Flags    map[string]string // by path, such as queue.mode
	Backends []string          // addresses that stand in place of the file's back ends; nil: the file's count
	Users    []User            // accounts besides the file's
}

// Origin says where a value came from.
type Origin struct {
	File string
	Line int
	Name string // variable of the environment, or flag
}

// String returns the origin as shown beside a value.
func (o Origin) String() string {
	switch {
	case o.File != "" && o.Line == 0:
		return o.File
	case o.File != "":
		return fmt.Sprintf("%s:%d", o.File, o.Line)
	case o.Name != "":
		return o.Name
	default:
		return "default"
	}
}

// Loaded is a set of settings with where each came from.
type Loaded struct {
	Config
	File     string   // the file that was read; empty: none
	Warnings []string // what is accepted and does nothing, or probably not what was meant
	origin   map[string]Origin
}

// Origin returns where the setting at path came from. The zero Origin means it is the default.
func (l *Loaded) Origin(path string) Origin { return l.origin[path] }

// IsSet reports whether somebody set the value at path, be it to its default.
func (l *Loaded) IsSet(path string) bool {
	_, ok := l.origin[path]
	return ok
}

// Problem is one thing that is wrong with the settings.
type Problem struct {
	Where Origin
	Path  string
	Text  string
}

// String returns the problem as one line.
func (p Problem) String() string {
	var parts []string
	if where := p.Where.String(); where != "default" {
		parts = append(parts, where)
	}
	if p.Path != "" {
		parts = append(parts, p.Path)
	}
	return strings.Join(append(parts, p.Text), ": ")
}

// Problems is everything that is wrong with the settings.
type Problems []Problem

// Error returns one line for each problem.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, one := range p {
		lines[i] = one.String()
	}
	return strings.Join(lines, "\n")
}

// Load reads the settings in the order defaults, file, environment, flags. The error is Problems, all of them.
func Load(src Source) (*Loaded, error) {
	l := &loader{out: &Loaded{Config: Default(), origin: map[string]Origin{}}}
	l.byPath = map[string]field{}
	for f := range fields(reflect.ValueOf(&l.out.Config).Elem(), "") {
		l.byPath[f.path] = f
	}
	if err := l.file(src); err != nil {
		return nil, err
	}
	l.environment(src.Environ)
	for _, path := range slices.Sorted(maps.Keys(src.Flags)) {
		l.setAt(path, src.Flags[path], Origin{Name: "--" + FlagName(path)})
	}
	l.lists(src)
	l.check()
	if len(l.problems) > 0 {
		slices.SortStableFunc(l.problems, func(a, b Problem) int { return a.Where.Line - b.Where.Line })
		return nil, l.problems
	}
	return l.out, nil
}

type loader struct {
	out      *Loaded
	byPath   map[string]field
	problems Problems
}

func (l *loader) problem(where Origin, path, format string, args ...any) {
	l.problems = append(l.problems, Problem{Where: where, Path: path, Text: fmt.Sprintf(format, args...)})
}

func (l *loader) warn(format string, args ...any) {
	l.out.Warnings = append(l.out.Warnings, fmt.Sprintf(format, args...))
}

// setAt sets the single value at path.
func (l *loader) setAt(path, text string, from Origin) {
	f, ok := l.byPath[path]
	if !ok {
		l.problem(from, path, "there is no such setting%s", maybe(near.Best(path, slices.Sorted(maps.Keys(l.byPath)))))
		return
	}
	if err := set(f.value, text); err != nil {
		l.problem(from, path, "%s", err)
		return
	}
	l.out.origin[path] = from
}

// lists takes back ends and users that were given besides the file.
func (l *loader) lists(src Source) {
	if src.Backends != nil {
		l.out.Backends = nil
		l.out.origin["backends"] = Origin{Name: "--backend"}
		for i, address := range src.Backends {
			at := fmt.Sprintf("backends[%d]", i)
			delete(l.out.origin, at)
			l.out.Backends = append(l.out.Backends, Back{Name: fmt.Sprintf("gpu%d", i+1), Driver: "comfyui", URL: address})
		}
	}
	for _, u := range src.Users {
		if !slices.ContainsFunc(l.out.Users, func(have User) bool { return have.Name == u.Name }) {
			l.out.Users = append(l.out.Users, u)
		}
	}
}

func (l *loader) file(src Source) error {
	if src.File == "" {
		return nil
	}
	text, err := os.ReadFile(src.File)
	if errors.Is(err, fs.ErrNotExist) && src.Optional {
		return nil
	}
	if err != nil {
		why := "it can't be read: " + err.Error()
		if errors.Is(err, fs.ErrNotExist) {
			why = "there is no such file; name one with --config, or leave it out"
		}
		return Problems{{Where: Origin{File: src.File}, Text: why}}
	}
	l.out.File = src.File
	l.yaml(text, src.File)
	folder := filepath.Dir(src.File)
	for _, path := range []string{"data", "tls.cert", "tls.key"} {
		if l.out.origin[path].File != "" {
			v := l.byPath[path].value
			v.SetString(resolve(v.String(), folder))
		}
	}
	for i, b := range l.out.Backends {
		if name, ok := strings.CutPrefix(b.Key.ref, "file:"); ok {
			l.out.Backends[i].Key.ref = "file:" + resolve(name, folder)
		}
	}
	for path, secret := range map[string]*Secret{
		"providers.verda.client_id": &l.out.Providers.Verda.ClientID, "providers.verda.client_secret": &l.out.Providers.Verda.ClientSecret,
	} {
		if name, ok := strings.CutPrefix(secret.ref, "file:"); ok && l.out.origin[path].File != "" {
			secret.ref = "file:" + resolve(name, folder)
		}
	}
	if f := l.out.Frontend; l.out.origin["frontend"].File != "" && strings.ContainsRune(f, '/') {
		l.out.Frontend = resolve(f, folder)
	}
	return nil
}

// EnvName returns the name in the environment of the setting at path.
func EnvName(path string) string {
	return Prefix + strings.ToUpper(strings.ReplaceAll(path, ".", "_"))
}

func (l *loader) environment(environ []string) {
	names, rest := map[string]string{}, map[string]bool{}
	for path := range l.byPath {
		names[EnvName(path)] = path
		rest[strings.TrimPrefix(EnvName(path), Prefix)] = true
	}
	for _, pair := range slices.Sorted(slices.Values(environ)) {
		name, text, _ := strings.Cut(pair, "=")
		if !strings.HasPrefix(name, Prefix) || slices.Contains(otherEnv, name) || clusterEnv.MatchString(name) {
			continue
		}
		path, ok := names[name]
		if ok {
			l.setAt(path, text, Origin{Name: name})
			continue
		}
		// A slip of the pen is a mistake; what resembles no setting may be another program's.
		meant := near.Best(strings.TrimPrefix(name, Prefix), slices.Sorted(maps.Keys(rest)))
		if meant == "" {
			l.warn("the environment has %s, which is no setting", name)
			continue
		}
		l.problem(Origin{Name: name}, "", "there is no such setting; did you mean %s?", Prefix+meant)
	}
}

func maybe(near string) string {
	if near == "" {
		return ""
	}
	return "; did you mean " + near + "?"
}
