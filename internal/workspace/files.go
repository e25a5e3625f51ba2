package workspace

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/ahelme/comfyume/internal/blob"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/file"
)

// Options are the bounds of a workspace. The zero value bounds nothing.
type Options struct {
	Upload   int64         // most bytes of one upload; 0: no bound
	Quota    int64         // most bytes a person may keep; 0: no bound
	KeepFree int64         // uploads are refused while the disk has less room than this
	TempAge  time.Duration // how long temp files are kept; 0: seven days
	Log      *slog.Logger  // nil: discarded

	// Elsewhere says how much of a person's quota is used by other things than files; nil: nothing.
	Elsewhere func(ctx context.Context, user string) (int64, error)
	// Thumbnail makes the small picture that Thumb keeps; nil: there are none.
	Thumbnail func(ctx context.Context, w io.Writer, r io.Reader) error
}

// Files are the files of all people. It is safe for concurrent use.
type Files struct {
	store Store
	blobs blob.Store
	opt   Options
	cache cache
}

// NewFiles returns the files named in store whose bytes are in blobs.
func NewFiles(store Store, blobs blob.Store, o Options) *Files {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.TempAge == 0 {
		o.TempAge = 7 * 24 * time.Hour
	}
	return &Files{store: store, blobs: blobs, opt: o}
}

// Upload stores what r gives as a file of user, after ComfyUI's rules: where the name is taken by other bytes the
// next free "name (1).ext" is used unless overwrite is set, and where the same bytes are there already their name
// comes back. The file is durable when Upload returns. Errors: Invalid for the name (codes of package file) and
// for more bytes than one upload may have (too_large), Busy for the person's quota (disk_quota), Unavailable for a
// disk that has no room to spare (disk_full).
func (f *Files) Upload(ctx context.Context, user string, ref file.Ref, overwrite bool, r io.Reader) (file.Info, error) {
	if err := checkUser(user); err != nil {
		return file.Info{}, err
	}
	ref, err := ref.Check()
	if err != nil {
		return file.Info{}, err
	}
	quota, err := f.quota(ctx, user)
	if err != nil {
		return file.Info{}, err
	}
	// An overwritten file makes room, so that the stream is bounded by what it may replace as well.
	m := &meter{r: r, limit: f.opt.Upload, check: func() error { return f.Room(ctx) }}
	if m.err = m.check(); m.err != nil {
		return file.Info{}, m.err
	}
	if f.opt.Quota > 0 {
		if m.room, err = f.roomFor(ctx, user, ref, overwrite, quota); err != nil {
			return file.Info{}, err
		}
		m.quota = f.opt.Quota
	}
	key := blob.NewFileKey(user)
	sum, err := f.blobs.Put(ctx, key, m)
	if err != nil {
		return file.Info{}, fmt.Errorf("store an upload: %w", err)
	}
	placed, err := f.store.PlaceFile(ctx, Placement{
		User: user, Ref: ref, Key: key, Sum: sum, Modified: time.Now(), Overwrite: overwrite, Quota: quota,
	})
	if err != nil {
		if fault.Is(err, fault.Busy) { // refused; after any other error the name may be there, and Sweep decides
			f.drop(ctx, key)
			return file.Info{}, ErrQuota(f.opt.Quota)
		}
		return file.Info{}, fmt.Errorf("name an upload: %w", err)
	}
	f.drop(ctx, placed.Unused)
	return placed.Info, nil
}

// quota returns how many bytes of files a person may keep: the quota without what other things use.
func (f *Files) quota(ctx context.Context, user string) (int64, error) {
	if f.opt.Quota <= 0 || f.opt.Elsewhere == nil {
		return max(f.opt.Quota, 0), nil
	}
	used, err := f.opt.Elsewhere(ctx, user)
	if err != nil {
		return 0, err
	}
	return max(f.opt.Quota-used, 1), nil // 0 would mean no bound
}

// roomFor returns how many bytes a person may still add by writing ref.
func (f *Files) roomFor(ctx context.Context, user string, ref file.Ref, overwrite bool, quota int64) (int64, error) {
	used, err := f.usage(ctx, user)
	if err != nil {
		return 0, err
	}
	room := quota - used.Bytes
	if overwrite {
		old, err := f.store.File(ctx, user, ref)
		switch {
		case err == nil:
			room += old.Info.Size
		case !fault.Is(err, fault.Missing):
			return 0, err
		}
	}
	if room <= 0 {
		return 0, ErrQuota(f.opt.Quota)
	}
	return room, nil
}

// Open opens a file of user. Its reader is an *os.File where the bytes are on a disk. Missing: user has no such
// file. Invalid, code file.CodeOutside or file.CodeBadType: the reference can't mean one.
func (f *Files) Open(ctx context.Context, user string, ref file.Ref) (file.Info, io.ReadSeekCloser, error) {
	for missing := ""; ; {
		stored, err := f.find(ctx, user, ref)
		if err != nil {
			return file.Info{}, nil, err
		}
		r, err := f.blobs.Open(ctx, stored.Key)
		if err == nil {
			return stored.Info, r, nil
		}
		// Between the look-up and here the name may have got other bytes: it is looked up again until it stays the same.
		if !fault.Is(err, fault.Missing) || stored.Key == missing {
			return file.Info{}, nil, fmt.Errorf("open %s: %w", stored.Key, err)
		}
		missing = stored.Key
	}
}

