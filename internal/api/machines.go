package api

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"

	"github.com/danielgtaylor/huma/v2"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/identity"
)

// maxList bounds what an agent may answer at once.
const maxList = 16 << 20

// machine asks the agent beside a back end for something that it answers at once.
func machine[T any](ctx context.Context, f *Face, name, method, path string) (out T, err error) {
	r, err := f.Fleet.Machine(ctx, name, method, path, nil)
	if err != nil {
		return out, err
	}
	defer r.Close()
	if err := json.NewDecoder(http.MaxBytesReader(nil, r, maxList)).Decode(&out); err != nil {
		return out, fault.Wrap(fault.Unavailable, err, "The agent of %s answers something else.", name).
			WithRemedy("See whether it is of a version that has this.")
	}
	return out, nil
}

// machines are the operations of agents: models and custom nodes beside a ComfyUI. Long ones answer with lines of JSON
// while they work, the last of which has "state": "done" or "failed".
func (f *Face) machines() {
	on(f, route{http.MethodGet, "/backends/{name}/models", "list-models", "Model files beside an agent's ComfyUI", operators, 0},
		func(ctx context.Context, _ identity.Person, in *backEndName) (*body[[]Model], error) {
			return answer(machine[[]Model](ctx, f, in.Name, http.MethodGet, "/models"))
		})
	on(f, route{http.MethodPost, "/backends/{name}/models/hash", "hash-models", "The same with all hashes, as lines of JSON", operators, 0},
		func(ctx context.Context, _ identity.Person, in *backEndName) (*huma.StreamResponse, error) {
			return f.work(ctx, in.Name, "/models/hash", nil)
		})
	on(f, route{http.MethodPost, "/backends/{name}/models", "get-model", "Bring a model file, as lines of JSON", operators, 0},
		func(ctx context.Context, _ identity.Person, in *struct {
			Name string `path:"name"`
			Body NewModel
		},
		) (*huma.StreamResponse, error) {
			return f.work(ctx, in.Name, "/models/get", in.Body)
		})
	on(f, route{http.MethodDelete, "/backends/{name}/models", "remove-model", "Remove a model file", operators, 0},
		func(ctx context.Context, _ identity.Person, in *struct {
			Name   string `path:"name"`
			Folder string `query:"folder" required:"true"`
			File   string `query:"file" required:"true"`
		},
		) (*body[Model], error) {
			q := url.Values{"folder": {in.Folder}, "name": {in.File}}
			gone, err := machine[Model](ctx, f, in.Name, http.MethodDelete, "/models?"+q.Encode())
			if err == nil {
				f.Fleet.Changed(in.Name)
			}
			return answer(gone, err)
		})
	on(f, route{http.MethodGet, "/backends/{name}/nodes", "list-nodes", "Custom nodes beside an agent's ComfyUI", operators, 0},
		func(ctx context.Context, _ identity.Person, in *backEndName) (*body[[]NodePack], error) {
			return answer(machine[[]NodePack](ctx, f, in.Name, http.MethodGet, "/nodes"))
		})
	for act, what := range map[string]string{
		"install": "Install custom nodes at a commit, as lines of JSON", "pin": "Put custom nodes at another commit, as lines of JSON",
		"rollback": "Put back what custom nodes were before, as lines of JSON",
	} {
		on(f, route{http.MethodPost, "/backends/{name}/nodes/" + act, act + "-nodes", what, operators, 0},
			func(ctx context.Context, _ identity.Person, in *struct {
				Name string `path:"name"`
				Body NodeChange
			},
			) (*huma.StreamResponse, error) {
				return f.work(ctx, in.Name, "/nodes/"+act, in.Body)
			})
	}
}

// work has an agent do something long and passes on what it tells.
func (f *Face) work(ctx context.Context, name, path string, in any) (*huma.StreamResponse, error) {
	body, err := f.Fleet.Machine(ctx, name, http.MethodPost, path, in)
	if err != nil {
		return nil, err
	}
	return f.stream(body, func() { f.Fleet.Changed(name) }), nil
}
