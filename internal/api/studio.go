package api

import (
	"context"
	"net/http"

	"github.com/ahelme/comfyume/internal/identity"
)

func (f *Face) studio() {
	on(f, route{http.MethodGet, "/status", "status", "The studio at a glance", staff, 0},
		func(ctx context.Context, _ identity.Person, _ *struct{}) (*body[Status], error) {
			return answer(f.Studio.Status(ctx), nil)
		})
	on(f, route{http.MethodGet, "/backends", "list-backends", "GPU sources", staff, 0},
		func(context.Context, identity.Person, *struct{}) (*body[[]BackEnd], error) {
			return answer(f.Fleet.BackEnds(), nil)
		})
	on(f, route{http.MethodPost, "/backends/{name}/test", "test-backend", "Ask a GPU source now who it is and what it can run", operators, 0},
		func(ctx context.Context, _ identity.Person, in *struct {
			Name string `path:"name"`
		},
		) (*body[BackEnd], error) {
			return answer(f.Fleet.Test(ctx, in.Name))
		})
}
