package queue

import (
	"bytes"
	"container/list"
	"sync"

	"github.com/ahelme/comfyume/internal/job"
)

// recentBytes bounds what the queue keeps in memory of jobs that have just come or just ended.
const recentBytes = 1 << 20

// recent remembers what the last jobs asked for and gave. A job is claimed a moment after it came, and its owner reads
// it a moment after it ended: neither has to unpack it from the store again. The oldest go first. It is safe for
// concurrent use.
type recent struct {
	mu    sync.Mutex
	memos map[name]*list.Element // of *memo
	order *list.List             // oldest first
	size  int
}

// name is what a person calls a job.
type name struct{ user, promptID string }

// memo is what is remembered of one job. Its parts are never changed.
type memo struct {
	name
	id      job.ID
	request job.Request
	ended   *job.Entry // nil while open
	size    int
}

func newRecent() *recent { return &recent{memos: map[name]*list.Element{}, order: list.New()} }

// add remembers what a new job asks for. The bytes are copied: they may be part of a larger buffer.
func (r *recent) add(j job.Job, req job.Request) {
	size := 512 + len(req.Prompt) + len(req.ExtraData)
	if size > recentBytes/16 {
		r.forget(j.User, j.PromptID)
		return
	}
	req.Prompt, req.ExtraData = bytes.Clone(req.Prompt), bytes.Clone(req.ExtraData)
	m := &memo{name: name{j.User, j.PromptID}, id: j.ID, request: req, size: size}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drop(m.name)
	r.memos[m.name] = r.order.PushBack(m)
	r.size += m.size
	for r.size > recentBytes {
		r.drop(r.order.Front().Value.(*memo).name)
	}
}

// end remembers how a job ended, if it is remembered what it asked for.
func (r *recent) end(j job.Job, out job.Outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.memos[name{j.User, j.PromptID}]
	if e == nil {
		return
	}
	m := *e.Value.(*memo)
	more := len(out.Outputs) + len(out.Messages) + len(out.Meta) + len(out.Summary)
	if m.id != j.ID || m.size+more > recentBytes/16 {
		r.drop(m.name)
		return
	}
	j.Attempt.Posted = false // as the store keeps it
	m.ended = &job.Entry{Job: j, Request: m.request, Outcome: &out}
	m.size += more
	r.size += more
	e.Value = &m
}

// request returns what the job asks for.
func (r *recent) request(j job.Job) (job.Request, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.memos[name{j.User, j.PromptID}]; e != nil {
		if m := e.Value.(*memo); m.id == j.ID {
			return m.request, true
		}
	}
	return job.Request{}, false
}

// entry returns a job that ended.
func (r *recent) entry(user, promptID string) (job.Entry, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.memos[name{user, promptID}]; e != nil {
		if m := e.Value.(*memo); m.ended != nil {
			return *m.ended, true
		}
	}
	return job.Entry{}, false
}

// forget drops one job.
func (r *recent) forget(user, promptID string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drop(name{user, promptID})
}

// forgetEnded drops those of the person's jobs that ended: the ones with these prompt ids, or all when it is nil.
func (r *recent) forgetEnded(user string, promptIDs []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if promptIDs == nil {
		for n := range r.memos {
			if n.user == user {
				promptIDs = append(promptIDs, n.promptID)
			}
		}
	}
	for _, id := range promptIDs {
		n := name{user, id}
		if e := r.memos[n]; e != nil && e.Value.(*memo).ended != nil {
			r.drop(n)
		}
	}
}

// drop is forget with the lock held.
func (r *recent) drop(n name) {
	if e := r.memos[n]; e != nil {
		r.size -= e.Value.(*memo).size
		r.order.Remove(e)
		delete(r.memos, n)
	}
}
