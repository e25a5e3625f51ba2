package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
	"github.com/ahelme/comfyume/internal/queue/payload"
)

// ticks is how many numbers of the counter are reserved at once.
const ticks = 4096

// Queue is the queue's store. It is safe for concurrent use.
type Queue struct {
	db   *DB
	pack *payload.Packer

	// These belong to the writer's goroutine.
	tick, marked int64          // last number given; numbers up to marked are reserved durably
	sealed       map[int64]bool // jobs with credentials: few, so that hardly an end has a row to look for
}

var _ queue.Store = (*Queue)(nil)

// NewQueue returns the queue's store in the database. Close it before the database.
func NewQueue(ctx context.Context, db *DB) (*Queue, error) {
	pack, err := payload.New()
	if err != nil {
		return nil, err
	}
	q := &Queue{db: db, pack: pack, sealed: map[int64]bool{}}
	if err := q.cleanUp(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("undo a half-made import: %w", err), pack.Close())
	}
	err = db.QueryRow(ctx, sqlMark).Scan(&q.marked)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return nil, errors.Join(fmt.Errorf("read the queue's counter: %w", err), pack.Close())
	}
	q.tick = q.marked
	sealed, err := numbers(db.Query(ctx, sqlSealed))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read which jobs have credentials: %w", err), pack.Close())
	}
	for _, seq := range sealed {
		q.sealed[seq] = true
	}
	return q, nil
}

// Settled implements queue.Store.
func (q *Queue) Settled(context.Context) error { return q.db.Settled() }

// Close gives the memory back that packing needs.
func (q *Queue) Close() error { return q.pack.Close() }

const (
	sqlSealed    = `select seq from job_credential`
	sqlMark      = `select mark from counter where name = 'queue'`
	sqlRaiseMark = `insert into counter(name, mark) values('queue', ?) on conflict(name) do update set mark = excluded.mark`
)

// next returns the next number for sequences, fences and ends. After a crash numbers may be left out, none comes
// twice: what fails to commit takes its reservation along, and then the reservation is made again.
func (q *Queue) next(tx *Tx) (int64, error) {
	if q.tick >= q.marked {
		mark := q.tick + ticks
		if _, err := tx.Exec(sqlRaiseMark, mark); err != nil {
			return 0, fmt.Errorf("reserve numbers: %w", err)
		}
		// The reservation only counts once it is committed: if this request fails, the next one reserves again.
		tx.AfterCommit(func() { q.marked = max(q.marked, mark) })
	}
	q.tick++
	return q.tick, nil
}

const (
	sqlInsertJob = `insert into job(seq, id, user, grp, prompt_id, client_id, number, class, state, workflow_id, digest, created, held, profile, deadline)
	values(?, ?, ?, ?, ?, ?, ?, ?, 'pending', ?, ?, ?, ?, ?, ?)`
	sqlInsertClaimed = `insert into job(seq, id, user, grp, prompt_id, client_id, number, class, state, workflow_id, digest, created, held, profile, deadline,
		attempt, fence, back_end, run_id, run_client, lease)
	values(?, ?, ?, ?, ?, ?, ?, ?, 'running', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`
)

const (
	sqlInsertRequest    = `insert into job_request(seq, body) values(?, ?)`
	sqlInsertCredential = `insert into job_credential(seq, sealed) values(?, ?)`
	sqlRaiseNumber      = `insert into job_number(user, mark) values(?, ?) on conflict(user) do update set mark = max(mark, excluded.mark)`
	sqlReplace          = `update job set hidden = 1 where seq = ? and user = ? and prompt_id = ? and ended is not null and hidden = 0`
)

// Insert implements queue.Store.
func (q *Queue) Insert(ctx context.Context, in queue.Insertion, done func(seq, fence int64)) (clash *queue.Clash, err error) {
	body := q.pack.Request(in.Request)
	err = q.db.Write(ctx, func(tx *Tx) error {
		if clash, err = keyClash(tx, &in); err != nil {
			return err
		}
		if clash != nil {
			return errClash
		}
		if err := replace(tx, &in); err != nil {
			return err
		}
		seq, fence, err := q.insertJob(tx, &in)
		if isConstraint(err) {
			found, ferr := scanJob(tx.QueryRow(sqlFind, in.Job.User, in.Job.PromptID))
			if ferr != nil { // another constraint, such as a job id used twice
				return err
			}
			clash = &queue.Clash{Job: found}
			return errClash
		}
		if err != nil {
			return err
		}
		if _, err := tx.Exec(sqlInsertRequest, seq, body); err != nil {
			return err
		}
		if in.Credentials != nil {
			if _, err := tx.Exec(sqlInsertCredential, seq, in.Credentials); err != nil {
				return err
			}
			tx.AfterCommit(func() { q.sealed[seq] = true })
		}
		if in.Key != "" {
			if _, err := tx.Exec(sqlBindKey, in.Job.User, in.Key, seq, in.KeyUntil.UnixMilli()); err != nil {
				return err
			}
		}
		if in.NumberMark > 0 {
			if _, err := tx.Exec(sqlRaiseNumber, in.Job.User, in.NumberMark); err != nil {
				return err
			}
		}
		tx.AfterCommit(func() { done(seq, fence) })
		return nil
	})
	if errors.Is(err, errClash) {
		return clash, nil
	}
	return nil, err
}

