//go:build unix

package dispatch_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/ahelme/comfyume/internal/backend/backendtest"
	"github.com/ahelme/comfyume/internal/backend/comfyui"
	"github.com/ahelme/comfyume/internal/benchtest"
	"github.com/ahelme/comfyume/internal/dispatch"
	"github.com/ahelme/comfyume/internal/event"
	"github.com/ahelme/comfyume/internal/file"
	"github.com/ahelme/comfyume/internal/fleet"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
	"github.com/ahelme/comfyume/internal/sqlite"
)

// serveVariable makes the test binary serve fakes, so that benchmarks can tell our processor time from theirs.
const serveVariable = "COMFYUME_TEST_SERVE_FAKES"

// fakes is how many servers a benchmark drives.
const fakes = 4

func TestMain(m *testing.M) {
	if os.Getenv(serveVariable) == "" {
		goleak.VerifyTestMain(m)
		return
	}
	for range fakes {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println("http://" + l.Addr().String())
		go http.Serve(l, backendtest.NewFake().Handler()) //nolint:errcheck // ends with the process
	}
	io.Copy(io.Discard, os.Stdin) //nolint:errcheck // any end of input will do
}

func fakeProcess(b *testing.B) (addresses []string) {
	b.Helper()
	addresses, _ = benchtest.Process(b, serveVariable+"=1", fakes)
	return addresses
}

// submitter is what a benchmark asks of a queue.
type submitter interface {
	dispatch.Queue
	Submit(context.Context, job.Submission) (job.Job, bool, error)
}

// BenchmarkTextJob is text jobs of 8 people with 8 outstanding each, on 4 servers, from submit to finish, each
// person watching. cpu-µs/op is this process's share; with queue=sqlite every step is durable.
func BenchmarkTextJob(b *testing.B) {
	for _, kind := range []string{"memory", "sqlite"} {
		b.Run("queue="+kind, func(b *testing.B) {
			bus := event.New()
			var disp *dispatch.Dispatcher
			notify := func(c job.Changed) {
				bus.Publish(event.Event{User: c.Job.User, Body: event.JobChanged{Changed: c}})
				disp.JobChanged(c)
			}
			var q submitter = &memory{notify: notify, jobs: map[job.ID]job.Entry{}}
			if kind == "sqlite" {
				q = durable(b, notify)
			}
			var members []fleet.Member
			for i, address := range fakeProcess(b) {
				d, err := comfyui.New(address, comfyui.Options{})
				if err != nil {
					b.Fatal(err)
				}
				defer d.Close()
				members = append(members, fleet.Member{Name: fmt.Sprintf("gpu%d", i), Driver: d})
			}
			fl, err := fleet.New(members, nothing{}, fleet.Options{Changed: func() { disp.FleetChanged() }})
			if err != nil {
				b.Fatal(err)
			}
			disp = dispatch.New(dispatch.Deps{
				Queue: q, Fleet: fl, Deliver: &files{names: map[owned]file.Ref{}}, Rewriter: mirror{}, Bus: bus,
			}, dispatch.Options{})
			ctx, cancel := context.WithCancel(b.Context())
			var parts sync.WaitGroup
			parts.Go(func() { fl.Run(ctx) })   //nolint:errcheck // ends with ctx
			parts.Go(func() { disp.Run(ctx) }) //nolint:errcheck // reads nothing at its start
			defer parts.Wait()
			defer cancel()
			loadJobs(b, bus, q)
		})
	}
}

// loadJobs runs b.N jobs.
func loadJobs(b *testing.B, bus *event.Bus, q submitter) {
	const people, outstanding = 8, 8
	request := job.Request{
		Prompt:    json.RawMessage(`{"1":{"class_type":"Text","inputs":{"text":"hello"}}}`),
		ExtraData: json.RawMessage(`{}`), Outputs: []string{"1"},
	}
	var left atomic.Int64
	left.Store(int64(b.N))
	var group sync.WaitGroup
	b.ResetTimer()
	before := benchtest.Processor(b)
	for i := range people {
		user := fmt.Sprint("user", i)
		sub := bus.Subscribe(user, event.Options{})
		submit := func() bool {
			if left.Add(-1) < 0 {
				return false
			}
			_, _, err := q.Submit(b.Context(), job.Submission{
				ID: job.ID(uuid.Must(uuid.NewV7()).String()), User: user, ClientID: "sid", Created: time.Now(), Request: request,
			})
			if err != nil {
				b.Error(err)
			}
			return err == nil
		}
		group.Go(func() {
			defer sub.Close()
			open := 0
			for open < outstanding && submit() {
				open++
			}
			for open > 0 {
				e, err := sub.Next(b.Context())
				if err != nil {
					b.Error(err)
					return
				}
				c, ok := e.Body.(event.JobChanged)
				if !ok || c.Change != job.Finished {
					continue
				}
				if c.Outcome.State != job.Completed {
					b.Error("a job ended as ", c.Outcome.State)
				}
				if !submit() {
					open--
				}
			}
		})
	}
	group.Wait()
	b.ReportMetric(float64((benchtest.Processor(b)-before).Microseconds())/float64(b.N), "cpu-µs/op")
}

func durable(b *testing.B, notify func(job.Changed)) submitter {
	b.Helper()
	db, err := sqlite.Open(b.Context(), filepath.Join(b.TempDir(), "studio.db"), sqlite.Options{})
	if err != nil {
		b.Fatal(err)
	}
	store, err := sqlite.NewQueue(b.Context(), db)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := store.Close(); err != nil {
			b.Error(err)
		}
		if err := db.Close(); err != nil {
			b.Error(err)
		}
	})
	q, err := queue.New(b.Context(), store, queue.Options{Mode: queue.RoundRobin, Notify: notify})
	if err != nil {
		b.Fatal(err)
	}
	return q
}
