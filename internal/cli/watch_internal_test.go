package cli

import "testing"

// TestCut: a live view keeps to the terminal's size.
func TestCut(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text          string
		columns, rows int
		want          string
	}{
		{"a\nb\n", 80, 24, "a\nb\n"},
		{"a\nb\nc\nd\n", 80, 3, "a\nb\n… 2 more\n"},
		{"a\nb\nc\n", 80, 3, "a\nb\nc\n"},
		{"äöüß\nb\n", 3, 24, "äö…\nb\n"},
		{"a\nb\n", 0, 0, "a\nb\n"},
		{"", 80, 24, "\n"},
	} {
		if got := cut(c.text, c.columns, c.rows); got != c.want {
			t.Errorf("cut(%q, %d, %d) is %q, want %q", c.text, c.columns, c.rows, got, c.want)
		}
	}
}
