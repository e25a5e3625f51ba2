package redis

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/ahelme/comfyume/internal/job"
)

// tried is an attempt that is over, as Redis keeps it: a line of JSON each. Times are milliseconds.
type tried struct {
	N       int       `json:"n"`
	BackEnd string    `json:"backend"`
	Began   int64     `json:"began,omitempty"`
	Ended   int64     `json:"ended,omitempty"`
	Posted  bool      `json:"posted,omitempty"`
	Cause   job.Cause `json:"cause"`
	Reason  string    `json:"reason,omitempty"`
}

// tryLine is the line of an attempt; empty for none.
func tryLine(t *job.Try) string {
	if t == nil {
		return ""
	}
	ms := func(at time.Time) int64 {
		if at.IsZero() {
			return 0
		}
		return at.UnixMilli()
	}
	line, err := json.Marshal(tried{t.N, t.BackEnd, ms(t.Began), ms(t.Ended), t.Posted, t.Cause, t.Reason})
	if err != nil { // numbers and texts always marshal
		return ""
	}
	return string(line) + "\n"
}

func tryLines(tries []job.Try) string {
	var all strings.Builder
	for i := range tries {
		all.WriteString(tryLine(&tries[i]))
	}
	return all.String()
}

func readTries(lines string) ([]job.Try, error) {
	var tries []job.Try
	for line := range strings.Lines(lines) {
		var t tried
		if err := json.Unmarshal([]byte(line), &t); err != nil {
			return nil, errRecord
		}
		tries = append(tries, job.Try{
			N: t.N, BackEnd: t.BackEnd, Began: timeOf(uint64(t.Began)), Ended: timeOf(uint64(t.Ended)), Posted: t.Posted,
			Cause: t.Cause, Reason: t.Reason,
		})
	}
	return tries, nil
}

// Tries implements queue.Store.
func (q *Queue) Tries(ctx context.Context, seq int64) ([]job.Try, error) {
	results, err := q.db.read(ctx, q.db.client.B().Hget().Key(q.db.key("tries")).Field(decimal(seq)).Build())
	if err != nil {
		return nil, fmt.Errorf("read attempts: %w", err)
	}
	lines, err := results[0].ToString()
	if err != nil && !rueidis.IsRedisNil(err) {
		return nil, q.db.fail(ctx, err)
	}
	return readTries(lines)
}
