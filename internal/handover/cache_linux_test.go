package handover

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ahelme/comfyume/internal/fault"
)

// late returns a view of under through a file system of its own, for which the kernel keeps names, missing names and
// attributes for a second, as it does for NFS. It takes bindfs and the right to mount.
func late(t *testing.T, under string) string {
	t.Helper()
	at, _ := mounted(t, under)
	return at
}

// mounted is late, with what ends the program that serves the mount.
func mounted(t *testing.T, under string) (at string, kill func()) {
	t.Helper()
	program, err := exec.LookPath("bindfs")
	if err != nil || os.Geteuid() != 0 {
		t.Skip("a mount takes bindfs, and root")
	}
	at = t.TempDir()
	// In the foreground: it ends with the mount, and the test waits for it.
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), program, "-f", "-o", "attr_timeout=1,entry_timeout=1,negative_timeout=1,ac_attr_timeout=1", under, at)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
		<-ended
	})
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for {
		select {
		case err := <-ended:
			ended <- err
			t.Skip("this system mounts nothing: ", err, said.String())
		case <-look.C:
		}
		if m, err := MountAt(at); err == nil && m.Point == at {
			if !m.Network() {
				t.Errorf("%+v is taken for a disk of this machine", m)
			}
			return at, func() {
				if err := cmd.Process.Kill(); err != nil {
					t.Error(err)
				}
				err := <-ended
				ended <- err
			}
		}
	}
}

// TestLateView has the two sides look at one folder, of which the studio's view is a second old at times: the kernel
// answers from memory that something is not there, or how large it was. Late is not lost, and is not taken for wrong.
func TestLateView(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	agent, studio := folderAt(t, dir), folderAt(t, late(t, dir))
	// The studio looks first, so that the kernel remembers that there is nothing.
	if _, err := studio.Manifest(soon(t), "first"); !IsWrongMount(err) {
		t.Errorf("before anybody wrote: %v", err)
	}
	seal(t, agent, "first", put(t, agent, "first", "a", noise(1000)))
	got, err := studio.Manifest(t.Context(), "first")
	if err != nil || len(got) != 1 {
		t.Fatal(got, err)
	}
	// Now it knows the place. A run that it has just not found is late; who does not wait is told so.
	if _, err := studio.Manifest(soon(t), "second"); code(err) != "handover_nothing" {
		t.Errorf("before the run: %v", err)
	}
	e := put(t, agent, "second", "film.mp4", noise(5000))
	seal(t, agent, "second", e)
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := studio.Manifest(short, "second"); err != nil {
		_, remedy := fault.Public(err)
		if !fault.Is(err, fault.Missing) || IsWrongMount(err) || !strings.Contains(remedy, "actimeo") {
			t.Errorf("a late view is told as %v", err)
		}
	}
	if got, err = studio.Manifest(t.Context(), "second"); err != nil || len(got) != 1 || got[0] != e {
		t.Fatal(got, err)
	}
	if b, err := read(t, studio, "second", e); err != nil || !bytes.Equal(b, noise(5000)) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	// It was made again, larger, while the kernel knows how large it was.
	e = put(t, agent, "second", "film.mp4", noise(70_000))
	if b, err := read(t, studio, "second", e); err != nil || !bytes.Equal(b, noise(70_000)) {
		t.Errorf("made again: %d bytes, %v", len(b), err)
	}
	// A file that grows in its place, which other programs do.
	if err := os.WriteFile(inRun(dir, "second", "film.mp4"), noise(80_000), 0o600); err != nil {
		t.Fatal(err)
	}
	grown := Entry{Name: "film.mp4", Size: 80_000, SHA256: put(t, agent, "other", "x", noise(80_000)).SHA256}
	if b, err := read(t, studio, "second", grown); err != nil || !bytes.Equal(b, noise(80_000)) {
		t.Errorf("grown: %d bytes, %v", len(b), err)
	}
	// Marks tell at once that it is the same place, and another view that it is not.
	token, err := agent.(Prober).Leave(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := studio.(Prober).Sees(t.Context(), token); err != nil {
		t.Error(err)
	}
	wrong := folderAt(t, late(t, t.TempDir()))
	if _, err := wrong.Manifest(soon(t), "second"); !IsWrongMount(err) {
		t.Errorf("another disk is told as %v", err)
	}
	if err := wrong.(Prober).Sees(soon(t), token); !IsWrongMount(err) {
		t.Errorf("another disk is told as %v", err)
	}
}

// TestDeadMount: when what serves a mount is gone it says so, with what to do.
func TestDeadMount(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at, kill := mounted(t, dir)
	p := folderAt(t, at)
	e := put(t, p, "run", "a", noise(1000))
	seal(t, p, "run", e)
	kill()
	_, put := p.Put(t.Context(), "run", "b", strings.NewReader("x"))
	_, index := p.Manifest(soon(t), "run")
	_, id := p.(Prober).ID(t.Context())
	for what, err := range map[string]error{"Put": put, "Manifest": index, "ID": id} {
		if _, remedy := fault.Public(err); code(err) != "handover_stale" || !strings.Contains(remedy, "umount -l "+at) {
			t.Errorf("%s gave %v", what, err)
		}
	}
}
