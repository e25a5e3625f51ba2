// Package warm keeps containers awake by a plan: it raises the minimum of a deployment at the provider, which costs money
// until it is lowered again. So what it is about to raise is written down first, durably, with what there was before; and
// whatever is written down and outside the plan is taken back, at the start of the studio and at the end of the plan.
package warm

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/verda"
)

// Provider is where minimums are.
type Provider interface {
	Scaling(ctx context.Context, name string) (verda.Scaling, error)
	ChangeScaling(ctx context.Context, name string, ch verda.ScalingChange) (verda.Scaling, error)
}

// Deployment is one that a back end uses.
type Deployment struct {
	Name    string
	BackEnd string
	Group   string  // whose alone it is; empty: not one group's
	Price   float64 // of a container, per hour; 0: unknown
	// Plan says how many containers are kept awake at a time, and when that may change next; the zero time: never.
	Plan func(t time.Time) (least int, next time.Time)
}

// Raised is a minimum that is above what it was.
type Raised struct {
	Deployment string    `json:"deployment"`
	BackEnd    string    `json:"back_end"`
	Before     int       `json:"before"` // what it was, and will be again
	Set        []int     `json:"set"`    // what it was set to since, or may have been; the last one is meant
	Since      time.Time `json:"since"`
	Price      float64   `json:"price_per_hour"`  // of a container
	Group      string    `json:"group,omitempty"` // whose alone it is
	Paid       time.Time `json:"paid,omitzero"`   // up to which it is in the books
}

// Least is what the minimum is meant to be.
func (r Raised) Least() int { return r.Set[len(r.Set)-1] }

// PerHour is what the raised minimum costs in an hour; 0: unknown.
func (r Raised) PerHour() float64 { return float64(max(0, r.Least()-r.Before)) * r.Price }

// Says returns what is kept awake and what it costs, as a sentence.
func (r Raised) Says() string {
	text := fmt.Sprintf("%s keeps %d containers awake by plan", r.Deployment, r.Least())
	if r.Least() == 1 {
		text = r.Deployment + " keeps a container awake by plan"
	}
	if per := r.PerHour(); per > 0 {
		text += fmt.Sprintf(": %.2f per hour, %.2f so far", per, per*time.Since(r.Since).Hours())
	}
	return text + "."
}

// Keeper carries plans out. Its Run is to be called by one program of a studio at a time; everything else is safe for
// concurrent use.
type Keeper struct {
	book     *book
	provider Provider
	plans    []Deployment
	books    *Books
	poor     map[string]bool // plans for which there is no money; owned by Run
	log      *slog.Logger

	mu     sync.Mutex
	runs   bool              // this program carries the plans out; else another may, and the book says what it did
	raised map[string]Raised // while it runs
	failed map[string]error  // why a minimum could not be changed, by deployment
	beyond map[string]int    // minimums that are above what the plans want, by deployment
}

// Pauses after a change that could not be made.
const (
	firstPause = 15 * time.Second
	longest    = 10 * time.Minute
	patience   = 2 * time.Minute // of one deployment's change
	lookEvery  = 30 * time.Minute
)

// New returns a keeper that writes down what it raises in file. A file that can't be read is an error: it may say what
// has to be lowered again. What is kept awake goes into the books, and where they say that the money is spent, plans rest.
func New(file string, provider Provider, plans []Deployment, books *Books, log *slog.Logger) (*Keeper, error) {
	k := &Keeper{book: &book{file}, provider: provider, plans: plans, books: books, log: log, failed: map[string]error{}, beyond: map[string]int{}, poor: map[string]bool{}}
	_, err := k.book.read()
	return k, err
}

