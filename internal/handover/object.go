package handover

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ahelme/comfyume/internal/bucket"
	"github.com/ahelme/comfyume/internal/fault"
)

// objects is a Place in a bucket, with the same names below its prefix as a folder has.
type objects struct {
	b      *bucket.Bucket
	log    *slog.Logger
	me     string
	signed atomic.Int64
}

var (
	_ Place     = (*objects)(nil)
	_ Prober    = (*objects)(nil)
	_ Sweeper   = (*objects)(nil)
	_ io.Closer = (*objects)(nil)
)

func newObjects(address string, o Options) (*objects, error) {
	a, err := bucket.ParseAddress(address)
	if err != nil {
		return nil, err
	}
	b, err := bucket.Open(a, bucket.Options{Transport: o.Transport, Log: o.Log})
	if err != nil {
		return nil, err
	}
	return &objects{b: b, log: o.Log, me: strings.ToLower(rand.Text())}, nil
}

// Close closes idle connections.
func (o *objects) Close() error { return o.b.Close() }

// Put implements Place.
func (o *objects) Put(ctx context.Context, run, name string, r io.Reader) (Entry, error) {
	if err := errors.Join(checkRun(run), checkName(name)); err != nil {
		return Entry{}, err
	}
	sum, err := o.b.Put(ctx, runFolder(run)+"/"+fileName(name), r)
	if err != nil {
		return Entry{}, err
	}
	o.sign(ctx)
	return Entry{Name: name, Size: sum.Size, SHA256: hex.EncodeToString(sum.SHA256[:])}, nil
}

// sign says that this program writes here, see folder.sign.
func (o *objects) sign(ctx context.Context) {
	now, last := time.Now().Unix(), o.signed.Load()
	if now-last < int64(signEvery/time.Second) || !o.signed.CompareAndSwap(last, now) {
		return
	}
	if _, err := o.b.Put(context.WithoutCancel(ctx), writers+"/"+o.me, strings.NewReader("")); err != nil {
		o.signed.Store(last)
		o.log.Debug("the bucket was not signed", "bucket", o.b.Address().String(), "err", err)
	}
}

// Seal implements Place.
func (o *objects) Seal(ctx context.Context, run string, entries []Entry) error {
	if err := checkRun(run); err != nil {
		return err
	}
	text, err := encodeIndex(run, entries)
	if err != nil {
		return err
	}
	for _, e := range entries {
		info, err := o.b.Stat(ctx, runFolder(run)+"/"+fileName(e.Name))
		switch {
		case errors.Is(err, bucket.ErrMissing):
			return o.gone(e, err)
		case err != nil:
			return err
		case info.Size != e.Size:
			return damaged(e, "it has %d bytes of %d", info.Size, e.Size)
		}
	}
	_, err = o.b.Put(ctx, runFolder(run)+"/"+manifest, bytes.NewReader(text))
	if err == nil {
		o.sign(ctx)
	}
	return err
}

func (o *objects) gone(e Entry, cause error) error {
	return fault.Wrap(fault.Missing, cause, "The output %.80q is not in the bucket %s.", e.Name, o.b.Address()).WithCode("handover_nothing").
		WithRemedy("Somebody deleted it; look at the bucket's lifecycle rules.")
}

// Manifest implements Place.
func (o *objects) Manifest(ctx context.Context, run string) ([]Entry, error) {
	if err := checkRun(run); err != nil {
		return nil, err
	}
	var entries []Entry
	err := poll(ctx, func() (bool, error) {
		r, err := o.b.Open(ctx, runFolder(run)+"/"+manifest)
		if errors.Is(err, bucket.ErrMissing) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		entries, err = decodeIndex(run, r)
		return err == nil, errors.Join(err, r.Close())
	})
	if err == nil || !errors.Is(err, errWaited) {
		return entries, err
	}
	return nil, o.diagnose(run, context.Cause(ctx))
}

// diagnoseWithin bounds how long it is asked why a manifest did not come.
const diagnoseWithin = 10 * time.Second

// diagnose says why a run's manifest did not come.
func (o *objects) diagnose(run string, cause error) error {
	ctx, cancel := context.WithTimeout(context.Background(), diagnoseWithin)
	defer cancel()
	count := func(prefix string, but string) (n int, err error) {
		err = o.b.Each(ctx, prefix, func(i bucket.Info) error {
			if i.Key != but {
				n++
			}
			return nil
		})
		return n, err
	}
	n, err := count(runFolder(run)+"/", "")
	if err != nil {
		return err
	}
	if n > 0 {
		return fault.Wrap(fault.Missing, cause, "The bucket %s has %d files of the run, and no manifest yet.", o.b.Address(), n).
			WithCode("handover_unfinished").WithRemedy("The back end still writes, or ended before it was done.")
	}
	if n, err = count(writers+"/", writers+"/"+o.me); err != nil {
		return err
	}
	if n == 0 {
		return fault.Wrap(fault.Missing, cause, "No back end has ever written to the bucket %s: it is another one than theirs, or has another prefix.", o.b.Address()).
			WithCode("handover_wrong_mount").WithRemedy("Set the same bucket, prefix and endpoint on both sides.")
	}
	return fault.Wrap(fault.Missing, cause, "The bucket %s has nothing of the run, though back ends do write there.", o.b.Address()).
		WithCode("handover_nothing").WithRemedy("Its back end did not come to writing, or has another bucket or prefix set.")
}

