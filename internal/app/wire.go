package app

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ahelme/comfyume/internal/account"
	"github.com/ahelme/comfyume/internal/agents"
	"github.com/ahelme/comfyume/internal/api"
	"github.com/ahelme/comfyume/internal/backend/apart"
	"github.com/ahelme/comfyume/internal/backend/serverless"
	"github.com/ahelme/comfyume/internal/catalog"
	"github.com/ahelme/comfyume/internal/comfyserver"
	"github.com/ahelme/comfyume/internal/config"
	"github.com/ahelme/comfyume/internal/deliver"
	"github.com/ahelme/comfyume/internal/dispatch"
	"github.com/ahelme/comfyume/internal/event"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/fleet"
	"github.com/ahelme/comfyume/internal/frontend"
	"github.com/ahelme/comfyume/internal/gateway"
	"github.com/ahelme/comfyume/internal/identity"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
	"github.com/ahelme/comfyume/internal/queueapi"
	"github.com/ahelme/comfyume/internal/telemetry"
	"github.com/ahelme/comfyume/internal/thumb"
	"github.com/ahelme/comfyume/internal/tlscert"
	"github.com/ahelme/comfyume/internal/tunnel"
	"github.com/ahelme/comfyume/internal/usage"
	"github.com/ahelme/comfyume/internal/verda/warm"
	"github.com/ahelme/comfyume/internal/workspace"
)

// Studio is everything that runs. Fields are set by the steps below, in their order, and not changed afterwards.
type Studio struct {
	o     Options
	cfg   *config.Loaded
	log   *slog.Logger
	parts *parts
	since time.Time
	self  self

	// store
	stores   *stores
	server   *server // nil: no other server serves the studio
	live     *gateway.Live
	accounts *account.Service
	agents   *agents.Service

	// work
	bus       *event.Bus
	jobs      queueStore
	queue     *queue.Service
	usage     *usage.Ledger // nil in a command without server
	blobs     byteStore
	files     *workspace.Files
	home      *workspace.Home
	templates *workspace.Templates
	pictures  *thumb.Service
	deliver   *deliver.Service
	catalog   *catalog.Catalog
	packs     *fleet.Packs
	fleet     *fleet.Fleet
	verda     *verdaFace
	updates   *serverless.Updates                 // where containers tell of their runs; nil: no back end needs it
	hub       *tunnel.Hub                         // nil in a command without server
	awakeCost *warm.Books                         // see awakeBooks
	dispatch  atomic.Pointer[dispatch.Dispatcher] // nil while another server, or none, runs jobs

	// faces
	metrics *telemetry.Metrics
	page    *frontend.Server
	certs   *tlscert.Source
	comfy   *comfyserver.Server
	api     *api.Face
	door    *gateway.Gateway

	queueAPI  *queueapi.Face
	queuePort string // address of its own port; empty: it has none

	gpus    *gpus         // the back ends
	folders apart.Folders // which of them write to one folder
	wanted  *wanted
	fresh   bool   // its database was empty when it was opened
	serving bool   // a server, not a command that looks into the folder
	listen  string // address of the main door; a port the system chose is filled in when it is open
	ready   atomic.Bool
	notes   []string // worth knowing and no reason not to be ready
}

// store opens the database and what knows people by it. A command without server needs no more.
func (s *Studio) store(ctx context.Context) (err error) {
	if err = s.openStores(ctx); err != nil {
		return err
	}
	s.bus = event.New()
	if s.several() {
		s.newServer()
	}
	s.live = gateway.NewLive()
	s.newAgents()
	s.accounts = account.New(s.stores.accounts, account.Options{Ended: s.ended, Left: s.left, Log: s.log})
	return nil
}

// people makes the accounts of the settings.
func (s *Studio) people(ctx context.Context) error {
	list := make([]account.NewUser, 0, len(s.cfg.Users))
	for _, u := range s.cfg.Users {
		list = append(list, account.NewUser{Name: u.Name, Group: u.Group, Role: identity.Role(u.Role)})
	}
	made, err := s.accounts.EnsureUsers(ctx, list)
	if err != nil {
		return err
	}
	for _, u := range made {
		s.log.Info("account made", "user", u.Name, "role", u.Role)
	}
	if len(list) == 0 {
		if err := s.anybody(ctx); err != nil {
			return err
		}
	}
	s.parts.run("people", func(ctx context.Context) error { s.accounts.Run(ctx); return nil })
	return nil
}

