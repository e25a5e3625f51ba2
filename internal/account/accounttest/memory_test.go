package accounttest_test

import (
	"testing"

	"github.com/ahelme/comfyume/internal/account"
	"github.com/ahelme/comfyume/internal/account/accounttest"
)

func TestMemory(t *testing.T) {
	t.Parallel()
	accounttest.Run(t, func(*testing.T) account.Store { return accounttest.NewMemory() })
}
