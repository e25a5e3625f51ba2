package api

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/identity"
)

// Fleet is the studio's back ends.
type Fleet interface {
	BackEnds() []BackEnd
	// Add takes in a back end that the settings do not name; it stays over restarts.
	Add(ctx context.Context, b NewBackEnd) (BackEnd, error)
	// Remove lets go of one that was added. With now its runs begin anew elsewhere; else it has to have none.
	Remove(ctx context.Context, name string, now bool) error
	// Drain gives a back end no more work, or with on false work again; that stays over restarts.
	Drain(ctx context.Context, name string, on bool, o Outage) (BackEnd, error)
	// Test asks one back end now who it is and what it can run and, with run, has it run something small.
	Test(ctx context.Context, name string, run bool) (BackEndTest, error)

	// Requests lists what graphs asked for and no back end of their group has.
	Requests(ctx context.Context) ([]Request, error)
	DropRequest(ctx context.Context, kind, folder, name string) error

	// Machine passes a request on to the agent beside a back end's ComfyUI, path as agents take it. The answer's body is
	// the caller's to close.
	Machine(ctx context.Context, name, method, path string, body any) (io.ReadCloser, error)
	// Changed has what a back end can run read anew.
	Changed(name string)
}

// Outage is what people read of a back end that was taken out, and when it takes work by itself again.
type Outage struct {
	Text  string
	Until time.Time // zero: when somebody says so
}

// NewBackEnd is a GPU source to be added. The fields are those of backends in the settings.
type NewBackEnd struct {
	Name        string            `json:"name" doc:"lower-case letters, digits, - and _"`
	Driver      string            `json:"driver,omitempty" doc:"comfyui, agent or serverless"`
	URL         string            `json:"url,omitempty"`
	Key         string            `json:"key,omitempty" doc:"env:NAME or file:PATH on the studio's machine, never the key itself; only over the control socket"`
	Mode        string            `json:"mode,omitempty"`
	MaxParallel int               `json:"max_parallel,omitempty" minimum:"0"`
	Storage     string            `json:"storage,omitempty"`
	Provider    string            `json:"provider,omitempty"`
	Deployment  string            `json:"deployment,omitempty"`
	Groups      []string          `json:"groups,omitempty" doc:"whose jobs it runs; empty: everybody's"`
	Labels      map[string]string `json:"labels,omitempty"`
	Price       float64           `json:"price_per_hour,omitempty" minimum:"0"`
	Prefer      int               `json:"prefer,omitempty"`
	MaxRun      int               `json:"max_run,omitempty" minimum:"0" doc:"seconds; 0: a run may take as long as it takes"`
}

// BackEndTest is what came of a test.
type BackEndTest struct {
	BackEnd
	OK    bool       `json:"ok"`
	Steps []TestStep `json:"steps" nullable:"false"`
}

// TestStep is one thing that was tried.
type TestStep struct {
	Name   string  `json:"name"`
	OK     bool    `json:"ok"`
	Text   string  `json:"text" doc:"what was found, in a sentence"`
	Cause  string  `json:"cause,omitempty" doc:"of what went wrong, in full"`
	Remedy string  `json:"remedy,omitempty"`
	Took   float64 `json:"seconds"`
}

// Request is a model or node that graphs asked for and no back end of their group has.
type Request struct {
	Kind   string         `json:"kind" enum:"model,node"`
	Folder string         `json:"folder,omitempty" doc:"of a model, as far as it is known"`
	Name   string         `json:"name"`
	Groups []RequestGroup `json:"groups" nullable:"false"`
	Count  int            `json:"count"`
	First  time.Time      `json:"first"`
	Last   time.Time      `json:"last"`
}

// RequestGroup is who asked.
type RequestGroup struct {
	Group string `json:"group" doc:"empty: people without one"`
	Count int    `json:"count"`
}

