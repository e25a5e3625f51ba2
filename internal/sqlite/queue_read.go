package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
	"github.com/ahelme/comfyume/internal/queue/payload"
)

// jobColumns are the columns scanJob reads, in its order.
const jobColumns = `job.seq, job.id, job.user, job.grp, job.prompt_id, job.client_id, job.number, job.class, job.state, job.workflow_id,
	job.digest, job.created, job.started, job.finished, job.attempt, job.fence, job.back_end, job.run_id, job.run_client, job.lease,
	job.posted, job.stop, job.hidden, job.error, job.summary, job.held, job.profile, job.deadline`

type scanner interface{ Scan(dest ...any) error }

// scanJob reads a row of jobColumns, and of more columns into more.
func scanJob(row scanner, more ...any) (j job.Job, err error) {
	var (
		id, state                         string
		class                             int64
		digest, summary, profile          []byte
		created, started, finished, lease sql.NullInt64
		deadline                          sql.NullInt64
	)
	dest := append([]any{
		&j.Seq, &id, &j.User, &j.Group, &j.PromptID, &j.ClientID, &j.Number, &class, &state, &j.WorkflowID,
		&digest, &created, &started, &finished, &j.Attempt.N, &j.Attempt.Fence, &j.Attempt.BackEnd, &j.Attempt.RunID,
		&j.Attempt.ClientID, &lease, &j.Attempt.Posted, &j.Stop, &j.Hidden, &j.Error, &summary,
		&j.Held, &profile, &deadline,
	}, more...)
	if err := row.Scan(dest...); err != nil {
		return job.Job{}, err
	}
	j.ID, j.State, j.Class = job.ID(id), job.State(state), job.Class(class)
	copy(j.Digest[:], digest)
	j.Created, j.Started, j.Finished = jobTime(created), jobTime(started), jobTime(finished)
	j.Attempt.LeaseUntil, j.Deadline = jobTime(lease), jobTime(deadline)
	if summary != nil {
		j.Summary = json.RawMessage(summary)
	}
	j.Profile, err = payload.ReadProfile(profile)
	return j, err
}

// scanJobs reads rows to their end.
func scanJobs(rows *sql.Rows, err error) (jobs []job.Job, _ error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		j, err := scanJob(rows)
		if err != nil {
			return nil, err
		}
		jobs = append(jobs, j)
	}
	return jobs, rows.Err()
}

func jobTime(ms sql.NullInt64) time.Time {
	if !ms.Valid {
		return time.Time{}
	}
	return time.UnixMilli(ms.Int64).UTC()
}

// jobMillis returns a time as it is stored: nil for "not yet".
func jobMillis(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UnixMilli()
}

func digest(d [32]byte) any {
	if d == [32]byte{} {
		return nil
	}
	return d[:]
}

// lookup turns "no rows" into the store's word for it.
func lookup(err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return queue.ErrMissing
	}
	return classify(err)
}

const (
	sqlOpen    = `select ` + jobColumns + ` from job where ended is null order by seq`
	sqlNumbers = `select user, mark from job_number`
	sqlFind    = `select ` + jobColumns + ` from job where user = ? and prompt_id = ? and hidden = 0`
	sqlGet     = `select ` + jobColumns + ` from job where id = ?`
	sqlTask    = `select r.body, c.sealed from job_request r left join job_credential c on c.seq = r.seq where r.seq = ?`
)

// EachOpen implements queue.Store.
func (q *Queue) EachOpen(ctx context.Context, fn func(job.Job) error) (int64, error) {
	// Ends get numbers from a counter whose reservation is durable before they are.
	var mark int64
	if err := q.db.QueryRow(ctx, sqlMark).Scan(&mark); err != nil && !errors.Is(err, sql.ErrNoRows) {
		return 0, classify(err)
	}
	rows, err := q.db.Query(ctx, sqlOpen)
	if err != nil {
		return 0, classify(err)
	}
	defer rows.Close()
	for rows.Next() {
		j, err := scanJob(rows)
		if err != nil {
			return 0, classify(err)
		}
		if err := fn(j); err != nil {
			return 0, err
		}
	}
	return mark, classify(rows.Err())
}

