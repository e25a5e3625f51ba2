package sqlite

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
)

// Lists of final jobs. The conditions are written out, so that each query uses its index and is a constant. A person's
// own are picked in the index, which has all that is needed to choose and to sort; then only the page's rows are read. With
// a workflow, or by duration, all of the person's rows are.
const (
	sqlListFinal  = ` and ended <= ?3 and state in (select value from json_each(?2))`
	sqlListOwn    = ` from job where user = ?1 and ended is not null and hidden = 0` + sqlListFinal
	sqlListAll    = ` from job where ended is not null and (?1 = '' or user = ?1)` + sqlListFinal
	sqlOfWorkflow = ` and (?4 = '' or workflow_id = ?4)`
	sqlListPage   = ` limit ?5 offset ?6`
	byDuration    = ` order by coalesce(finished - started, 0)`

	sqlCountOwn         = `select count(*)` + sqlListOwn
	sqlCountOwnWorkflow = `select count(*)` + sqlListOwn + sqlOfWorkflow
	sqlCountAll         = `select count(*)` + sqlListAll + sqlOfWorkflow
	sqlOwnNewest        = `select ` + jobColumns + ` from job where seq in (
		select seq` + sqlListOwn + ` order by seq desc limit ?4 offset ?5) order by seq desc`
	sqlOwnOldest = `select ` + jobColumns + ` from job where seq in (
		select seq` + sqlListOwn + ` order by seq limit ?4 offset ?5) order by seq`
)

// listQueries holds the statement for each scope and order: hidden, by duration, ascending.
var listQueries = map[[3]bool]string{
	{false, false, false}: `select ` + jobColumns + sqlListOwn + sqlOfWorkflow + ` order by seq desc` + sqlListPage,
	{false, false, true}:  `select ` + jobColumns + sqlListOwn + sqlOfWorkflow + ` order by seq` + sqlListPage,
	{false, true, false}:  `select ` + jobColumns + sqlListOwn + sqlOfWorkflow + byDuration + ` desc, seq desc` + sqlListPage,
	{false, true, true}:   `select ` + jobColumns + sqlListOwn + sqlOfWorkflow + byDuration + `, seq` + sqlListPage,
	{true, false, false}:  `select ` + jobColumns + sqlListAll + sqlOfWorkflow + ` order by seq desc` + sqlListPage,
	{true, false, true}:   `select ` + jobColumns + sqlListAll + sqlOfWorkflow + ` order by seq` + sqlListPage,
	{true, true, false}:   `select ` + jobColumns + sqlListAll + sqlOfWorkflow + byDuration + ` desc, seq desc` + sqlListPage,
	{true, true, true}:    `select ` + jobColumns + sqlListAll + sqlOfWorkflow + byDuration + `, seq` + sqlListPage,
}

// List implements queue.Store.
func (q *Queue) List(ctx context.Context, scope queue.Scope, lq job.ListQuery) ([]job.Job, int, error) {
	if scope.User == "" && !scope.Hidden {
		return nil, 0, fmt.Errorf("list everybody's jobs without the operator's scope")
	}
	states, err := json.Marshal(lq.States)
	if err != nil {
		return nil, 0, fmt.Errorf("encode states: %w", err)
	}
	count, args := sqlCountOwn, []any{scope.User, string(states), scope.Ended}
	switch {
	case scope.Hidden:
		count, args = sqlCountAll, append(args, lq.WorkflowID)
	case lq.WorkflowID != "":
		count, args = sqlCountOwnWorkflow, append(args, lq.WorkflowID)
	}
	var total int
	if !lq.Uncounted {
		if err := q.db.QueryRow(ctx, count, args...).Scan(&total); err != nil {
			return nil, 0, classify(err)
		}
		if total <= lq.Offset {
			return nil, total, nil
		}
	}
	limit := lq.Limit
	if limit <= 0 {
		limit = -1
	}
	query := listQueries[[3]bool{scope.Hidden, lq.ByDuration, lq.Ascending}]
	args = []any{scope.User, string(states), scope.Ended, lq.WorkflowID, limit, lq.Offset}
	if !scope.Hidden && !lq.ByDuration && lq.WorkflowID == "" {
		query, args = sqlOwnNewest, slices.Delete(args, 3, 4)
		if lq.Ascending {
			query = sqlOwnOldest
		}
	}
	rows, err := q.db.Query(ctx, query, args...)
	jobs, err := scanJobs(rows, err)
	return jobs, max(total, len(jobs)), classify(err)
}
