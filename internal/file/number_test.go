package file_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/ahelme/comfyume/internal/file"
)

func TestNumbered(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("é", 120)
	for _, c := range []struct {
		name string
		n    int
		want string
	}{
		{"cat.png", 1, "cat (1).png"},
		{"cat.tar.gz", 12, "cat.tar (12).gz"},
		{"cat", 3, "cat (3)"},
		{".hidden", 1, ".hidden (1)"},
		{"...png", 1, "...png (1)"},
		{"cat (1).png", 1, "cat (1) (1).png"},
		{long + "12345678.png", 100, long + "12345 (100).png"},
		{long + long + ".png", 1, strings.Repeat("é", 123) + " (1).png"},
	} {
		got := file.Numbered(c.name, c.n)
		if got != c.want {
			t.Errorf("Numbered(%q, %d) = %q, want %q", c.name, c.n, got, c.want)
		}
		if n, ok := file.Number(c.name, got); n != c.n || !ok {
			t.Errorf("Number(%q, %q) = %d, %v", c.name, got, n, ok)
		}
	}
	for _, other := range []string{"cat.png", "cat (0).png", "cat (-1).png", "cat (01).png", "cat (1).jpg", "dog (1).png", "cat(1).png", "cat (1)", ")", ").png"} {
		if n, ok := file.Number("cat.png", other); ok {
			t.Errorf("%q was taken for number %d of cat.png", other, n)
		}
	}
}

func TestNumberedFits(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		name := file.Shorten(rapid.StringN(1, 300, -1).Draw(t, "name"), file.MaxName)
		n := rapid.IntRange(1, 1<<31).Draw(t, "n")
		got := file.Numbered(name, n)
		if len(got) > file.MaxName || utf8.ValidString(name) && !utf8.ValidString(got) || got == name {
			t.Fatalf("Numbered(%q, %d) = %q", name, n, got)
		}
		if back, ok := file.Number(name, got); !ok || back != n {
			t.Fatalf("Number(%q, %q) = %d, %v", name, got, back, ok)
		}
	})
}
