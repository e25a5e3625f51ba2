package app

import (
	"context"
	"errors"
	"io"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/ahelme/comfyume/internal/blob"
	"github.com/ahelme/comfyume/internal/blob/disk"
	"github.com/ahelme/comfyume/internal/blob/s3"
	"github.com/ahelme/comfyume/internal/fault"
)

// byteStore is what keeps the bytes of people's files.
type byteStore interface {
	blob.Store
	Close() error
}

// openBytes opens what keeps the bytes of people's files, and refuses one that is not this studio's.
func (s *Studio) openBytes(ctx context.Context) (byteStore, error) {
	open := s.openDisk
	if s.inBucket() {
		open = s.openBucket
	}
	bytes, err := open(ctx)
	if err != nil {
		return nil, err
	}
	s.parts.add("bytes", func(context.Context) error { return bytes.Close() })
	if s.inBucket() {
		if err := s.ownBucket(ctx, bytes); err != nil {
			return nil, err
		}
	}
	if err := ownBytes(ctx, bytes, s.self.ID, s.blobPlace()); err != nil {
		return nil, err
	}
	return bytes, s.samePlaces(ctx, bytes)
}

func (s *Studio) openDisk(context.Context) (byteStore, error) {
	d, err := disk.Open(s.blobFolder())
	if err != nil {
		return nil, placeTrouble(err, s.blobPlace())
	}
	return d, nil
}

func (s *Studio) openBucket(context.Context) (byteStore, error) {
	b, err := s3.Open(s.cfg.Blob, s3.Options{Log: s.log})
	if err != nil {
		return nil, err
	}
	s.log.Info("bytes", "place", s.blobPlace(), "note", "The bytes of people's files are in the bucket. Documents, templates, the database, "+
		"keys and uploads on their way stay in "+s.cfg.Data+": keep that folder safe too.")
	return bucketBytes{b, s.cfg.Data}, nil
}

// bucketBytes are bytes in a bucket, of a studio whose data folder still takes uploads on their way and documents.
type bucketBytes struct {
	*s3.Store
	data string
}

// Free returns the room of the data folder: a bucket has no bound.
func (b bucketBytes) Free(context.Context) (int64, error) { return disk.FreeAt(b.data) }

// inBucket reports whether the bytes of people's files are in a bucket.
func (s *Studio) inBucket() bool { return strings.HasPrefix(s.cfg.Blob, "s3://") }

// blobFolder is where people's bytes are, or would be if they were in no bucket.
func (s *Studio) blobFolder() string {
	if u, err := url.Parse(s.cfg.Blob); err == nil && u.Scheme == "file" { // the settings were checked
		return u.Path
	}
	return filepath.Join(s.cfg.Data, "blobs")
}

// blobPlace names where people's bytes are, in a sentence.
func (s *Studio) blobPlace() string {
	if !s.inBucket() {
		return "folder " + s.blobFolder()
	}
	u, err := url.Parse(s.cfg.Blob)
	if err != nil {
		return "bucket"
	}
	return "bucket s3://" + u.Host + u.Path // without what is behind the ?: it may refer to keys
}

// placeTrouble says what is wrong with a place of people's files, unless err says it.
func placeTrouble(err error, place string) error {
	if fault.KindOf(err) != fault.Internal {
		return err
	}
	return fault.Wrap(fault.Unavailable, err, "The %s can't be used for people's files.", place).
		WithRemedy("See that it is there, or can be made, and that this account may write there.")
}

// ownBucket refuses a bucket that does not fit the database: one with people's files beside an empty database, which
// would have them swept away, or a new one beside files in the folder that blob named before.
func (s *Studio) ownBucket(ctx context.Context, bytes blob.Store) error {
	if s.fresh {
		found := errors.New("found a file")
		err := bytes.Each(ctx, blob.FileKeys, func(blob.Item) error { return found })
		if errors.Is(err, found) {
			return fault.New(fault.Unavailable, "The studio's database is new, though people have files in the %s.", s.blobPlace()).
				WithRemedy("Bring the data folder back from a backup. To begin anew, set blob to a bucket or prefix that is empty.")
		}
		return s.ofBucket(err)
	}
	f, err := bytes.Open(ctx, studioMark) // unlike Stat it tells a bucket that is not there from a key that is not
	if err == nil {
		return s.ofBucket(f.Close())
	}
	if !fault.Is(err, fault.Missing) {
		return s.ofBucket(err)
	}
	if folder := filled(filepath.Join(s.cfg.Data, "blobs", "files")); folder != "" {
		return fault.New(fault.Unavailable, "The %s is new, and people's files are in %s.", s.blobPlace(), folder).
			WithRemedy("Copy everything in %s to it first (mc mirror, rclone copy), or set blob back to file.", filepath.Dir(folder))
	}
	return nil
}

func (s *Studio) ofBucket(err error) error {
	if err == nil {
		return nil
	}
	return placeTrouble(err, s.blobPlace())
}

// sweepBucket ends uploads that a crash left unfinished in the bucket.
func (s *Studio) sweepBucket(ctx context.Context) {
	b, ok := s.blobs.(interface {
		Sweep(ctx context.Context) (int, error)
	})
	if !ok {
		return
	}
	n, err := b.Sweep(ctx)
	if err != nil && ctx.Err() == nil {
		s.log.Warn("unfinished uploads in the bucket were not ended", "place", s.blobPlace(), "err", err)
	}
	if n > 0 {
		s.log.Info("ended unfinished uploads in the bucket", "place", s.blobPlace(), "uploads", n)
	}
}

// studioMark is the key among the bytes that says whose they are.
const studioMark = "studio"

// ownBytes refuses stored bytes of another studio, and marks those without a mark as the studio's own: bytes that the
// database has no names for are swept away, and to another studio's database all of them would be such.
func ownBytes(ctx context.Context, bytes blob.Store, id, place string) error {
	f, err := bytes.Open(ctx, studioMark)
	if fault.Is(err, fault.Missing) {
		if _, err = bytes.Put(ctx, studioMark, strings.NewReader(id+"\n")); err != nil {
			return placeTrouble(err, place)
		}
		return nil
	}
	if err != nil {
		return placeTrouble(err, place)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 1<<10))
	if err != nil {
		return placeTrouble(err, place)
	}
	if other := strings.TrimSpace(string(text)); other != id {
		return fault.New(fault.Unavailable, "The %s holds the files of another studio, %q.", place, other).
			WithRemedy("Set blob to a place of this studio's own. If these are its files, bring back the data folder that they belong to.")
	}
	return nil
}
