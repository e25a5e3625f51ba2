package tlscert

import (
	"context"
	"log/slog"
	"math"
	"slices"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/ahelme/comfyume/internal/fault"
)

// openACME has a certificate brought and renewed in the background.
func openACME(ctx context.Context, o Options) (*Source, error) {
	if o.Domain == "" {
		return nil, fault.New(fault.Invalid, "tls.domain is missing: ACME needs the name that the certificate is for.").
			WithRemedy("Set tls: {mode: acme, domain: studio.example.org, mail: you@example.org}.")
	}
	log := zap.New(&slogCore{log: o.Log})
	var config *certmagic.Config
	cache := certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return config, nil },
		Logger:           log,
	})
	config = certmagic.New(cache, certmagic.Config{
		Storage: &certmagic.FileStorage{Path: o.Folder}, Logger: log, DefaultServerName: o.Domain,
		OnEvent: func(_ context.Context, event string, data map[string]any) error {
			switch event {
			case "cert_obtained":
				o.Log.Info("a certificate was obtained", "domain", data["identifier"])
			case "cert_failed":
				o.Log.Error("no certificate was obtained; it is tried again", "domain", data["identifier"], "err", data["error"])
			}
			return nil
		},
	})
	issuer := certmagic.ACMEIssuer{
		CA: certmagic.LetsEncryptProductionCA, TestCA: certmagic.LetsEncryptStagingCA,
		Email: o.Mail, Agreed: true, Logger: log,
		// The authority connects to port 443 of the domain, which has to lead to the studio; no second port is opened.
		DisableHTTPChallenge: true, AltTLSALPNPort: o.Port,
	}
	if o.Directory != "" {
		issuer.CA, issuer.TestCA, issuer.TrustedRoots = o.Directory, o.Directory, o.Roots
	}
	config.Issuers = []certmagic.Issuer{certmagic.NewACMEIssuer(config, issuer)}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // it goes on until Close
	t := base(config.GetCertificate)
	t.NextProtos = append(t.NextProtos, config.TLSConfig().NextProtos...) // the challenge's own
	return &Source{
		config: t,
		start:  func() error { return config.ManageAsync(ctx, []string{o.Domain}) },
		stop:   func() { cancel(); cache.Stop() },
	}, nil
}

// slogCore gives what certmagic logs to the studio's log.
type slogCore struct {
	log  *slog.Logger
	with []any
}

var _ zapcore.Core = (*slogCore)(nil)

// slogLevel returns a level of ours. What certmagic calls information is a page for each certificate.
func slogLevel(l zapcore.Level) slog.Level {
	switch {
	case l < zapcore.InfoLevel:
		return slog.LevelDebug - 4
	case l == zapcore.InfoLevel:
		return slog.LevelDebug
	case l == zapcore.WarnLevel:
		return slog.LevelWarn
	default:
		return slog.LevelError
	}
}

// Enabled reports whether the log takes the level.
func (c *slogCore) Enabled(l zapcore.Level) bool {
	return c.log.Enabled(context.Background(), slogLevel(l))
}

// With returns a core that adds fields to every entry.
func (c *slogCore) With(fields []zapcore.Field) zapcore.Core {
	return &slogCore{log: c.log, with: append(slices.Clone(c.with), attributes(fields)...)}
}

// Check takes an entry that the log takes.
func (c *slogCore) Check(e zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return checked.AddCore(e, c)
	}
	return checked
}

// Write logs an entry.
func (c *slogCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	c.log.Log(context.Background(), slogLevel(e.Level), "certificate: "+e.Message,
		append(slices.Clone(c.with), attributes(fields)...)...)
	return nil
}

// Sync does nothing: the studio's log is not buffered here.
func (c *slogCore) Sync() error { return nil }

func attributes(fields []zapcore.Field) []any {
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range fields {
		f.AddTo(enc)
	}
	out := make([]any, 0, len(enc.Fields))
	for _, f := range fields {
		if v, ok := enc.Fields[f.Key]; ok {
			if n, isFloat := v.(float64); isFloat && (math.IsNaN(n) || math.IsInf(n, 0)) {
				v = "not a number"
			}
			out = append(out, slog.Any(f.Key, v))
		}
	}
	return out
}
