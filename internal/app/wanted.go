package app

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/api"
	"github.com/ahelme/comfyume/internal/catalog"
	"github.com/ahelme/comfyume/internal/comfy"
	"github.com/ahelme/comfyume/internal/identity"
)

// Bounds of what is noted: whoever sends graphs must not fill the list.
const (
	wantedAgain = 10 * time.Minute // the same person asks for the same once in this time
	mostWanted  = 1000             // things on the list
	mostAsked   = 10_000           // people's latest questions that are remembered
)

// wanted notes what graphs ask for and no back end of their group has. It is safe for concurrent use.
type wanted struct {
	s     *Studio
	mu    sync.Mutex
	asked map[askedFor]time.Time
	known map[catalog.Want]bool // on the list; nil: not read yet
}

type askedFor struct {
	user string
	want catalog.Want
}

// note counts what a graph that was refused asks for. What can't be noted keeps nobody from their answer.
func (w *wanted) note(ctx context.Context, who identity.Person, g *comfy.Graph) {
	for _, want := range w.s.catalog.For(who.Group).Wants(g) {
		if !w.news(ctx, who.Name, want) {
			continue
		}
		if err := w.s.stores.catalog.AddRequest(ctx, want, who.Group, time.Now()); err != nil {
			w.s.log.Warn("what a graph lacks was not noted", "kind", want.Kind, "err", err)
			return
		}
		w.s.log.Info("a graph asks for what no back end of its group has", "kind", want.Kind, "folder", want.Folder, "name", want.Name, "group", who.Group)
	}
}

// news reports whether a question is to be counted.
func (w *wanted) news(ctx context.Context, user string, want catalog.Want) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.known == nil {
		all, err := w.s.stores.catalog.Requests(ctx)
		if err != nil {
			w.s.log.Warn("what graphs lacked can't be read", "err", err)
			return false
		}
		w.known = map[catalog.Want]bool{}
		for _, r := range all {
			w.known[r.Want] = true
		}
	}
	now, key := time.Now(), askedFor{user, want}
	if at, ok := w.asked[key]; ok && now.Sub(at) < wantedAgain {
		return false
	}
	if !w.known[want] && len(w.known) >= mostWanted {
		return false
	}
	if len(w.asked) >= mostAsked || w.asked == nil {
		w.asked = map[askedFor]time.Time{}
	}
	w.asked[key], w.known[want] = now, true
	return true
}

// forget lets a want be noted anew.
func (w *wanted) forget(want catalog.Want) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.known, want)
	for key := range w.asked {
		if key.want == want {
			delete(w.asked, key)
		}
	}
}

// Requests lists what graphs asked for. What their group has by now is taken off the list.
func (f fleetFace) Requests(ctx context.Context) ([]api.Request, error) {
	all, err := f.s.stores.catalog.Requests(ctx)
	if err != nil {
		return nil, err
	}
	out := []api.Request{}
	for i := 0; i < len(all); {
		want := all[i].Want
		r := api.Request{Kind: want.Kind, Folder: want.Folder, Name: want.Name, Groups: []api.RequestGroup{}, First: all[i].First, Last: all[i].Last}
		lacks := false
		for ; i < len(all) && all[i].Want == want; i++ {
			lacks = lacks || f.s.catalog == nil || !f.s.catalog.For(all[i].Group).Has(want)
			r.Groups = append(r.Groups, api.RequestGroup{Group: all[i].Group, Count: all[i].Count})
			r.Count += all[i].Count
			if all[i].First.Before(r.First) {
				r.First = all[i].First
			}
			if all[i].Last.After(r.Last) {
				r.Last = all[i].Last
			}
		}
		if !lacks {
			if err := f.DropRequest(ctx, want.Kind, want.Folder, want.Name); err != nil {
				return nil, err
			}
			continue
		}
		slices.SortFunc(r.Groups, func(a, b api.RequestGroup) int { return b.Count - a.Count })
		out = append(out, r)
	}
	slices.SortStableFunc(out, func(a, b api.Request) int { return b.Count - a.Count })
	return out, nil
}

// DropRequest forgets what was asked for.
func (f fleetFace) DropRequest(ctx context.Context, kind, folder, name string) error {
	want := catalog.Want{Kind: kind, Folder: folder, Name: name}
	if err := f.s.stores.catalog.DropRequest(ctx, want); err != nil {
		return err
	}
	f.s.wanted.forget(want)
	return nil
}
