package serverless

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/oneshot"
)

// send makes a request to the endpoint. Its errors say which trouble of the line it was.
func (d *Driver) send(ctx context.Context, method, path string, header http.Header, body io.Reader, size int64) (*http.Response, error) {
	return d.request(ctx, method, d.base.String()+path, header, body, size)
}

// request makes a request to an address of the endpoint's host.
func (d *Driver) request(ctx context.Context, method, address string, header http.Header, body io.Reader, size int64) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, address, body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", backend.ErrUnreachable, err)
	}
	for key, values := range header {
		req.Header[key] = values
	}
	if size > 0 {
		req.ContentLength = size
	}
	req.Header.Set("User-Agent", "comfyume")
	if d.options.Key != "" {
		req.Header.Set("Authorization", "Bearer "+d.options.Key)
	}
	resp, err := d.client.Do(req)
	if err != nil {
		return nil, d.lineTrouble(ctx, err)
	}
	return resp, nil
}

// drop reads the little that is left of an answer and closes it.
func drop(resp *http.Response) {
	io.CopyN(io.Discard, resp.Body, 16<<10) //nolint:errcheck // nothing depends on it
	resp.Body.Close()
}

// fromContainer reports whether an answer is an agent's, and not that of what lies between.
func fromContainer(resp *http.Response) bool { return resp.Header.Get(oneshot.ContainerHeader) != "" }

// Codes of the trouble that a driver can meet on the way to its endpoint, each with its own remedy.
const (
	CodeAddress     = "endpoint_address"     // no such host, or nobody listens
	CodeCertificate = "endpoint_certificate" // the certificate is not right
	CodeKey         = "endpoint_key"         // 401, 403
	CodeDeployment  = "endpoint_deployment"  // 404
	CodeBusy        = "endpoint_busy"        // 429
	CodeDown        = "endpoint_down"        // 5xx
	CodeTimeout     = "endpoint_timeout"     // a gateway gave up waiting
	CodePage        = "endpoint_page"        // a web page instead of an answer
	CodeVersion     = "endpoint_version"     // an agent of another version
	CodeCut         = "endpoint_cut"         // the line broke
	CodeDamaged     = "endpoint_damaged"     // what came is not what was sent
)

// trouble makes an error of a class with its sentence.
func trouble(class error, e *fault.Error) error { return fmt.Errorf("%w: %w", class, e) }

// unsent marks trouble in which the endpoint certainly did not get the job.
type unsent struct{ error }

func (u unsent) Unwrap() error { return u.error }

// lineTrouble says what is wrong with a line on which no answer came.
func (d *Driver) lineTrouble(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w: %w", backend.ErrUnreachable, err, context.Cause(ctx))
	}
	name := d.options.Name
	var (
		unknown  x509.UnknownAuthorityError
		host     x509.HostnameError
		invalid  x509.CertificateInvalidError
		verified *tls.CertificateVerificationError
		record   tls.RecordHeaderError
		dns      *net.DNSError
		op       *net.OpError
	)
	switch {
	case errors.As(err, &unknown), errors.As(err, &host), errors.As(err, &invalid), errors.As(err, &verified):
		return unsent{trouble(backend.ErrNotComfyUI, fault.Wrap(fault.Unavailable, err, "The certificate of %s is not right.", name).WithCode(CodeCertificate).
			WithRemedy("Look at the host in backends.url, the clock of this machine, and whether a proxy with a certificate of its own lies between."))}
	case errors.As(err, &record), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return unsent{trouble(backend.ErrNotComfyUI, fault.Wrap(fault.Unavailable, err, "%s does not speak https.", name).WithCode(CodeCertificate).
			WithRemedy("Write http:// in backends.url, or the port that speaks https."))}
	case errors.As(err, &dns):
		return unsent{trouble(backend.ErrUnreachable, fault.Wrap(fault.Unavailable, err, "The host of %s is not known.", name).WithCode(CodeAddress).
			WithRemedy("Look at backends.url, and at this machine's name service."))}
	case errors.As(err, &op) && op.Op == "dial":
		return unsent{trouble(backend.ErrUnreachable, fault.Wrap(fault.Unavailable, err, "%s does not answer.", name).WithCode(CodeAddress).
			WithRemedy("Look at backends.url, and whether this machine may connect to there."))}
	case errors.As(err, &op) && (op.Op == "write" || op.Op == "readfrom"): // a job that is not whole is not run
		return unsent{trouble(backend.ErrUnreachable, fault.Wrap(fault.Busy, err, "%s hung up before it had the whole job.", name).WithCode(CodeCut).
			WithRemedy("It may be full, or a proxy may not take a request of this size: lower backends.max_parallel, or raise the proxy's limit."))}
	}
	return trouble(backend.ErrUnreachable, fault.Wrap(fault.Unavailable, err, "The line to %s was cut before an answer came.", name).WithCode(CodeCut).
		WithRemedy("If it happens after the same time each time, a proxy cuts long requests: set backends.mode to async."))
}

