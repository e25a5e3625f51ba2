package resident_test

import (
	"bytes"
	"context"
	"os"
	"runtime"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ahelme/comfyume/internal/resident"
)

// filePages returns how many kB of files this program has in memory.
func filePages(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := bytes.Cut(status, []byte("RssFile:"))
	if !found {
		t.Fatal("the system does not tell")
	}
	n, err := strconv.Atoi(string(bytes.Fields(rest)[0]))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestTrim: the program's file leaves memory, and what it is made of comes back.
func TestTrim(t *testing.T) {
	before := filePages(t)
	resident.Trim()
	after := filePages(t)
	if after >= before {
		t.Errorf("%d kB of files were in memory, and %d kB after a trim", before, after)
	}
	for range 10 {
		resident.Trim()
	}
	if filePages(t) == 0 {
		t.Error("a program that runs has nothing of its file in memory")
	}
}

// TestKeepAfterBurst: what a burst of work needed is given back when it is over, and an idle program is left alone.
func TestKeepAfterBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		trims := func() uint32 {
			synctest.Wait()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.NumForcedGC
		}
		go resident.Keep(t.Context())
		first := trims()
		time.Sleep(30 * time.Second)
		if n := trims() - first; n != 0 {
			t.Errorf("an idle program was trimmed %d times in half a minute", n)
		}
		burst := make([]byte, 32<<20)
		runtime.KeepAlive(burst)
		time.Sleep(11 * time.Second)
		if n := trims() - first; n != 1 {
			t.Errorf("after a burst it was trimmed %d times, want once", n)
		}
	})
}

// TestKeep: it goes on until its context ends.
func TestKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		began := time.Now()
		resident.Keep(ctx)
		if took := time.Since(began); took != 5*time.Minute {
			t.Errorf("it ended after %s", took)
		}
	})
}
