package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/mattn/go-isatty"
)

// progress shows how far something long is: a bar on a terminal, plain lines elsewhere.
type progress struct {
	w        io.Writer
	terminal bool
	mu       sync.Mutex
	what     string
	drawn    time.Time
	open     bool // a bar stands on the current line
}

func newProgress(w io.Writer) *progress {
	f, ok := w.(*os.File)
	return &progress{w: w, terminal: ok && isatty.IsTerminal(f.Fd())}
}

// show tells that done of total is done; a total of 0 is not known.
func (p *progress) show(what string, done, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fresh := what != p.what
	if !p.terminal {
		if fresh {
			fmt.Fprintln(p.w, what)
		}
		p.what = what
		return
	}
	if fresh && p.open {
		fmt.Fprintln(p.w)
	}
	if !fresh && done < total && time.Since(p.drawn) < 50*time.Millisecond {
		return
	}
	p.what, p.drawn, p.open = what, time.Now(), true
	if total <= 0 {
		fmt.Fprintf(p.w, "\r\x1b[K%s …", what)
		return
	}
	const width = 30
	full := int(done * width / total)
	fmt.Fprintf(p.w, "\r\x1b[K%s [%s%s] %d%%", what, strings.Repeat("#", full), strings.Repeat(" ", width-full), done*100/total)
}

// end closes the line of a bar.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open {
		fmt.Fprintln(p.w)
		p.open = false
	}
}
