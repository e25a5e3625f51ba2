package redis_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ahelme/comfyume/internal/account"
	"github.com/ahelme/comfyume/internal/account/accounttest"
	"github.com/ahelme/comfyume/internal/queue"
	"github.com/ahelme/comfyume/internal/queue/queuetest"
	"github.com/ahelme/comfyume/internal/redis"
)

// startCluster starts a cluster of one node, which holds to the rules of all: keys of one command are in one slot, and every
// key of a script is named.
func startCluster(t *testing.T) (url string) {
	t.Helper()
	for range 20 { // the node's own port is 10000 above
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		port := l.Addr().(*net.TCPAddr).Port
		must(t, l.Close())
		if port > 55000 {
			continue
		}
		s := startServer(t, "everysec", "--cluster-enabled", "yes", "--port", fmt.Sprint(port), "--bind", "127.0.0.1")
		s.cli("cluster", "addslotsrange", "0", "16383")
		eventually(t, "the cluster is up", func() bool { return strings.Contains(s.cli("cluster", "info"), "cluster_state:ok") })
		return fmt.Sprint("redis://127.0.0.1:", port)
	}
	t.Skip("there is no free port for a cluster's node")
	return ""
}

// TestCluster: the stores of a studio work in a cluster.
func TestCluster(t *testing.T) {
	t.Parallel()
	url := startCluster(t)
	var spaces atomic.Int64
	open := func(t testing.TB, space string) *redis.DB {
		db, err := redis.Open(context.WithoutCancel(t.Context()), url, redis.Options{Space: space})
		must(t, err)
		return db
	}
	t.Run("queue", func(t *testing.T) {
		queuetest.Conform(t, func(testing.TB) queuetest.Open {
			space := fmt.Sprint("space", spaces.Add(1))
			return func(t testing.TB) (queue.Store, func()) {
				db := open(t, space)
				store, err := redis.NewQueue(context.WithoutCancel(t.Context()), db)
				must(t, err)
				return store, func() { must(t, errors.Join(store.Close(), db.Close())) }
			}
		})
	})
	t.Run("accounts", func(t *testing.T) {
		accounttest.Run(t, func(t *testing.T) account.Store {
			db := open(t, fmt.Sprint("space", spaces.Add(1)))
			t.Cleanup(func() { must(t, db.Close()) })
			return redis.NewAccounts(db)
		})
	})
	t.Run("files", func(t *testing.T) {
		db := open(t, "files")
		defer func() { must(t, db.Close()) }()
		s := redis.NewFiles(db)
		put(t, s, "a", false, 1)
		eventually(t, "changes are heard", func() bool { before := s.FileVersion("ann"); return s.FileVersion("ann") == before })
		put(t, s, "a", false, 2)
		if _, err := s.RemoveFile(t.Context(), "ann", pasted("a")); err != nil {
			t.Error(err)
		}
	})
}