// Open implements Place.
func (o *objects) Open(ctx context.Context, run string, e Entry) (io.ReadCloser, error) {
	if err := errors.Join(checkRun(run), e.check()); err != nil {
		return nil, err
	}
	r, err := o.b.Open(ctx, runFolder(run)+"/"+fileName(e.Name))
	if errors.Is(err, bucket.ErrMissing) {
		return nil, asTrouble(o.gone(e, err))
	}
	if err != nil {
		return nil, err
	}
	if size := r.Info().Size; size != e.Size {
		return nil, errors.Join(damaged(e, "it has %d bytes of %d", size, e.Size), r.Close())
	}
	never := func(error) bool { return false } // the bucket's reader goes on by itself
	return newChecked(e, r, nil, never), nil
}

// Delete implements Place. The manifest goes first.
func (o *objects) Delete(ctx context.Context, run string) error {
	if err := checkRun(run); err != nil {
		return err
	}
	if err := o.b.Delete(ctx, runFolder(run)+"/"+manifest); err != nil {
		return err
	}
	return o.b.Each(ctx, runFolder(run)+"/", func(i bucket.Info) error { return o.b.Delete(ctx, i.Key) })
}

// Runs implements Place.
func (o *objects) Runs(ctx context.Context, olderThan time.Time) ([]string, error) {
	last := map[string]time.Time{}
	err := o.b.Each(ctx, runs+"/", func(i bucket.Info) error {
		run, _, ok := strings.Cut(strings.TrimPrefix(i.Key, runs+"/"), "/")
		if ok && checkRun(run) == nil && last[run].Before(i.Modified) {
			last[run] = i.Modified
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var old []string
	for run, when := range last {
		if when.Before(olderThan) {
			old = append(old, run)
		}
	}
	return old, nil
}

// ID implements Prober. Of two programs that mark a new place at once the last one wins, and both read its id when they
// read it again; who has marked it looks again after a moment.
func (o *objects) ID(ctx context.Context) (string, error) {
	id, err := o.readID(ctx)
	if !errors.Is(err, bucket.ErrMissing) {
		return id, err
	}
	if _, err := o.b.Put(ctx, placeID, strings.NewReader(rand.Text()+"\n")); err != nil {
		return "", err
	}
	timer := time.NewTimer(markFor)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return "", context.Cause(ctx)
	case <-timer.C:
	}
	return o.readID(ctx)
}

// markFor is how long the other side may take from seeing no mark to having made one.
const markFor = 500 * time.Millisecond

func (o *objects) readID(ctx context.Context) (string, error) {
	r, err := o.b.Open(ctx, placeID)
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(io.LimitReader(r, 1<<10))
	return strings.TrimSpace(string(text)), errors.Join(err, r.Close())
}

// Leave implements Prober.
func (o *objects) Leave(ctx context.Context) (string, error) {
	token := rand.Text()
	_, err := o.b.Put(ctx, marks+"/"+token, strings.NewReader(""))
	return token, err
}

// Sees implements Prober.
func (o *objects) Sees(ctx context.Context, token string) error {
	if err := checkRun(token); err != nil {
		return err
	}
	err := poll(ctx, func() (bool, error) {
		_, err := o.b.Stat(ctx, marks+"/"+token)
		if errors.Is(err, bucket.ErrMissing) {
			return false, nil
		}
		return err == nil, err
	})
	if errors.Is(err, errWaited) {
		return fault.Wrap(fault.Missing, context.Cause(ctx), "What the other side wrote does not appear in the bucket %s.", o.b.Address()).
			WithCode("handover_wrong_mount").WithRemedy("Set the same bucket, prefix and endpoint on both sides.")
	}
	return err
}

// Sweep implements Sweeper.
func (o *objects) Sweep(ctx context.Context, olderThan time.Time) (int, error) {
	gone, err := o.b.Sweep(ctx, base+"/", olderThan)
	if err != nil {
		return gone, err
	}
	for dir, before := range map[string]time.Time{marks: olderThan, writers: olderThan.Add(-keepSigns)} {
		err := o.b.Each(ctx, dir+"/", func(i bucket.Info) error {
			if !i.Modified.Before(before) {
				return nil
			}
			gone++
			return o.b.Delete(ctx, i.Key)
		})
		if err != nil {
			return gone, err
		}
	}
	return gone, nil
}
