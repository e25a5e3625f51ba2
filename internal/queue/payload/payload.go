// Package payload packs what jobs ask and give, for the stores that keep it: small, byte for byte as it was sent.
package payload

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"

	"github.com/klauspost/compress/zstd"

	"github.com/ahelme/comfyume/internal/job"
)

// Payloads are kept as a list of byte fields, each with its length, behind one byte that says how the list is
// packed. Raw JSON is never parsed here: what a person sent comes back byte for byte.
const (
	plain  = 0 // the list as it is
	packed = 1 // the list in zstd
)

// packFrom is the size from which packing pays: below it, a few hundred bytes of disk cost more time than they are
// worth on every read of history.
const packFrom = 1024

// maxPayload bounds what a payload may unpack to: more is damage, or an attack on a restored file.
const maxPayload = 1 << 30

var errPayload = errors.New("a stored payload is damaged")

// Packer packs requests and outcomes. It is safe for concurrent use.
type Packer struct {
	enc *zstd.Encoder
	dec *zstd.Decoder
}

// New returns a packer. Close it.
func New() (*Packer, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(256<<10),
		zstd.WithLowerEncoderMem(true), zstd.WithEncoderCRC(true))
	if err != nil {
		return nil, fmt.Errorf("make the packer: %w", err)
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(maxPayload),
		zstd.WithDecoderConcurrency(0))
	if err != nil {
		return nil, fmt.Errorf("make the packer: %w", err)
	}
	return &Packer{enc: enc, dec: dec}, nil
}

// Close gives the memory back that packing needs.
func (p *Packer) Close() error {
	p.dec.Close()
	return p.enc.Close()
}

func (p *Packer) pack(list []byte) []byte {
	if len(list) < packFrom {
		return append([]byte{plain}, list...)
	}
	return p.enc.EncodeAll(list, append(make([]byte, 0, len(list)/2+64), packed))
}

func (p *Packer) unpack(body []byte) ([]byte, error) {
	if len(body) == 0 {
		return nil, errPayload
	}
	switch body[0] {
	case plain:
		return body[1:], nil
	case packed:
		list, err := p.dec.DecodeAll(body[1:], nil)
		if err != nil {
			return nil, errors.Join(errPayload, err)
		}
		return list, nil
	}
	return nil, fmt.Errorf("%w: packing %d", errPayload, body[0])
}

// Request packs what a job asks for.
func (p *Packer) Request(r job.Request) []byte {
	size := 64 + len(r.Prompt) + len(r.ExtraData)
	list := fields(make([]byte, 0, size), r.Prompt, r.ExtraData)
	list = texts(list, r.Targets)
	list = texts(list, r.Outputs)
	return p.pack(list)
}

// ReadRequest unpacks what Request packed. The request may point into body.
func (p *Packer) ReadRequest(body []byte) (r job.Request, err error) {
	list, err := p.unpack(body)
	if err != nil {
		return r, err
	}
	d := fieldReader{rest: list}
	r.Prompt, r.ExtraData = d.raw(), d.raw()
	r.Targets, r.Outputs = d.texts(), d.texts()
	return r, d.err
}

// Outcome packs how a job ended: its outputs, messages and meta, and how long it ran.
func (p *Packer) Outcome(o job.Outcome) []byte {
	size := 64 + len(o.Outputs) + len(o.Messages) + len(o.Meta)
	list := fields(make([]byte, 0, size), o.Outputs, o.Messages, o.Meta)
	list = binary.LittleEndian.AppendUint64(list, math.Float64bits(o.ExecSeconds))
	return p.pack(list)
}

// ReadOutcome unpacks what Outcome packed; the rest of an outcome is in the job's row. It may point into body.
func (p *Packer) ReadOutcome(body []byte) (o job.Outcome, err error) {
	list, err := p.unpack(body)
	if err != nil {
		return o, err
	}
	d := fieldReader{rest: list}
	o.Outputs, o.Messages, o.Meta = d.raw(), d.raw(), d.raw()
	o.ExecSeconds = math.Float64frombits(d.uint64())
	return o, d.err
}

// Profile packs a job's profile; nil for the zero value.
func Profile(p job.Profile) []byte {
	if p == (job.Profile{}) {
		return nil
	}
	list := make([]byte, 0, 16+len(p.Like)+len(p.Models))
	list = binary.AppendUvarint(list, uint64(len(p.Like)))
	list = append(list, p.Like...)
	list = binary.LittleEndian.AppendUint64(list, math.Float64bits(p.Work))
	return append(list, p.Models...)
}

// ReadProfile reads what Profile packed.
func ReadProfile(list []byte) (p job.Profile, err error) {
	if list == nil {
		return p, nil
	}
	d := fieldReader{rest: list}
	p.Like = string(d.take(d.uvarint()))
	p.Work = math.Float64frombits(d.uint64())
	p.Models = string(d.rest)
	return p, d.err
}

// fields appends byte fields. The length counts one more than there are bytes, so that nil stays nil.
func fields(list []byte, all ...json.RawMessage) []byte {
	for _, b := range all {
		if b == nil {
			list = append(list, 0)
			continue
		}
		list = binary.AppendUvarint(list, uint64(len(b))+1)
		list = append(list, b...)
	}
	return list
}

func texts(list []byte, all []string) []byte {
	if all == nil {
		return append(list, 0)
	}
	list = binary.AppendUvarint(list, uint64(len(all))+1)
	for _, s := range all {
		list = binary.AppendUvarint(list, uint64(len(s)))
		list = append(list, s...)
	}
	return list
}

// fieldReader reads fields in the order in which they were written. After the first error it gives zero values.
type fieldReader struct {
	rest []byte
	err  error
}

func (d *fieldReader) uvarint() uint64 {
	n, k := binary.Uvarint(d.rest)
	if k <= 0 || d.err != nil {
		d.fail()
		return 0
	}
	d.rest = d.rest[k:]
	return n
}

func (d *fieldReader) take(n uint64) []byte {
	if d.err != nil || n > uint64(len(d.rest)) {
		d.fail()
		return nil
	}
	b := d.rest[:n:n]
	d.rest = d.rest[n:]
	return b
}

func (d *fieldReader) raw() json.RawMessage {
	n := d.uvarint()
	if n == 0 {
		return nil
	}
	return d.take(n - 1)
}

func (d *fieldReader) texts() []string {
	n := d.uvarint()
	if n == 0 {
		return nil
	}
	if n-1 > uint64(len(d.rest)) { // each takes a byte at least
		d.fail()
		return nil
	}
	all := make([]string, 0, n-1)
	for range n - 1 {
		all = append(all, string(d.take(d.uvarint())))
	}
	return all
}

func (d *fieldReader) uint64() uint64 {
	b := d.take(8)
	if len(b) < 8 {
		return 0
	}
	return binary.LittleEndian.Uint64(b)
}

func (d *fieldReader) fail() {
	if d.err == nil {
		d.err = errPayload
	}
}
