// Package verda is a client of the control interface of Verda, a provider of serverless GPU containers: deployments
// with their status, scaling, replicas and environment, actions on them, secrets by reference, what GPUs are to be had,
// and batch jobs. Paths and shapes are those of https://api.verda.com/v1 as of mid-2026. Logs of containers are not to
// be had through it.
//
// Every call takes a context and ends with it. What was refused for now (429, 5xx, no answer) is asked again after a
// while, at most a few times, and never twice what might be done twice: a POST is sent again only when it was not
// sent at all, or was refused before anything was done (401 for a token that ended, 429). No secret is in an error or
// a log, not even where the provider repeats one in its answer.
package verda

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
)

// Address is where the provider's control interface is.
const Address = "https://api.verda.com/v1"

// The bounds of one call.
const (
	patience    = 30 * time.Second // of one attempt
	attempts    = 5
	firstPause  = 250 * time.Millisecond // the bound of the first pause; each further one may be twice as long
	longest     = 8 * time.Second
	longestWait = time.Minute // a longer Retry-After is left to the caller
	largest     = 8 << 20     // bytes of an answer
)

// Credential is what the interface is asked with: the two words of an API credential with the scope cloud-api-v1. It
// prints as ***.
type Credential struct{ ID, Secret string }

// String hides the credential.
func (Credential) String() string { return "***" }

// GoString hides the credential from %#v.
func (Credential) GoString() string { return "***" }

// LogValue hides the credential in logs.
func (Credential) LogValue() slog.Value { return slog.StringValue("***") }

// MarshalText hides the credential in JSON.
func (Credential) MarshalText() ([]byte, error) { return []byte("***"), nil }

// Options change how the interface is asked. The zero value is fine.
type Options struct {
	URL      string        // address of the interface; empty: Address
	Patience time.Duration // of one attempt; 0: 30 s
	Attempts int           // of one call; 0: 5
	Agent    string        // what the program calls itself; empty: comfyume
	Log      *slog.Logger  // nil: nothing is logged

	// Reread returns the credential anew when the provider refuses it: somebody may have replaced it. nil: it stays.
	Reread func() (Credential, error)
	// Dial opens connections; nil: to where the address leads, by a proxy where the environment names one.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Client asks the control interface. It is safe for concurrent use.
type Client struct {
	base     string // without trailing slash
	http     *http.Client
	tokens   tokens
	patience time.Duration
	attempts int
	agent    string
	log      *slog.Logger
}

// New returns a client. Nothing is asked yet.
func New(who Credential, o Options) (*Client, error) {
	if who.ID == "" || who.Secret == "" {
		return nil, fault.New(fault.Invalid, "There is no credential for Verda's control interface.").WithCode("verda_credential").
			WithRemedy("Make an API credential at Verda, and name it under providers.verda.client_id and client_secret as env:NAME or file:PATH.")
	}
	if o.URL == "" {
		o.URL = Address
	}
	u, err := url.Parse(o.URL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fault.New(fault.Invalid, "providers.verda.url is not an address such as %s.", Address).WithCode("verda_address").
			WithRemedy("Leave it out, or write the whole address.")
	}
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: (&net.Dialer{Timeout: 10 * time.Second}).DialContext, TLSHandshakeTimeout: 10 * time.Second,
		ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 4, IdleConnTimeout: 30 * time.Second,
	}
	if o.Dial != nil {
		transport.DialContext, transport.Proxy = o.Dial, nil
	}
	c := &Client{
		base: strings.TrimRight(o.URL, "/"), patience: o.Patience, attempts: o.Attempts, agent: o.Agent, log: o.Log,
		http: &http.Client{
			Transport: transport,
			// A redirection would be followed without the token, or by a GET where a POST was meant.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	if c.patience == 0 {
		c.patience = patience
	}
	if c.attempts == 0 {
		c.attempts = attempts
	}
	if c.agent == "" {
		c.agent = "comfyume"
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	c.tokens = tokens{who: who, fetch: c.fetchToken, reread: o.Reread}
	return c, nil
}

// Close lets go of idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// segment makes a part of a path of a name that comes from people or settings.
func segment(what, name string) (string, error) {
	if name == "" || name == "." || name == ".." {
		return "", fault.New(fault.Invalid, "%q can't be the name of a %s.", name, what).WithCode("verda_name").
			WithRemedy("comfyume backend verda list shows the names of deployments.")
	}
	return url.PathEscape(name), nil
}

// at makes the path of something by its name.
func at(kind resource, name string, more ...string) (request, error) {
	part, err := segment(kind.what, name)
	return request{path: strings.Join(append([]string{kind.path, part}, more...), "/"), kind: kind, name: name}, err
}

// resource is a kind of thing at the provider.
type resource struct{ path, what string }

var (
	deployments = resource{"/container-deployments", "deployment"}
	jobs        = resource{"/job-deployments", "job deployment"}
	secrets     = resource{"/secrets", "secret"}
	fileSecrets = resource{"/file-secrets", "file secret"}
	registries  = resource{"/container-registry-credentials", "registry credential"}
	resources   = resource{"/serverless-compute-resources", "compute resource"}
)

// get asks for something and reads it into a new T.
func get[T any](ctx context.Context, c *Client, r request) (T, error) {
	var out T
	r.method, r.out = http.MethodGet, &out
	return out, c.call(ctx, r)
}

// read asks for a part of something that has a name.
func read[T any](ctx context.Context, c *Client, kind resource, name string, more ...string) (T, error) {
	r, err := at(kind, name, more...)
	if err != nil {
		var none T
		return none, err
	}
	return get[T](ctx, c, r)
}

// act sends something to what has a name. out may be nil.
func (c *Client) act(ctx context.Context, method string, kind resource, name string, in, out any, more ...string) error {
	r, err := at(kind, name, more...)
	if err != nil {
		return err
	}
	r.method, r.in, r.out = method, in, out
	return c.call(ctx, r)
}
