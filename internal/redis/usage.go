package redis

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/redis/rueidis"

	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/usage"
)

// Usage keeps what people take of the GPUs, and what was learned of how long graphs take. It is safe for concurrent
// use, by any number of servers.
type Usage struct {
	db   *DB
	keys []string
}

var _ usage.Store = (*Usage)(nil)

// NewUsage returns the ledger's store in the database.
func NewUsage(db *DB) *Usage {
	return &Usage{db: db, keys: db.keys("meta", "hours", "when", "learned")}
}

// hourField names an hour, as usage.lua describes it.
func hourField(h *usage.Hour) string {
	return number8(h.Start.Unix()) + person(h.Group) + h.User
}

// readHour reads an hour and what it has.
func readHour(field, has string) (h usage.Hour, err error) {
	d := reader{rest: field}
	h.Start = time.Unix(int64(d.uint64()), 0)
	h.Group = d.name()
	h.User = d.rest
	var ms int64
	n, err := fmt.Sscanf(has, "%d %d %d", &h.Jobs, &ms, &h.Spent) // hours of earlier versions have no money
	if n < 2 || d.failed {
		return h, fmt.Errorf("an hour of the ledger can't be read: %q: %w", has, err)
	}
	h.GPU = time.Duration(ms) * time.Millisecond
	return h, nil
}

// Learned implements usage.Store.
func (u *Usage) Learned(ctx context.Context) ([]usage.Learned, error) {
	found, err := u.db.hash(ctx, "learned")
	if err != nil {
		return nil, err
	}
	all := make([]usage.Learned, 0, len(found))
	for key, body := range found {
		all = append(all, usage.Learned{Key: []byte(key), Body: []byte(body)})
	}
	slices.SortFunc(all, func(x, y usage.Learned) int { return bytes.Compare(x.Key, y.Key) })
	return all, nil
}

// Hours implements usage.Store.
func (u *Usage) Hours(ctx context.Context, since time.Time) ([]usage.Hour, error) {
	from := since.Unix()
	if since.Nanosecond() > 0 {
		from++
	}
	var all []usage.Hour
	for first := "[" + number8(max(from, 0)); ; {
		results, err := u.db.read(ctx, u.db.client.B().Zrangebylex().Key(u.db.key("when")).Min(first).Max("+").Limit(0, scanCount).Build())
		if err != nil {
			return nil, err
		}
		fields, err := results[0].AsStrSlice()
		if err != nil {
			return nil, u.db.fail(ctx, err)
		}
		if len(fields) == 0 {
			break
		}
		first = "(" + fields[len(fields)-1]
		has, err := u.db.fields(ctx, "hours", fields)
		if err != nil {
			return nil, err
		}
		for _, field := range fields {
			if has[field] == "" {
				continue // it went in between
			}
			h, err := readHour(field, has[field])
			if err != nil {
				return nil, err
			}
			all = append(all, h)
		}
	}
	slices.SortFunc(all, func(x, y usage.Hour) int {
		return cmp.Or(x.Start.Compare(y.Start), cmp.Compare(x.User, y.User), cmp.Compare(x.Group, y.Group))
	})
	return all, nil
}

// Save implements usage.Store.
func (u *Usage) Save(ctx context.Context, s usage.Snapshot) error {
	args := make([]string, 0, 2*(len(s.Hours)+len(s.Learned))+4)
	args = append(args, u.db.generation, "save", number8(max(s.Before.Unix(), 0)), decimal(int64(len(s.Hours))))
	for i := range s.Hours {
		h := &s.Hours[i]
		args = append(args, hourField(h), fmt.Sprintf("%d %d %d", h.Jobs, h.GPU.Milliseconds(), h.Spent))
	}
	for _, l := range s.Learned {
		body := ""
		if l.Body != nil {
			body = "=" + string(l.Body)
		}
		args = append(args, string(l.Key), body)
	}
	return u.db.settled(ctx, scriptUsage, u.keys, args)
}

// Forget implements usage.Store.
func (u *Usage) Forget(ctx context.Context, user string) error {
	if user == "" {
		return nil
	}
	return u.db.settled(ctx, scriptUsage, u.keys, []string{u.db.generation, "forget", user})
}

// settled runs a script that answers "ok", or "other" when this is not the studio's Redis any more.
func (db *DB) settled(ctx context.Context, s *rueidis.Lua, keys, args []string) error {
	word, err := db.exec(ctx, s, keys, args).ToString()
	if err != nil {
		return db.fail(ctx, err)
	}
	if word != "ok" {
		return db.lost()
	}
	return nil
}

// EachEnded calls fn for everybody's jobs that ended at or after a time and are kept, in history or not.
func (u *Usage) EachEnded(ctx context.Context, since time.Time, fn func(job.Job) error) error {
	results, err := u.db.read(ctx, u.db.client.B().Zrangebyscore().Key(u.db.key("past")).Min(decimal(since.UnixMilli())).Max("+inf").Build())
	if err != nil {
		return err
	}
	seqs, err := results[0].AsStrSlice()
	if err != nil {
		return u.db.fail(ctx, err)
	}
	for page := range slices.Chunk(seqs, scanCount) {
		found, err := u.db.fields(ctx, "done", page)
		if err != nil {
			return err
		}
		for _, field := range page {
			rec, there := found[field]
			if !there {
				continue // it was deleted in between
			}
			var seq int64
			if _, err := fmt.Sscan(field, &seq); err != nil {
				return errRecord
			}
			r, err := readRecord(seq, rec)
			if err != nil {
				return err
			}
			if err := fn(r.job); err != nil {
				return err
			}
		}
	}
	return nil
}
