package app_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/internal/app"
	"github.com/ahelme/comfyume/internal/client"
	"github.com/ahelme/comfyume/internal/config"
	"github.com/ahelme/comfyume/internal/fault"
)

// options are those of a small studio of its own.
func options(t *testing.T, flags map[string]string) app.Options {
	t.Helper()
	all := map[string]string{"data": filepath.Join(t.TempDir(), "data"), "listen": "127.0.0.1:0", "metrics": "", "queue_api": ""}
	for k, v := range flags {
		all[k] = v
	}
	settings, err := config.Load(config.Source{Flags: all, Users: []config.User{{Name: "ann", Role: "participant"}}})
	if err != nil {
		t.Fatal(err)
	}
	return app.Options{Settings: settings, Version: "test", Frontends: t.TempDir(), Log: slog.New(slog.DiscardHandler)}
}

// run starts a studio and calls fn while it serves. It returns the error the studio ended with.
func run(t *testing.T, o app.Options, fn func(*app.Studio)) error {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	return app.Run(ctx, o, func(s *app.Studio) error {
		defer stop()
		fn(s)
		return nil
	})
}

func TestServesAndStops(t *testing.T) {
	t.Parallel()
	o := options(t, nil)
	err := run(t, o, func(s *app.Studio) {
		for path, want := range map[string]int{"/healthz": 200, "/readyz": 200, "/studio/api/v1/me": 401} {
			res, err := http.Get(s.Address() + path)
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			if res.StatusCode != want {
				t.Errorf("%s gave %s, want %d", path, res.Status, want)
			}
		}
		path, err := app.SocketPath(o.Settings.Data, "")
		if err != nil {
			t.Fatal(err)
		}
		if !app.SocketIsOurs(path) {
			t.Fatalf("no control socket at %s", path)
		}
		c := client.Socket(path)
		defer c.Close()
		st, err := c.Status(t.Context())
		if err != nil || !st.Ready || !st.Running || st.URL != s.Address() || st.ID == "" {
			t.Errorf("got %+v, %v", st, err)
		}
		link, err := s.Link(t.Context(), "ann")
		if err != nil || !strings.HasPrefix(link, s.Address()+"/link/") {
			t.Errorf("got %s, %v", link, err)
		}
		if _, err := s.Link(t.Context(), "nobody"); !fault.Is(err, fault.Missing) {
			t.Errorf("a link for nobody: %v", err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := run(t, o, func(*app.Studio) {}); err != nil {
		t.Errorf("the same folder again: %v", err)
	}
}

func TestServesEncryptedByItsOwnAuthority(t *testing.T) {
	t.Parallel()
	err := run(t, options(t, map[string]string{"tls.mode": "self"}), func(s *app.Studio) {
		res, err := http.Get("https" + strings.TrimPrefix(s.Address(), "https") + "/healthz")
		if err == nil {
			res.Body.Close()
			t.Error("nobody was told to trust the studio's own authority")
		}
		blind := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} //nolint:gosec // it fetches what to trust
		defer blind.CloseIdleConnections()
		page, err := blind.Get(s.Address() + "/signin")
		if err != nil {
			t.Fatal(err)
		}
		defer page.Body.Close()
		text, err := io.ReadAll(page.Body)
		if err != nil {
			t.Fatal(err)
		}
		if page.TLS == nil || !strings.Contains(string(text), "certificate") {
			t.Errorf("the sign-in page offers no certificate: %s", page.Status)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestUploadsWaitInTheDataFolder: the disk whose room is watched is the one that uploads fill, and what a crash left of
// them is gone after the next start.
func TestUploadsWaitInTheDataFolder(t *testing.T) {
	t.Parallel()
	o := options(t, nil)
	spool := filepath.Join(o.Settings.Data, "spool")
	if err := os.MkdirAll(spool, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(spool, "comfyume-upload-1"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := run(t, o, func(*app.Studio) {
		left, err := os.ReadDir(spool)
		if err != nil || len(left) != 0 {
			t.Errorf("left in the spool: %v, %v", left, err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestOneServerPerFolder(t *testing.T) {
	t.Parallel()
	o := options(t, nil)
	err := run(t, o, func(*app.Studio) {
		second := run(t, o, func(*app.Studio) { t.Error("two servers use one folder") })
		if !fault.Is(second, fault.Conflict) || !strings.Contains(second.Error(), "process ") {
			t.Errorf("got %v", second)
		}
		if _, _, err := app.Open(t.Context(), o); !fault.Is(err, fault.Conflict) {
			t.Errorf("a command beside a server: %v", err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestTroubleAtTheDoorIsOneSentence(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { taken.Close() })
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		flags map[string]string
		kind  fault.Kind
		says  string
	}{
		"port taken":          {map[string]string{"listen": taken.Addr().String()}, fault.Conflict, "taken by another program"},
		"metrics port taken":  {map[string]string{"metrics": taken.Addr().String()}, fault.Conflict, "--metrics"},
		"no such address":     {map[string]string{"listen": "192.0.2.7:0", "insecure_lan": "true"}, fault.Unavailable, "address of this machine"},
		"open network":        {map[string]string{"listen": "0.0.0.0:0"}, fault.Invalid, "insecure_lan"},
		"data is a file":      {map[string]string{"data": file}, fault.Unavailable, "can't be made"},
		"data below a file":   {map[string]string{"data": filepath.Join(file, "d")}, fault.Unavailable, "can't be made"},
		"files in a file":     {map[string]string{"blob": "file://" + file}, fault.Unavailable, "can't be used for people's files"},
		"frontend is no page": {map[string]string{"frontend": t.TempDir() + "/"}, fault.Invalid, "index.html"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := run(t, options(t, c.flags), func(*app.Studio) { t.Error("it serves") })
			if !fault.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestMissingPageIsSaid: without an editor the studio serves, and its log and its status say what to type.
func TestMissingPageIsSaid(t *testing.T) {
	t.Parallel()
	for want, says := range map[string]string{
		"auto": "No editor page is installed. Type: comfyume frontend install", "9.9.9": "Type: comfyume frontend install 9.9.9",
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			log := &lockedBuffer{}
			o := options(t, map[string]string{"frontend": want})
			o.Log = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelWarn}))
			err := run(t, o, func(s *app.Studio) {
				if st := s.Status(t.Context()); !st.Ready || !strings.Contains(strings.Join(st.Reasons, "\n"), says) {
					t.Errorf("the status is %+v", st)
				}
			})
			if err != nil || !strings.Contains(log.String(), says) {
				t.Errorf("%v; the log says %s", err, log)
			}
		})
	}
}

// TestDatabaseIsGone: files whose names are lost are kept for who brings the database back.
func TestDatabaseIsGone(t *testing.T) {
	t.Parallel()
	o := options(t, nil)
	if err := run(t, o, func(*app.Studio) {}); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(o.Settings.Data, "comfyume.db")
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if err := run(t, o, func(*app.Studio) {}); err != nil {
		t.Fatalf("nobody had any files: %v", err)
	}
	document := filepath.Join(o.Settings.Data, "users", "ann", "note.json")
	if err := errors.Join(os.MkdirAll(filepath.Dir(document), 0o700), os.WriteFile(document, []byte("{}"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, spoil := range []func() error{
		func() error { return os.Truncate(name, 0) },
		func() error { return os.Remove(name) },
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		err := run(t, o, func(*app.Studio) { t.Error("a studio without its database serves") })
		if !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "is gone") {
			t.Errorf("got %v", err)
		}
	}
}

func TestStudioStaysWhoItIs(t *testing.T) {
	t.Parallel()
	o := options(t, nil)
	id := func() string {
		h, done, err := app.Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		st, err := client.Handler(h).Status(t.Context())
		if err = errors.Join(err, done()); err != nil {
			t.Fatal(err)
		}
		return st.ID
	}
	first := id()
	if second := id(); first == "" || first != second {
		t.Errorf("the id was %q and is %q", first, second)
	}
	key := filepath.Join(o.Settings.Data, "key")
	info, err := os.Stat(key)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		t.Errorf("others can read the key: %v", info.Mode())
	}
	if err := os.WriteFile(key, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := app.Open(t.Context(), o); !fault.Is(err, fault.Unavailable) {
		t.Errorf("a damaged key: %v", err)
	}
}

func TestAFailedStartLeavesNothingOpen(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	var b bytes.Buffer
	o := options(t, map[string]string{"listen": taken.Addr().String()})
	o.Log = slog.New(slog.NewTextHandler(&b, nil))
	if err := run(t, o, func(*app.Studio) {}); err == nil {
		t.Fatal("it serves")
	}
	_, done, err := app.Open(t.Context(), o)
	if err != nil {
		t.Fatalf("the folder is still held: %v\n%s", err, &b)
	}
	if err := done(); err != nil {
		t.Error(err)
	}
}

func TestSocketPathFits(t *testing.T) {
	t.Parallel()
	short, err := app.SocketPath("/srv/studio", "/run/user/1")
	if err != nil || short != "/srv/studio/control.sock" {
		t.Errorf("got %s, %v", short, err)
	}
	deep := "/srv/" + strings.Repeat("deep/", 40)
	first, err := app.SocketPath(deep, "/run/user/1")
	if err != nil || filepath.Dir(first) != "/run/user/1" || len(first) > 100 {
		t.Errorf("got %s, %v", first, err)
	}
	second, err := app.SocketPath(deep+"er", "/run/user/1")
	if err != nil || first == second {
		t.Errorf("two folders share the socket %s, %v", first, err)
	}
	if none, err := app.SocketPath(deep, ""); err != nil || len(none) > 104 {
		t.Errorf("got %s, %v", none, err)
	}
}

// Bytes that no name is known for are swept away: a studio must not take another one's for its own.
func TestBytesOfAnotherStudioAreLeftAlone(t *testing.T) {
	t.Parallel()
	shared := map[string]string{"blob": "file://" + filepath.ToSlash(filepath.Join(t.TempDir(), "files"))}
	first := options(t, shared)
	for range 2 { // its own it knows again
		if err := run(t, first, func(*app.Studio) {}); err != nil {
			t.Fatal(err)
		}
	}
	err := run(t, options(t, shared), func(*app.Studio) { t.Error("a second studio serves the first one's files") })
	if sentence, remedy := fault.Public(err); !strings.Contains(sentence, "another studio") || remedy == "" {
		t.Errorf("the second studio says %q, %q", sentence, remedy)
	}
}
