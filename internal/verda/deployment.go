package verda

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
)

// Deployment is a set of equal containers behind one address of the inference side.
type Deployment struct {
	Name       string      `json:"name"`
	Containers []Container `json:"containers"`
	Endpoint   string      `json:"endpoint_base_url"` // https://containers.<domain>/<deployment>
	Created    time.Time   `json:"created_at"`
	Compute    Compute     `json:"compute"`
	Registry   Registry    `json:"container_registry_settings"`
	Spot       bool        `json:"is_spot"`           // cheaper, and taken away at any time
	Scaling    *Scaling    `json:"scaling,omitempty"` // not in every answer; see Client.Scaling
}

// Compute says which and how many GPUs a container has.
type Compute struct {
	Name string `json:"name"` // H200
	Size int    `json:"size"` // GPUs
}

// Registry says how images are fetched: with a registry credential, by its name, where they are private.
type Registry struct {
	Private     bool         `json:"is_private"`
	Credentials *RegistryRef `json:"credentials,omitempty"`
}

// RegistryRef names a registry credential.
type RegistryRef struct {
	Name string `json:"name"`
}

// Container is one container of a deployment. What this program knows nothing of is kept, so that a container that was
// read, changed and written back loses nothing.
type Container struct {
	Name       string       `json:"name,omitempty"`
	Image      Image        `json:"image"`
	Port       int          `json:"exposed_port,omitempty"`
	Health     *Health      `json:"healthcheck,omitempty"`
	Entrypoint *Entrypoint  `json:"entrypoint_overrides,omitempty"`
	Env        []Variable   `json:"env,omitempty"`
	Mounts     []Mount      `json:"volume_mounts,omitempty"`
	Update     *AutoUpdate  `json:"autoupdate,omitempty"`
	rest       unknownParts // of the answer
}

// UnmarshalJSON reads a container.
func (c *Container) UnmarshalJSON(b []byte) error {
	type plain Container
	return readKeeping(b, (*plain)(c), &c.rest)
}

// MarshalJSON writes a container with the parts of it that were read and are unknown.
func (c Container) MarshalJSON() ([]byte, error) {
	type plain Container
	return writeKept(plain(c), c.rest)
}

// Image is the name of a container image. Answers have it as text or, with other facts, under image.
type Image string

// UnmarshalJSON reads both forms.
func (i *Image) UnmarshalJSON(b []byte) error {
	var long struct {
		Image string `json:"image"`
	}
	if err := json.Unmarshal(b, &long); err == nil {
		*i = Image(long.Image)
		return nil
	}
	return json.Unmarshal(b, (*string)(i))
}

// Split returns the name of an image and its tag or digest, which is empty where there is none.
func (i Image) Split() (name, tag string) {
	if name, digest, ok := strings.Cut(string(i), "@"); ok {
		return name, digest
	}
	slash := strings.LastIndexByte(string(i), '/')
	if at := strings.LastIndexByte(string(i), ':'); at > slash { // else it is the registry's port
		return string(i[:at]), string(i[at+1:])
	}
	return string(i), ""
}

// Health says how the provider sees that a container is ready for requests.
type Health struct {
	Enabled bool   `json:"enabled"`
	Port    int    `json:"port,omitempty"`
	Path    string `json:"path,omitempty"`
}

// Entrypoint replaces what the image would start.
type Entrypoint struct {
	Enabled    bool     `json:"enabled"`
	Entrypoint []string `json:"entrypoint,omitempty"`
	Cmd        []string `json:"cmd,omitempty"`
}

// The types of variables.
const (
	Plain     = "plain"
	Reference = "secret" // the value is the name of a secret
)

// Variable is a variable of a container's environment. A plain value may be a secret that somebody put there by
// mistake: show Shown, not Value.
type Variable struct {
	Type  string `json:"type"`
	Name  string `json:"name"`
	Value string `json:"value_or_reference_to_secret"`
}

// Mount is a folder of a container that comes from elsewhere.
type Mount struct {
	Type   string       `json:"type"` // scratch, memory, secret or shared
	Path   string       `json:"mount_path"`
	Secret string       `json:"secret_name,omitempty"`
	SizeMB int          `json:"size_in_mb,omitempty"`
	Volume string       `json:"volume_id,omitempty"`
	rest   unknownParts // of the answer
}

// UnmarshalJSON reads a mount.
func (m *Mount) UnmarshalJSON(b []byte) error {
	type plain Mount
	return readKeeping(b, (*plain)(m), &m.rest)
}

// MarshalJSON writes a mount with the parts of it that were read and are unknown.
func (m Mount) MarshalJSON() ([]byte, error) {
	type plain Mount
	return writeKept(plain(m), m.rest)
}

// AutoUpdate says whether the provider fetches newer images by itself.
type AutoUpdate struct {
	Enabled bool   `json:"enabled"`
	Mode    string `json:"mode,omitempty"`
	Filter  string `json:"tag_filter,omitempty"`
}

// NewDeployment is what a deployment is made of.
type NewDeployment struct {
	Name       string      `json:"name"`
	Spot       bool        `json:"is_spot"`
	Compute    Compute     `json:"compute"`
	Registry   Registry    `json:"container_registry_settings"`
	Scaling    Scaling     `json:"scaling"`
	Containers []Container `json:"containers"`
}

// DeploymentChange changes what is not nil. A list of containers stands in place of the one there was.
type DeploymentChange struct {
	Spot       *bool          `json:"is_spot,omitempty"`
	Compute    *Compute       `json:"compute,omitempty"`
	Registry   *Registry      `json:"container_registry_settings,omitempty"`
	Scaling    *ScalingChange `json:"scaling,omitempty"`
	Containers []Container    `json:"containers,omitempty"`
}

