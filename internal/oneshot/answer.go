package oneshot

import (
	"crypto/sha256"
	"encoding/json"
	"hash"
	"io"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/job"
)

// Answer reads the stream of a run. Everything in it is checked: order, sizes, hashes, and at its end that nothing is
// missing. It is owned by its reader.
type Answer struct {
	in    *reader
	have  map[int]bool // files that are whole
	limit int64        // bytes of files that are still taken
	began bool
	ended bool // the result came
	file  *incoming
}

// incoming is the file that comes just now.
type incoming struct {
	opening
	size int64
	sum  *aside
}

// aside is a hash that is made while the bytes are written and the next ones read. Bytes that were handed to it must
// stay as they are until the call after the next one.
type aside struct {
	hash hash.Hash
	busy chan struct{} // non-nil while bytes are hashed; closed then
}

func newAside() *aside { return &aside{hash: sha256.New()} }

// add takes bytes.
func (a *aside) add(b []byte) {
	a.wait()
	busy := make(chan struct{})
	a.busy = busy
	go func() {
		a.hash.Write(b)
		close(busy)
	}()
}

// wait returns when all that was taken is hashed.
func (a *aside) wait() {
	if a.busy != nil {
		<-a.busy
		a.busy = nil
	}
}

// Event is what comes next of an answer: exactly one of its fields is set.
type Event struct {
	Hello   *Hello
	Posted  *Posted
	Frame   *Frame
	Beat    *Beat
	Open    *File  // a file begins; one of the same number that came before is void
	Data    []byte // bytes of it, which hold until the next event
	Close   *File  // it is whole and right
	Absent  *File  // the ComfyUI named it and does not have it
	Kept    *Kept  // it was left in storage
	Result  *backend.Result
	Trouble *Trouble // the last event: there is no result
	End     bool     // the last event: all is there
}

// Frame is a numbered frame.
type Frame struct {
	N      int64
	Update backend.Update
}

// File is a numbered file of a run.
type File struct {
	N   int
	Ref backend.FileRef
}

// Kept is a file that was left in storage, and what it has to be there.
type Kept struct {
	File
	Name   string
	Size   int64
	SHA256 string
}

// NewAnswer reads a stream. have are the files of the run that are whole already; maxBytes bounds all others together.
func NewAnswer(r io.Reader, have map[int]bool, maxBytes int64) *Answer {
	all := make(map[int]bool, len(have))
	for n := range have {
		all[n] = true
	}
	return &Answer{in: newReader(r), have: all, limit: maxBytes}
}

// Next returns what comes next. ErrCut, ErrCorrupt and ErrForeign: there is no more that can be used.
func (a *Answer) Next() (Event, error) {
	if !a.began {
		a.began = true
		if err := a.in.preface(); err != nil {
			return Event{}, err
		}
		var h Hello
		if err := a.in.into(kindHello, &h); err != nil {
			return Event{}, err
		}
		if h.Protocol != Version || !validRun(h.Run) || h.First < 0 || len(h.Container) > maxRunID || len(h.Epoch) > maxRunID || len(h.Info) > 2*sha256.Size {
			return Event{}, corrupt("a hello with values that can't be")
		}
		return Event{Hello: &h}, nil
	}
	k, payload, err := a.in.next()
	if err != nil {
		return Event{}, err
	}
	switch k {
	case kindOpen, kindData, kindClose, kindAbsent, kindKept:
		return a.ofFile(k, payload)
	case kindPosted:
		var p Posted
		err = decode(k, payload, &p)
		if len(p.Epoch) > maxRunID {
			err = corrupt("an epoch of %d letters", len(p.Epoch))
		}
		return Event{Posted: &p}, err
	case kindFrame, kindBinary:
		n, u, err := parseFrame(k, payload)
		return Event{Frame: &Frame{n, u}}, err
	case kindBeat:
		var b Beat
		err = decode(k, payload, &b)
		return Event{Beat: &b}, err
	case kindResult:
		return a.result(payload)
	case kindTrouble:
		var t Trouble
		err = decode(k, payload, &t)
		return Event{Trouble: &t}, err
	case kindEnd:
		var e ending
		if err := decode(k, payload, &e); err != nil {
			return Event{}, err
		}
		if !a.ended || a.file != nil || e.Files != len(a.have) {
			return Event{}, corrupt("%d files came of %d", len(a.have), e.Files)
		}
		return Event{End: true}, nil
	default:
		return Event{}, corrupt("a record of kind %q in an answer", byte(k))
	}
}

// result reads how the run ended.
func (a *Answer) result(payload []byte) (Event, error) {
	var r result
	if err := decode(kindResult, payload, &r); err != nil {
		return Event{}, err
	}
	if a.ended {
		return Event{}, corrupt("a second result")
	}
	if r.State != job.Completed && r.State != job.Failed && r.State != job.Cancelled {
		return Event{}, corrupt("a result in the state %q", clip(string(r.State)))
	}
	for _, part := range []struct {
		raw  *json.RawMessage
		kind pyjson.Kind
		none string
	}{{&r.Outputs, pyjson.Object, "{}"}, {&r.Messages, pyjson.Array, "[]"}, {&r.Meta, pyjson.Object, "{}"}} {
		if pyjson.KindOf(*part.raw) != part.kind {
			*part.raw = json.RawMessage(part.none)
		}
	}
	a.ended = true
	return Event{Result: &backend.Result{State: r.State, Outputs: r.Outputs, Messages: r.Messages, Meta: r.Meta, Gap: r.Gap}}, nil
}

// ofFile reads what belongs to a file.
func (a *Answer) ofFile(k kind, payload []byte) (Event, error) {
	switch k {
	case kindData:
		if a.file == nil {
			return Event{}, corrupt("bytes of no file")
		}
		n := int64(len(payload))
		if a.limit -= n; a.limit < 0 {
			return Event{}, corrupt("more bytes of files than are taken")
		}
		a.file.size += n
		a.file.sum.add(payload)
		return Event{Data: payload}, nil
	case kindClose:
		if a.file == nil {
			return Event{}, corrupt("the end of no file")
		}
		var c closing
		if err := decode(k, payload, &c); err != nil {
			return Event{}, err
		}
		a.file.sum.wait()
		if err := c.verify(a.file.size, a.file.sum.hash, -1); err != nil {
			return Event{}, err
		}
		f := File{a.file.N, a.file.Ref}
		a.have[f.N], a.file = true, nil
		return Event{Close: &f}, nil
	}
	var o kept // has the fields of all three
	if err := decode(k, payload, &o); err != nil {
		return Event{}, err
	}
	if o.N < 0 || o.N >= MaxFiles || a.have[o.N] || a.file != nil && (k != kindOpen || a.file.N != o.N) {
		return Event{}, corrupt("file %d out of turn", o.N)
	}
	f := File{o.N, o.Ref}
	switch k {
	case kindOpen: // one that broke off begins anew
		if a.file != nil {
			a.limit += a.file.size
		}
		a.file = &incoming{opening: o.opening, sum: newAside()}
		return Event{Open: &f}, nil
	case kindAbsent:
		a.have[f.N] = true
		return Event{Absent: &f}, nil
	default:
		if o.Size < 0 || len(o.SHA256) != 2*sha256.Size || o.Name == "" {
			return Event{}, corrupt("a file in storage without name or hash")
		}
		if a.limit -= o.Size; a.limit < 0 { // in storage it may be a hole without end
			return Event{}, corrupt("more bytes of files than are taken")
		}
		a.have[f.N] = true
		return Event{Kept: &Kept{f, o.Name, o.Size, o.SHA256}}, nil
	}
}
