package comfyui

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/comfy/pyjson"
)

// Oldest is the oldest version that can be driven: the first that keeps a prompt id given by the client.
const Oldest = "0.3.45"

// prober remembers what the last probe read, so that the next one is light.
type prober struct {
	mu     sync.Mutex // one probe at a time
	epoch  string
	read   time.Time // when nodes and models were read
	digest [32]byte  // of what was read and handed out
	folder bool      // it is certain which folder the server writes to
}

// Probe asks the server who it is, how long its queue is, and, after a restart or from time to time, what it can
// run.
func (d *Driver) Probe(ctx context.Context) (backend.Snapshot, error) {
	d.probe.mu.Lock()
	defer d.probe.mu.Unlock()
	s := backend.Snapshot{Taken: time.Now().UTC()}
	if err := d.identify(ctx, &s); err != nil {
		return backend.Snapshot{}, err
	}
	var err error
	if s.Epoch, err = d.epoch(ctx, true); err != nil {
		return backend.Snapshot{}, err
	}
	d.back(s.Epoch)
	if err := d.openSocket(ctx); err != nil {
		return backend.Snapshot{}, err
	}
	if s.QueueOther, err = d.countForeign(ctx); err != nil {
		return backend.Snapshot{}, err
	}
	fresh := s.Epoch == d.probe.epoch && s.Taken.Sub(d.probe.read) < d.options.RefreshEvery
	if d.options.Folders != nil && !(fresh && d.probe.folder) {
		d.probe.folder = d.readFolder(ctx)
	}
	if fresh {
		return s, nil
	}
	if err := d.readAbilities(ctx, &s); err != nil {
		return backend.Snapshot{}, err
	}
	d.probe.epoch, d.probe.read = s.Epoch, s.Taken
	if digest := abilities(&s); digest == d.probe.digest {
		s.ObjectInfo, s.Models, s.Embeddings, s.Extensions, s.WebTexts = nil, nil, nil, nil, nil
	} else {
		d.probe.digest = digest
	}
	return s, nil
}

// Refresh has the next Probe read what the server can run.
func (d *Driver) Refresh() {
	d.probe.mu.Lock()
	defer d.probe.mu.Unlock()
	d.probe.read = time.Time{}
}

// identify reads /system_stats and checks that a server answers that we can drive.
func (d *Driver) identify(ctx context.Context, s *backend.Snapshot) error {
	raw, err := d.get(ctx, "/system_stats")
	if err != nil {
		return err
	}
	version, ok := pyjson.Get(raw, "system", "comfyui_version")
	if !ok {
		if system, isThere := pyjson.Get(raw, "system"); isThere && pyjson.KindOf(system) == pyjson.Object {
			return fmt.Errorf("%w (%s): it does not tell its version", backend.ErrTooOld, Oldest)
		}
		return fmt.Errorf("%w: its /system_stats names no system", backend.ErrNotComfyUI)
	}
	s.Version = strings.TrimPrefix(pyjson.TextOf(version), "v")
	if older(s.Version, Oldest) {
		return fmt.Errorf("%w (%s): it is %s", backend.ErrTooOld, Oldest, s.Version)
	}
	s.System = pyjson.Clean(raw)
	list, _ := pyjson.Get(s.System, "devices")
	if err := json.Unmarshal(list, &s.Devices); err != nil && len(list) > 0 {
		return fmt.Errorf("%w: devices of /system_stats: %w", backend.ErrNotComfyUI, err)
	}
	return nil
}

// older reports whether version a comes before b. Words such as "0.3.64-1-gabc" count by their numbers; a version
// without numbers is not older than anything, so that nobody's own build is refused.
func older(a, b string) bool {
	x, y := numbers(a), numbers(b)
	return len(x) > 0 && slices.Compare(x, y) < 0
}

func numbers(version string) []int {
	var out []int
	for part := range strings.SplitSeq(version, ".") {
		end := 0
		for end < len(part) && part[end] >= '0' && part[end] <= '9' {
			end++
		}
		n, err := strconv.Atoi(part[:end])
		if err != nil {
			break
		}
		out = append(out, n)
		if end < len(part) {
			break
		}
	}
	return out
}

