package oneshot

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
)

// Info is the answer of GET /info: what a container's ComfyUI is.
type Info struct {
	Protocol  int              `json:"protocol"`
	Agent     string           `json:"agent"`
	Container string           `json:"container"`
	Version   string           `json:"version"` // ComfyUI's
	Epoch     string           `json:"epoch"`
	Devices   []backend.Device `json:"devices"`
	System    json.RawMessage  `json:"system"`
	Hash      string           `json:"hash"`             // of the abilities
	Packed    []byte           `json:"packed,omitempty"` // the abilities, packed; absent when the caller knows them
}

// Abilities are what a ComfyUI can run and what its custom nodes bring for the page.
type Abilities struct {
	ObjectInfo json.RawMessage            `json:"object_info"`
	Models     map[string][]string        `json:"models"`
	Embeddings []string                   `json:"embeddings"`
	Extensions []string                   `json:"extensions"`
	WebTexts   map[string]json.RawMessage `json:"web_texts"`
}

// maxAbilities bounds unpacked abilities; object_info of a server with many packs has 60 MB.
const maxAbilities = 256 << 20

// MaxInfo bounds an answer of GET /info.
const MaxInfo = 64 << 20

// pack returns the abilities of a snapshot as compressed JSON. The same abilities give the same bytes.
func pack(s backend.Snapshot) ([]byte, error) {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	write := func(key string, raw []byte, err error) error {
		if err != nil {
			return err
		}
		if len(raw) == 0 {
			raw = []byte("null")
		}
		_, err = fmt.Fprintf(z, "%q:%s", key, raw)
		return err
	}
	part := func(v any) ([]byte, error) { return json.Marshal(v) }
	fmt.Fprint(z, "{")
	err := write("object_info", s.ObjectInfo, nil) // not copied once more: it is large
	for _, p := range []struct {
		key string
		v   any
	}{{"models", s.Models}, {"embeddings", s.Embeddings}, {"extensions", s.Extensions}, {"web_texts", s.WebTexts}} {
		fmt.Fprint(z, ",")
		raw, bad := part(p.v)
		err = errors.Join(err, write(p.key, raw, bad))
	}
	fmt.Fprint(z, "}")
	if err := errors.Join(err, z.Close()); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// Unpack returns the abilities that came with an Info. A hostile container can't make it use more than a bounded
// amount of memory.
func (i Info) Unpack() (Abilities, error) {
	var a Abilities
	if sum := sha256.Sum256(i.Packed); hex.EncodeToString(sum[:]) != i.Hash {
		return a, corrupt("what the container can run does not have its hash")
	}
	z, err := gzip.NewReader(bytes.NewReader(i.Packed))
	if err != nil {
		return a, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	raw, err := io.ReadAll(io.LimitReader(z, maxAbilities+1))
	if err != nil {
		return a, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if len(raw) > maxAbilities {
		return a, corrupt("what the container can run takes more than %d MB", maxAbilities>>20)
	}
	if err := json.Unmarshal(raw, &a); err != nil {
		return a, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return a, nil
}

// info is what is known of the ComfyUI.
type info struct {
	probing sync.Mutex // one look at a time

	mu   sync.Mutex
	snap backend.Snapshot // without abilities
	hash string
	pack []byte
}

func (i *info) digest() string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.hash
}

// probe looks at the ComfyUI.
func (j *Jobs) probe(ctx context.Context) (backend.Snapshot, error) {
	j.info.probing.Lock()
	defer j.info.probing.Unlock()
	s, err := j.driver.Probe(ctx)
	if err != nil {
		return s, err
	}
	var packed []byte
	if s.ObjectInfo != nil {
		if packed, err = pack(s); err != nil {
			return s, fmt.Errorf("packing what the ComfyUI can run: %w", err)
		}
	}
	s.ObjectInfo, s.Models, s.Embeddings, s.Extensions, s.WebTexts = nil, nil, nil, nil, nil
	j.info.mu.Lock()
	defer j.info.mu.Unlock()
	j.info.snap = s
	if packed != nil {
		sum := sha256.Sum256(packed)
		j.info.pack, j.info.hash = packed, hex.EncodeToString(sum[:])
	}
	return s, nil
}

// refresh looks at the ComfyUI again when the last look is old, so that answers name what it can run.
func (j *Jobs) refresh() {
	j.info.mu.Lock()
	taken := j.info.snap.Taken
	j.info.mu.Unlock()
	if time.Since(taken) < j.options.Refresh {
		return
	}
	if _, err := j.probe(j.ctx); err != nil && j.ctx.Err() == nil {
		j.log.Warn("the ComfyUI could not be looked at", "err", err)
	}
}

// getInfo tells what the ComfyUI is.
func (j *Jobs) getInfo(w http.ResponseWriter, r *http.Request) {
	s, err := j.probe(r.Context())
	if err != nil {
		j.refuseDriver(w, r, err)
		return
	}
	i := Info{
		Protocol: Version, Agent: j.options.Version, Container: j.container,
		Version: s.Version, Epoch: s.Epoch, Devices: s.Devices, System: s.System,
	}
	j.info.mu.Lock()
	i.Hash = j.info.hash
	if r.URL.Query().Get("hash") != i.Hash {
		i.Packed = j.info.pack
	}
	j.info.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(i); err != nil && r.Context().Err() == nil {
		j.log.Warn("an answer broke off", "err", err)
		panic(http.ErrAbortHandler) // how a handler tells that an answer is not whole
	}
}
