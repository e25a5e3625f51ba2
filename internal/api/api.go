// Package api is the studio's REST interface: what commands, pages and scripts call. It is described by an OpenAPI
// 3.1 document made from this code. Who asks comes in the request's context; what may be seen follows from their
// role, here and in one place.
package api

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/identity"
)

// Base is where the interface lives.
const Base = "/studio/api"

// version is the interface's own; it changes only with a new path below Base.
const version = "1"

// largestBody bounds a request: a roster of a whole school fits.
const largestBody = 4 << 20

// Face answers requests. It is safe for concurrent use.
type Face struct {
	Deps
	log *slog.Logger
	mux *http.ServeMux
	doc huma.API
}

// New returns the interface over what the studio is made of.
func New(d Deps, log *slog.Logger) *Face {
	f := &Face{Deps: d, log: log, mux: http.NewServeMux()}
	c := huma.DefaultConfig("ComfyuME", version)
	c.Info.Description = "The studio: people, queue, back ends. Sign in by session cookie, Authorization: Bearer TOKEN or X-API-Key."
	c.OpenAPIPath = Base + "/openapi"
	c.DocsPath = "" // the usual page brings scripts from elsewhere
	c.SchemasPath = ""
	c.CreateHooks = nil
	c.Transformers = append(c.Transformers, inOneSentence)
	f.doc = humago.New(f.mux, c)
	f.people()
	f.groups()
	f.jobs()
	f.queues()
	f.studio()
	f.verda()
	f.budget()
	f.agents()
	f.backEnds()
	return f
}

// ServeHTTP answers what lies below Base.
func (f *Face) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	if _, pattern := f.mux.Handler(r); pattern == "" {
		f.noSuchRoute(w, r)
		return
	}
	f.mux.ServeHTTP(w, r)
}

// OpenAPI returns the interface's description.
func (f *Face) OpenAPI() ([]byte, error) { return f.doc.OpenAPI().MarshalJSON() }

// need is the least role that may ask.
type need int

const (
	anyone need = iota // who is signed in
	staff              // instructor or operator
	operators
)

func (n need) met(p identity.Person) bool {
	switch n {
	case anyone:
		return true
	case staff:
		return isStaff(p)
	default:
		return p.Role == identity.Operator
	}
}

func isStaff(p identity.Person) bool {
	return p.Role == identity.Instructor || p.Role == identity.Operator
}

// route is one operation: its method and path below Base, its name, what it does, and who may ask.
type route struct {
	method, path, id, does string
	need                   need
	status                 int // of success; 0: 200
}

// on registers an operation. The handler gets the person who asks.
func on[I, O any](f *Face, r route, handle func(ctx context.Context, who identity.Person, in *I) (*O, error)) {
	huma.Register(f.doc, huma.Operation{
		OperationID: r.id, Method: r.method, Path: Base + "/v1" + r.path, Summary: r.does,
		DefaultStatus: r.status, MaxBodyBytes: largestBody,
	}, func(ctx context.Context, in *I) (*O, error) {
		who, ok := identity.From(ctx)
		if !ok {
			return nil, f.problem(ctx, fault.New(fault.Denied, "Nobody is signed in.").WithCode("signed_out"), http.StatusUnauthorized)
		}
		if !r.need.met(who) {
			return nil, f.problem(ctx, fault.New(fault.Denied, "The role %s may not do this.", who.Role).
				WithRemedy("Ask an operator."), http.StatusForbidden)
		}
		out, err := handle(ctx, who, in)
		if err != nil {
			return nil, f.problem(ctx, err, 0)
		}
		return out, nil
	})
}

// body is an answer with a JSON body.
type body[T any] struct{ Body T }

func answer[T any](v T, err error) (*body[T], error) {
	if err != nil {
		return nil, err
	}
	return &body[T]{Body: v}, nil
}

// empty is an answer without body.
type empty struct{}

func done(err error) (*empty, error) {
	if err != nil {
		return nil, err
	}
	return &empty{}, nil
}
