package app

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"github.com/ahelme/comfyume/internal/fault"
)

// lock makes the data folder and takes it: for this program alone, or, shared, for those that share it too. The kernel
// gives it back when the program dies.
func lock(data string, shared bool) (release func() error, err error) {
	if err := os.MkdirAll(data, 0o700); err != nil {
		return nil, fault.Wrap(fault.Unavailable, err, "The data folder %s can't be made.", data).
			WithRemedy("Choose another one with --data, or make the folder above it writable.")
	}
	name := filepath.Join(data, "lock")
	f := flock.New(name, flock.SetPermissions(0o600))
	try := f.TryLock
	if shared {
		try = f.TryRLock
	}
	ok, err := try()
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, err, "The data folder %s can't be written.", data).
			WithRemedy("Make it writable for this account, or choose another one with --data.")
	}
	if !ok {
		by := ""
		if pid, err := os.ReadFile(name); err == nil && len(pid) > 0 {
			by = " (process " + strings.TrimSpace(string(pid)) + ")"
		}
		return nil, inUse(data, by, nil)
	}
	if shared {
		return f.Unlock, nil
	}
	if err := os.WriteFile(name, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600); err != nil {
		return nil, errors.Join(fault.Wrap(fault.Unavailable, err, "The data folder %s can't be written.", data).
			WithRemedy("Make room on the disk and the folder writable for this account."), f.Unlock())
	}
	return f.Unlock, nil
}

// self is who a studio is: an id that names its cookies, and the key that seals what must not lie in clear.
type self struct {
	ID      string    `json:"id"`
	Created time.Time `json:"created"`
	key     []byte
}

// loadSelf reads who the studio is, and makes it up at the first start.
func loadSelf(data string) (self, error) {
	var s self
	text, err := once(filepath.Join(data, "studio.json"), func() ([]byte, error) {
		id := make([]byte, 5)
		rand.Read(id) // never fails
		name := strings.ToLower(base32.StdEncoding.EncodeToString(id))
		return json.Marshal(self{ID: name, Created: time.Now().UTC().Truncate(time.Second)})
	})
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	if err == nil && s.ID == "" {
		err = errors.New("it names no id")
	}
	if err != nil {
		return s, selfTrouble(err, "studio.json")
	}
	text, err = once(filepath.Join(data, "key"), func() ([]byte, error) {
		key := make([]byte, 32)
		rand.Read(key) // never fails
		return []byte(hex.EncodeToString(key) + "\n"), nil
	})
	if err == nil {
		s.key, err = hex.DecodeString(strings.TrimSpace(string(text)))
	}
	if err == nil && len(s.key) != 32 {
		err = fmt.Errorf("it has %d bytes, not 32", len(s.key))
	}
	if err != nil {
		return s, selfTrouble(err, "key")
	}
	return s, nil
}

// checkDatabase refuses a folder whose people have files and whose database is gone or empty: a new one would know
// nobody, and the files, without names now, would be swept away.
func checkDatabase(name string, folders ...string) error {
	if info, err := os.Stat(name); err == nil && info.Size() > 0 || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil // what else is wrong, opening it says
	}
	if folder := filled(folders...); folder != "" {
		return fault.New(fault.Unavailable, "The database %s is gone, though people have files in %s.", name, folder).
			WithRemedy("Bring it back from a backup. To begin anew, move the whole data folder away.")
	}
	return nil
}

// filled returns the first of the folders that has a file; empty: none has. A folder that is not there, or can't be read,
// shows nothing.
func filled(folders ...string) string {
	found := errors.New("found a file")
	for _, folder := range folders {
		err := filepath.WalkDir(folder, func(_ string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				return found
			}
			return nil
		})
		if err != nil {
			return folder
		}
	}
	return ""
}

func selfTrouble(err error, name string) error {
	return fault.Wrap(fault.Unavailable, err, "The file %s in the data folder can't be used.", name).
		WithRemedy("Bring it back from a backup, or make the folder readable and writable for this account.")
}

// once returns the text of a file, and makes the file durably when it is not there. Of several programs that do so at the
// same time one makes it, and all get its text.
func once(name string, fresh func() ([]byte, error)) ([]byte, error) {
	text, err := os.ReadFile(name)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return text, err
	}
	if text, err = fresh(); err != nil {
		return nil, err
	}
	tmp, err := os.CreateTemp(filepath.Dir(name), ".tmp-*") // readable by this account only
	if err != nil {
		return nil, err
	}
	_, err = tmp.Write(text)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err == nil {
		err = os.Link(tmp.Name(), name)
	}
	switch {
	case errors.Is(err, fs.ErrExist):
		text, err = os.ReadFile(name)
	case errors.Is(err, errors.ErrUnsupported), errors.Is(err, fs.ErrPermission): // a file system without second names
		if err = os.Rename(tmp.Name(), name); err == nil {
			return text, syncFolder(filepath.Dir(name))
		}
	}
	if err = errors.Join(err, os.Remove(tmp.Name())); err != nil {
		return nil, err
	}
	return text, syncFolder(filepath.Dir(name))
}

// syncFolder makes a rename durable. Systems that can't do it with folders say so; there the file system has to.
func syncFolder(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, fs.ErrInvalid) && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	return nil
}