// The words of a deployment's status.
const (
	Initializing = "initializing"
	Healthy      = "healthy"
	Degraded     = "degraded"
	Unhealthy    = "unhealthy"
	Paused       = "paused"
	QuotaReached = "quota_reached"
	ImagePulling = "image_pulling"
	Updating     = "version_updating"
)

// Replica is one container that runs or starts.
type Replica struct {
	ID      string    `json:"id"`
	Status  string    `json:"status"`
	Started time.Time `json:"started_at"`
}

// Deployments returns the deployments of a project; of all that the credential sees for "".
func (c *Client) Deployments(ctx context.Context, project string) ([]Deployment, error) {
	r := request{path: deployments.path, kind: deployments}
	if project != "" {
		r.query = url.Values{"projectId": {project}}
	}
	return get[[]Deployment](ctx, c, r)
}

// Deployment returns one deployment.
func (c *Client) Deployment(ctx context.Context, name string) (Deployment, error) {
	return read[Deployment](ctx, c, deployments, name)
}

// CreateDeployment makes a deployment. Images without a tag, or with latest, are refused: containers that start at
// different times would run different programs.
func (c *Client) CreateDeployment(ctx context.Context, n NewDeployment) (d Deployment, err error) {
	if _, err := segment(deployments.what, n.Name); err != nil {
		return d, err
	}
	if err := fixed(n.Containers); err != nil {
		return d, err
	}
	return d, c.call(ctx, request{
		method: http.MethodPost, path: deployments.path, kind: deployments, name: n.Name, in: n, out: &d, hidden: values(n.Containers),
	})
}

// ChangeDeployment changes a deployment; its containers are replaced one after the other.
func (c *Client) ChangeDeployment(ctx context.Context, name string, ch DeploymentChange) (d Deployment, err error) {
	if err := fixed(ch.Containers); err != nil {
		return d, err
	}
	r, err := at(deployments, name)
	if err != nil {
		return d, err
	}
	r.method, r.in, r.out, r.hidden = http.MethodPatch, ch, &d, values(ch.Containers)
	return d, c.call(ctx, r)
}

// LongestDelete is the longest that deleting is waited for.
const LongestDelete = 5 * time.Minute

// DeleteDeployment deletes a deployment, and waits for its containers to end up to wait; 0: not at all.
func (c *Client) DeleteDeployment(ctx context.Context, name string, wait time.Duration) error {
	return c.remove(ctx, deployments, name, wait)
}

func (c *Client) remove(ctx context.Context, kind resource, name string, wait time.Duration) error {
	if wait < 0 || wait > LongestDelete {
		return fault.New(fault.Invalid, "The time to wait for the end of %s is %s.", name, wait).WithCode("verda_wait").
			WithRemedy("It may be from 0 to %s.", LongestDelete)
	}
	r, err := at(kind, name)
	if err != nil {
		return err
	}
	r.method, r.longer = http.MethodDelete, wait
	r.query = url.Values{"timeout": {strconv.FormatInt(wait.Milliseconds(), 10)}}
	return c.call(ctx, r)
}

// Status returns how a deployment is, in one of the words above.
func (c *Client) Status(ctx context.Context, name string) (string, error) {
	s, err := read[status](ctx, c, deployments, name, "status")
	return s.Status, err
}

type status struct {
	Status string `json:"status"`
}

// Replicas returns the containers of a deployment that run or start.
func (c *Client) Replicas(ctx context.Context, name string) ([]Replica, error) {
	a, err := read[struct {
		List []Replica `json:"list"`
	}](ctx, c, deployments, name, "replicas")
	return a.List, err
}

// Pause stops all containers of a deployment; requests to it are refused meanwhile.
func (c *Client) Pause(ctx context.Context, name string) error {
	return c.act(ctx, http.MethodPost, deployments, name, nil, nil, "pause")
}

// Resume ends a pause.
func (c *Client) Resume(ctx context.Context, name string) error {
	return c.act(ctx, http.MethodPost, deployments, name, nil, nil, "resume")
}

// Restart replaces all containers of a deployment. What they work on is lost.
func (c *Client) Restart(ctx context.Context, name string) error {
	return c.act(ctx, http.MethodPost, deployments, name, nil, nil, "restart")
}

// Purge drops the requests that wait in the provider's queue.
func (c *Client) Purge(ctx context.Context, name string) error {
	return c.act(ctx, http.MethodPost, deployments, name, nil, nil, "purge-queue")
}

// Available says whether containers with such GPUs are to be had right now.
type Available struct {
	Name      string `json:"name"`
	Size      int    `json:"size"`
	Available bool   `json:"is_available"`
}

// Resources returns the kinds of GPUs, and whether they are to be had right now.
func (c *Client) Resources(ctx context.Context) ([]Available, error) {
	return get[[]Available](ctx, c, request{path: resources.path, kind: resources})
}

// fixed refuses images that mean something else tomorrow.
func fixed(containers []Container) error {
	for i, one := range containers {
		if _, tag := one.Image.Split(); tag == "" || tag == "latest" {
			return fault.New(fault.Invalid, "containers[%d].image %q has no fixed tag.", i, one.Image).WithCode("verda_image").
				WithRemedy("Name a version, such as %s:1.2.3, so that all containers run the same.", strings.TrimSuffix(string(one.Image), ":latest"))
		}
	}
	return nil
}

// values are the plain values of containers, which may be secrets.
func values(containers []Container) (out []string) {
	for _, c := range containers {
		out = append(out, plainValues(c.Env)...)
	}
	return out
}