// title finds what a page calls itself.
var title = regexp.MustCompile(`(?is)<title[^>]*>\s*(.{0,200}?)\s*</title>`)

// maxRefusal is how much of an answer that is none is read to say what it is.
const maxRefusal = 16 << 10

// refusal says what an answer means that is not the one that was asked for. It reads its body.
func (d *Driver) refusal(resp *http.Response) error {
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxRefusal))
	if err != nil {
		raw = nil // the status says enough
	}
	if fromContainer(resp) {
		return d.refusalOfAgent(resp, raw)
	}
	name, status := d.options.Name, resp.StatusCode
	cause := fmt.Errorf("status %d", status)
	if m := title.FindSubmatch(raw); m != nil {
		cause = fmt.Errorf("status %d, page %q", status, html.UnescapeString(string(m[1])))
	}
	say := func(kind fault.Kind, format string, args ...any) *fault.Error {
		return fault.Wrap(kind, cause, format, args...)
	}
	switch {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return unsent{trouble(backend.ErrNotComfyUI, say(fault.Unavailable, "%s refuses the key (status %d).", name, status).WithCode(CodeKey).
			WithRemedy("Look at backends.key: it is the endpoint's own key, not that of the provider's control interface."))}
	case status == http.StatusNotFound || status == http.StatusMethodNotAllowed || status == http.StatusGone:
		return unsent{trouble(backend.ErrNotComfyUI, say(fault.Unavailable, "There is no deployment at the address of %s (status %d).", name, status).WithCode(CodeDeployment).
			WithRemedy("Look at the path of backends.url, and that the container's command is comfyume agent --listen."))}
	case status == http.StatusTooManyRequests:
		e := say(fault.Busy, "%s takes no more requests now.", name).WithCode(CodeBusy).
			WithRemedy("Lower backends.max_parallel, or allow it more containers.")
		e.RetryAfter = retryAfter(resp)
		return unsent{trouble(backend.ErrUnreachable, e)}
	case status == http.StatusRequestEntityTooLarge:
		return unsent{trouble(backend.ErrNotComfyUI, say(fault.Unavailable, "%s, or a proxy before it, does not take a request of this size.", name).WithCode(CodeDown).
			WithRemedy("Raise the proxy's limit of request bodies, or use smaller inputs."))}
	case status == http.StatusGatewayTimeout || status == http.StatusRequestTimeout || status == 524 || status == 598:
		return trouble(backend.ErrUnreachable, say(fault.Unavailable, "A proxy before %s gave up waiting for the answer (status %d).", name, status).WithCode(CodeTimeout).
			WithRemedy("Set backends.mode to async: the provider's queue keeps long jobs and cold starts."))
	case status >= 500:
		e := say(fault.Unavailable, "%s is not up (status %d).", name, status).WithCode(CodeDown).
			WithRemedy("Look at the deployment's state at the provider: its containers may be failing to start.")
		e.RetryAfter = retryAfter(resp)
		return trouble(backend.ErrUnreachable, e)
	case status >= 300 && status < 400:
		return unsent{trouble(backend.ErrNotComfyUI, say(fault.Unavailable, "%s sends requests elsewhere (status %d).", name, status).WithCode(CodeDeployment).
			WithRemedy("Write the address that it leads to in backends.url."))}
	}
	return d.foreign(resp, raw, cause)
}

