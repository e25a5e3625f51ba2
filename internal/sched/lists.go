package sched

import (
	"cmp"
	"slices"
	"sort"
	"time"
)

// item is a job in the machine.
type item struct {
	Job
	user      *user
	needs     *needs
	avoid     []string
	notBefore time.Time
	why       string // of the release
	filed     *group // where it waits; nil while claimed
	on        *backEnd
	posted    bool
	turn      int64 // of the decision that claimed it
	before    int64 // the person's turn before that
	joined    int64 // and when they had got into the rotation
}

// user is a person with jobs in the machine.
type user struct {
	name    string
	turn    int64 // number of the last decision for this person
	joined  int64 // when they got into the rotation; decides between equal turns
	kept    bool  // joined is to stay when they get into the rotation again
	all     list  // waiting jobs
	groups  []*group
	claimed []*item
}

// group holds those of a person's waiting jobs that can run at the same places and times: whether its first one can
// run says it for all of them.
type group struct {
	needs     *needs
	avoid     []string
	notBefore time.Time
	items     list
}

// list is ordered by class, number and acceptance.
type list []*item

func compare(x, y *item) int {
	return cmp.Or(cmp.Compare(x.Class, y.Class), cmp.Compare(x.Number, y.Number), cmp.Compare(x.Seq, y.Seq),
		cmp.Compare(x.ID, y.ID))
}

func (l list) search(it *item) (int, bool) { return slices.BinarySearchFunc(l, it, compare) }

func (l *list) insert(it *item) {
	if n := len(*l); n == 0 || compare((*l)[n-1], it) < 0 {
		*l = append(*l, it)
		return
	}
	i, found := l.search(it)
	if !found {
		*l = slices.Insert(*l, i, it)
	}
}

func (l *list) remove(it *item) {
	i, found := l.search(it)
	switch {
	case !found:
	case i == 0: // the usual case costs nothing: the slice moves on and is copied when it grows
		(*l)[0] = nil
		*l = (*l)[1:]
	default:
		*l = slices.Delete(*l, i, i+1)
	}
}

// add files a job, anew when it is known already.
func (m *Machine) add(j Job) {
	if it := m.items[j.ID]; it != nil {
		if it.on != nil || it.user.name != j.User {
			return
		}
		m.refile(it, func() {
			it.Job = j
			m.setNeeds(it, j.Needs)
		})
		return
	}
	u := m.users[j.User]
	if u == nil {
		u = &user{name: j.User}
		m.users[j.User] = u
	}
	it := &item{Job: j, user: u}
	m.setNeeds(it, j.Needs)
	m.items[j.ID] = it
	m.file(it)
}

// refile changes what decides where a job waits.
func (m *Machine) refile(it *item, change func()) {
	waits := it.on == nil
	if waits {
		m.unfile(it)
	}
	change()
	if waits {
		m.file(it)
	}
}

func (m *Machine) file(it *item) {
	u := it.user
	if len(u.all) == 0 {
		m.enter(u)
	}
	u.all.insert(it)
	i := slices.IndexFunc(u.groups, func(g *group) bool {
		return g.needs == it.needs && g.notBefore.Equal(it.notBefore) && slices.Equal(g.avoid, it.avoid)
	})
	if i < 0 {
		i = len(u.groups)
		u.groups = append(u.groups, &group{needs: it.needs, avoid: it.avoid, notBefore: it.notBefore})
	}
	it.filed = u.groups[i]
	it.filed.items.insert(it)
}

func (m *Machine) unfile(it *item) {
	g, u := it.filed, it.user
	if g == nil {
		return
	}
	u.all.remove(it)
	g.items.remove(it)
	it.filed = nil
	if len(g.items) == 0 {
		u.groups = slices.DeleteFunc(u.groups, func(other *group) bool { return other == g })
	}
	if len(u.all) == 0 {
		u.all = nil
		m.rotation = slices.DeleteFunc(m.rotation, func(other *user) bool { return other == u })
	}
}

// enter puts a person into the rotation, behind those who were served longer ago.
func (m *Machine) enter(u *user) {
	if !u.kept {
		m.joins++
		u.joined = m.joins
	}
	u.kept = false
	i := sort.Search(len(m.rotation), func(i int) bool {
		other := m.rotation[i]
		return other.turn > u.turn || other.turn == u.turn && other.joined > u.joined
	})
	m.rotation = slices.Insert(m.rotation, i, u)
}

// giveBack undoes the turn that the job's claim took, if it was the person's last: a lost attempt costs nobody
// their place.
func (m *Machine) giveBack(it *item) {
	u := it.user
	if it.turn == 0 || u.turn != it.turn {
		return
	}
	u.turn, u.joined, u.kept = it.before, it.joined, true
	it.turn = 0
	if len(u.all) > 0 {
		m.rotation = slices.DeleteFunc(m.rotation, func(other *user) bool { return other == u })
		m.enter(u)
	}
}
