package api

import (
	"bytes"
	"context"
	"net/http"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/identity"
)

type userPath struct {
	Name string `path:"name"`
}

// self reports whether a person may act for the account: it is theirs, or they may act for anybody.
func self(who identity.Person, name string) error {
	if who.Role == identity.Operator || who.Name == name {
		return nil
	}
	return fault.New(fault.Denied, "This belongs to somebody else.")
}

func (f *Face) people() {
	on(f, route{http.MethodGet, "/me", "me", "Who asks", anyone, 0},
		func(_ context.Context, who identity.Person, _ *struct{}) (*body[Me], error) {
			return answer(Me(who), nil)
		})
	on(f, route{http.MethodGet, "/users", "list-users", "All accounts", staff, 0},
		func(ctx context.Context, _ identity.Person, in *struct {
			Group string `query:"group"`
		},
		) (*body[[]User], error) {
			return answer(f.People.Users(ctx, in.Group))
		})
	on(f, route{http.MethodPost, "/users", "add-user", "Make an account", operators, http.StatusCreated},
		func(ctx context.Context, _ identity.Person, in *body[NewUser]) (*body[User], error) {
			return answer(f.People.AddUser(ctx, in.Body))
		})
	on(f, route{http.MethodGet, "/users/{name}", "get-user", "One account", staff, 0},
		func(ctx context.Context, _ identity.Person, in *userPath) (*body[User], error) {
			return answer(f.People.User(ctx, in.Name))
		})
	on(f, route{http.MethodPatch, "/users/{name}", "change-user", "Change an account", operators, 0},
		func(ctx context.Context, _ identity.Person, in *struct {
			Name string `path:"name"`
			Body UserChange
		},
		) (*body[User], error) {
			return answer(f.People.ChangeUser(ctx, in.Name, in.Body))
		})
	on(f, route{http.MethodDelete, "/users/{name}", "remove-user", "Remove an account", operators, http.StatusNoContent},
		func(ctx context.Context, _ identity.Person, in *struct {
			Name  string `path:"name"`
			Files bool   `query:"files" doc:"its files too"`
		},
		) (*empty, error) {
			return done(f.People.RemoveUser(ctx, in.Name, in.Files))
		})
	on(f, route{http.MethodPut, "/users/{name}/password", "set-password", "Give an account another password", operators, http.StatusNoContent},
		func(ctx context.Context, _ identity.Person, in *struct {
			Name string `path:"name"`
			Body struct {
				Password string `json:"password"`
			}
		},
		) (*empty, error) {
			return done(f.People.SetPassword(ctx, in.Name, in.Body.Password))
		})
	on(f, route{http.MethodPost, "/roster", "import-users", "Make the accounts of a CSV roster", operators, 0},
		func(ctx context.Context, _ identity.Person, in *struct {
			RawBody []byte `contentType:"text/csv"`
		},
		) (*body[Imported], error) {
			return answer(f.People.Import(ctx, bytes.NewReader(in.RawBody)))
		})
	on(f, route{http.MethodPost, "/users/{name}/links", "new-link", "Make a one-time sign-in link", staff, http.StatusCreated}, f.newLink)
	f.tokens()
}

func (f *Face) newLink(ctx context.Context, who identity.Person, in *struct {
	Name  string `path:"name"`
	Hours int    `query:"hours" minimum:"0" doc:"how long it lives unused; 0: 14 days"`
},
) (*body[Link], error) {
	u, err := f.People.User(ctx, in.Name)
	if err != nil {
		return nil, err
	}
	if u.Name != who.Name && (!leads(who, u.Group) || who.Role != identity.Operator && u.Role != identity.Participant) {
		return nil, fault.New(fault.Denied, "An instructor makes links for participants of their own group.").WithRemedy("Ask an operator.")
	}
	return answer(f.People.NewLink(ctx, in.Name, who.Name, time.Duration(in.Hours)*time.Hour))
}

func (f *Face) tokens() {
	on(f, route{http.MethodGet, "/users/{name}/tokens", "list-tokens", "An account's tokens, without their secrets", anyone, 0},
		func(ctx context.Context, who identity.Person, in *userPath) (*body[[]Token], error) {
			if err := self(who, in.Name); err != nil {
				return nil, err
			}
			return answer(f.People.Tokens(ctx, in.Name))
		})
	on(f, route{http.MethodPost, "/users/{name}/tokens", "new-token", "Make a personal token", anyone, http.StatusCreated},
		func(ctx context.Context, who identity.Person, in *struct {
			Name string `path:"name"`
			Body NewToken
		},
		) (*body[Token], error) {
			if err := self(who, in.Name); err != nil {
				return nil, err
			}
			if in.Body.Scope == "worker" && who.Role != identity.Operator {
				return nil, fault.New(fault.Denied, "A token with the scope worker sees everybody's graphs.").WithRemedy("Ask an operator.")
			}
			return answer(f.People.NewToken(ctx, in.Name, in.Body))
		})
	on(f, route{http.MethodDelete, "/users/{name}/tokens/{id}", "revoke-token", "End a token at once", anyone, http.StatusNoContent},
		func(ctx context.Context, who identity.Person, in *struct {
			Name string `path:"name"`
			ID   string `path:"id"`
		},
		) (*empty, error) {
			if err := self(who, in.Name); err != nil {
				return nil, err
			}
			return done(f.People.RevokeToken(ctx, in.Name, in.ID))
		})
}

func (f *Face) groups() {
	type groupPath struct {
		Group string `path:"group"`
	}
	on(f, route{http.MethodGet, "/groups", "list-groups", "All groups", staff, 0},
		func(ctx context.Context, _ identity.Person, _ *struct{}) (*body[[]Group], error) {
			return answer(f.People.Groups(ctx))
		})
	on(f, route{http.MethodPost, "/groups", "add-group", "Make a group", operators, http.StatusCreated},
		func(ctx context.Context, _ identity.Person, in *body[struct {
			Name  string `json:"name"`
			Title string `json:"title,omitempty"`
		}],
		) (*body[Group], error) {
			return answer(f.People.AddGroup(ctx, in.Body.Name, in.Body.Title))
		})
	on(f, route{http.MethodDelete, "/groups/{group}", "remove-group", "Remove a group without members", operators, http.StatusNoContent},
		func(ctx context.Context, _ identity.Person, in *groupPath) (*empty, error) {
			return done(f.People.RemoveGroup(ctx, in.Group))
		})
	on(f, route{http.MethodGet, "/codes", "list-codes", "Class codes", staff, 0},
		func(ctx context.Context, _ identity.Person, in *struct {
			Group string `query:"group"`
		},
		) (*body[[]Code], error) {
			return answer(f.People.Codes(ctx, in.Group))
		})
	on(f, route{http.MethodPost, "/groups/{group}/codes", "new-code", "Make a code by which people join the group", staff, http.StatusCreated},
		func(ctx context.Context, who identity.Person, in *struct {
			Group  string `path:"group"`
			Places int    `query:"places" minimum:"0" doc:"how many people it lets in; 0: 500"`
			Hours  int    `query:"hours" minimum:"0" doc:"how long it lives; 0: 90 days"`
		},
		) (*body[Code], error) {
			return answer(f.People.NewCode(ctx, in.Group, who.Name, in.Places, time.Duration(in.Hours)*time.Hour))
		})
	on(f, route{http.MethodDelete, "/codes/{code}", "revoke-code", "End a class code", staff, http.StatusNoContent},
		func(ctx context.Context, _ identity.Person, in *struct {
			Code string `path:"code"`
		},
		) (*empty, error) {
			return done(f.People.RevokeCode(ctx, in.Code))
		})
}
