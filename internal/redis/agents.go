package redis

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/redis/rueidis"

	"github.com/ahelme/comfyume/internal/agents"
	"github.com/ahelme/comfyume/internal/fault"
)

// Agents keeps which agents may dial home. It is safe for concurrent use, by any number of servers.
type Agents struct {
	db   *DB
	keys []string
}

var _ agents.Store = (*Agents)(nil)

// NewAgents returns the agents' store in the database.
func NewAgents(db *DB) *Agents {
	return &Agents{db: db, keys: db.keys("meta", "agentcodes", "agents", "agentkeys", "agentkey")}
}

// Records as agents.lua keeps them.
type (
	agentRecord struct {
		By      string `json:"by"`
		Machine string `json:"machine"`
		Version string `json:"version"`
		OS      string `json:"os"`
		Joined  int64  `json:"joined"`
		Seen    int64  `json:"seen"`
	}
	agentCodeRecord struct {
		Hash    []byte `json:"hash"`
		By      string `json:"by"`
		Expires int64  `json:"expires"`
	}
)

func encodeAgent(g agents.Agent) string {
	return encode(agentRecord{
		By: g.By, Machine: g.About.Machine, Version: g.About.Version, OS: g.About.OS, Joined: stamp(g.Joined), Seen: stamp(g.Seen),
	})
}

func (r agentRecord) agent(name string) agents.Agent {
	return agents.Agent{
		Name: name, By: r.By, About: agents.About{Machine: r.Machine, Version: r.Version, OS: r.OS},
		Joined: fromStamp(r.Joined), Seen: fromStamp(r.Seen),
	}
}

// act does one thing of agents.lua, and reports whether there was what it is about.
func (a *Agents) act(ctx context.Context, args ...string) (bool, error) {
	word, err := a.db.exec(ctx, scriptAgents, a.keys, append([]string{a.db.generation}, args...)).ToString()
	switch {
	case err != nil:
		return false, a.db.fail(ctx, err)
	case word == "ok" || word == "missing":
		return word == "ok", nil
	default:
		return false, a.db.lost()
	}
}

// AddCode implements agents.Store.
func (a *Agents) AddCode(ctx context.Context, c agents.CodeRecord) error {
	_, err := a.act(ctx, "code", c.Name, encode(agentCodeRecord{Hash: c.Hash[:], By: c.By, Expires: stamp(c.Expires)}))
	return err
}

// UseCode implements agents.Store. There are as many codes as names that wait for an agent, so all are looked at.
func (a *Agents) UseCode(ctx context.Context, h agents.Hash, t time.Time, accept func(agents.CodeRecord) (agents.Record, error)) error {
	codes, err := a.db.hash(ctx, "agentcodes")
	if err != nil {
		return err
	}
	for name, text := range codes {
		kept, err := decode[agentCodeRecord](text)
		if err != nil {
			return err
		}
		if string(kept.Hash) != string(h[:]) || !fromStamp(kept.Expires).After(t) {
			continue
		}
		r, err := accept(agents.CodeRecord{Hash: h, Name: name, By: kept.By, Expires: fromStamp(kept.Expires)})
		if err != nil {
			return err
		}
		ok, err := a.act(ctx, "join", name, text, encodeAgent(r.Agent), string(r.Key[:]))
		if err == nil && !ok { // somebody else was faster
			break
		}
		return err
	}
	return missing("code")
}

// ByKey implements agents.Store.
func (a *Agents) ByKey(ctx context.Context, key agents.Hash) (agents.Agent, error) {
	results, err := a.db.read(ctx, a.db.client.B().Hget().Key(a.db.key("agentkeys")).Field(string(key[:])).Build())
	if err != nil {
		return agents.Agent{}, err
	}
	name, err := results[0].ToString()
	if rueidis.IsRedisNil(err) {
		return agents.Agent{}, missing("agent")
	}
	if err != nil {
		return agents.Agent{}, a.db.fail(ctx, err)
	}
	found, err := a.db.fields(ctx, "agents", []string{name})
	if err != nil {
		return agents.Agent{}, err
	}
	text, ok := found[name]
	if !ok { // it has just been removed
		return agents.Agent{}, missing("agent")
	}
	r, err := decode[agentRecord](text)
	return r.agent(name), err
}

// Agents implements agents.Store.
func (a *Agents) Agents(ctx context.Context) ([]agents.Agent, error) {
	found, err := a.db.hash(ctx, "agents")
	if err != nil {
		return nil, err
	}
	var all []agents.Agent
	for name, text := range found {
		r, err := decode[agentRecord](text)
		if err != nil {
			return nil, err
		}
		all = append(all, r.agent(name))
	}
	slices.SortFunc(all, func(x, y agents.Agent) int { return cmp.Compare(x.Name, y.Name) })
	return all, nil
}

// Touch implements agents.Store.
func (a *Agents) Touch(ctx context.Context, name string, seen time.Time, about agents.About) error {
	for range 3 { // somebody may change it meanwhile
		found, err := a.db.fields(ctx, "agents", []string{name})
		text, ok := found[name]
		if err != nil || !ok {
			return err
		}
		r, err := decode[agentRecord](text)
		if err != nil {
			return err
		}
		g := r.agent(name)
		g.Seen, g.About = seen, about
		if ok, err := a.act(ctx, "touch", name, text, encodeAgent(g)); err != nil || ok {
			return err
		}
	}
	return fmt.Errorf("record that the agent %s was seen: others change it all the time", name)
}

// Remove implements agents.Store.
func (a *Agents) Remove(ctx context.Context, name string) error {
	ok, err := a.act(ctx, "remove", name)
	if err == nil && !ok {
		return fault.New(fault.Missing, "There is no such agent.")
	}
	return err
}

// Sweep implements agents.Store.
func (a *Agents) Sweep(ctx context.Context, t time.Time) error {
	codes, err := a.db.hash(ctx, "agentcodes")
	if err != nil {
		return err
	}
	for name, text := range codes {
		c, err := decode[agentCodeRecord](text)
		if err != nil {
			return err
		}
		if fromStamp(c.Expires).After(t) {
			continue
		}
		if _, err := a.act(ctx, "sweep", name, text); err != nil {
			return err
		}
	}
	return nil
}
