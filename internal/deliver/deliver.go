package deliver

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/ahelme/comfyume/internal/blob"
	"github.com/ahelme/comfyume/internal/file"
	"github.com/ahelme/comfyume/internal/job"
)

// Slot is the place of an output in a run's results: history's outputs[node][key][index].
type Slot struct {
	Job   job.ID
	Node  string
	Key   string
	Index int
}

// Origin is where a file is on a back end. Epoch changes when the back end was restarted: its temp files are gone
// and its counters begin anew.
type Origin struct {
	BackEnd string
	Epoch   string
	Ref     file.Ref // as the back end reports it
}

// Output is one file of an attempt.
type Output struct {
	User    string
	Fence   int64 // of the attempt that made it
	Attempt int
	Slot
	Origin
	Stem string // of the name it gets; empty: the back end's own stem
	// Open opens the file on the back end. It is called at most once, and not at all where the output is there.
	Open func(ctx context.Context) (io.ReadCloser, error)
	// PNG changes a picture that begins like a PNG on its way; nil: as it is. It takes the owner's mark out of the
	// embedded graph.
	PNG func(io.Reader) io.Reader
}

// Store is the table of deliveries. Each change is one commit that is durable when the call returns. It is safe for
// concurrent use.
type Store interface {
	// Delivered returns the file in slot when it was delivered with this fence from this origin, and is still the
	// person's. Missing otherwise.
	Delivered(ctx context.Context, user string, fence int64, slot Slot, from Origin) (file.Info, error)
	// Deliver gives d.Blob its name. Conflict, code stale_fence: the job is not run by the attempt with this fence
	// any more. Whatever keys nobody names afterwards come back.
	Deliver(ctx context.Context, d Delivery) (info file.Info, unused []string, err error)
	// Resolve returns the file of user in slot, else the one that came from there, while it still has the bytes that
	// came. Missing otherwise.
	Resolve(ctx context.Context, user string, slot Slot, from Origin) (file.Info, error)
	// OfJob returns what was delivered for the job, by node, key and index, as far as the files still are the person's
	// with the bytes that came.
	OfJob(ctx context.Context, user string, id job.ID) ([]Delivered, error)
	// ForgetOrigins forgets where files came from on a back end, but for one epoch.
	ForgetOrigins(ctx context.Context, backEnd, epoch string) error
	// PruneDeliveries forgets up to most slots of jobs that are over, and the counters of temp names that nobody
	// used since then. It returns how many rows went.
	PruneDeliveries(ctx context.Context, before time.Time, most int) (int, error)
}

// Delivery is a file with its bytes stored, asking for a name.
type Delivery struct {
	User     string
	Fence    int64
	Attempt  int
	Slot     Slot
	From     Origin
	Want     Name
	Blob     string // key of the bytes
	Sum      blob.Sum
	Modified time.Time
}

// Delivered is a file in the place of an output.
type Delivered struct {
	Slot
	Ref file.Ref // as its owner knows it
}

// Service delivers outputs. It is safe for concurrent use.
type Service struct {
	store Store
	blobs blob.Store
	log   *slog.Logger
}

// New returns a service that puts bytes into blobs and names into store. log may be nil.
func New(store Store, blobs blob.Store, log *slog.Logger) *Service {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Service{store: store, blobs: blobs, log: log}
}

// Deliver brings one output into its owner's files and returns what it is called there. It may be repeated at any
// time, by the same attempt or another: the slot gets one file with one name. When it returns without an error the
// file is durable and can be opened. Errors of Open, and of its reader, come back as they are; Conflict, code
// stale_fence, says that the attempt is not the job's any more; Unavailable, code disk_full, that the disk is full.
func (s *Service) Deliver(ctx context.Context, o Output) (file.Info, error) {
	info, err := s.store.Delivered(ctx, o.User, o.Fence, o.Slot, o.Origin)
	if err == nil || !isMissing(err) {
		return info, err
	}
	key := blob.NewFileKey(o.User)
	sum, err := s.fetch(ctx, key, o)
	if err != nil {
		return file.Info{}, err
	}
	info, unused, err := s.store.Deliver(ctx, Delivery{
		User: o.User, Fence: o.Fence, Attempt: o.Attempt, Slot: o.Slot, From: o.Origin,
		Want: ParseName(o.Ref, o.Stem), Blob: key, Sum: sum, Modified: time.Now(),
	})
	if err != nil {
		if isStale(err) { // refused; after any other error the name may be there, and a sweep decides
			s.drop(ctx, o, key)
		}
		return file.Info{}, fmt.Errorf("name an output: %w", err)
	}
	for _, key := range unused {
		s.drop(ctx, o, key)
	}
	return info, nil
}

