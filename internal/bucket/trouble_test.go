package bucket

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/ahelme/comfyume/internal/bucket/buckettest"
	"github.com/ahelme/comfyume/internal/fault"
)

func TestAddresses(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"s3://bucket?endpoint=h":                                    "s3://bucket at h us-east-1",
		"s3://my.bucket-1/a/b_c/?endpoint=h:9000&region=eu-1":       "s3://my.bucket-1/a/b_c at h:9000 eu-1",
		"s3://bucket/p?endpoint=http://127.0.0.1:9000":              "s3://bucket/p at 127.0.0.1:9000 us-east-1",
		"s3://bucket/p?endpoint=https%3A%2F%2Fh.example&region=eu":  "s3://bucket/p at h.example eu",
		"s3://bucket/p?endpoint=h&key=env:A&secret=file:/run/b/key": "s3://bucket/p at h us-east-1",
		"s3://bucket?region=eu-central-1":                           "s3://bucket at s3.amazonaws.com eu-central-1",
	} {
		a, err := ParseAddress(text)
		if got := a.String() + " " + a.Region; err != nil || got != want {
			t.Errorf("%s is %q, %v; want %q", text, got, err, want)
		}
	}
	for _, bad := range []string{
		"", "s3:", "s3://", "s3:///x", "http://bucket", "s3://S3CR3T:S3CR3T@bucket/x", "s3://Bucket", "s3://b", "s3://bucket/../S3CR3T",
		"s3://bucket/a//b", "s3://bucket/a b", "s3://bucket?endpoint=h&secret=S3CR3T&key=S3CR3T", "s3://bucket?S3CR3T=1", "s3://bucket?endpoint=",
		"s3://bucket?endpoint=h/S3CR3T", "s3://bucket?endpoint=ftp://h", "s3://bucket?endpoint=u:S3CR3T@h", "s3://bucket?key=env:S3CR3T",
		"s3://bucket?endpoint=h&endpoint=i", "s3://bucket#S3CR3T", "s3://bucket?%zz", "s3://bucket?endpoint=h&region=S3CR3T",
	} {
		_, err := ParseAddress(bad)
		if e, ok := errors.AsType[*fault.Error](err); !ok || e.Kind != fault.Invalid || e.Remedy == "" || strings.Contains(err.Error(), "S3CR3T") {
			t.Errorf("%q gave %v", bad, err)
		}
	}
}

// answer is a server that gives one answer to everything.
func answer(status int, body string) roundTripper {
	return func(r *http.Request, _ http.RoundTripper) (*http.Response, error) {
		if r.Body != nil {
			_, _ = io.Copy(io.Discard, r.Body)
		}
		return &http.Response{
			Status: http.StatusText(status), StatusCode: status, Header: http.Header{"Content-Type": {"application/xml"}},
			Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)), Request: r,
		}, nil
	}
}

func TestEachTroubleHasItsSentence(t *testing.T) {
	t.Parallel()
	server := buckettest.New(t)
	xml := func(code string) string {
		return "<Error><Code>" + code + "</Code><Message>m</Message><Region>eu-north-1</Region></Error>"
	}
	for want, faults := range map[string][]roundTripper{
		"bucket_missing":     {answer(404, xml("NoSuchBucket"))},
		"bucket_denied":      {answer(403, xml("AccessDenied")), answer(401, "")},
		"bucket_key":         {answer(403, xml("InvalidAccessKeyId"))},
		"bucket_secret":      {answer(403, xml("SignatureDoesNotMatch"))},
		"bucket_token":       {answer(400, xml("ExpiredToken"))},
		"bucket_clock":       {answer(403, xml("RequestTimeTooSkewed"))},
		"bucket_region":      {answer(400, xml("AuthorizationHeaderMalformed")), answer(301, xml("PermanentRedirect"))},
		"bucket_busy":        {answer(503, xml("SlowDown")), answer(429, "")},
		"disk_full":          {answer(403, xml("QuotaExceeded")), answer(507, xml("XMinioStorageFull"))},
		"bucket_protocol":    {answer(405, "<html>not here</html>")},
		"bucket_unreachable": {answer(500, xml("InternalError")), failing(&net.DNSError{Err: "no such host"}), failing(errors.New("connection refused"))},
		"bucket_certificate": {failing(&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}), failing(x509.HostnameError{Certificate: &x509.Certificate{}})},
	} {
		for i, f := range faults {
			t.Run(fmt.Sprint(want, " ", i), func(t *testing.T) {
				t.Parallel()
				sentence(t, open(t, server, f), want)
			})
		}
	}
}

// sentence holds what every use of b gives against a code.
func sentence(t *testing.T, b *Bucket, want string) {
	_, putErr := b.Put(t.Context(), "k", bytes.NewReader(noise(10)))
	_, readErr := b.Open(t.Context(), "k")
	listErr := b.Each(t.Context(), "", func(Info) error { return nil })
	for what, err := range map[string]error{"Put": putErr, "Open": readErr, "Each": listErr} {
		e, ok := errors.AsType[*fault.Error](err)
		if !ok || e.Code != want || e.Kind != fault.Unavailable || e.Public == "" || e.Remedy == "" || strings.Contains(err.Error(), buckettest.Secret) {
			t.Errorf("%s gave %v; want %s", what, err, want)
		}
	}
}

func failing(err error) roundTripper {
	return func(*http.Request, http.RoundTripper) (*http.Response, error) { return nil, err }
}

func TestBusyServersAreAskedAgain(t *testing.T) {
	t.Parallel()
	server := buckettest.New(t)
	n := 0
	slow := answer(503, "<Error><Code>SlowDown</Code></Error>")
	b := open(t, server, func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
		if n++; n%2 == 1 {
			return slow(r, next)
		}
		return next.RoundTrip(r)
	})
	data := noise(partSize + 10)
	put(t, b, "k", data)
	if got, err := read(t, b, "k"); err != nil || !bytes.Equal(got, data) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
}

func TestServerThatIsDown(t *testing.T) {
	t.Parallel()
	server := buckettest.New(t)
	b := open(t, server, nil)
	put(t, b, "k", noise(2<<20))
	r, err := b.Open(t.Context(), "k")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	server.CloseClientConnections()
	server.Close()
	if _, err := io.ReadAll(r); code(err) != "bucket_unreachable" {
		t.Errorf("a read in its middle gave %v", err)
	}
	if _, err := b.Open(t.Context(), "k"); code(err) != "bucket_unreachable" {
		t.Errorf("Open gave %v", err)
	}
}
