package media

import "encoding/binary"

// WAV encodes a sound with 16 bits a sample. Only tests write such files.
func WAV(s *Sound) []byte {
	length := 0
	if len(s.Channels) > 0 {
		length = len(s.Channels[0])
	}
	var data []byte
	for i := range length {
		for _, c := range s.Channels {
			data = binary.LittleEndian.AppendUint16(data, uint16(sample16(c[i])))
		}
	}
	format := binary.LittleEndian.AppendUint16(nil, 1) // PCM
	format = binary.LittleEndian.AppendUint16(format, uint16(len(s.Channels)))
	format = binary.LittleEndian.AppendUint32(format, uint32(s.Rate))
	format = binary.LittleEndian.AppendUint32(format, uint32(s.Rate*2*len(s.Channels)))
	format = binary.LittleEndian.AppendUint16(format, uint16(2*len(s.Channels)))
	format = binary.LittleEndian.AppendUint16(format, 16)
	body := appendRIFF(appendRIFF([]byte("WAVE"), "fmt ", format), "data", data)
	return append(binary.LittleEndian.AppendUint32([]byte("RIFF"), uint32(len(body))), body...)
}
