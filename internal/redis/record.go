package redis

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"hash/fnv"
	"math"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
)

// A record is a job's row as change.lua describes it. The scripts read its head and move its parts; what is behind the
// head is written and read here only. Times are in milliseconds, zero for "not yet".
const (
	atFlags    = 1
	atFence    = 2
	atEnded    = 10
	atStarted  = 18
	atFinished = 26
	atWorkflow = 34
	atClass    = 42
	atNumber   = 43
	atLease    = 51
	atLasting  = 59 // length of what never changes
	headSize   = 63
)

// Flags of a record.
const (
	flagPosted = 1 << iota
	flagStop
	flagHidden
	flagHeld
	flagSealed // it has sealed credentials while it is open
	flagKey    // it came with an idempotency key
	flagDated  // it has a deadline, at the end of what never changes otherwise
)

// letters are the states in records. Change.lua knows p and r.
var letters = map[job.State]byte{job.Pending: 'p', job.Running: 'r', job.Completed: 'c', job.Failed: 'f', job.Cancelled: 'x'}

func stateOf(letter byte) job.State {
	switch letter {
	case 'p':
		return job.Pending
	case 'r':
		return job.Running
	case 'c':
		return job.Completed
	case 'f':
		return job.Failed
	case 'x':
		return job.Cancelled
	}
	return ""
}

var errRecord = errors.New("a job's row in Redis is damaged")

// maxName bounds what people name: user, prompt id, keys. The rows count them in 16 bits.
const maxName = math.MaxUint16

// row is a job as it is kept.
type row struct {
	job   job.Job
	ended int64
	key   string
	until time.Time
	flags byte
}

// appendRecord writes the row. What is too long for it is the person's mistake.
func appendRecord(b []byte, r *row) ([]byte, error) {
	j := &r.job
	for _, name := range []string{j.User, j.PromptID, string(j.ID), r.key} {
		if len(name) > maxName {
			return nil, fault.New(fault.Invalid, "A name of %d bytes is too long.", len(name)).
				WithRemedy("Use a shorter prompt id or key.").WithCode("name_too_long")
		}
	}
	b = append(b, letters[j.State], flagsOf(r))
	b = binary.BigEndian.AppendUint64(b, uint64(j.Attempt.Fence))
	b = binary.BigEndian.AppendUint64(b, uint64(r.ended))
	b = appendTime(b, j.Started)
	b = appendTime(b, j.Finished)
	b = binary.BigEndian.AppendUint64(b, workflowHash(j.WorkflowID))
	b = append(b, byte(j.Class))
	b = binary.BigEndian.AppendUint64(b, math.Float64bits(j.Number))
	b = appendTime(b, j.Attempt.LeaseUntil)
	at := len(b)
	b = binary.BigEndian.AppendUint32(b, 0)
	for _, name := range []string{j.User, j.PromptID, string(j.ID), r.key} {
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(name))), name...)
	}
	b = appendTime(b, r.until)
	b = appendTime(b, j.Created)
	b = append(b, j.Digest[:]...)
	b = binary.BigEndian.AppendUint64(b, math.Float64bits(j.Profile.Work))
	for _, text := range []string{j.Group, j.ClientID, j.WorkflowID, j.Profile.Like, j.Profile.Models} {
		b = appendText(b, text)
	}
	if !j.Deadline.IsZero() {
		b = appendTime(b, j.Deadline)
	}
	binary.BigEndian.PutUint32(b[at:], uint32(len(b)-at-4))
	b = appendAttempt(b, &j.Attempt)
	if j.State.Final() {
		b = appendEnd(b, j.Error, j.Summary)
	}
	return b, nil
}

func flagsOf(r *row) byte {
	f := r.flags & flagSealed
	set := func(flag byte, on bool) {
		if on {
			f |= flag
		}
	}
	set(flagPosted, r.job.Attempt.Posted)
	set(flagStop, r.job.Stop)
	set(flagHidden, r.job.Hidden)
	set(flagHeld, r.job.Held)
	set(flagKey, r.key != "")
	set(flagDated, !r.job.Deadline.IsZero())
	return f
}

// appendAttempt writes what the head does not have of an attempt, behind its length.
func appendAttempt(b []byte, a *job.Attempt) []byte {
	at := len(b)
	b = binary.BigEndian.AppendUint32(b, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(a.N))
	for _, text := range []string{a.BackEnd, a.RunID, a.ClientID} {
		b = appendText(b, text)
	}
	binary.BigEndian.PutUint32(b[at:], uint32(len(b)-at-4))
	return b
}

// appendEnd writes how a job ended. The length of the summary counts one more than there are bytes, so that nil stays nil.
func appendEnd(b []byte, message string, summary json.RawMessage) []byte {
	b = appendText(b, message)
	if summary == nil {
		return append(b, 0)
	}
	return append(binary.AppendUvarint(b, uint64(len(summary))+1), summary...)
}

func appendText(b []byte, text string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
}

func appendTime(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return append(b, zero8...)
	}
	return binary.BigEndian.AppendUint64(b, uint64(t.UnixMilli()))
}

const zero8 = "\x00\x00\x00\x00\x00\x00\x00\x00"

// time8 is a time as scripts get it.
func time8(t time.Time) string { return string(appendTime(nil, t)) }

// number8 is a number as scripts get it.
func number8(n int64) string { return string(binary.BigEndian.AppendUint64(nil, uint64(n))) }

// workflowHash lets lists leave out jobs of other workflows without reading them. Zero: no workflow.
func workflowHash(id string) uint64 {
	if id == "" {
		return 0
	}
	h := fnv.New64a()
	h.Write([]byte(id)) //nolint:errcheck // a hash takes everything
	return h.Sum64()
}