// Run carries the plans out until ctx ends. A minimum that is raised then stays so: a studio that is started again goes
// on with the plan, or takes it back.
func (k *Keeper) Run(ctx context.Context) error {
	raised, err := k.book.read() // another program of the studio may have carried them out until now
	if err != nil {
		return err
	}
	k.mu.Lock()
	k.runs, k.raised = true, raised
	k.mu.Unlock()
	for _, r := range raised { // also what it cost while no studio ran
		since := r.Since
		if r.Paid.After(since) {
			since = r.Paid
		}
		k.books.Keep(r.Deployment, r.Group, r.Price, r.Least(), since)
	}
	defer func() {
		k.mu.Lock()
		k.runs, k.raised = false, nil
		clear(k.failed)
		clear(k.beyond)
		k.mu.Unlock()
	}()
	pause := firstPause
	for first := true; ; first = false {
		next, whole := k.round(ctx, first)
		if ctx.Err() != nil {
			k.farewell()
			return nil
		}
		wait := lookEvery
		if !next.IsZero() {
			wait = min(wait, time.Until(next))
		}
		if whole {
			pause = firstPause
		} else {
			wait = min(wait, pause)
			pause = min(2*pause, longest)
		}
		if !k.rest(ctx, wait) {
			k.farewell()
			return nil
		}
	}
}

// rest waits until the next round. It ends early when there is no money any more for what is kept awake, or money again
// for what is not. It is false when ctx ended.
func (k *Keeper) rest(ctx context.Context, wait time.Duration) bool {
	for end := time.Now().Add(wait); ; {
		left := time.Until(end)
		if left <= 0 {
			return true
		}
		if !sleep(ctx, min(left, countEvery)) {
			k.count(time.Now())
			return false
		}
		now := time.Now()
		k.count(now)
		if k.turned(now) {
			return true
		}
	}
}

// count brings the books up to date, and writes down that they are.
func (k *Keeper) count(now time.Time) {
	k.books.Count(now)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.books == nil || len(k.raised) == 0 {
		return
	}
	next := clone(k.raised)
	for name, r := range next {
		r.Paid = now.UTC().Truncate(time.Second)
		next[name] = r
	}
	if err := k.book.write(next); err != nil { // at worst a few minutes are counted twice
		k.log.Warn("up to when what is kept awake is in the books could not be written down", "err", err)
	}
	k.raised = next
}

// turned reports whether there is money for a plan that there was none for, or none any more.
func (k *Keeper) turned(now time.Time) bool {
	return slices.ContainsFunc(k.plans, func(d Deployment) bool {
		least, _ := d.Plan(now)
		_, ok := k.books.Allows(d.Name, d.Group, d.Price, least, now)
		return ok == k.poor[d.Name]
	})
}

// farewell says what goes on costing money while no studio runs.
func (k *Keeper) farewell() {
	for _, r := range k.Raised() {
		k.log.Warn("containers stay awake while no studio runs", "deployment", r.Deployment, "least", r.Least(), "before", r.Before, "per_hour", r.PerHour())
	}
}