// Stat says what is known of a file of user. Errors are those of Open.
func (f *Files) Stat(ctx context.Context, user string, ref file.Ref) (file.Info, error) {
	stored, err := f.find(ctx, user, ref)
	return stored.Info, err
}

// List lists the files of user that are of type typ, newest first. The caller must not change the list.
func (f *Files) List(ctx context.Context, user, typ string) ([]file.Info, error) {
	if err := errors.Join(checkUser(user), file.CheckType(typ)); err != nil {
		return nil, err
	}
	version := f.store.FileVersion(user)
	if list, ok := f.cache.list(user, version, typ); ok {
		return list, nil
	}
	list, err := f.store.Files(ctx, user, typ)
	if err != nil {
		return nil, fmt.Errorf("list files: %w", err)
	}
	f.cache.keepList(user, version, typ, list)
	return list, nil
}

func (f *Files) find(ctx context.Context, user string, ref file.Ref) (Stored, error) {
	if err := checkUser(user); err != nil {
		return Stored{}, err
	}
	ref, err := lookup(ref)
	if err != nil {
		return Stored{}, err
	}
	version := f.store.FileVersion(user)
	if stored, ok := f.cache.file(user, version, ref); ok {
		return stored, nil
	}
	stored, err := f.store.File(ctx, user, ref)
	if err != nil {
		return Stored{}, err
	}
	f.cache.keepFile(user, version, ref, stored)
	return stored, nil
}

// Delete deletes a file of user. Missing: user has no such file.
func (f *Files) Delete(ctx context.Context, user string, ref file.Ref) error {
	if err := checkUser(user); err != nil {
		return err
	}
	ref, err := lookup(ref)
	if err != nil {
		return err
	}
	key, err := f.store.RemoveFile(ctx, user, ref)
	if err != nil {
		return err
	}
	f.drop(ctx, key)
	return nil
}

// Usage says how much user keeps.
func (f *Files) Usage(ctx context.Context, user string) (Usage, error) {
	if err := checkUser(user); err != nil {
		return Usage{}, err
	}
	return f.usage(ctx, user)
}

// usage is asked for with every run, so that it is remembered.
func (f *Files) usage(ctx context.Context, user string) (Usage, error) {
	version := f.store.FileVersion(user)
	if u, ok := f.cache.usage(user, version); ok {
		return u, nil
	}
	u, err := f.store.FileUsage(ctx, user)
	if err != nil {
		return Usage{}, err
	}
	f.cache.keepUsage(user, version, u)
	return u, nil
}

// Room says whether the disk has room to spare: nil, or Unavailable with code disk_full and the bound that is
// reached. New uploads and new runs wait for it; what runs already may finish.
func (f *Files) Room(ctx context.Context) error {
	if f.opt.KeepFree <= 0 {
		return nil
	}
	free, err := f.blobs.Free(ctx)
	if err != nil {
		return err
	}
	if free < f.opt.KeepFree {
		return fault.New(fault.Unavailable, "The studio's disk has %s left, and %s of it are kept free.", size(free), size(f.opt.KeepFree)).
			WithRemedy("Delete files you no longer need, or tell the operator.").WithCode("disk_full")
	}
	return nil
}

// Within says whether user is within the quota: nil, or Busy with code disk_quota. A run that is refused for it
// would have nowhere to put its results.
func (f *Files) Within(ctx context.Context, user string) error {
	if f.opt.Quota <= 0 {
		return nil
	}
	if err := checkUser(user); err != nil {
		return err
	}
	quota, err := f.quota(ctx, user)
	if err != nil {
		return err
	}
	_, err = f.roomFor(ctx, user, file.Ref{}, false, quota)
	return err
}

// drop deletes bytes that no name points to. What can't be deleted now is found by Sweep.
func (f *Files) drop(ctx context.Context, key string) {
	if key == "" {
		return
	}
	ctx = context.WithoutCancel(ctx)
	for _, k := range [...]string{key, blob.ThumbKey(key)} {
		if err := f.blobs.Delete(ctx, k); err != nil {
			f.opt.Log.Warn("bytes without a name stay until the next sweep", "key", k, "err", err)
		}
	}
}

// ErrQuota returns the error of a person who may not keep more bytes.
func ErrQuota(quota int64) error {
	return fault.New(fault.Busy, "Your files would take more than the %s that each person may keep.", size(quota)).
		WithRemedy("Delete files you no longer need.").WithCode("disk_quota")
}

// size writes bytes the way settings do.
func size(n int64) string {
	const units = "KMGTPE"
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	v, u := float64(n)/1000, 0
	for v >= 999.5 && u < len(units)-1 {
		v, u = v/1000, u+1
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0") + " " + units[u:u+1] + "B"
}