// Numbers implements queue.Store.
func (q *Queue) Numbers(ctx context.Context) (map[string]int64, error) {
	rows, err := q.db.Query(ctx, sqlNumbers)
	if err != nil {
		return nil, classify(err)
	}
	defer rows.Close()
	marks := map[string]int64{}
	for rows.Next() {
		var user string
		var mark int64
		if err := rows.Scan(&user, &mark); err != nil {
			return nil, classify(err)
		}
		marks[user] = mark
	}
	return marks, classify(rows.Err())
}

// Find implements queue.Store.
func (q *Queue) Find(ctx context.Context, user, promptID string) (job.Job, error) {
	j, err := scanJob(q.db.QueryRow(ctx, sqlFind, user, promptID))
	return j, lookup(err)
}

// Get implements queue.Store.
func (q *Queue) Get(ctx context.Context, id job.ID) (job.Job, error) {
	j, err := scanJob(q.db.QueryRow(ctx, sqlGet, string(id)))
	return j, lookup(err)
}

// Task implements queue.Store.
func (q *Queue) Task(ctx context.Context, seq int64) (job.Request, []byte, error) {
	var body, sealed []byte
	if err := q.db.QueryRow(ctx, sqlTask, seq).Scan(&body, &sealed); err != nil {
		return job.Request{}, nil, lookup(err)
	}
	req, err := q.pack.ReadRequest(body)
	return req, sealed, err
}

const sqlRequests = `select r.seq, r.body from json_each(?2) e join job_request r on r.seq = e.value join job on job.seq = r.seq
	where job.user = ?1 and job.hidden = 0`

// Requests implements queue.Store.
func (q *Queue) Requests(ctx context.Context, user string, seqs []int64) (map[int64]job.Request, error) {
	if len(seqs) == 0 {
		return map[int64]job.Request{}, nil
	}
	list, err := json.Marshal(seqs)
	if err != nil {
		return nil, fmt.Errorf("encode jobs: %w", err)
	}
	rows, err := q.db.Query(ctx, sqlRequests, user, string(list))
	if err != nil {
		return nil, classify(err)
	}
	defer rows.Close()
	out := make(map[int64]job.Request, len(seqs))
	for rows.Next() {
		var seq int64
		var body sql.RawBytes
		if err := rows.Scan(&seq, &body); err != nil {
			return nil, classify(err)
		}
		// The body is only valid until the next row, and an unpacked request may point into it.
		if out[seq], err = q.pack.ReadRequest(append([]byte(nil), body...)); err != nil {
			return nil, err
		}
	}
	return out, classify(rows.Err())
}

const (
	sqlEntryColumns = jobColumns + `, coalesce(r.body, x''), coalesce(o.body, x'')`
	sqlEntryJoins   = ` from job left join job_request r on r.seq = job.seq left join job_outcome o on o.seq = job.seq`
	sqlEntry        = `select ` + sqlEntryColumns + sqlEntryJoins + ` where job.user = ? and job.prompt_id = ? and job.hidden = 0`
	sqlHistoryPage  = `select job.ended, job.seq, job.id, job.grp, job.prompt_id, job.client_id, job.number, job.class, job.state,
		job.workflow_id, job.created, job.started, job.finished, job.error, job.summary, coalesce(r.body, x''), coalesce(o.body, x'')` +
		sqlEntryJoins + ` where job.user = ? and job.ended is not null and job.hidden = 0 and job.ended >= ? order by job.ended limit ?`
	sqlHistorySkip = `select ended from job where user = ? and ended is not null and hidden = 0 order by ended limit 1 offset ?`
	sqlHistoryLast = `select ended from job where user = ? and ended is not null and hidden = 0 order by ended desc limit 1 offset ?`
	sqlHistoryEnd  = `select max(ended) from job where user = ? and ended is not null and hidden = 0`
)

// Entry implements queue.Store.
func (q *Queue) Entry(ctx context.Context, user, promptID string) (job.Entry, error) {
	e, err := q.scanEntry(q.db.QueryRow(ctx, sqlEntry, user, promptID))
	return e, lookup(err)
}

func (q *Queue) scanEntry(row scanner) (e job.Entry, err error) {
	var request, outcome []byte
	if e.Job, err = scanJob(row, &request, &outcome); err != nil {
		return job.Entry{}, err
	}
	return e, q.unpack(&e, request, outcome)
}

