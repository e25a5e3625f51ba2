package tlscert

import (
	"crypto/tls"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
)

// lookEvery is how often the files are looked at for a new certificate, while somebody connects.
const lookEvery = 10 * time.Second

// fromFiles gives the certificate of two files, and the new one after they changed.
type fromFiles struct {
	cert, key string
	log       *slog.Logger

	mu     sync.Mutex
	now    *tls.Certificate
	stamp  [2]time.Time
	looked time.Time
}

func openFiles(o Options) (*Source, error) {
	f := &fromFiles{cert: o.Cert, key: o.Key, log: o.Log}
	var err error
	if f.stamp, err = f.stamps(); err == nil {
		f.now, err = f.load()
	}
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "The certificate of tls.cert and tls.key can't be used.").
			WithRemedy("Name a PEM file with the certificate and its chain, and one with its private key, both readable for the studio.")
	}
	f.looked = time.Now()
	return &Source{config: base(f.get)}, nil
}

func (f *fromFiles) stamps() (s [2]time.Time, err error) {
	for n, name := range []string{f.cert, f.key} {
		info, err := os.Stat(name)
		if err != nil {
			return s, err
		}
		s[n] = info.ModTime()
	}
	return s, nil
}

func (f *fromFiles) load() (*tls.Certificate, error) {
	c, err := tls.LoadX509KeyPair(f.cert, f.key)
	return &c, err
}

// get returns the certificate. One that can't be read, such as half of a pair that is being replaced, leaves the
// last good one in use.
func (f *fromFiles) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Since(f.looked) < lookEvery {
		return f.now, nil
	}
	f.looked = time.Now()
	stamp, err := f.stamps()
	if err == nil && stamp == f.stamp {
		return f.now, nil
	}
	var next *tls.Certificate
	if err == nil {
		next, err = f.load()
	}
	if err != nil {
		f.log.Warn("read the new certificate; the last one stays in use", "err", err)
		return f.now, nil
	}
	f.log.Info("the certificate was replaced", "until", next.Leaf.NotAfter)
	f.now, f.stamp = next, stamp
	return f.now, nil
}
