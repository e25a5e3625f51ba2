package comfyserver_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/internal/comfyserver"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/file"
	"github.com/ahelme/comfyume/internal/job"
)

// listing notes what the jobs API asks of the queue, or fails.
type listing struct {
	comfyserver.Queue
	asked job.ListQuery
	looks int
	err   error
}

func (l *listing) Jobs(_ context.Context, _ string, q job.ListQuery) ([]job.Job, int, error) {
	l.asked = q
	return []job.Job{{PromptID: "p1", State: job.Pending, Created: time.UnixMilli(5)}}, 7, nil
}

func (l *listing) Find(ctx context.Context, user, promptID string) (job.Job, error) {
	if l.looks++; l.err != nil {
		return job.Job{}, l.err
	}
	return l.Queue.Find(ctx, user, promptID)
}

func TestJobsAsksForWhatIsWanted(t *testing.T) {
	t.Parallel()
	list := &listing{}
	s := newStudio(t, comfyserver.Options{}, func(d *comfyserver.Deps) { list.Queue, d.Queue = d.Queue, list })
	for query, c := range map[string]struct {
		want job.ListQuery
		page string
	}{
		"": {job.ListQuery{Limit: 1000}, `{"offset": 0, "limit": 1000, "total": 7, "has_more": true}`},
		"?status=In_Progress,pending,,pending&limit=200&offset=0": {
			job.ListQuery{States: []job.State{job.Running, job.Pending}, Limit: 200},
			`{"offset": 0, "limit": 200, "total": 7, "has_more": true}`,
		},
		"?status=completed,failed,cancelled&workflow_id=w%201&sort_by=EXECUTION_duration&sort_order=ASC&limit=1&offset=6": {
			job.ListQuery{
				States: []job.State{job.Completed, job.Failed, job.Cancelled}, WorkflowID: "w 1",
				ByDuration: true, Ascending: true, Limit: 1, Offset: 6,
			},
			`{"offset": 6, "limit": 1, "total": 7, "has_more": false}`,
		},
		"?offset=-4&sort_by=created_at&sort_order=desc": {job.ListQuery{Limit: 1000}, `{"offset": 0, "limit": 1000, "total": 7, "has_more": true}`},
		fmt.Sprintf("?limit=%d&offset=%[1]d", math.MaxInt64): {
			job.ListQuery{Limit: math.MaxInt32, Offset: math.MaxInt32},
			`{"offset": 2147483647, "limit": 2147483647, "total": 7, "has_more": false}`,
		},
	} {
		_, body := s.do("ann", "GET", "/api/jobs"+query, "")
		if want := `{"jobs": [{"id": "p1", "status": "pending", "priority": 0, "create_time": 5, "outputs_count": 0, ` +
			`"previewable_outputs_count": 0}], "pagination": ` + c.page + `}`; body != want {
			t.Errorf("%s: %s, want %s", query, body, want)
		}
		if diff := cmp.Diff(c.want, list.asked); diff != "" {
			t.Errorf("%s asks, -want +got:\n%s", query, diff)
		}
	}
}

// TestCancelledByIDs: a list of ids in one request costs no more than a list is worth, and a queue in trouble is not taken
// for a wrong id.
func TestCancelledByIDs(t *testing.T) {
	t.Parallel()
	list := &listing{}
	s := newStudio(t, comfyserver.Options{}, func(d *comfyserver.Deps) { list.Queue, d.Queue = d.Queue, list })
	waits, runs := s.submit("ann", "tab"), s.submit("ann", "tab")
	s.queue.post("ann", runs)
	if _, body := s.do("ann", "POST", "/api/jobs/cancel", `{"job_ids": ["`+waits+`", "`+runs+`"]}`); body != `{"cancelled": true}` {
		t.Errorf("cancelling one that waits and one that runs: %s", body)
	}
	stopped := s.queue.pick("ann", func(j job.Job) bool { return j.Stop })
	if left := s.queue.Remaining("ann"); len(stopped) != 1 || stopped[0].PromptID != runs || left != 1 {
		t.Errorf("stopped %v, %d left; want the one that ran stopped and the other gone", stopped, left)
	}
	list.looks = 0
	many := `{"job_ids": ["x"` + strings.Repeat(`, "x"`, 100_000) + `]}`
	if resp, body := s.do("ann", "POST", "/api/jobs/cancel", many); resp.StatusCode != 400 || list.looks > 100 {
		t.Errorf("%d look-ups for %d %s", list.looks, resp.StatusCode, clip(body))
	}
	list.err = fault.New(fault.Unavailable, "The queue can't be read.")
	if resp, body := s.do("ann", "POST", "/api/jobs/cancel", `{"job_ids": ["x"]}`); resp.StatusCode != 503 {
		t.Errorf("a queue in trouble: %d %s", resp.StatusCode, body)
	}
}