// anybody warns of a studio that nobody can enter.
func (s *Studio) anybody(ctx context.Context) error {
	all, err := s.accounts.Users(ctx, "")
	if err == nil && len(all) == 0 {
		s.log.Warn("people", "note",
			"Nobody has an account. Type: comfyume user add NAME --role operator, and then: comfyume user link NAME")
	}
	return err
}

// openJobs opens what keeps the queue.
func (s *Studio) openJobs(ctx context.Context) (err error) {
	if s.jobs, err = s.stores.queue(ctx); err == nil {
		s.parts.add("queue", func(context.Context) error { return s.jobs.Close() })
	}
	return err
}

// newQueue opens the queue.
func (s *Studio) newQueue(ctx context.Context, notify func(job.Changed)) (err error) {
	if err = s.openJobs(ctx); err != nil {
		return err
	}
	sealer, err := queue.NewSealer(s.self.key)
	if err != nil {
		return err
	}
	s.queue, err = queue.New(ctx, s.jobs, queue.Options{
		Mode: s.cfg.Queue.Mode, MaxPending: s.cfg.Queue.MaxPending, MaxPendingPerUser: s.cfg.Queue.MaxPendingPerUser,
		KeepFor: time.Duration(s.cfg.Queue.KeepFor), KeepPerUser: s.cfg.Queue.KeepPerUser,
		Sealer: sealer, Notify: notify, Admit: s.admit, Place: s.place, Control: s.controlled, Log: s.log,
	})
	return err
}

// idleQueue opens the queue for a command that only looks at it or takes jobs out.
func (s *Studio) idleQueue(ctx context.Context) error {
	if err := s.loadGPUs(ctx); err != nil {
		return err
	}
	return s.newQueue(ctx, nil)
}

// faces builds what answers requests.
func (s *Studio) faces(context.Context) (err error) {
	if s.metrics, err = telemetry.NewMetrics(s.o.Version); err != nil {
		return err
	}
	if err = s.metrics.Register(queueMetrics{s.queue}); err != nil {
		return err
	}
	if s.page, err = frontend.New(s.o.Frontends, s.cfg.Frontend, s.log); err != nil {
		return err
	}
	if note := s.noPage(); note != "" {
		s.notes = append(s.notes, note)
		s.log.Warn("editor", "note", note)
	}
	if err = s.newComfy(); err != nil {
		return err
	}
	s.newQueueAPI()
	if err = s.metrics.Register(workerMetrics{s.queueAPI}); err != nil {
		return err
	}
	s.door, err = gateway.New(s.accounts, gateway.Faces{
		Comfy:  s.comfy,
		Work:   myWork{s},
		Runs:   myRuns{s},
		Quotas: myQuotas{s.usage},
		Static: s.page,
		Mounts: s.mounts(),
		Ready:  s.whyNotReady,
	}, gateway.Options{
		Studio: s.self.ID, Title: s.cfg.Name, PublicURL: s.cfg.PublicURL, TrustedProxies: s.cfg.TrustedProxies,
		Insecure: s.insecure(), MaxBody: int64(s.cfg.Limits.Upload), Live: s.live, Log: s.log,
		CA: s.certs.Authority(),
	})
	return err
}

