package sim

import (
	"container/heap"
	"container/list"
	"encoding/json"
	"math"
	"strconv"
	"sync"

	"github.com/ahelme/comfyume/internal/comfy/pyjson"
	"github.com/ahelme/comfyume/internal/sim/executor"
)

// maxHistory is how many finished runs are remembered; one more may be for a moment, as in the real thing.
const maxHistory = 10000

// item is one prompt on its way.
type item struct {
	number    pyjson.Num
	id        string
	prompt    json.RawMessage // converted, in Python's spacing
	extra     json.RawMessage // extra_data as it is shown
	pnginfo   json.RawMessage // extra_data.extra_pnginfo; nil when there is none
	outputs   []string
	graph     *executor.Graph
	client    string
	hasClient bool
	previews  bool // this run wants previews
	created   int64
	announced bool // its POST has been answered
}

// appendTuple appends the item as queue and history show it. public leaves credentials away.
func (it *item) appendTuple(dst []byte, public bool) []byte {
	dst = append(append(dst, '['), it.number.JSON()...)
	dst = pyjson.AppendString(append(dst, ", "...), it.id)
	dst = append(append(dst, ", "...), it.prompt...)
	dst = append(dst, ", "...)
	if public {
		dst = append(dst, withoutSecrets(it.extra)...)
	} else {
		dst = append(dst, it.extra...)
	}
	dst = pyjson.AppendStrings(append(dst, ", "...), it.outputs)
	return append(dst, ']')
}

// secrets are the keys of extra_data that never reach the history.
var secrets = [...]string{"auth_token_comfy_org", "api_key_comfy_org"}

func withoutSecrets(extra json.RawMessage) json.RawMessage {
	members, err := pyjson.Members(extra)
	if err != nil {
		return extra
	}
	kept := members[:0]
	for _, m := range members {
		if m.Key != secrets[0] && m.Key != secrets[1] {
			kept = append(kept, m)
		}
	}
	return pyjson.AppendObject(nil, kept)
}

// finished is one run in the history.
type finished struct {
	item    *item
	outcome executor.Outcome
}

// queue holds prompts until the worker takes them, and what became of them. Lower numbers go first, then lower
// ids. changed is called after every change with the number of prompts that are waiting or running.
type queue struct {
	changed func(remaining int)

	mu       sync.Mutex
	wake     *sync.Cond
	waiting  itemHeap
	running  *item
	history  map[string]*list.Element // of *finished
	order    *list.List               // oldest first
	counter  int64
	unload   bool
	forget   bool
	shutdown bool
}

func newQueue(changed func(int)) *queue {
	q := &queue{changed: changed, history: map[string]*list.Element{}, order: list.New()}
	q.wake = sync.NewCond(&q.mu)
	return q
}

// nextNumber is the number of a prompt that was given none.
func (q *queue) nextNumber(front bool) pyjson.Num {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := q.counter
	q.counter++
	if front {
		n = -n
	}
	return pyjson.IntNum(n)
}

// put adds a prompt. It is in the queue at once; the worker and the sockets hear of it from announce.
func (q *queue) put(it *item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	heap.Push(&q.waiting, it)
}

// announce lets the worker have a prompt.
func (q *queue) announce(it *item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	it.announced = true
	q.tell()
	q.wake.Broadcast()
}

// tell calls changed in order of the changes: with the lock held.
func (q *queue) tell() { q.changed(q.remainingLocked()) }

func (q *queue) remainingLocked() int {
	n := len(q.waiting)
	if q.running != nil {
		n++
	}
	return n
}

func (q *queue) remaining() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.remainingLocked()
}

// next waits for a prompt, or for a wish to free memory. ok is false when the queue is closed.
func (q *queue) next() (it *item, unload, forget, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !q.shutdown {
		if q.unload || q.forget {
			unload, forget = q.unload || q.forget, q.forget
			q.unload, q.forget = false, false
			return nil, unload, forget, true
		}
		if len(q.waiting) > 0 && q.waiting[0].announced {
			q.running = heap.Pop(&q.waiting).(*item)
			q.tell()
			return q.running, false, false, true
		}
		q.wake.Wait()
	}
	return nil, false, false, false
}

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.shutdown = true
	q.wake.Broadcast()
}

