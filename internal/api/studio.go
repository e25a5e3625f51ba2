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
}
