package verda

import (
	"encoding/json"
	"reflect"
	"strings"
)

// unknownParts are parts of an object that this program knows nothing of.
type unknownParts map[string]json.RawMessage

// readKeeping reads an object into the struct that known points to, and what has no field there into rest.
func readKeeping(b []byte, known any, rest *unknownParts) error {
	if err := json.Unmarshal(b, known); err != nil {
		return err
	}
	parts := unknownParts{}
	if err := json.Unmarshal(b, &parts); err != nil {
		return err
	}
	t := reflect.TypeOf(known).Elem()
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		delete(parts, name)
	}
	*rest = nil
	if len(parts) > 0 {
		*rest = parts
	}
	return nil
}

// writeKept writes the struct known with the parts that were kept beside it.
func writeKept(known any, rest unknownParts) ([]byte, error) {
	b, err := json.Marshal(known)
	if err != nil || len(rest) == 0 {
		return b, err
	}
	all := unknownParts{}
	if err := json.Unmarshal(b, &all); err != nil {
		return nil, err
	}
	for name, part := range rest {
		if _, has := all[name]; !has {
			all[name] = part
		}
	}
	return json.Marshal(all)
}
