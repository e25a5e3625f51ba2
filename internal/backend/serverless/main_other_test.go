package serverless_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/ahelme/comfyume/internal/bucket/buckettest"
)

func TestMain(m *testing.M) {
	os.Setenv("AWS_ACCESS_KEY_ID", buckettest.Key)
	os.Setenv("AWS_SECRET_ACCESS_KEY", buckettest.Secret)
	goleak.VerifyTestMain(m)
}
