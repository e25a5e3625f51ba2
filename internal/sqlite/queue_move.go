package sqlite

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
	"github.com/ahelme/comfyume/internal/queue/payload"
)

const sqlRecords = `select ` + jobColumns + `, coalesce(r.body, x''), coalesce(o.body, x''), c.sealed, coalesce(job.ended, 0),
		coalesce(k.key, ''), coalesce(k.until, 0)
	from job left join job_request r on r.seq = job.seq left join job_outcome o on o.seq = job.seq
		left join job_credential c on c.seq = job.seq left join job_key k on k.seq = job.seq
	where job.seq > ? order by job.seq limit ?`

// EachRecord implements queue.Store. It reads page by page, like EachHistory.
func (q *Queue) EachRecord(ctx context.Context, fn func(queue.Record) error) error {
	for after := int64(0); ; {
		page, more, err := q.recordPage(ctx, after)
		if err != nil {
			return classify(err)
		}
		for _, rec := range page {
			if err := fn(rec); err != nil {
				return err
			}
			after = rec.Job.Seq
		}
		if !more {
			return nil
		}
	}
}

// recordPage reads some records behind a sequence, and says whether there may be more.
func (q *Queue) recordPage(ctx context.Context, after int64) (page []queue.Record, more bool, err error) {
	rows, err := q.db.Query(ctx, sqlRecords, after, historyPage)
	if err != nil {
		return nil, false, err
	}
	defer func() {
		if err == nil && len(page) > 0 { // after the rows are read: they may have the only connection
			err = q.addTries(ctx, page)
		}
	}()
	defer rows.Close()
	for size := 0; rows.Next(); {
		var rec queue.Record
		var request, outcome []byte
		var until int64
		rec.Job, err = scanJob(rows, &request, &outcome, &rec.Credentials, &rec.Ended, &rec.Key, &until)
		if err != nil {
			return nil, false, err
		}
		e := job.Entry{Job: rec.Job}
		if err := q.unpack(&e, request, outcome); err != nil {
			return nil, false, err
		}
		if rec.Request = e.Request; len(outcome) > 0 {
			rec.Outcome = e.Outcome
		}
		if rec.Key != "" {
			rec.KeyUntil = time.UnixMilli(until).UTC()
		}
		page = append(page, rec)
		if size += len(request) + len(outcome); size > historyBytes {
			return page, true, nil
		}
	}
	return page, len(page) == historyPage, rows.Err()
}

const (
	sqlUsed       = `select exists (select 1 from job) or exists (select 1 from job_number)`
	sqlRestoring  = `select mark from counter where name = 'restore'`
	sqlRestore    = `insert into counter(name, mark) values('restore', 1)`
	sqlRestored   = `delete from counter where name = 'restore'`
	sqlRestoreJob = `insert into job(seq, id, user, grp, prompt_id, client_id, number, class, state, workflow_id, digest, created,
		attempt, fence, back_end, run_id, run_client, lease, held, profile, deadline,
		started, finished, ended, posted, stop, hidden, error, summary)
	values(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`
)

// emptying takes everything out that Restore puts in.
var emptying = []string{
	`delete from job_try`, `delete from job_key`, `delete from job_credential`, `delete from job_outcome`, `delete from job_request`,
	`delete from job`, `delete from job_number`, sqlRestored,
}

// cleanUp undoes a Restore that was cut short. Its first commit left a mark, and its last one takes it away.
func (q *Queue) cleanUp(ctx context.Context) error {
	half, err := numbers(q.db.Query(ctx, sqlRestoring))
	if err != nil || len(half) == 0 {
		return err
	}
	return q.db.Write(ctx, func(tx *Tx) error {
		for _, query := range emptying {
			if _, err := tx.Exec(query); err != nil {
				return err
			}
		}
		tx.AfterCommit(func() { clear(q.sealed) })
		return nil
	})
}

// Restore implements queue.Store. It commits chunk by chunk: one commit of everything would hold as much in memory.
func (q *Queue) Restore(ctx context.Context, marks map[string]int64, records iter.Seq2[queue.Record, error]) error {
	if err := q.cleanUp(ctx); err != nil {
		return err
	}
	err := q.db.Write(ctx, func(tx *Tx) error {
		var used bool
		if err := tx.QueryRow(sqlUsed).Scan(&used); err != nil {
			return err
		}
		if used {
			return queue.ErrNotEmpty
		}
		_, err := tx.Exec(sqlRestore)
		return err
	})
	if err != nil {
		return err
	}
	if err := q.restore(ctx, marks, records); err != nil {
		return errors.Join(err, q.cleanUp(context.WithoutCancel(ctx)))
	}
	return nil
}

