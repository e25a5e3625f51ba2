package sched

import (
	"crypto/sha256"
	"encoding/hex"

	"github.com/ahelme/comfyume/internal/job"
)

// packed is the id of a job in little room: the bytes of a UUID, else its text with its length before it, else a digest.
// The bits that say that something is a UUID tell them apart.
type packed [16]byte

const (
	variant     = 8 // the byte whose upper two bits are 10 in a UUID
	uuidBits    = 0b10
	digestBits  = 0b11
	longestText = 15
)

// packUUID packs the canonical text of a UUID, in lower case.
func packUUID(id job.ID) (p packed, ok bool) {
	s := string(id)
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return p, false
	}
	at := 0
	for i := range p {
		if at == 8 || at == 13 || at == 18 || at == 23 {
			at++
		}
		high, low := digit(s[at]), digit(s[at+1])
		if high|low > 0xf {
			return p, false
		}
		p[i] = high<<4 | low
		at += 2
	}
	return p, p[variant]>>6 == uuidBits
}

// digit is the value of a hexadecimal digit; 0xff for all else.
func digit(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	}
	return 0xff
}

// pack returns a job's id in little room. It is the same for the same id, and for no other.
func pack(id job.ID) packed {
	if p, ok := packUUID(id); ok {
		return p
	}
	var p packed
	if len(id) <= longestText && (len(id) < variant || id[variant-1] < 0x80) {
		p[0] = byte(len(id))
		copy(p[1:], id)
		return p
	}
	digest := sha256.Sum256([]byte(id))
	copy(p[:], digest[:])
	p[variant] |= digestBits << 6
	return p
}

// pack packs the id of a new job, so that id finds it again.
func (m *Machine) pack(id job.ID) packed {
	p := pack(id)
	if p[variant]>>6 == digestBits {
		m.long[p] = id
	}
	return p
}

// id returns the id of an item.
func (m *Machine) id(it *item) job.ID {
	p := it.id
	switch p[variant] >> 6 {
	case uuidBits:
		var b [36]byte
		hex.Encode(b[0:8], p[0:4])
		hex.Encode(b[9:13], p[4:6])
		hex.Encode(b[14:18], p[6:8])
		hex.Encode(b[19:23], p[8:10])
		hex.Encode(b[24:36], p[10:16])
		b[8], b[13], b[18], b[23] = '-', '-', '-', '-'
		return job.ID(b[:])
	case digestBits:
		return m.long[p]
	}
	return job.ID(p[1 : 1+p[0]])
}

// item returns the job with that id; nil: there is none.
func (m *Machine) item(id job.ID) *item { return m.items.Get(pack(id)) }
