package tlscert

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
)

const (
	authorityLife = 10 * 365 * 24 * time.Hour
	leafLife      = 200 * 24 * time.Hour // browsers refuse leaves that live long
	leafRenew     = 60 * 24 * time.Hour
)

// authority is the studio's own: a key that never leaves the data folder, and a certificate that people install.
// Its name constraints bound it to private networks and the studio's own names, so that even who steals the key
// can't pretend to be a bank towards the people who trust it.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

// bySelf gives certificates of the authority, made when they are needed and kept in memory only.
type bySelf struct {
	ca   *authority
	log  *slog.Logger
	list []string // names and addresses

	mu   sync.Mutex
	leaf *tls.Certificate
}

func openSelf(o Options) (*Source, error) {
	names := ownNames(o.Names)
	ca, err := openAuthority(o.Folder, names, o.Log)
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, err, "The studio's own certificate authority can't be read or made.").
			WithRemedy("Look at the rights of the folder %s.", o.Folder)
	}
	s := &bySelf{ca: ca, log: o.Log, list: names}
	if _, err := s.get(nil); err != nil {
		return nil, err
	}
	return &Source{config: base(s.get), authority: ca.pem}, nil
}

// ownNames returns by which names and addresses the machine may be reached.
func ownNames(more []string) []string {
	names := []string{"localhost", "127.0.0.1", "::1"}
	if host, err := os.Hostname(); err == nil && host != "" {
		host = strings.ToLower(host)
		names = append(names, host)
		if !strings.Contains(host, ".") {
			names = append(names, host+".local")
		}
	}
	addresses, err := net.InterfaceAddrs()
	if err == nil { // without them there are the others
		for _, a := range addresses {
			if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLinkLocalUnicast() {
				names = append(names, p.Addr().Unmap().String())
			}
		}
	}
	for _, n := range more {
		if n = strings.ToLower(strings.Trim(n, "[] ")); n != "" {
			if a, err := netip.ParseAddr(n); err == nil && a.IsUnspecified() {
				continue
			}
			names = append(names, n)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// openAuthority reads the authority in folder, or makes one when there is none, or when the one there is over or may
// not vouch for all names.
func openAuthority(folder string, names []string, log *slog.Logger) (*authority, error) {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, err
	}
	ca, err := readAuthority(folder)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case time.Until(ca.cert.NotAfter) < leafLife:
		log.Warn("the studio's certificate authority is nearly over; a new one has to be installed in browsers")
	case !ca.mayVouch(names):
		log.Warn("the studio is reached by new names; its new certificate authority has to be installed in browsers", "names", names)
	default:
		return ca, nil
	}
	return newAuthority(folder, names)
}

func certFile(folder string) string { return filepath.Join(folder, "ca.pem") }
func keyFile(folder string) string  { return filepath.Join(folder, "ca-key.pem") }

func readAuthority(folder string) (*authority, error) {
	rawCert, err := os.ReadFile(certFile(folder))
	if err != nil {
		return nil, err
	}
	rawKey, err := os.ReadFile(keyFile(folder))
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(rawCert, rawKey)
	if err != nil {
		return nil, err
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s holds a key of another kind", keyFile(folder))
	}
	return &authority{cert: pair.Leaf, key: key, pem: rawCert}, nil
}

// privateNets are the addresses of networks of one's own.
var privateNets = []string{
	"127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10",
	"::1/128", "fc00::/7", "fe80::/10",
}

// privateNames are names nobody can own on the internet.
var privateNames = []string{"localhost", "local", "lan", "internal", "home.arpa", "test"}

func newAuthority(folder string, names []string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	at := time.Now()
	host, err := os.Hostname()
	if err != nil {
		host = "this machine"
	}
	t := &x509.Certificate{
		SerialNumber: serial(),
		Subject: pkix.Name{
			Organization: []string{"ComfyuME"}, CommonName: fmt.Sprintf("ComfyuME studio on %s, %s", host, at.Format("2 Jan 2006")),
		},
		NotBefore: at.Add(-time.Hour), NotAfter: at.Add(authorityLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage:                    x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		PermittedDNSDomainsCritical: true,
		PermittedDNSDomains:         slices.Clone(privateNames),
	}
	for _, text := range privateNets {
		_, n, err := net.ParseCIDR(text)
		if err != nil {
			return nil, err
		}
		t.PermittedIPRanges = append(t.PermittedIPRanges, n)
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			if !mayIP(t, ip) {
				bits := 8 * len(shortest(ip))
				t.PermittedIPRanges = append(t.PermittedIPRanges, &net.IPNet{IP: shortest(ip), Mask: net.CIDRMask(bits, bits)})
			}
		} else if !mayName(t, name) {
			t.PermittedDNSDomains = append(t.PermittedDNSDomains, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	rawKey, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	// The key goes first: a certificate without its key is made anew, the other way round nothing would fit.
	if err := write(keyFile(folder), "PRIVATE KEY", rawKey, 0o600); err != nil {
		return nil, err
	}
	if err := write(certFile(folder), "CERTIFICATE", der, 0o644); err != nil {
		return nil, err
	}
	return readAuthority(folder)
}

// serial returns a random number for a certificate.
func serial() *big.Int {
	var raw [16]byte
	rand.Read(raw[:])
	return new(big.Int).SetBytes(raw[:15])
}

// write replaces a file as a whole.
func write(name, kind string, der []byte, mode fs.FileMode) error {
	temp := name + ".new"
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	err = errors.Join(pem.Encode(f, &pem.Block{Type: kind, Bytes: der}), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(temp, name)
}

func shortest(ip net.IP) net.IP {
	if v4 := ip.To4(); v4 != nil {
		return v4
	}
	return ip
}

func mayIP(c *x509.Certificate, ip net.IP) bool {
	return slices.ContainsFunc(c.PermittedIPRanges, func(n *net.IPNet) bool { return n.Contains(ip) })
}

func mayName(c *x509.Certificate, name string) bool {
	return slices.ContainsFunc(c.PermittedDNSDomains, func(d string) bool { return name == d || strings.HasSuffix(name, "."+d) })
}

func (a *authority) mayVouch(names []string) bool {
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil && !mayIP(a.cert, ip) || ip == nil && !mayName(a.cert, name) {
			return false
		}
	}
	return true
}

// get returns a certificate for all names, made anew in time.
func (s *bySelf) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leaf != nil && time.Until(s.leaf.Leaf.NotAfter) > leafRenew {
		return s.leaf, nil
	}
	leaf, err := s.ca.issue(s.list)
	if err != nil {
		if s.leaf != nil {
			s.log.Warn("make a new certificate; the last one stays in use", "err", err)
			return s.leaf, nil
		}
		return nil, fmt.Errorf("make a certificate: %w", err)
	}
	s.leaf = leaf
	return leaf, nil
}

func (a *authority) issue(names []string) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	at := time.Now()
	t := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: names[0]},
		NotBefore: at.Add(-time.Hour), NotAfter: at.Add(leafLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der, a.cert.Raw}, PrivateKey: key, Leaf: leaf}, nil
}
