package rehearse

import (
	"container/heap"
	"time"
)

// clock runs what is to happen in order of time, and of its announcement where times are equal. It begins at zero.
type clock struct {
	now    time.Duration
	coming happenings
	count  int
}

type happening struct {
	at time.Duration
	n  int
	do func()
}

// at lets do happen at the time, or now if that is over.
func (c *clock) at(t time.Duration, do func()) {
	c.count++
	heap.Push(&c.coming, happening{max(t, c.now), c.count, do})
}

// run lets everything happen. After all that happens at one instant it calls settle, which may add more.
func (c *clock) run(settle func()) {
	for len(c.coming) > 0 {
		c.now = c.coming[0].at
		for len(c.coming) > 0 && c.coming[0].at == c.now {
			heap.Pop(&c.coming).(happening).do()
		}
		settle()
	}
}

// happenings implement heap.Interface.
type happenings []happening

func (h happenings) Len() int { return len(h) }

func (h happenings) Less(i, j int) bool {
	return h[i].at < h[j].at || h[i].at == h[j].at && h[i].n < h[j].n
}

func (h happenings) Swap(i, j int) { h[i], h[j] = h[j], h[i] }

func (h *happenings) Push(x any) { *h = append(*h, x.(happening)) }

func (h *happenings) Pop() any {
	last := len(*h) - 1
	x := (*h)[last]
	(*h)[last] = happening{}
	*h = (*h)[:last]
	return x
}
