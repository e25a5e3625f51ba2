package api_test

import "testing"

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
