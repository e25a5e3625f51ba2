package queue

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
)

// Control is what operators say of the whole queue.
type Control struct {
	Mode   string
	Pauses []Pause // those that are on, by scope
}

// Pause keeps jobs from starting; what runs goes on.
type Pause struct {
	Scope  string    `json:"scope"` // "all", "group:NAME" or "backend:NAME"
	On     bool      `json:"on"`
	Reason string    `json:"reason,omitempty"` // one sentence for those who wait; empty: none given
	By     string    `json:"by,omitempty"`
	Since  time.Time `json:"since"` // zero: now
}

// What a pause may be of.
const (
	PauseAll     = "all"
	PauseGroup   = "group:"
	PauseBackEnd = "backend:"
)

// The settings in the store.
const (
	settingMode   = "mode"
	settingPauses = "pauses"
)

// savedMode is a mode that was set by a command, with that of the settings at that time: when the settings are changed
// afterwards they count again.
type savedMode struct {
	Mode     string `json:"mode"`
	Settings string `json:"settings"`
}

// control holds mode and pauses. It is safe for concurrent use.
type control struct {
	change sync.Mutex // held from the look at what is to the end of a change
	mu     sync.RWMutex
	mode   string
	pauses map[string]Pause // by scope
}

// set changes what is held and returns all of it.
func (c *control) set(fn func()) Control {
	c.mu.Lock()
	defer c.mu.Unlock()
	fn()
	return Control{Mode: c.mode, Pauses: c.list()}
}

func (c *control) list() []Pause {
	return slices.SortedFunc(maps.Values(c.pauses), func(x, y Pause) int { return cmp.Compare(x.Scope, y.Scope) })
}

func checkMode(mode string) error {
	switch mode {
	case FIFO, RoundRobin, Priority, Fair:
		return nil
	}
	return fault.New(fault.Invalid, "There is no queue mode %q.", mode).
		WithRemedy("Use fifo, round_robin, priority or fair.").WithCode("unknown_mode")
}

// readControl reads what commands have set.
func (s *Service) readControl(ctx context.Context) error {
	s.control.mode, s.control.pauses = s.opts.Mode, map[string]Pause{}
	settings, err := s.store.Settings(ctx)
	if err != nil {
		return fmt.Errorf("read the settings of the queue: %w", err)
	}
	if raw := settings[settingPauses]; raw != nil {
		if err := json.Unmarshal(raw, &s.control.pauses); err != nil {
			return fmt.Errorf("read the pauses of the queue: %w", err)
		}
	}
	raw := settings[settingMode]
	if raw == nil {
		return nil
	}
	var saved savedMode
	if err := json.Unmarshal(raw, &saved); err != nil {
		return fmt.Errorf("read the mode of the queue: %w", err)
	}
	if saved.Settings == s.opts.Mode && checkMode(saved.Mode) == nil {
		s.control.mode = saved.Mode
		return nil
	}
	// Forgotten for good: else it would come back when the settings are changed back.
	if err := s.store.PutSetting(ctx, settingMode, nil, func() {}); err != nil {
		return fmt.Errorf("forget an earlier mode of the queue: %w", err)
	}
	return nil
}

// Mode returns the mode that is in effect: the last one that SetMode was given, unless the settings have changed since.
func (s *Service) Mode() string {
	s.control.mu.RLock()
	defer s.control.mu.RUnlock()
	return s.control.mode
}

// SetMode changes the mode, also for starts to come. No job is lost or starts twice by it.
func (s *Service) SetMode(ctx context.Context, mode string) error {
	if err := checkMode(mode); err != nil {
		return err
	}
	s.control.change.Lock()
	defer s.control.change.Unlock()
	return s.keep(ctx, settingMode, savedMode{Mode: mode, Settings: s.opts.Mode}, func() { s.control.mode = mode })
}

// Pauses returns what is paused, by scope.
func (s *Service) Pauses() []Pause {
	s.control.mu.RLock()
	defer s.control.mu.RUnlock()
	return s.control.list()
}

// Pause pauses a scope, or with On false lets it go on. Pausing again replaces reason and author.
func (s *Service) Pause(ctx context.Context, p Pause) error {
	group, isGroup := strings.CutPrefix(p.Scope, PauseGroup)
	backEnd, isBackEnd := strings.CutPrefix(p.Scope, PauseBackEnd)
	if p.Scope != PauseAll && (!isGroup || group == "") && (!isBackEnd || backEnd == "") {
		return fault.New(fault.Invalid, "%q can't be paused.", p.Scope).
			WithRemedy("Use all, group:NAME or backend:NAME.").WithCode("unknown_scope")
	}
	if p.Since = millis(p.Since); p.Since.IsZero() {
		p.Since = now()
	}
	s.control.change.Lock()
	defer s.control.change.Unlock()
	next := maps.Clone(s.control.pauses) // only changed with change held
	if p.On {
		next[p.Scope] = p
	} else {
		delete(next, p.Scope)
	}
	return s.keep(ctx, settingPauses, next, func() { s.control.pauses = next })
}

// keep writes a setting down, then takes it over and announces it.
func (s *Service) keep(ctx context.Context, name string, value any, take func()) error {
	raw, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encode a setting of the queue: %w", err)
	}
	err = s.store.PutSetting(ctx, name, raw, func() { s.opts.Control(s.control.set(take)) })
	if err != nil {
		return fmt.Errorf("keep a setting of the queue: %w", err)
	}
	return nil
}
