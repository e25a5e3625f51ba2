package verdatest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/ahelme/comfyume/internal/verda/verdatest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const twoReplicas = `{"name": "d", "containers": [{"image": "i:1"}],
	"scaling": {"max_replica_count": 2, "scale_down_policy": {"delay_seconds": 60}, "queue_message_ttl_seconds": 300}}`

// asker sends requests to the inference side.
type asker struct {
	t      *testing.T
	client *http.Client
}

func newAsker(t *testing.T, dial func(context.Context, string, string) (net.Conn, error)) asker {
	transport := &http.Transport{DialContext: dial}
	t.Cleanup(transport.CloseIdleConnections)
	return asker{t, &http.Client{Transport: transport}}
}

// ask returns status and body; 0 when the connection ended.
func (a asker) ask(ctx context.Context, method, path string, header ...string) (int, string) {
	r, err := http.NewRequestWithContext(ctx, method, "http://verda.test"+path, strings.NewReader("{}"))
	if err != nil {
		a.t.Error(err)
		return 0, ""
	}
	r.Header.Set("Authorization", "Bearer inference")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	res, err := a.client.Do(r)
	if err != nil {
		return 0, err.Error()
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err.Error()
	}
	return res.StatusCode, string(b)
}

// slow is a container that works for a while and says who it is.
func slow(d time.Duration) func(string, string) http.Handler {
	return func(_, replica string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-time.After(d):
				fmt.Fprint(w, replica)
			case <-r.Context().Done():
			}
		})
	}
}

func TestQueueAndBalancer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := verdatest.New(verdatest.Options{Cold: 30 * time.Second, Container: slow(10 * time.Second)})
		a := newAsker(t, f.Pipe(t))
		f.Deploy(t, twoReplicas)
		if ready, starting := f.Replicas("d"); len(ready)+starting != 0 {
			t.Fatalf("%v, %d: it should sleep", ready, starting)
		}
		began := time.Now()
		var mu sync.Mutex
		by, ended := map[string]int{}, map[time.Duration]int{}
		var wg sync.WaitGroup
		for range 6 {
			wg.Go(func() {
				status, body := a.ask(t.Context(), "POST", "/d/run")
				mu.Lock()
				defer mu.Unlock()
				if status != 200 {
					t.Errorf("%d %s", status, body)
				}
				by[body]++
				ended[time.Since(began).Round(time.Second)]++
			})
		}
		wg.Wait()
		// One request a replica: two after the cold start, two more each ten seconds.
		if len(by) != 2 || by["d-1"] != 3 || ended[40*time.Second] != 2 || ended[50*time.Second] != 2 || ended[60*time.Second] != 2 {
			t.Errorf("%v, %v", by, ended)
		}
		// Polls find any replica.
		_, one := a.ask(t.Context(), "GET", "/d/history")
		_, two := a.ask(t.Context(), "GET", "/d/history")
		if one == two {
			t.Errorf("both polls went to %s", one)
		}
		time.Sleep(61 * time.Second)
		synctest.Wait()
		if ready, starting := f.Replicas("d"); len(ready)+starting != 0 {
			t.Errorf("%v, %d: it should sleep again", ready, starting)
		}
	})
}

func TestTimeToLiveAndRefusals(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := verdatest.New(verdatest.Options{Cold: time.Hour})
		a := newAsker(t, f.Pipe(t))
		f.Deploy(t, twoReplicas)
		if status, _ := a.ask(t.Context(), "POST", "/d/run"); status != 503 {
			t.Errorf("after its time in the queue: %d", status)
		}
		if status, _ := a.ask(t.Context(), "POST", "/other/run"); status != 404 {
			t.Errorf("no such deployment: %d", status)
		}
		if status, _ := a.ask(t.Context(), "POST", "/d/run", "Authorization", "Bearer wrong"); status != 401 {
			t.Errorf("wrong key: %d", status)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { a.ask(ctx, "POST", "/d/run") })
		synctest.Wait()
		if f.Waiting("d") != 1 {
			t.Errorf("%d wait", f.Waiting("d"))
		}
		cancel()
		wg.Wait()
		synctest.Wait()
		if f.Waiting("d") != 0 {
			t.Errorf("%d wait after who asked went", f.Waiting("d"))
		}
	})
}

func TestSpotLoss(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		forgets bool
		code    int
	}{"back to the queue": {false, 200}, "forgotten": {true, 502}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := verdatest.New(verdatest.Options{Cold: time.Second, Container: slow(10 * time.Second), Forgets: c.forgets})
				a := newAsker(t, f.Pipe(t))
				f.Deploy(t, twoReplicas)
				var wg sync.WaitGroup
				wg.Go(func() {
					if status, _ := a.ask(t.Context(), "POST", "/d/run"); status != 0 {
						t.Errorf("a request to a lost replica got %d", status)
					}
				})
				time.Sleep(5 * time.Second)
				status, body := a.ask(t.Context(), "POST", "/d/run", "Prefer", "respond-async")
				var later struct{ ID, StatusPath, ResultPath string }
				if err := json.Unmarshal([]byte(body), &later); err != nil || status != 202 || later.StatusPath != "/status/d" {
					t.Fatalf("%d %s", status, body)
				}
				time.Sleep(3 * time.Second)
				id := []string{"X-Inference-Id", later.ID}
				if _, body := a.ask(t.Context(), "GET", "/status/d", id...); !strings.Contains(body, verdatest.Inference) {
					t.Errorf("it should be worked on: %s", body)
				}
				if status, _ := a.ask(t.Context(), "GET", "/result/d", id...); status != 409 {
					t.Errorf("result too early: %d", status)
				}
				if n := f.Preempt("d", ""); n != 2 {
					t.Errorf("%d went", n)
				}
				wg.Wait()
				time.Sleep(20 * time.Second)
				if _, body := a.ask(t.Context(), "GET", "/status/d", id...); !strings.Contains(body, verdatest.Completed) {
					t.Errorf("it should be done: %s", body)
				}
				if status, body := a.ask(t.Context(), "GET", "/result/d", id...); status != c.code {
					t.Errorf("%d %s", status, body)
				}
			})
		})
	}
}