// sleep waits. It is false when ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// round brings every deployment to where the plans want it now. It returns when they may want something else, and
// whether everything was done. first says that it is the first round after a start.
func (k *Keeper) round(ctx context.Context, first bool) (next time.Time, whole bool) {
	now, wanted := time.Now(), map[string]int{}
	whole = true
	for _, d := range k.plans {
		least, then := d.Plan(now)
		stop, ok := k.books.Allows(d.Name, d.Group, d.Price, least, now)
		if ok == k.poor[d.Name] {
			k.log.Warn("the money decides of what is kept awake by plan", "deployment", d.Name, "awake", ok, "why", stop.Says)
		}
		if k.poor[d.Name] = !ok; !ok {
			least = 0
			if next.IsZero() || stop.Until.Before(next) {
				next = stop.Until
			}
		}
		wanted[d.Name] = max(wanted[d.Name], least)
		if !then.IsZero() && (next.IsZero() || then.Before(next)) {
			next = then
		}
	}
	names := make([]string, 0, len(wanted))
	for name := range wanted {
		names = append(names, name)
	}
	for _, r := range k.Raised() {
		if _, planned := wanted[r.Deployment]; !planned { // the settings do not have it any more
			names = append(names, r.Deployment)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		one, cancel := context.WithTimeout(ctx, patience)
		err := k.bring(one, name, wanted[name], first)
		cancel()
		if ctx.Err() != nil {
			return next, false
		}
		whole = whole && err == nil
		k.note(name, err)
	}
	for name, least := range wanted {
		k.look(ctx, name, least)
	}
	return next, whole
}

// look sees whether a deployment keeps more awake than the plans want. Nothing is changed: people did that.
func (k *Keeper) look(ctx context.Context, name string, least int) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	s, err := k.provider.Scaling(ctx, name)
	if err != nil { // what could not be seen says nothing new
		k.log.DebugContext(ctx, "minimum", "deployment", name, "err", err)
		return
	}
	k.see(name, s.Min)
	if r, has := k.entry(name); has {
		least = max(least, r.Least())
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	_, before := k.beyond[name]
	if s.Min <= least {
		delete(k.beyond, name)
		return
	}
	k.beyond[name] = s.Min
	if !before {
		k.log.WarnContext(ctx, "more containers are kept awake than any plan wants", "deployment", name, "least", s.Min, "plan", least)
	}
}

// note keeps, and logs once, why a minimum could not be changed.
func (k *Keeper) note(name string, err error) {
	k.mu.Lock()
	before := k.failed[name]
	delete(k.failed, name)
	if err != nil {
		k.failed[name] = err
	}
	k.mu.Unlock()
	switch {
	case err != nil && before == nil:
		k.log.Warn("the number of containers kept awake could not be changed; it is tried again", "deployment", name, "err", err)
	case err == nil && before != nil:
		k.log.Info("the number of containers kept awake was changed after all", "deployment", name)
	}
}

// bring brings one deployment to a minimum; 0: to what it was before. again says that what is written down is made sure
// of, as after a start.
func (k *Keeper) bring(ctx context.Context, name string, least int, again bool) error {
	r, has := k.entry(name)
	switch {
	case least == 0 && !has:
		return nil
	case least == 0:
		return k.lower(ctx, r)
	case has && r.Least() == least && !again && k.fine(name):
		return nil // what people set by hand meanwhile stays
	}
	s, err := k.provider.Scaling(ctx, name)
	if err != nil {
		return err
	}
	k.see(name, s.Min)
	if s.Max < least {
		return fault.New(fault.Invalid, "%s may have %d containers, and its plan keeps %d awake.", name, s.Max, least).
			WithRemedy("Raise its maximum (comfyume backend verda scale %s --max %d), or lower min under warm.", name, least)
	}
	if !has && s.Min >= least {
		return nil // somebody else keeps them awake, and takes that back
	}
	if !has {
		r = Raised{Deployment: name, BackEnd: k.backEnd(name), Before: s.Min, Since: time.Now().UTC().Truncate(time.Second)}
	}
	r.Group, r.Price = k.costs(name)
	if !has || r.Least() != least {
		r.Set = append(slices.DeleteFunc(slices.Clone(r.Set), func(n int) bool { return n == least }), least)
	}
	if err := k.write(r); err != nil {
		return err
	}
	if s.Min != least {
		if _, err := k.provider.ChangeScaling(ctx, name, verda.ScalingChange{Min: &least}); err != nil {
			return err
		}
		k.see(name, least)
		k.log.Info("containers are kept awake by plan", "deployment", name, "least", least, "before", r.Before, "per_hour", r.PerHour())
	}
	return nil
}

// lower takes back what was raised. What people set by hand meanwhile stays.
func (k *Keeper) lower(ctx context.Context, r Raised) error {
	s, err := k.provider.Scaling(ctx, r.Deployment)
	left := s.Min
	switch {
	case fault.Is(err, fault.Missing): // and with it what it cost
		left = 0
	case err != nil:
		return err
	case s.Min == r.Before:
	case slices.Contains(r.Set, s.Min):
		if _, err := k.provider.ChangeScaling(ctx, r.Deployment, verda.ScalingChange{Min: &r.Before}); err != nil {
			return err
		}
		left = r.Before
		k.log.Info("containers are not kept awake any more", "deployment", r.Deployment, "least", r.Before)
	default:
		k.log.Warn("somebody changed the minimum by hand; it is left so", "deployment", r.Deployment, "least", s.Min, "before", r.Before)
	}
	k.books.Keep(r.Deployment, r.Group, r.Price, left, time.Now())
	return k.forget(r.Deployment)
}

// see has the books know how many containers a deployment keeps awake.
func (k *Keeper) see(name string, n int) {
	group, price := k.costs(name)
	k.books.Keep(name, group, price, n, time.Now())
}

func (k *Keeper) entry(name string) (Raised, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	r, ok := k.raised[name]
	return r, ok
}

func (k *Keeper) fine(name string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.failed[name] == nil
}

// write writes an entry down, and returns when it is durable.
func (k *Keeper) write(r Raised) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	next := clone(k.raised)
	next[r.Deployment] = r
	if err := k.book.write(next); err != nil {
		return err
	}
	k.raised = next
	return nil
}

