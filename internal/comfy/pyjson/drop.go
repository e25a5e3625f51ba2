package pyjson

import "encoding/json"

// Drop returns raw without the members of this name, wherever objects have one, in Python's spacing. Scalars stay as
// they are. It reads each byte twice, however deep it lies.
func Drop(raw json.RawMessage, key string) (json.RawMessage, error) {
	start, _, err := whole(raw)
	if err != nil {
		return nil, err
	}
	d := dropper{checked: checked{raw}, name: key, dst: make([]byte, 0, len(raw))}
	d.value(start)
	return d.dst, nil
}

// dropper copies a checked value.
type dropper struct {
	checked
	dst  []byte
	name string // of the members that are left out
}

// value copies the value at i and returns where it ends.
func (d *dropper) value(i int) int {
	switch d.src[i] {
	case '[':
		return d.list(i)
	case '{':
		return d.object(i)
	}
	end := d.scalar(i)
	d.dst = append(d.dst, d.src[i:end]...)
	return end
}

func (d *dropper) list(i int) int {
	d.dst = append(d.dst, '[')
	first := len(d.dst)
	for i = skipSpace(d.src, i+1); d.src[i] != ']'; {
		if len(d.dst) > first {
			d.dst = append(d.dst, ", "...)
		}
		i = d.next(d.value(i))
	}
	d.dst = append(d.dst, ']')
	return i + 1
}

func (d *dropper) object(i int) int {
	d.dst = append(d.dst, '{')
	first := len(d.dst)
	for i = skipSpace(d.src, i+1); d.src[i] != '}'; {
		quoted, at := d.key(i)
		before := len(d.dst)
		if before > first {
			d.dst = append(d.dst, ", "...)
		}
		d.dst = append(append(d.dst, quoted...), ": "...)
		i = d.next(d.value(at))
		if quotedIs(quoted, d.name) {
			d.dst = d.dst[:before]
		}
	}
	d.dst = append(d.dst, '}')
	return i + 1
}
