package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
)

const (
	sqlKeyed = `select ` + jobColumns + ` from job_key k join job on job.seq = k.seq where k.user = ? and k.key = ? and k.until > ?`
	// An expired key may still be there.
	sqlBindKey = `insert into job_key(user, key, seq, until) values(?, ?, ?, ?)
		on conflict(user, key) do update set seq = excluded.seq, until = excluded.until`
)

// keyClash returns the job that the person used the insertion's key for; nil: none.
func keyClash(tx *Tx, in *queue.Insertion) (*queue.Clash, error) {
	if in.Key == "" {
		return nil, nil
	}
	j, err := scanJob(tx.QueryRow(sqlKeyed, in.Job.User, in.Key, in.Now.UnixMilli()))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return &queue.Clash{Job: j, Key: true}, err
}

// FindKey implements queue.Store.
func (q *Queue) FindKey(ctx context.Context, user, key string, at time.Time) (job.Job, error) {
	j, err := scanJob(q.db.QueryRow(ctx, sqlKeyed, user, key, at.UnixMilli()))
	return j, lookup(err)
}

const (
	sqlRankSet     = `class = ?, number = ?, held = ?, deadline = ?`
	sqlRankPending = `update job set ` + sqlRankSet + sqlIfPending
	sqlRankRunning = `update job set ` + sqlRankSet + sqlIfRunning
)

// Rank implements queue.Store.
func (q *Queue) Rank(ctx context.Context, ranks []queue.Rank, done func([]bool)) error {
	ranked := make([]bool, len(ranks))
	return q.db.Write(ctx, func(tx *Tx) error {
		for i, r := range ranks {
			query := sqlRankRunning
			if r.Fence == 0 {
				query = sqlRankPending
			}
			n, err := tx.Affect(query, int64(r.Class), r.Number, r.Held, jobMillis(r.Deadline), r.Seq, r.Fence)
			if err != nil {
				return err
			}
			ranked[i] = n > 0
			if r.NumberMark > 0 {
				if _, err := tx.Exec(sqlRaiseNumber, r.User, r.NumberMark); err != nil {
					return err
				}
			}
		}
		tx.AfterCommit(func() { done(ranked) })
		return nil
	})
}

const (
	sqlPutSetting    = `insert into queue_setting(name, value) values(?, ?) on conflict(name) do update set value = excluded.value`
	sqlDeleteSetting = `delete from queue_setting where name = ?`
	sqlSettings      = `select name, value from queue_setting`
)

// PutSetting implements queue.Store.
func (q *Queue) PutSetting(ctx context.Context, name string, value []byte, done func()) error {
	return q.db.Write(ctx, func(tx *Tx) error {
		query, args := sqlPutSetting, []any{name, value}
		if value == nil {
			query, args = sqlDeleteSetting, args[:1]
		}
		if _, err := tx.Exec(query, args...); err != nil {
			return err
		}
		tx.AfterCommit(done)
		return nil
	})
}

// Settings implements queue.Store.
func (q *Queue) Settings(ctx context.Context) (map[string][]byte, error) {
	rows, err := q.db.Query(ctx, sqlSettings)
	if err != nil {
		return nil, classify(err)
	}
	defer rows.Close()
	out := map[string][]byte{}
	for rows.Next() {
		var name string
		value := []byte{} // the driver gives nil for an empty one
		if err := rows.Scan(&name, &value); err != nil {
			return nil, classify(err)
		}
		out[name] = append([]byte{}, value...)
	}
	return out, classify(rows.Err())
}

const (
	sqlGoneOld  = `select seq, id, user, prompt_id from job where ended is not null and finished < ?1 order by finished limit ?2`
	sqlPruneJob = `delete from job where seq = ? and ended is not null returning hidden`
	sqlPruneKey = `delete from job_key where seq = ?`
	sqlKeysOver = `delete from job_key where until <= ?`

	// What a person has beyond the newest: by the index from one person to the next, and from each one's end down.
	sqlGoneHistory = `with recursive person(user) as (
			select min(user) from job where ended is not null and hidden = 0
			union all
			select (select min(user) from job where user > person.user and ended is not null and hidden = 0)
				from person where person.user is not null)
		select job.seq, job.id, job.user, job.prompt_id from person join job on job.seq in (
			select seq from job j where j.user = person.user and j.ended is not null and j.hidden = 0
				order by j.ended desc limit -1 offset ?1) limit ?2`
	sqlGoneHiding = `with recursive person(user) as (
			select min(user) from job where ended is not null and hidden = 1
			union all
			select (select min(user) from job where user > person.user and ended is not null and hidden = 1)
				from person where person.user is not null)
		select job.seq, job.id, job.user, job.prompt_id from person join job on job.seq in (
			select seq from job j where j.user = person.user and j.ended is not null and j.hidden = 1
				order by j.ended desc limit -1 offset ?1) limit ?2`
)

// Prune implements queue.Store. What goes is looked up beside the writer, and taken out by it.
func (q *Queue) Prune(ctx context.Context, p queue.Pruning, done func([]queue.Gone)) error {
	found := map[int64]queue.Gone{}
	look := func(query string, args ...any) error {
		rows, err := q.db.Query(ctx, query, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() && len(found) < p.Limit {
			var seq int64
			var id string
			var g queue.Gone
			if err := rows.Scan(&seq, &id, &g.User, &g.PromptID); err != nil {
				return err
			}
			g.ID = job.ID(id)
			found[seq] = g
		}
		return rows.Err()
	}
	if !p.Before.IsZero() {
		if err := look(sqlGoneOld, p.Before.UnixMilli(), p.Limit); err != nil {
			return classify(err)
		}
	}
	for _, query := range []string{sqlGoneHistory, sqlGoneHiding} {
		if p.Keep > 0 && len(found) < p.Limit {
			if err := look(query, p.Keep, p.Limit); err != nil {
				return classify(err)
			}
		}
	}
	return q.db.Write(ctx, func(tx *Tx) error {
		if _, err := tx.Exec(sqlKeysOver, p.Now.UnixMilli()); err != nil {
			return err
		}
		gone := make([]queue.Gone, 0, len(found))
		for seq, g := range found {
			if err := forget(tx, seq); err != nil {
				return err
			}
			if _, err := tx.Exec(sqlUntried, seq); err != nil {
				return err
			}
			if _, err := tx.Exec(sqlPruneKey, seq); err != nil {
				return err
			}
			err := tx.QueryRow(sqlPruneJob, seq).Scan(&g.Hidden)
			if errors.Is(err, sql.ErrNoRows) { // pruned meanwhile
				continue
			}
			if err != nil {
				return err
			}
			gone = append(gone, g)
		}
		tx.AfterCommit(func() { done(gone) })
		return nil
	})
}
