package app

import (
	"context"
	"log/slog"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/api"
	"github.com/ahelme/comfyume/internal/config"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/verda"
	"github.com/ahelme/comfyume/internal/verda/warm"
)

// verdaFace is the provider of serverless containers as the interface wants it. It asks with the settings' credential,
// which is looked up at the first call: a studio without such a provider needs none.
type verdaFace struct {
	cfg     *config.Loaded
	version string
	log     *slog.Logger
	keeper  *warm.Keeper // nil: nothing is kept awake
	backs   func() []config.Back

	mu     sync.Mutex
	client *verda.Client
}

// Verda returns the provider of the settings' serverless containers, for a command that works without a server.
func Verda(o Options) (_ api.Verda, closeVerda func()) {
	f := &verdaFace{cfg: o.Settings, version: o.Version, log: o.Log, backs: func() []config.Back { return o.Settings.Backends }}
	return f, f.close
}

func (f *verdaFace) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.client != nil {
		f.client.Close()
	}
}

// ask returns the client.
func (f *verdaFace) ask() (*verda.Client, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.client != nil {
		return f.client, nil
	}
	account := f.cfg.Providers.Verda
	if !account.IsSet() {
		return nil, fault.New(fault.Invalid, "The settings name no credential for Verda.").WithCode("verda_credential").
			WithRemedy("Make an API credential with the scope cloud-api-v1 at Verda, and name it under providers.verda.client_id and client_secret as env:NAME or file:PATH.")
	}
	who, err := f.credential()
	if err != nil {
		return nil, err
	}
	f.client, err = verda.New(who, verda.Options{URL: account.URL, Agent: "comfyume/" + f.version, Reread: f.credential, Log: f.log})
	return f.client, err
}

// credential looks up the credential of the settings.
func (f *verdaFace) credential() (who verda.Credential, err error) {
	account := f.cfg.Providers.Verda
	for word, secret := range map[*string]config.Secret{&who.ID: account.ClientID, &who.Secret: account.ClientSecret} {
		if *word, err = secret.Reveal(); err != nil {
			return who, fault.Wrap(fault.Invalid, err, "The credential for Verda can't be read.").WithCode("verda_credential").
				WithRemedy("Set what providers.verda.client_id and client_secret name, for the account that runs this program.")
		}
	}
	return who, nil
}

// uses are the back ends at the provider.
func (f *verdaFace) uses() (list []config.Back) {
	for _, b := range f.backs() {
		if b.Provider.Name == "verda" {
			list = append(list, b)
		}
	}
	return list
}

// resolve returns the deployment that a name means: its own, or that of a back end.
func (f *verdaFace) resolve(name string) string {
	for _, b := range f.uses() {
		if b.Name == name {
			return b.Provider.Deployment
		}
	}
	return name
}

// user returns the back end that uses a deployment; the zero one: none does.
func (f *verdaFace) user(deployment string) config.Back {
	for _, b := range f.uses() {
		if b.Provider.Deployment == deployment {
			return b
		}
	}
	return config.Back{}
}

// Deployments implements api.Verda.
func (f *verdaFace) Deployments(ctx context.Context) ([]api.Deployment, error) {
	c, err := f.ask()
	if err != nil {
		return nil, err
	}
	list, err := c.Deployments(ctx, "")
	if err != nil {
		return nil, err
	}
	out := make([]api.Deployment, len(list))
	var wg sync.WaitGroup
	turns := make(chan struct{}, 4) // at a time, so that the provider does not refuse
	for i, d := range list {
		wg.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			detail, err := f.detail(ctx, c, d)
			out[i] = detail.Deployment
			if err != nil { // of one deployment; the others are of use all the same
				sentence, remedy := fault.Public(err)
				out[i].Trouble = strings.TrimSpace(sentence + " " + remedy)
			}
		})
	}
	wg.Wait()
	return out, nil
}

// Deployment implements api.Verda.
func (f *verdaFace) Deployment(ctx context.Context, name string) (api.DeploymentDetail, error) {
	c, err := f.ask()
	if err != nil {
		return api.DeploymentDetail{}, err
	}
	d, err := c.Deployment(ctx, f.resolve(name))
	if err != nil {
		return api.DeploymentDetail{}, err
	}
	return f.detail(ctx, c, d)
}

