package queuetest

import (
	"cmp"
	"context"
	"fmt"
	"reflect"
	"slices"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/job"
)

func (m *model) checkOpen(t *rapid.T, user string, open []*subject) {
	stage := func(s *subject) int {
		switch {
		case s.state == job.Running && s.posted:
			return 0
		case s.state == job.Running:
			return 1
		}
		return 2
	}
	slices.SortFunc(open, func(x, y *subject) int {
		if c := cmp.Compare(stage(x), stage(y)); c != 0 {
			return c
		}
		if x.state == job.Running {
			return cmp.Compare(x.fence, y.fence)
		}
		return cmp.Or(cmp.Compare(x.class, y.class), cmp.Compare(x.number, y.number), cmp.Compare(x.seq, y.seq))
	})
	var want, got []string
	for _, s := range open {
		want = append(want, fmt.Sprint(s.id, s.state, s.posted, s.stop, s.class, s.held, s.deadline))
	}
	jobs, err := m.Open(m.t.Context(), user)
	m.must(err)
	for _, j := range jobs {
		got = append(got, fmt.Sprint(j.ID, j.State, j.Attempt.Posted, j.Stop, j.Class, j.Held, j.Deadline))
	}
	if !slices.Equal(got, want) {
		t.Fatalf("open of %s:\n%v\nwant\n%v", user, got, want)
	}
}

func (m *model) checkHistory(t *rapid.T, user string) {
	past := m.some(func(s *subject) bool { return s.sub.User == user && s.state.Final() && !s.hidden && !s.gone })
	slices.SortFunc(past, func(x, y *subject) int { return cmp.Compare(x.end, y.end) })
	var want, got []job.ID
	for _, s := range past {
		want = append(want, s.id)
	}
	err := m.EachHistory(context.WithoutCancel(m.t.Context()), user, job.HistoryQuery{MaxItems: -1, Offset: -1}, func(e job.Entry) error {
		got = append(got, e.Job.ID)
		return nil
	})
	m.must(err)
	if !slices.Equal(got, want) {
		t.Fatalf("history of %s is %v, want %v", user, got, want)
	}
}

// checkList: the newest first, open and final ones, as the person sees their states.
func (m *model) checkList(t *rapid.T, user string) {
	var want, got []string
	for _, s := range m.some(func(s *subject) bool { return s.sub.User == user && !s.hidden && !s.gone }) {
		want = append(want, fmt.Sprint(s.id, s.state, s.posted && !s.state.Final()))
	}
	slices.Reverse(want)
	jobs, total, err := m.Jobs(m.t.Context(), user, job.ListQuery{})
	m.must(err)
	for _, j := range jobs {
		got = append(got, fmt.Sprint(j.ID, j.State, j.Attempt.Posted))
	}
	if total != len(want) || !slices.Equal(got, want) {
		t.Fatalf("list of %s, %d in all:\n%v\nwant\n%v", user, total, got, want)
	}
}

// checkEntries reads every prompt id: what is not the person's, or not theirs any more, is not there.
func (m *model) checkEntries(t *rapid.T, user string) {
	for _, id := range promptIDs {
		want := m.visible(user, id)
		e, err := m.Entry(m.t.Context(), user, id)
		if want == nil {
			refused(t, "entry of "+id, err, fault.Missing, "no_such_job")
			continue
		}
		m.must(err)
		if e.Job.ID != want.id || e.Job.State != want.state || (e.Outcome != nil) != want.state.Final() {
			t.Fatalf("entry of %s is %+v", id, e.Job)
		}
		if diff := differs(want.sub.Request, e.Request); diff != "" {
			t.Fatalf("request of %s: %s", id, diff)
		}
	}
}

// differs says where got is not want; empty: nowhere. Nearly always they are alike, and that is found out faster.
func differs[T any](want, got T) string {
	if reflect.DeepEqual(want, got) {
		return ""
	}
	return gocmp.Diff(want, got)
}

func (m *model) checkControl(t *rapid.T) {
	if mode := m.Mode(); mode != m.mode {
		t.Fatalf("mode %s, want %s", mode, m.mode)
	}
	pauses := m.Pauses()
	for _, p := range pauses {
		if diff := differs(m.pauses[p.Scope], p); diff != "" {
			t.Fatalf("pause: %s", diff)
		}
	}
	if len(pauses) != len(m.pauses) {
		t.Fatalf("%d pauses, want %d", len(pauses), len(m.pauses))
	}
}
