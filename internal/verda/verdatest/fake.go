// Package verdatest is a simulated Verda for tests: the control interface and the inference side, in one handler. It
// is made after what is known of the real one as of mid-2026 and no proof of how that behaves: where the real one's
// way is unknown, the field of Options that chooses it says so.
package verdatest

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Options say how the fake behaves. The zero value is fine.
type Options struct {
	ID, Secret   string        // the API credential; empty: "id" and "secret"
	TokenLife    time.Duration // of an access token; 0: an hour
	RefreshLife  time.Duration // of a refresh token; 0: a day
	NoScope      bool          // the credential has no right to anything
	InferenceKey string        // of the inference side; empty: "inference"
	MaxReplicas  int           // quota of a deployment; 0: 10
	LongImages   bool          // answers have images as objects, as newer versions do

	// Container makes what answers in one replica; nil: a program that says which replica it is.
	Container func(deployment, replica string) http.Handler
	Cold      time.Duration // from the decision to start a replica to its first request
	// Forgets says that an asynchronous request whose replica was lost ends in an error, where it else goes back to the
	// queue. Which of the two the real one does is unknown.
	Forgets bool
}

// Fake is a simulated Verda. It is safe for concurrent use.
type Fake struct {
	o Options

	mu          sync.Mutex
	tokens      map[string]time.Time // access token → end
	refreshes   map[string]time.Time
	given       int // tokens so far
	deployments map[string]*deployment
	jobs        map[string]map[string]any
	pausedJobs  map[string]bool
	purged      map[string]int                       // by name of a deployment or a job
	kept        map[string]map[string]map[string]any // path of a kind of secret → name → what is shown of it
	words       []string                             // secrets that were sent in
	resources   []any
	results     map[string]*result // asynchronous requests
	faults      []*Fault
	calls       []Call
	closed      chan struct{}
	work        sync.WaitGroup
}

// Call is a request that the fake got.
type Call struct {
	Method, Path, Query string
	Status              int // of the answer; 0: it was cut
}

// New returns a fake without deployments.
func New(o Options) *Fake {
	for field, value := range map[*string]string{&o.ID: "id", &o.Secret: "secret", &o.InferenceKey: "inference"} {
		if *field == "" {
			*field = value
		}
	}
	if o.TokenLife == 0 {
		o.TokenLife = time.Hour
	}
	if o.RefreshLife == 0 {
		o.RefreshLife = 24 * time.Hour
	}
	if o.MaxReplicas == 0 {
		o.MaxReplicas = 10
	}
	if o.Container == nil {
		o.Container = func(deployment, replica string) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				answer(w, http.StatusOK, map[string]any{"deployment": deployment, "replica": replica})
			})
		}
	}
	return &Fake{
		o: o, tokens: map[string]time.Time{}, refreshes: map[string]time.Time{}, deployments: map[string]*deployment{},
		jobs: map[string]map[string]any{}, pausedJobs: map[string]bool{}, purged: map[string]int{},
		kept: map[string]map[string]map[string]any{"secrets": {}, "file-secrets": {}, "container-registry-credentials": {}},
		resources: []any{
			map[string]any{"name": "H200", "size": 1, "is_available": true}, map[string]any{"name": "B300", "size": 1, "is_available": false},
		},
		results: map[string]*result{}, closed: make(chan struct{}),
	}
}

// Serve runs the fake on a port of this machine until the test ends, and returns the address of its control interface;
// the inference side is below the same host.
func (f *Fake) Serve(t testing.TB) string {
	t.Helper()
	server := httptest.NewServer(f)
	t.Cleanup(func() {
		f.Close()
		server.CloseClientConnections()
		server.Close()
	})
	return server.URL + "/v1"
}

// Pipe runs the fake without a network until the test ends, for use inside a testing/synctest bubble, and returns what
// opens connections to it. The control interface is at http://verda.test/v1.
func (f *Fake) Pipe(t testing.TB) func(ctx context.Context, network, address string) (net.Conn, error) {
	t.Helper()
	l := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
	server := &http.Server{Handler: f}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() {
		f.Close()
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return l.dial
}

// Close ends everything that runs in replicas.
func (f *Fake) Close() {
	f.mu.Lock()
	select {
	case <-f.closed:
	default:
		close(f.closed)
	}
	for _, d := range f.deployments {
		d.end()
	}
	f.mu.Unlock()
	f.work.Wait()
}

// ServeHTTP answers a request: of the control interface below /v1, else of the inference side.
func (f *Fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rec := &recorder{ResponseWriter: w}
	defer func() {
		f.mu.Lock()
		f.calls = append(f.calls, Call{r.Method, r.URL.EscapedPath(), r.URL.RawQuery, rec.status})
		f.mu.Unlock()
	}()
	fault := f.fault(r)
	if fault.Slow > 0 {
		select {
		case <-time.After(fault.Slow):
		case <-r.Context().Done():
			return
		case <-f.closed:
			return
		}
	}
	if fault.Echo {
		fault.Body = echo(r)
	}
	switch {
	case fault.Cut && !fault.Late:
		rec.cut()
	case fault.Status != 0 && !fault.Late:
		fault.write(rec)
	case fault.Cut || fault.Status != 0: // it is done, and the answer is lost
		f.route(&recorder{ResponseWriter: httptest.NewRecorder()}, r)
		if fault.Cut {
			rec.cut()
		}
		fault.write(rec)
	default:
		f.route(rec, r)
	}
}

func (f *Fake) route(w http.ResponseWriter, r *http.Request) {
	if rest, ok := strings.CutPrefix(r.URL.EscapedPath(), "/v1/"); ok {
		f.control(w, r, rest)
		return
	}
	f.inference(w, r)
}

// Calls returns the requests so far whose path begins so.
func (f *Fake) Calls(prefix string) []Call {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(f.calls), func(c Call) bool { return !strings.HasPrefix(c.Path, prefix) })
}

