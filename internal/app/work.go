package app

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/backend/comfyui"
	"github.com/ahelme/comfyume/internal/catalog"
	"github.com/ahelme/comfyume/internal/comfyserver"
	"github.com/ahelme/comfyume/internal/config"
	"github.com/ahelme/comfyume/internal/deliver"
	"github.com/ahelme/comfyume/internal/dispatch"
	"github.com/ahelme/comfyume/internal/event"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/fleet"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/queue"
	"github.com/ahelme/comfyume/internal/rewrite"
	"github.com/ahelme/comfyume/internal/sched"
	"github.com/ahelme/comfyume/internal/thumb"
	"github.com/ahelme/comfyume/internal/workspace"
)

// work starts what runs people's graphs, from the bytes upwards.
func (s *Studio) work(ctx context.Context) error {
	if err := s.newFiles(ctx); err != nil {
		return err
	}
	if err := s.newUsage(ctx); err != nil {
		return err
	}
	if err := s.newQueue(ctx, s.changed); err != nil {
		return err
	}
	if err := s.recount(ctx); err != nil {
		return err
	}
	if err := s.loadGPUs(ctx); err != nil {
		return err
	}
	if err := s.simulate(); err != nil {
		return err
	}
	if len(s.gpus.all()) == 0 {
		const note = "There is no GPU: jobs wait. Name a ComfyUI under backends in the settings, with serve --backend URL, or: comfyume backend add NAME URL"
		s.notes = append(s.notes, note)
		s.log.Warn("back ends", "note", note)
	}
	s.checkStorage(ctx)
	s.newHub()
	if err := s.keepWarm(); err != nil {
		return err
	}
	return s.newFleet(ctx)
}

// changed tells everybody of a change of a job, after the commit that made it true.
func (s *Studio) changed(c job.Changed) {
	s.usage.JobChanged(c)
	if d := s.dispatch.Load(); d != nil {
		d.JobChanged(forDispatch(c))
	}
	s.bus.Publish(event.Event{User: c.Job.User, Body: event.JobChanged{Changed: c}})
}

// place lets the dispatcher choose a back end for a job that is about to be accepted.
func (s *Studio) place(j job.Job) (job.ClaimParams, bool) {
	d := s.dispatch.Load()
	if d == nil { // this server gives no jobs to back ends
		return job.ClaimParams{}, false
	}
	return d.Place(j)
}

// newFiles opens the bytes and the names of people's files.
func (s *Studio) newFiles(ctx context.Context) error {
	blobs, err := s.openBytes(ctx)
	if err != nil {
		return err
	}
	s.blobs = blobs
	s.pictures = thumb.New(thumb.Options{})
	limits := s.cfg.Limits
	s.files = workspace.NewFiles(s.stores.files, blobs, workspace.Options{
		Upload: int64(limits.Upload), Quota: int64(limits.DiskPerUser), KeepFree: int64(limits.KeepFree), Log: s.log,
		Elsewhere: func(ctx context.Context, user string) (int64, error) { return s.home.Usage(ctx, user) },
		Thumbnail: s.pictures.Thumbnail,
	})
	s.home, err = workspace.OpenHome(filepath.Join(s.cfg.Data, "users"), workspace.HomeOptions{
		Upload: int64(limits.Upload), Quota: int64(limits.DiskPerUser), Room: s.files.Room,
		Elsewhere: func(ctx context.Context, user string) (int64, error) {
			u, err := s.files.Usage(ctx, user)
			return u.Bytes, err
		},
		Lock: s.documentsLock(),
	})
	if err != nil {
		return placeTrouble(err, "folder "+filepath.Join(s.cfg.Data, "users"))
	}
	s.parts.add("documents", func(context.Context) error { return s.home.Close() })
	s.templates = workspace.NewTemplates(filepath.Join(s.cfg.Data, "templates"))
	return nil
}

// sweepEvery is how often old temp files and bytes without a name are looked for.
const sweepEvery = time.Hour

