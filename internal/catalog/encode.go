package catalog

import (
	"bytes"
	"container/list"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"

	"github.com/ahelme/comfyume/internal/comfy/pyjson"
)

// Encoded is a JSON answer ready to be sent.
type Encoded struct {
	JSON []byte
	Gzip []byte // nil when it would not be smaller
	ETag string // with its quotes
}

// markPrefix begins the text that stands for a person's list in a template. It is not ASCII, and what back ends send
// is: it can't come from there.
const markPrefix = "\"\u2317comfyume:"

func (k fileKind) mark() []byte { return append([]byte(markPrefix), byte('0'+k), '"') }

// template is an answer with gaps for a person's lists.
type template struct {
	parts [][]byte // one more than gaps
	gaps  []fileKind
	size  int
}

func newTemplate(raw []byte) template {
	t := template{size: len(raw)}
	mark := []byte(markPrefix)
	for {
		at := bytes.Index(raw, mark)
		if at < 0 || at+len(mark)+2 > len(raw) {
			t.parts = append(t.parts, raw)
			return t
		}
		t.parts = append(t.parts, raw[:at])
		t.gaps = append(t.gaps, fileKind(raw[at+len(mark)]-'0'))
		raw = raw[at+len(mark)+2:]
	}
}

// fill appends the answer with the lists of a person who has these inputs.
func (t template) fill(dst []byte, inputs []string) []byte {
	if dst == nil {
		dst = make([]byte, 0, t.size+256)
	}
	var lists [fileObject][]byte
	for i, part := range t.parts {
		dst = append(dst, part...)
		if i == len(t.gaps) {
			break
		}
		kind := t.gaps[i]
		if lists[kind] == nil {
			lists[kind] = pyjson.AppendStrings(nil, offered(kind, inputs))
		}
		dst = append(dst, lists[kind]...)
	}
	return dst
}

// ObjectInfo returns the whole description with the person's inputs, given as paths below their input folder, in the
// lists of nodes that read uploads. Before the first back end was seen it is {}.
func (v *View) ObjectInfo(inputs []string) Encoded {
	key := strings.Join(inputs, "\x00")
	m := v.merged
	return v.lists.get(key, func() Encoded { return encode(m.whole.fill(nil, inputs)) })
}

func encode(raw []byte) Encoded {
	sum := sha256.Sum256(raw)
	e := Encoded{JSON: raw, ETag: `"` + hex.EncodeToString(sum[:12]) + `"`}
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, 5)
	if err != nil { // the level is a constant
		return e
	}
	if _, err := w.Write(raw); err != nil {
		return e
	}
	if err := w.Close(); err != nil {
		return e
	}
	if b.Len() < len(raw) {
		e.Gzip = b.Bytes()
	}
	return e
}

// cacheBytes bounds the answers that are kept encoded.
const cacheBytes = 64 << 20

// listCache keeps answers by the lists they were filled with, the latest used ones within cacheBytes.
type listCache struct {
	mu    sync.Mutex
	bytes int
	order *list.List // of *cached, latest used first
	byKey map[string]*list.Element
}

type cached struct {
	key  string
	once sync.Once
	e    Encoded
	cost int // counted in listCache.bytes; guarded by its lock
}

func (l *listCache) clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bytes, l.order, l.byKey = 0, list.New(), map[string]*list.Element{}
}

// get returns the answer for key, made when there is none. Several that want the same one wait for one making.
func (l *listCache) get(key string, fill func() Encoded) Encoded {
	l.mu.Lock()
	el := l.byKey[key]
	if el == nil {
		el = l.order.PushFront(&cached{key: key})
		l.byKey[key] = el
	} else {
		l.order.MoveToFront(el)
	}
	entry := el.Value.(*cached)
	l.mu.Unlock()
	entry.once.Do(func() {
		entry.e = fill()
		l.charge(el, entry)
	})
	return entry.e
}

// charge counts a new answer and drops the least used ones beyond the bound.
func (l *listCache) charge(el *list.Element, entry *cached) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.byKey[entry.key] != el {
		return // cleared meanwhile
	}
	entry.cost = len(entry.key) + len(entry.e.JSON) + len(entry.e.Gzip)
	l.bytes += entry.cost
	for l.bytes > cacheBytes && l.order.Len() > 1 {
		last := l.order.Back()
		drop := last.Value.(*cached)
		if last == el {
			return
		}
		l.order.Remove(last)
		delete(l.byKey, drop.key)
		l.bytes -= drop.cost
	}
}
