package client

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/ahelme/comfyume/internal/api"
)

// roster is a CSV body.
type roster struct{ io.Reader }

func user(name string) string { return "/users/" + url.PathEscape(name) }

func only(key, value string) url.Values {
	if value == "" {
		return nil
	}
	return url.Values{key: {value}}
}

// hours rounds up to whole hours, the unit of the interface.
func hours(d time.Duration) string {
	return strconv.Itoa(int((d + time.Hour - 1) / time.Hour))
}

// Status returns the studio at a glance.
func (c *Client) Status(ctx context.Context) (s api.Status, err error) {
	return s, c.call(ctx, http.MethodGet, "/status", nil, nil, &s)
}

// Users returns the accounts of a group, of all for "".
func (c *Client) Users(ctx context.Context, group string) (list []api.User, err error) {
	return list, c.call(ctx, http.MethodGet, "/users", only("group", group), nil, &list)
}

// AddUser makes an account.
func (c *Client) AddUser(ctx context.Context, n api.NewUser) (u api.User, err error) {
	return u, c.call(ctx, http.MethodPost, "/users", nil, n, &u)
}

// ChangeUser changes an account.
func (c *Client) ChangeUser(ctx context.Context, name string, ch api.UserChange) (u api.User, err error) {
	return u, c.call(ctx, http.MethodPatch, user(name), nil, ch, &u)
}

// RemoveUser removes an account, with its files when they are to go too.
func (c *Client) RemoveUser(ctx context.Context, name string, files bool) error {
	return c.call(ctx, http.MethodDelete, user(name), url.Values{"files": {strconv.FormatBool(files)}}, nil, nil)
}

// SetPassword gives an account another password.
func (c *Client) SetPassword(ctx context.Context, name, password string) error {
	in := struct {
		Password string `json:"password"`
	}{password}
	return c.call(ctx, http.MethodPut, user(name)+"/password", nil, in, nil)
}

// Import makes the accounts of a CSV roster that are missing.
func (c *Client) Import(ctx context.Context, csv io.Reader) (out api.Imported, err error) {
	return out, c.call(ctx, http.MethodPost, "/roster", nil, roster{csv}, &out)
}

// NewLink makes a one-time sign-in link; the zero life is the studio's default.
func (c *Client) NewLink(ctx context.Context, name string, life time.Duration) (l api.Link, err error) {
	return l, c.call(ctx, http.MethodPost, user(name)+"/links", url.Values{"hours": {hours(life)}}, nil, &l)
}

// Tokens returns an account's tokens.
func (c *Client) Tokens(ctx context.Context, name string) (list []api.Token, err error) {
	return list, c.call(ctx, http.MethodGet, user(name)+"/tokens", nil, nil, &list)
}

// NewToken makes a token; its secret is in the answer and nowhere else.
func (c *Client) NewToken(ctx context.Context, name string, n api.NewToken) (t api.Token, err error) {
	return t, c.call(ctx, http.MethodPost, user(name)+"/tokens", nil, n, &t)
}

// RevokeToken ends a token at once.
func (c *Client) RevokeToken(ctx context.Context, name, id string) error {
	return c.call(ctx, http.MethodDelete, user(name)+"/tokens/"+url.PathEscape(id), nil, nil, nil)
}

// Groups returns all groups.
func (c *Client) Groups(ctx context.Context) (list []api.Group, err error) {
	return list, c.call(ctx, http.MethodGet, "/groups", nil, nil, &list)
}

// AddGroup makes a group.
func (c *Client) AddGroup(ctx context.Context, name, title string) (g api.Group, err error) {
	in := struct {
		Name  string `json:"name"`
		Title string `json:"title,omitempty"`
	}{name, title}
	return g, c.call(ctx, http.MethodPost, "/groups", nil, in, &g)
}

// RemoveGroup removes a group without members.
func (c *Client) RemoveGroup(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, "/groups/"+url.PathEscape(name), nil, nil, nil)
}

// Codes returns the class codes of a group, of all for "".
func (c *Client) Codes(ctx context.Context, group string) (list []api.Code, err error) {
	return list, c.call(ctx, http.MethodGet, "/codes", only("group", group), nil, &list)
}

// NewCode makes a class code; zero places and life are the studio's defaults.
func (c *Client) NewCode(ctx context.Context, group string, places int, life time.Duration) (code api.Code, err error) {
	q := url.Values{"places": {strconv.Itoa(places)}, "hours": {hours(life)}}
	return code, c.call(ctx, http.MethodPost, "/groups/"+url.PathEscape(group)+"/codes", q, nil, &code)
}

// RevokeCode ends a class code.
func (c *Client) RevokeCode(ctx context.Context, code string) error {
	return c.call(ctx, http.MethodDelete, "/codes/"+url.PathEscape(code), nil, nil, nil)
}
