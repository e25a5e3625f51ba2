package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/usage"
)

// Usage keeps what people take of the GPUs, and what was learned of how long graphs take. It is safe for concurrent
// use.
type Usage struct{ db *DB }

var _ usage.Store = (*Usage)(nil)

// NewUsage returns the ledger's store in the database.
func NewUsage(db *DB) *Usage { return &Usage{db: db} }

// Queries of the ledger.
const (
	sqlLearned     = `select key, body from usage_learned`
	sqlLearnedSet  = `insert into usage_learned (key, body) values (?, ?) on conflict (key) do update set body = excluded.body`
	sqlLearnedDrop = `delete from usage_learned where key = ?`

	sqlHours   = `select start, user, grp, jobs, gpu, spent from usage_hour where start >= ? order by start, user, grp`
	sqlHourSet = `insert into usage_hour (start, user, grp, jobs, gpu, spent) values (?, ?, ?, ?, ?, ?)
		on conflict (start, user, grp) do update set jobs = excluded.jobs, gpu = excluded.gpu, spent = excluded.spent`
	sqlHoursDrop = `delete from usage_hour where start < ?`
	// Hours of somebody who goes are added to those of all who are gone.
	sqlHoursAway = `insert into usage_hour (start, user, grp, jobs, gpu, spent)
		select start, '', grp, jobs, gpu, spent from usage_hour where user = ?
		on conflict (start, user, grp) do update set jobs = jobs + excluded.jobs, gpu = gpu + excluded.gpu, spent = spent + excluded.spent`
	sqlHoursOf = `delete from usage_hour where user = ?`

	sqlEnded = `select id, user, grp, state, created, coalesce(started, 0), finished, summary from job
		where ended is not null and finished >= ? and seq % ? = ?`
)

// Learned implements usage.Store.
func (u *Usage) Learned(ctx context.Context) ([]usage.Learned, error) {
	rows, err := u.db.Query(ctx, sqlLearned)
	if err != nil {
		return nil, classify(err)
	}
	defer rows.Close()
	var all []usage.Learned
	for rows.Next() {
		var l usage.Learned
		if err := rows.Scan(&l.Key, &l.Body); err != nil {
			return nil, classify(err)
		}
		all = append(all, l)
	}
	return all, classify(rows.Err())
}

// Hours implements usage.Store.
func (u *Usage) Hours(ctx context.Context, since time.Time) ([]usage.Hour, error) {
	rows, err := u.db.Query(ctx, sqlHours, since.Unix())
	if err != nil {
		return nil, classify(err)
	}
	defer rows.Close()
	var all []usage.Hour
	for rows.Next() {
		var h usage.Hour
		var start, gpu int64
		if err := rows.Scan(&start, &h.User, &h.Group, &h.Jobs, &gpu, &h.Spent); err != nil {
			return nil, classify(err)
		}
		h.Start, h.GPU = time.Unix(start, 0), time.Duration(gpu)*time.Millisecond
		all = append(all, h)
	}
	return all, classify(rows.Err())
}

// Save implements usage.Store.
func (u *Usage) Save(ctx context.Context, s usage.Snapshot) error {
	return classify(u.db.Write(ctx, func(tx *Tx) error {
		for _, h := range s.Hours {
			if _, err := tx.Exec(sqlHourSet, h.Start.Unix(), h.User, h.Group, h.Jobs, h.GPU.Milliseconds(), int64(h.Spent)); err != nil {
				return err
			}
		}
		for _, l := range s.Learned {
			var err error
			if l.Body == nil {
				_, err = tx.Exec(sqlLearnedDrop, l.Key)
			} else {
				_, err = tx.Exec(sqlLearnedSet, l.Key, l.Body)
			}
			if err != nil {
				return err
			}
		}
		_, err := tx.Exec(sqlHoursDrop, s.Before.Unix())
		return err
	}))
}

// Forget implements usage.Store.
func (u *Usage) Forget(ctx context.Context, user string) error {
	return classify(u.db.Write(ctx, func(tx *Tx) error {
		if _, err := tx.Exec(sqlHoursAway, user); err != nil {
			return err
		}
		_, err := tx.Exec(sqlHoursOf, user)
		return err
	}))
}

// EachEnded calls fn for everybody's jobs that ended at or after a time and are kept, in history or not, with what
// counts for their use of the GPUs, in no order. Several goroutines call fn at once, each of which holds rows open
// meanwhile; a summary is fn's only until it returns.
func (u *Usage) EachEnded(ctx context.Context, since time.Time, fn func(job.Job) error) error {
	g, ctx := errgroup.WithContext(ctx)
	parts := min(runtime.GOMAXPROCS(0), mostParts)
	for part := range parts {
		g.Go(func() error { return u.eachEnded(ctx, since, parts, part, fn) })
	}
	return g.Wait()
}

// mostParts bounds the readers of EachEnded: others read too.
const mostParts = 4

// eachEnded is EachEnded for one of so many parts.
func (u *Usage) eachEnded(ctx context.Context, since time.Time, parts, part int, fn func(job.Job) error) error {
	rows, err := u.db.Query(ctx, sqlEnded, since.UnixMilli(), parts, part)
	if err != nil {
		return classify(err)
	}
	defer rows.Close()
	for rows.Next() {
		var j job.Job
		var created, started, finished int64
		var summary sql.RawBytes
		if err := rows.Scan(&j.ID, &j.User, &j.Group, &j.State, &created, &started, &finished, &summary); err != nil {
			return classify(err)
		}
		j.Created, j.Started, j.Finished, j.Summary = fromStamp(created), fromStamp(started), fromStamp(finished), json.RawMessage(summary)
		if err := fn(j); err != nil {
			return err
		}
	}
	return classify(rows.Err())
}
