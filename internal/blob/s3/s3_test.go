package s3_test

import (
	"fmt"
	"os"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/ahelme/comfyume/internal/blob"
	"github.com/ahelme/comfyume/internal/blob/blobtest"
	"github.com/ahelme/comfyume/internal/blob/s3"
	"github.com/ahelme/comfyume/internal/bucket/buckettest"
)

func TestMain(m *testing.M) {
	os.Setenv("AWS_ACCESS_KEY_ID", buckettest.Key)
	os.Setenv("AWS_SECRET_ACCESS_KEY", buckettest.Secret)
	goleak.VerifyTestMain(m)
}

// fresh returns what opens empty stores, each below a prefix of its own.
func fresh(t testing.TB) func(testing.TB) blob.Store {
	server := buckettest.New(t)
	var n atomic.Int64
	return func(t testing.TB) blob.Store {
		s, err := s3.Open(server.Address(fmt.Sprint("p", n.Add(1))), s3.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		return s
	}
}

func TestS3(t *testing.T) {
	t.Parallel()
	blobtest.Run(t, fresh(t))
}

func BenchmarkS3(b *testing.B) { blobtest.Benchmark(b, fresh(b)) }
