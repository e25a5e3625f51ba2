//go:build unix

package handover

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ahelme/comfyume/internal/fault"
)

func TestPipesHoldNobody(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := folderAt(t, dir)
	e := put(t, p, "run", "a", []byte("x"))
	name := inRun(dir, "run", "a")
	if err := errors.Join(os.Remove(name), unix.Mkfifo(name, 0o644)); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Open(t.Context(), "run", e); !fault.Is(err, fault.Invalid) {
		t.Errorf("a pipe gave %v", err)
	}
}

func TestErrorsOfUnix(t *testing.T) {
	t.Parallel()
	f := newFolder("/mnt/sfs", Options{Log: slog.New(slog.DiscardHandler)})
	for cause, want := range map[unix.Errno]string{
		unix.ENOSPC: "disk_full", unix.EDQUOT: "disk_full", unix.EROFS: "handover_readonly", unix.ESTALE: "handover_stale",
	} {
		err := f.trouble("write a file", &os.PathError{Op: "write", Path: "x", Err: cause})
		if e, ok := errors.AsType[*fault.Error](err); !ok || e.Code != want || e.Remedy == "" || !errors.Is(err, cause) {
			t.Errorf("%v gives %v", cause, err)
		}
	}
}

// stale gives some bytes and then what an NFS client says of a file that its server does not know any more.
type stale struct{ io.Reader }

func (s stale) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err == io.EOF {
		err = unix.ESTALE
	}
	return n, err
}
func (stale) Close() error { return nil }

func TestStaleHandlesAreOpenedAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := folderAt(t, dir)
	want := noise(100_000)
	e := put(t, p, "run", "a", want)
	reopened := 0
	reopen := func(at int64) (io.ReadCloser, error) {
		reopened++
		return stale{bytes.NewReader(want[at:min(int64(len(want)), at+30_000)])}, nil
	}
	first, err := reopen(0)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(newChecked(e, first, reopen, isStale)); err != nil || !bytes.Equal(b, want) || reopened != 4 {
		t.Errorf("read %d bytes, %v, opened %d times", len(b), err, reopened)
	}
	// One that stays stale is given up.
	gone := func(int64) (io.ReadCloser, error) { return stale{bytes.NewReader(nil)}, nil }
	first, err = gone(0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(newChecked(e, first, gone, isStale)); !errors.Is(err, unix.ESTALE) {
		t.Errorf("a handle that stays stale gave %v", err)
	}
	// A step meets one too.
	f := newFolder(dir, Options{Log: slog.New(slog.DiscardHandler)})
	tries := 0
	_, err = ask(t.Context(), f, func(*os.Root) (struct{}, error) {
		if tries++; tries < 3 {
			return struct{}{}, unix.ESTALE
		}
		return struct{}{}, nil
	})
	if err != nil || tries != 3 {
		t.Errorf("a stale folder gave %v after %d tries", err, tries)
	}
}

func TestAServerThatHangsHoldsNobody(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		f := newFolder(dir, Options{Log: slog.New(slog.DiscardHandler)})
		back := make(chan struct{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		_, err := ask(ctx, f, func(*os.Root) (struct{}, error) { <-back; return struct{}{}, nil })
		if code(err) != "handover_hangs" || time.Since(began) != time.Second+hangAfter {
			t.Errorf("it gave %v after %v", err, time.Since(began))
		}
		if _, err := f.ID(t.Context()); code(err) != "handover_hangs" {
			t.Errorf("meanwhile others get %v", err)
		}
		close(back)
		synctest.Wait()
		if _, err := f.ID(t.Context()); err != nil {
			t.Errorf("when it is back they get %v", err)
		}
	})
}

// lateOnes are what a network file system shows late: the file appears, or gets its size, while Open waits.
func TestOpenWaitsForWhatIsShownLate(t *testing.T) {
	t.Parallel()
	for what, early := range map[string]func(name string) error{
		"absent": os.Remove, "shorter": func(name string) error { return os.Truncate(name, 3) },
	} {
		dir := t.TempDir()
		p := folderAt(t, dir)
		e := put(t, p, "run", "a", []byte("whole"))
		name := inRun(dir, "run", "a")
		if err := early(name); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() {
			r, err := p.Open(t.Context(), "run", e)
			if err == nil {
				_, err = io.ReadAll(r)
				err = errors.Join(err, r.Close())
			}
			done <- err
		}()
		temp := filepath.Join(dir, "temp")
		if err := errors.Join(os.WriteFile(temp, []byte("whole"), 0o600), os.Rename(temp, name)); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Errorf("%s at first: %v", what, err)
		}
	}
}

func TestFullFolder(t *testing.T) {
	t.Parallel()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip("/dev/full is not here")
	}
	defer full.Close()
	f := newFolder("/mnt/sfs", Options{Log: slog.New(slog.DiscardHandler)})
	if _, _, err := fill(t.Context(), storeWriter{full, f}, bytes.NewReader(noise(10))); code(err) != "disk_full" {
		t.Errorf("a full disk gave %v", err)
	}
}
