package near_test

import (
	"testing"

	"github.com/ahelme/comfyume/internal/near"
)

func TestDistance(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"", "", 0},
		{"", "abc", 3},
		{"abc", "", 3},
		{"json", "json", 0},
		{"jsn", "json", 1},
		{"jsno", "json", 2},
		{"kitten", "sitting", 3},
		{"é", "e", 1},
		{"日本", "日", 1},
	} {
		if got := near.Distance(c.a, c.b); got != c.want {
			t.Errorf("%q is %d letters from %q, want %d", c.a, got, c.b, c.want)
		}
		if there, back := near.Distance(c.a, c.b), near.Distance(c.b, c.a); there != back {
			t.Errorf("from %q to %q it is %d, and %d back", c.a, c.b, there, back)
		}
	}
}

func TestBest(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ word, want string }{
		{"listne", "listen"}, // a swap is one slip
		{"queu", "queue"},
		{"quota_s", "quota"},
		{"x", ""}, // as far from all as it is long
		{"something else", ""},
	} {
		if got := near.Best(c.word, []string{"listen", "queue", "quota"}); got != c.want {
			t.Errorf("%q was taken for %q, want %q", c.word, got, c.want)
		}
	}
	if got := near.Best("ab", []string{"ba", "b"}); got != "ba" {
		t.Errorf("%q was taken for %q", "ab", got)
	}
}
