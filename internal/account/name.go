package account

import (
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/ahelme/comfyume/internal/fault"
)

// maxName is how long a name may be.
const maxName = 32

// reserved are names that some system can't have as a folder's.
var reserved = []string{"con", "prn", "aux", "nul"}

// CheckName returns why name can't be the name of a person or a group. A name is also a folder, on every system.
func CheckName(name string) error {
	bad := func(format string, args ...any) error {
		e := fault.New(fault.Invalid, format, args...).WithCode("bad_name")
		if s := SuggestName(name); s != "" && s != name {
			e = e.WithRemedy("How about “%s”?", s)
		}
		return e
	}
	switch {
	case name == "":
		return bad("A name is missing.")
	case len(name) > maxName:
		return bad("The name has more than %d characters.", maxName)
	case name[0] == '-':
		return bad("A name does not begin with a hyphen.")
	case isReserved(name):
		return bad("“%s” is a name that some computers keep for themselves.", name)
	}
	for _, r := range name {
		if !plain(r) {
			return bad("A name has small letters a to z, digits, “-” and “_” only.")
		}
	}
	return nil
}

func plain(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '_'
}

func isReserved(name string) bool {
	if slices.Contains(reserved, name) {
		return true
	}
	return len(name) == 4 && (strings.HasPrefix(name, "com") || strings.HasPrefix(name, "lpt")) &&
		name[3] >= '0' && name[3] <= '9'
}

// Normalize returns name as it is stored: people type capitals and blanks around it.
func Normalize(name string) string { return strings.ToLower(strings.TrimSpace(name)) }

// latin spells letters that are common in names with plain ones.
var latin = strings.NewReplacer(
	"ä", "ae", "ö", "oe", "ü", "ue", "ß", "ss", "æ", "ae", "œ", "oe", "ø", "o", "å", "a", "ð", "d", "þ", "th",
	"à", "a", "á", "a", "â", "a", "ã", "a", "ā", "a", "ă", "a", "ą", "a", "ç", "c", "ć", "c", "č", "c", "ď", "d", "đ", "d",
	"è", "e", "é", "e", "ê", "e", "ë", "e", "ē", "e", "ė", "e", "ę", "e", "ě", "e", "ğ", "g", "ģ", "g",
	"ì", "i", "í", "i", "î", "i", "ï", "i", "ī", "i", "į", "i", "ı", "i", "ķ", "k", "ł", "l", "ļ", "l", "ñ", "n", "ń", "n", "ň", "n", "ņ", "n",
	"ò", "o", "ó", "o", "ô", "o", "õ", "o", "ő", "o", "ō", "o", "ř", "r", "ś", "s", "š", "s", "ş", "s", "ș", "s", "ť", "t", "ţ", "t", "ț", "t",
	"ù", "u", "ú", "u", "û", "u", "ū", "u", "ů", "u", "ű", "u", "ų", "u", "ý", "y", "ÿ", "y", "ź", "z", "ż", "z", "ž", "z",
)

// SuggestName makes a valid name of what a person typed, such as "ann-mueller" of "Ann Müller". It is empty when
// nothing of it can be kept.
func SuggestName(typed string) string {
	var b strings.Builder
	for _, r := range latin.Replace(Normalize(typed)) {
		switch {
		case plain(r):
			b.WriteRune(r)
		case unicode.IsSpace(r) || unicode.IsPunct(r):
			if s := b.String(); s != "" && !strings.HasSuffix(s, "-") {
				b.WriteByte('-')
			}
		}
	}
	s := strings.TrimLeft(b.String(), "-")
	s = strings.TrimRight(s[:min(len(s), maxName)], "-")
	if isReserved(s) {
		s += "-1"
	}
	return s
}

// nextName returns name with the number n at its end, within the length of a name.
func nextName(name string, n int) string {
	tail := "-" + strconv.Itoa(n)
	return strings.TrimRight(name[:min(len(name), maxName-len(tail))], "-") + tail
}
