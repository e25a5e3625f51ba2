// Package identity says who acts: the person a request belongs to, carried in the request's context from the
// door to the faces behind it.
package identity

import "context"

// Role is what a person may do in the studio.
type Role string

// The roles, from least to most.
const (
	Participant Role = "participant"
	Instructor  Role = "instructor"
	Operator    Role = "operator"
)

// Valid reports whether r is one of the three roles.
func (r Role) Valid() bool { return r == Participant || r == Instructor || r == Operator }

// Person is who acts. Name is the account's name and names the workspace.
type Person struct {
	Name  string
	Group string // may be empty
	Role  Role
}

type key struct{}

// With returns a context that carries p.
func With(ctx context.Context, p Person) context.Context { return context.WithValue(ctx, key{}, p) }

// From returns the person ctx carries. ok is false where nobody signed in.
func From(ctx context.Context) (p Person, ok bool) {
	p, ok = ctx.Value(key{}).(Person)
	return p, ok
}
