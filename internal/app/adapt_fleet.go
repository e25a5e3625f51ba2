package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/ahelme/comfyume/internal/agent/report"
	"github.com/ahelme/comfyume/internal/api"
	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/catalog"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/fleet"
	"github.com/ahelme/comfyume/internal/job"
	"github.com/ahelme/comfyume/internal/sched"
	"github.com/ahelme/comfyume/internal/tunnel"
)

// fleetFace shows the back ends as the interface wants them and, in a server, what is known of them.
type fleetFace struct{ s *Studio }

func (f fleetFace) BackEnds() []api.BackEnd {
	known := map[string]fleet.BackEnd{}
	var sizes map[string]catalog.Size
	notes := map[string][]string{}
	if f.s.fleet != nil {
		for _, b := range f.s.fleet.BackEnds() {
			known[b.Name] = b
		}
		sizes = f.s.catalog.Known()
		for _, d := range f.s.packs.Differences() {
			notes[d.BackEnd] = append(notes[d.BackEnd], fmt.Sprintf(
				"Its custom nodes %s are of another version than those of %s, whose files people's pages get (%s).", d.Pack, d.Served, strings.Join(d.Paths, ", ")))
		}
	}
	learnt := f.learnt()
	return mapped(f.s.gpus.all(), func(b gpu) api.BackEnd {
		out := backEndOf(b, known[b.Name])
		teach(&out, learnt[b.Name])
		out.Classes, out.Models = sizes[b.Name].Classes, sizes[b.Name].Models
		out.Notes = notes[b.Name]
		return out
	})
}

// learntFor is how long the schedule is given to say what it learnt.
const learntFor = time.Second

// learnt is what the schedule learnt of the back ends, by name; nothing on a server that gives out no jobs.
func (f fleetFace) learnt() map[string]sched.Learnt {
	all := map[string]sched.Learnt{}
	d := f.s.dispatch.Load()
	if d == nil {
		return all
	}
	ctx, cancel := context.WithTimeout(context.Background(), learntFor)
	defer cancel()
	list, err := d.Learnt(ctx)
	if err != nil {
		f.s.log.Warn("the schedule does not say what it learnt", "err", err)
	}
	for _, l := range list {
		all[l.BackEnd] = l
	}
	return all
}

func teach(b *api.BackEnd, l sched.Learnt) {
	if l.Runs > 0 {
		b.Speed = math.Round(l.Speed*100) / 100
	}
	b.Loaded = l.Loaded
	for _, one := range l.Loads {
		b.Loads = append(b.Loads, api.Loading{Models: one.Models, Seconds: math.Round(one.Takes.Seconds()*10) / 10, Times: one.Times})
	}
}

func mapped[A, B any](list []A, fn func(A) B) []B {
	out, _ := each(list, nil, fn) // it has no error to pass on
	return out
}

func backEndOf(b gpu, k fleet.BackEnd) api.BackEnd {
	if k.State == "" {
		k.State = fleet.Unknown
		if b.drained {
			k.State = fleet.Drained
		}
	}
	out := api.BackEnd{
		Name: b.Name, Driver: b.Driver, URL: withoutPassword(b.URL), State: string(k.State), Reason: k.Reason, Cause: k.Cause,
		Version: k.Version, Foreign: k.QueueOther, Devices: []api.Device{}, Seen: api.When(k.Seen),
		Groups: b.Groups, Labels: b.Labels, Added: b.added,
		Until: api.When(k.Until), Parallel: k.Parallel, Price: b.PricePerHour, Second: b.PricePerHour / 3600, Prefer: b.Prefer, MaxRun: time.Duration(b.MaxRun).Seconds(),
		Cold: k.Cold, Wake: k.Wake.Seconds(), Runs: k.Runs, Losses: k.Losses,
	}
	for _, d := range k.Devices {
		out.Devices = append(out.Devices, api.Device{Name: d.Name, VRAMTotal: d.VRAMTotal, VRAMFree: d.VRAMFree})
	}
	return out
}

// withoutPassword is an address as it may be shown.
func withoutPassword(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return u.Redacted()
}

// one shows a back end as it is now.
func (f fleetFace) one(name string) (api.BackEnd, error) {
	list := f.BackEnds()
	if i := slices.IndexFunc(list, func(b api.BackEnd) bool { return b.Name == name }); i >= 0 {
		return list[i], nil
	}
	return api.BackEnd{}, noGPU(name)
}

// Add takes in a back end. Without a server it is there when the next one starts.
func (f fleetFace) Add(ctx context.Context, n api.NewBackEnd) (api.BackEnd, error) {
	added := &addedBack{
		Driver: n.Driver, URL: n.URL, Key: n.Key, Mode: n.Mode, MaxParallel: n.MaxParallel, Storage: n.Storage, Provider: n.Provider,
		Deployment: n.Deployment, Groups: n.Groups, Labels: n.Labels, Price: n.Price, Prefer: n.Prefer, MaxRun: time.Duration(n.MaxRun) * time.Second,
	}
	back, err := added.back(n.Name)
	if u, uerr := url.Parse(n.URL); err == nil && uerr == nil && u.User != nil {
		err = errors.New("url: holds a name or password; name its key with key in place of it")
	}
	if err != nil {
		return api.BackEnd{}, fault.New(fault.Invalid, "The back end %s can't be added: %v.", n.Name, err).WithCode("bad_backend").
			WithRemedy("See what backends takes with: comfyume config reference")
	}
	s := f.s
	s.gpus.change.Lock()
	defer s.gpus.change.Unlock()
	if _, there := s.gpus.named(back.Name); there {
		return api.BackEnd{}, fault.New(fault.Conflict, "There is a back end %s already.", back.Name).WithCode("name_taken").WithRemedy("Choose another name.")
	}
	b := gpu{Back: back, added: true}
	if s.fleet != nil {
		err = s.connect(b)
	} else {
		s.gpus.set(b)
	}
	if err != nil {
		return api.BackEnd{}, err
	}
	if err := s.keep(ctx, b); err != nil {
		if s.fleet != nil {
			at, _ := s.gpus.named(b.Name)
			err = errors.Join(err, s.disconnect(at))
		}
		return api.BackEnd{}, err
	}
	s.log.Info("a back end was added", "backend", b.Name, "driver", b.Driver)
	return f.one(b.Name)
}

