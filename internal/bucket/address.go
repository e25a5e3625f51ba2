package bucket

import (
	"net"
	"net/url"
	"os"
	"regexp"
	"strings"

	"github.com/ahelme/comfyume/internal/fault"
)

// Address is a bucket and where it is: s3://BUCKET/PREFIX?endpoint=HOST. What may be asked for beside endpoint:
//
//   - region: as the provider calls it; AWS_REGION, else us-east-1 where an endpoint is named, else the provider is asked
//   - key, secret: where the access key and its secret are, as env:NAME or file:PATH; AWS_ACCESS_KEY_ID and
//     AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN) of the environment where they are not named
//
// The endpoint is a host with or without a port, spoken to by https; http://HOST:PORT is taken too. Without one it is
// Amazon's.
type Address struct {
	Bucket   string
	Prefix   string // without slashes at its ends; may be empty
	Endpoint string // host, or host:port
	Plain    bool   // http
	Region   string // empty: ask

	key, secret string // references
}

var (
	bucketName = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)
	prefixName = regexp.MustCompile(`^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*$`)
)

const amazon = "s3.amazonaws.com"

// ParseAddress reads an address. Its text never comes back in an error: somebody may have written a key into it.
func ParseAddress(address string) (Address, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "s3" || u.Opaque != "" || u.Fragment != "" {
		return Address{}, wrongAddress("It is no address of a bucket.")
	}
	if u.User != nil {
		return Address{}, wrongAddress("Keys do not belong into it.")
	}
	a := Address{Bucket: u.Host, Prefix: strings.Trim(u.Path, "/"), Endpoint: amazon}
	if !bucketName.MatchString(a.Bucket) {
		return Address{}, wrongAddress("The bucket's name is not 3 to 63 lower-case letters, digits, . and -.")
	}
	if a.Prefix != "" && (!prefixName.MatchString(a.Prefix) || strings.Contains("/"+a.Prefix+"/", "/../") || strings.Contains("/"+a.Prefix+"/", "/./")) {
		return Address{}, wrongAddress("The prefix behind the bucket is not made of letters, digits, _ . - and single slashes.")
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return Address{}, wrongAddress("What is behind the ? can't be read.")
	}
	for name, values := range query {
		if len(values) != 1 || values[0] == "" {
			return Address{}, wrongAddress("Each of endpoint, region, key and secret is given once, with a value.")
		}
		if err := a.set(name, values[0]); err != nil {
			return Address{}, err
		}
	}
	if (a.key == "") != (a.secret == "") {
		return Address{}, wrongAddress("key and secret go together.")
	}
	if a.Region == "" {
		a.Region = os.Getenv("AWS_REGION")
	}
	if a.Region == "" && a.Endpoint != amazon {
		a.Region = "us-east-1" // what servers other than Amazon's take, whatever they call theirs
	}
	return a, nil
}

var regionName = regexp.MustCompile(`^[a-z0-9-]{1,40}$`)

func (a *Address) set(name, value string) error {
	switch name {
	case "endpoint":
		return a.setEndpoint(value)
	case "region":
		if !regionName.MatchString(value) {
			return wrongAddress("The region is not made of lower-case letters, digits and -.")
		}
		a.Region = value
	case "key", "secret":
		kind, at, ok := strings.Cut(value, ":")
		if !ok || at == "" || kind != "env" && kind != "file" {
			return wrongAddress("A key is never written in clear: write %s=env:NAME or %s=file:PATH.", name, name)
		}
		if name == "key" {
			a.key = value
		} else {
			a.secret = value
		}
	default:
		return wrongAddress("Behind the ? stand endpoint, region, key and secret, and nothing else.")
	}
	return nil
}

func (a *Address) setEndpoint(value string) error {
	if !strings.Contains(value, "://") {
		value = "https://" + value
	}
	u, err := url.Parse(value)
	if err != nil || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil ||
		strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return wrongAddress("The endpoint is a host such as s3.example.com or http://127.0.0.1:9000, without a path.")
	}
	if _, _, err := net.SplitHostPort(u.Host); err != nil && strings.HasSuffix(u.Host, ":") {
		return wrongAddress("The endpoint's port is missing.")
	}
	a.Endpoint, a.Plain = u.Host, u.Scheme == "http"
	return nil
}

func wrongAddress(format string, args ...any) error {
	return fault.New(fault.Invalid, format, args...).WithCode("bucket_address").
		WithRemedy("Write s3://bucket/prefix?endpoint=HOST, with the keys in the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY).")
}

// String returns the bucket and prefix, for logs and people.
func (a Address) String() string {
	s := "s3://" + a.Bucket
	if a.Prefix != "" {
		s += "/" + a.Prefix
	}
	return s + " at " + a.Endpoint
}

// keys reads the access key, its secret and a session token.
func (a Address) keys() (key, secret, token string, err error) {
	if a.key == "" {
		key, secret, token = os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY"), os.Getenv("AWS_SESSION_TOKEN")
		if key == "" || secret == "" {
			return "", "", "", fault.New(fault.Invalid, "There are no keys for the bucket %s.", a.Bucket).WithCode("bucket_keys").
				WithRemedy("Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, or add key=env:NAME&secret=file:PATH to its address.")
		}
		return key, secret, token, nil
	}
	if key, err = reveal(a.key); err == nil {
		secret, err = reveal(a.secret)
	}
	if err != nil {
		return "", "", "", fault.Wrap(fault.Invalid, err, "The keys for the bucket %s can't be read.", a.Bucket).WithCode("bucket_keys").
			WithRemedy("Set what key and secret in its address refer to, for the account that runs this program.")
	}
	return key, secret, "", nil
}

// reveal reads what env:NAME or file:PATH refers to.
func reveal(ref string) (string, error) {
	kind, at, _ := strings.Cut(ref, ":")
	text := os.Getenv(at)
	if kind == "file" {
		b, err := os.ReadFile(at)
		if err != nil {
			return "", err
		}
		text = strings.TrimSpace(string(b))
	}
	if text == "" {
		return "", fault.New(fault.Invalid, "%s is empty or not set.", ref)
	}
	return text, nil
}
