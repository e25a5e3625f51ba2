package verda

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/near"
)

// refusal is the body of an answer that is an error. Its parts have several forms.
type refusal struct {
	Code    text `json:"code"`
	Message text `json:"message"`
	Error   text `json:"error"`
	Details text `json:"details"`
	Field   text `json:"field"`
	Errors  []struct {
		Field   text `json:"field"`
		Path    text `json:"path"`
		Message text `json:"message"`
	} `json:"errors"`
}

// text is a string, or a list of them, in one line. Anything else is left out.
type text string

// UnmarshalJSON never fails.
func (t *text) UnmarshalJSON(b []byte) error {
	var one string
	var many []string
	switch {
	case json.Unmarshal(b, &one) == nil:
		*t = text(one)
	case json.Unmarshal(b, &many) == nil:
		*t = text(strings.Join(many, "; "))
	}
	return nil
}

// limit finds the words for what the account may not have more of.
var limit = regexp.MustCompile(`quota|insufficient[ _](funds|balance|credit)|out of credit`)

// fieldName is what a field may be called.
var fieldName = regexp.MustCompile(`^[A-Za-z0-9_.\[\]-]{1,80}$`)

// says returns what the provider says, and the field that it complains about.
func (f refusal) says() (message, field string) {
	message, field = string(f.Message), string(f.Field)
	if message == "" {
		message = string(f.Error)
	}
	if d := string(f.Details); d != "" && d != message {
		message = strings.Trim(message+": "+d, ": ")
	}
	for _, e := range f.Errors {
		if field == "" {
			field = string(e.Field) + string(e.Path)
		}
		if e.Message != "" && !strings.Contains(message, string(e.Message)) {
			message = strings.Trim(message+"; "+string(e.Field)+string(e.Path)+" "+string(e.Message), "; ")
		}
	}
	return message, field
}

// trouble makes an error of an attempt that was the last one.
func (c *Client) trouble(ctx context.Context, r request, o outcome) error {
	if o.res == nil {
		return c.unanswered(ctx, r, o)
	}
	var f refusal
	plain := json.Unmarshal(o.res.body, &f) != nil // a proxy's page, say
	message, field := f.says()
	if !fieldName.MatchString(field) { // it is a name, or something else that nobody needs to see
		field = ""
	}
	code := strings.ToLower(string(f.Code) + " " + message)
	switch {
	case plain:
		message = ""
	case r.carries:
		message = "its answer is not shown, because it may repeat the secret"
	}
	cause := errors.New(c.line(r, http.StatusText(o.res.status), message))
	field = c.line(r, field)
	switch s := o.res.status; {
	case s == http.StatusPaymentRequired || limit.MatchString(code):
		return fault.Wrap(fault.Busy, cause, "The account at Verda may not have more: %s.", c.line(r, message)).WithCode("verda_quota").
			WithRemedy("Lower what is asked for, stop another deployment, or raise the quota or the balance at Verda.")
	case s == http.StatusUnauthorized && r.open:
		return fault.Wrap(fault.Denied, cause, "Verda does not take the credential.").WithCode("verda_credential")
	case s == http.StatusUnauthorized:
		return fault.Wrap(fault.Denied, cause, "Verda does not take the token that it just gave.").WithCode("verda_credential").
			WithRemedy("See whether the API credential still exists at Verda, and whether the clocks of this machine and of Verda agree.")
	case s == http.StatusForbidden:
		return fault.Wrap(fault.Denied, cause, "The API credential may not do this at Verda (%s %s).", r.method, r.path).WithCode("verda_scope").
			WithRemedy("Make a credential with the scope cloud-api-v1, in the project that the deployment belongs to.")
	case s == http.StatusNotFound:
		return c.missing(ctx, r, cause)
	case s == http.StatusConflict:
		return fault.Wrap(fault.Conflict, cause, "At Verda this clashes with what is there%s.", about(r)).WithCode("verda_conflict").
			WithRemedy("Look at its state with comfyume backend verda status; a change may be under way, or something still uses it.")
	case s == http.StatusBadRequest || s == http.StatusUnprocessableEntity:
		return invalid(r, cause, field, c.line(r, message))
	case s == http.StatusTooManyRequests:
		e := fault.Wrap(fault.Busy, cause, "Verda answers too many requests already.").WithCode("verda_busy").WithRemedy("Try again later.")
		e.RetryAfter = retryAfter(o.res.header)
		return e
	case s >= 500 && r.method == http.MethodPost && !r.repeatable:
		return unknown(r, cause)
	case s >= 300 && s < 400:
		return fault.Wrap(fault.Unavailable, cause, "The address of Verda's control interface leads elsewhere.").WithCode("verda_address").
			WithRemedy("Correct providers.verda.url; it is %s.", Address)
	default:
		e := fault.Wrap(fault.Unavailable, cause, "Verda's control interface does not work now (%d).", s).WithCode("verda_unavailable").
			WithRemedy("Try again later. Containers that run go on.")
		e.RetryAfter = retryAfter(o.res.header)
		return e
	}
}

