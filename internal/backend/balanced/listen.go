package balanced

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/backend/comfyui"
	"github.com/ahelme/comfyume/internal/fault"
)

const (
	listenFor = 1500 * time.Millisecond // how long a replica may say nothing of the run before another is tried
	deafAfter = 5                       // so many web sockets that are refused in a row are enough
	deafFor   = 10 * time.Minute        // and this long none is tried any more
)

// listen tries to reach the replica that has the run with a web socket, and stays there when it does: then there is
// progress, and the open connection keeps the replica awake. Where the balancer takes none there is no progress.
func (f *follower) listen(ctx context.Context, frames chan<- comfyui.Frame) {
	rest := time.NewTimer(f.d.o.LookEvery)
	defer rest.Stop()
	for {
		select {
		case <-rest.C:
		case <-ctx.Done():
			return
		}
		rest.Reset(2 * f.d.o.LookEvery)
		if since := f.d.deaf.Load(); since > deafAfter && time.Since(time.Unix(0, since)) < deafFor {
			continue
		}
		f.listenOnce(ctx, frames)
	}
}

// listenOnce tries one replica.
func (f *follower) listenOnce(ctx context.Context, frames chan<- comfyui.Frame) {
	trying, cancel := context.WithCancel(ctx)
	defer cancel()
	opened := false
	quiet := time.AfterFunc(listenFor+f.d.o.RequestTimeout, cancel)
	defer quiet.Stop()
	err := f.d.quick.Listen(trying, f.client, f.id, func(fr comfyui.Frame) bool {
		if !opened {
			opened = true
			f.d.deaf.Store(0)
			quiet.Reset(listenFor)
		}
		if fr.Idle || fr.Busy {
			return fr.Busy
		}
		quiet.Stop() // it is the one
		select {
		case frames <- fr:
			return fr.End == nil
		case <-trying.Done():
			return false
		}
	})
	if err == nil || opened || ctx.Err() != nil {
		return
	}
	if n := f.d.deaf.Add(1); n >= deafAfter { // from then on it is the time of the last try
		if n == deafAfter {
			f.d.log.Info("web sockets don't get through to the replicas: people see no progress of runs there", "err", err)
		}
		f.d.deaf.Store(time.Now().UnixNano())
	}
}

// drain copies all.
func drain(w io.Writer, r io.Reader) error {
	_, err := io.Copy(w, r)
	return err
}

// notShared says why a file that a replica has written is not to be had: whether the shared folder is another one than
// the replicas', or only slow.
func (r *run) notShared(ctx context.Context, cause error) error {
	const name = "comfyume-shared.txt"
	sees, asked := 0, 0
	if err := r.d.shelf.mark(name); err == nil {
		for range r.d.enough() {
			body, err := r.d.quick.View(ctx, backend.FileRef{Filename: name, Type: "output"})
			switch {
			case err == nil:
				body.Close() //nolint:errcheck // it is there
				sees++
				asked++
			case fault.Is(err, fault.Missing):
				asked++
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
		}
	}
	var why error
	switch {
	case asked == 0:
		why = fault.Wrap(fault.Unavailable, cause, "An output is not in the shared folder %s, and no replica answers.", r.d.shelf.outputs).
			WithRemedy("Look at the provider whether replicas are up; where all of them have ended, see that %s is the disk that they wrote to.", r.d.shelf.outputs)
	case sees == 0:
		why = fault.Wrap(fault.Unavailable, cause, "The shared folder is not the one that the replicas write to: none of %d looks found there what was written here.", asked).
			WithRemedy("Mount the disk of %s at the replicas too, and start ComfyUI with --output-directory on it.", r.d.shelf.outputs)
	case sees < asked:
		why = fault.Wrap(fault.Unavailable, cause, "Only some replicas write to the shared folder: %d of %d looks found there what was written here.", sees, asked).
			WithRemedy("Give all replicas the same mount, that of %s, and --output-directory on it.", r.d.shelf.outputs)
	default:
		why = fault.Wrap(fault.Unavailable, cause, "The shared folder is the right one, and shows an output more than %v late.", r.d.o.VisibleFor).
			WithRemedy("Mount it with a shorter attribute cache, such as actimeo=3.")
	}
	return fmt.Errorf("%w: %w", backend.ErrLost, why)
}
