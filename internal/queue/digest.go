package queue

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"math"

	"github.com/ahelme/comfyume/internal/job"
)

// Digest tells whether two submissions with one prompt id or key ask for the same: graph, extra data, targets, place,
// priority, deadline and session. The creation time in the extra data is ours and left out, so that a repeated request is recognised.
func Digest(sub job.Submission) (sum [32]byte) {
	h := sha256.New()
	field(h, sub.Request.Prompt)
	if !eachMember(sub.Request.ExtraData, func(key, value []byte) {
		if string(key) != `"create_time"` {
			field(h, key)
			field(h, value)
		}
	}) {
		field(h, sub.Request.ExtraData)
	}
	field(h, nil)
	if sub.Request.Targets == nil {
		field(h, []byte{0})
	}
	for _, t := range sub.Request.Targets {
		field(h, []byte(t))
	}
	field(h, []byte(sub.ClientID))
	place := make([]byte, 9)
	if sub.Number != nil {
		binary.BigEndian.PutUint64(place, math.Float64bits(*sub.Number))
		place[8] = 1
	} else if sub.Front {
		place[8] = 2
	}
	field(h, place)
	if sub.Class != job.ClassNormal || sub.Held {
		order := []byte{byte(sub.Class), 0}
		if sub.Held {
			order[1] = 1
		}
		field(h, order)
	}
	if !sub.Deadline.IsZero() {
		field(h, binary.BigEndian.AppendUint64(nil, uint64(sub.Deadline.UnixMilli()))) //nolint:gosec // bits, not a number
	}
	h.Sum(sum[:0])
	return sum
}

// field adds b with its length, so that no two lists of fields give the same bytes. A hash never fails.
func field(h hash.Hash, b []byte) {
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(len(b)))
	h.Write(n[:])
	h.Write(b)
}

// eachMember calls fn with the raw key and value of each member of a JSON object, as Python writes it (NaN and
// Infinity included). It reports whether raw looks like an object; it does not validate.
func eachMember(raw []byte, fn func(key, value []byte)) bool {
	i := space(raw, 0)
	if i >= len(raw) || raw[i] != '{' {
		return false
	}
	for i = space(raw, i+1); i < len(raw) && raw[i] == '"'; {
		end := skip(raw, i)
		key := raw[i:end]
		i = space(raw, end)
		if i >= len(raw) || raw[i] != ':' {
			return false
		}
		i = space(raw, i+1)
		end = skip(raw, i)
		fn(key, raw[i:end])
		i = space(raw, end)
		if i < len(raw) && raw[i] == ',' {
			i = space(raw, i+1)
		}
	}
	return i < len(raw) && raw[i] == '}'
}

func space(raw []byte, i int) int {
	for i < len(raw) && (raw[i] == ' ' || raw[i] == '\t' || raw[i] == '\n' || raw[i] == '\r') {
		i++
	}
	return i
}

// skip returns the end of the JSON value that begins at i.
func skip(raw []byte, i int) int {
	depth := 0
	for ; i < len(raw); i++ {
		switch raw[i] {
		case '"':
			for i++; i < len(raw) && raw[i] != '"'; i++ {
				if raw[i] == '\\' {
					i++
				}
			}
			if i >= len(raw) {
				return len(raw)
			}
			if depth == 0 {
				return i + 1
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return i
			}
			if depth--; depth == 0 {
				return i + 1
			}
		case ',', ' ', '\t', '\n', '\r':
			if depth == 0 {
				return i
			}
		}
	}
	return len(raw)
}