// given are the operator's templates: one pack for everybody and one for a group.
type given struct{ group string }

func (g given) Templates(group string) ([]comfyserver.TemplatePack, error) {
	packs := []comfyserver.TemplatePack{{Name: "studio", Names: []string{"first"}}}
	if group == g.group {
		packs = append([]comfyserver.TemplatePack{{Name: group, Names: []string{"class"}}}, packs...)
	}
	return packs, nil
}

func (g given) Template(group, pack, name string) (file.Entry, io.ReadSeekCloser, error) {
	if pack != "studio" && (pack != g.group || group != g.group) {
		return file.Entry{}, nil, fault.New(fault.Missing, "There is no such template.")
	}
	return file.Entry{Path: name}, reader{strings.NewReader(`{"from": "` + pack + `"}`)}, nil
}

type reader struct{ io.ReadSeeker }

func (reader) Close() error { return nil }

// talkative back ends bring templates, translations and subgraphs.
type talkative struct{ fakeCatalog }

func (talkative) WebText(route string) json.RawMessage {
	return map[string]json.RawMessage{
		"workflow_templates":        json.RawMessage(`{"pack": ["one"], "studio": ["theirs"]}`),
		"workflow_templates/pack/a": json.RawMessage(`{"from": "pack"}`),
		"i18n":                      json.RawMessage(`{"de": {"x": NaN}}`),
		"global_subgraphs":          json.RawMessage(`{"h": {"name": "Blur"}}`),
		"global_subgraphs/h":        json.RawMessage(`{"name": "Blur", "data": "{}"}`),
	}[route]
}

// TestWhatTheEditorBrowses: templates of the studio, of the person's group and of custom nodes, translations, subgraphs.
func TestWhatTheEditorBrowses(t *testing.T) {
	t.Parallel()
	s := newStudio(t, comfyserver.Options{}, func(d *comfyserver.Deps) { d.Templates, d.Catalog = given{"class7"}, always(talkative{}) })
	for _, c := range []struct {
		group, target string
		status        int
		want          string
	}{
		{"class7", "/workflow_templates", 200, `{"class7": ["class"], "studio": ["first"], "pack": ["one"]}`},
		{"", "/api/workflow_templates", 200, `{"studio": ["first"], "pack": ["one"]}`},
		{"class7", "/api/workflow_templates/studio/first.json", 200, `{"from": "studio"}`},
		{"class7", "/api/workflow_templates/class7/class.json", 200, `{"from": "class7"}`},
		{"class8", "/api/workflow_templates/class7/class.json", 404, `not_found`},
		{"", "/api/workflow_templates/pack/a", 200, `{"from": "pack"}`},
		{"", "/workflow_templates/pack/a", 404, `not_found`}, // only below /api
		{"", "/i18n", 200, `{"de": {"x": null}}`},
		{"", "/api/global_subgraphs", 200, `{"h": {"name": "Blur"}}`},
		{"", "/global_subgraphs/h", 200, `{"name": "Blur", "data": "{}"}`},
	} {
		resp, body := s.do("ann", http.MethodGet, c.target, "", "Group", c.group)
		if resp.StatusCode != c.status || !strings.Contains(body, c.want) || !strings.HasPrefix(resp.Header.Get("Content-Type"), "application/json") {
			t.Errorf("%s for %q: %d %s %s, want %d %s", c.target, c.group, resp.StatusCode, resp.Header.Get("Content-Type"), body, c.status, c.want)
		}
	}
}
