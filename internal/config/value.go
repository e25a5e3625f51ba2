package config

import (
	"fmt"
	"log/slog"
	"math"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Size is a number of bytes, written as 512MB or 10GB.
type Size int64

// The units of sizes. They are the decimal ones, as disks are sold; KiB, MiB, GiB and TiB are read too.
const (
	KB Size = 1000
	MB      = 1000 * KB
	GB      = 1000 * MB
	TB      = 1000 * GB
)

var units = []struct {
	word string
	size Size
}{
	{"TiB", 1 << 40},
	{"TB", TB},
	{"GiB", 1 << 30},
	{"GB", GB},
	{"MiB", 1 << 20},
	{"MB", MB},
	{"KiB", 1 << 10},
	{"KB", KB},
	{"B", 1},
}

// ParseSize reads a size such as 512MB, 1.5 GiB or 4096.
func ParseSize(s string) (Size, error) {
	number, factor := strings.TrimSpace(s), Size(1)
	for _, u := range units {
		if n := len(number) - len(u.word); n > 0 && strings.EqualFold(number[n:], u.word) {
			number, factor = strings.TrimSpace(number[:n]), u.size
			break
		}
	}
	if whole, err := strconv.ParseInt(number, 10, 64); err == nil {
		if whole < 0 || whole > math.MaxInt64/int64(factor) {
			return 0, fmt.Errorf("%q is no size between 0 and 8 EiB; write one such as 512MB or 10GB", s)
		}
		return Size(whole) * factor, nil
	}
	f, err := strconv.ParseFloat(number, 64)
	if err != nil || math.IsNaN(f) {
		return 0, fmt.Errorf("%q is not a size such as 512MB or 10GB", s)
	}
	if f < 0 || f*float64(factor) >= math.MaxInt64 {
		return 0, fmt.Errorf("%q is no size between 0 and 8 EiB; write one such as 512MB or 10GB", s)
	}
	return Size(f * float64(factor)), nil
}

// String returns the size in the unit that leaves the shortest whole number.
func (s Size) String() string {
	best := strconv.FormatInt(int64(s), 10)
	shortest := s
	for _, u := range slices.Backward(units) {
		if n := s / u.size; u.size > 1 && s%u.size == 0 && n > 0 && n < shortest {
			best, shortest = strconv.FormatInt(int64(n), 10)+u.word, n
		}
	}
	return best
}

// Duration is a length of time, written as 30s, 45m, 2h, 7d or 1d12h.
type Duration time.Duration

const day = 24 * time.Hour

// ParseDuration reads a length of time that is not negative.
func ParseDuration(s string) (Duration, error) {
	text, whole := strings.TrimSpace(s), time.Duration(0)
	wrong := fmt.Errorf("%q is not a length of time such as 30s, 45m, 2h or 7d", s)
	if days, rest, found := strings.Cut(text, "d"); found {
		n, err := strconv.ParseUint(days, 10, 32)
		if err != nil {
			return 0, wrong
		}
		if n > uint64(math.MaxInt64/day) {
			return 0, fmt.Errorf("%q is longer than 292 years; write a length of time such as 30s, 45m, 2h or 7d", s)
		}
		whole, text = time.Duration(n)*day, rest //nolint:gosec // checked above
		if rest == "" {
			return Duration(whole), nil
		}
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0, wrong
	}
	if d > math.MaxInt64-whole {
		return 0, fmt.Errorf("%q is longer than 292 years; write a length of time such as 30s, 45m, 2h or 7d", s)
	}
	return Duration(whole + d), nil
}

// String returns the length of time in a form that ParseDuration reads back to the same.
func (d Duration) String() string {
	days, rest := time.Duration(d)/day, time.Duration(d)%day
	text := ""
	if days > 0 {
		text = strconv.FormatInt(int64(days), 10) + "d"
	}
	if rest == 0 && text != "" {
		return text
	}
	small := rest.String() // 1h0m0s
	if cut, ok := strings.CutSuffix(small, "m0s"); ok {
		small = cut + "m"
	}
	if cut, ok := strings.CutSuffix(small, "h0m"); ok {
		small = cut + "h"
	}
	if small == "0s" {
		small = "0"
	}
	return text + small
}

// Address is where something is. A password in it is not printed.
type Address string

// redis reports whether it is the address of a Redis.
func (a Address) redis() bool {
	return strings.HasPrefix(string(a), "redis://") || strings.HasPrefix(string(a), "rediss://") || strings.HasPrefix(string(a), "unix://")
}

// String returns the address without its password.
func (a Address) String() string {
	u, err := url.Parse(string(a))
	if err != nil {
		return "***"
	}
	return u.Redacted()
}

// LogValue implements slog.LogValuer.
func (a Address) LogValue() slog.Value { return slog.StringValue(a.String()) }

// Secret refers to something that must not stand in a file: env:NAME or file:PATH. It prints as ***.
type Secret struct{ ref string }

// ParseSecret reads a reference. The text itself never comes back in an error: it may be the secret.
func ParseSecret(s string) (Secret, error) {
	kind, name, ok := strings.Cut(s, ":")
	if s == "" {
		return Secret{}, nil
	}
	if !ok || name == "" || kind != "env" && kind != "file" {
		return Secret{}, fmt.Errorf("a secret is never written in clear; write env:NAME or file:PATH")
	}
	return Secret{ref: s}, nil
}

// IsSet reports whether there is a reference.
func (s Secret) IsSet() bool { return s.ref != "" }

// Reference returns where the secret is, which is no secret.
func (s Secret) Reference() string { return s.ref }

// Reveal returns the secret itself.
func (s Secret) Reveal() (string, error) {
	kind, name, _ := strings.Cut(s.ref, ":")
	switch kind {
	case "env":
		v, ok := os.LookupEnv(name)
		if !ok || v == "" {
			return "", fmt.Errorf("the environment has no %s", name)
		}
		return v, nil
	case "file":
		b, err := os.ReadFile(name)
		if err != nil {
			return "", fmt.Errorf("reading the secret: %w", err)
		}
		return strings.TrimRight(string(b), "\r\n"), nil
	default:
		return "", nil
	}
}

// String hides the secret.
func (s Secret) String() string {
	if s.ref == "" {
		return ""
	}
	return "***"
}

// GoString hides the secret from %#v.
func (s Secret) GoString() string { return s.String() }

// LogValue hides the secret in logs.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText hides the secret in JSON and YAML.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
