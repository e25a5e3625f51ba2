package agent

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestNeighbour: a ComfyUI of somebody else is watched: away, there, silent, there again, another program.
func TestNeighbour(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &machine{begin: func(*program) {}}
		if _, err := m.Start(procSpec()); err != nil {
			t.Fatal(err)
		}
		n, err := NewNeighbour("http://gpu:8188/", "1", nil)
		if err != nil {
			t.Fatal(err)
		}
		n.dial = m.dial
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { n.Run(ctx) })
		defer func() {
			cancel()
			running.Wait()
			n.http.CloseIdleConnections()
			m.running().Stop(0)
		}()
		is := func(state, code string, within time.Duration) {
			t.Helper()
			for began := time.Now(); ; time.Sleep(100 * time.Millisecond) {
				st := n.Status().ComfyUI
				if st.State == state && (code == "" || st.LastCause != nil && st.LastCause.Code == code) {
					return
				}
				if time.Since(began) > within {
					t.Fatalf("it is %s (%v) after %s, want %s", st.State, st.LastCause, within, state)
				}
			}
		}
		is(Crashed, CodeUnreachable, 3*time.Second)
		m.running().serve()
		is(Ready, "", 3*time.Second)
		if v := n.Status(); v.ComfyUI.Version != "0.3.64" || v.Models["loras"] == nil || v.ComfyUI.Owned {
			t.Errorf("%+v", v)
		}
		time.Sleep(time.Minute)
		m.running().set(func() { m.running().mute = true })
		is(Frozen, CodeFrozen, 15*time.Second)
		m.running().set(func() { m.running().mute = false })
		is(Ready, "", 40*time.Second)
		if c, err := n.Dial(ctx); err != nil {
			t.Error(err)
		} else {
			c.Close()
		}
	})
}

func TestNeighbourIsNoComfyUI(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>") }))
	defer s.Close()
	n, err := NewNeighbour(s.URL, "1", nil)
	if err != nil {
		t.Fatal(err)
	}
	a := question(t.Context(), n.http, n.address, &n.pulse, true)
	n.took(a)
	n.http.CloseIdleConnections()
	if st := n.Status().ComfyUI; st.State != Crashed || st.LastCause.Code != CodeNotComfyUI {
		t.Errorf("%+v", st)
	}
}

func TestNeighbourAddress(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"", "gpu:8188", "ftp://gpu", "http://", "http://gpu/path", "http://me:secret@gpu", "http://gpu?x=1"} {
		if _, err := NewNeighbour(bad, "1", nil); err == nil {
			t.Errorf("%q was taken", bad)
		} else if strings.Contains(bad, "secret") && strings.Contains(err.Error(), "secret") {
			t.Errorf("a password is told: %v", err)
		}
	}
	n, err := NewNeighbour("https://gpu", "1", nil)
	if err != nil || n.host != "gpu:443" {
		t.Errorf("%v %v", n, err)
	}
}
