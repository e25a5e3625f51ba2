package handover

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/internal/bucket/buckettest"
)

const mountinfo = `23 29 0:21 / /proc rw,nosuid - proc proc rw
29 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
40 29 0:50 / /mnt/sfs rw,relatime shared:2 master:3 - nfs4 nfs.example:/vol rw,vers=4.2,hard,acregmin=3,acregmax=60,local_lock=none
41 29 0:51 / /mnt/two\040words ro,relatime - nfs nfs.example:/b ro,vers=3,soft,nolock,actimeo=600,local_lock=all
42 40 0:52 / /mnt/sfs/over rw - tmpfs tmpfs rw
nonsense
`

func TestMounts(t *testing.T) {
	t.Parallel()
	for dir, want := range map[string]string{
		"/mnt/sfs/outputs": "nfs4", "/mnt/sfs": "nfs4", "/mnt/sfsx": "ext4", "/mnt/sfs/over/x": "tmpfs", "/mnt/two words/a": "nfs", "/": "ext4",
	} {
		if m, err := mountOf(strings.NewReader(mountinfo), dir); err != nil || m.Type != want {
			t.Errorf("%s is on %+v, %v; want %s", dir, m, err, want)
		}
	}
	good, _ := mountOf(strings.NewReader(mountinfo), "/mnt/sfs/outputs")
	if risks := good.Risks(); len(risks) != 0 || !good.Network() {
		t.Errorf("a good mount: %q", risks)
	}
	bad, _ := mountOf(strings.NewReader(mountinfo), "/mnt/two words")
	all := strings.Join(bad.Risks(), "\n")
	for _, want := range []string{"read-only", "Mount it hard", "nolock", "local_lock=all", "after 600 seconds"} {
		if !strings.Contains(all, want) {
			t.Errorf("nothing says %q:\n%s", want, all)
		}
	}
	if local, _ := mountOf(strings.NewReader(mountinfo), "/tmp"); local.Network() || local.Risks() != nil {
		t.Errorf("a local disk: %+v", local)
	}
	if m, err := MountAt(t.TempDir()); err != nil {
		t.Errorf("here: %+v, %v", m, err)
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	address := "file://" + filepath.ToSlash(dir)
	id, found := Check(t.Context(), address, "", Options{})
	if id == "" || len(found) != 0 {
		t.Errorf("a good folder: %q, %q", id, found)
	}
	if again, found := Check(t.Context(), address, id, Options{}); again != id || len(found) != 0 {
		t.Errorf("again: %q, %q", again, found)
	}
	if _, found := Check(t.Context(), address, "another", Options{}); len(found) != 1 || !strings.Contains(found[0], "is not the one it was") {
		t.Errorf("another disk in its place: %q", found)
	}
	if _, found := Check(t.Context(), address+"/none", "", Options{}); len(found) != 1 || !strings.Contains(found[0], "is not there") {
		t.Errorf("a folder that is not there: %q", found)
	}
	if os.Getuid() != 0 {
		if err := os.Chmod(dir, 0o500); err != nil {
			t.Fatal(err)
		}
		if _, found := Check(t.Context(), "file://"+filepath.ToSlash(dir), "", Options{}); len(found) != 1 {
			t.Errorf("a folder that may not be written: %q", found)
		}
	}
	server := buckettest.New(t)
	id, found = Check(t.Context(), server.Address("x"), "", Options{})
	if id == "" || len(found) != 0 {
		t.Errorf("a bucket: %q, %q", id, found)
	}
	wrong := strings.Replace(server.Address("x"), buckettest.Bucket, "other-bucket", 1) + "&key=env:NOT_SET_SECRET&secret=env:X"
	if _, found := Check(t.Context(), wrong, "", Options{}); len(found) != 1 || strings.Contains(found[0], "NOT_SET_SECRET") {
		t.Errorf("no keys: %q", found)
	}
	none := strings.Replace(server.Address("x"), buckettest.Bucket, "other-bucket", 1)
	if _, found := Check(t.Context(), none, "", Options{}); len(found) != 1 || !strings.Contains(found[0], "There is no bucket other-bucket") {
		t.Errorf("no bucket: %q", found)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, found := Check(ctx, address, "", Options{}); len(found) == 0 {
		t.Error("a check that had no time found nothing")
	}
}
