package fleet_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/fleet"
)

// TestMembersComeAndGo: a back end that comes while the fleet runs is probed at once, and one that goes no more.
func TestMembersComeAndGo(t *testing.T) {
	inBubble(t, func(b *table) {
		late := &driver{snap: backend.Snapshot{Version: "0.3.64", Epoch: "e9"}}
		if err := b.fleet.Add(fleet.Member{Name: "late", Driver: late}); err != nil {
			t.Fatal(err)
		}
		if err := b.fleet.Add(fleet.Member{Name: "late", Driver: late}); !fault.Is(err, fault.Invalid) {
			t.Errorf("the same name twice: %v", err)
		}
		synctest.Wait()
		if all := b.fleet.Status(); len(all) != 2 || all[1].Name != "late" || !all[1].Ready {
			t.Errorf("status %+v", all)
		}
		before := b.changes.Load()
		if err := b.fleet.Remove("late"); err != nil {
			t.Fatal(err)
		}
		if err := b.fleet.Remove("late"); !fault.Is(err, fault.Missing) {
			t.Errorf("removed twice: %v", err)
		}
		if b.changes.Load() == before || len(b.fleet.Status()) != 1 {
			t.Errorf("%d changes told, status %+v", b.changes.Load()-before, b.fleet.Status())
		}
		updates := func() int {
			b.catalog.mu.Lock()
			defer b.catalog.mu.Unlock()
			return b.catalog.updates
		}
		probes := updates()
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if got := updates() - probes; got != 1 {
			t.Errorf("%d probes of one back end", got)
		}
		out := &driver{snap: backend.Snapshot{Version: "0.3.64", Epoch: "e1"}}
		if err := b.fleet.Add(fleet.Member{Name: "out", Driver: out, Drained: true}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := b.fleet.BackEnds()[1]; got.State != fleet.Drained {
			t.Errorf("one that was taken out before is %q", got.State)
		}
	})
}