// Remove lets go of a back end that was added.
func (f fleetFace) Remove(ctx context.Context, name string, now bool) error {
	s := f.s
	s.gpus.change.Lock()
	defer s.gpus.change.Unlock()
	b, ok := s.gpus.named(name)
	switch {
	case !ok:
		return noGPU(name)
	case !b.added:
		return fault.New(fault.Conflict, "The back end %s is in the settings.", name).WithCode("in_settings").
			WithRemedy("Take it out of backends there and start the studio anew. Until then: comfyume backend drain %s", name)
	}
	runs, err := s.runsOn(ctx, name)
	if err != nil {
		return err
	}
	if runs > 0 && !now {
		if _, err := f.drain(ctx, b, true, api.Outage{Text: "it is being removed."}); err != nil {
			return err
		}
		return fault.New(fault.Conflict, "%s runs %d jobs. It gets no more of them now.", name, runs).WithCode("still_runs").
			WithRemedy("Ask again when they are over, or have them begin anew elsewhere with --now.")
	}
	if s.fleet != nil {
		if err := s.disconnect(b); err != nil {
			return err
		}
	} else {
		s.gpus.drop(name)
	}
	if err := s.stores.catalog.DropMember(ctx, name); err != nil {
		return err
	}
	if b.Driver == "agent" { // whoever has its key is not let in under a name that somebody else may get
		if err := s.agents.Revoke(ctx, name); err != nil && !fault.Is(err, fault.Missing) {
			return err
		}
	}
	s.log.Info("a back end was removed", "backend", name)
	return nil
}

// runsOn counts the jobs that a back end has.
func (s *Studio) runsOn(ctx context.Context, name string) (n int, err error) {
	list, _, err := s.queue.ListAll(ctx, job.ListQuery{States: []job.State{job.Running}, Limit: 10_000}, "")
	for _, j := range list {
		if j.Attempt.BackEnd == name {
			n++
		}
	}
	return n, err
}

// Drain gives a back end no more work, or work again.
func (f fleetFace) Drain(ctx context.Context, name string, on bool, o api.Outage) (api.BackEnd, error) {
	f.s.gpus.change.Lock()
	defer f.s.gpus.change.Unlock()
	b, ok := f.s.gpus.named(name)
	if !ok {
		return api.BackEnd{}, noGPU(name)
	}
	return f.drain(ctx, b, on, o)
}

func (f fleetFace) drain(ctx context.Context, b gpu, on bool, o api.Outage) (api.BackEnd, error) {
	b.drained, b.text, b.until = on, o.Text, o.Until
	if err := f.s.keep(ctx, b); err != nil {
		return api.BackEnd{}, err
	}
	f.s.gpus.set(b)
	if f.s.fleet != nil {
		if err := f.s.fleet.Maintain(b.Name, on, o.Text, o.Until); err != nil {
			return api.BackEnd{}, err
		}
		if !on { // what it is fit for shows at once
			if _, err := f.s.fleet.Test(ctx, b.Name); err != nil {
				return api.BackEnd{}, err
			}
		}
	}
	return f.one(b.Name)
}

// Machine asks the agent beside a back end's ComfyUI.
func (f fleetFace) Machine(ctx context.Context, name, method, path string, in any) (io.ReadCloser, error) {
	b, ok := f.s.gpus.named(name)
	switch {
	case !ok:
		return nil, noGPU(name)
	case b.Driver != "agent":
		return nil, fault.New(fault.Invalid, "%s has no agent beside its ComfyUI: models and custom nodes there are not the studio's to change.", name).
			WithCode("no_agent").WithRemedy("Start comfyume agent beside it, and let it join: comfyume backend join NAME")
	case f.s.hub == nil:
		return nil, fault.New(fault.Unavailable, "The studio does not run: no agent is connected.").WithRemedy("Start it with: comfyume serve")
	case f.s.follows():
		leader, _ := f.s.leader()
		return nil, fault.New(fault.Unavailable, "Agents are connected to the server of the studio that leads.").WithCode("not_leading").
			WithRemedy("Ask that one (%s) with --server URL.", leader)
	}
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(text)
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, body)
	if err != nil {
		return nil, err
	}
	if in != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	transport := &http.Transport{
		DisableKeepAlives: true, MaxResponseHeaderBytes: 64 << 10, ResponseHeaderTimeout: time.Minute,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return f.s.hub.Dial(ctx, name, tunnel.Control)
		},
	}
	resp, err := transport.RoundTrip(r)
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, err, "The agent %s does not answer.", name).WithCode("agent_away").
			WithRemedy("See whether it runs and is connected with: comfyume backend list")
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		return nil, report.ErrorOf(resp)
	}
	return resp.Body, nil
}

// Changed has what a back end can run read anew.
func (f fleetFace) Changed(name string) {
	b, ok := f.s.gpus.named(name)
	if !ok || f.s.fleet == nil {
		return
	}
	if r, ok := b.driver.(backend.Refresher); ok {
		r.Refresh()
	}
	f.s.fleet.Nudge(name)
}
