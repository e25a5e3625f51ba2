package file_test

import (
	"path"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/internal/file"
)

func TestParseAnnotated(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		value, typ string
		want       file.Ref
		ok         bool
	}{
		{"cat.png", file.Input, file.Ref{Type: file.Input, Name: "cat.png"}, true},
		{"pasted/cat (1).png", file.Input, file.Ref{Type: file.Input, Subfolder: "pasted", Name: "cat (1).png"}, true},
		{"sub/cat.png [temp]", file.Input, file.Ref{Type: file.Temp, Subfolder: "sub", Name: "cat.png"}, true},
		{"cat.png [output]", file.Input, file.Ref{Type: file.Output, Name: "cat.png"}, true},
		{"cat.png[input]", file.Output, file.Ref{Type: file.Input, Name: "cat.png"}, true},
		{"a//b/./c.png", file.Input, file.Ref{Type: file.Input, Subfolder: "a/b", Name: "c.png"}, true},
		{"..%2F..%2Fevil.png", file.Input, file.Ref{Type: file.Input, Name: "..%2F..%2Fevil.png"}, true},
		{"a..b/c...png", file.Input, file.Ref{Type: file.Input, Subfolder: "a..b", Name: "c...png"}, true},
		{"∕etc∕passwd", file.Input, file.Ref{Type: file.Input, Name: "∕etc∕passwd"}, true}, // a look-alike of the slash is no slash
		{"cat.png [other]", file.Input, file.Ref{Type: file.Input, Name: "cat.png [other]"}, true},
		{"", file.Input, file.Ref{}, false},
		{" [input]", file.Input, file.Ref{}, false},
		{"/etc/passwd", file.Input, file.Ref{}, false},
		{"C:/pictures/cat.png", file.Input, file.Ref{}, false},
		{`C:\pictures\cat.png`, file.Input, file.Ref{}, false},
		{`..\cat.png`, file.Input, file.Ref{}, false},
		{"../cat.png", file.Input, file.Ref{}, false},
		{"a/../../cat.png [output]", file.Input, file.Ref{}, false},
		{"a/..", file.Input, file.Ref{}, false},
		{"sub/", file.Input, file.Ref{}, false},
		{".", file.Input, file.Ref{}, false},
		{"cat\x00.png", file.Input, file.Ref{}, false},
		{"cat\xff.png", file.Input, file.Ref{}, false},
	} {
		got, ok := file.ParseAnnotated(c.value, c.typ)
		if diff := cmp.Diff(c.want, got); diff != "" || ok != c.ok {
			t.Errorf("ParseAnnotated(%q, %q) is %v, -want +got:\n%s", c.value, c.typ, ok, diff)
		}
	}
}

func FuzzParseAnnotated(f *testing.F) {
	for _, s := range []string{"cat.png", "a/b.png [temp]", "../x", "x [input] [output]", "/", "a/./", "\u202e.png"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		ref, ok := file.ParseAnnotated(value, file.Input)
		if !ok {
			if ref != (file.Ref{}) {
				t.Fatalf("%q was refused and gave %+v", value, ref)
			}
			return
		}
		whole := path.Join(ref.Subfolder, ref.Name)
		if strings.Contains("/"+whole+"/", "/../") || strings.HasPrefix(whole, "/") || strings.Contains(ref.Name, "/") || ref.Name == "" {
			t.Fatalf("%q gave %+v", value, ref)
		}
		if back, ok := file.ParseAnnotated(ref.Annotated(file.Input), file.Input); !ok || back != ref {
			t.Fatalf("%q gave %+v, which is written %q and read as %+v, %v", value, ref, ref.Annotated(file.Input), back, ok)
		}
	})
}