// invalid is the error of a request that the provider finds wrong.
func invalid(r request, cause error, field, message string) error {
	if message == "" {
		message = "it gives no reason"
	}
	what := "the request"
	if field != "" {
		what = field
	}
	return fault.Wrap(fault.Invalid, cause, "Verda refuses %s%s: %s.", what, about(r), strings.TrimRight(message, ".")).WithCode("verda_invalid").
		WithRemedy("Correct it; nothing was changed.")
}

// unknown is the error of an action of which nobody knows whether it was carried out.
func unknown(r request, cause error) error {
	return fault.Wrap(fault.Unavailable, cause, "Verda gave no answer that says whether this was done%s.", about(r)).WithCode("verda_unknown").
		WithRemedy("Look with comfyume backend verda status or list before you try again.")
}

// unanswered is the error of a request without an answer.
func (c *Client) unanswered(ctx context.Context, r request, o outcome) error {
	if ctx.Err() != nil {
		return c.ended(ctx, context.Cause(ctx))
	}
	cause := errors.New(c.line(r, o.err.Error()))
	if r.method == http.MethodPost && !r.repeatable && o.sent {
		return unknown(r, cause)
	}
	return fault.Wrap(fault.Unavailable, cause, "Verda's control interface does not answer.").WithCode("verda_unavailable").
		WithRemedy("See whether this machine reaches %s, and a proxy if it needs one. Containers that run go on.", host(c.base))
}

// ended keeps the reason why a context ended, and any other error as it is.
func (c *Client) ended(ctx context.Context, err error) error {
	if ctx.Err() == nil || fault.KindOf(err) != fault.Internal {
		return err
	}
	return fault.Wrap(fault.Unavailable, err, "There was no time to wait for Verda's control interface.").WithCode("verda_unavailable").
		WithRemedy("Try again later.")
}

// about names what a request is about.
func about(r request) string {
	if r.name == "" {
		return ""
	}
	return " (" + r.kind.what + " " + r.name + ")"
}

// missing is the error of what is not there, with the names that may have been meant.
func (c *Client) missing(ctx context.Context, r request, cause error) error {
	if r.name == "" {
		return fault.Wrap(fault.Missing, cause, "Verda's control interface has no %s.", r.path).WithCode("verda_missing").
			WithRemedy("Correct providers.verda.url; it is %s.", Address)
	}
	e := fault.Wrap(fault.Missing, cause, "There is no %s %s at Verda.", r.kind.what, r.name).WithCode("verda_missing")
	names, err := c.names(ctx, r.kind)
	like := nearest(r.name, names)
	switch {
	case err != nil:
		return e.WithRemedy("comfyume backend verda list shows what there is.")
	case len(like) > 0:
		return e.WithRemedy("Did you mean %s?", strings.Join(like, " or "))
	case len(names) == 0:
		return e.WithRemedy("This credential sees no %s at all; see whether it belongs to the right project.", r.kind.what)
	default:
		return e.WithRemedy("There are %s.", strings.Join(names[:min(len(names), 10)], ", "))
	}
}

// names returns the names of all things of a kind. It does not wait long: it only helps to say what is wrong.
func (c *Client) names(ctx context.Context, kind resource) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	list, err := get[[]struct {
		Name string `json:"name"`
	}](ctx, c, request{path: kind.path, kind: kind})
	var names []string
	for _, one := range list {
		names = append(names, one.Name)
	}
	slices.Sort(names)
	return names, err
}

// nearest returns the up to three names that are most like a name, if any is.
func nearest(name string, names []string) []string {
	type candidate struct {
		name string
		far  int
	}
	var like []candidate
	for _, n := range names {
		far := near.Distance(strings.ToLower(name), strings.ToLower(n))
		if far <= max(2, len(name)/3) || strings.Contains(n, name) || strings.Contains(name, n) {
			like = append(like, candidate{n, far})
		}
	}
	slices.SortStableFunc(like, func(a, b candidate) int { return a.far - b.far })
	var out []string
	for _, c := range like[:min(len(like), 3)] {
		out = append(out, c.name)
	}
	return out
}

// line joins parts to one line that may be shown: no secrets, no control characters, not too long.
func (c *Client) line(r request, parts ...string) string {
	var kept []string
	for _, p := range parts {
		if p != "" {
			kept = append(kept, p)
		}
	}
	s := c.scrub(r, strings.Join(kept, ": "))
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
	const longest = 300
	if len(s) > longest {
		s = strings.ToValidUTF8(s[:longest], "") + "…"
	}
	return s
}

// scrub takes every secret that the request or the client knows out of a text, in all forms that it may have there.
func (c *Client) scrub(r request, s string) string {
	for _, word := range append(c.tokens.words(), r.hidden...) {
		if len(word) < 4 { // no secret, and in every sentence
			continue
		}
		quoted, err := json.Marshal(word)
		if err != nil {
			quoted = nil
		}
		for _, form := range []string{
			word, strings.Trim(string(quoted), `"`), strings.Trim(strconv.Quote(word), `"`), url.QueryEscape(word), url.PathEscape(word),
			base64.StdEncoding.EncodeToString([]byte(word)),
		} {
			if form != "" {
				s = strings.ReplaceAll(s, form, "***")
			}
		}
	}
	return s
}

// host is the part of an address that people know.
func host(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "it"
	}
	return u.Host
}
