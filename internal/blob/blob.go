// Package blob is the contract for stored bytes: streams go in under a key, durably, and come out with Seek. What
// the bytes are called by people, and whose they are, is for the packages above.
package blob

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
)

// Store keeps bytes under keys. It is safe for concurrent use.
//
// A key is never half there: it has either all bytes of one Put or it is missing. Errors of the fault kind Missing
// say that there is no such key, code "disk_full" that the store has no room; everything else is the store's own
// trouble or comes from the reader.
type Store interface {
	// Put stores what r gives under key and returns its size and hash. When it returns, the bytes survive a power
	// cut. What the key held before is replaced at once; readers that have it open keep the old bytes. An error of
	// r is returned as it is (errors.Is works) and leaves the key as it was.
	Put(ctx context.Context, key string, r io.Reader) (Sum, error)
	// Open opens the bytes of key for reading. On a disk it is an *os.File, so that the kernel can send it.
	Open(ctx context.Context, key string) (io.ReadSeekCloser, error)
	// Stat says what is known of key without opening it.
	Stat(ctx context.Context, key string) (Item, error)
	// Delete forgets key. A key that is not there is no error.
	Delete(ctx context.Context, key string) error
	// Each calls f with every key that begins with prefix, in no order, until f returns an error, which Each then
	// returns. Keys that come or go meanwhile may be left out.
	Each(ctx context.Context, prefix string, f func(Item) error) error
	// Free returns how many bytes the store can still take. A store without such a bound returns math.MaxInt64.
	Free(ctx context.Context) (int64, error)
}

// Sum is what Put learned of the bytes it stored.
type Sum struct {
	Size   int64
	SHA256 [32]byte
}

// Hash returns the hash as lower-case hex.
func (s Sum) Hash() string { return hex.EncodeToString(s.SHA256[:]) }

// Item is one key of a store.
type Item struct {
	Key      string
	Size     int64
	Modified time.Time
}

// FileKeys is what the keys of people's files begin with.
const FileKeys = "files/"

const thumbSuffix = ".thumb"

// NewFileKey returns a key for a file of user that nobody has used. Keys are per person and random, so that neither
// the key nor the time a Put takes tells what others hold.
func NewFileKey(user string) string { return FileKeys + user + "/" + strings.ToLower(rand.Text()) }

// ThumbKey returns the key of the thumbnail of the picture under key, so that both can go together.
func ThumbKey(key string) string { return key + thumbSuffix }

// PictureKey returns the key that a thumbnail's key was made from, and any other key as it is.
func PictureKey(key string) string { return strings.TrimSuffix(key, thumbSuffix) }

// Longest key and part of a key. They fit every file system and object store.
const (
	maxKey  = 512
	maxPart = 128
)

// CheckKey says whether key can be used with every store: parts of a-z, 0-9, '_', '-' and '.', joined by slashes,
// none empty or beginning with a dot. Keys are made by the program, so a bad one is a defect.
func CheckKey(key string) error {
	if len(key) > maxKey {
		return fmt.Errorf("blob key of %d bytes; the limit is %d", len(key), maxKey)
	}
	for part := range strings.SplitSeq(key, "/") {
		if part == "" || part[0] == '.' || part[len(part)-1] == '.' || len(part) > maxPart {
			return fmt.Errorf("blob key %q is not well formed", key)
		}
		for i := range len(part) {
			c := part[i]
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' && c != '-' && c != '.' {
				return fmt.Errorf("blob key %q is not well formed", key)
			}
		}
	}
	return nil
}

// ErrMissing returns the error of a store that does not hold key.
func ErrMissing(key string, cause error) error {
	return fault.Wrap(fault.Missing, fmt.Errorf("blob %s: %w", key, cause), "The stored bytes are not there any more.").WithCode("blob_missing")
}

// ErrFull returns the error of a store that has no room left.
func ErrFull(cause error) error {
	return fault.Wrap(fault.Unavailable, cause, "The disk with the studio's files is full.").
		WithRemedy("Tell the operator to free some space; nothing that was stored is lost.").WithCode("disk_full")
}

// ErrReadOnly returns the error of a store that may not be written to.
func ErrReadOnly(cause error) error {
	return fault.Wrap(fault.Unavailable, cause, "The studio may not write to its folder of files.").
		WithRemedy("Make the data folder and everything in it writable for the account that runs the studio.").WithCode("data_readonly")
}
