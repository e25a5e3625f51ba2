package workspace

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/ahelme/comfyume/internal/fault"
)

const (
	// settingsFile is where ComfyUI keeps settings, among the person's documents.
	settingsFile = "comfy.settings.json"
	// damagedFile keeps settings that could not be read when the next one is set.
	damagedFile = "comfy.settings.damaged.json"
	// maxSettings bounds all settings of a person together.
	maxSettings = 4 << 20
)

// Settings returns a person's settings as one JSON object in the order in which they were first set: {} where none
// are, or where the file is no object.
func (h *Home) Settings(user string) (json.RawMessage, error) {
	_, raw, err := h.readSettings(user)
	return raw, err
}

// Setting returns one setting of user, nil where it is not set.
func (h *Home) Setting(user, key string) (json.RawMessage, error) {
	all, _, err := h.readSettings(user)
	if err != nil {
		return nil, err
	}
	for _, m := range all {
		if m.key == key {
			return m.value, nil
		}
	}
	return nil, nil
}

// MergeSettings sets every key of a JSON object. Invalid: it is no object, or all settings together grow beyond
// 4 MiB.
func (h *Home) MergeSettings(user string, object json.RawMessage) error {
	set, err := members(object)
	if err != nil {
		return fault.Wrap(fault.Invalid, err, "Settings are a JSON object.").WithCode("bad_settings")
	}
	return h.changeSettings(user, set)
}

// SetSetting sets one key to a JSON value. Errors are those of MergeSettings.
func (h *Home) SetSetting(user, key string, value json.RawMessage) error {
	if !json.Valid(value) {
		return fault.New(fault.Invalid, "The value of a setting is JSON.").WithCode("bad_settings")
	}
	return h.changeSettings(user, []member{{key, bytes.TrimSpace(value)}})
}

func (h *Home) changeSettings(user string, set []member) (err error) {
	root, err := h.open(user, true)
	if err != nil {
		return homeError(err)
	}
	defer closeAfter(root, &err)
	unlock, err := h.lock(user)
	if err != nil {
		return err
	}
	defer unlock()
	all, err := h.settingsOf(root)
	if errors.Is(err, errDamaged) {
		if err := keepDamaged(root); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	for _, m := range set {
		all = put(all, m)
	}
	body, err := object(all)
	if err != nil {
		return err
	}
	if len(body) > maxSettings {
		return fault.New(fault.Invalid, "All settings together are larger than %s.", size(maxSettings)).WithCode("too_large")
	}
	temp, err := h.write(context.Background(), root, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if _, err := h.placeLocked(root, user, temp, settingsFile, true, 0); err != nil {
		return errors.Join(err, remove(root, temp))
	}
	return nil
}

// keepDamaged puts settings that can't be read aside, so that an operator can look at what was lost.
func keepDamaged(root *os.Root) error {
	if err := root.Rename(settingsFile, damagedFile); err != nil {
		return homeError(err)
	}
	return nil
}

func (h *Home) readSettings(user string) (all []member, raw json.RawMessage, err error) {
	root, err := h.open(user, false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, json.RawMessage("{}"), nil
	}
	if err != nil {
		return nil, nil, homeError(err)
	}
	defer closeAfter(root, &err)
	all, err = h.settingsOf(root)
	if err != nil && !errors.Is(err, errDamaged) {
		return nil, nil, err
	}
	raw, err = object(all)
	return all, raw, err
}

// errDamaged says that the settings file is no JSON object.
var errDamaged = errors.New("settings can't be read")

func (h *Home) settingsOf(root *os.Root) ([]member, error) {
	info, err := root.Stat(settingsFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, homeError(err)
	}
	if !info.Mode().IsRegular() || info.Size() > 2*maxSettings { // written as a document
		return nil, errDamaged
	}
	f, err := root.Open(settingsFile)
	if err != nil {
		return nil, homeError(err)
	}
	raw, err := io.ReadAll(io.LimitReader(f, 2*maxSettings))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, homeError(err)
	}
	all, err := members(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	return all, nil
}

// member is one key of an object with its value as it was sent.
type member struct {
	key   string
	value json.RawMessage
}

// members reads a JSON object. Of keys that are there twice the last value counts, at the place of the first.
func members(raw []byte) ([]member, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	first, err := d.Token()
	if err != nil {
		return nil, err
	}
	if first != json.Delim('{') {
		return nil, errors.New("not an object")
	}
	var all []member
	at := map[string]int{}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, err
		}
		m := member{key: key.(string)} // between members of an object Token gives nothing else
		if err := d.Decode(&m.value); err != nil {
			return nil, err
		}
		if i, there := at[m.key]; there {
			all[i] = m
			continue
		}
		at[m.key] = len(all)
		all = append(all, m)
	}
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("something follows the object")
	}
	return all, nil
}

func put(all []member, m member) []member {
	for i := range all {
		if all[i].key == m.key {
			all[i] = m
			return all
		}
	}
	return append(all, m)
}

// object writes members back. Numbers and texts stay as they were sent.
func object(all []member) (json.RawMessage, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	keys := json.NewEncoder(&b)
	keys.SetEscapeHTML(false)
	for i, m := range all {
		if i > 0 {
			b.WriteByte(',')
		}
		if err := keys.Encode(m.key); err != nil {
			return nil, fmt.Errorf("encode the key of a setting: %w", err)
		}
		b.Truncate(b.Len() - 1) // the line end that Encode adds
		b.WriteByte(':')
		b.Write(m.value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}
