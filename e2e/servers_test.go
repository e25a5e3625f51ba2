package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
)

// takeOver is how long it may take until jobs end again after the server that led was killed.
const takeOver = 5 * time.Second

// TestTwoServers has 20 people work at two servers over one Redis, each person with two tabs of one session, one at
// either server, while whichever server leads is killed again and again. Every acknowledged job has to be finished
// exactly once, jobs have to end again within five seconds, browsers that only connect again, to the other server
// where one is gone, have to hear the end of every job, and both servers have to show the same.
func TestTwoServers(t *testing.T) {
	n := 2
	if os.Getenv("COMFYUME_KILLS") != "" {
		n = kills(t)
	}
	var people []string
	for i := range 20 {
		people = append(people, fmt.Sprintf("p%02d", i))
	}
	s := startStudio(t, studioOptions{people: people, backEnds: 2, redis: true, config: "queue: {mode: round_robin}\n"})
	second := s.another(t)
	servers := map[string]*process{"http://" + s.host: s.server, "http://" + second.host: second.server}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var colours atomic.Int64
	var load, watch sync.WaitGroup
	loaders, tabs := make([]*loader, len(people)), make([]*watcher, len(people))
	for i, name := range people {
		addresses := []string{"http://" + s.host, "http://" + second.host}
		if i%2 == 1 {
			slices.Reverse(addresses)
		}
		l := &loader{
			name: name, base: addresses[0], others: addresses[1:], token: s.token(t, name), http: &http.Client{Timeout: 10 * time.Second},
			sid: uuid.NewString(), acked: map[string]*order{}, uploads: map[string]int{}, colours: &colours,
		}
		l.watch = newWatcher(l, i%4 < 2)
		tabs[i] = newWatcher(l, i%4 < 2)
		tabs[i].at = 1
		loaders[i] = l
		load.Go(func() { l.load(ctx, t) })
		watch.Go(func() { l.watch.run(t.Context(), t) })
		watch.Go(func() { tabs[i].run(t.Context(), t) })
	}
	var longest time.Duration
	for range n {
		<-time.After(time.Duration(rand.IntN(1500)) * time.Millisecond) // the instant has to be random
		took := s.killLeader(t, servers)
		longest = max(longest, took)
		if took > takeOver {
			t.Errorf("jobs ended again after %v", took)
		}
	}
	stop()
	load.Wait()

	var sum tally
	for i, l := range loaders {
		l.settle(t)
		l.watch.settle(t)
		tabs[i].settle(t)
		sameHistory(t, l)
	}
	for i, l := range loaders {
		l.check(t, &sum)
		l.watch.stop()
		tabs[i].stop()
	}
	watch.Wait()
	if sum.jobs == 0 {
		t.Fatal("no job was acknowledged: the test proved nothing")
	}
	t.Logf("the leader was killed %d times; jobs ended again after %v at most; %v", n, longest.Round(time.Millisecond), sum)
}

// another starts a second server of the studio, over the same store and data folder.
func (s *studio) another(t *testing.T) *studio {
	t.Helper()
	two := *s
	two.host = freeAddr(t)
	config, err := os.ReadFile(s.config())
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(s.dir, "second.yaml")
	if err := os.WriteFile(name, []byte(strings.Replace(string(config), s.host, two.host, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	two.server = newProcess(t, s, "second", []string{"serve", "--config", name})
	two.server.start(t)
	two.waitReady(t)
	return &two
}

// killLeader kills the server that leads, waits until jobs end again, and starts it again. It returns how long that took
// from its death.
func (s *studio) killLeader(t *testing.T, servers map[string]*process) time.Duration {
	t.Helper()
	address, leader := s.leader(t, servers)
	leader.kill()
	died := time.Now()
	ended := s.ended(t)
	for s.ended(t) == ended {
		if time.Since(died) > 30*time.Second {
			t.Fatal("no job has ended since the leader was killed")
		}
		<-time.After(10 * time.Millisecond)
	}
	took := time.Since(died)
	leader.start(t)
	waitOK(t, leader, address+"/readyz")
	return took
}

// ended is how many jobs have ended.
func (s *studio) ended(t *testing.T) int {
	t.Helper()
	n, err := strconv.Atoi(s.redis.ask("zcard", "{comfyume}:past"))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// leader returns the server that leads.
func (s *studio) leader(t *testing.T, servers map[string]*process) (address string, _ *process) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		lease := s.redis.ask("get", "{comfyume}:lease:lead")
		for address, p := range servers {
			if strings.Contains(lease+" ", fmt.Sprintf(":%d ", p.cmd.Process.Pid)) { // its address may stand behind
				return address, p
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("no server leads: %q", lease)
		}
		<-time.After(20 * time.Millisecond)
	}
}

// sameHistory sees that a person is shown the same by both servers.
func sameHistory(t *testing.T, l *loader) {
	t.Helper()
	var seen []map[string]json.RawMessage
	for range 2 {
		var history map[string]json.RawMessage
		if err := l.call(http.MethodGet, "/history", nil, &history); err != nil {
			t.Fatal(err)
		}
		seen = append(seen, history)
		l.moves.Add(1)
	}
	if diff := cmp.Diff(seen[0], seen[1]); diff != "" {
		t.Errorf("%s is shown another history by the second server:\n%s", l.name, diff)
	}
}
