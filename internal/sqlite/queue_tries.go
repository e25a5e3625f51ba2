package sqlite

import (
	"context"

	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
)

const (
	// What is reported twice stays as it is.
	sqlTry     = `insert into job_try(seq, n, back_end, began, ended, posted, cause, reason) values(?, ?, ?, ?, ?, ?, ?, ?) on conflict do nothing`
	sqlTries   = `select n, back_end, coalesce(began, 0), coalesce(ended, 0), posted, cause, reason from job_try where seq = ? order by n`
	sqlTriesIn = `select seq, n, back_end, coalesce(began, 0), coalesce(ended, 0), posted, cause, reason from job_try where seq between ? and ? order by seq, n`
	sqlUntried = `delete from job_try where seq = ?`
)

// addTry keeps an attempt that is over.
func addTry(tx *Tx, seq int64, t *job.Try) error {
	_, err := tx.Exec(sqlTry, seq, int64(t.N), t.BackEnd, jobMillis(t.Began), jobMillis(t.Ended), t.Posted, string(t.Cause), t.Reason)
	return err
}

// Tries implements queue.Store.
func (q *Queue) Tries(ctx context.Context, seq int64) ([]job.Try, error) {
	rows, err := q.db.Query(ctx, sqlTries, seq)
	if err != nil {
		return nil, classify(err)
	}
	defer rows.Close()
	var tries []job.Try
	for rows.Next() {
		var t job.Try
		var began, ended int64
		if err := rows.Scan(&t.N, &t.BackEnd, &began, &ended, &t.Posted, &t.Cause, &t.Reason); err != nil {
			return nil, classify(err)
		}
		t.Began, t.Ended = fromStamp(began), fromStamp(ended)
		tries = append(tries, t)
	}
	return tries, classify(rows.Err())
}

// addTries reads the attempts of a page of records, which are in order of their jobs.
func (q *Queue) addTries(ctx context.Context, page []queue.Record) error {
	rows, err := q.db.Query(ctx, sqlTriesIn, page[0].Job.Seq, page[len(page)-1].Job.Seq)
	if err != nil {
		return err
	}
	defer rows.Close()
	for i := 0; rows.Next(); {
		var t job.Try
		var seq, began, ended int64
		if err := rows.Scan(&seq, &t.N, &t.BackEnd, &began, &ended, &t.Posted, &t.Cause, &t.Reason); err != nil {
			return err
		}
		t.Began, t.Ended = fromStamp(began), fromStamp(ended)
		for i < len(page) && page[i].Job.Seq < seq {
			i++
		}
		if i < len(page) && page[i].Job.Seq == seq {
			page[i].Tries = append(page[i].Tries, t)
		}
	}
	return rows.Err()
}
