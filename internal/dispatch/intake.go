package dispatch

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"
)

// maxOutput is how many bytes of files of one attempt are taken. A back end that is broken, or somebody else's by now, may
// give a file without an end, and the disk is everybody's.
const maxOutput = 8 << 30

// errTooMuch says that an attempt's files are larger than what is taken of one.
var errTooMuch = errors.New("more bytes of files than are taken of one run")

// intake is a file of an attempt on its way in.
type intake struct {
	io.ReadCloser
	n    *names
	took int64
}

func (in *intake) Read(p []byte) (int, error) {
	m, err := in.ReadCloser.Read(p)
	in.took += int64(m)
	if in.n.taken.Add(int64(m)) > in.n.attempt.options.MaxOutput {
		return 0, errTooMuch
	}
	return m, err
}

// weigh has a file counted as it comes. One that is copied within storage has the size that its run's answer told, which is
// bounded there.
func (n *names) weigh(r io.ReadCloser) (weighed io.ReadCloser, took func() int64) {
	if _, copies := r.(interface {
		CopyTo(ctx context.Context, f *os.File) (int64, [sha256.Size]byte, error)
	}); copies {
		return r, func() int64 { return 0 }
	}
	in := &intake{ReadCloser: r, n: n}
	return in, func() int64 { return in.took }
}
