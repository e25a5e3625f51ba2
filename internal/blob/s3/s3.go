// Package s3 keeps blobs as objects of a bucket, one for each key.
package s3

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"net/http"
	"time"

	"github.com/ahelme/comfyume/internal/blob"
	"github.com/ahelme/comfyume/internal/bucket"
	"github.com/ahelme/comfyume/internal/fault"
)

// leftover is how old an unfinished upload must be to count as left by a crash.
const leftover = 24 * time.Hour

// Store is a blob.Store in a bucket. It is safe for concurrent use, and by several servers: an object is replaced at
// once, and a bucket shows the newest state to everybody.
//
// In one thing a bucket is less than a disk: of a key that is replaced while it is read, the reader gets the old bytes
// only as far as they were asked for (1 MiB at least), and an error after that. The studio's own large keys are random
// and never replaced.
type Store struct {
	bucket *bucket.Bucket
}

var _ blob.Store = (*Store)(nil)

// Options are what a store may need beside its address.
type Options struct {
	Transport http.RoundTripper // nil: one with timeouts
	Retries   int               // of each request; 0: 4
	Log       *slog.Logger      // may be nil
}

// Open opens the store at an address (see package bucket). Nothing is asked of the bucket yet.
func Open(address string, o Options) (*Store, error) {
	a, err := bucket.ParseAddress(address)
	if err != nil {
		return nil, err
	}
	b, err := bucket.Open(a, bucket.Options{Transport: o.Transport, Retries: o.Retries, Log: o.Log})
	if err != nil {
		return nil, err
	}
	return &Store{b}, nil
}

// Close closes idle connections.
func (s *Store) Close() error { return s.bucket.Close() }

// String returns the bucket and prefix, for logs and people.
func (s *Store) String() string { return s.bucket.Address().String() }

// Put implements blob.Store.
func (s *Store) Put(ctx context.Context, key string, r io.Reader) (blob.Sum, error) {
	if err := blob.CheckKey(key); err != nil {
		return blob.Sum{}, err
	}
	sum, err := s.bucket.Put(ctx, key, r)
	return blob.Sum(sum), store(key, err)
}

// Open implements blob.Store by ranged reads.
func (s *Store) Open(ctx context.Context, key string) (io.ReadSeekCloser, error) {
	if err := blob.CheckKey(key); err != nil {
		return nil, err
	}
	r, err := s.bucket.Open(ctx, key)
	if err != nil {
		return nil, store(key, err)
	}
	return r, nil
}

// Stat implements blob.Store.
func (s *Store) Stat(ctx context.Context, key string) (blob.Item, error) {
	if err := blob.CheckKey(key); err != nil {
		return blob.Item{}, err
	}
	info, err := s.bucket.Stat(ctx, key)
	if err != nil {
		return blob.Item{}, store(key, err)
	}
	return blob.Item{Key: key, Size: info.Size, Modified: info.Modified}, nil
}

// Delete implements blob.Store.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := blob.CheckKey(key); err != nil {
		return err
	}
	return store(key, s.bucket.Delete(ctx, key))
}

// Each implements blob.Store.
func (s *Store) Each(ctx context.Context, prefix string, f func(blob.Item) error) error {
	return s.bucket.Each(ctx, prefix, func(i bucket.Info) error {
		if blob.CheckKey(i.Key) != nil { // somebody else's, in a bucket that is shared
			return nil
		}
		return f(blob.Item{Key: i.Key, Size: i.Size, Modified: i.Modified})
	})
}

// Free implements blob.Store: a bucket has no bound that could be asked for.
func (s *Store) Free(context.Context) (int64, error) { return math.MaxInt64, nil }

// Sweep ends uploads that a crash left unfinished, whose parts are stored and paid for, and returns how many.
func (s *Store) Sweep(ctx context.Context) (int, error) {
	return s.bucket.Sweep(ctx, "", time.Now().Add(-leftover))
}

// store is what an error of the bucket is to the users of blobs.
func store(key string, err error) error {
	if errors.Is(err, bucket.ErrMissing) {
		return blob.ErrMissing(key, err)
	}
	if f, ok := errors.AsType[*fault.Error](err); ok && f.Code == "disk_full" {
		return fault.Wrap(f.Kind, err, "%s", f.Public).WithRemedy("Tell the operator to make room in the bucket; nothing that was stored is lost.").
			WithCode(f.Code)
	}
	return err
}
