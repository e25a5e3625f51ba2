package dialhome

import (
	"bufio"
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// maxLine bounds a line of an agent's log; what is longer is cut.
const maxLine = 2 << 10

// Pauses before an agent's log is asked for again.
const (
	logAgain = 2 * time.Second
	logMost  = time.Minute
)

// followLog takes the lines of the agent's log into ours until ctx ends. What an agent said before it was here first is in
// its own log; of one that was started anew all is taken.
func (d *Driver) followLog(ctx context.Context) {
	var instance string
	var last uint64
	pause := logAgain
	for ctx.Err() == nil {
		if d.lines.Wait(ctx, d.name) != nil {
			return
		}
		began := time.Now()
		if now := d.lines.Agent(d.name).Hello.Instance; now != instance {
			last = 0
			if instance == "" {
				last = d.readLog(ctx, "/logs", func(string) {})
			}
			instance = now
		}
		last = max(last, d.readLog(ctx, "/logs?follow=1&after="+strconv.FormatUint(last, 10), d.logger()))
		if time.Since(began) > logMost {
			pause = logAgain
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, logMost)
	}
}

// readLog reads a log for as long as it comes: lines of number, time and text. It returns the last number; 0: none.
func (d *Driver) readLog(ctx context.Context, path string, take func(text string)) (last uint64) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent"+path, nil)
	if err != nil {
		return 0
	}
	resp, err := d.ask.Do(req)
	if err != nil {
		return 0 // the line is away, and that was told
	}
	defer resp.Body.Close() //nolint:errcheck // it was read, or is of no use
	if resp.StatusCode != http.StatusOK {
		return 0 // an agent without a log
	}
	lines := bufio.NewReaderSize(resp.Body, maxLine)
	for {
		raw, more, err := lines.ReadLine()
		line := string(raw)
		for more && err == nil { // the rest of a long line
			_, more, err = lines.ReadLine()
		}
		if err != nil {
			return last
		}
		number, rest, _ := strings.Cut(line, " ")
		_, text, _ := strings.Cut(rest, " ")
		if n, err := strconv.ParseUint(number, 10, 64); err == nil {
			last = n
		}
		if text = strings.TrimSpace(clean(text)); text != "" {
			take(text)
		}
	}
}

// logger logs lines, at most so many a minute; what is left out is counted.
func (d *Driver) logger() func(text string) {
	var minute time.Time
	left, dropped := 0, 0
	return func(text string) {
		if now := time.Now(); now.Sub(minute) > time.Minute {
			if dropped > 0 {
				d.o.Log.Warn("the agent says too much: lines of its log were left out", "lines", dropped)
			}
			minute, left, dropped = now, d.o.LogLines, 0
		}
		if left == 0 {
			dropped++
			return
		}
		left--
		d.o.Log.Info("agent", "line", text)
	}
}

// clean takes out what could colour a terminal.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' {
			return ' '
		}
		if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) {
			return -1
		}
		return r
	}, s)
}
