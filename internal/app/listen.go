package app

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
)

// longestSocket is the longest path a socket may have on every system, its closing zero included.
const longestSocket = 104

// SocketPath returns where the control socket of a data folder is: in the folder, or where that path would be too
// long for a socket, under a short name in runtimeDir ($XDG_RUNTIME_DIR), else in a folder of this account among the
// temporary ones.
func SocketPath(data, runtimeDir string) (string, error) {
	data, err := filepath.Abs(data)
	if err != nil {
		return "", err
	}
	if real, err := filepath.EvalSymlinks(data); err == nil {
		data = real
	}
	if path := filepath.Join(data, "control.sock"); len(path) < longestSocket {
		return path, nil
	}
	if runtimeDir == "" {
		runtimeDir = filepath.Join(os.TempDir(), "comfyume-"+strconv.Itoa(os.Geteuid()))
	}
	sum := sha256.Sum256([]byte(data))
	return filepath.Join(runtimeDir, "comfyume-"+hex.EncodeToString(sum[:8])+".sock"), nil
}

// SocketIsOurs reports whether a server of this account listens at the path: another account's must not be told
// passwords.
func SocketIsOurs(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode().Type() == os.ModeSocket && owned(info)
}

// listenControl opens the control socket for this account only. A file that a killed server left is removed first:
// whoever holds the folder's lock is alone.
func listenControl(path string) (net.Listener, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, socketTrouble(path, err)
	}
	if info, err := os.Lstat(dir); err != nil || !info.IsDir() && info.Mode().Type() != os.ModeSymlink || !owned(info) {
		return nil, socketTrouble(path, errors.Join(err, errors.New("its folder belongs to another account")))
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, socketTrouble(path, err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, socketTrouble(path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(socketTrouble(path, err), l.Close())
	}
	return l, nil
}

// answers reports whether a server of this account listens at the path.
func answers(path string) bool {
	if !SocketIsOurs(path) {
		return false
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err != nil {
		return false
	}
	return c.Close() == nil
}

func socketTrouble(path string, err error) error {
	return fault.Wrap(fault.Unavailable, err, "The control socket %s can't be opened.", path).
		WithRemedy("Make its folder writable for this account, or set XDG_RUNTIME_DIR to one that is.")
}

// listen opens a port.
func listen(setting, address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	switch {
	case err == nil:
		return l, nil
	case errors.Is(err, syscall.EADDRINUSE), strings.Contains(err.Error(), "Only one usage of each socket address"):
		return nil, fault.Wrap(fault.Conflict, err, "The address %s (%s) is taken by another program.", address, setting).
			WithCode("port_taken").WithRemedy("Stop that program, or choose another address: --%s HOST:PORT", setting)
	case errors.Is(err, syscall.EACCES):
		return nil, fault.Wrap(fault.Denied, err, "This account may not open %s (%s).", address, setting).
			WithRemedy("Choose a port from 1024 on: --%s HOST:PORT", setting)
	default:
		return nil, fault.Wrap(fault.Unavailable, err, "The address %s (%s) can't be opened.", address, setting).
			WithRemedy("See whether it is an address of this machine, or choose another one: --%s HOST:PORT", setting)
	}
}

// requestsWithin is how long requests have to end when the studio stops.
const requestsWithin = 4 * time.Second

// serveOn answers requests that come in on a listener until the studio stops. Uploads, downloads and sockets take as
// long as they take; only headers and silence are bounded here.
func (p *parts) serveOn(name string, l net.Listener, h http.Handler, encrypted *tls.Config, log *slog.Logger) {
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 15 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		TLSConfig:         encrypted,
		ErrorLog:          slog.NewLogLogger(log.With("part", name).Handler(), slog.LevelDebug),
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		var err error
		if encrypted != nil {
			err = srv.ServeTLS(l, "", "")
		} else {
			err = srv.Serve(l)
		}
		if !errors.Is(err, http.ErrServerClosed) {
			p.fail(err)
		}
	}()
	p.add(name, func(deadline context.Context) error {
		polite, cancel := context.WithTimeout(deadline, requestsWithin)
		defer cancel()
		err := srv.Shutdown(polite)
		if errors.Is(err, context.DeadlineExceeded) {
			err = srv.Close() // an upload that stands still must not hold up everything else
		}
		<-ended
		return err
	})
}

// loopback reports whether only this machine can reach the address.
func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}
