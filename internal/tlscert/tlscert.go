// Package tlscert brings the studio's certificates: from files, from an authority on the internet by ACME, or from an
// authority of the studio's own whose certificate people install once.
package tlscert

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"

	"github.com/ahelme/comfyume/internal/fault"
)

// The modes.
const (
	Off   = "off"
	Files = "files"
	ACME  = "acme"
	Self  = "self"
)

// Options say where certificates come from.
type Options struct {
	Mode string
	Cert string // files: certificate chain, PEM
	Key  string // files: private key, PEM

	Domain string // acme: the name that the certificate is for
	Mail   string // acme: where the authority may write to
	Port   int    // acme: where the studio listens; 0: 443

	Folder string   // acme, self: where certificates and keys are kept
	Names  []string // self: names and addresses by which people reach the studio, beside those of the machine

	Log *slog.Logger // nil: discarded

	// For tests and private authorities: where the ACME directory is, and whom to trust there. Empty: Let's Encrypt.
	Directory string
	Roots     *x509.CertPool
}

// Source gives certificates to a listener. It is safe for concurrent use.
type Source struct {
	config    *tls.Config
	authority []byte
	start     func() error
	stop      func()
}

// Open prepares certificates. For files and self they are ready when it returns; ACME begins with Start and goes on
// in the background, so that a studio starts while the authority is away.
func Open(ctx context.Context, o Options) (*Source, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	switch o.Mode {
	case Off, "":
		return &Source{}, nil
	case Files:
		return openFiles(o)
	case ACME:
		return openACME(ctx, o)
	case Self:
		return openSelf(o)
	default:
		return nil, fault.New(fault.Invalid, "tls.mode: there is no mode “%s”.", o.Mode).
			WithRemedy("Use off, files, acme or self.")
	}
}

// TLS returns the configuration for a listener; nil means no encryption.
func (s *Source) TLS() *tls.Config { return s.config }

// Start begins what has to wait until the port is open: ACME proves by it that the studio is there. It does nothing
// in the other modes.
func (s *Source) Start() error {
	if s.start == nil {
		return nil
	}
	if err := s.start(); err != nil {
		return fault.Wrap(fault.Unavailable, err, "Certificates can't be managed.").
			WithRemedy("Look at the rights of the folder for certificates in the data folder.")
	}
	return nil
}

// Authority returns the certificate of the studio's own authority, PEM; nil where there is none.
func (s *Source) Authority() []byte { return s.authority }

// Close ends work in the background.
func (s *Source) Close() {
	if s.stop != nil {
		s.stop()
	}
}

func base(get func(*tls.ClientHelloInfo) (*tls.Certificate, error)) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, GetCertificate: get}
}
