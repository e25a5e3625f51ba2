package workspace

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ahelme/comfyume/internal/blob"
)

const (
	// chunk is how many names or keys one commit or look-up handles: others wait meanwhile.
	chunk = 500
	// orphanAge is how old bytes without a name must be to count as left by a crash. The younger ones may be on
	// their way to a name.
	orphanAge = 24 * time.Hour
)

// Swept is what Sweep did away with.
type Swept struct {
	Temp    int // temp files beyond their age
	Orphans int // bytes without a name
}

// Sweep deletes temp files beyond their age, and bytes that a crash left without a name. It is meant to be called
// now and then, and may run beside everything else.
func (f *Files) Sweep(ctx context.Context, now time.Time) (Swept, error) {
	var done Swept
	for {
		gone, err := f.store.ExpireFiles(ctx, now.Add(-f.opt.TempAge), chunk)
		if err != nil {
			return done, fmt.Errorf("forget old temp files: %w", err)
		}
		for _, key := range gone {
			f.drop(ctx, key)
		}
		done.Temp += len(gone)
		if len(gone) < chunk {
			break
		}
	}
	var err error
	done.Orphans, err = f.sweepOrphans(ctx, now.Add(-orphanAge))
	return done, err
}

func (f *Files) sweepOrphans(ctx context.Context, before time.Time) (int, error) {
	var old []string
	swept := 0
	flush := func() error {
		// A thumbnail is an orphan when its picture has no name.
		named := make([]string, len(old))
		for i, key := range old {
			named[i] = blob.PictureKey(key)
		}
		unknown, err := f.store.UnknownKeys(ctx, named)
		if err != nil {
			return fmt.Errorf("look for bytes without a name: %w", err)
		}
		gone := make(map[string]bool, len(unknown))
		for _, key := range unknown {
			gone[key] = true
		}
		var errs []error
		for i, key := range old {
			if gone[named[i]] {
				errs = append(errs, f.blobs.Delete(ctx, key))
				swept++
			}
		}
		old = old[:0]
		return errors.Join(errs...)
	}
	err := f.blobs.Each(ctx, blob.FileKeys, func(it blob.Item) error {
		if it.Modified.After(before) {
			return nil
		}
		if old = append(old, it.Key); len(old) < chunk {
			return nil
		}
		return flush()
	})
	return swept, errors.Join(err, flush())
}

// Forget deletes every file of user: the account is gone.
func (f *Files) Forget(ctx context.Context, user string) error {
	if err := checkUser(user); err != nil {
		return err
	}
	for {
		gone, err := f.store.ForgetFiles(ctx, user, chunk)
		if err != nil {
			return fmt.Errorf("forget the files of %s: %w", user, err)
		}
		for _, key := range gone {
			f.drop(ctx, key)
		}
		if len(gone) < chunk {
			return nil
		}
	}
}