// Model is a model file beside a back end.
type Model struct {
	Folder   string    `json:"folder"`
	Name     string    `json:"name"`
	Size     int64     `json:"size"`
	Modified time.Time `json:"modified"`
	SHA256   string    `json:"sha256,omitempty" doc:"missing: not computed yet"`
	Partial  bool      `json:"partial,omitempty" doc:"a download that was cut"`
}

// NewModel is a model file to be brought.
type NewModel struct {
	Folder string `json:"folder" doc:"as ComfyUI calls it, such as checkpoints"`
	Name   string `json:"name,omitempty" doc:"as the address calls it when left out"`
	URL    string `json:"url"`
	SHA256 string `json:"sha256,omitempty"`
}

// NodePack is a pack of custom nodes beside a back end.
type NodePack struct {
	Name         string       `json:"name"`
	From         string       `json:"from,omitempty"`
	Commit       string       `json:"commit,omitempty" doc:"of an archive: its sha256"`
	Disabled     bool         `json:"disabled,omitempty"`
	Changed      bool         `json:"changed,omitempty" doc:"files differ from the commit"`
	Managed      bool         `json:"managed" doc:"installed through the studio"`
	Requirements []string     `json:"requirements,omitempty"`
	Before       []NodeBefore `json:"before,omitempty" doc:"what can be rolled back to, newest first"`
	Installed    *time.Time   `json:"installed,omitempty"`
}

// NodeBefore is what a pack was before.
type NodeBefore struct {
	Commit string    `json:"commit,omitempty"`
	Empty  bool      `json:"empty,omitempty" doc:"there was none"`
	Until  time.Time `json:"until"`
}

// NodeChange names a pack and what is to become of it.
type NodeChange struct {
	Name         string `json:"name,omitempty"`
	URL          string `json:"url,omitempty"`
	Commit       string `json:"commit,omitempty" doc:"40 hexadecimal digits"`
	SHA256       string `json:"sha256,omitempty" doc:"of an archive"`
	Requirements bool   `json:"requirements,omitempty" doc:"install what its requirements.txt asks for"`
	Restart      bool   `json:"restart,omitempty" doc:"start ComfyUI anew, which ends what it runs"`
}

// NodeOutcome is what came of a change of a pack.
type NodeOutcome struct {
	Pack         NodePack `json:"pack"`
	Requirements []string `json:"requirements"`
	Missing      bool     `json:"missing" doc:"the requirements were not installed"`
	Packages     []string `json:"packages" doc:"Python packages that changed"`
	Restarted    bool     `json:"restarted"`
	Gone         bool     `json:"gone,omitempty" doc:"rolled back to no pack"`
}

// backEndName is a back end in a path.
type backEndName struct {
	Name string `path:"name"`
}

