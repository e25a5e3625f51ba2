package pyjson

import "encoding/json"

// Drop returns raw without the members of this name, wherever objects have one, in Python's spacing. Scalars stay as
// they are. It reads each byte twice, however deep it lies.
func Drop(raw json.RawMessage, key string) (json.RawMessage, error) {
	start, _, err := whole(raw)
	if err != nil {
		return nil, err
	}
	d := dropper{src: raw, key: key, dst: make([]byte, 0, len(raw))}
	d.value(start)
	return d.dst, nil
}

// dropper copies a checked value.
type dropper struct {
	src, dst []byte
	key      string
}

// value copies the value at i and returns where it ends.
func (d *dropper) value(i int) int {
	switch d.src[i] {
	case '[':
		return d.list(i)
	case '{':
		return d.object(i)
	}
	end, err := scanValue(d.src, i, 0)
	if err != nil { // the whole was checked before
		end = len(d.src)
	}
	d.dst = append(d.dst, d.src[i:end]...)
	return end
}

func (d *dropper) list(i int) int {
	d.dst = append(d.dst, '[')
	for i = skipSpace(d.src, i+1); d.src[i] != ']'; {
		if i = skipSpace(d.src, d.value(i)); d.src[i] == ',' {
			d.dst = append(d.dst, ", "...)
			i = skipSpace(d.src, i+1)
		}
	}
	d.dst = append(d.dst, ']')
	return i + 1
}

func (d *dropper) object(i int) int {
	d.dst = append(d.dst, '{')
	first := len(d.dst)
	for i = skipSpace(d.src, i+1); d.src[i] != '}'; {
		end, err := scanString(d.src, i)
		if err != nil { // the whole was checked before
			return len(d.src)
		}
		before := len(d.dst)
		if before > first {
			d.dst = append(d.dst, ", "...)
		}
		d.dst = append(append(d.dst, d.src[i:end]...), ": "...)
		dropped := quotedIs(d.src[i:end], d.key)
		i = skipSpace(d.src, d.value(skipSpace(d.src, skipSpace(d.src, end)+1)))
		if dropped {
			d.dst = d.dst[:before]
		}
		if d.src[i] == ',' {
			i = skipSpace(d.src, i+1)
		}
	}
	d.dst = append(d.dst, '}')
	return i + 1
}