// restoreChunk and restoreBytes bound what one commit of Restore puts in.
const (
	restoreChunk = 500
	restoreBytes = 4 << 20
)

func (q *Queue) restore(ctx context.Context, marks map[string]int64, records iter.Seq2[queue.Record, error]) error {
	var chunk []packedRecord
	size, last := 0, int64(0)
	for rec, err := range records {
		if err != nil {
			return err
		}
		p := q.packRecord(rec)
		chunk, size = append(chunk, p), size+len(p.request)+len(p.outcome)
		last = max(last, rec.Job.Seq, rec.Job.Attempt.Fence, rec.Ended)
		if len(chunk) == restoreChunk || size > restoreBytes {
			if err := q.restoreSome(ctx, chunk); err != nil {
				return err
			}
			chunk, size = chunk[:0], 0
		}
	}
	if err := q.restoreSome(ctx, chunk); err != nil {
		return err
	}
	return q.db.Write(ctx, func(tx *Tx) error {
		for _, user := range slices.Sorted(maps.Keys(marks)) {
			if _, err := tx.Exec(sqlRaiseNumber, user, marks[user]); err != nil {
				return err
			}
		}
		mark := max(last, q.marked)
		if _, err := tx.Exec(sqlRaiseMark, mark); err != nil {
			return fmt.Errorf("reserve numbers: %w", err)
		}
		tx.AfterCommit(func() { q.tick, q.marked = mark, mark })
		_, err := tx.Exec(sqlRestored)
		return err
	})
}

// packedRecord is a record with its payloads as they are kept.
type packedRecord struct {
	queue.Record
	request, outcome []byte // nil: none
}

func (q *Queue) packRecord(rec queue.Record) packedRecord {
	p := packedRecord{Record: rec}
	if !rec.Job.Hidden {
		p.request = q.pack.Request(rec.Request)
	}
	if rec.Outcome != nil {
		p.outcome = q.pack.Outcome(*rec.Outcome)
	}
	return p
}

func (q *Queue) restoreSome(ctx context.Context, chunk []packedRecord) error {
	return q.db.Write(ctx, func(tx *Tx) error {
		for _, rec := range chunk {
			if err := q.restoreOne(tx, rec); err != nil {
				return err
			}
		}
		return nil
	})
}

func (q *Queue) restoreOne(tx *Tx, rec packedRecord) error {
	j, a := &rec.Job, &rec.Job.Attempt
	var ended any
	if rec.Ended > 0 {
		ended = rec.Ended
	}
	_, err := tx.Exec(sqlRestoreJob, j.Seq, string(j.ID), j.User, j.Group, j.PromptID, j.ClientID, j.Number,
		int64(j.Class), string(j.State), j.WorkflowID, digest(j.Digest), j.Created.UnixMilli(),
		int64(a.N), a.Fence, a.BackEnd, a.RunID, a.ClientID, jobMillis(a.LeaseUntil), j.Held, payload.Profile(j.Profile), jobMillis(j.Deadline),
		jobMillis(j.Started), jobMillis(j.Finished), ended, a.Posted, j.Stop, j.Hidden, j.Error, []byte(j.Summary))
	if err != nil {
		return err
	}
	if rec.request != nil {
		if _, err := tx.Exec(sqlInsertRequest, j.Seq, rec.request); err != nil {
			return err
		}
	}
	if rec.outcome != nil {
		if _, err := tx.Exec(sqlInsertOutcome, j.Seq, rec.outcome); err != nil {
			return err
		}
	}
	for i := range rec.Tries {
		if err := addTry(tx, j.Seq, &rec.Tries[i]); err != nil {
			return err
		}
	}
	if rec.Credentials != nil {
		if _, err := tx.Exec(sqlInsertCredential, j.Seq, rec.Credentials); err != nil {
			return err
		}
		tx.AfterCommit(func() { q.sealed[j.Seq] = true })
	}
	if rec.Key != "" {
		_, err = tx.Exec(sqlBindKey, j.User, rec.Key, j.Seq, rec.KeyUntil.UnixMilli())
	}
	return err
}
