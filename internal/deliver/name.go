package deliver

import (
	"errors"
	"fmt"
	"strings"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/file"
)

// Name is the name an output asks for. Names of ComfyUI are a stem, a counter and an ending: the stem and the
// ending stay, the counter is replaced by the owner's own.
type Name struct {
	Type      string
	Subfolder string
	Before    string // up to the counter, or the whole name
	Counted   bool   // whether there is a counter
	Theirs    string // the counter as the back end wrote it
	After     string // from the counter on
}

// With returns the name with counter n. Without a counter the first is the name as it is, and the later ones carry
// a number like files of equal names do.
func (n Name) With(i int64) string {
	switch {
	case n.Counted:
		return fmt.Sprintf("%s%0*d%s", n.Before, n.width(), i, n.After)
	case i <= 1:
		return n.Before
	default:
		return file.Numbered(n.Before, int(i-1))
	}
}

// width is to how many digits a counter is filled up. A long counter without zeros in front has outgrown the usual
// five.
func (n Name) width() int {
	if n.Theirs[0] == '0' {
		return len(n.Theirs)
	}
	return min(len(n.Theirs), 5)
}

// Ext returns the name's extension.
func (n Name) Ext() string {
	_, ext := file.SplitExt(n.Before + n.Theirs + n.After)
	return ext
}

// room is what the counter may take in a name.
const room = 20

// ParseName takes a back end's name apart: the last run of at least four digits that follows an underscore, and is
// not followed by another letter or digit, is the counter. stem replaces what stands before it.
// Names that could do harm, here or where they are unpacked, are mended; none is refused.
func ParseName(ref file.Ref, stem string) Name {
	// Some nodes put folders into the name.
	whole := strings.ReplaceAll(ref.Name, `\`, "/")
	dir, base := "", whole
	if i := strings.LastIndexByte(whole, '/'); i >= 0 {
		dir, base = whole[:i], whole[i+1:]
	}
	base = file.Sanitize(base)
	n := Name{Type: ref.Type, Subfolder: file.SanitizePath(ref.Subfolder + "/" + dir), Before: base}
	if file.CheckType(n.Type) != nil {
		n.Type = file.Output
	}
	for end := len(base); end > 0; end-- {
		start := end
		for start > 0 && base[start-1] >= '0' && base[start-1] <= '9' {
			start--
		}
		if end-start >= 4 && end-start <= 18 && start > 0 && base[start-1] == '_' && !wordAt(base, end) {
			n.Counted, n.Before, n.Theirs, n.After = true, base[:start], base[start:end], base[end:]
			break
		}
		if start < end {
			end = start + 1
		}
	}
	if stem != "" {
		n.restem(file.Sanitize(stem))
	}
	if n.Counted && len(n.Before)+len(n.After)+room > file.MaxName {
		n.Before = file.Shorten(n.Before, max(file.MaxName-len(n.After)-room-1, 0)) + "_"
	}
	if n.Counted && file.CheckName("", n.With(1)) != nil { // an ending of more than 230 bytes, say
		n.Counted, n.Before = false, base
	}
	return n
}

func (n *Name) restem(stem string) {
	if n.Counted {
		n.Before = stem + "_"
		return
	}
	_, ext := file.SplitExt(n.Before)
	n.Before = file.Sanitize(stem + ext)
}

// wordAt reports whether a letter or digit stands at i.
func wordAt(s string, i int) bool {
	if i >= len(s) {
		return false
	}
	c := s[i] | 0x20
	return c >= 'a' && c <= 'z' || s[i] >= '0' && s[i] <= '9' || s[i] >= 0x80
}

// ErrStale returns the error for an attempt that is not the job's any more.
func ErrStale() error {
	return fault.New(fault.Conflict, "This run was taken over by another attempt, or is over.").WithCode("stale_fence")
}

func isStale(err error) bool {
	e, ok := errors.AsType[*fault.Error](err)
	return ok && e.Kind == fault.Conflict && e.Code == "stale_fence"
}

func isMissing(err error) bool { return fault.Is(err, fault.Missing) }
