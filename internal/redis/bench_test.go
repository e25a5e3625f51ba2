package redis_test

import (
	"testing"

	"github.com/ahelme/comfyume/internal/queue/queuetest"
	"github.com/ahelme/comfyume/internal/redis"
)

// BenchmarkQueue measures the queue over Redis as it keeps what it acknowledges: on the disk before the answer, or within
// a second.
func BenchmarkQueue(b *testing.B) {
	for _, fsync := range []string{"always", "everysec"} {
		b.Run(fsync, func(b *testing.B) {
			queuetest.Benchmark(b, func(t testing.TB) queuetest.Open { return shelfOf(startServer(t, fsync), redis.Options{}) })
		})
	}
}

// BenchmarkPeers measures it the way other queues are measured; see queuetest.Peers.
func BenchmarkPeers(b *testing.B) {
	for _, fsync := range []string{"always", "everysec"} {
		b.Run(fsync, func(b *testing.B) {
			queuetest.Peers(b, "comfyume-redis-"+fsync, func(t testing.TB) queuetest.Open { return shelfOf(startServer(t, fsync), redis.Options{}) })
		})
	}
}
