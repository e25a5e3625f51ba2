package bucket

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/ahelme/comfyume/internal/fault"
)

// busyFor is when a server that said "slow down" is asked again.
const busyFor = 5 * time.Second

// trouble is what an error of the library means to an operator. The end of ctx comes back as its cause.
func (b *Bucket) trouble(ctx context.Context, what string, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if _, known := errors.AsType[*fault.Error](err); known || errors.Is(err, ErrMissing) {
		return err
	}
	err = fmt.Errorf("%s: %w", what, err)
	if e, ok := errors.AsType[minio.ErrorResponse](err); ok && (e.Code != "" || e.StatusCode != 0) {
		return b.answered(err, e)
	}
	return b.unanswered(err)
}

// answered is the server's own refusal.
func (b *Bucket) answered(cause error, e minio.ErrorResponse) error {
	a := b.address
	fail := func(code, format string, args ...any) *fault.Error {
		return fault.Wrap(fault.Unavailable, cause, format, args...).WithCode(code)
	}
	switch code := e.Code; {
	case code == "NoSuchKey", code == "NoSuchUpload":
		return fmt.Errorf("%w: %w", ErrMissing, cause)
	case code == "NoSuchBucket":
		return fail("bucket_missing", "There is no bucket %s at %s.", a.Bucket, a.Endpoint).
			WithRemedy("Make it, or correct its name or the endpoint in the settings.")
	case code == "InvalidAccessKeyId":
		return fail("bucket_key", "%s does not know the access key for the bucket %s.", a.Endpoint, a.Bucket).
			WithRemedy("See that AWS_ACCESS_KEY_ID, or what key= refers to, is a key of this endpoint and was not revoked.")
	case code == "SignatureDoesNotMatch":
		return fail("bucket_secret", "The secret key for the bucket %s is wrong.", a.Bucket).
			WithRemedy("Compare AWS_SECRET_ACCESS_KEY, or what secret= refers to; a proxy that changes the Host header gives the same error.")
	case code == "ExpiredToken", code == "InvalidToken":
		return fail("bucket_token", "The session token for the bucket %s has expired.", a.Bucket).
			WithRemedy("Set a new AWS_SESSION_TOKEN, or use keys that do not expire, and start again.")
	case code == "RequestTimeTooSkewed", code == "RequestExpired":
		return fail("bucket_clock", "The clock of this machine differs too much from that of %s.", a.Endpoint).
			WithRemedy("Set it: timedatectl set-ntp true. Compare with: curl -sI https://%s | grep -i ^date", a.Endpoint)
	case code == "AuthorizationHeaderMalformed", code == "PermanentRedirect", code == "InvalidRegion", code == "TemporaryRedirect",
		e.StatusCode == http.StatusMovedPermanently, e.StatusCode == http.StatusTemporaryRedirect:
		where := "another region"
		if regionName.MatchString(e.Region) {
			where = "the region " + e.Region
		}
		return fail("bucket_region", "The bucket %s is in %s, and was asked for in %q.", a.Bucket, where, a.Region).
			WithRemedy("Add region=… to its address, and see that the endpoint is that region's.")
	case full(code), e.StatusCode == http.StatusInsufficientStorage:
		return fail("disk_full", "The bucket %s is full.", a.Bucket).
			WithRemedy("Raise its quota or delete what is not needed; nothing that was stored is lost.")
	case busy(code), e.StatusCode == http.StatusTooManyRequests, e.StatusCode == http.StatusServiceUnavailable:
		f := fail("bucket_busy", "%s asks for fewer requests just now.", a.Endpoint).WithRemedy("Wait; it is tried again.")
		f.RetryAfter = busyFor
		return f
	case code == "AccessDenied", e.StatusCode == http.StatusForbidden, e.StatusCode == http.StatusUnauthorized, code == "AllAccessDisabled":
		return fail("bucket_denied", "The key may not do that in the bucket %s.", a.Bucket).
			WithRemedy("Allow it to list the bucket, and to get, put and delete objects%s.", below(a.Prefix))
	case e.StatusCode == http.StatusNotFound:
		return fmt.Errorf("%w: %w", ErrMissing, cause)
	case e.StatusCode >= 500, code == "InternalError":
		f := fail("bucket_unreachable", "%s has trouble of its own.", a.Endpoint).WithRemedy("Wait, and look at its status page.")
		f.RetryAfter = busyFor
		return f
	}
	return fail("bucket_protocol", "%s did not take a request for the bucket %s.", a.Endpoint, a.Bucket).
		WithRemedy("See that the endpoint is that of an S3 server and not of its console; the log has its answer.")
}

func below(prefix string) string {
	if prefix == "" {
		return ""
	}
	return " below " + prefix + "/"
}

func full(code string) bool {
	switch code {
	case "QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientCapacity", "ServiceQuotaExceeded":
		return true
	}
	return false
}

func busy(code string) bool {
	switch code {
	case "SlowDown", "SlowDownRead", "SlowDownWrite", "TooManyRequests", "Throttling", "ThrottlingException", "RequestLimitExceeded",
		"ServiceUnavailable", "RequestThrottled", "Busy":
		return true
	}
	return false
}

// unanswered is trouble on the way.
func (b *Bucket) unanswered(cause error) error {
	a := b.address
	fail := func(code, format string, args ...any) *fault.Error {
		f := fault.Wrap(fault.Unavailable, cause, format, args...).WithCode(code)
		f.RetryAfter = busyFor
		return f
	}
	_, unknown := errors.AsType[x509.UnknownAuthorityError](cause)
	_, name := errors.AsType[x509.HostnameError](cause)
	_, invalid := errors.AsType[x509.CertificateInvalidError](cause)
	if unknown || name || invalid {
		return fail("bucket_certificate", "The certificate of %s is not to be trusted.", a.Endpoint).
			WithRemedy("Use a name that it is made out for, install its authority on this machine (update-ca-certificates), and check the clock.")
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](cause); ok || strings.Contains(cause.Error(), "HTTP response to HTTPS client") {
		return fail("bucket_protocol", "%s does not speak https.", a.Endpoint).
			WithRemedy("Write endpoint=http://%s if it is meant to be without encryption.", a.Endpoint)
	}
	if _, ok := errors.AsType[*net.DNSError](cause); ok {
		return fail("bucket_unreachable", "The name %s leads to no address.", a.Endpoint).
			WithRemedy("Correct the endpoint in the settings, or see to this machine's name service.")
	}
	return fail("bucket_unreachable", "%s does not answer.", a.Endpoint).
		WithRemedy("See that it is up and reachable from this machine; what waits for it is tried again.")
}
