package usage

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/job"
)

// Quota is how much may be asked for in an hour and in a day of the clock. Zero: as much as one likes.
type Quota struct {
	JobsPerHour, JobsPerDay int
	GPUPerHour, GPUPerDay   time.Duration
}

// Quotas are the quotas of people and groups. Users and Groups hold those that stand in place of everybody's.
type Quotas struct {
	Everyone, EveryGroup Quota
	Users, Groups        map[string]Quota
}

func (q *Quotas) user(name string) Quota {
	if own, ok := q.Users[name]; ok {
		return own
	}
	return q.Everyone
}

func (q *Quotas) group(name string) Quota {
	if name == "" {
		return Quota{}
	}
	if own, ok := q.Groups[name]; ok {
		return own
	}
	return q.EveryGroup
}

// gpu reports whether GPU time is bounded for a person or their group.
func (q *Quotas) gpu(user, group string) bool {
	u, g := q.user(user), q.group(group)
	return u.GPUPerHour+u.GPUPerDay+g.GPUPerHour+g.GPUPerDay > 0
}

// Span is what somebody took in this hour, or on this day, and may take.
type Span struct {
	Jobs, MostJobs int
	GPU, MostGPU   time.Duration
	Due            time.Duration // that jobs which are open are expected to take; known where GPU time is bounded
	Ends           time.Time     // when the next hour or day begins
}

// Usage is what a person, or a group, took lately.
type Usage struct{ Hour, Day Span }

// Used returns what a person took, and what their group did. A limit of zero is none.
func (l *Ledger) Used(user, group string) (person, ofGroup Usage) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drop(now)
	person = l.usage(l.book.users[user], l.opts.Quotas.user(user), now)
	if group != "" {
		ofGroup = l.usage(l.book.groups[group], l.opts.Quotas.group(group), now)
	}
	return person, ofGroup
}

// usage sums up an account, which may be nil. The lock is held.
func (l *Ledger) usage(a *account, q Quota, now time.Time) Usage {
	if a == nil {
		a = &account{}
	}
	hour := l.book.clock.hour(now)
	day, tomorrow := l.book.clock.day(now)
	u := Usage{
		Hour: Span{MostJobs: q.JobsPerHour, MostGPU: q.GPUPerHour, Due: a.due, Ends: time.Unix(hour+3600, 0).In(l.opts.Zone)},
		Day:  Span{MostJobs: q.JobsPerDay, MostGPU: q.GPUPerDay, Due: a.due, Ends: tomorrow},
	}
	u.Hour.Jobs, u.Hour.GPU = a.since(hour, hour+3600)
	u.Day.Jobs, u.Day.GPU = a.since(day.Unix(), tomorrow.Unix())
	u.Hour.Jobs += a.coming
	u.Day.Jobs += a.coming
	return u
}

// Admit says why a submission is too much for its person or their group: a fault of kind Busy with the time after
// which there is more. One that it lets through counts from now on, so that many at once don't slip by.
func (l *Ledger) Admit(_ context.Context, sub job.Submission) error {
	ofUser, ofGroup := l.opts.Quotas.user(sub.User), l.opts.Quotas.group(sub.Group)
	if ofUser == (Quota{}) && ofGroup == (Quota{}) {
		return nil
	}
	now := time.Now()
	var next time.Duration // that the job itself will take
	if l.opts.Quotas.gpu(sub.User, sub.Group) {
		next, _ = l.Estimate(job.Job{User: sub.User, Group: sub.Group, Profile: sub.Profile})
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drop(now)
	var worst *refusal
	for _, of := range []struct {
		who     string
		account *account
		quota   Quota
	}{{"", l.book.users[sub.User], ofUser}, {"group_", l.book.groups[sub.Group], ofGroup}} {
		if of.quota == (Quota{}) {
			continue
		}
		u := l.usage(of.account, of.quota, now)
		worst = worse(worst, of.who, "hour", u.Hour, next)
		worst = worse(worst, of.who, "day", u.Day, next)
	}
	if worst != nil {
		return worst.fault(now)
	}
	if sub.ID != "" {
		l.asked[sub.ID] = asked{sub.User, sub.Group, now, next}
		l.queue = append(l.queue, sub.ID)
		l.book.accounts(sub.User, sub.Group, func(a *account) {
			a.coming++
			a.due += next
		})
	}
	return nil
}

// refusal is a quota that is used up.
type refusal struct {
	who, span string // "group_" or ""; hour or day
	gpu       bool
	used      Span
}

// worse returns the refusal that ends later: the one there is, or that of a span.
func worse(have *refusal, who, span string, s Span, next time.Duration) *refusal {
	jobs := s.MostJobs > 0 && s.Jobs >= s.MostJobs
	// A job that is longer than a whole quota may run in an hour in which nothing else does.
	gpu := s.MostGPU > 0 && (s.GPU >= s.MostGPU || s.GPU+s.Due > 0 && s.GPU+s.Due+next > s.MostGPU)
	if !jobs && !gpu || have != nil && !s.Ends.After(have.used.Ends) {
		return have
	}
	return &refusal{who, span, !jobs, s}
}

// fault is a refusal as people read it.
func (r *refusal) fault(now time.Time) *fault.Error {
	subject, code := "You have", "jobs"
	if r.who != "" {
		subject = "Your group has"
	}
	period, more := "of this hour", "at "+r.used.Ends.Format("15:04")
	if r.span == "day" {
		period, more = "of today", "tomorrow at "+r.used.Ends.Format("15:04")
	}
	var text string
	switch {
	case !r.gpu:
		text = fmt.Sprintf("%s sent %d of %d jobs %s", subject, r.used.Jobs, r.used.MostJobs, period)
	case r.used.GPU >= r.used.MostGPU:
		code = "gpu"
		text = fmt.Sprintf("%s used %s %s", subject, ofGPU(r.used.GPU, r.used.MostGPU), period)
	default:
		code = "gpu"
		left := amount(r.used.MostGPU-r.used.GPU, r.used.MostGPU) + " that are left"
		if strings.HasPrefix(left, "1 ") {
			left = "1 that is left"
		}
		rest := "this job needs more than the " + left
		if r.used.Due > 0 {
			rest = "open jobs need the " + left
		}
		text = fmt.Sprintf("%s used %s %s, and %s", subject, ofGPU(r.used.GPU, r.used.MostGPU), period, rest)
	}
	return &fault.Error{
		Kind: fault.Busy, Code: "quota_" + r.who + code + "_" + r.span, Public: text + "; more " + more + ".",
		RetryAfter: max(r.used.Ends.Sub(now), time.Second),
	}
}

// unit is the unit in which a length of GPU time is told.
func unit(most time.Duration) (one time.Duration, name string) {
	switch {
	case most < 2*time.Minute:
		return time.Second, "seconds"
	case most <= 3*time.Hour:
		return time.Minute, "minutes"
	default:
		return time.Hour, "hours"
	}
}

// ofGPU says how much of a quota of GPU time is used, as in "45 of 60 GPU minutes".
func ofGPU(used, most time.Duration) string {
	_, name := unit(most)
	return amount(used, most) + " of " + amount(most, most) + " GPU " + name
}

// amount is a length of GPU time in the unit of a quota, rounded down: what is not used up must not look so.
func amount(d, most time.Duration) string {
	one, _ := unit(most)
	n := max(float64(d)/float64(one), 0)
	if n >= 10 {
		return strconv.FormatFloat(math.Floor(n+1e-9), 'f', -1, 64)
	}
	return strconv.FormatFloat(math.Floor(n*10+1e-9)/10, 'f', -1, 64)
}