func (k *Keeper) forget(name string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	next := clone(k.raised)
	delete(next, name)
	if err := k.book.write(next); err != nil {
		return err
	}
	k.raised = next
	return nil
}

func (k *Keeper) backEnd(name string) string {
	if i := slices.IndexFunc(k.plans, func(d Deployment) bool { return d.Name == name }); i >= 0 {
		return k.plans[i].BackEnd
	}
	return ""
}

// costs returns what a container costs in an hour, and whose alone the deployment is.
func (k *Keeper) costs(name string) (group string, price float64) {
	for i, d := range k.plans {
		if d.Name != name {
			continue
		}
		price = max(price, d.Price)
		if i == slices.IndexFunc(k.plans, func(o Deployment) bool { return o.Name == name }) {
			group = d.Group
		} else if d.Group != group {
			group = ""
		}
	}
	return group, price
}

// Raised returns the minimums that are raised now, by deployment.
func (k *Keeper) Raised() []Raised {
	k.mu.Lock()
	defer k.mu.Unlock()
	raised := k.raised
	if !k.runs {
		var err error
		if raised, err = k.book.read(); err != nil { // whoever runs says so
			k.log.Debug("what is kept awake", "err", err)
		}
	}
	list := make([]Raised, 0, len(raised))
	for _, r := range raised {
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b Raised) int { return strings.Compare(a.Deployment, b.Deployment) })
	return list
}

// Notes are what people who look after the studio should know: what is kept awake and its price, and what could not be
// changed.
func (k *Keeper) Notes() []string {
	var notes []string
	for _, r := range k.Raised() {
		notes = append(notes, r.Says())
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	for _, d := range k.plans {
		if stop := k.books.Stopped(d.Name, now); stop != (Stop{}) {
			notes = append(notes, fmt.Sprintf("%s is not kept awake as planned. %s The plan goes on at %s.", d.Name, stop.Says, stop.Until.Local().Format("15:04")))
		}
		if n, ok := k.beyond[d.Name]; ok {
			least, _ := d.Plan(now)
			text := fmt.Sprintf("%s keeps %d awake outside every plan", d.Name, n)
			if least > 0 {
				text = fmt.Sprintf("%s keeps %d awake, and its plan wants %d", d.Name, n, least)
			}
			if d.Price > 0 {
				text += fmt.Sprintf(": %.2f per hour", float64(max(0, n-least))*d.Price)
			}
			notes = append(notes, text+fmt.Sprintf(". To lower it: comfyume backend verda scale %s --min %d", d.Name, least))
		}
		if err := k.failed[d.Name]; err != nil {
			sentence, remedy := fault.Public(err)
			notes = append(notes, "The number of containers that "+d.Name+" keeps awake could not be changed. "+sentence+" "+remedy)
		}
	}
	return notes
}
