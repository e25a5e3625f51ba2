package dialhome

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// patience tells the agent how long the node at work may be silent, where that is longer than usual: it would end a
// ComfyUI that is silent for longer, and of runs it knows nothing.
type patience struct {
	mu         sync.Mutex
	want, said time.Duration
	busy       bool
}

// enters takes in how long the node that begins may be silent; 0: as usual. It does not block.
func (d *Driver) enters(ctx context.Context, bound time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := &d.patience
	p.mu.Lock()
	defer p.mu.Unlock()
	p.want = bound
	if p.busy || p.want == p.said || d.closed {
		return
	}
	p.busy = true
	d.tail.Go(func() { d.tellPatience(ctx) })
}

// tellPatience tells it until what was said is what is true.
func (d *Driver) tellPatience(ctx context.Context) {
	p := &d.patience
	for {
		p.mu.Lock()
		want := p.want
		if want == p.said {
			p.busy = false
			p.mu.Unlock()
			return
		}
		p.said = want // once: an agent that does not hear it goes by what it knows
		p.mu.Unlock()
		if err := d.postPatience(ctx, want); err != nil {
			d.o.Log.Debug("the agent was not told how long a node may be silent", "err", err)
		}
	}
}

func (d *Driver) postPatience(ctx context.Context, bound time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://agent/patience", bytes.NewReader(fmt.Appendf(nil, `{"seconds": %g}`, bound.Seconds())))
	if err != nil {
		return err
	}
	resp, err := d.ask.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // nothing is read
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the agent answers %s", resp.Status)
	}
	return nil
}
