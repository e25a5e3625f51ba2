package pyjson

import (
	"encoding/json"
	"errors"
	"slices"
)

// Member is one key of an object with its value.
type Member struct {
	Key   string
	Value json.RawMessage
}

// errStop ends a walk early; it never leaves this package.
var errStop = errors.New("stop")

// Members returns the keys of an object in order. A key that comes twice keeps its first place and its last value,
// as in a Python dict. The values share raw's memory.
func Members(raw json.RawMessage) ([]Member, error) {
	var out []Member
	var index map[string]int // made only where a linear search would hurt
	err := EachMember(raw, func(key string, value json.RawMessage, _ int) error {
		at := -1
		switch {
		case index != nil:
			if i, ok := index[key]; ok {
				at = i
			}
		default:
			for i := range out {
				if out[i].Key == key {
					at = i
					break
				}
			}
		}
		if at >= 0 {
			out[at].Value = value
			return nil
		}
		if out == nil {
			out = make([]Member, 0, 4) // nodes and frames have as many
		}
		out = append(out, Member{key, value})
		switch {
		case index != nil:
			index[key] = len(out) - 1
		case len(out) == 16:
			index = make(map[string]int, 64)
			for i := range out {
				index[out[i].Key] = i
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// EachMember calls f for every key of an object in order, duplicates included. at is where the value begins in
// raw. An error of f ends the walk and is returned.
func EachMember(raw json.RawMessage, f func(key string, value json.RawMessage, at int) error) error {
	start := skipSpace(raw, 0)
	if start >= len(raw) || raw[start] != '{' {
		return &SyntaxError{start, "an object is expected"}
	}
	end, err := scanObject(raw, start, 0, func(keyStart, keyEnd, from, to int) error {
		return f(unquote(raw[keyStart:keyEnd]), raw[from:to:to], from)
	})
	if err != nil {
		return err
	}
	if rest := skipSpace(raw, end); rest != len(raw) {
		return &SyntaxError{rest, "more after the value"}
	}
	return nil
}

// Elements returns the elements of a list. They share raw's memory.
func Elements(raw json.RawMessage) ([]json.RawMessage, error) {
	var out []json.RawMessage
	err := EachElement(raw, func(value json.RawMessage, _ int) error {
		if out == nil {
			out = make([]json.RawMessage, 0, 4)
		}
		out = append(out, value)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// EachElement calls f for every element of a list. at is where the element begins in raw. An error of f ends the
// walk and is returned.
func EachElement(raw json.RawMessage, f func(value json.RawMessage, at int) error) error {
	start := skipSpace(raw, 0)
	if start >= len(raw) || raw[start] != '[' {
		return &SyntaxError{start, "a list is expected"}
	}
	end, err := scanArray(raw, start, 0, func(from, to int) error { return f(raw[from:to:to], from) })
	if err != nil {
		return err
	}
	if rest := skipSpace(raw, end); rest != len(raw) {
		return &SyntaxError{rest, "more after the value"}
	}
	return nil
}

// Get returns the value at a path of keys, each looked up in the object the one before led to. ok is false where
// there is no such value. Only what lies on the way is checked.
func Get(raw json.RawMessage, path ...string) (value json.RawMessage, ok bool) {
	for _, key := range path {
		start := skipSpace(raw, 0)
		if start >= len(raw) || raw[start] != '{' {
			return nil, false
		}
		var found json.RawMessage
		here := raw
		_, err := scanObject(here, start, 0, func(keyStart, keyEnd, from, to int) error {
			if quotedIs(here[keyStart:keyEnd], key) {
				found = here[from:to:to]
			}
			return nil
		})
		if err != nil || found == nil {
			return nil, false
		}
		raw = found
	}
	return raw, raw != nil
}

// AppendObject appends members as an object in Python's spacing.
func AppendObject(dst []byte, members []Member) []byte {
	size := 2
	for i := range members {
		size += len(members[i].Key) + len(members[i].Value) + len(`"": , `)
	}
	dst = append(slices.Grow(dst, size), '{')
	for i := range members {
		if i > 0 {
			dst = append(dst, ", "...)
		}
		dst = AppendString(dst, members[i].Key)
		dst = append(dst, ": "...)
		dst = append(dst, members[i].Value...)
	}
	return append(dst, '}')
}

// AppendStrings appends a list of strings in Python's spacing; nil gives [].
func AppendStrings(dst []byte, list []string) []byte {
	dst = append(dst, '[')
	for i, s := range list {
		if i > 0 {
			dst = append(dst, ", "...)
		}
		dst = AppendString(dst, s)
	}
	return append(dst, ']')
}

// Strings returns the elements of a list that has only strings.
func Strings(raw json.RawMessage) ([]string, bool) {
	out := []string{}
	err := EachElement(raw, func(value json.RawMessage, _ int) error {
		s, ok := Text(value)
		if !ok {
			return errStop
		}
		out = append(out, s)
		return nil
	})
	return out, err == nil
}
