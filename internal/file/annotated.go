package file

import (
	"path"
	"strings"
	"unicode/utf8"
)

// ParseAnnotated reads the value of a node's file input, such as "cat.png", "pasted/cat (1).png" or
// "sub/cat.png [temp]". Without an annotation the file is of type typ. ok is false where the value can't mean a
// file of a person: it is empty, ends in a slash, is absolute, climbs with "..", or holds a backslash, a control
// character or bytes that are not UTF-8. Whether the file is there, and whether its name may be used, is for the
// workspace to say.
func ParseAnnotated(value, typ string) (ref Ref, ok bool) {
	value, typ = cutAnnotation(value, typ)
	if !utf8.ValidString(value) || strings.HasPrefix(value, "/") || hasDrive(value) {
		return Ref{}, false
	}
	for _, c := range value {
		if c < ' ' || c == 0x7f || c == '\\' {
			return Ref{}, false
		}
	}
	for part := range strings.SplitSeq(value, "/") {
		if part == ".." {
			return Ref{}, false
		}
	}
	if strings.HasSuffix(value, "/") || path.Base(value) == "." {
		return Ref{}, false
	}
	dir, name := path.Split(path.Clean(value))
	return Ref{Type: typ, Subfolder: strings.TrimSuffix(dir, "/"), Name: name}, true
}

// Annotated returns the value of a file input that means r where files without an annotation are of type typ. It is
// the inverse of ParseAnnotated.
func (r Ref) Annotated(typ string) string {
	value := path.Join(r.Subfolder, r.Name)
	if _, other := cutAnnotation(value, ""); r.Type != typ || other != "" {
		value += " [" + r.Type + "]"
	}
	return value
}

// cutAnnotation takes " [input]", " [output]" or " [temp]" off the end of value. The blank before it is ComfyUI's
// own and belongs to the annotation.
func cutAnnotation(value, typ string) (bare, found string) {
	for _, t := range [...]string{Output, Input, Temp} {
		if bare, ok := strings.CutSuffix(value, "["+t+"]"); ok {
			return strings.TrimSuffix(bare, " "), t
		}
	}
	return value, typ
}

// hasDrive reports whether value begins like a path of Windows, such as C:/pictures.
func hasDrive(value string) bool {
	if len(value) < 2 || value[1] != ':' {
		return false
	}
	c := value[0] | 0x20
	return 'a' <= c && c <= 'z'
}