// fetch stores the bytes of o under key.
func (s *Service) fetch(ctx context.Context, key string, o Output) (blob.Sum, error) {
	src, err := o.Open(ctx)
	if err != nil {
		return blob.Sum{}, fmt.Errorf("fetch an output: %w", err)
	}
	var r io.Reader = src
	if o.PNG != nil {
		r = filterPNG(src, o.PNG)
	}
	sum, err := s.blobs.Put(ctx, key, r)
	if closeErr := src.Close(); err == nil && closeErr != nil {
		// All bytes came; that the connection could not be closed well harms nobody.
		s.log.Debug("close a fetched output", "job", o.Job, "backend", o.BackEnd, "err", closeErr)
	}
	if err != nil {
		return blob.Sum{}, fmt.Errorf("fetch an output: %w", err)
	}
	return sum, nil
}

var pngMagic = []byte("\x89PNG\r\n\x1a\n")

// filterPNG sends what r gives through filter when it begins like a PNG, whatever its name says.
func filterPNG(r io.Reader, filter func(io.Reader) io.Reader) io.Reader {
	if p, ok := r.(interface{ Peek(n int) ([]byte, error) }); ok {
		head, err := p.Peek(len(pngMagic))
		if err == nil && !bytes.Equal(head, pngMagic) {
			return r // as it is: the store may know a quicker way for it
		}
	}
	b := bufio.NewReaderSize(r, 32<<10)
	head, err := b.Peek(len(pngMagic))
	if err == nil && bytes.Equal(head, pngMagic) {
		return filter(b)
	}
	return b // what Peek met comes again with Read
}

// Resolve returns the file that an output means which was not made anew: one that the back end reported before under
// the same name. It is for nodes whose outputs came from the back end's cache: what a node made anew is delivered, even
// where it reports a name that is known, because some nodes write the same name again. What an earlier attempt of the
// job brought home for the output goes first: its owner may have seen it, and it must not be left without a job.
// Missing: it is not known as theirs, or they deleted or changed it; then it is delivered like any other.
func (s *Service) Resolve(ctx context.Context, o Output) (file.Info, error) {
	return s.store.Resolve(ctx, o.User, o.Slot, o.Origin)
}

// OfJob returns what the attempts of an open job have brought home until now, by node, key and index: what its end has
// to show, however it ends. Files that their owner deleted or changed are not among them.
func (s *Service) OfJob(ctx context.Context, user string, id job.ID) ([]Delivered, error) {
	return s.store.OfJob(ctx, user, id)
}

// Restarted forgets what came from earlier epochs of a back end: those names mean other files by now.
func (s *Service) Restarted(ctx context.Context, backEnd, epoch string) error {
	return s.store.ForgetOrigins(ctx, backEnd, epoch)
}

// Prune forgets what is only needed while a job runs. It is meant to be called now and then.
func (s *Service) Prune(ctx context.Context, before time.Time) error {
	const most = 500
	for {
		n, err := s.store.PruneDeliveries(ctx, before, most)
		if err != nil {
			return fmt.Errorf("forget old deliveries: %w", err)
		}
		if n < most {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return errors.Join(err, context.Cause(ctx))
		}
	}
}

// drop deletes bytes that no name points to. What can't be deleted now is found by a sweep.
func (s *Service) drop(ctx context.Context, o Output, key string) {
	for _, k := range [...]string{key, blob.ThumbKey(key)} {
		if err := s.blobs.Delete(context.WithoutCancel(ctx), k); err != nil {
			s.log.Warn("bytes without a name stay until the next sweep", "job", o.Job, "user", o.User, "key", k, "err", err)
		}
	}
}
