package gateway

import (
	"bufio"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"regexp"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/ahelme/comfyume/internal/account"
	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/identity"
)

// visit is one request and its answer: what the door knows of it, and the ResponseWriter that the faces get. It
// belongs to the request's goroutine.
type visit struct {
	http.ResponseWriter
	g *Gateway

	id      string
	started time.Time
	address string // of the client, past proxies that are trusted
	host    string // as the client knows it
	secure  bool   // the client speaks https
	place   string // /u/NAME or /k/TOKEN, else empty
	owner   string // NAME of the place
	token   string // TOKEN of the place

	queryToken bool // the token came in the query
	signedIn   bool
	guest      bool // the face is not told who it is
	bare       bool // what is asked for is for programs
	submits    bool // it sends a job
	cred       account.Credential

	status   int
	bytes    int64
	hijacked bool
	cause    error // what the access log says beside the status
}

func (g *Gateway) visit(w http.ResponseWriter, r *http.Request) *visit {
	v := &visit{ResponseWriter: w, g: g, started: time.Now()}
	g.readForwarded(v, r)
	if v.id == "" {
		v.id = strconv.FormatUint(rand.Uint64(), 36) // to find log lines again; no secret
	}
	return v
}

// readWithin bounds how long the request's body may take; zero lifts the bound. Not every writer has deadlines, and
// none of ours needs this one to be right.
func (v *visit) readWithin(d time.Duration) {
	end := time.Time{}
	if d > 0 {
		end = time.Now().Add(d)
	}
	_ = http.NewResponseController(v.ResponseWriter).SetReadDeadline(end)
}

// allowed reports whether the person may use what a role is needed for.
func (v *visit) allowed(need identity.Role, scope account.Scope) error {
	switch has := v.cred.Scope; {
	case scope == account.ScopeWorker && has == scope:
		return nil // an operator gave it; whose it is does not count
	case scope == account.ScopeWorker:
		return fault.New(fault.Denied, "Calls of workers need a token with the scope “worker”.").
			WithRemedy("An operator makes one: comfyume token new NAME --scope worker").WithCode(codeScope)
	case has == account.ScopeWorker:
		return errWorkerOnly()
	case has != account.ScopeAll:
		return fault.New(fault.Denied, "This token is for the ComfyUI server only.").
			WithRemedy("Make one with the scope “all”.").WithCode(codeScope)
	}
	rank := map[identity.Role]int{identity.Participant: 1, identity.Instructor: 2, identity.Operator: 3}
	if rank[v.cred.Person.Role] < rank[need] {
		return fault.New(fault.Denied, "This is for the %s.", need).WithCode("role")
	}
	return nil
}

// WriteHeader notes the status.
func (v *visit) WriteHeader(status int) {
	if v.status == 0 && status >= 200 || status == http.StatusSwitchingProtocols {
		v.status = status
	}
	v.ResponseWriter.WriteHeader(status)
}

// Write counts what is written.
func (v *visit) Write(p []byte) (int, error) {
	if v.status == 0 {
		v.status = http.StatusOK
	}
	n, err := v.ResponseWriter.Write(p)
	v.bytes += int64(n)
	return n, err
}

// ReadFrom lets the server send a file without copying it through the program.
func (v *visit) ReadFrom(r io.Reader) (int64, error) {
	if v.status == 0 {
		v.status = http.StatusOK
	}
	n, err := io.Copy(v.ResponseWriter, r)
	v.bytes += n
	return n, err
}

// Unwrap gives http.ResponseController what it needs.
func (v *visit) Unwrap() http.ResponseWriter { return v.ResponseWriter }

// Flush sends what is written.
func (v *visit) Flush() {
	if f, ok := v.ResponseWriter.(http.Flusher); ok {
		f.Flush()
	}
}

// Hijack takes the connection over. It is cut when the credential that opened it ends.
func (v *visit) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(v.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	v.hijacked = true
	if v.status == 0 {
		v.status = http.StatusSwitchingProtocols
	}
	return v.g.o.Live.add(conn, v.cred), rw, nil
}

// finish ends a request: a panic becomes an answer, and the log gets its line.
func (g *Gateway) finish(v *visit, r *http.Request) {
	if p := recover(); p != nil {
		if p == http.ErrAbortHandler { // a face cuts the connection on purpose
			panic(p)
		}
		g.log.Error("a request panicked", "req", v.id, "method", r.Method, "path", redact(r.URL.Path),
			"panic", p, "stack", string(debug.Stack()))
		if v.status == 0 && !v.hijacked {
			clear(v.Header())
			g.fail(v, r, fault.New(fault.Internal, "Something went wrong inside the studio.").
				WithRemedy("Tell the operator the request's number: %s.", v.id))
		}
	}
	took := time.Since(v.started)
	level := v.level(r.Method, took)
	if !g.log.Enabled(r.Context(), level) {
		return
	}
	attrs := []slog.Attr{
		slog.String("req", v.id), slog.String("method", r.Method), slog.String("path", redact(r.URL.Path)),
		slog.Int("status", v.status), slog.Int64("bytes", v.bytes), slog.Duration("dur", took),
		slog.String("remote", v.address),
	}
	if v.signedIn {
		attrs = append(attrs, slog.String("user", v.cred.Person.Name))
	}
	switch fault.KindOf(v.cause) {
	case fault.Internal, fault.Unavailable:
		if v.cause != nil {
			attrs = append(attrs, slog.String("err", v.cause.Error()))
		}
	default: // the client's own doing: the word says enough
		attrs = append(attrs, slog.String("why", codeOf(v.cause)))
	}
	g.log.LogAttrs(r.Context(), level, "request", attrs...)
}

// slow is how long a job's submission may take without a line in the log.
const slow = time.Second

// level is how much a request is worth knowing. A job that was taken needs no line beside its place in the history.
func (v *visit) level(method string, took time.Duration) slog.Level {
	switch {
	case v.status >= 500 && v.status != http.StatusInsufficientStorage && v.status != http.StatusServiceUnavailable:
		return slog.LevelError
	case v.status >= 400 && v.status != http.StatusNotFound: // editors ask for files that a person may have
		return slog.LevelInfo
	case method == http.MethodGet, method == http.MethodHead, v.submits && took < slow:
		return slog.LevelDebug
	default:
		return slog.LevelInfo
	}
}

// secrets are parts of a path that let somebody in. The query is never logged.
var secrets = regexp.MustCompile(`cm_[0-9A-Za-z]*|(^|/)(k|link|join)/[^/]*`)

// redact returns a path as it may be logged.
func redact(path string) string {
	if !strings.Contains(path, "cm_") && !strings.Contains(path, "k/") && !strings.Contains(path, "join/") {
		return path
	}
	return secrets.ReplaceAllStringFunc(path, func(s string) string {
		if i := strings.LastIndexByte(s, '/'); i >= 0 {
			return s[:i+1] + "***"
		}
		return "***"
	})
}
