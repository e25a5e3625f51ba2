package backendtest

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"
)

func (f *Fake) upload(w http.ResponseWriter, r *http.Request) {
	file, head, err := r.FormFile("image")
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	b, err := io.ReadAll(file)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	typ, sub := r.FormValue("type"), r.FormValue("subfolder")
	f.mu.Lock()
	f.files[key(typ, sub, head.Filename)] = b
	f.mu.Unlock()
	answer(w, http.StatusOK, fmt.Sprintf(`{"name":%q,"subfolder":%q,"type":%q}`, head.Filename, sub, typ))
}

func key(typ, sub, name string) string {
	if sub != "" {
		name = sub + "/" + name
	}
	return typ + "/" + name
}

func (f *Fake) view(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	f.mu.Lock()
	at := key(q.Get("type"), q.Get("subfolder"), q.Get("filename"))
	b, ok := f.files[at]
	size, big := f.big[at]
	hold := f.holdBig
	f.mu.Unlock()
	if big {
		serveBig(w, r, size, hold)
		return
	}
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	http.ServeContent(w, r, q.Get("filename"), time.Time{}, bytes.NewReader(b))
}

// held is how much of a big file goes out before its end is held back.
const held = 1 << 20

// serveBig sends a file that is made on the way.
func serveBig(w http.ResponseWriter, r *http.Request, size int64, hold <-chan struct{}) {
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	for at := int64(0); at < size; {
		if hold != nil && at >= held {
			select {
			case <-hold:
				hold = nil
			case <-r.Context().Done():
				return
			}
		}
		n, err := w.Write(Content(at, int(min(64<<10, size-at))))
		if err != nil {
			return
		}
		at += int64(n)
		if at == held {
			http.NewResponseController(w).Flush() //nolint:errcheck // the next write tells
		}
	}
}

// Content returns n bytes of a big file from offset at on.
func Content(at int64, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		x := at + int64(i)
		b[i] = byte(x ^ x>>8 ^ x>>17)
	}
	return b
}

// HoldBig has big files stop after their first MB until the returned function is called: who waits for the whole file
// before handing on its beginning waits for ever.
func (f *Fake) HoldBig() (release func()) {
	hold := make(chan struct{})
	f.mu.Lock()
	defer f.mu.Unlock()
	f.holdBig = hold
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.holdBig == hold {
			f.holdBig = nil
			close(hold)
		}
	}
}

// Mangle has a route, such as "GET /system_stats", answered by h from now on; nil: as before.
func (f *Fake) Mangle(route string, h http.HandlerFunc) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mangled == nil {
		f.mangled = map[string]http.HandlerFunc{}
	}
	f.mangled[route] = h
}

// File returns the content of a file of a type.
func (f *Fake) File(typ, name string) ([]byte, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b, ok := f.files[typ+"/"+name]
	return slices.Clone(b), ok
}

// media are the classes that write files: type of the file, ending, word in the outputs, and what stands beside it.
var media = map[string]struct{ typ, ending, word, beside string }{
	"Save":     {"output", "png", "images", ""},
	"Preview":  {"temp", "png", "images", ""},
	"Audio":    {"output", "flac", "audio", ""},
	"Animated": {"output", "webp", "images", `, "animated": [true]`},
	"Big":      {"output", "mp4", "images", ""},
}

// made writes a file and returns the output that names it.
func (f *Fake) made(n fakeNode) string {
	m := media[n.Class]
	f.mu.Lock()
	defer f.mu.Unlock()
	stem := n.text("prefix")
	if stem == "" {
		stem = "fake"
	}
	name := ""
	for i := 1; ; i++ {
		name = fmt.Sprintf("%s_%05d_.%s", stem, i, m.ending)
		if _, taken := f.files[key(m.typ, "", name)]; !taken {
			break
		}
	}
	if !f.lossy {
		f.files[key(m.typ, "", name)] = []byte(n.text("text"))
	}
	if size, err := strconv.ParseInt(n.text("size"), 10, 64); n.Class == "Big" && err == nil {
		f.big[key(m.typ, "", name)] = size
	}
	return fmt.Sprintf(`{%q: [{"filename": %q, "subfolder": "", "type": %q}]%s}`, m.word, name, m.typ, m.beside)
}
