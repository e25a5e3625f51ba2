package media

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
)

// Sound is a piece of audio: one slice of samples from -1 to 1 per channel, all of one length.
type Sound struct {
	Rate     int // samples a second
	Channels [][]float32
}

// ErrAudioFormat says that a file is no audio this package reads.
var ErrAudioFormat = errors.New("only WAV (PCM) and FLAC files can be read here")

// DecodeAudio reads a WAV or FLAC file.
func DecodeAudio(file []byte) (*Sound, error) {
	switch {
	case bytes.HasPrefix(file, []byte("fLaC")):
		return decodeFLAC(file)
	case len(file) > 12 && string(file[:4]) == "RIFF" && string(file[8:12]) == "WAVE":
		return decodeWAV(file)
	}
	return nil, ErrAudioFormat
}

// sample16 is a sample as a 16-bit number.
func sample16(v float32) int64 {
	return int64(math.Max(-32768, math.Min(32767, math.RoundToEven(float64(v)*32768))))
}

func decodeWAV(file []byte) (*Sound, error) {
	var format, data []byte
	for rest := file[12:]; len(rest) >= 8; {
		n := int(binary.LittleEndian.Uint32(rest[4:]))
		body := rest[8:min(len(rest), 8+max(n, 0))]
		switch string(rest[:4]) {
		case "fmt ":
			format = body
		case "data":
			data = body
		}
		rest = rest[min(len(rest), 8+max(n, 0)+n&1):]
	}
	if len(format) < 16 {
		return nil, ErrAudioFormat
	}
	kind := binary.LittleEndian.Uint16(format)
	channels := int(binary.LittleEndian.Uint16(format[2:]))
	bits := int(binary.LittleEndian.Uint16(format[14:]))
	if kind == 0xfffe && len(format) >= 26 {
		kind = binary.LittleEndian.Uint16(format[24:])
	}
	s := &Sound{Rate: int(binary.LittleEndian.Uint32(format[4:]))}
	width := bits / 8
	if channels < 1 || channels > 64 || s.Rate < 1 || kind != 1 && !(kind == 3 && bits == 32) || width < 1 || width > 4 {
		return nil, ErrAudioFormat
	}
	length := len(data) / (width * channels)
	for c := range channels {
		samples := make([]float32, length)
		for i := range samples {
			at := data[(i*channels+c)*width:]
			if kind == 3 {
				samples[i] = math.Float32frombits(binary.LittleEndian.Uint32(at))
				continue
			}
			samples[i] = pcm(at[:width])
		}
		s.Channels = append(s.Channels, samples)
	}
	return s, nil
}

// pcm is one little-endian sample of one to four bytes; single bytes have no sign.
func pcm(b []byte) float32 {
	if len(b) == 1 {
		return float32(int(b[0])-128) / 128
	}
	var v uint32
	for i, x := range b {
		v |= uint32(x) << (8 * (4 - len(b) + i))
	}
	return float32(float64(int32(v)) / (1 << 31))
}
