package redis

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
)

// List implements queue.Store. It reads the entries of all that may match, and the rows of those that are wanted.
func (q *Queue) List(ctx context.Context, scope queue.Scope, lq job.ListQuery) ([]job.Job, int, error) {
	if scope.User == "" && !scope.Hidden {
		return nil, 0, fmt.Errorf("list everybody's jobs without the operator's scope")
	}
	found, err := q.choose(ctx, scope, lq)
	if err != nil {
		return nil, 0, err
	}
	sortEntries(found, lq)
	var jobs []job.Job
	total := len(found)
	for offset, left := max(lq.Offset, 0), lq.Limit; offset < len(found) && (lq.Limit <= 0 || left > 0); {
		page := found[offset:min(offset+scanCount, len(found))]
		if lq.Limit > 0 {
			page = page[:min(left, len(page))]
		}
		offset, left = offset+len(page), left-len(page)
		if jobs, err = q.appendRows(ctx, jobs, page); err != nil {
			return nil, 0, err
		}
	}
	return jobs, total, nil
}

// choose returns the entries of a list.
func (q *Queue) choose(ctx context.Context, scope queue.Scope, lq job.ListQuery) (found []entry, err error) {
	indices := []string{"history"}
	if scope.Hidden {
		indices = append(indices, "gone") // entries go from history to there: read in this order none is missed
	}
	first, behind := "-", "+"
	if scope.User != "" {
		first, behind = "["+person(scope.User), "("+person(scope.User)+"\xff"
	}
	workflow, seen := workflowHash(lq.WorkflowID), map[int64]bool{}
	for _, index := range indices {
		err := q.eachEntry(ctx, index, first, behind, func(e entry) {
			if e.ended > scope.Ended || !slices.Contains(lq.States, e.state) || workflow != 0 && e.workflow != workflow || seen[e.seq] {
				return
			}
			if scope.Hidden {
				seen[e.seq] = true
			}
			found = append(found, e)
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// entriesPage is how many entries of an index are read at once.
const entriesPage = 5000

func (q *Queue) eachEntry(ctx context.Context, index, first, behind string, fn func(entry)) error {
	for {
		results, err := q.db.read(ctx, q.db.client.B().Zrangebylex().Key(q.db.key(index)).Min(first).Max(behind).Limit(0, entriesPage).Build())
		if err != nil {
			return err
		}
		page, err := results[0].ToArray()
		if err != nil {
			return fmt.Errorf("read the index of jobs: %w", err)
		}
		for i := range page {
			text, err := page[i].ToString()
			if err != nil {
				return fmt.Errorf("read the index of jobs: %w", err)
			}
			e, err := readEntry(text)
			if err != nil {
				return err
			}
			fn(e)
			first = "(" + text
		}
		if len(page) < entriesPage {
			return nil
		}
	}
}

func sortEntries(all []entry, lq job.ListQuery) {
	slices.SortFunc(all, func(x, y entry) int {
		c := cmp.Compare(x.seq, y.seq)
		if lq.ByDuration {
			c = cmp.Or(cmp.Compare(x.ran, y.ran), c)
		}
		if !lq.Ascending {
			c = -c
		}
		return c
	})
}

// appendRows reads the rows of final jobs; those that were deleted meanwhile are left out.
func (q *Queue) appendRows(ctx context.Context, jobs []job.Job, page []entry) ([]job.Job, error) {
	fields := make([]string, len(page))
	for i, e := range page {
		fields[i] = decimal(e.seq)
	}
	results, err := q.db.read(ctx, q.db.client.B().Hmget().Key(q.db.key("done")).Field(fields...).Build())
	if err != nil {
		return nil, err
	}
	rows, err := results[0].ToArray()
	if err != nil {
		return nil, fmt.Errorf("read jobs: %w", err)
	}
	for i := range rows {
		rec, err := rows[i].ToString()
		if err != nil {
			continue
		}
		r, err := readRecord(page[i].seq, rec)
		if err != nil {
			return nil, err
		}
		if r.ended == page[i].ended { // else it is the entry of an end that did not come to be
			jobs = append(jobs, r.job)
		}
	}
	return jobs, nil
}
