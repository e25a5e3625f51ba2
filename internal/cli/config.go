package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/ahelme/comfyume/internal/config"
)

// configCmd is about settings.
type configCmd struct {
	Check     configCheck     `cmd:"" help:"Say everything that is wrong with the settings."`
	Show      configShow      `cmd:"" help:"Show the settings in effect and where each comes from."`
	Reference configReference `cmd:"" help:"Print a settings file with every setting, its default and what it does."`
}

type configCheck struct{}

// checked is what a check found, for programs.
type checked struct {
	File     string    `json:"file,omitempty"`
	OK       bool      `json:"ok"`
	Problems []problem `json:"problems"`
	Warnings []string  `json:"warnings"`
}

type problem struct {
	Where string `json:"where,omitempty"`
	Path  string `json:"path,omitempty"`
	Text  string `json:"text"`
}

// Run checks the settings. Problems are what was asked for, so they go to stdout.
func (*configCheck) Run(c *call) error {
	src := c.source()
	settings, err := config.Load(src)
	out := checked{File: src.File, OK: err == nil, Problems: []problem{}, Warnings: []string{}}
	var problems config.Problems
	switch {
	case errors.As(err, &problems):
		for _, p := range problems {
			out.Problems = append(out.Problems, problem{Where: p.Where.String(), Path: p.Path, Text: p.Text})
		}
	case err != nil:
		return err
	default:
		out.File = settings.File
		out.Warnings = append(out.Warnings, settings.Warnings...)
	}
	err = c.print(out, func(w io.Writer) {
		for _, p := range problems {
			fmt.Fprintln(w, p)
		}
		for _, text := range out.Warnings {
			fmt.Fprintln(w, "note:", text)
		}
		switch {
		case out.OK && out.File == "":
			fmt.Fprintln(w, "There is no settings file; the defaults are fine.")
		case out.OK:
			fmt.Fprintf(w, "%s is fine.\n", out.File)
		}
	})
	if err == nil && !out.OK {
		err = errFound
	}
	return err
}

type configShow struct{}

// Run shows the settings in effect.
func (*configShow) Run(c *call) error {
	settings, err := config.Load(c.source())
	if err != nil {
		return err
	}
	if !c.root.JSON {
		return settings.Write(c.Stdout)
	}
	type value struct {
		Path  string `json:"path"`
		Value string `json:"value"`
		From  string `json:"from"`
	}
	var all []value
	for _, s := range settings.Values() {
		all = append(all, value{Path: s.Path, Value: s.Value, From: settings.Origin(s.Path).String()})
	}
	return c.print(map[string]any{"settings": all, "users": settings.Users, "backends": settings.Backends}, nil)
}

type configReference struct{}

// Run prints the reference.
func (*configReference) Run(c *call) error {
	if !c.root.JSON {
		return config.WriteReference(c.Stdout)
	}
	type setting struct {
		Path    string `json:"path"`
		Default string `json:"default"`
		Doc     string `json:"doc"`
		Env     string `json:"env"`
		Flag    string `json:"flag"`
	}
	var all []setting
	for _, s := range config.Settings() {
		all = append(all, setting{s.Path, s.Default, s.Doc, config.EnvName(s.Path), "--" + strings.TrimSpace(config.FlagName(s.Path))})
	}
	return c.print(all, nil)
}
