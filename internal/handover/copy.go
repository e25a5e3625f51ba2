package handover

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
)

// checkedFile is an output in a folder. It can be copied by the file system itself, see CopyTo.
type checkedFile struct{ *checked }

// Peek returns up to the first n bytes of what is not read yet, without reading it.
func (c *checkedFile) Peek(n int) ([]byte, error) {
	file, ok := c.src.(*os.File)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	p := make([]byte, n)
	n, err := file.ReadAt(p, c.at)
	return p[:n], ignoreEnd(err)
}

// copyPiece is how much is copied between two looks whether somebody still wants it.
const copyPiece = 64 << 20

// CopyTo copies the whole output to f, which is empty and its own, and returns its size and hash. Nothing may have been
// read before. On Linux the file system copies: by sharing blocks where it can (XFS, btrfs), on the file server where both
// lie there (NFS 4.2). What is checked against the entry are the bytes of the copy, as they are then: whoever made the
// output may still have it open and change it.
//
// A second name for the same file would be quicker still, and let its maker change what was delivered.
func (c *checkedFile) CopyTo(ctx context.Context, f *os.File) (size int64, sum [sha256.Size]byte, err error) {
	if c.err != nil {
		return 0, sum, c.err
	}
	for c.at < c.entry.Size {
		if ctx.Err() != nil {
			return 0, sum, context.Cause(ctx)
		}
		n, err := io.CopyN(f, c.src, min(copyPiece, c.entry.Size-c.at))
		c.at += n
		if n > 0 {
			c.tries = 0
		}
		switch {
		case err == nil:
		case err == io.EOF:
			return 0, sum, damaged(c.entry, "it has %d bytes of %d", c.at, c.entry.Size)
		case c.again(err) && c.tries < maxReopen:
			c.tries++
			if err := c.open(); err != nil {
				return 0, sum, err
			}
		default:
			return 0, sum, err
		}
	}
	var more [1]byte
	if n, _ := io.ReadFull(c.src, more[:]); n > 0 {
		return 0, sum, damaged(c.entry, "it has more than %d bytes", c.entry.Size)
	}
	c.err = errors.New("the output was copied")
	size, text, err := fill(ctx, io.Discard, io.NewSectionReader(f, 0, c.entry.Size))
	if err != nil {
		return 0, sum, err
	}
	if text != c.entry.SHA256 || size != c.entry.Size {
		return 0, sum, damaged(c.entry, "its SHA-256 is %s and not %s", text, c.entry.SHA256)
	}
	_, err = hex.Decode(sum[:], []byte(text))
	return size, sum, err
}
