package oneshot

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// Version is the version of the protocol. The first line of every stream and each hello name it.
const Version = 1

// ContentType is the media type of a stream in either direction.
const ContentType = "application/vnd.comfyume.run"

// preface is the first line of a stream: whoever answers with something else speaks another language.
const preface = "comfyume-run/1\n"

// kind says what a record is.
type kind byte

const (
	kindHeader   kind = 'H' // request: Request
	kindHello    kind = 'h' // answer: Hello
	kindPosted   kind = 'p' // the ComfyUI accepted the prompt: Posted
	kindFrame    kind = 'u' // a JSON frame
	kindBinary   kind = 'b' // a binary frame
	kindOpen     kind = 'f' // a file or input begins: opening
	kindData     kind = 'd' // bytes of it
	kindClose    kind = 'c' // it is whole: closing
	kindAbsent   kind = 'm' // a file that the ComfyUI named and does not have: opening
	kindKept     kind = 'k' // a file that was left in storage: kept
	kindResult   kind = 'r' // how the run ended: result
	kindTrouble  kind = 'x' // it did not come to a result: Trouble
	kindBeat     kind = 't' // a sign of life: Beat
	kindEnd      kind = 'z' // nothing is missing: ending
	headSize          = 9
	chunkSize         = 256 << 10
	maxSmall          = 64 << 10  // of records that only name something
	maxHeader         = 64 << 20  // a graph with its workflow
	maxFrame          = 40 << 20  // texts that nodes report; the studio takes 32 MB
	maxResult         = 128 << 20 // the texts again, and messages
	maxFirstRead      = 64 << 10  // what is set aside for a record before any of it has come
)

// limit is the largest payload of a kind, -1 for kinds that there are not.
func (k kind) limit() int {
	switch k {
	case kindHeader:
		return maxHeader
	case kindFrame, kindBinary:
		return maxFrame
	case kindResult:
		return maxResult
	case kindData:
		return chunkSize
	case kindTrouble: // has the body of a refusal
		return maxFrame
	case kindHello, kindPosted, kindOpen, kindClose, kindAbsent, kindKept, kindBeat, kindEnd:
		return maxSmall
	default:
		return -1
	}
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum is that of a record: of its kind and its payload.
func checksum(k byte, payload []byte) uint32 {
	return crc32.Update(crc32.Update(0, castagnoli, []byte{k}), castagnoli, payload)
}

// Errors of a stream. Both mean that what came can't be used; ErrCut that it ended before its end.
var (
	ErrCut     = errors.New("the stream was cut before its end")
	ErrCorrupt = errors.New("the stream is damaged")
	ErrForeign = errors.New("the other side does not speak this protocol")
)

// corrupt says what is wrong with a stream.
func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
}

// seal fills in the head of a record whose payload is b[headSize:].
func seal(k kind, b []byte) []byte {
	payload := b[headSize:]
	b[0] = byte(k)
	binary.BigEndian.PutUint32(b[1:], uint32(len(payload))) //nolint:gosec // bounded by limit
	binary.BigEndian.PutUint32(b[5:], checksum(b[0], payload))
	return b
}

// record returns a record with the given payload.
func record(k kind, payload ...[]byte) []byte {
	n := headSize
	for _, p := range payload {
		n += len(p)
	}
	b := make([]byte, headSize, n)
	for _, p := range payload {
		b = append(b, p...)
	}
	return seal(k, b)
}

// jsonRecord returns a record whose payload is v as JSON.
func jsonRecord(k kind, v any) ([]byte, error) {
	payload, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	if len(payload) > k.limit() {
		return nil, fmt.Errorf("a record of %d bytes, where %d are allowed", len(payload), k.limit())
	}
	return record(k, payload), nil
}

// reader reads the records of a stream.
type reader struct {
	r    *bufio.Reader
	head [headSize]byte
	buf  bytes.Buffer
	data [2][]byte // in turn: the one before is still looked at
	turn int
}

func newReader(r io.Reader) *reader { return &reader{r: bufio.NewReaderSize(r, 64<<10)} }

// preface reads the first line. ErrForeign: it is another one.
func (r *reader) preface() error {
	line, err := r.r.Peek(len(preface))
	if string(line) == preface {
		_, err := r.r.Discard(len(preface))
		return err
	}
	if err != nil && len(line) == 0 || err != nil && bytes.HasPrefix([]byte(preface), line) {
		return fmt.Errorf("%w: %w", ErrCut, err)
	}
	return ErrForeign
}

// next reads one record. The payload holds until the next call, data until the one after. What a record claims to be long is set aside as it
// comes, so that a claim costs nothing.
func (r *reader) next() (kind, []byte, error) {
	if _, err := io.ReadFull(r.r, r.head[:]); err != nil {
		return 0, nil, fmt.Errorf("%w: %w", ErrCut, err)
	}
	k, n := kind(r.head[0]), int64(binary.BigEndian.Uint32(r.head[1:]))
	limit := k.limit()
	if limit < 0 {
		return 0, nil, corrupt("a record of the unknown kind %q", r.head[0])
	}
	if n > int64(limit) {
		return 0, nil, corrupt("a record of kind %q with %d bytes, where %d are allowed", r.head[0], n, limit)
	}
	var payload []byte
	if k == kindData {
		r.turn = 1 - r.turn
		if r.data[r.turn] == nil {
			r.data[r.turn] = make([]byte, chunkSize)
		}
		payload = r.data[r.turn][:n]
		if _, err := io.ReadFull(r.r, payload); err != nil {
			return 0, nil, fmt.Errorf("%w: %w", ErrCut, err)
		}
	} else {
		if r.buf.Cap() > 1<<20 { // a large one is over: its room is not kept
			r.buf = bytes.Buffer{}
		}
		r.buf.Reset()
		r.buf.Grow(int(min(n, maxFirstRead)))
		if _, err := io.CopyN(&r.buf, r.r, n); err != nil {
			return 0, nil, fmt.Errorf("%w: %w", ErrCut, err)
		}
		payload = r.buf.Bytes()
	}
	if checksum(r.head[0], payload) != binary.BigEndian.Uint32(r.head[5:]) {
		return 0, nil, corrupt("a record of kind %q does not have its checksum", r.head[0])
	}
	return k, payload, nil
}

// into reads the payload of a record that has to be of kind k into v.
func (r *reader) into(k kind, v any) error {
	got, payload, err := r.next()
	if err != nil {
		return err
	}
	if got != k {
		return corrupt("a record of kind %q, where %q had to come", byte(got), byte(k))
	}
	return decode(k, payload, v)
}

func decode(k kind, payload []byte, v any) error {
	if err := json.Unmarshal(payload, v); err != nil {
		return fmt.Errorf("%w: a record of kind %q: %w", ErrCorrupt, byte(k), err)
	}
	return nil
}