// scanHistory reads a row of history: columns cost more than rows, and nobody asks a finished job for its attempts.
func (q *Queue) scanHistory(row scanner) (e job.Entry, ended int64, err error) {
	var (
		id, state                 string
		class, created            int64
		started, finished         sql.NullInt64
		summary, request, outcome []byte
	)
	j := &e.Job
	if err := row.Scan(&ended, &j.Seq, &id, &j.Group, &j.PromptID, &j.ClientID, &j.Number, &class, &state, &j.WorkflowID,
		&created, &started, &finished, &j.Error, &summary, &request, &outcome); err != nil {
		return job.Entry{}, 0, err
	}
	j.ID, j.State, j.Class, j.Summary = job.ID(id), job.State(state), job.Class(class), summary
	j.Created, j.Started, j.Finished = time.UnixMilli(created).UTC(), jobTime(started), jobTime(finished)
	return e, ended, q.unpack(&e, request, outcome)
}

// unpack reads the payloads of an entry; a final job always gets an outcome.
func (q *Queue) unpack(e *job.Entry, request, outcome []byte) (err error) {
	if len(request) > 0 {
		if e.Request, err = q.pack.ReadRequest(request); err != nil {
			return err
		}
	}
	if !e.Job.State.Final() {
		return nil
	}
	out := job.Outcome{}
	if len(outcome) > 0 {
		if out, err = q.pack.ReadOutcome(outcome); err != nil {
			return err
		}
	}
	out.State, out.Error, out.Summary = e.Job.State, e.Job.Error, e.Job.Summary
	e.Outcome = &out
	return nil
}

// historyPage is how many entries are read at once: enough to make the query cheap, few enough to hold in memory.
const historyPage = 32

// historyBytes is from how many bytes on no further entry is read into a page: a graph may have many megabytes.
const historyBytes = 8 << 20

// EachHistory implements queue.Store. It reads page by page, so that a slow reader holds neither a connection nor
// the write-ahead log.
func (q *Queue) EachHistory(ctx context.Context, user string, hq job.HistoryQuery, fn func(job.Entry) error) error {
	if hq.MaxItems == 0 {
		return nil
	}
	left := hq.MaxItems
	if left < 0 {
		left = math.MaxInt
	}
	from := int64(0)
	var err error
	switch {
	case hq.Offset > 0:
		err = q.db.QueryRow(ctx, sqlHistorySkip, user, hq.Offset).Scan(&from)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
	case hq.Offset < 0 && hq.MaxItems > 0:
		err = q.db.QueryRow(ctx, sqlHistoryLast, user, hq.MaxItems-1).Scan(&from)
		if errors.Is(err, sql.ErrNoRows) { // fewer than that: all
			err = nil
		}
	}
	if err != nil {
		return classify(err)
	}
	var last sql.NullInt64 // what ends while we read is not part of this answer
	if err := q.db.QueryRow(ctx, sqlHistoryEnd, user).Scan(&last); err != nil {
		return classify(err)
	}
	for left > 0 && last.Valid && from <= last.Int64 {
		page, next, more, err := q.historyPage(ctx, user, from, min(historyPage, left))
		if err != nil {
			return classify(err)
		}
		for _, e := range page {
			if err := fn(e); err != nil {
				return err
			}
		}
		if !more {
			return nil
		}
		left -= len(page)
		from = next
	}
	return nil
}

// historyPage reads up to n entries that ended at from or later, and says where to go on and whether there may be more.
func (q *Queue) historyPage(ctx context.Context, user string, from int64, n int) (page []job.Entry, next int64, more bool, err error) {
	rows, err := q.db.Query(ctx, sqlHistoryPage, user, from, n)
	if err != nil {
		return nil, 0, false, err
	}
	defer rows.Close()
	page = make([]job.Entry, 0, n)
	for size := 0; rows.Next(); {
		e, ended, err := q.scanHistory(rows)
		if err != nil {
			return nil, 0, false, err
		}
		e.Job.User = user
		page = append(page, e)
		next = ended + 1
		size += len(e.Request.Prompt) + len(e.Request.ExtraData)
		if e.Outcome != nil {
			size += len(e.Outcome.Outputs) + len(e.Outcome.Messages)
		}
		if size > historyBytes {
			return page, next, true, nil
		}
	}
	return page, next, len(page) == n, rows.Err()
}
