package thumb

import (
	"bytes"
	"encoding/binary"
	"io"
)

const (
	pngMagic = "\x89PNG\r\n\x1a\n"
	// pngHead is how long the magic and the first chunk, IHDR, are together.
	pngHead = 8 + 4 + 4 + 13 + 4
)

// texts returns the text chunks of a PNG as they are, one after the other. What is no PNG has none. Their checksums
// were looked at when the picture was decoded.
func texts(b []byte) []byte {
	b, ok := bytes.CutPrefix(b, []byte(pngMagic))
	if !ok {
		return nil
	}
	var found []byte
	for len(b) >= 12 {
		size := uint64(binary.BigEndian.Uint32(b))
		if size+12 > uint64(len(b)) {
			break // cut in the middle: what came before is whole
		}
		chunk := b[:size+12]
		b = b[size+12:]
		switch string(chunk[4:8]) {
		case "tEXt", "zTXt", "iTXt":
			found = append(found, chunk...)
		case "IEND":
			return found
		}
	}
	return found
}

// withTexts writes a PNG of ours with text chunks after its head.
func withTexts(w io.Writer, png, chunks []byte) error {
	for _, part := range [][]byte{png[:pngHead], chunks, png[pngHead:]} {
		if _, err := w.Write(part); err != nil {
			return err
		}
	}
	return nil
}
