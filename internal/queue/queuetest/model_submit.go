package queuetest

import (
	"pgregory.net/rapid"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
)

// The steps of this file are those of who submits.

func (m *model) submitOne(t *rapid.T) {
	sub := Submission(rapid.SampledFrom(people).Draw(t, "user"), rapid.IntRange(1, 3).Draw(t, "seed"))
	sub.PromptID = rapid.SampledFrom(promptIDs).Draw(t, "prompt id")
	sub.Front = rapid.Bool().Draw(t, "front")
	sub.Class = rapid.SampledFrom([]job.Class{job.ClassHigh, job.ClassNormal, job.ClassNormal}).Draw(t, "class")
	sub.Held = rapid.IntRange(0, 5).Draw(t, "held") == 0
	sub.Deadline = rapid.SampledFrom(deadlines).Draw(t, "deadline")
	sub.Key = rapid.SampledFrom(keys).Draw(t, "key")
	m.offer(t, sub)
}

// placeOne submits while a back end would take the job at once.
func (m *model) placeOne(t *rapid.T) {
	m.place = true
	defer func() { m.place = false }()
	m.submitOne(t)
}

func (m *model) repeat(t *rapid.T) {
	m.offer(t, m.pick(t, func(s *subject) bool { return s.sub.PromptID != string(s.id) }).sub)
}

// keyed returns the job that the person submitted with the key.
func (m *model) keyed(user, key string) *subject {
	for _, s := range m.jobs {
		if key != "" && s.sub.User == user && s.sub.Key == key && !s.gone {
			return s
		}
	}
	return nil
}

// offer submits, and predicts the answer.
func (m *model) offer(t *rapid.T, sub job.Submission) {
	same := func(old *subject) bool { return queue.Digest(old.sub) == queue.Digest(sub) }
	first, old := m.keyed(sub.User, sub.Key), m.visible(sub.User, sub.PromptID)
	full := m.pending(sub.User) >= modelPending
	j, existing, err := m.Submit(m.t.Context(), sub)
	again := func(old *subject) {
		t.Helper()
		if err != nil || !existing || j.ID != old.id {
			t.Fatalf("a repeat of %s gave %v %v %v", old.id, j.ID, existing, err)
		}
	}
	switch {
	case first != nil && same(first) && first.sub.PromptID == sub.PromptID:
		again(first)
	case first != nil:
		refused(t, "another body under a key", err, fault.Conflict, "idempotency_key_reused")
	case old != nil && same(old):
		again(old)
	case old != nil && !old.state.Final():
		refused(t, "another body", err, fault.Conflict, "prompt_id_in_use")
	case full:
		refused(t, "one too many", err, fault.Busy, "max_pending_per_user")
	default:
		if err != nil || existing {
			t.Fatalf("Submit: %v %v", existing, err)
		}
		if old != nil {
			old.hidden = true
		}
		m.accepted(t, sub, j)
	}
}

func (m *model) pending(user string) int {
	return len(m.some(func(s *subject) bool { return s.sub.User == user && s.state == job.Pending }))
}

// accepted takes in that a new job was accepted.
func (m *model) accepted(t *rapid.T, sub job.Submission, j job.Job) {
	if m.jobs[j.ID] != nil {
		t.Fatalf("%s was given twice", j.ID)
	}
	s := &subject{
		sub: sub, id: j.ID, seq: j.Seq, class: sub.Class, number: j.Number, held: sub.Held, deadline: sub.Deadline, state: job.Pending,
	}
	m.jobs[j.ID] = s
	if m.place && !sub.Held {
		m.claimed(t, s, j)
	}
}
