package api

import (
	"context"
	"io"
	"time"

	"github.com/ahelme/comfyume/internal/identity"
	"github.com/ahelme/comfyume/internal/job"
)

// Deps is what the interface asks. All of it is needed.
type Deps struct {
	People People
	Queue  Queue
	Fleet  Fleet
	Studio Studio
}

// People is the studio's accounts.
type People interface {
	User(ctx context.Context, name string) (User, error)
	Users(ctx context.Context, group string) ([]User, error)
	AddUser(ctx context.Context, n NewUser) (User, error)
	ChangeUser(ctx context.Context, name string, c UserChange) (User, error)
	// RemoveUser removes the account with everything that signs in to it, and its files when they are to go too.
	RemoveUser(ctx context.Context, name string, files bool) error
	SetPassword(ctx context.Context, name, password string) error
	Import(ctx context.Context, csv io.Reader) (Imported, error)
	NewLink(ctx context.Context, user, by string, life time.Duration) (Link, error)

	Tokens(ctx context.Context, user string) ([]Token, error)
	NewToken(ctx context.Context, user string, n NewToken) (Token, error)
	RevokeToken(ctx context.Context, user, id string) error

	Groups(ctx context.Context) ([]Group, error)
	AddGroup(ctx context.Context, name, title string) (Group, error)
	RemoveGroup(ctx context.Context, name string) error
	Codes(ctx context.Context, group string) ([]Code, error)
	NewCode(ctx context.Context, group, by string, places int, life time.Duration) (Code, error)
	RevokeCode(ctx context.Context, code string) error
}

// Queue is the studio's queue.
type Queue interface {
	Counts() job.Counts
	CountsByUser() map[string]job.Counts
	Mode() string
	Order() string
	Note() string
	ListAll(ctx context.Context, q job.ListQuery, user string) ([]job.Job, int, error)
	Get(ctx context.Context, id job.ID) (job.Job, error)
	Cancel(ctx context.Context, id job.ID) (job.Job, error)
	// Why says in one sentence why a waiting job does not run yet; empty when that is not known.
	Why(ctx context.Context, id job.ID) string
}

// Fleet is the studio's back ends.
type Fleet interface {
	BackEnds() []BackEnd
	// Test asks one back end now who it is and what it can run.
	Test(ctx context.Context, name string) (BackEnd, error)
}

// Studio is the program itself.
type Studio interface {
	Status(ctx context.Context) Status
}

// scope returns whose jobs a person may see: everybody's ("") for staff.
func scope(who identity.Person) string {
	if isStaff(who) {
		return ""
	}
	return who.Name
}
