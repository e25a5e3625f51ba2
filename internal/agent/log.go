package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// Bounds of what is kept of ComfyUI's output.
const (
	keepLines   = 1000
	keepBytes   = 512 << 10 // of the lines in memory
	longestLine = 2000      // bytes of a line; the rest of it is dropped
	fileSize    = 10 << 20  // at which the file is put aside
	filesKept   = 3         // put aside
)

// Line is one line that ComfyUI printed, or the agent said about it.
type Line struct {
	N    uint64 // number since the agent's start, from 1
	At   time.Time
	Text string
}

// Log keeps what ComfyUI prints: the last lines in memory, and more of it in a file that is put aside when it is full.
// It is safe for concurrent use.
type Log struct {
	mu     sync.Mutex
	lines  []Line // oldest first
	bytes  int
	last   uint64 // number of the newest line
	part   []byte // of a line that has not ended
	over   bool   // a carriage return came: what comes next replaces part
	heard  time.Time
	waiter chan struct{} // closed when a line comes

	path  string
	file  *os.File
	size  int64
	retry time.Time // when the file is tried again after an error
}

// OpenLog returns a log that also writes to a file; without a path it keeps lines in memory only.
func OpenLog(path string) (*Log, error) {
	l := &Log{path: path, waiter: make(chan struct{})}
	if path == "" {
		return l, nil
	}
	return l, l.open()
}

func (l *Log) open() error {
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close() //nolint:errcheck // nothing was written
		return err
	}
	l.file, l.size = f, info.Size()
	return nil
}

// Close closes the file.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.endLine()
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file, l.path = nil, ""
	return err
}

// Write takes what ComfyUI prints. A line that is overwritten by carriage returns, as progress bars do, is kept in its
// last form only. It never fails: ComfyUI must not stand still because a disk is full.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heard = time.Now()
	for rest := p; len(rest) > 0; {
		i := bytes.IndexAny(rest, "\r\n")
		if i < 0 {
			l.add(rest)
			break
		}
		l.add(rest[:i])
		if rest[i] == '\n' {
			l.endLine()
		} else {
			l.over = true
		}
		rest = rest[i+1:]
	}
	return len(p), nil
}

func (l *Log) add(text []byte) {
	if l.over && len(text) > 0 {
		l.part, l.over = l.part[:0], false
	}
	l.part = append(l.part, text[:min(len(text), longestLine-min(longestLine, len(l.part)))]...)
}

func (l *Log) endLine() {
	if len(l.part) > 0 {
		l.keep(string(l.part))
	}
	l.part, l.over = l.part[:0], false
}

// EndLine keeps what was printed without a line's end; called when a program has ended.
func (l *Log) EndLine() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.endLine()
}

// Note adds a line of the agent's own.
func (l *Log) Note(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.keep("[agent] " + fmt.Sprintf(format, args...))
}

func (l *Log) keep(text string) {
	if !utf8.ValidString(text) {
		text = strings.ToValidUTF8(text, "\uFFFD")
	}
	l.last++
	line := Line{N: l.last, At: time.Now(), Text: text}
	l.lines = append(l.lines, line)
	l.bytes += len(text)
	drop := 0
	for len(l.lines)-drop > keepLines || l.bytes > keepBytes {
		l.bytes -= len(l.lines[drop].Text)
		drop++
	}
	if drop > 0 {
		l.lines = append(l.lines[:0], l.lines[drop:]...)
	}
	close(l.waiter)
	l.waiter = make(chan struct{})
	l.toFile(line)
}

// toFile writes a line to the file. Without one, or after an error, it is tried again a minute later.
func (l *Log) toFile(line Line) {
	if l.path == "" || line.At.Before(l.retry) {
		return
	}
	err := func() error {
		if l.file == nil {
			if err := l.open(); err != nil {
				return err
			}
		}
		n, err := fmt.Fprintf(l.file, "%s %s\n", line.At.UTC().Format("2006-01-02T15:04:05.000Z"), line.Text)
		l.size += int64(n)
		if err == nil && l.size >= fileSize {
			err = l.putAside()
		}
		return err
	}()
	if err == nil {
		return
	}
	l.retry = line.At.Add(time.Minute)
	l.last++ // said in memory only: the file is the trouble
	l.lines = append(l.lines, Line{N: l.last, At: line.At, Text: "[agent] the log can't be written to " + filepath.Base(l.path) + ": " + err.Error()})
	if l.file != nil {
		l.file.Close() //nolint:errcheck // it failed already
		l.file = nil
	}
}

// putAside renames comfyui.log to comfyui.log.1, that to .2 and so on, and begins a new one.
func (l *Log) putAside() error {
	err := l.file.Close()
	l.file = nil
	for i := filesKept - 1; i >= 1; i-- {
		from := l.path + "." + strconv.Itoa(i)
		if e := os.Rename(from, l.path+"."+strconv.Itoa(i+1)); e != nil && !errors.Is(e, os.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return errors.Join(err, os.Rename(l.path, l.path+".1"), l.open())
}

// Heard returns when ComfyUI printed something for the last time.
func (l *Log) Heard() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.heard
}

// Last returns the number of the newest line.
func (l *Log) Last() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

// After returns the lines after number n that are still known, oldest first.
func (l *Log) After(n uint64) []Line {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.after(n)
}

func (l *Log) after(n uint64) []Line {
	i := len(l.lines)
	for i > 0 && l.lines[i-1].N > n {
		i--
	}
	return append([]Line(nil), l.lines[i:]...)
}

// Next waits for lines after number n. It returns none when ctx ends.
func (l *Log) Next(ctx context.Context, n uint64) []Line {
	for {
		l.mu.Lock()
		lines, wait := l.after(n), l.waiter
		l.mu.Unlock()
		if len(lines) > 0 {
			return lines
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return nil
		}
	}
}
