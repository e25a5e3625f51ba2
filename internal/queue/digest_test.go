package queue

import (
	"bytes"
	"encoding/json"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ahelme/comfyume/internal/job"
)

func TestEachMember(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string][]string{
		`{}`:                      nil,
		` { "a" : 1 } `:           {`"a"`, `1`},
		`{"a":1,"b":[1,{}]}`:      {`"a"`, `1`, `"b"`, `[1,{}]`},
		`{"a\"}": "x,}\\"}`:       {`"a\"}"`, `"x,}\\"`},
		`{"n":NaN,"i":-Infinity}`: {`"n"`, `NaN`, `"i"`, `-Infinity`},
		"{\"a\":\n{\"b\":\"]\"}\n,\"c\" : null\t}": {`"a"`, `{"b":"]"}`, `"c"`, `null`},
	} {
		var got []string
		if !eachMember([]byte(raw), func(k, v []byte) { got = append(got, string(k), string(v)) }) {
			t.Errorf("%s is not taken for an object", raw)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: want -, got +\n%s", raw, diff)
		}
	}
	for _, raw := range []string{``, `null`, `[1]`, `"a"`, `{`, `{"a"`, `{"a":`, `{"a":1`, `{"a" 1}`, `{1:2}`, `{"a":"`} {
		if eachMember([]byte(raw), func(_, _ []byte) {}) {
			t.Errorf("%s is taken for an object", raw)
		}
	}
}

// FuzzEachMember: it never fails on any bytes, and sees the members of every valid object.
func FuzzEachMember(f *testing.F) {
	for _, seed := range []string{`{}`, `{"a":1}`, `{"a":{"b":[1,"]"]},"c":"\\\""}`, `{"a":NaN`, `[`, `{"a":}`, `{"":"\u0000"}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var members [][2][]byte
		ok := eachMember(raw, func(k, v []byte) { members = append(members, [2][]byte{k, v}) })
		var want map[string]json.RawMessage
		if json.Unmarshal(raw, &want) != nil || want == nil {
			return
		}
		if !ok {
			t.Fatalf("%q is an object", raw)
		}
		got := map[string]json.RawMessage{}
		for _, m := range members {
			var key string
			if err := json.Unmarshal(m[0], &key); err != nil {
				t.Fatalf("key %q: %v", m[0], err)
			}
			got[key] = m[1]
		}
		if len(got) != len(want) {
			t.Fatalf("%q has %d members, not %d", raw, len(want), len(got))
		}
		for k, v := range want {
			if !bytes.Equal(got[k], v) {
				t.Fatalf("%q: member %q is %q, want %q", raw, k, got[k], v)
			}
		}
	})
}

func TestDigestLeavesOnlyTheTimeOut(t *testing.T) {
	t.Parallel()
	with := func(extra string) [32]byte {
		return Digest(job.Submission{Request: job.Request{Prompt: json.RawMessage(`{}`), ExtraData: json.RawMessage(extra)}})
	}
	plain := with(`{"client_id": "a"}`)
	for _, same := range []string{
		`{"client_id": "a", "create_time": 5}`, `{"create_time":5,"client_id":"a"}`, `{ "client_id":"a" }`,
	} {
		if with(same) != plain {
			t.Errorf("%s asks for something else", same)
		}
	}
	for _, other := range []string{``, `null`, `{}`, `{"client_id": "b"}`, `{"client_id": "a", "x": {"create_time": 5}}`, `{"client_id": "a"`} {
		if with(other) == plain {
			t.Errorf("%s asks for the same", other)
		}
	}
}

func TestSealer(t *testing.T) {
	t.Parallel()
	key := bytes.Repeat([]byte{7}, 32)
	s, err := NewSealer(key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewSealer(key[:16]); err == nil {
		t.Error("a short key was taken")
	}
	secret := map[string]string{"api_key_comfy_org": "x"}
	first, err := seal(s, "job-1", secret)
	if err != nil {
		t.Fatal(err)
	}
	second, err := seal(s, "job-1", secret)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(first, second) {
		t.Error("the same credentials look the same twice")
	}
	got, err := unseal(s, "job-1", first)
	if err != nil || !cmp.Equal(got, secret) {
		t.Errorf("%v %v", got, err)
	}
	other, err := NewSealer(bytes.Repeat([]byte{8}, 32))
	if err != nil {
		t.Fatal(err)
	}
	for what, try := range map[string]func() (map[string]string, error){
		"another job": func() (map[string]string, error) { return unseal(s, "job-2", first) },
		"another key": func() (map[string]string, error) { return unseal(other, "job-1", first) },
		"no key":      func() (map[string]string, error) { return unseal(nil, "job-1", first) },
		"cut off":     func() (map[string]string, error) { return unseal(s, "job-1", first[:5]) },
		"changed bits": func() (map[string]string, error) {
			return unseal(s, "job-1", append(slices.Clone(first[:20]), make([]byte, 30)...))
		},
	} {
		if got, err := try(); err == nil {
			t.Errorf("%s opened it: %v", what, got)
		}
	}
}

// TestRecentIsBounded: the oldest go, and what is too large never comes in.
func TestRecentIsBounded(t *testing.T) {
	t.Parallel()
	r := newRecent()
	add := func(id string, size int) job.Job {
		j := job.Job{ID: job.ID(id), User: "ann", PromptID: id, State: job.Completed}
		r.add(j, job.Request{Prompt: make([]byte, size)})
		return j
	}
	huge := add("huge", recentBytes)
	if _, ok := r.request(huge); ok {
		t.Error("a huge request is remembered")
	}
	var jobs []job.Job
	for i := range 100 {
		jobs = append(jobs, add(string(rune('A'+i)), 60_000))
		if r.size > recentBytes || len(r.memos) != r.order.Len() {
			t.Fatalf("%d bytes in %d and %d memos", r.size, len(r.memos), r.order.Len())
		}
	}
	if _, ok := r.request(jobs[0]); ok {
		t.Error("the oldest is still there")
	}
	last := jobs[99]
	r.end(last, job.Outcome{State: job.Completed, Outputs: make([]byte, 1000)})
	if e, ok := r.entry("ann", last.PromptID); !ok || e.Job.ID != last.ID {
		t.Errorf("the newest is gone: %v", e.Job)
	}
	if _, ok := r.entry("bob", last.PromptID); ok {
		t.Error("bob reads ann's")
	}
	r.end(jobs[98], job.Outcome{Outputs: make([]byte, recentBytes)})
	if _, ok := r.entry("ann", jobs[98].PromptID); ok {
		t.Error("a huge outcome is remembered")
	}
	r.forgetEnded("ann", nil)
	if _, ok := r.entry("ann", last.PromptID); ok {
		t.Error("a deleted entry is still there")
	}
	for _, j := range jobs {
		r.forget("ann", j.PromptID)
	}
	if r.size != 0 || r.order.Len() != 0 || len(r.memos) != 0 {
		t.Errorf("%d bytes in %d memos of nothing", r.size, len(r.memos))
	}
}