// sweep deletes what is over, at the start and from then on now and then.
func (s *Studio) sweep(ctx context.Context) error {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for now := time.Now(); ; {
		if _, err := s.files.Sweep(ctx, now); err != nil && ctx.Err() == nil {
			s.log.Warn("old files were not deleted", "err", err)
		}
		if err := s.deliver.Prune(ctx, now.Add(-24*time.Hour)); err != nil && ctx.Err() == nil {
			s.log.Warn("old delivery notes were not deleted", "err", err)
		}
		s.sweepBucket(ctx)
		if _, err := s.queue.Prune(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("old jobs were not deleted", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case now = <-tick.C:
		}
	}
}

// newFleet connects the back ends and what they can run.
func (s *Studio) newFleet(ctx context.Context) error {
	var err error
	store := s.stores.catalog
	if s.catalog, err = catalog.New(ctx, store, catalog.Options{Members: catalogMembers(s.gpus.backs()), Log: s.log}); err != nil {
		return err
	}
	if s.packs, err = fleet.NewPacks(ctx, store, packMembers(s.gpus.backs()), fleet.PackOptions{
		Only: s.cfg.Packs.Allow, Deny: s.cfg.Packs.Deny, Routes: s.cfg.Packs.Routes, Log: s.log,
	}); err != nil {
		return err
	}
	s.deliver = deliver.New(s.stores.files, s.blobs, s.log)
	s.parts.add("back ends", s.closeGPUs)
	list := s.gpus.all()
	members := make([]fleet.Member, 0, len(list))
	for _, b := range list {
		if b.driver, err = s.driver(b.Back); err != nil {
			return err
		}
		s.gpus.set(b)
		members = append(members, s.member(b))
	}
	s.fleet, err = fleet.New(members, s.catalog, fleet.Options{
		Changed: s.fleetChanged, Follows: s.follows, Restarted: s.deliver.Restarted, Packs: s.packs, Log: s.log,
	})
	return err
}

// driver makes what speaks to a back end.
func (s *Studio) driver(b config.Back) (backend.Driver, error) {
	switch b.Driver {
	case "comfyui":
		return s.comfyDriver(b)
	case "serverless":
		return s.serverlessDriver(b)
	case "agent":
		return s.agentDriver(b)
	default:
		return nil, fault.New(fault.Invalid, "This version has no driver %q, which %s needs.", b.Driver, b.Name)
	}
}

// comfyDriver makes the driver of a ComfyUI server that is reached by its address.
func (s *Studio) comfyDriver(b config.Back) (backend.Driver, error) {
	header, err := keyHeader(b)
	if err != nil {
		return nil, err
	}
	return comfyui.New(b.URL, comfyui.Options{
		Studio: s.self.ID, Header: header, Log: s.log.With("backend", b.Name), Changed: s.nudge(b.Name), Folders: &s.folders,
		Patience: patience{s, b.Name}, Silent: s.silent(b.Name),
	})
}

// keyHeader is what is sent with every request to a back end: its key, where it has one.
func keyHeader(b config.Back) (http.Header, error) {
	header := http.Header{}
	key, err := keyOf(b)
	if b.Key.IsSet() {
		header.Set("Authorization", "Bearer "+key)
	}
	return header, err
}

// keyOf reads the key of a back end; empty: it has none.
func keyOf(b config.Back) (string, error) {
	if !b.Key.IsSet() {
		return "", nil
	}
	key, err := b.Key.Reveal()
	if err != nil {
		return "", fault.Wrap(fault.Invalid, err, "The key of the back end %s can't be read.", b.Name).
			WithRemedy("Set what backends.key names, for the account that runs the studio.")
	}
	return key, nil
}

// nudge returns what has a back end looked at again: its driver noticed something.
func (s *Studio) nudge(name string) func() {
	return func() {
		if s.fleet != nil { // nil until all drivers are made
			s.fleet.Nudge(name)
		}
	}
}

// silent takes in that a back end gives no sign of life in mid-run.
func (s *Studio) silent(name string) func(text string) {
	return func(text string) {
		if s.fleet != nil {
			s.fleet.Silent(name, text)
		}
	}
}

// patience is how long nodes of a back end may be silent, as the ledger learned.
type patience struct {
	*Studio
	backEnd string
}

func (p patience) Bound(class string) (time.Duration, bool) {
	if p.usage == nil { // a command that looks into the folder
		return 0, false
	}
	return p.usage.Bound(p.backEnd, class)
}

func (p patience) Silent(class string, longest time.Duration) {
	if p.usage != nil {
		p.usage.Silent(p.backEnd, class, longest)
	}
}

func (s *Studio) fleetChanged() {
	if d := s.dispatch.Load(); d != nil {
		d.FleetChanged()
	}
	s.bus.Publish(event.Event{Body: event.FleetChanged{}})
}

// maxAttempts is how often a run may be lost before its job fails. A job that kills back ends is stopped after two: the
// rest are lines that break and machines that are taken away, of which many studios have more than one an hour.
const maxAttempts = 5

// newDispatch makes the run loop.
func (s *Studio) newDispatch() *dispatch.Dispatcher {
	rewriter := rewrite.New(func(group string) rewrite.Catalog { return s.catalog.For(group) }, s.files, s.self.key, rewrite.Options{
		SaltAll: s.cfg.Isolation == "strict", Allowed: s.checker().allowed,
	})
	return dispatch.New(dispatch.Deps{
		Queue: ownJobs{s.queue}, Fleet: s.fleet, Deliver: deliverer{s.deliver}, Rewriter: rewriterFace{rewriter}, Bus: runBus{s},
		Missing: s.catalog.Missing, Estimate: s.estimate, Ran: s.usage.Ran, Share: s.usage.Share, Spent: s.spent, Budget: s.budget, Working: s.awakeBooks().Working,
		Taught: s.usage.Taught, Teach: s.usage.Teach,
		Room: func() error { return cmp.Or(s.trouble(), s.files.Room(context.Background())) }, Log: s.log,
	}, dispatch.Options{
		MaxAttempts: maxAttempts, Order: sched.Order(s.queue.Mode()), MaxRunningPerUser: s.cfg.Queue.MaxRunningPerUser,
		AgeAfter: orNever(s.cfg.Queue.AgeAfter), HalfLife: time.Duration(s.cfg.Queue.HalfLife),
		Affinity: orNever(s.cfg.Queue.Affinity),
	})
}

// orNever is a setting of which 0 says never, where the schedule takes that for its default.
func orNever(d config.Duration) time.Duration {
	if d == 0 {
		return -1
	}
	return time.Duration(d)
}

// controlled hands the queue's mode and pauses to the dispatcher. It is called after each change of them.
func (s *Studio) controlled(c queue.Control) {
	d := s.dispatch.Load()
	if d == nil { // whoever leads is told too, and looks when it begins
		return
	}
	pauses := make([]dispatch.Pause, 0, len(c.Pauses))
	for _, p := range c.Pauses {
		pauses = append(pauses, dispatch.Pause{Scope: p.Scope, Reason: p.Reason})
	}
	d.Control(sched.Order(c.Mode), pauses)
}

// begin lets everything work that waits for work. All of it is built by now: whoever is called back finds whom to
// tell, and people's sessions hear of a run that is taken up again from its first frame on.
func (s *Studio) begin(context.Context) error {
	s.parts.run("packs", s.packs.Run)
	s.parts.run("fleet", s.fleet.Run)
	s.parts.run("agents' keys", s.watchAgents)
	if s.several() {
		s.parts.run("other servers' back ends", s.followGPUs)
	}
	if s.server != nil {
		s.parts.run("relay", s.join)
		s.parts.run("dispatch", s.leading)
	} else {
		s.parts.run("dispatch", s.lead)
	}
	s.parts.run("pings", s.comfy.Run)
	s.parts.add("sockets", s.comfy.Close)
	s.parts.run("queue manager's workers", s.queueAPI.Run)
	s.parts.add("queue manager's sockets", s.queueAPI.Close)
	return nil
}

// newComfy builds the per-user ComfyUI server.
func (s *Studio) newComfy() error {
	spool, err := s.spool()
	if err != nil {
		return err
	}
	// The editor chooses some of its defaults by the version that a person began with, and asks for it in the settings.
	began := map[string]json.RawMessage{}
	if v := s.page.Version(); v != "" {
		raw, err := json.Marshal(v)
		if err != nil {
			return err
		}
		began["Comfy.InstalledVersion"] = raw
	}
	s.comfy, err = comfyserver.New(comfyserver.Deps{
		Queue: s.queue, Bus: sessionBus{s.bus, s}, Files: s.files, Home: s.home, Pictures: s.pictures,
		Catalog: func(group string) comfyserver.Catalog { return catalogFace{s.catalog.For(group)} }, Packs: s.packs, Templates: templatesFace{s.templates},
		Checker: s.checker(),
	}, comfyserver.Options{
		MaxUpload: int64(s.cfg.Limits.Upload), SocketsPerUser: s.cfg.Limits.SocketsPerUser, Fallback: http.HandlerFunc(s.rest), Log: s.log,
		Elsewhere: s.packRoute,
		Spool:     spool, Settings: began, IdleStop: time.Duration(s.cfg.Queue.IdleStop), Several: s.server != nil,
	})
	return err
}

// rest answers GET of what is no address of a ComfyUI server: with the editor's files, or that there is nothing.
func (s *Studio) rest(w http.ResponseWriter, r *http.Request) {
	if s.page.Has(r.URL.Path) || !s.door.Lost(w, r) {
		s.page.ServeHTTP(w, r)
	}
}

// spool makes an empty folder for uploads on their way, on the disk whose room is watched. What is in it was left by a
// crash: nobody else uses the data folder, or each has a folder of its own.
func (s *Studio) spool() (string, error) {
	folder := filepath.Join(s.cfg.Data, "spool")
	if s.several() {
		return s.ownSpool(folder)
	}
	err := os.RemoveAll(folder)
	if err == nil {
		err = os.Mkdir(folder, 0o700)
	}
	if err != nil {
		return "", fault.Wrap(fault.Unavailable, err, "The folder for uploads on their way can't be made anew.").
			WithRemedy("Look at the rights of %s.", s.cfg.Data)
	}
	return folder, nil
}
