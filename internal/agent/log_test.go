package agent

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func texts(lines []Line) []string {
	var all []string
	for _, l := range lines {
		all = append(all, l.Text)
	}
	return all
}

func TestLogLines(t *testing.T) {
	t.Parallel()
	l, err := OpenLog("")
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{
		"one\ntw", "o\n", "\n", // a line in parts; an empty one is none
		"\r  0%|   |", "\r 50%|#  |", "\r100%|###|\n", // a progress bar
		"windows\r\n",
		"bad \xff byte\n",
		"last words",
	} {
		if n, err := l.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatal(n, err)
		}
	}
	l.EndLine()
	l.Note("ended: %d", 1)
	want := []string{"one", "two", "100%|###|", "windows", "bad \uFFFD byte", "last words", "[agent] ended: 1"}
	if got := texts(l.After(0)); strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("the lines are %q, want %q", got, want)
	}
	if got := texts(l.After(6)); len(got) != 1 || l.Last() != 7 {
		t.Errorf("after line 6 come %q; the last is %d", got, l.Last())
	}
	if got := l.After(100); len(got) != 0 {
		t.Errorf("after the end come %q", texts(got))
	}
}

// TestLogIsBounded: a program that prints without end fills neither memory nor disk.
func TestLogIsBounded(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "comfyui.log")
	l, err := OpenLog(path)
	if err != nil {
		t.Fatal(err)
	}
	long := []byte(strings.Repeat("x", 100_000)) // one line, never ended
	for range 20 {
		if _, err := l.Write(long); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 40_000 {
		fmt.Fprintf(l, "\n%d %s", i, strings.Repeat("y", 1500))
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	kept := l.After(0)
	size := 0
	for _, line := range kept {
		size += len(line.Text)
	}
	if len(kept) > keepLines || size > keepBytes || !strings.HasPrefix(kept[len(kept)-1].Text, "39999 ") {
		t.Errorf("%d lines of %d bytes are kept, up to %.20q", len(kept), size, kept[len(kept)-1].Text)
	}
	files, err := filepath.Glob(path + "*")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != filesKept+1 {
		t.Errorf("the files are %q", files)
	}
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > fileSize+longestLine+100 || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has %d bytes and mode %s", f, info.Size(), info.Mode())
		}
	}
}

// TestLogWithoutDisk: when the file can't be written, ComfyUI goes on, and it is said once.
func TestLogWithoutDisk(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "comfyui.log")
	l, err := OpenLog(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.file.Close(); err != nil { // the next write fails
		t.Fatal(err)
	}
	for i := range 5 {
		if _, err := fmt.Fprintf(l, "line %d\n", i); err != nil {
			t.Fatal(err)
		}
	}
	got := strings.Join(texts(l.After(0)), "\n")
	if !strings.Contains(got, "line 4") || strings.Count(got, "can't be written") != 1 {
		t.Errorf("the lines are\n%s", got)
	}
}

func TestLogNext(t *testing.T) {
	t.Parallel()
	l, err := OpenLog("")
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan []Line)
	go func() { got <- l.Next(t.Context(), 0) }()
	l.Note("hello")
	if lines := <-got; len(lines) != 1 {
		t.Errorf("%q", texts(lines))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if lines := l.Next(ctx, 1); len(lines) != 0 {
		t.Errorf("after the end of the context: %q", texts(lines))
	}
}
