package verda

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"strings"
)

// Environment is the variables of one container of a deployment.
type Environment struct {
	Container string     `json:"container_name"`
	Env       []Variable `json:"env"`
}

// environments reads all forms of an answer: a list of containers, one container, or variables alone.
type environments []Environment

// UnmarshalJSON implements json.Unmarshaler.
func (e *environments) UnmarshalJSON(b []byte) error {
	if b = bytes.TrimSpace(b); len(b) > 0 && b[0] == '{' {
		var one Environment
		if err := json.Unmarshal(b, &one); err != nil {
			return err
		}
		*e = environments{one}
		return nil
	}
	var list []struct {
		Environment
		Variable
	}
	if err := json.Unmarshal(b, &list); err != nil {
		return err
	}
	var loose Environment
	for _, item := range list {
		if item.Variable.Name != "" {
			loose.Env = append(loose.Env, item.Variable)
		} else {
			*e = append(*e, item.Environment)
		}
	}
	if len(loose.Env) > 0 {
		*e = append(*e, loose)
	}
	return nil
}

// Environment returns the variables of a deployment's containers. Of secrets their names come, never their values.
func (c *Client) Environment(ctx context.Context, name string) ([]Environment, error) {
	return read[environments](ctx, c, deployments, name, "environment-variables")
}

// AddVariables adds variables to a container; one that is there already is a conflict.
func (c *Client) AddVariables(ctx context.Context, name, container string, vars []Variable) error {
	return c.vary(ctx, http.MethodPost, name, Environment{container, vars}, plainValues(vars))
}

// ChangeVariables changes variables of a container that are there.
func (c *Client) ChangeVariables(ctx context.Context, name, container string, vars []Variable) error {
	return c.vary(ctx, http.MethodPatch, name, Environment{container, vars}, plainValues(vars))
}

// RemoveVariables removes variables of a container by their names.
func (c *Client) RemoveVariables(ctx context.Context, name, container string, vars []string) error {
	return c.vary(ctx, http.MethodDelete, name, struct {
		Container string   `json:"container_name"`
		Env       []string `json:"env"`
	}{container, vars}, nil)
}

func (c *Client) vary(ctx context.Context, method, name string, in any, hidden []string) error {
	r, err := at(deployments, name, "environment-variables")
	if err != nil {
		return err
	}
	r.method, r.in, r.hidden = method, in, hidden
	return c.call(ctx, r)
}

// plainValues are the values that stand in clear, which may be secrets all the same.
func plainValues(vars []Variable) (out []string) {
	for _, v := range vars {
		if v.Type != Reference && (len(v.Value) >= 8 || v.InClear()) { // others are switches and numbers
			out = append(out, v.Value)
		}
	}
	return out
}

// secretive finds names of what is likely to be a secret, once their words are parted by _. It takes HFTOKEN, and neither
// TOKENIZERS_PARALLELISM nor MAX_TOKENS nor KEYBOARD.
var secretive = regexp.MustCompile(`(?i)(token|secret|secrets|password|passwd|credential|credentials|apikey)($|[^a-z])|(^|[^a-z])(key|keys|pass|pwd|auth|private)($|[^a-z])`)

// parted finds where a word of a name in camel case ends.
var parted = regexp.MustCompile(`([a-z0-9])([A-Z])`)

// Secretive reports whether something of this name is likely to be a secret.
func Secretive(name string) bool {
	return secretive.MatchString(parted.ReplaceAllString(name, "${1}_$2"))
}

// InClear reports whether a secret seems to stand in clear where only its name should.
func (v Variable) InClear() bool {
	if v.Type == Reference || v.Value == "" {
		return false
	}
	return Secretive(v.Name) && !refers(v.Value) || inAddress(v.Value)
}

// Shown returns the value as it may be shown: the name of a secret, a plain value, or *** for what may be a secret.
func (v Variable) Shown() string {
	switch {
	case v.Type == Reference:
		return "secret " + v.Value
	case v.InClear():
		return "***"
	default:
		return v.Value
	}
}

// refers reports whether a value only says where something is.
func refers(value string) bool {
	return strings.HasPrefix(value, "env:") || strings.HasPrefix(value, "file:") || strings.HasPrefix(value, "/")
}

// inAddress reports whether a value is an address with a password or a key in it.
func inAddress(value string) bool {
	u, err := url.Parse(value)
	if err != nil || u.Scheme == "" {
		return false
	}
	if _, has := u.User.Password(); has {
		return true
	}
	for name := range u.Query() {
		if Secretive(name) {
			return true
		}
	}
	return false
}

// ShownArgs returns arguments of a program as they may be shown: what follows a flag for a secret is ***.
func ShownArgs(args []string) []string {
	out := make([]string, 0, len(args))
	hide := false
	for _, a := range args {
		name, value, joined := strings.Cut(a, "=")
		switch {
		case hide && !strings.HasPrefix(a, "-") && !refers(a) || inAddress(a):
			out = append(out, "***")
		case joined && strings.HasPrefix(a, "-") && (Secretive(name) && !refers(value) || inAddress(value)):
			out = append(out, name+"=***")
		default:
			out = append(out, a)
		}
		hide = strings.HasPrefix(a, "-") && !joined && Secretive(a)
	}
	return out
}
