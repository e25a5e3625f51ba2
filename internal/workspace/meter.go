package workspace

import (
	"io"

	"github.com/ahelme/comfyume/internal/fault"
)

// often is after how many bytes of one stream the disk's room is looked at again.
const often = 16 << 20

// meter counts what passes and stops a stream that goes beyond a bound.
type meter struct {
	r     io.Reader
	n     int64
	limit int64        // most bytes of one stream; 0: no bound
	quota int64        // the person's quota, for the sentence; 0: no bound
	room  int64        // what is left of it
	total int64        // the quota without what other things use
	check func() error // whether the disk has room
	next  int64        // when to ask again
	err   error
}

func (m *meter) Read(p []byte) (int, error) {
	if m.err != nil {
		return 0, m.err
	}
	n, err := m.r.Read(p)
	m.n += int64(n)
	switch {
	case m.limit > 0 && m.n > m.limit:
		m.err = ErrTooLarge(m.limit)
	case m.quota > 0 && m.n > m.room:
		m.err = ErrQuota(m.quota)
	case m.n >= m.next:
		m.next = m.n + often
		m.err = m.check()
	}
	if m.err != nil {
		return 0, m.err
	}
	return n, err
}

// ErrTooLarge returns the error of a stream that is longer than one upload may be. ComfyUI answers 413 to it.
func ErrTooLarge(limit int64) error {
	return fault.New(fault.Invalid, "The file is larger than the %s that one upload may have.", size(limit)).
		WithRemedy("Choose a smaller file, or ask the operator to raise limits.upload.").WithCode("too_large")
}
