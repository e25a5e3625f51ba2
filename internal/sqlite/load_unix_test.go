//go:build unix

package sqlite_test

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/ahelme/comfyume/internal/benchtest"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
	"github.com/ahelme/comfyume/internal/sqlite"
)

// BenchmarkChains takes jobs through the database the way a studio does: each chain submits one, claims it and
// finishes it, and then begins the next. One chain shows what a lone person waits, 64 what a job costs when many
// are under way.
func BenchmarkChains(b *testing.B) {
	for _, chains := range []int{1, 64} {
		b.Run(fmt.Sprint(chains), func(b *testing.B) {
			db, err := sqlite.Open(b.Context(), filepath.Join(b.TempDir(), "comfyume.db"), sqlite.Options{})
			must(b, err)
			q, err := sqlite.NewQueue(b.Context(), db)
			must(b, err)
			b.Cleanup(func() {
				must(b, q.Close())
				must(b, db.Close())
			})
			var left atomic.Int64
			left.Store(int64(b.N))
			commits, before := db.Batches(), benchtest.Processor(b)
			b.ResetTimer()
			var wg sync.WaitGroup
			for c := range chains {
				wg.Go(func() {
					for left.Add(-1) >= 0 {
						chain(b, q, fmt.Sprintf("person%d", c%8))
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			b.ReportMetric(float64((benchtest.Processor(b)-before).Microseconds())/float64(b.N), "cpu-µs/job")
			b.ReportMetric(float64(db.Batches()-commits)/float64(b.N), "commits/job")
		})
	}
}

// chain takes one job of the person from its submission to its end.
func chain(b *testing.B, q *sqlite.Queue, user string) {
	id := uuid.Must(uuid.NewV7()).String()
	at := time.Now()
	in := queue.Insertion{
		Job: job.Job{
			ID: job.ID(id), User: user, PromptID: id, ClientID: "9f0c0a3b1d5e4c7f8a6b2d4e6f801234", Number: 1,
			State: job.Pending, WorkflowID: "0d9c0d2e-0000-4000-8000-000000000000", Created: at,
		},
		Request: job.Request{Prompt: prompt, ExtraData: json.RawMessage(`{"client_id":"9f0c0a3b1d5e4c7f8a6b2d4e6f801234"}`)},
	}
	var seq, fence int64
	if _, err := q.Insert(b.Context(), in, func(n, _ int64) { seq = n }); err != nil {
		b.Error(err)
		return
	}
	attempt := job.Attempt{N: 1, BackEnd: "gpu-1", RunID: id, ClientID: "comfyume-gpu-1", LeaseUntil: at.Add(time.Minute)}
	if err := q.Claim(b.Context(), seq, attempt, func(n int64) { fence = n }); err != nil {
		b.Error(err)
		return
	}
	end := queue.Ending{
		Ref: queue.Ref{Seq: seq, Fence: fence}, User: user, State: job.Completed, Started: at, Finished: at,
		Outcome: &job.Outcome{
			State: job.Completed, Outputs: json.RawMessage(`{"9":{"text":["a house by the sea"]}}`),
			Messages: json.RawMessage(`[["execution_start",{"timestamp":1}],["execution_success",{"timestamp":2}]]`),
			Meta:     json.RawMessage(`{"9":{"node_id":"9"}}`), Summary: json.RawMessage(`{"count":1}`),
		},
	}
	if err := q.Finish(b.Context(), []queue.Ending{end}, func([]int64) {}); err != nil {
		b.Error(err)
	}
}

// prompt is as long as that of a small workflow.
var prompt = json.RawMessage(`{"1":{"class_type":"Text","inputs":{"text":"` + strings.Repeat("a house by the sea, ", 40) + `"}}}`)