func (f *Face) backEnds() {
	on(f, route{http.MethodGet, "/backends", "list-backends", "GPU sources", staff, 0},
		func(context.Context, identity.Person, *struct{}) (*body[[]BackEnd], error) {
			return answer(f.Fleet.BackEnds(), nil)
		})
	on(f, route{http.MethodPost, "/backends", "add-backend", "Take in a GPU source while the studio runs", operators, http.StatusCreated},
		func(ctx context.Context, who identity.Person, in *struct{ Body NewBackEnd }) (*body[BackEnd], error) {
			if in.Body.Key != "" && who.Name != "" { // else whoever may add one could have any secret of the machine sent anywhere
				return nil, fault.New(fault.Denied, "A key is named by who owns the studio's machine.").WithCode("key_elsewhere").
					WithRemedy("Type comfyume backend add there, or write it under backends in the settings.")
			}
			for _, name := range in.Body.Groups { // for one that is not there nobody could use it, and nothing would say why
				if err := f.knownGroup(ctx, name); err != nil {
					return nil, err
				}
			}
			return answer(f.Fleet.Add(ctx, in.Body))
		})
	on(f, route{http.MethodDelete, "/backends/{name}", "remove-backend", "Let go of a GPU source that was added", operators, http.StatusNoContent},
		func(ctx context.Context, _ identity.Person, in *struct {
			Name string `path:"name"`
			Now  bool   `query:"now" doc:"its runs begin anew elsewhere"`
		},
		) (*empty, error) {
			return done(f.Fleet.Remove(ctx, in.Name, in.Now))
		})
	on(f, route{http.MethodPost, "/backends/{name}/drain", "drain-backend", "Give a GPU source no more work", operators, 0},
		func(ctx context.Context, _ identity.Person, in *struct {
			Name    string `path:"name"`
			Text    string `query:"text" maxLength:"200" doc:"what people read; that it was taken out when left out"`
			Minutes int    `query:"minutes" minimum:"0" maximum:"525600" doc:"after so long it takes work by itself again; 0: when somebody says so"`
		},
		) (*body[BackEnd], error) {
			o := Outage{Text: in.Text}
			if in.Minutes > 0 {
				o.Until = time.Now().Add(time.Duration(in.Minutes) * time.Minute)
			}
			return answer(f.Fleet.Drain(ctx, in.Name, true, o))
		})
	on(f, route{http.MethodPost, "/backends/{name}/resume", "resume-backend", "Give a GPU source work again", operators, 0},
		func(ctx context.Context, _ identity.Person, in *backEndName) (*body[BackEnd], error) {
			return answer(f.Fleet.Drain(ctx, in.Name, false, Outage{}))
		})
	on(f, route{http.MethodPost, "/backends/{name}/test", "test-backend", "Ask a GPU source now who it is and what it can run, and try it", operators, 0},
		func(ctx context.Context, _ identity.Person, in *struct {
			Name string `path:"name"`
			Run  bool   `query:"run" doc:"have it run something small"`
		},
		) (*body[BackEndTest], error) {
			return answer(f.Fleet.Test(ctx, in.Name, in.Run))
		})
	on(f, route{http.MethodGet, "/requests", "list-requests", "Models and nodes that graphs asked for and no GPU source of their group has", staff, 0},
		func(ctx context.Context, who identity.Person, _ *struct{}) (*body[[]Request], error) {
			list, err := f.Fleet.Requests(ctx)
			return answer(ofGroup(list, who), err)
		})
	on(f, route{http.MethodDelete, "/requests", "drop-request", "Forget what was asked for", operators, http.StatusNoContent},
		func(ctx context.Context, _ identity.Person, in *struct {
			Kind   string `query:"kind" enum:"model,node" required:"true"`
			Folder string `query:"folder"`
			Name   string `query:"name" required:"true"`
		},
		) (*empty, error) {
			return done(f.Fleet.DropRequest(ctx, in.Kind, in.Folder, in.Name))
		})
	f.machines()
}

// ofGroup keeps what a person may see of requests: an instructor, their group's.
func ofGroup(list []Request, who identity.Person) []Request {
	if who.Role == identity.Operator {
		return list
	}
	out := []Request{}
	for _, r := range list {
		for _, g := range r.Groups {
			if g.Group == who.Group {
				r.Groups, r.Count = []RequestGroup{g}, g.Count
				out = append(out, r)
				break
			}
		}
	}
	return out
}

// stream passes on what an agent tells of its work, as it tells it.
func (f *Face) stream(body io.ReadCloser, after func()) *huma.StreamResponse {
	return &huma.StreamResponse{Body: func(c huma.Context) {
		defer after()
		defer body.Close() //nolint:errcheck // it was read
		c.SetHeader("Content-Type", "application/x-ndjson")
		c.SetHeader("X-Accel-Buffering", "no")
		w := c.BodyWriter()
		flush, _ := w.(http.Flusher)
		buf := make([]byte, 32<<10)
		for {
			n, err := body.Read(buf)
			if n > 0 {
				if _, err := w.Write(buf[:n]); err != nil {
					return // who asked is gone
				}
				if flush != nil {
					flush.Flush()
				}
			}
			if err != nil {
				if err != io.EOF {
					f.log.LogAttrs(c.Context(), slog.LevelWarn, "an agent's answer broke off", slog.Any("err", err))
				}
				return
			}
		}
	}}
}
