package verda

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
)

// Word is a secret on its way to the provider. It prints as ***, and reaches JSON by the calls of this package only.
type Word struct{ value string }

// NewWord returns a secret to be sent.
func NewWord(value string) Word { return Word{value} }

// String hides the secret.
func (Word) String() string { return "***" }

// GoString hides the secret from %#v.
func (Word) GoString() string { return "***" }

// MarshalText hides the secret in JSON.
func (Word) MarshalText() ([]byte, error) { return []byte("***"), nil }

// Secret is a secret at the provider. Its value never comes back.
type Secret struct {
	Name    string    `json:"name"`
	Created time.Time `json:"created_at"`
	Type    string    `json:"secret_type"`
	Files   []string  `json:"file_names,omitempty"` // of a file secret
}

// Secrets returns the secrets that variables can refer to.
func (c *Client) Secrets(ctx context.Context) ([]Secret, error) {
	return get[[]Secret](ctx, c, request{path: secrets.path, kind: secrets})
}

// CreateSecret makes a secret.
func (c *Client) CreateSecret(ctx context.Context, name string, value Word) error {
	return c.create(ctx, secrets, name, []string{value.value}, map[string]any{"name": name, "value": value.value})
}

// DeleteSecret deletes a secret; force: also one that a deployment uses.
func (c *Client) DeleteSecret(ctx context.Context, name string, force bool) error {
	return c.forget(ctx, secrets, name, force)
}

// FileSecrets returns the secrets that can be mounted as files.
func (c *Client) FileSecrets(ctx context.Context) ([]Secret, error) {
	return get[[]Secret](ctx, c, request{path: fileSecrets.path, kind: fileSecrets})
}

// CreateFileSecret makes a secret of files by their names.
func (c *Client) CreateFileSecret(ctx context.Context, name string, files map[string][]byte) error {
	type file struct {
		Name    string `json:"file_name"`
		Content []byte `json:"base64_content"` // encoding/json writes bytes so
	}
	var list []file
	var hidden []string
	for n, content := range files {
		list = append(list, file{n, content})
		hidden = append(hidden, string(content))
	}
	return c.create(ctx, fileSecrets, name, hidden, map[string]any{"name": name, "files": list})
}

// DeleteFileSecret deletes a secret of files; force: also one that a deployment uses.
func (c *Client) DeleteFileSecret(ctx context.Context, name string, force bool) error {
	return c.forget(ctx, fileSecrets, name, force)
}

// RegistryCredential lets the provider fetch private images. Its words never come back.
type RegistryCredential struct {
	Name    string    `json:"name"`
	Created time.Time `json:"created_at"`
}

// NewRegistryCredential is what a registry credential is made of; which words are needed depends on the type.
type NewRegistryCredential struct {
	Name string
	Type string // dockerhub, ghcr, gcr, aws-ecr, scaleway, verda or custom
	// Facts that are none of a secret: username, region, ecr_repo, scaleway_domain, scaleway_uuid, access_key_id.
	Facts map[string]string
	// Words are the secret ones: access_token, service_account_key, docker_config_json, secret_access_key.
	Words map[string]Word
}

// RegistryCredentials returns the registry credentials.
func (c *Client) RegistryCredentials(ctx context.Context) ([]RegistryCredential, error) {
	return get[[]RegistryCredential](ctx, c, request{path: registries.path, kind: registries})
}

// CreateRegistryCredential makes a registry credential.
func (c *Client) CreateRegistryCredential(ctx context.Context, n NewRegistryCredential) error {
	if n.Type == "" {
		return fault.New(fault.Invalid, "The registry credential %s has no type.", n.Name).WithCode("verda_registry").
			WithRemedy("It is one of dockerhub, ghcr, gcr, aws-ecr, scaleway, verda and custom.")
	}
	body, hidden := map[string]any{"name": n.Name, "type": n.Type}, []string{}
	for key, value := range n.Facts {
		body[key] = value
	}
	for key, word := range n.Words {
		body[key] = word.value
		hidden = append(hidden, word.value)
		var inside map[string]any // docker_config_json and service_account_key hold further ones
		if json.Unmarshal([]byte(word.value), &inside) == nil {
			hidden = append(hidden, texts(inside)...)
		}
	}
	return c.create(ctx, registries, n.Name, hidden, body)
}

// DeleteRegistryCredential deletes a registry credential; force: also one that a deployment uses.
func (c *Client) DeleteRegistryCredential(ctx context.Context, name string, force bool) error {
	return c.forget(ctx, registries, name, force)
}

// texts returns the longer texts in a JSON value.
func texts(v any) (out []string) {
	switch x := v.(type) {
	case string:
		if len(x) >= 8 {
			out = append(out, x)
		}
	case []any:
		for _, item := range x {
			out = append(out, texts(item)...)
		}
	case map[string]any:
		for _, item := range x {
			out = append(out, texts(item)...)
		}
	}
	return out
}

func (c *Client) create(ctx context.Context, kind resource, name string, hidden []string, body map[string]any) error {
	if _, err := segment(kind.what, name); err != nil {
		return err
	}
	return c.call(ctx, request{method: http.MethodPost, path: kind.path, kind: kind, name: name, in: body, hidden: hidden, carries: true})
}

func (c *Client) forget(ctx context.Context, kind resource, name string, force bool) error {
	r, err := at(kind, name)
	if err != nil {
		return err
	}
	r.method = http.MethodDelete
	if force {
		r.query = url.Values{"force": {"true"}}
	}
	return c.call(ctx, r)
}
