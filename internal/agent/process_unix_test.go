//go:build unix

package agent

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// bench is a supervisor of real processes.
type bench struct {
	*Supervisor
	t    *testing.T
	dir  string
	stop func()
}

func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// start runs a supervisor of this test binary. how is what ComfyUI says before it ends at once; empty: it runs.
func start(t *testing.T, how string, change func(o *Own)) *bench {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"main.py": "", "begin": how} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o := Own{Dir: dir, Python: self, Env: []string{"HOME=" + dir}, FrozenAfter: 3 * time.Second, tick: 50 * time.Millisecond}
	if err := o.Flags.Put("port", free(t)); err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(&o)
	}
	b := &bench{Supervisor: NewSupervisor(o), t: t, dir: dir}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { b.Run(ctx) })
	b.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		b.http.CloseIdleConnections()
	})
	t.Cleanup(b.stop)
	return b
}

// until waits for a status.
func (b *bench) until(what string, ok func(st Status) bool) Status {
	b.t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		st := b.Status()
		if ok(st) {
			return st
		}
		select {
		case <-tick.C:
		case <-deadline:
			b.t.Fatalf("not %s: %+v\n%s", what, st, said(b.Supervisor))
		}
	}
}

func (b *bench) ready(restarts int) Status {
	b.t.Helper()
	return b.until("ready", func(st Status) bool { return st.ComfyUI.State == Ready && st.ComfyUI.Restarts >= restarts })
}

// tell sends the process a request and returns the answer.
func (b *bench) tell(path string) string {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.t.Context(), http.MethodGet, b.Address()+path, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := c.Do(req)
	if err != nil {
		return "" // it ended at it
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return string(text)
}

// TestProcess goes through the life of a real process: started, crashed, killed, frozen and ended with all it started.
func TestProcess(t *testing.T) {
	t.Parallel()
	b := start(t, "", func(o *Own) {
		if err := o.Flags.Put("verbose", "DEBUG"); err != nil {
			t.Fatal(err)
		}
	})
	st := b.ready(0)
	if !strings.Contains(said(b.Supervisor), "argv main.py --port "+strconv.Itoa(port(t, b))+" --max-upload-size 2048 --disable-auto-launch --verbose DEBUG --preview-method auto") {
		t.Errorf("the command line did not arrive:\n%s", said(b.Supervisor))
	}
	if !strings.Contains(said(b.Supervisor), "env HOME "+b.dir) {
		t.Errorf("the environment did not arrive:\n%s", said(b.Supervisor))
	}

	b.tell("/exit?code=1&say=Traceback%20(most%20recent%20call%20last):%0AOSError:%20%5BErrno%2028%5D%20No%20space%20left%20on%20device")
	second := b.ready(1)
	if c := second.ComfyUI.LastCause; c == nil || c.Code != CodeDiskFull {
		t.Errorf("a full disk: %+v", c)
	}
	if second.ComfyUI.PID == st.ComfyUI.PID {
		t.Error("the same process")
	}

	if err := syscall.Kill(second.ComfyUI.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	third := b.ready(2)
	if c := third.ComfyUI.LastCause; c == nil || c.Code != CodeKilled {
		t.Errorf("killed: %+v", c)
	}

	child, err := strconv.Atoi(b.tell("/child"))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(third.ComfyUI.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	fourth := b.ready(3)
	if c := fourth.ComfyUI.LastCause; c == nil || c.Code != CodeFrozen {
		t.Errorf("frozen: %+v", c)
	}
	gone(t, third.ComfyUI.PID)
	gone(t, child)

	b.stop()
	gone(t, fourth.ComfyUI.PID)
	if log := said(b.Supervisor); !strings.Contains(log, "Stopped server") {
		t.Errorf("it was not let end in good order:\n%s", log)
	}
	if st := b.Status().ComfyUI; st.State != Stopped || st.PID != 0 {
		t.Errorf("the state is %+v", st)
	}
}

func port(t *testing.T, b *bench) int {
	t.Helper()
	n, err := strconv.Atoi(b.o.Flags.Get("port"))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// gone waits until a process has ended. One that was ended and that nobody waited for counts: its parent is init.
func gone(t *testing.T, pid int) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		if syscall.Kill(pid, 0) != nil {
			return
		}
		if stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat"); err == nil && strings.Contains(string(stat), ") Z ") {
			return
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-deadline:
			t.Fatalf("process %d still runs", pid)
		}
	}
}

func TestCrashAtStart(t *testing.T) {
	t.Parallel()
	b := start(t, "Traceback (most recent call last):\nModuleNotFoundError: No module named 'aiohttp'", nil)
	st := b.until("crashed twice", func(st Status) bool {
		return st.ComfyUI.State == Crashed && st.ComfyUI.Restarts == 1 && st.ComfyUI.NextTry != nil
	})
	if c := st.ComfyUI.LastCause; c == nil || c.Code != CodeMissingModule {
		t.Errorf("%+v", c)
	}
	if wait := time.Until(*st.ComfyUI.NextTry); wait < 5*time.Minute {
		t.Errorf("what can't get better by itself is tried again after %s", wait)
	}
}

func TestPortTaken(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	b := start(t, "", func(o *Own) {
		if err := o.Flags.Put("port", strconv.Itoa(l.Addr().(*net.TCPAddr).Port)); err != nil {
			t.Fatal(err)
		}
	})
	st := b.until("crashed", func(st Status) bool { return st.ComfyUI.State == Crashed })
	c := st.ComfyUI.LastCause
	if c == nil || c.Code != CodePortTaken || !strings.Contains(c.Remedy, "--comfyui-port") {
		t.Fatalf("%+v", c)
	}
	if runtime.GOOS == "linux" && !strings.Contains(c.Text, "(process "+strconv.Itoa(os.Getpid())+")") {
		t.Errorf("it does not say who: %s", c.Text)
	}
}

// TestPythonIsNone: a program that is no Python is named before the start.
func TestPythonIsNone(t *testing.T) {
	t.Parallel()
	b := start(t, "", func(o *Own) { o.Python = "/bin/true" })
	st := b.until("crashed", func(st Status) bool { return st.ComfyUI.State == Crashed })
	if c := st.ComfyUI.LastCause; c == nil || c.Code != CodeSettings || !strings.Contains(c.Text, "is no Python") {
		t.Errorf("%+v", c)
	}
}
