package queueapi

import (
	"context"
	"regexp"
	"strings"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/identity"
	"github.com/ahelme/comfyume/internal/job"
)

// An operator sees and moves everybody's jobs, an instructor those of their group, a participant their own.

// sees reports whether a job may be shown to a person, and cancelled by them.
func sees(p identity.Person, j job.Job) bool {
	return j.User == p.Name || p.Role == identity.Operator || teaches(p, j.Group)
}

// teaches reports whether the person is an instructor of the group.
func teaches(p identity.Person, group string) bool {
	return p.Role == identity.Instructor && group != "" && group == p.Group
}

// moves reports why a person may not give a job of theirs, or of somebody's whom they look after, this class. From
// is what it has, or would have.
func moves(p identity.Person, from, to job.Class) error {
	if p.Role == identity.Participant && to < from {
		return fault.New(fault.Denied, "priority: %d goes before %d, and participants may only let others go first.", to, from).
			WithRemedy("Send %d to %d, or ask your instructor.", from, job.ClassLow).WithCode("priority")
	}
	return nil
}

// userID is what a user_id may look like. Names of accounts are narrower still.
var userID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,100}$`)

// subject returns for whom a person may act who names somebody; empty: for themselves. What is refused does not tell
// whether there is such a person.
func (f *Face) subject(ctx context.Context, p identity.Person, name string) (identity.Person, error) {
	if name == "" {
		return p, nil
	}
	if !userID.MatchString(name) {
		return p, wrong("user_id", "Send the name of an account, or leave it out for your own.",
			"%q has other characters than letters, digits, - and _, or more than 100 of them.", clip(name))
	}
	name = strings.ToLower(name)
	if name == p.Name {
		return p, nil
	}
	denied := fault.New(fault.Denied, "user_id: you may not act for %s.", name).
		WithRemedy("Leave user_id out, or send %s.", p.Name).WithCode("user_id")
	if p.Role == identity.Participant {
		return p, denied
	}
	other, err := f.People.Person(ctx, name)
	switch {
	case fault.Is(err, fault.Missing) && p.Role == identity.Operator:
		return p, wrong("user_id", "See who there is with: comfyume user list", "there is nobody called %s.", name)
	case fault.Is(err, fault.Missing), err == nil && p.Role != identity.Operator && !teaches(p, other.Group):
		return p, denied
	}
	return other, err
}

// find returns a job that the person may see, by its id or by the prompt id under which they know it. Others' jobs are
// missing, not forbidden: their ids tell nothing.
func (f *Face) find(ctx context.Context, p identity.Person, id string) (job.Job, error) {
	j, err := f.Queue.Get(ctx, job.ID(id))
	if err == nil && sees(p, j) {
		return j, nil
	}
	if err == nil || fault.Is(err, fault.Missing) {
		j, err = f.Queue.Find(ctx, p.Name, id)
	}
	if fault.Is(err, fault.Missing) {
		err = noJob(id)
	}
	return j, err
}
