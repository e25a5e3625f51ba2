package app

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/backend/serverless"
	"github.com/ahelme/comfyume/internal/config"
	"github.com/ahelme/comfyume/internal/gateway"
	"github.com/ahelme/comfyume/internal/handover"
	"github.com/ahelme/comfyume/internal/tunnel"
)

// runsBase is where containers tell of their runs, below the agents' addresses.
const runsBase = tunnel.Base + "/runs"

// serverlessDriver makes the driver of an endpoint, by its mode.
func (s *Studio) serverlessDriver(b config.Back) (backend.Driver, error) {
	if b.Mode == "plain" {
		return s.balancedDriver(b)
	}
	o := serverless.Options{
		Name: b.Name, Mode: serverless.Mode(b.Mode), Studio: s.self.ID, MaxRun: time.Duration(b.MaxRun),
		Folder: filepath.Join(s.cfg.Data, "serverless", b.Name), Spool: filepath.Join(s.cfg.Data, "serverless", b.Name, "outputs"),
		Changed: s.nudge(b.Name), Log: s.log.With("backend", b.Name), Awake: s.awake(b),
	}
	var err error
	if o.Key, err = keyOf(b); err != nil {
		return nil, err
	}
	if b.Storage != "" {
		if o.Place, err = handover.Open(b.Storage, handover.Options{Log: o.Log}); err != nil {
			return nil, err
		}
	}
	if s.cfg.PublicURL != "" {
		o.CallBack, o.Updates = strings.TrimRight(s.cfg.PublicURL, "/")+runsBase, s.takeUpdates()
	} else if o.Mode == serverless.Async {
		s.notes = append(s.notes, b.Name+" can't tell how far a run is: its containers have no address to call. Set public_url to the studio's own.")
	}
	if len(b.Warm) > 0 && (b.Provider.Name == "" || !s.cfg.Providers.Verda.IsSet()) { // else the provider keeps them
		o.KeepWarm = s.awakeByRequests(b)
	}
	return serverless.New(b.URL, o)
}

// takeUpdates returns what takes the call-backs of containers.
func (s *Studio) takeUpdates() *serverless.Updates {
	if s.updates == nil {
		h := hmac.New(sha256.New, s.self.key)
		h.Write([]byte("call-backs of containers")) //nolint:errcheck // a hash takes everything
		s.updates = serverless.NewUpdates(h.Sum(nil))
	}
	return s.updates
}

// updateMounts are the addresses at which containers call back. The token of a run is looked at behind them. The
// server that leads has the runs.
func (s *Studio) updateMounts() []gateway.Mount {
	if s.updates == nil {
		return nil
	}
	relay := s.agentRelay()
	mux := http.NewServeMux()
	mux.Handle("POST "+runsBase+"/{run}/updates", s.updates)
	return []gateway.Mount{{Prefix: runsBase + "/", Public: true, Bare: true, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.follows() && r.Header.Get(headerRelayed) == "" {
			relay(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})}}
}

// awakeFor is how long the provider's word about containers is believed.
const awakeFor = 30 * time.Second

// awake asks the provider how many containers a back end has; nil where nobody can be asked.
func (s *Studio) awake(b config.Back) func(context.Context) (int, error) {
	if b.Provider.Name != "verda" || !s.cfg.Providers.Verda.IsSet() {
		return nil
	}
	face := s.verdaFace()
	var mu sync.Mutex
	var asked time.Time
	var known int
	return func(ctx context.Context) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		if time.Since(asked) < awakeFor {
			return known, nil
		}
		c, err := face.ask()
		if err != nil {
			return 0, err
		}
		asked = time.Now() // after trouble, too
		replicas, err := c.Replicas(ctx, b.Provider.Deployment)
		known = len(replicas)
		return known, err
	}
}
