package workspace

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/ahelme/comfyume/internal/blob"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/file"
)

// Thumb opens the thumbnail of a picture of user, a JPEG, and makes it the first time. The info is the picture's
// own. Missing: user has no such file, or there is no thumbnail of files like it.
func (f *Files) Thumb(ctx context.Context, user string, ref file.Ref) (file.Info, io.ReadSeekCloser, error) {
	stored, err := f.find(ctx, user, ref)
	if err != nil {
		return file.Info{}, nil, err
	}
	if f.opt.Thumbnail == nil {
		return file.Info{}, nil, ErrNoThumb(nil)
	}
	key := blob.ThumbKey(stored.Key)
	r, err := f.blobs.Open(ctx, key)
	if err == nil || !fault.Is(err, fault.Missing) {
		return stored.Info, r, err
	}
	picture, err := f.blobs.Open(ctx, stored.Key)
	if err != nil {
		return file.Info{}, nil, fmt.Errorf("open %s of %s: %w", stored.Key, user, err)
	}
	defer picture.Close()
	if err := f.makeThumb(ctx, key, picture); err != nil {
		if fault.Is(err, fault.Invalid) { // no picture, or one that is too large
			err = ErrNoThumb(err)
		}
		return file.Info{}, nil, err
	}
	r, err = f.blobs.Open(ctx, key)
	return stored.Info, r, err
}

func (f *Files) makeThumb(ctx context.Context, key string, picture io.Reader) error {
	var small bytes.Buffer
	if err := f.opt.Thumbnail(ctx, &small, picture); err != nil {
		return fmt.Errorf("make a thumbnail: %w", err)
	}
	if _, err := f.blobs.Put(ctx, key, &small); err != nil {
		return fmt.Errorf("keep a thumbnail: %w", err)
	}
	return nil
}

// ErrNoThumb returns the error for a file that has no thumbnail.
func ErrNoThumb(cause error) error {
	return fault.Wrap(fault.Missing, cause, "There is no thumbnail of this file.").WithCode("no_thumbnail")
}
