package pyjson

// checked is text that was found to be one value. It is taken apart here by those that go through all of it once, where
// Members and Elements would read what lies deep again at each depth.
type checked struct{ src []byte }

// key returns the key at i, quoted, and where its value begins.
func (c checked) key(i int) (quoted []byte, value int) {
	end, err := scanString(c.src, i)
	if err != nil { // the whole was checked before
		end = len(c.src)
	}
	return c.src[i:end], skipSpace(c.src, skipSpace(c.src, end)+1)
}

// scalar returns where the value at i ends, which is no list and no object.
func (c checked) scalar(i int) int {
	end, err := scanValue(c.src, i, 0)
	if err != nil { // the whole was checked before
		end = len(c.src)
	}
	return end
}

// next returns where what follows a value that ends at i begins: another one, or the end of what they are in.
func (c checked) next(i int) int {
	if i = skipSpace(c.src, i); c.src[i] == ',' {
		i = skipSpace(c.src, i+1)
	}
	return i
}
