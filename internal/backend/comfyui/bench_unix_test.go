//go:build unix

package comfyui_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"testing"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/backend/backendtest"
	"github.com/ahelme/comfyume/internal/backend/comfyui"
	"github.com/ahelme/comfyume/internal/benchtest"
	"github.com/ahelme/comfyume/internal/job"
)

// serveVariable makes the test binary a fake server, so that benchmarks can tell our processor time from its.
const serveVariable = "COMFYUME_TEST_SERVE_FAKE"

func TestMain(m *testing.M) {
	if os.Getenv(serveVariable) != "" {
		if err := serveFakes(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// fakes is how many servers a benchmark drives side by side.
const fakes = 4

// serveFakes serves until its standard input ends.
func serveFakes() error {
	for range fakes {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		fmt.Println("http://" + l.Addr().String())
		go http.Serve(l, backendtest.NewFake().Handler()) //nolint:errcheck // ends with the process
	}
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// fakeProcess starts fake servers in a process of their own.
func fakeProcess(b *testing.B) (addresses []string) {
	b.Helper()
	addresses, _ = benchtest.Process(b, serveVariable+"=1", fakes)
	return addresses
}

// BenchmarkTextRun is text runs over loopback on several servers side by side: post, frames, deletion of the history. cpu-µs/op is this process's share, kernel time included.
func BenchmarkTextRun(b *testing.B) {
	for _, side := range []int{1, fakes} {
		b.Run(fmt.Sprintf("servers=%d", side), func(b *testing.B) {
			addresses := fakeProcess(b)
			before := benchtest.Processor(b)
			b.ReportAllocs()
			b.ResetTimer()
			var group sync.WaitGroup
			for i := range side {
				group.Go(func() { textRuns(b, addresses[i], (b.N+side-1)/side) })
			}
			group.Wait()
			b.ReportMetric(float64((benchtest.Processor(b)-before).Microseconds())/float64(b.N), "cpu-µs/op")
		})
	}
}

func textRuns(b *testing.B, address string, n int) {
	d, err := comfyui.New(address, comfyui.Options{})
	if err != nil {
		b.Error(err)
		return
	}
	defer d.Close()
	if _, err := d.Probe(b.Context()); err != nil {
		b.Error(err)
		return
	}
	for range n {
		run, err := d.Prepare(b.Context(), backend.Task{
			Job: "j", Prompt: []byte(`{"1":{"class_type":"Text","inputs":{"text":"hello"}}}`), ExtraData: []byte(`{}`),
			Outputs: []string{"1"}, Core: true,
			Attempt: job.Attempt{RunID: uuid.NewString(), ClientID: d.ClientID()},
		})
		if err != nil {
			b.Error(err)
			return
		}
		r, err := run.Start(b.Context(), func() {}, func(backend.Update) error { return nil })
		if err != nil || r.State != job.Completed {
			b.Error(r, err)
			return
		}
		if err := run.Close(); err != nil {
			b.Error(err)
		}
	}
}