// countForeign tells how many runs are in the queue that are not ours. The short count is asked first; the queue
// itself, which carries every graph, only when there is more in it than we put there.
func (d *Driver) countForeign(ctx context.Context) (int, error) {
	raw, err := d.get(ctx, "/prompt")
	if err != nil {
		return 0, err
	}
	n, ok := pyjson.Get(raw, "exec_info", "queue_remaining")
	if !ok {
		return 0, fmt.Errorf("%w: its /prompt tells no queue length", backend.ErrNotComfyUI)
	}
	if digits(n) <= d.own.Load() {
		return 0, nil
	}
	_, others, err := d.look(ctx, "")
	return others, err
}

// readAbilities reads what the server can run and what its custom nodes bring for the page.
func (d *Driver) readAbilities(ctx context.Context, s *backend.Snapshot) error {
	long, cancel := context.WithTimeout(ctx, 6*d.options.RequestTimeout) // object_info can have 60 MB
	defer cancel()
	status, info, err := d.do(long, http.MethodGet, "/object_info", nil)
	if err == nil && status != http.StatusOK {
		err = statusError{"GET /object_info", status}
	}
	if err != nil {
		return err
	}
	if pyjson.KindOf(info) != pyjson.Object || !pyjson.Valid(info) {
		return fmt.Errorf("%w: its /object_info is no JSON object", backend.ErrNotComfyUI)
	}
	s.ObjectInfo = pyjson.CleanNumbers(info)
	var folders []string
	if folders, err = d.list(long, "/models"); err != nil {
		return err
	}
	s.Models = make(map[string][]string, len(folders))
	for _, f := range folders {
		if s.Models[f], err = d.list(long, "/models/"+url.PathEscape(f)); err != nil {
			return err
		}
	}
	if s.Embeddings, err = d.list(long, "/embeddings"); err != nil {
		return err
	}
	if s.Extensions, err = d.list(long, "/extensions"); err != nil {
		return err
	}
	return d.readWebTexts(long, s)
}

// list reads a JSON list of strings; a route the server does not have gives an empty one.
func (d *Driver) list(ctx context.Context, path string) ([]string, error) {
	raw, err := d.get(ctx, path)
	if status, ok := errors.AsType[statusError](err); ok && status.status == http.StatusNotFound {
		return []string{}, nil
	}
	if err != nil {
		return nil, err
	}
	list, ok := pyjson.Strings(raw)
	if !ok {
		return nil, fmt.Errorf("%w: its %s is no list of names", backend.ErrNotComfyUI, path)
	}
	return list, nil
}

// webTexts are the routes whose JSON a page merges from all custom nodes. Not every version has them all.
var webTexts = []string{"i18n", "workflow_templates", "global_subgraphs", "node_replacements"}

// maxSubgraphs bounds how many blueprints are read one by one.
const maxSubgraphs = 500

func (d *Driver) readWebTexts(ctx context.Context, s *backend.Snapshot) error {
	s.WebTexts = make(map[string]json.RawMessage)
	read := func(route string) error {
		raw, err := d.get(ctx, "/"+route)
		if status, ok := errors.AsType[statusError](err); ok && !errors.Is(status, backend.ErrUnreachable) {
			return nil // this version, or this custom node, does not have it
		}
		if err != nil {
			return err
		}
		if raw = pyjson.Clean(raw); pyjson.Valid(raw) {
			s.WebTexts[route] = raw
		}
		return nil
	}
	for _, route := range webTexts {
		if err := read(route); err != nil {
			return err
		}
	}
	members, _ := pyjson.Members(s.WebTexts["global_subgraphs"]) // anything else has no blueprints
	for i, m := range members {
		if i == maxSubgraphs {
			d.log.Warn("only the first blueprints of the back end are offered", "count", maxSubgraphs)
			break
		}
		if err := read("global_subgraphs/" + url.PathEscape(m.Key)); err != nil {
			return err
		}
	}
	return nil
}

// abilities returns a digest of the parts of s that come together.
func abilities(s *backend.Snapshot) [32]byte {
	h := sha256.New()
	part := func(label string, values ...string) {
		fmt.Fprintf(h, "%s %d\n", label, len(values))
		for _, v := range values {
			fmt.Fprintf(h, "%d:%s\n", len(v), v)
		}
	}
	part("info", string(s.ObjectInfo))
	for _, folder := range slices.Sorted(maps.Keys(s.Models)) {
		part(folder, s.Models[folder]...)
	}
	part("embeddings", s.Embeddings...)
	part("extensions", s.Extensions...)
	for _, route := range slices.Sorted(maps.Keys(s.WebTexts)) {
		part(route, string(s.WebTexts[route]))
	}
	return [32]byte(h.Sum(nil))
}
