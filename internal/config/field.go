package config

import (
	"errors"
	"fmt"
	"iter"
	"math"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
)

// field is one setting that holds a single value.
type field struct {
	path  string // queue.max_pending
	tag   reflect.StructTag
	value reflect.Value
}

// fields yields the settings of a struct in order, in dotted paths. Lists are not entered.
func fields(v reflect.Value, prefix string) iter.Seq[field] {
	return func(yield func(field) bool) { walk(v, prefix, yield) }
}

func walk(v reflect.Value, prefix string, yield func(field) bool) bool {
	for i := range v.NumField() {
		tag := v.Type().Field(i).Tag
		path := prefix + tag.Get("yaml")
		if isSection(v.Field(i)) {
			if !walk(v.Field(i), path+".", yield) {
				return false
			}
			continue
		}
		if !yield(field{path: path, tag: tag, value: v.Field(i)}) {
			return false
		}
	}
	return true
}

// isSection reports whether v groups settings, rather than being one.
func isSection(v reflect.Value) bool {
	_, secret := v.Interface().(Secret)
	return v.Kind() == reflect.Struct && !secret
}

// isList reports whether v holds several values, by number or by name.
func isList(v reflect.Value) bool { return v.Kind() == reflect.Slice || v.Kind() == reflect.Map }

// set reads text into one value. An error's text names what is expected.
func set(v reflect.Value, text string) error {
	switch p := v.Addr().Interface().(type) {
	case *Size:
		size, err := ParseSize(text)
		if err != nil {
			return err
		}
		*p = size
	case *Secret:
		secret, err := ParseSecret(text)
		if err != nil {
			return err
		}
		*p = secret
	case *Duration:
		d, err := ParseDuration(text)
		if err != nil {
			return err
		}
		*p = d
	case *Days:
		days, err := ParseDays(text)
		if err != nil {
			return err
		}
		*p = days
	case *Clock:
		c, err := ParseClock(text)
		if err != nil {
			return err
		}
		*p = c
	case *float64:
		f, err := strconv.ParseFloat(text, 64)
		if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			return fmt.Errorf("%q is not a number", text)
		}
		*p = f
	case *bool:
		switch strings.ToLower(text) {
		case "true", "yes", "on", "1":
			*p = true
		case "false", "no", "off", "0":
			*p = false
		default:
			return fmt.Errorf("%q is neither true nor false", text)
		}
	case *int:
		n, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("%q is not a whole number", text)
		}
		*p = n
	case *string:
		*p = text
	case *Address:
		*p = Address(text)
	default:
		return errors.New("is a list and belongs into the settings file")
	}
	return nil
}

// resolve makes the paths of v that came from a settings file relative to the file's folder.
func resolve(text, folder string) string {
	if text == "" || filepath.IsAbs(text) || folder == "" {
		return text
	}
	return filepath.Join(folder, text)
}

// Setting describes one setting that holds a single value.
type Setting struct {
	Path    string // queue.mode
	Doc     string
	Default string
	Switch  bool // true or false
}

// Settings returns all settings that hold a single value, in the order of the reference.
func Settings() []Setting {
	defaults := Default()
	var all []Setting
	for f := range fields(reflect.ValueOf(&defaults).Elem(), "") {
		if isList(f.value) {
			continue
		}
		all = append(all, Setting{
			Path: f.path, Doc: f.tag.Get("doc"), Default: fmt.Sprint(f.value.Interface()), Switch: f.value.Kind() == reflect.Bool,
		})
	}
	return all
}

// FlagName returns the name of the flag that sets the value at path, without dashes in front.
func FlagName(path string) string { return strings.NewReplacer(".", "-", "_", "-").Replace(path) }