// finish moves the running prompt into the history.
func (q *queue) finish(it *item, o executor.Outcome) {
	f := &finished{item: it, outcome: o}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.running = nil
	if q.order.Len() > maxHistory {
		q.dropLocked(q.order.Front().Value.(*finished).item.id)
	}
	if e, ok := q.history[it.id]; ok {
		e.Value = f
	} else {
		q.history[it.id] = q.order.PushBack(f)
	}
	q.tell()
}

// appendEntry appends the run as the history shows it. Most runs are never asked for.
func (f *finished) appendEntry(dst []byte) []byte {
	o, status := f.outcome, "error"
	if o.Success {
		status = "success"
	}
	out := f.item.appendTuple(append(dst, `{"prompt": `...), true)
	out = append(append(out, `, "outputs": `...), o.Outputs...)
	out = append(append(append(out, `, "status": {"status_str": "`...), status...), `", "completed": `...)
	out = strconv.AppendBool(out, o.Success)
	out = append(append(out, `, "messages": `...), o.Messages...)
	return append(append(append(out, `}, "meta": `...), o.Meta...), '}')
}

// lists returns what runs and what waits, in the order of the heap.
func (q *queue) lists() (running, waiting []*item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.running != nil {
		running = []*item{q.running}
	}
	return running, append([]*item(nil), q.waiting...)
}

// whileRuns calls f if the prompt of that id is running, and no other runs before f returns. It reports whether it is.
func (q *queue) whileRuns(id string, f func()) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.running == nil || q.running.id != id {
		return false
	}
	f()
	return true
}

// clear removes what waits.
func (q *queue) clear() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = nil
	q.tell()
}

// remove takes one waiting prompt out and reports whether it was there. Taking the last one is told twice, as a
// real server does.
func (q *queue) remove(id string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, it := range q.waiting {
		if it.id == id {
			heap.Remove(&q.waiting, i)
			if len(q.waiting) == 0 {
				q.tell()
			}
			q.tell()
			return true
		}
	}
	return false
}

// free asks for memory.
func (q *queue) free(unload, forget bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.unload, q.forget = q.unload || unload, q.forget || forget
	q.wake.Broadcast()
}

// find returns a run from the history.
func (q *queue) find(id string) (f *finished, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e, ok := q.history[id]
	if !ok {
		return nil, false
	}
	return e.Value.(*finished), true
}

// past returns runs from the history, oldest first: at most limit after skipping offset, or the newest ones when
// offset is negative. As in a real server a limit of less than one lets one through where there is an offset, and
// nothing where there is none.
func (q *queue) past(limit, offset int) []*finished {
	q.mu.Lock()
	defer q.mu.Unlock()
	if offset < 0 && limit < math.MaxInt {
		offset = q.order.Len() - limit
	}
	var out []*finished
	i := 0
	for e := q.order.Front(); e != nil; e = e.Next() {
		if i >= offset {
			out = append(out, e.Value.(*finished))
			if len(out) >= limit {
				break
			}
		}
		i++
	}
	return out
}

// drop removes a run from the history.
func (q *queue) drop(id string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.dropLocked(id)
}

func (q *queue) dropLocked(id string) {
	if e, ok := q.history[id]; ok {
		q.order.Remove(e)
		delete(q.history, id)
	}
}

// wipe empties the history.
func (q *queue) wipe() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.history, q.order = map[string]*list.Element{}, list.New()
}

// itemHeap is a heap of waiting prompts.
type itemHeap []*item

func (h itemHeap) Len() int { return len(h) }
func (h itemHeap) Less(i, j int) bool {
	switch {
	case h[i].number.Less(h[j].number):
		return true
	case h[j].number.Less(h[i].number):
		return false
	}
	return h[i].id < h[j].id
}
func (h itemHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *itemHeap) Push(x any)   { *h = append(*h, x.(*item)) }
func (h *itemHeap) Pop() any {
	old := *h
	it := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return it
}