// Words returns every secret that the fake knows: what was sent in, and the tokens that it gave.
func (f *Fake) Words() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := append([]string{f.o.ID, f.o.Secret, f.o.InferenceKey}, f.words...)
	for token := range f.tokens {
		all = append(all, token)
	}
	for token := range f.refreshes {
		all = append(all, token)
	}
	return all
}

// Fault is something that goes wrong with requests.
type Fault struct {
	Method string // of the requests that it hits; empty: any
	Path   string // what their path contains; empty: any
	Times  int    // how many it hits; 0: one

	Slow       time.Duration // they wait so long first
	Status     int           // they are answered with it
	RetryAfter string
	Body       string // of the answer; empty: a JSON error
	Cut        bool   // the connection ends without answer
	Late       bool   // what was asked for is done before
	Echo       bool   // the answer repeats the request's body and its token, in clear, in quotes and in base64
}

// Fail has requests go wrong. The first fault that fits a request hits it.
func (f *Fake) Fail(fault Fault) {
	fault.Times = max(1, fault.Times)
	f.mu.Lock()
	f.faults = append(f.faults, &fault)
	f.mu.Unlock()
}

// Calm takes back all faults.
func (f *Fake) Calm() {
	f.mu.Lock()
	f.faults = nil
	f.mu.Unlock()
}

func (f *Fake) fault(r *http.Request) Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, one := range f.faults {
		if one.Times > 0 && (one.Method == "" || one.Method == r.Method) && strings.Contains(r.URL.Path, one.Path) {
			one.Times--
			return *one
		}
	}
	return Fault{}
}

func (f Fault) write(w http.ResponseWriter) {
	if f.RetryAfter != "" {
		w.Header().Set("Retry-After", f.RetryAfter)
	}
	if f.Body == "" {
		refuse(w, f.Status, strings.ToLower(strings.ReplaceAll(http.StatusText(f.Status), " ", "_")), "simulated", "")
		return
	}
	w.WriteHeader(f.Status)
	w.Write([]byte(f.Body)) //nolint:errcheck // who asked may be gone
}

// echo is the answer of a careless provider.
func echo(r *http.Request) string {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err.Error()
	}
	text, token := string(body), r.Header.Get("Authorization")
	var value any
	if json.Unmarshal(body, &value) == nil {
		text = forms(value) + text
	}
	out, err := json.Marshal(map[string]any{"code": "bad", "message": token + " " + text, "errors": []any{map[string]any{"field": text, "message": token}}})
	if err != nil {
		return err.Error()
	}
	return string(out)
}

// forms is every text in a JSON value, in all forms that it may come back in.
func forms(value any) (out string) {
	switch v := value.(type) {
	case string:
		if len(v) < 6 { // so that what matters is not cut off
			return ""
		}
		return fmt.Sprintf("%s %q %s %s ", v, v, url.QueryEscape(v), base64.StdEncoding.EncodeToString([]byte(v)))
	case []any:
		for _, item := range v {
			out += forms(item)
		}
	case map[string]any:
		for _, item := range v {
			out += forms(item)
		}
	}
	return out
}

// recorder notes the status.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(p []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return r.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController flush.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// cut ends the connection.
func (*recorder) cut() { panic(http.ErrAbortHandler) }

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if body != nil {
		json.NewEncoder(w).Encode(body) //nolint:errcheck,errchkjson // who asked may be gone
	}
}

func refuse(w http.ResponseWriter, status int, code, message, field string) {
	body := map[string]any{"code": code, "message": message}
	if field != "" {
		body["errors"] = []any{map[string]any{"field": field, "message": message}}
	}
	answer(w, status, body)
}

// pipes is a listener without a network.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case p.conns <- there:
		return here, nil
	case <-p.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Accept implements net.Listener.
func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (p *pipes) Close() error { p.once.Do(func() { close(p.closed) }); return nil }

// Addr implements net.Listener.
func (*pipes) Addr() net.Addr { return &net.UnixAddr{Name: "verda.test", Net: "pipe"} }
