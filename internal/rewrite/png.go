package rewrite

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// maxText bounds the text chunk that is held in memory. A graph of ComfyUI's own limit for bodies fits.
const maxText = 128 << 20

var pngSignature = []byte("\x89PNG\r\n\x1a\n")

// NewPNGReader returns src with the text chunks of a PNG put through edit, which gets a chunk's keyword and text and
// returns the new text. All other bytes, pixels included, stay as they are; so does a file that is no PNG, and a
// chunk whose text edit leaves alone. The text is what stands in a tEXt chunk, or in the chunk of ComfyUI's own kind
// that it writes into animated ones; ComfyUI writes JSON in ASCII, so a chunk of another kind (zTXt, iTXt) is never its
// own and passes through.
//
// Source of the layout: PNG specification, 5.3 (chunk), 11.3.4.3 (tEXt).
func NewPNGReader(src io.Reader, edit func(keyword string, text []byte) []byte) io.Reader {
	return &pngReader{src: src, edit: edit, step: (*pngReader).signature}
}

// pngReader hands out what is ready, then what may pass, then takes the next step.
type pngReader struct {
	src   io.Reader
	edit  func(keyword string, text []byte) []byte
	ready []byte
	pass  int64 // bytes of src that pass as they are; negative: all
	step  func(*pngReader) error
}

// Read implements io.Reader.
func (p *pngReader) Read(b []byte) (int, error) {
	for {
		switch {
		case len(b) == 0:
			return 0, nil
		case len(p.ready) > 0:
			n := copy(b, p.ready)
			p.ready = p.ready[n:]
			return n, nil
		case p.pass < 0:
			return p.src.Read(b)
		case p.pass > 0:
			n, err := p.src.Read(b[:min(int64(len(b)), p.pass)])
			p.pass -= int64(n)
			return n, err
		}
		if err := p.step(p); err != nil {
			return 0, err
		}
	}
}

// head reads n bytes into ready. whole is false when the file ends before: then what there was is all.
func (p *pngReader) head(n int) (whole bool, err error) {
	buf := make([]byte, n)
	got, err := io.ReadFull(p.src, buf)
	p.ready = buf[:got]
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		p.pass = -1
		return false, nil
	case err != nil: // io.EOF too
		return false, err
	}
	return true, nil
}

func (p *pngReader) signature() error {
	whole, err := p.head(len(pngSignature))
	if err != nil || !whole {
		return err
	}
	if !bytes.Equal(p.ready, pngSignature) {
		p.pass = -1
	}
	p.step = (*pngReader).chunk
	return nil
}

// chunk reads the head of a chunk, and the whole of one with text.
func (p *pngReader) chunk() error {
	whole, err := p.head(8)
	if err != nil || !whole {
		return err
	}
	size, kind := binary.BigEndian.Uint32(p.ready), string(p.ready[4:])
	switch {
	case kind == "IEND":
		p.pass = -1
	case (kind == "tEXt" || kind == "comf") && size <= maxText:
		return p.text(p.ready, size)
	default:
		p.pass = int64(size) + 4 // with the checksum
	}
	return nil
}

func (p *pngReader) text(head []byte, size uint32) error {
	var body bytes.Buffer // grows with what is really there, not with what the length claims
	got, err := io.CopyN(&body, p.src, int64(size)+4)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	p.ready = append(head, body.Bytes()...)
	if got < int64(size)+4 {
		p.pass = -1
		return nil
	}
	keyword, text, ok := bytes.Cut(body.Bytes()[:size], []byte{0})
	if !ok {
		return nil
	}
	changed := p.edit(string(keyword), text)
	if bytes.Equal(changed, text) {
		return nil
	}
	if len(keyword)+1+len(changed) > maxText {
		return fmt.Errorf("text chunk %q grew to %d bytes", keyword, len(changed))
	}
	chunk := make([]byte, 0, 12+len(keyword)+1+len(changed))
	chunk = binary.BigEndian.AppendUint32(chunk, uint32(len(keyword)+1+len(changed))) //nolint:gosec // bounded by maxText
	chunk = append(chunk, head[4:8]...)
	chunk = append(chunk, keyword...)
	chunk = append(chunk, 0)
	chunk = append(chunk, changed...)
	p.ready = binary.BigEndian.AppendUint32(chunk, crc32.ChecksumIEEE(chunk[4:]))
	return nil
}
