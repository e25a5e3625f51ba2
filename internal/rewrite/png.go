package rewrite

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// maxText bounds the text chunk that PNGText holds in memory. A graph of ComfyUI's own limit for bodies fits.
const maxText = 128 << 20

var pngSignature = []byte("\x89PNG\r\n\x1a\n")

// PNGText copies src to dst and puts the text chunks of a PNG through edit, which gets a chunk's keyword and text
// and returns the new text. All other bytes, pixels included, stay as they are; so does a file that is no PNG,
// and a chunk whose text edit leaves alone. The text is what stands in a tEXt chunk; ComfyUI writes JSON in
// ASCII, so a chunk of another kind (zTXt, iTXt) is never its own and passes through.
//
// Source of the layout: PNG specification, 5.3 (chunk), 11.3.4.3 (tEXt).
func PNGText(dst io.Writer, src io.Reader, edit func(keyword string, text []byte) []byte) error {
	var sig [8]byte
	n, err := io.ReadFull(src, sig[:])
	if _, werr := dst.Write(sig[:n]); werr != nil {
		return werr
	}
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return nil
	case err != nil:
		return err
	case !bytes.Equal(sig[:], pngSignature):
		_, err := io.Copy(dst, src)
		return err
	}
	for {
		more, err := pngChunk(dst, src, edit)
		if err != nil || !more {
			return err
		}
	}
}

// pngChunk copies one chunk. more is false when nothing of interest can follow: the rest was copied as it is.
func pngChunk(dst io.Writer, src io.Reader, edit func(keyword string, text []byte) []byte) (more bool, err error) {
	var head [8]byte // length of the data, kind
	n, err := io.ReadFull(src, head[:])
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		_, err = dst.Write(head[:n]) // a file that was cut stays as it is
		return false, err
	}
	if err != nil {
		return false, err
	}
	size, kind := binary.BigEndian.Uint32(head[:4]), string(head[4:])
	if kind != "tEXt" || size > maxText {
		if _, err := dst.Write(head[:]); err != nil {
			return false, err
		}
		_, err := io.CopyN(dst, src, int64(size)+4) // with the checksum
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		return kind != "IEND", err
	}
	return textChunk(dst, src, head, size, edit)
}

func textChunk(dst io.Writer, src io.Reader, head [8]byte, size uint32, edit func(keyword string, text []byte) []byte) (bool, error) {
	var body bytes.Buffer // grows with what is really there, not with what the length claims
	got, err := io.CopyN(&body, src, int64(size)+4)
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	whole := got == int64(size)+4
	data := body.Bytes()
	if whole {
		data = data[:size]
	}
	keyword, text, ok := bytes.Cut(data, []byte{0})
	changed := text
	if ok && whole {
		changed = edit(string(keyword), text)
	}
	if !ok || !whole || bytes.Equal(changed, text) {
		_, err := dst.Write(append(head[:], body.Bytes()...))
		return whole, err
	}
	if len(keyword)+1+len(changed) > maxText {
		return false, fmt.Errorf("text chunk %q grew to %d bytes", keyword, len(changed))
	}
	chunk := make([]byte, 0, 12+len(keyword)+1+len(changed))
	chunk = binary.BigEndian.AppendUint32(chunk, uint32(len(keyword)+1+len(changed))) //nolint:gosec // bounded by maxText
	chunk = append(chunk, "tEXt"...)
	chunk = append(chunk, keyword...)
	chunk = append(chunk, 0)
	chunk = append(chunk, changed...)
	chunk = binary.BigEndian.AppendUint32(chunk, crc32.ChecksumIEEE(chunk[4:]))
	_, err = dst.Write(chunk)
	return true, err
}
