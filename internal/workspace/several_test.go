package workspace_test

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ahelme/comfyume/internal/workspace"
)

// TestSeveralServersChangeDocuments: what one server changed the other does not take back, and it knows within seconds
// how much there is.
func TestSeveralServersChangeDocuments(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var held sync.Mutex
		o := workspace.HomeOptions{Quota: 64 << 10, Lock: func(string) (func(), error) {
			held.Lock()
			return held.Unlock, nil
		}}
		dir := filepath.Join(t.TempDir(), "users")
		var servers []*home
		for range 2 {
			servers = append(servers, &home{reopen(t, dir, o), dir})
		}
		var work sync.WaitGroup
		for i, h := range servers {
			work.Go(func() {
				for n := range 20 {
					if err := h.SetSetting("ann", fmt.Sprintf("%d.%d", i, n), []byte("1")); err != nil {
						t.Error(err)
					}
				}
			})
		}
		work.Wait()
		for i, h := range servers {
			var all map[string]int
			if err := json.Unmarshal([]byte(settings(t, h, "ann")), &all); err != nil || len(all) != 40 {
				t.Errorf("server %d has %d settings of 40, %v", i, len(all), err)
			}
		}
		usage := func(h *home) int64 {
			n, err := h.Usage(t.Context(), "ann")
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		before := usage(servers[1])
		servers[0].write(t, "ann", "flow.json", "{}")
		time.Sleep(11 * time.Second)
		if got, want := usage(servers[1]), before+4096; got != want {
			t.Errorf("after a while the other server counts %d bytes, want %d", got, want)
		}
	})
}
