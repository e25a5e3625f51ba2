package gateway

import (
	"log/slog"
	"net/url"
	"strings"
	"testing"
	"time"
)

func TestRedact(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{
		"/api/queue":          "/api/queue",
		"/k/cm_abc/api/queue": "/k/***/api/queue",
		"/studio/k/x/":        "/studio/k/***/",
		"/link/abc":           "/link/***",
		"/join/ABCD-EFGH":     "/join/***",
		"//k//cm_abc":         "//k/***/***",
		"/x/cm_abc.png":       "/x/***.png",
		"/k":                  "/k",
	} {
		if got := redact(path); got != want {
			t.Errorf("%q becomes %q, want %q", path, got, want)
		}
	}
}

// TestLevel: a job that is taken at once leaves no line in the log; refusals and what takes long do.
func TestLevel(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		v      visit
		method string
		took   time.Duration
		want   slog.Level
	}{
		{visit{status: 200, submits: true}, "POST", time.Millisecond, slog.LevelDebug},
		{visit{status: 200, submits: true}, "POST", 2 * time.Second, slog.LevelInfo},
		{visit{status: 400, submits: true}, "POST", time.Millisecond, slog.LevelInfo},
		{visit{status: 500, submits: true}, "POST", time.Millisecond, slog.LevelError},
		{visit{status: 200}, "POST", time.Millisecond, slog.LevelInfo},
		{visit{status: 200}, "DELETE", time.Millisecond, slog.LevelInfo},
		{visit{status: 200}, "GET", 2 * time.Second, slog.LevelDebug},
		{visit{status: 404}, "GET", time.Millisecond, slog.LevelDebug},
		{visit{status: 403}, "GET", time.Millisecond, slog.LevelInfo},
	} {
		if got := c.v.level(c.method, c.took); got != c.want {
			t.Errorf("%s, %d, %v: %v, want %v", c.method, c.v.status, c.took, got, c.want)
		}
	}
}

func FuzzRedact(f *testing.F) {
	f.Add("/k/", "/x")
	f.Fuzz(func(t *testing.T, before, after string) {
		const secret = "cm_0123456789abcdefABCDEF0123456789abcdefABCDEF0123"
		if got := redact(before + secret + after); strings.Contains(got, secret[3:]) {
			t.Errorf("%q", got)
		}
	})
}

// FuzzLocalPath: where we send people is ours.
func FuzzLocalPath(f *testing.F) {
	for _, s := range []string{"/", "//x", "/\\x", "/a?b#c", "https://x", "/%2f/x", "/\t/x", "/signout", "/@x", "/:x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, next string) {
		got := localPath(next)
		base, err := url.Parse("https://lab.example/")
		if err != nil {
			t.Fatal(err)
		}
		u, err := base.Parse(got)
		if err != nil || u.Host != "lab.example" || u.Scheme != "https" || got[0] != '/' || len(got) > 1 && (got[1] == '/' || got[1] == '\\') {
			t.Errorf("%q leads to %q", next, got)
		}
	})
}

func TestDevice(t *testing.T) {
	t.Parallel()
	for agent, want := range map[string]string{
		"Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0":                                                "Firefox on Linux",
		"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0 Safari/537.36 Edg/156.0": "Edge on Windows",
		"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/19.0 Safari/605.1.15": "Safari on Mac",
		"Mozilla/5.0 (Linux; Android 16) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0 Mobile Safari/537.36":              "Chrome on Android",
		"python-requests/2.32":               "python-requests",
		"":                                   "An unknown program",
		"x\x00\n" + strings.Repeat("y", 100): "x" + strings.Repeat("y", 39),
	} {
		if got := deviceOf(agent); got != want {
			t.Errorf("%q is %q, want %q", agent, got, want)
		}
	}
}

func TestSize(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{0: "0 bytes", 999: "999 bytes", 1000: "1 KB", 1500: "1.5 KB", 512e6: "512 MB", 10e9: "10 GB", 1e15: "1000 TB"} {
		if got := size(n); got != want {
			t.Errorf("%d is %q, want %q", n, got, want)
		}
	}
}
