package comfyui

import (
	"net/http"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/ahelme/comfyume/internal/backend/backendtest"
)

// TestSocketThatWasClosedIsNotGivenAgain: a run that opens its socket anew must not be given the one that it closed, which
// its reader may not have noticed yet.
func TestSocketThatWasClosedIsNotGivenAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake, network := backendtest.NewFake(), backendtest.NewNet()
		srv := &http.Server{Handler: fake.Handler()}
		var serving sync.WaitGroup
		serving.Go(func() { srv.Serve(network) }) //nolint:errcheck // ends with the test
		d, err := New("http://gpu", Options{Studio: "t", Dial: network.Dial})
		if err != nil {
			t.Fatal(err)
		}
		s, err := d.holdCommon(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		d.sockets.listen(s, "run", false) // and does not take what it hears: the reader stands still
		for range 20 {
			fake.Broadcast(`{"type": "monitor", "data": {}}`)
		}
		synctest.Wait()
		s.bye()
		again, _, _ := d.sockets.hold(s.id)
		if again != nil {
			t.Error("the closed socket is given again")
		} else {
			d.sockets.opened(nil)
		}
		d.sockets.drop(s)
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		fake.Close()
		network.Close()
		srv.Close()
		serving.Wait()
	})
}