// detail asks for what an answer about a deployment leaves out.
func (f *verdaFace) detail(ctx context.Context, c *verda.Client, d verda.Deployment) (api.DeploymentDetail, error) {
	user := f.user(d.Name)
	out := api.DeploymentDetail{
		Deployment: api.Deployment{
			Name: d.Name, BackEnd: user.Name, Status: "unknown", GPU: d.Compute.Name, GPUs: d.Compute.Size, Spot: d.Spot,
			Endpoint: d.Endpoint, PerHour: user.PricePerHour,
		},
		Command: []string{}, Mounts: []string{}, Running: []api.Replica{}, Variables: []api.Variable{},
	}
	for i, one := range d.Containers {
		if i == 0 {
			out.Image = string(one.Image)
			if e := one.Entrypoint; e != nil && e.Enabled {
				out.Command = verda.ShownArgs(slices.Concat(e.Entrypoint, e.Cmd))
			}
		}
		for _, m := range one.Mounts {
			out.Mounts = append(out.Mounts, strings.TrimSpace(m.Path+" ("+strings.TrimSpace(m.Type+" "+m.Volume+m.Secret)+")"))
		}
		out.Variables = append(out.Variables, variablesOf(one.Name, one.Env)...)
	}
	s, err := c.Scaling(ctx, d.Name)
	if err != nil {
		return out, err
	}
	out.Min, out.Max, out.Concurrent, out.TTL = s.Min, s.Max, s.Concurrent, s.TTL
	out.AwakeCost = float64(s.Min) * user.PricePerHour
	if s.Up != nil {
		out.Up = s.Up.Seconds
	}
	if s.Down != nil {
		out.Down = s.Down.Seconds
	}
	if out.Status, err = c.Status(ctx, d.Name); err != nil {
		out.Status = "unknown"
		return out, err
	}
	running, err := c.Replicas(ctx, d.Name)
	out.Running, out.Replicas = replicasOf(running), len(running)
	if f.keeper != nil {
		for _, r := range f.keeper.Raised() {
			if r.Deployment == d.Name {
				out.Raised = r.Says()
			}
		}
	}
	return out, err
}

func replicasOf(list []verda.Replica) []api.Replica {
	out := make([]api.Replica, 0, len(list))
	for _, r := range list {
		out = append(out, api.Replica{ID: r.ID, Status: r.Status, Started: r.Started})
	}
	return out
}

func variablesOf(container string, list []verda.Variable) []api.Variable {
	out := make([]api.Variable, 0, len(list))
	for _, v := range list {
		one := api.Variable{Container: container, Name: v.Name, InClear: v.InClear()}
		if v.Type == verda.Reference {
			one.Secret = v.Value
		} else {
			one.Value = v.Shown()
		}
		out = append(out, one)
	}
	return out
}

// Replicas implements api.Verda.
func (f *verdaFace) Replicas(ctx context.Context, name string) ([]api.Replica, error) {
	c, err := f.ask()
	if err != nil {
		return nil, err
	}
	list, err := c.Replicas(ctx, f.resolve(name))
	return replicasOf(list), err
}

// Available implements api.Verda.
func (f *verdaFace) Available(ctx context.Context) ([]api.ComputeResource, error) {
	c, err := f.ask()
	if err != nil {
		return nil, err
	}
	list, err := c.Resources(ctx)
	return each(list, err, func(r verda.Available) api.ComputeResource {
		return api.ComputeResource{GPU: r.Name, GPUs: r.Size, Available: r.Available}
	})
}

// notes are what people who look after the studio should know of it.
func (f *verdaFace) notes() []string {
	if f.keeper == nil {
		return nil
	}
	return f.keeper.Notes()
}

// keep carries plans out until ctx ends.
func (f *verdaFace) keep(ctx context.Context) error {
	if f.keeper == nil {
		return nil
	}
	return f.keeper.Run(ctx)
}

// verdaFace returns the provider; a command that looks into the folder makes it when it is asked for.
func (s *Studio) verdaFace() *verdaFace {
	if s.verda == nil {
		s.verda = &verdaFace{cfg: s.cfg, version: s.o.Version, log: s.log, backs: s.backs}
		s.parts.add("provider", func(context.Context) error { s.verda.close(); return nil })
	}
	return s.verda
}

// backs returns the back ends of now; those of the settings where none are put together.
func (s *Studio) backs() []config.Back {
	if s.gpus == nil {
		return s.cfg.Backends
	}
	return s.gpus.backs()
}

// keepWarm makes what keeps containers awake by plan, where a back end at the provider has one, and where something is
// written down that may have to be taken back.
func (s *Studio) keepWarm() error {
	var plans []warm.Deployment
	for _, b := range s.verdaFace().uses() {
		s.awakeBooks().Uses(b.Name, b.Provider.Deployment)
		plans = append(plans, warm.Deployment{ // one without a plan is looked at, too: it may cost for nothing
			Name: b.Provider.Deployment, BackEnd: b.Name, Group: onlyGroup(b), Price: b.PricePerHour,
			Plan: func(t time.Time) (int, time.Time) { return config.WarmAt(b.Warm, t) },
		})
	}
	keeper, err := warm.New(filepath.Join(s.cfg.Data, "kept-awake.json"), lazyProvider{s.verda}, plans, s.awakeBooks(), s.log)
	if err != nil {
		return err
	}
	if len(plans) > 0 || len(keeper.Raised()) > 0 {
		s.verda.keeper = keeper
	}
	return nil
}

// lazyProvider asks the provider; a credential that is missing is an error of each call.
type lazyProvider struct{ f *verdaFace }

func (p lazyProvider) Scaling(ctx context.Context, name string) (verda.Scaling, error) {
	c, err := p.f.ask()
	if err != nil {
		return verda.Scaling{}, err
	}
	return c.Scaling(ctx, name)
}

func (p lazyProvider) ChangeScaling(ctx context.Context, name string, ch verda.ScalingChange) (verda.Scaling, error) {
	c, err := p.f.ask()
	if err != nil {
		return verda.Scaling{}, err
	}
	return c.ChangeScaling(ctx, name, ch)
}

// folderOf returns the folder that an address of storage names; empty: it names none.
func folderOf(storage string) string {
	if u, err := url.Parse(storage); err == nil && u.Scheme == "file" {
		return u.Path
	}
	return ""
}
