package file

import (
	"path"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/ahelme/comfyume/internal/fault"
)

// Bounds of a path below a person's folder.
const (
	maxPath  = 1024 // bytes
	maxDepth = 32   // folders
)

// Codes of refused names.
const (
	// CodeOutside marks a path that would leave the person's folder. ComfyUI answers 400 or 403 to it.
	CodeOutside = "outside"
	// CodeBadName marks a name that can't be used.
	CodeBadName = "bad_name"
	// CodeBadType marks a type that is none of the three.
	CodeBadType = "bad_type"
)

// CheckName says whether name can be the name of a file or folder. field is what the person calls it. Names must
// also survive on other systems, where people unpack their results: those with a meaning on Windows are refused.
func CheckName(field, name string) error {
	switch {
	case name == "":
		return badName(field, "is empty")
	case name == "." || name == "..":
		return outside(field)
	case len(name) > MaxName:
		return badName(field, "is longer than 255 bytes")
	case !utf8.ValidString(name):
		return badName(field, "is not UTF-8 text")
	case strings.ContainsAny(name, `/\`):
		return badName(field, "holds a slash or backslash")
	case strings.HasSuffix(name, ".") || strings.HasSuffix(name, " "):
		return badName(field, "ends in a dot or a blank, which Windows cuts off")
	case reserved(name):
		return badName(field, "is the name of a device on Windows")
	}
	for _, c := range name {
		if hidden(c) {
			return badName(field, "holds a control character")
		}
	}
	return nil
}

// CleanPath checks every part of a path below a person's folder and returns it without empty parts and ".". An
// empty path is the folder itself.
func CleanPath(field, p string) (string, error) {
	if strings.HasPrefix(p, "/") || strings.Contains("/"+p+"/", "/../") {
		return "", outside(field)
	}
	if len(p) > maxPath {
		return "", badName(field, "is longer than 1024 bytes")
	}
	p = path.Clean(p)
	if p == "." {
		return "", nil
	}
	if strings.Count(p, "/") >= maxDepth {
		return "", badName(field, "has more than 32 folders")
	}
	for part := range strings.SplitSeq(p, "/") {
		if err := CheckName(field, part); err != nil {
			return "", err
		}
	}
	return p, nil
}

// Check says whether a file can be stored under r and returns r in its one form.
func (r Ref) Check() (Ref, error) {
	if err := CheckType(r.Type); err != nil {
		return Ref{}, err
	}
	if err := CheckName("The file name", r.Name); err != nil {
		return Ref{}, err
	}
	sub, err := CleanPath("The subfolder", r.Subfolder)
	if err != nil {
		return Ref{}, err
	}
	if len(sub)+1+len(r.Name) > maxPath {
		return Ref{}, badName("The subfolder", "is longer than 1024 bytes")
	}
	r.Subfolder = sub
	return r, nil
}

// CheckType says whether typ is one of the three types.
func CheckType(typ string) error {
	if typ == Input || typ == Output || typ == Temp {
		return nil
	}
	return fault.New(fault.Invalid, "The type of a file is input, output or temp.").WithCode(CodeBadType)
}

// Sanitize turns a name that a back end chose into one that CheckName takes, and leaves a good one as it is.
// Different names may become the same one.
func Sanitize(name string) string {
	if CheckName("", name) == nil {
		return name
	}
	name = strings.Map(func(c rune) rune {
		if c == '/' || c == '\\' || c == utf8.RuneError || hidden(c) {
			return '_'
		}
		return c
	}, name)
	if len(name) > MaxName-1 { // one byte stays for the mark below
		stem, ext := SplitExt(name)
		name = Shorten(stem, MaxName-1-len(ext)) + ext
	}
	name = strings.TrimRight(name, ". ")
	if reserved(name) || name == "" {
		name = "_" + name
	}
	return name
}

// SanitizePath turns a folder that a back end chose into one below a person's folder that CleanPath takes. Both
// kinds of slashes part folders, and what would lead out of the folder is left away.
func SanitizePath(p string) string {
	var parts []string
	total := 0
	for part := range strings.FieldsFuncSeq(p, func(c rune) bool { return c == '/' || c == '\\' }) {
		if part == "." || part == ".." {
			continue
		}
		part = Sanitize(part)
		if total += len(part) + 1; total > maxPath-MaxName-1 || len(parts) == maxDepth {
			break
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, "/")
}

// hidden reports whether c changes how a name is read without being seen: control characters, line and paragraph
// separators, and those that turn the direction of the text. Joiners and marks stay: scripts and emoji need them.
func hidden(c rune) bool {
	return unicode.IsControl(c) || c == '\u2028' || c == '\u2029' ||
		c >= '\u202a' && c <= '\u202e' || c >= '\u2066' && c <= '\u2069' || c == '\ufeff'
}

// reserved reports whether Windows takes name for a device, with or without an extension.
func reserved(name string) bool {
	stem, _, _ := strings.Cut(name, ".")
	stem = strings.ToUpper(strings.TrimRight(stem, " "))
	switch stem {
	case "CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$":
		return true
	}
	for _, port := range [...]string{"COM", "LPT"} {
		if digit, ok := strings.CutPrefix(stem, port); ok && strings.ContainsRune("0123456789¹²³", firstRune(digit)) &&
			utf8.RuneCountInString(digit) == 1 {
			return true
		}
	}
	return false
}

func firstRune(s string) rune {
	r, _ := utf8.DecodeRuneInString(s)
	return r
}

func badName(field, why string) error {
	return fault.New(fault.Invalid, "%s %s.", field, why).WithRemedy("Choose another name.").WithCode(CodeBadName)
}

func outside(field string) error {
	return fault.New(fault.Invalid, "%s leads out of your files.", field).WithCode(CodeOutside)
}
