package file_test

import (
	"errors"
	"path"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/file"
)

var goodNames = []string{
	"cat.png", "cat (1).png", "..%2F..%2Fevil.png", "a..b", "...png", ".hidden", "-rf", "com", "com10.txt", "console.png",
	"naïve.png", "nai\u0308ve.png", "日本語.png", "👩\u200d🚀.png", "\u200fשלום.png", "∕etc∕passwd", "a:b?.png", "%00.png", "a\u202fb.png",
	strings.Repeat("a", 255),
}

var badNames = []string{
	"", ".", "..", "a/b", `a\b`, "/", "a\x00.png", "a\n.png", "a\x7f", "a\u0085", "a\xff.png", "a\u202egpj.exe", "\ufeffa", "a\u2028b",
	"a.", "a ", "con", "NUL.txt", "Com1", "lpt9.png", "COM¹.png", "aux .png", "conin$", strings.Repeat("a", 256), "... ",
}

func TestCheckName(t *testing.T) {
	t.Parallel()
	for _, name := range goodNames {
		if err := file.CheckName("The file name", name); err != nil {
			t.Errorf("%q was refused: %v", name, err)
		}
	}
	for _, name := range badNames {
		err := file.CheckName("The file name", name)
		if !fault.Is(err, fault.Invalid) || !strings.HasPrefix(err.Error(), "The file name ") {
			t.Errorf("%q gave %v", name, err)
		}
	}
}

func TestRefCheck(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		ref  file.Ref
		want string // subfolder
		code string
	}{
		{file.Ref{Type: "input", Name: "a"}, "", ""},
		{file.Ref{Type: "temp", Subfolder: "./a//b/", Name: "a"}, "a/b", ""},
		{file.Ref{Type: "output", Subfolder: "../../etc", Name: "a"}, "", file.CodeOutside},
		{file.Ref{Type: "output", Subfolder: "a/../..", Name: "a"}, "", file.CodeOutside},
		{file.Ref{Type: "output", Subfolder: "/etc", Name: "passwd"}, "", file.CodeOutside},
		{file.Ref{Type: "output", Name: ".."}, "", file.CodeOutside},
		{file.Ref{Type: "output", Subfolder: `..\..`, Name: "a"}, "", file.CodeBadName},
		{file.Ref{Type: "output", Subfolder: "a\x00", Name: "a"}, "", file.CodeBadName},
		{file.Ref{Type: "output", Subfolder: strings.Repeat("a/", 33) + "a", Name: "a"}, "", file.CodeBadName},
		{file.Ref{Type: "output", Subfolder: strings.Repeat(strings.Repeat("a", 250)+"/", 4), Name: strings.Repeat("b", 30)}, "", file.CodeBadName},
		{file.Ref{Type: "weird", Name: "a"}, "", file.CodeBadType},
	} {
		got, err := c.ref.Check()
		code := ""
		if e, ok := errors.AsType[*fault.Error](err); ok {
			code = e.Code
		}
		if code != c.code || err == nil && got.Subfolder != c.want {
			t.Errorf("Check of %+v gave %+v, %v; want subfolder %q, code %q", c.ref, got, err, c.want, c.code)
		}
	}
}

func FuzzSanitize(f *testing.F) {
	for _, name := range append(goodNames, badNames...) {
		f.Add(name)
	}
	f.Add("a/../" + strings.Repeat("b/", 40))
	f.Add(strings.Repeat(".", 300) + "png")
	f.Fuzz(func(t *testing.T, name string) {
		clean := file.Sanitize(name)
		if err := file.CheckName("name", clean); err != nil {
			t.Fatalf("Sanitize(%q) = %q: %v", name, clean, err)
		}
		if file.CheckName("name", name) == nil && clean != name {
			t.Fatalf("Sanitize changed the good name %q into %q", name, clean)
		}
		dir := file.SanitizePath(name)
		if got, err := file.CleanPath("path", dir); err != nil || got != dir {
			t.Fatalf("SanitizePath(%q) = %q: %q, %v", name, dir, got, err)
		}
		ref := file.Ref{Type: file.Output, Subfolder: dir, Name: clean}
		if got, err := ref.Check(); err != nil || got != ref {
			t.Fatalf("%+v: %+v, %v", ref, got, err)
		}
		if got, err := file.CleanPath("path", name); err == nil {
			if strings.HasPrefix(got, "/") || strings.Contains("/"+got+"/", "/../") || got != "" && path.Clean(got) != got {
				t.Fatalf("CleanPath(%q) = %q", name, got)
			}
		}
	})
}
