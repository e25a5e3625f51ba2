package api

import (
	"context"
	"io"
	"time"

	"github.com/ahelme/comfyume/internal/event"
	"github.com/ahelme/comfyume/internal/identity"
	"github.com/ahelme/comfyume/internal/job"
)

// Deps is what the interface asks. All of it is needed.
type Deps struct {
	People People
	Queue  Queue
	Fleet  Fleet
	Agents Agents
	Studio Studio
	Verda  Verda
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

// Queue is the studio's queue. It takes ids of anybody's jobs: who may do what is decided here.
type Queue interface {
	Counts() job.Counts
	CountsByUser() map[string]job.Counts
	Mode() string
	SetMode(ctx context.Context, mode string) error
	Pauses() []Pause
	// Pause stops what lies in a scope from starting: "all", "group:NAME" or "backend:NAME".
	Pause(ctx context.Context, scope, reason, by string) error
	Resume(ctx context.Context, scope string) error
	// Weights is the share of the GPUs that a person has in their group, and the group among the groups.
	Weights(user, group string) (person, all float64)

	// Export writes the whole queue, without credentials, for a studio with another store.
	Export(ctx context.Context, w io.Writer) error

	ListAll(ctx context.Context, q job.ListQuery, user string) ([]job.Job, int, error)
	// Tries returns what was kept of a job's attempts that are over.
	Tries(ctx context.Context, id job.ID) ([]job.Try, error)
	Get(ctx context.Context, id job.ID) (job.Job, error)
	// Entry returns a person's job with what it asks for and how it ended; missing for one that is out of history.
	Entry(ctx context.Context, user, promptID string) (job.Entry, error)
	// Places says where waiting jobs stand and why. Those that do not wait, or not any more, are left out.
	Places(ctx context.Context, ids []job.ID) map[job.ID]event.Place

	Cancel(ctx context.Context, id job.ID) (job.Job, error)
	CancelUser(ctx context.Context, user string) (removed, stopped []job.Job, err error)
	Hold(ctx context.Context, id job.ID, on bool) (job.Job, error)
	ToFront(ctx context.Context, id job.ID) (job.Job, error)
	SetClass(ctx context.Context, id job.ID, c job.Class) (job.Job, error)
	// SetDeadline notes when a waiting job is needed; zero: nobody says.
	SetDeadline(ctx context.Context, id job.ID, at time.Time) (job.Job, error)
	// Reorder puts waiting jobs of a person, all of one class, into this order, in the places that they have.
	Reorder(ctx context.Context, user string, ids []job.ID) ([]job.Job, error)
	// Retry submits once more what a final job asked for.
	Retry(ctx context.Context, id job.ID) (job.Job, error)
}

// Studio is the program itself.
type Studio interface {
	Status(ctx context.Context) Status
	Purse
}

// leads reports whether a person may act for the others of a group: an instructor of theirs, an operator of all.
func leads(who identity.Person, group string) bool {
	return who.Role == identity.Operator || who.Role == identity.Instructor && who.Group != "" && who.Group == group
}

// sees reports whether a job may be shown to a person, and changed by them: it is theirs, or of somebody they lead.
func sees(who identity.Person, j job.Job) bool { return j.User == who.Name || leads(who, j.Group) }
