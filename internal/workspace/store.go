package workspace

import (
	"context"
	"time"

	"github.com/ahelme/comfyume/internal/blob"
	"github.com/ahelme/comfyume/internal/file"
)

// Store is the table of names. Each change is one commit that is durable when the call returns. It is safe for
// concurrent use, and owns no policy: references come checked and in their one form.
type Store interface {
	// PlaceFile gives the bytes of p.Key the name p.Ref, or the next free one. Where the person has the same bytes
	// under the name already, or under one of its numbered siblings, that one is returned and p.Key is not used.
	PlaceFile(ctx context.Context, p Placement) (Placed, error)
	// File looks up one name. Missing: the person has no such file.
	File(ctx context.Context, user string, ref file.Ref) (Stored, error)
	// Files lists a person's files of one type, newest first.
	Files(ctx context.Context, user, typ string) ([]file.Info, error)
	// RemoveFile forgets one name and returns the key it pointed to. Missing: the person has no such file.
	RemoveFile(ctx context.Context, user string, ref file.Ref) (key string, err error)
	// ForgetFiles forgets up to most files of a person and returns their keys.
	ForgetFiles(ctx context.Context, user string, most int) (keys []string, err error)
	// ExpireFiles forgets up to most temp files of all people that were last changed before then, and returns
	// their keys.
	ExpireFiles(ctx context.Context, before time.Time, most int) (keys []string, err error)
	// UnknownKeys returns those of keys that no name points to.
	UnknownKeys(ctx context.Context, keys []string) ([]string, error)
	// FileUsage says how much a person keeps.
	FileUsage(ctx context.Context, user string) (Usage, error)
	// FileVersion returns a number that grows with every change of a person's names, at the latest when the call
	// that made the change returns. What was read after asking for the number is at least as new as it.
	FileVersion(user string) uint64
}

// Placement asks for a name.
type Placement struct {
	User      string
	Ref       file.Ref
	Key       string // where the bytes are
	Sum       blob.Sum
	Modified  time.Time
	Overwrite bool  // take the name from what has it, instead of the next free one
	Quota     int64 // most bytes the person may keep afterwards; 0: no bound. Busy, code disk_quota, beyond
}

// Placed is where the bytes went.
type Placed struct {
	Info   file.Info
	Unused string // key that nothing points to any more: the new one, or the one that was replaced; may be empty
}

// Stored is a file and the key of its bytes.
type Stored struct {
	Info file.Info
	Key  string
}

// Usage is how much a person keeps.
type Usage struct {
	Bytes int64
	Files int64
}
