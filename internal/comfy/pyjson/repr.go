package pyjson

import "encoding/json"

// Repr returns a value as Python's repr prints it: 'text', True, None, ['a', 1.0], {'k': 2}. What is no JSON gives "".
func Repr(raw json.RawMessage) string {
	start, _, err := whole(raw)
	if err != nil {
		return ""
	}
	r := reprer{checked: checked{raw}, dst: make([]byte, 0, len(raw))}
	r.look(start)
	r.value(start)
	return string(r.dst)
}

// reprer prints a checked value. It reads each byte three times at most, however deep it lies.
type reprer struct {
	checked
	dst   []byte
	twice map[int]member // members whose keys come twice in their object, by where their values begin
}

// member is one of several of the same key: an object shows the last value in the first one's place.
type member struct {
	shown int // where the value begins that is shown in its place; -1: nothing is
	end   int // of its own value
}

// look finds the keys that come twice in the value at i, and returns where it ends.
func (r *reprer) look(i int) int {
	switch r.src[i] {
	case '[':
		for i = skipSpace(r.src, i+1); r.src[i] != ']'; {
			i = r.next(r.look(i))
		}
		return i + 1
	case '{':
		first := map[string]member{}
		for i = skipSpace(r.src, i+1); r.src[i] != '}'; {
			quoted, at := r.key(i)
			key, end := unquote(quoted), r.look(at)
			if f, again := first[key]; !again {
				first[key] = member{at, end}
			} else {
				if r.twice == nil {
					r.twice = map[int]member{}
				}
				r.twice[f.shown], r.twice[at] = member{at, f.end}, member{-1, end}
			}
			i = r.next(end)
		}
		return i + 1
	}
	return r.scalar(i)
}

// value prints the value at i and returns where it ends.
func (r *reprer) value(i int) int {
	switch r.src[i] {
	case '[':
		return r.list(i)
	case '{':
		return r.object(i)
	}
	end := r.scalar(i)
	switch raw := r.src[i:end]; KindOf(raw) {
	case String:
		r.dst = AppendRepr(r.dst, unquote(raw))
	case Number:
		n, _ := ParseNum(raw)
		r.dst = append(r.dst, n.String()...)
	case Bool:
		if raw[0] == 't' {
			r.dst = append(r.dst, "True"...)
		} else {
			r.dst = append(r.dst, "False"...)
		}
	default:
		r.dst = append(r.dst, "None"...)
	}
	return end
}

func (r *reprer) list(i int) int {
	r.dst = append(r.dst, '[')
	first := len(r.dst)
	for i = skipSpace(r.src, i+1); r.src[i] != ']'; {
		if len(r.dst) > first {
			r.dst = append(r.dst, ", "...)
		}
		i = r.next(r.value(i))
	}
	r.dst = append(r.dst, ']')
	return i + 1
}

func (r *reprer) object(i int) int {
	r.dst = append(r.dst, '{')
	first := len(r.dst)
	for i = skipSpace(r.src, i+1); r.src[i] != '}'; {
		quoted, at := r.key(i)
		m, again := r.twice[at]
		if again && m.shown < 0 {
			i = r.next(m.end)
			continue
		}
		if len(r.dst) > first {
			r.dst = append(r.dst, ", "...)
		}
		r.dst = append(AppendRepr(r.dst, unquote(quoted)), ": "...)
		if again {
			r.value(m.shown)
			i = r.next(m.end)
		} else {
			i = r.next(r.value(at))
		}
	}
	r.dst = append(r.dst, '}')
	return i + 1
}
