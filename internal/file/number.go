package file

import (
	"fmt"
	"path"
	"strconv"
	"strings"
	"unicode/utf8"
)

// MaxName is the longest name of a file or folder in bytes: what the file systems in use take.
const MaxName = 255

// Numbered returns the name that is tried n-th when name is taken: "cat.png" and 2 give "cat (2).png". A name that
// would become too long loses the end of its stem, never half a character.
func Numbered(name string, n int) string {
	stem, ext := SplitExt(name)
	suffix := fmt.Sprintf(" (%d)", n) + ext
	return Shorten(stem, MaxName-len(suffix)) + suffix
}

// Number is the inverse of Numbered: it returns n where candidate is what Numbered(name, n) gives.
func Number(name, candidate string) (n int, ok bool) {
	_, ext := SplitExt(name)
	rest, ok := strings.CutSuffix(candidate, ")"+ext)
	if !ok {
		return 0, false
	}
	i := strings.LastIndex(rest, " (")
	if i < 0 {
		return 0, false
	}
	n, err := strconv.Atoi(rest[i+2:])
	if err != nil || n < 1 || Numbered(name, n) != candidate {
		return 0, false
	}
	return n, true
}

// SplitExt cuts the extension off name, with its dot. Dots at the beginning belong to the stem, and an extension
// of more than 32 bytes is part of the stem as well.
func SplitExt(name string) (stem, ext string) {
	ext = path.Ext(name)
	stem = name[:len(name)-len(ext)]
	if strings.Trim(stem, ".") == "" || len(ext) > 32 {
		return name, ""
	}
	return stem, ext
}

// Shorten returns at most limit bytes of the beginning of s without cutting a character.
func Shorten(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	s = s[:max(limit, 0)]
	for s != "" {
		if r, size := utf8.DecodeLastRuneInString(s); r != utf8.RuneError || size > 1 {
			break
		}
		s = s[:len(s)-1]
	}
	return s
}
