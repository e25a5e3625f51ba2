package e2e

import (
	"encoding/json"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// place is where a job stands, as its owner is told.
type place struct {
	ID       string
	PromptID string `json:"prompt_id"`
	State    string
	Why      string
	BackEnd  string `json:"backend"`
	Attempts []struct {
		Backend, Cause, Reason string
	}
}

// jobs lists the jobs of a person, with their attempts.
func (l *loader) jobs(t *testing.T) []place {
	t.Helper()
	var page struct{ Jobs []place }
	if err := l.call(http.MethodGet, "/studio/api/v1/jobs?limit=100", nil, &page); err != nil {
		t.Fatal(err)
	}
	for i := range page.Jobs {
		if err := l.call(http.MethodGet, "/studio/api/v1/jobs/"+page.Jobs[i].ID, nil, &page.Jobs[i]); err != nil {
			t.Fatal(err)
		}
	}
	return page.Jobs
}

// TestSpotLossInClass takes back every machine of an endpoint in the middle of a class of 20, and has no other for a
// while. What ran there begins anew: on the class's own GPU, or when machines are back. Nobody's job is lost or comes
// twice, and each who waits reads why.
func TestSpotLossInClass(t *testing.T) {
	pupils := names(20)
	var c *cloud
	s := startStudio(t, studioOptions{people: pupils, backEnds: 1, config: "queue: {mode: fair}\n", prepare: func(s *studio) {
		c = startCloud(t, s, "spot", "--replicas", "5", "--warm", "5", "--agent", "--queue-for", "2s", "--shared", filepath.Join(s.dir, "spot"))
		until(t, "fleet", time.Minute, func() bool { return c.counters(t).Replicas == 5 })
		s.extra = c.oneRequest("spot", "agent", 5)
	}})
	people := crowdOf(t, s, pupils)
	until(t, "endpoint at work", 30*time.Second, func() bool { return ready(t, s, "spot") })
	for i, l := range people.people {
		l.calm = true
		o := order{kind: slowly, colour: 1000 + i}
		graph := o.graph()
		graph["3"] = class3(20)
		body, err := json.Marshal(map[string]any{"prompt": graph, "client_id": l.sid})
		if err != nil {
			t.Fatal(err)
		}
		var answer struct {
			PromptID string `json:"prompt_id"`
		}
		if err := l.call(http.MethodPost, "/prompt", body, &answer); err != nil {
			t.Fatal(err)
		}
		o.id = answer.PromptID
		l.acked[o.id] = &o
	}
	until(t, "class at work", 30*time.Second, func() bool { return c.counters(t).Working == 5 })
	c.order(t, http.MethodPost, "/capacity", `{"replicas": 0}`)
	c.order(t, http.MethodPost, "/lose", `{"replicas": -1}`)
	lost := c.counters(t).SpotLosses
	if lost != 5 {
		t.Fatalf("%d machines were taken back, want 5", lost)
	}

	// All who wait are told why, those first whose run was lost.
	until(t, "word to who lost a run", 30*time.Second, func() bool {
		told := 0
		for _, l := range people.people {
			for _, j := range l.jobs(t) {
				if len(j.Attempts) > 0 && strings.Contains(j.Attempts[0].Reason, "spot") {
					told++
				}
			}
		}
		return told >= lost
	})
	reasons := map[string]int{}
	for _, l := range people.people {
		for _, j := range l.jobs(t) {
			if j.State != "pending" {
				continue
			}
			if j.Why == "" {
				t.Errorf("%s waits and is not told why: %+v", l.name, j)
			}
			reasons[j.Why]++
		}
	}
	if len(reasons) == 0 {
		t.Error("nobody waited: the test proved nothing")
	}
	c.order(t, http.MethodPost, "/capacity", `{"replicas": 5}`)
	for _, l := range people.people {
		l.settle(t)
	}
	ran := ranOn(t, s)
	again := 0
	for _, l := range people.people {
		for _, j := range l.jobs(t) {
			if j.State != "completed" {
				t.Errorf("%s: the job ended as %s: %+v", l.name, j.State, j)
			}
			if len(j.Attempts) > 1 {
				again++
			}
		}
	}
	if again < lost {
		t.Errorf("%d jobs began anew, and %d machines were lost with one each", again, lost)
	}
	var sum tally
	for _, l := range people.people {
		l.check(t, &sum)
	}
	t.Logf("%d of 20 jobs began anew, all were completed, on %v; who waited read %s", again, ran, text(reasons))
}

// class3 is a node that takes a while.
func class3(steps int) node {
	return class("ProbeSlow", node{"image": []any{"1", 0}, "steps": steps, "seconds": 0.05, "preview": true})
}
