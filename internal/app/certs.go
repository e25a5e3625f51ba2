package app

import (
	"context"
	"net"
	"net/url"
	"path/filepath"
	"strconv"

	"github.com/ahelme/comfyume/internal/tlscert"
)

// certificates makes ready what encrypts the main door; nothing in mode off.
func (s *Studio) certificates(ctx context.Context) (err error) {
	t := s.cfg.TLS
	o := tlscert.Options{
		Mode: t.Mode, Cert: t.Cert, Key: t.Key, Domain: t.Domain, Mail: t.Mail,
		Folder: filepath.Join(s.cfg.Data, "tls"), Log: s.log,
	}
	host, port, err := net.SplitHostPort(s.cfg.Listen)
	if err != nil {
		return err
	}
	if o.Port, err = strconv.Atoi(port); err != nil {
		return err
	}
	if host != "" {
		o.Names = append(o.Names, host)
	}
	if u, err := url.Parse(s.cfg.PublicURL); err == nil && u.Hostname() != "" {
		o.Names = append(o.Names, u.Hostname())
	}
	if s.certs, err = tlscert.Open(ctx, o); err != nil {
		return err
	}
	s.parts.add("certificates", func(context.Context) error { s.certs.Close(); return nil })
	return nil
}
