// Package agentstest holds what every agents.Store has to pass, and a store in memory that serves tests of other parts.
package agentstest

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/agents"
	"github.com/ahelme/comfyume/internal/fault"
)

// Memory is an agents.Store that forgets everything with the process. It is safe for concurrent use.
type Memory struct {
	mu     sync.Mutex
	codes  map[string]agents.CodeRecord // by name
	agents map[string]agents.Record     // by name
}

var _ agents.Store = (*Memory)(nil)

// NewMemory returns an empty store.
func NewMemory() *Memory {
	return &Memory{codes: map[string]agents.CodeRecord{}, agents: map[string]agents.Record{}}
}

func (m *Memory) lock() func() { m.mu.Lock(); return m.mu.Unlock }

// AddCode implements agents.Store.
func (m *Memory) AddCode(_ context.Context, c agents.CodeRecord) error {
	defer m.lock()()
	m.codes[c.Name] = c
	return nil
}

// UseCode implements agents.Store.
func (m *Memory) UseCode(_ context.Context, h agents.Hash, t time.Time, accept func(agents.CodeRecord) (agents.Record, error)) error {
	defer m.lock()()
	for name, c := range m.codes {
		if c.Hash == h && c.Expires.After(t) {
			r, err := accept(c)
			if err != nil {
				return err
			}
			delete(m.codes, name)
			m.agents[r.Name] = r
			return nil
		}
	}
	return fault.New(fault.Missing, "There is no such code.")
}

// ByKey implements agents.Store.
func (m *Memory) ByKey(_ context.Context, key agents.Hash) (agents.Agent, error) {
	defer m.lock()()
	for _, r := range m.agents {
		if r.Key == key {
			return r.Agent, nil
		}
	}
	return agents.Agent{}, fault.New(fault.Missing, "There is no such agent.")
}

// Agents implements agents.Store.
func (m *Memory) Agents(context.Context) ([]agents.Agent, error) {
	defer m.lock()()
	var all []agents.Agent
	for _, r := range m.agents {
		all = append(all, r.Agent)
	}
	slices.SortFunc(all, func(a, b agents.Agent) int { return cmp.Compare(a.Name, b.Name) })
	return all, nil
}

// Touch implements agents.Store.
func (m *Memory) Touch(_ context.Context, name string, seen time.Time, about agents.About) error {
	defer m.lock()()
	if r, ok := m.agents[name]; ok {
		r.Seen, r.About = seen, about
		m.agents[name] = r
	}
	return nil
}

// Remove implements agents.Store.
func (m *Memory) Remove(_ context.Context, name string) error {
	defer m.lock()()
	_, agent := m.agents[name]
	_, code := m.codes[name]
	if !agent && !code {
		return fault.New(fault.Missing, "There is no such agent.")
	}
	delete(m.agents, name)
	delete(m.codes, name)
	return nil
}

// Sweep implements agents.Store.
func (m *Memory) Sweep(_ context.Context, t time.Time) error {
	defer m.lock()()
	for name, c := range m.codes {
		if !c.Expires.After(t) {
			delete(m.codes, name)
		}
	}
	return nil
}
