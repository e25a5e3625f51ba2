package sim_test

import (
	"net/http"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(idle{m}) }

// idle closes what the HTTP client keeps open before the check.
type idle struct{ *testing.M }

func (i idle) Run() int {
	code := i.M.Run()
	http.DefaultClient.CloseIdleConnections()
	return code
}
