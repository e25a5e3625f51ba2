package tunnel_test

import (
	"context"
	"log/slog"
	"sync"
)

// heardLog keeps the first error that is logged, and then calls until.
type heardLog struct {
	mu    sync.Mutex
	err   error
	until func()
}

func (h *heardLog) logger() *slog.Logger { return slog.New(heardHandler{h}) }

func (h *heardLog) first() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.err
}

type heardHandler struct{ h *heardLog }

func (heardHandler) Enabled(context.Context, slog.Level) bool { return true }
func (x heardHandler) WithAttrs([]slog.Attr) slog.Handler     { return x }
func (x heardHandler) WithGroup(string) slog.Handler          { return x }

func (x heardHandler) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if err, ok := a.Value.Any().(error); ok {
			x.h.mu.Lock()
			defer x.h.mu.Unlock()
			if x.h.err == nil {
				x.h.err = err
				x.h.until()
			}
		}
		return true
	})
	return nil
}