// readRecord reads a row. Its texts point into s.
func readRecord(seq int64, s string) (r row, err error) {
	if len(s) < headSize {
		return r, errRecord
	}
	j := &r.job
	j.Seq, j.State, r.flags = seq, stateOf(s[0]), s[atFlags]
	r.ended = int64(uint64At(s, atEnded))
	j.Started, j.Finished = timeAt(s, atStarted), timeAt(s, atFinished)
	j.Class, j.Number = job.Class(s[atClass]), math.Float64frombits(uint64At(s, atNumber))
	j.Stop, j.Hidden, j.Held = r.flags&flagStop != 0, r.flags&flagHidden != 0, r.flags&flagHeld != 0
	d := reader{rest: s[headSize:]}
	d = reader{rest: d.take(int(uint32At(s, atLasting))), failed: d.failed, after: d.rest}
	j.User, j.PromptID, j.ID, r.key = d.name(), d.name(), job.ID(d.name()), d.name()
	r.until, j.Created = d.time(), d.time()
	copy(j.Digest[:], d.take(len(j.Digest)))
	j.Profile.Work = math.Float64frombits(d.uint64())
	j.Group, j.ClientID, j.WorkflowID, j.Profile.Like, j.Profile.Models = d.text(), d.text(), d.text(), d.text(), d.text()
	if r.flags&flagDated != 0 {
		j.Deadline = d.time()
	}
	d.rest = d.after
	if rest := d.take(4); len(rest) == 4 {
		a := reader{rest: d.take(int(uint32At(rest, 0)))}
		j.Attempt = job.Attempt{
			N: int(a.uint32()), Fence: int64(uint64At(s, atFence)), BackEnd: a.text(), RunID: a.text(), ClientID: a.text(),
			LeaseUntil: timeAt(s, atLease), Posted: r.flags&flagPosted != 0,
		}
		d.failed = d.failed || a.failed
	}
	if j.State.Final() {
		j.Error = d.text()
		if n := d.uvarint(); n > 0 {
			j.Summary = json.RawMessage(d.take(int(n - 1)))
		}
	}
	if d.failed || j.State == "" {
		return row{}, errRecord
	}
	return r, nil
}

// reader reads a record in the order in which it was written. After the first error it gives zero values.
type reader struct {
	rest   string
	after  string
	failed bool
}

func (d *reader) take(n int) string {
	if d.failed || n < 0 || n > len(d.rest) {
		d.failed = true
		return ""
	}
	s := d.rest[:n]
	d.rest = d.rest[n:]
	return s
}

func (d *reader) name() string {
	n := d.take(2)
	if len(n) < 2 {
		return ""
	}
	return d.take(int(n[0])<<8 | int(n[1]))
}

func (d *reader) uvarint() (n uint64) {
	for shift := 0; shift < 64; shift += 7 {
		c := d.take(1)
		if c == "" {
			return 0
		}
		n |= uint64(c[0]&0x7f) << shift
		if c[0] < 0x80 {
			return n
		}
	}
	d.failed = true
	return 0
}

func (d *reader) text() string {
	n := d.uvarint()
	if n > uint64(len(d.rest)) {
		d.failed = true
		return ""
	}
	return d.take(int(n))
}

func (d *reader) uint64() uint64 {
	if s := d.take(8); len(s) == 8 {
		return uint64At(s, 0)
	}
	return 0
}

func (d *reader) uint32() uint32 {
	if s := d.take(4); len(s) == 4 {
		return uint32At(s, 0)
	}
	return 0
}

func (d *reader) time() time.Time { return timeOf(d.uint64()) }

func uint64At(s string, at int) (n uint64) {
	for i := range 8 {
		n = n<<8 | uint64(s[at+i])
	}
	return n
}

func uint32At(s string, at int) (n uint32) {
	for i := range 4 {
		n = n<<8 | uint32(s[at+i])
	}
	return n
}

func timeAt(s string, at int) time.Time { return timeOf(uint64At(s, at)) }

func timeOf(ms uint64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(int64(ms)).UTC()
}

// entry is what the indices of final jobs have of one: enough to choose and to order without reading it.
type entry struct {
	seq, ended int64
	state      job.State
	ran        int64 // milliseconds
	workflow   uint64
}

// entrySize is the length of an entry behind the person.
const entrySize = 8 + 8 + 1 + 8 + 8 + 8

// readEntry reads a member of the indices.
func readEntry(s string) (entry, error) {
	if len(s) < entrySize {
		return entry{}, errRecord
	}
	s = s[len(s)-entrySize:]
	e := entry{
		ended: int64(uint64At(s, 0)), seq: int64(uint64At(s, 8)), state: stateOf(s[16]), workflow: uint64At(s, 33),
	}
	if started, finished := uint64At(s, 17), uint64At(s, 25); started != 0 && finished != 0 {
		e.ran = int64(finished) - int64(started)
	}
	return e, nil
}

// person is how the indices and maps begin that are kept by person: no person's is the beginning of another's.
func person(user string) string {
	return string(append(binary.BigEndian.AppendUint16(nil, uint16(len(user))), user...))
}

// promptField names a person's prompt id.
func promptField(user, promptID string) string { return person(user) + person(promptID) }

func rowOf(in *queue.Insertion) row {
	r := row{job: in.Job, key: in.Key, until: in.KeyUntil}
	r.job.State, r.job.Attempt = job.Pending, job.Attempt{}
	if in.Attempt != nil {
		r.job.State, r.job.Attempt = job.Running, *in.Attempt
		r.job.Attempt.Fence, r.job.Attempt.Posted = 0, false
	}
	if in.Credentials != nil {
		r.flags = flagSealed
	}
	return r
}
