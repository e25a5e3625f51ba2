package app

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"github.com/ahelme/comfyume/internal/blob"
	"github.com/ahelme/comfyume/internal/fault"
)

// Servers of one studio share its data folder, on one machine or over NFS. What must not be done by two at once there is
// done under locks of the file system, which end with whoever holds them.

// samePlaces refuses a server whose folders are not those of the others: each would have half of the files.
func (s *Studio) samePlaces(ctx context.Context, bytes blob.Store) error {
	if !s.several() {
		return nil
	}
	places := []struct {
		name, place string
		read        func() (string, error)
		write       func(id string) error
	}{
		{
			"documents", "folder " + s.cfg.Data,
			func() (string, error) {
				text, err := os.ReadFile(filepath.Join(s.cfg.Data, "place"))
				return string(text), err
			},
			func(id string) error {
				_, err := once(filepath.Join(s.cfg.Data, "place"), func() ([]byte, error) { return []byte(id), nil })
				return err
			},
		},
		{
			"bytes", s.blobPlace(),
			func() (string, error) { return mark(ctx, bytes) },
			func(id string) error {
				_, err := bytes.Put(ctx, placeMark, strings.NewReader(id))
				return err
			},
		},
	}
	for _, p := range places {
		id, err := p.read()
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !fault.Is(err, fault.Missing) {
			return placeTrouble(err, p.place)
		}
		fresh := id == ""
		if fresh {
			id = rand.Text()
		}
		kept, err := s.stores.redis.Place(ctx, p.name, id)
		switch {
		case err != nil:
			return err
		case kept == id && fresh:
			err = p.write(id)
		case kept != id && fresh: // another server may be writing it just now
			err = s.await(ctx, kept, p.read, p.place)
		case kept != id:
			return errElsewhere(p.place)
		}
		if err != nil {
			return placeTrouble(err, p.place)
		}
	}
	return nil
}

// awaitFor is how long a folder may take to show what another server has written there.
const awaitFor = 2 * time.Second

// await waits until a folder has the mark that the store has.
func (s *Studio) await(ctx context.Context, want string, read func() (string, error), place string) error {
	for end := time.Now().Add(awaitFor); ; {
		if id, err := read(); err == nil && id == want {
			return nil
		}
		if time.Now().After(end) {
			return errElsewhere(place)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// placeMark is what the bytes' place is called among them.
const placeMark = "place"

func mark(ctx context.Context, bytes blob.Store) (string, error) {
	f, err := bytes.Open(ctx, placeMark)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 1<<10))
	return string(text), err
}

// documentsLock is what makes one of several servers the only one that changes a person's documents; nil where there are
// no others.
func (s *Studio) documentsLock() func(user string) (func(), error) {
	if !s.several() {
		return nil
	}
	folder := filepath.Join(s.cfg.Data, "locks")
	return func(user string) (func(), error) {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return nil, lockTrouble(err)
		}
		h := fnv.New32a()
		h.Write([]byte(user)) //nolint:errcheck // a hash takes everything
		f := flock.New(filepath.Join(folder, fmt.Sprintf("documents-%02d", h.Sum32()%lockFiles)),
			flock.SetFlag(os.O_CREATE|os.O_RDWR), flock.SetPermissions(0o600))
		if err := f.Lock(); err != nil {
			return nil, lockTrouble(err)
		}
		return func() {
			if err := f.Unlock(); err != nil {
				s.log.Error("a lock of documents was not given back", "user", user, "err", err)
			}
		}, nil
	}
}

// lockFiles is how many files people's locks share.
const lockFiles = 64

func lockTrouble(err error) error {
	return fault.Wrap(fault.Unavailable, err, "Documents can't be locked in the data folder.").
		WithRemedy("See that its file system has locks (NFS: version 4, or lockd) and that this account may write there.")
}

// ownSpool makes a folder for this server's uploads below folder, and removes those of servers that have died.
func (s *Studio) ownSpool(folder string) (string, error) {
	trouble := func(err error) error {
		return fault.Wrap(fault.Unavailable, err, "The folder for uploads on their way can't be made.").
			WithRemedy("Look at the rights of %s.", s.cfg.Data)
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return "", trouble(err)
	}
	others, err := os.ReadDir(folder)
	if err != nil {
		return "", trouble(err)
	}
	for _, other := range others {
		if !other.IsDir() {
			continue
		}
		name := filepath.Join(folder, other.Name())
		f := spoolLock(name)
		if ok, err := f.TryLock(); err != nil || !ok {
			continue // it is in use, or has just gone
		}
		if err := errors.Join(f.Unlock(), os.RemoveAll(name), os.RemoveAll(f.Path())); err != nil {
			s.log.Warn("uploads of a server that has died were not deleted", "folder", name, "err", err)
		}
	}
	own := filepath.Join(folder, rand.Text())
	f := spoolLock(own)
	if ok, err := f.TryLock(); err != nil || !ok {
		return "", trouble(errors.Join(err, errors.New("its lock is taken")))
	}
	if err := os.Mkdir(own, 0o700); err != nil {
		return "", trouble(errors.Join(err, f.Unlock()))
	}
	s.parts.add("spool", func(context.Context) error {
		return errors.Join(os.RemoveAll(own), f.Unlock(), os.Remove(f.Path()))
	})
	return own, nil
}

// spoolLock is the lock of a server's spool: a file beside it, which is there and locked before the folder is.
func spoolLock(name string) *flock.Flock {
	return flock.New(name+".lock", flock.SetFlag(os.O_CREATE|os.O_RDWR), flock.SetPermissions(0o600))
}
