package args

import (
	"fmt"
	"strings"
)

// kind is what is known of a word that was typed.
type kind int

const (
	untold   kind = iota // nothing yet
	end                  // there is no more
	long                 // --flag
	attached             // the value in --flag=value
	short                // -f
	tail                 // what follows in -fabc
	plain                // no flag, whatever it looks like
)

func (k kind) String() string {
	return []string{"untyped", "<EOL>", "long flag", "flag value", "short flag", "short flag remainder", "positional argument"}[k]
}

// word is something that was typed, or a part of it.
type word struct {
	text string
	kind kind
}

// String returns the word as it was typed.
func (w word) String() string {
	switch w.kind {
	case long:
		return "--" + w.text
	case short:
		return "-" + w.text
	case end:
		return "EOL"
	}
	return w.text
}

// looks returns the kind that a word seems to have.
func (w word) looks() kind {
	switch {
	case w.kind != untold:
		return w.kind
	case strings.HasPrefix(w.text, "--"):
		return long
	case w.text == "-":
		return plain
	case strings.HasPrefix(w.text, "-"):
		return short
	}
	return untold
}

func (w word) isFlag() bool  { return w.looks() == long || w.looks() == short }
func (w word) isValue() bool { return !w.isFlag() && w.kind != end }

// Words are the words that are still to be read.
type Words struct{ left []word }

func (w *Words) peek() word {
	if len(w.left) == 0 {
		return word{kind: end}
	}
	return w.left[0]
}

func (w *Words) pop() word {
	first := w.peek()
	w.left = w.left[min(1, len(w.left)):]
	return first
}

// put puts words in place of the first one.
func (w *Words) put(words ...word) { w.left = append(words, w.left[1:]...) }

// allPlain says of all words that are left that they are no flags.
func (w *Words) allPlain() {
	for i, one := range w.left {
		w.left[i] = word{one.String(), plain}
	}
}

// Attached takes the value in --flag=value.
func (w *Words) Attached() (value string, ok bool) {
	if w.peek().kind != attached {
		return "", false
	}
	return w.pop().text, true
}

// Next takes the next word, unless there is none or it is a flag.
func (w *Words) Next() (value string, ok bool) {
	if !w.peek().isValue() {
		return "", false
	}
	return w.pop().String(), true
}

// value takes the next word, which has to be a value. What is what it is needed for.
func (w *Words) value(what string) (string, error) {
	got := w.pop()
	if !got.isValue() {
		return "", &notValueError{what, got}
	}
	return got.text, nil
}

// notValueError says that no value came where one was due.
type notValueError struct {
	what string
	got  word
}

// Error says what was due and what came.
func (e *notValueError) Error() string {
	return fmt.Sprintf("expected %s value but got %q (%s)", e.what, e.got, e.got.looks())
}