// noPage says that the studio has no editor to show and what to type; empty: it has one.
func (s *Studio) noPage() string {
	switch want := s.cfg.Frontend; {
	case s.page.Version() != "", strings.ContainsAny(want, `/\`): // a folder has no version, and was looked into
		return ""
	case want == "auto":
		return "No editor page is installed. Type: comfyume frontend install"
	default:
		return "The editor page " + want + " is not installed. Type: comfyume frontend install " + want
	}
}

// mounts are the faces that have addresses of their own.
func (s *Studio) mounts() []gateway.Mount {
	return append([]gateway.Mount{
		{Prefix: api.Base + "/", Handler: s.apiFace()},
		{Prefix: "/metrics", Role: identity.Operator, Handler: s.metrics.Handler(s.log)},
	}, slices.Concat(s.updateMounts(), s.agentMounts(), s.queueMounts())...)
}

// doors opens the listeners: whoever gets through finds everything behind them ready.
func (s *Studio) doors(context.Context) error {
	main, err := listen("listen", s.cfg.Listen)
	if err != nil {
		return err
	}
	s.listen = main.Addr().String()
	path, err := SocketPath(s.cfg.Data, os.Getenv("XDG_RUNTIME_DIR"))
	if err != nil {
		return errors.Join(err, main.Close())
	}
	if err := s.controlDoor(path); err != nil {
		return errors.Join(err, main.Close())
	}
	if err := errors.Join(s.metricsDoor(), s.queueDoor()); err != nil {
		return errors.Join(err, main.Close())
	}
	s.parts.serveOn("listen", main, s.door, s.certs.TLS(), s.log)
	return s.certs.Start()
}

// controlDoor opens the control socket, unless another server of the studio has it on this machine: commands do not
// care which one answers.
func (s *Studio) controlDoor(path string) error {
	if s.several() && answers(path) {
		return nil
	}
	l, err := listenControl(path)
	if err == nil {
		s.parts.serveOn("control", l, s.control(), nil, s.log)
	}
	return err
}

// metricsDoor opens the port for metrics. A default port that is taken is left off; one that was set is an error.
func (s *Studio) metricsDoor() error {
	if s.cfg.Metrics == "" {
		return nil
	}
	l, err := listen("metrics", s.cfg.Metrics)
	if err != nil && !s.cfg.IsSet("metrics") && fault.Is(err, fault.Conflict) {
		s.log.Warn("metrics are on listen only", "err", err)
		return nil
	}
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", s.metrics.Handler(s.log))
	mux.Handle("GET /healthz", s.door)
	mux.Handle("GET /readyz", s.door)
	s.parts.serveOn("metrics", l, mux, nil, s.log)
	return nil
}

// control is what the control socket serves: the interface for who owns the data folder, and no password.
func (s *Studio) control() http.Handler {
	face := s.apiFace()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		face.ServeHTTP(w, r.WithContext(identity.With(r.Context(), identity.Person{Role: identity.Operator})))
	})
}

func (s *Studio) apiFace() *api.Face {
	if s.api == nil {
		s.api = api.New(api.Deps{
			People: people{s: s.accounts, address: s.Address, removed: s.removed},
			Queue:  queueFace{Service: s.queue, s: s},
			Fleet:  fleetFace{s},
			Agents: agentsFace{s},
			Studio: s,
			Verda:  s.verdaFace(),
		}, s.log)
	}
	return s.api
}

// removed is called before an account is removed: what it has open ends, and its files go when they are to.
func (s *Studio) removed(ctx context.Context, user string, files bool) error {
	if _, err := s.queue.ClearPending(ctx, user); err != nil {
		return err
	}
	if _, err := s.queue.Stop(ctx, user, ""); err != nil || !files {
		return err
	}
	if err := s.queue.ClearHistory(ctx, user); err != nil {
		return err
	}
	if s.files == nil { // a command without server had no need of them so far
		if err := s.newFiles(ctx); err != nil {
			return err
		}
		if err := s.newUsage(ctx); err != nil {
			return err
		}
	}
	return errors.Join(s.files.Forget(ctx, user), s.home.ForgetDocuments(user), s.usage.Forget(ctx, user))
}

// left reports whether a name leads to files, documents or jobs, of whoever had it before.
func (s *Studio) left(ctx context.Context, user string) (bool, error) {
	used, err := s.home.Usage(ctx, user)
	if err != nil || used > 0 {
		return used > 0, err
	}
	files, err := s.files.Usage(ctx, user)
	if err != nil || files.Files > 0 {
		return files.Files > 0, err
	}
	_, jobs, err := s.queue.Jobs(ctx, user, job.ListQuery{Limit: 1})
	return jobs > 0, err
}
