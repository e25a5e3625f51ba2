package queue

import (
	"cmp"
	"slices"

	"github.com/ahelme/comfyume/internal/job"
)

// listed is an open job that a list may have: whole, or by its slot.
type listed struct {
	seq   int64
	whole *job.Job
	slot  uint32
}

// topJobs picks the first jobs of very many by order of acceptance, without holding them all.
type topJobs struct {
	ascending bool
	most      int // 0: all
	total     int
	kept      []listed
	full      bool  // as many as there may be are kept, and last is the last of them
	last      int64 // its sequence
}

func (t *topJobs) offer(l listed) {
	t.total++
	if t.full && (l.seq > t.last) == t.ascending {
		return
	}
	t.kept = append(t.kept, l)
	if t.most > 0 && len(t.kept) >= 2*t.most+64 {
		t.kept = t.sorted()
		t.full, t.last = true, t.kept[t.most-1].seq
	}
}

// sorted returns those that belong in the list, in order.
func (t *topJobs) sorted() []listed {
	slices.SortFunc(t.kept, func(x, y listed) int {
		if t.ascending {
			return cmp.Compare(x.seq, y.seq)
		}
		return cmp.Compare(y.seq, x.seq)
	})
	if t.most > 0 && len(t.kept) > t.most {
		return t.kept[:t.most]
	}
	return t.kept
}
