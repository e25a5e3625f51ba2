package api_test

import (
	"strings"
	"testing"
)

// TestInstructorsSeeTheirGroup: neither jobs nor graphs nor names of others' groups, and no way into their accounts.
func TestInstructorsSeeTheirGroup(t *testing.T) {
	t.Parallel()
	f, _ := face(t)
	for path, want := range map[string]int{
		"/jobs/j-ben": 404, "/jobs/j-ben/record": 404, "/jobs/j-none": 404, "/jobs?user=ben": 403, "/jobs?user=ann": 200, "/jobs?user=ivy": 200,
	} {
		if w := ask(f, "ivy", "GET", v1+path, ""); w.Code != want || strings.Contains(w.Body.String(), `"user":"ben"`) {
			t.Errorf("%s: %d, want %d: %s", path, w.Code, want, w.Body)
		}
	}
	for _, path := range []string{"/jobs", "/jobs?limit=1000&offset=0", "/queue"} {
		if w := ask(f, "ivy", "GET", v1+path, ""); w.Code != 200 || strings.Contains(w.Body.String(), "ben") || !strings.Contains(w.Body.String(), `"user":"ann"`) {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	if w := ask(f, "ivy", "GET", v1+"/jobs?offset=1000", ""); !strings.Contains(w.Body.String(), `"jobs":[]`) {
		t.Errorf("beyond the last one there is %s", w.Body)
	}
	if w := ask(f, "ivy", "POST", v1+"/users/ben/links", ""); w.Code != 403 {
		t.Errorf("a link into another group's account: %d %s", w.Code, w.Body)
	}
}

// TestWorkersTokensAreForOperatorsToGive: such a token sees everybody's graphs, so that nobody makes one for themselves.
func TestWorkersTokensAreForOperatorsToGive(t *testing.T) {
	t.Parallel()
	f, _ := face(t)
	for as, want := range map[string]int{"": 401, "ann": 403, "ivy": 403, "olu": 201} {
		if w := ask(f, as, "POST", v1+"/users/"+max(as, "ann")+"/tokens", `{"scope":"worker"}`); w.Code != want {
			t.Errorf("%q: %d, want %d: %s", as, w.Code, want, w.Body)
		}
	}
}
