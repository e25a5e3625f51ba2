package backendtest_test

import (
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/backend/backendtest"
	"github.com/ahelme/comfyume/internal/backend/comfyui"
	"github.com/ahelme/comfyume/internal/fault"
)

// example:begin

// Socket drives a ComfyUI that is reached by a socket of this machine, such as one behind an ssh tunnel. All that a run
// needs is in the driver that it is made of: a driver of another way to a ComfyUI says only what is different.
type Socket struct{ *comfyui.Driver }

// NewSocket returns a driver for the ComfyUI behind the socket at path. It does not connect.
func NewSocket(path string, o comfyui.Options) (*Socket, error) {
	if !filepath.IsAbs(path) {
		return nil, fault.New(fault.Invalid, "%q is not the path of a socket.", path).WithRemedy("Write all of it, like /run/comfyui.sock.")
	}
	var d net.Dialer
	o.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "unix", path) }
	inner, err := comfyui.New("http://comfyui", o) // the name goes into Host; Dial says where it is
	if err != nil {
		return nil, err
	}
	return &Socket{inner}, nil
}

// Prepare refuses a run whose inputs this way is too slow for. Its error has one of the classes: here, try elsewhere.
func (s *Socket) Prepare(ctx context.Context, t backend.Task) (backend.Run, error) {
	for _, u := range t.Uploads {
		if u.Size > 1<<30 {
			return nil, backend.ErrUnreachable
		}
	}
	return s.Driver.Prepare(ctx, t)
}

var _ backend.Driver = (*Socket)(nil)

// TestSocket holds it to the contract.
func TestSocket(t *testing.T) {
	open := func(t *testing.T, server http.Handler) backend.Driver {
		path := serve(t, server) // a ComfyUI of the suite, behind a socket
		d, err := NewSocket(path, comfyui.Options{Studio: "suite", PollAfter: time.Second, HistoryGrace: 100 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	t.Run("faults", func(t *testing.T) { backendtest.RunOnFake(t, open) })
	t.Run("recorded", func(t *testing.T) { backendtest.RunRecorded(t, open) })
}

// example:end

// serve lets a handler answer at a socket until the test ends.
func serve(t *testing.T, h http.Handler) (path string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "cm") // a test's own folder has too long a name for a socket
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Skip("this system has no such sockets: ", err)
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	t.Cleanup(func() {
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
		<-ended
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return path
}

// TestTheGuideShowsThisExample: docs/drivers.md has the example as it is compiled and run here, within 60 lines, and
// names every error class and method of the contract.
func TestTheGuideShowsThisExample(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(source), "// example:begin\n\n")
	example, _, found := strings.Cut(rest, "\n// example:end")
	if n := strings.Count(example, "\n"); !found || n > 60 {
		t.Errorf("the example has %d lines", n)
	}
	guide, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "drivers.md"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(strings.ReplaceAll(string(guide), "\r\n", "\n"), "```go\n"+example+"```\n") {
		t.Error("docs/drivers.md shows another example: copy what stands between the marks of this file into it")
	}
	contract, err := os.ReadFile(filepath.Join("..", "backend.go"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(contract)) {
		word, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		method, _, isMethod := strings.Cut(strings.TrimPrefix(line, "\t"), "(")
		switch {
		case strings.HasPrefix(word, "Err"):
		case isMethod && strings.HasPrefix(line, "\t") && method != "" && method[0] >= 'A' && method[0] <= 'Z' && !strings.ContainsAny(method, " \t"):
			word = method
		default:
			continue
		}
		if !strings.Contains(string(guide), "`"+word+"`") {
			t.Errorf("docs/drivers.md does not name `%s`", word)
		}
	}
}