// foreign says what an answer is that came with a good status and is none of ours.
func (d *Driver) foreign(resp *http.Response, raw []byte, cause error) error {
	name := d.options.Name
	if strings.Contains(resp.Header.Get("Content-Type"), "html") || bytes.HasPrefix(bytes.TrimSpace(raw), []byte("<")) {
		return trouble(backend.ErrNotComfyUI, fault.Wrap(fault.Unavailable, cause, "%s answers with a web page.", name).WithCode(CodePage).
			WithRemedy("A proxy or a sign-in page lies before the endpoint: look at backends.url."))
	}
	return trouble(backend.ErrNotComfyUI, fault.Wrap(fault.Unavailable, cause, "What answers for %s is not a ComfyuME agent.", name).WithCode(CodeDeployment).
		WithRemedy("The container's command has to be comfyume agent --listen; for a plain ComfyUI set backends.mode to plain."))
}

// refusalOfAgent says what an agent said.
func (d *Driver) refusalOfAgent(resp *http.Response, raw []byte) error {
	var body struct {
		Error struct {
			Code, Message, Remedy string
		}
	}
	if err := json.Unmarshal(raw, &body); err != nil {
		body.Error.Message = fmt.Sprintf("The agent answered with status %d.", resp.StatusCode)
	}
	e := fault.New(fault.Unavailable, "%s: %s", d.options.Name, clip(body.Error.Message)).WithRemedy("%s", clip(body.Error.Remedy))
	switch resp.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		e.Code = CodeKey
		e.Remedy = "backends.key has to be the agent's key."
		return unsent{trouble(backend.ErrNotComfyUI, e)}
	case http.StatusTooManyRequests:
		e.Kind, e.Code, e.RetryAfter = fault.Busy, CodeBusy, retryAfter(resp)
		return unsent{trouble(backend.ErrUnreachable, e)}
	case http.StatusNotFound:
		e.Code = CodeVersion
		return unsent{trouble(backend.ErrNotComfyUI, e)}
	case http.StatusGone:
		return trouble(backend.ErrLost, e)
	case http.StatusBadRequest:
		e.Code = CodeDamaged
		return unsent{trouble(backend.ErrUnreachable, e)}
	}
	for word, class := range map[string]error{"not_comfyui": backend.ErrNotComfyUI, "too_old": backend.ErrTooOld} {
		if body.Error.Code == word {
			return unsent{trouble(class, e)}
		}
	}
	return unsent{trouble(backend.ErrUnreachable, e)}
}

// retryAfter is when an answer says to come again, zero when it does not.
func retryAfter(resp *http.Response) time.Duration {
	n, err := strconv.Atoi(resp.Header.Get("Retry-After"))
	if err != nil || n < 0 || n > 3600 {
		return 0
	}
	return time.Duration(n) * time.Second
}

// streamTrouble says what is wrong with an answer that broke off.
func (d *Driver) streamTrouble(err error) error {
	name := d.options.Name
	switch {
	case errors.Is(err, oneshot.ErrForeign):
		return trouble(backend.ErrNotComfyUI, fault.Wrap(fault.Unavailable, err, "What answers for %s speaks another language, or another version of it.", name).WithCode(CodeVersion).
			WithRemedy("The container needs an agent of the studio's version."))
	case errors.Is(err, oneshot.ErrCorrupt):
		return trouble(backend.ErrLost, fault.Wrap(fault.Unavailable, err, "The answer of %s arrived damaged.", name).WithCode(CodeDamaged).
			WithRemedy("Something between changes what passes through it, or the container's disk is failing."))
	default:
		return trouble(backend.ErrLost, fault.Wrap(fault.Unavailable, err, "The line to %s was cut during the run.", name).WithCode(CodeCut).
			WithRemedy("The container was taken away, or a proxy cuts long requests: then set backends.mode to async."))
	}
}

// clip shortens what a container wrote.
func clip(s string) string {
	if len(s) > 300 {
		return s[:300] + "…"
	}
	return s
}