// errClash undoes an insertion whose key or prompt id is taken.
var errClash = errors.New("the key or the prompt id is taken")

// replace hides the job that the insertion replaces.
func replace(tx *Tx, in *queue.Insertion) error {
	if in.Replace == 0 {
		return nil
	}
	n, err := tx.Affect(sqlReplace, in.Replace, in.Job.User, in.Job.PromptID)
	if err != nil || n == 0 {
		return err
	}
	return forget(tx, in.Replace)
}

// insertJob writes the job's row.
func (q *Queue) insertJob(tx *Tx, in *queue.Insertion) (seq, fence int64, err error) {
	if seq, err = q.next(tx); err != nil {
		return 0, 0, err
	}
	j := &in.Job
	args := []any{
		seq, string(j.ID), j.User, j.Group, j.PromptID, j.ClientID, j.Number, int64(j.Class), j.WorkflowID,
		digest(j.Digest), j.Created.UnixMilli(), j.Held, payload.Profile(j.Profile), jobMillis(j.Deadline),
	}
	if in.Attempt == nil {
		_, err = tx.Exec(sqlInsertJob, args...)
		return seq, 0, err
	}
	if fence, err = q.next(tx); err != nil {
		return 0, 0, err
	}
	a := in.Attempt
	_, err = tx.Exec(sqlInsertClaimed, append(args, int64(a.N), fence, a.BackEnd, a.RunID, a.ClientID, jobMillis(a.LeaseUntil))...)
	return seq, fence, err
}

const sqlClaim = `update job set state = 'running', attempt = ?, fence = ?, back_end = ?, run_id = ?, run_client = ?, lease = ?, posted = 0
	where seq = ? and state = 'pending' and held = 0`

// Claim implements queue.Store.
func (q *Queue) Claim(ctx context.Context, seq int64, a job.Attempt, done func(int64)) error {
	return q.db.Write(ctx, func(tx *Tx) error {
		fence, err := q.next(tx)
		if err != nil {
			return err
		}
		n, err := tx.Affect(sqlClaim, int64(a.N), fence, a.BackEnd, a.RunID, a.ClientID, jobMillis(a.LeaseUntil), seq)
		if err != nil {
			return err
		}
		if n == 0 {
			return queue.ErrStale
		}
		tx.AfterCommit(func() { done(fence) })
		return nil
	})
}

const sqlRenew = `update job set lease = ?, posted = ?, started = ? where seq = ? and fence = ? and state = 'running'`

// Renew implements queue.Store.
func (q *Queue) Renew(ctx context.Context, renewals []queue.Renewal, until time.Time) ([]bool, error) {
	renewed := make([]bool, len(renewals))
	err := q.db.Write(ctx, func(tx *Tx) error {
		for i, r := range renewals {
			n, err := tx.Affect(sqlRenew, jobMillis(until), r.Posted, jobMillis(r.Started), r.Seq, r.Fence)
			if err != nil {
				return err
			}
			renewed[i] = n > 0
		}
		return nil
	})
	return renewed, err
}

const sqlReleaseJob = `update job set state = 'pending', lease = null, posted = 0 where seq = ? and fence = ? and state = 'running'`

// Release implements queue.Store.
func (q *Queue) Release(ctx context.Context, seq, fence int64, try *job.Try, done func()) error {
	return q.db.Write(ctx, func(tx *Tx) error {
		n, err := tx.Affect(sqlReleaseJob, seq, fence)
		if err != nil {
			return err
		}
		if n == 0 {
			return queue.ErrStale
		}
		if try != nil {
			if err := addTry(tx, seq, try); err != nil {
				return err
			}
		}
		tx.AfterCommit(done)
		return nil
	})
}

const sqlStop = `update job set stop = 1 where seq = ? and fence = ? and state = 'running'`

// Stop implements queue.Store.
func (q *Queue) Stop(ctx context.Context, jobs []queue.Ref, done func([]bool)) error {
	stopped := make([]bool, len(jobs))
	return q.db.Write(ctx, func(tx *Tx) error {
		for i, r := range jobs {
			n, err := tx.Affect(sqlStop, r.Seq, r.Fence)
			if err != nil {
				return err
			}
			stopped[i] = n > 0
		}
		tx.AfterCommit(func() { done(stopped) })
		return nil
	})
}

