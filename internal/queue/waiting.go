package queue

import (
	"time"

	"github.com/google/uuid"

	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/job/index"
)

// waiting keeps the jobs that wait in little memory: a hundred bytes each instead of a thousand, and nothing in them
// that the garbage collector has to follow. It takes plain jobs only (see plain); their digests stay in the store. The
// book's lock guards it.
type waiting struct {
	slots   []*[slotChunk]slot // in chunks, so that growing copies nothing
	used    uint32             // slots that were ever used
	free    uint32             // the first that is free again, linked by next; zero: none
	n       int
	ids     *index.Index[uint32]
	named   map[uint32]string // prompt ids that are not the job's id
	origins origins
	people  []*person // by number
}

const slotChunk = 1024

// slot is a job. Slots have numbers from 1 on.
type slot struct {
	id         [16]byte
	seq        int64
	number     float64
	created    int64 // milliseconds since 1970
	work       float64
	person     uint32 // number in people
	origin     uint32 // number in origins
	prev, next uint32 // of the person's slots; zero: none
	class      job.Class
	held       bool
	zeroTime   bool // created is the zero time
}

func newWaiting() *waiting {
	w := &waiting{named: map[uint32]string{}, origins: origins{numbers: map[origin]uint32{}}}
	w.ids = index.New(func(n uint32) index.ID { return w.at(n).id })
	return w
}

// plain reports whether waiting can take the job: it waits, no attempt was made so far, it has no deadline, and its id is a
// UUID.
func plain(j *job.Job) ([16]byte, bool) {
	if j.State != job.Pending || j.Attempt != (job.Attempt{}) || j.Stop || !j.Started.IsZero() || !j.Deadline.IsZero() {
		return [16]byte{}, false
	}
	return parseID(string(j.ID))
}

// parseID reads a UUID in canonical text.
func parseID(s string) (id [16]byte, ok bool) {
	if len(s) != 36 {
		return id, false
	}
	u, err := uuid.Parse(s)
	if err != nil {
		return id, false
	}
	var text [36]byte
	encodeID(&text, u)
	return u, string(text[:]) == s
}

const hexDigits = "0123456789abcdef"

// encodeID writes a UUID in canonical text.
func encodeID(to *[36]byte, id [16]byte) {
	at := 0
	for i, b := range id {
		if i == 4 || i == 6 || i == 8 || i == 10 {
			to[at] = '-'
			at++
		}
		to[at], to[at+1] = hexDigits[b>>4], hexDigits[b&15]
		at += 2
	}
}

func (w *waiting) at(n uint32) *slot { return &w.slots[(n-1)/slotChunk][(n-1)%slotChunk] }

// number gives a person their number.
func (w *waiting) number(p *person) uint32 {
	if p.number == 0 {
		w.people = append(w.people, p)
		p.number = uint32(len(w.people))
	}
	return p.number
}

// add takes a plain job in.
func (w *waiting) add(id [16]byte, j *job.Job, p *person) {
	n := w.free
	if n == 0 {
		if w.used%slotChunk == 0 {
			w.slots = append(w.slots, new([slotChunk]slot))
		}
		w.used++
		n = w.used
	} else {
		w.free = w.at(n).next
	}
	s := w.at(n)
	*s = slot{
		id: id, seq: j.Seq, number: j.Number, created: j.Created.UnixMilli(), zeroTime: j.Created.IsZero(),
		work: j.Profile.Work, person: w.number(p), class: j.Class, held: j.Held, next: p.first,
		origin: w.origins.take(origin{j.Group, j.ClientID, j.WorkflowID, j.Profile.Like, j.Profile.Models}),
	}
	if p.first != 0 {
		w.at(p.first).prev = n
	}
	p.first = n
	w.ids.Put(n)
	if j.PromptID != string(j.ID) {
		w.named[n] = j.PromptID
		p.name(j.PromptID, n)
	}
	w.n++
}

// remove takes a job out.
func (w *waiting) remove(n uint32) {
	s := w.at(n)
	p := w.people[s.person-1]
	if s.prev != 0 {
		w.at(s.prev).next = s.next
	} else {
		p.first = s.next
	}
	if s.next != 0 {
		w.at(s.next).prev = s.prev
	}
	if name, ok := w.named[n]; ok {
		delete(w.named, n)
		delete(p.named, name)
	}
	w.ids.Delete(s.id)
	w.origins.give(s.origin)
	*s = slot{next: w.free}
	w.free = n
	if w.n--; w.n == 0 && len(w.slots) > 8 { // a long queue that has gone gives its memory back
		w.slots, w.used, w.free, w.origins = nil, 0, 0, origins{numbers: map[origin]uint32{}}
	}
}

// job returns the job of a slot.
func (w *waiting) job(n uint32) *job.Job {
	s := w.at(n)
	var text [36]byte
	encodeID(&text, s.id)
	id := string(text[:])
	o := &w.origins.all[s.origin].origin
	j := &job.Job{
		ID: job.ID(id), User: w.people[s.person-1].user, Group: o.group, PromptID: id, ClientID: o.clientID,
		Number: s.number, Seq: s.seq, Class: s.class, State: job.Pending, WorkflowID: o.workflowID,
		Profile: job.Profile{Like: o.like, Work: s.work, Models: o.models}, Held: s.held,
	}
	if !s.zeroTime {
		j.Created = time.UnixMilli(s.created).UTC()
	}
	if name, ok := w.named[n]; ok {
		j.PromptID = name
	}
	return j
}

// find returns the slot of the job with the id; zero: none.
func (w *waiting) find(id job.ID) uint32 {
	if w.n == 0 {
		return 0
	}
	raw, ok := parseID(string(id))
	if !ok {
		return 0
	}
	return w.ids.Get(raw)
}

// findPrompt returns the slot of the person's job with the prompt id; zero: none.
func (w *waiting) findPrompt(p *person, promptID string) uint32 {
	if n := p.named[promptID]; n != 0 {
		return n
	}
	n := w.find(job.ID(promptID))
	if n == 0 || w.at(n).person != p.number {
		return 0
	}
	if _, other := w.named[n]; other { // it goes by another prompt id
		return 0
	}
	return n
}

// each calls fn for the slot of every job of the person, about the newest first; nil: of everybody.
func (w *waiting) each(p *person, fn func(n uint32, s *slot)) {
	if p != nil {
		for n := p.first; n != 0; n = w.at(n).next {
			fn(n, w.at(n))
		}
		return
	}
	for n := w.used; n > 0; n-- {
		if s := w.at(n); s.person != 0 {
			fn(n, s)
		}
	}
}

// origin is what many jobs have in common.
type origin struct{ group, clientID, workflowID, like, models string }

// origins keeps each origin once, as long as a job has it.
type origins struct {
	numbers map[origin]uint32
	all     []counted
	free    []uint32
}

type counted struct {
	origin
	jobs int
}

func (o *origins) take(x origin) uint32 {
	n, ok := o.numbers[x]
	if !ok {
		if last := len(o.free) - 1; last >= 0 {
			n, o.free = o.free[last], o.free[:last]
		} else {
			n = uint32(len(o.all))
			o.all = append(o.all, counted{})
		}
		o.all[n] = counted{origin: x}
		o.numbers[x] = n
	}
	o.all[n].jobs++
	return n
}

func (o *origins) give(n uint32) {
	c := &o.all[n]
	if c.jobs--; c.jobs == 0 {
		delete(o.numbers, c.origin)
		*c = counted{}
		o.free = append(o.free, n)
	}
}