const (
	// An open job is never hidden. Where it ends in view the column is left alone: setting it, even to what it is,
	// would move the job's entry in every index with a condition on it.
	sqlFinishSet        = `state = ?, started = ?, finished = ?, ended = ?, error = ?, summary = ?, lease = null, posted = 0`
	sqlIfRunning        = ` where seq = ? and fence = ? and state = 'running'`
	sqlIfPending        = ` where seq = ? and fence >= ? and state = 'pending'`
	sqlFinishRunning    = `update job set ` + sqlFinishSet + sqlIfRunning
	sqlFinishPending    = `update job set ` + sqlFinishSet + sqlIfPending
	sqlHideRunning      = `update job set hidden = 1, ` + sqlFinishSet + sqlIfRunning
	sqlHidePending      = `update job set hidden = 1, ` + sqlFinishSet + sqlIfPending
	sqlInsertOutcome    = `insert into job_outcome(seq, body) values(?, ?)`
	sqlDeleteCredential = `delete from job_credential where seq = ?`
	sqlDeleteRequest    = `delete from job_request where seq = ?`
	sqlDeleteOutcome    = `delete from job_outcome where seq = ?`
)

// Finish implements queue.Store.
func (q *Queue) Finish(ctx context.Context, ends []queue.Ending, done func([]int64)) error {
	bodies := make([][]byte, len(ends))
	for i, e := range ends {
		if e.Outcome != nil && !e.Hidden {
			bodies[i] = q.pack.Outcome(*e.Outcome)
		}
	}
	ended := make([]int64, len(ends))
	return q.db.Write(ctx, func(tx *Tx) error {
		for i := range ends {
			var err error
			if ended[i], err = q.finish(tx, &ends[i], bodies[i]); err != nil {
				return err
			}
		}
		tx.AfterCommit(func() { done(ended) })
		return nil
	})
}

// finish returns the number of the end, or zero where the condition did not hold.
func (q *Queue) finish(tx *Tx, e *queue.Ending, body []byte) (int64, error) {
	end, err := q.next(tx)
	if err != nil {
		return 0, err
	}
	var message string
	var summary json.RawMessage
	if e.Outcome != nil {
		message, summary = e.Outcome.Error, e.Outcome.Summary
	}
	n, err := tx.Affect(finishQuery(e), string(e.State), jobMillis(e.Started), jobMillis(e.Finished), end, message,
		[]byte(summary), e.Seq, e.Fence)
	if err != nil || n == 0 {
		return 0, err
	}
	if e.Try != nil {
		if err := addTry(tx, e.Seq, e.Try); err != nil {
			return 0, err
		}
	}
	if q.sealed[e.Seq] {
		if _, err := tx.Exec(sqlDeleteCredential, e.Seq); err != nil {
			return 0, err
		}
		tx.AfterCommit(func() { delete(q.sealed, e.Seq) })
	}
	if e.Hidden {
		_, err = tx.Exec(sqlDeleteRequest, e.Seq)
	} else if body != nil {
		_, err = tx.Exec(sqlInsertOutcome, e.Seq, body)
	}
	return end, err
}

func finishQuery(e *queue.Ending) string {
	switch {
	case e.Fence == 0 && e.Hidden:
		return sqlHidePending
	case e.Fence == 0:
		return sqlFinishPending
	case e.Hidden:
		return sqlHideRunning
	}
	return sqlFinishRunning
}

// forget drops what a final job asked for and gave.
func forget(tx *Tx, seq int64) error {
	for _, query := range []string{sqlDeleteRequest, sqlDeleteOutcome} {
		if _, err := tx.Exec(query, seq); err != nil {
			return err
		}
	}
	return nil
}

const (
	sqlHidePrompts = `update job set hidden = 1 where user = ?1 and hidden = 0 and ended is not null
		and prompt_id in (select value from json_each(?2)) returning seq`
	sqlHideAll = `update job set hidden = 1 where user = ? and hidden = 0 and ended is not null returning seq`
)

// Hide implements queue.Store.
func (q *Queue) Hide(ctx context.Context, user string, prompts []string, done func(int)) error {
	query, args := sqlHideAll, []any{user}
	if prompts != nil {
		list, err := json.Marshal(prompts)
		if err != nil {
			return fmt.Errorf("encode prompt ids: %w", err)
		}
		query, args = sqlHidePrompts, []any{user, string(list)}
	}
	return q.db.Write(ctx, func(tx *Tx) error {
		seqs, err := numbers(tx.Query(query, args...))
		if err != nil {
			return err
		}
		for _, seq := range seqs {
			if err := forget(tx, seq); err != nil {
				return err
			}
		}
		tx.AfterCommit(func() { done(len(seqs)) })
		return nil
	})
}

// numbers reads a column of integers to its end.
func numbers(rows *sql.Rows, err error) ([]int64, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []int64
	for rows.Next() {
		var n int64
		if err := rows.Scan(&n); err != nil {
			return nil, err
		}
		all = append(all, n)
	}
	return all, rows.Err()
}
