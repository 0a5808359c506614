package app

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/config"
)

// listenAdmin opens the admin socket. We hold the folder's lock, so a socket
// that is there is a leftover; the folder is ours alone, so there is no moment
// at which somebody else could connect.
func listenAdmin(ctx context.Context, path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("admin socket: %w", err)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("admin socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("admin socket: %w", err)
	}
	return l, nil
}

func listenPublic(ctx context.Context, addr string) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w; is another program there? choose another listen address", addr, err)
	}
	return l, nil
}

// certificate is the public listener's certificate, read again when its files
// change.
type certificate struct {
	certFile, keyFile string

	mu      sync.Mutex
	current *tls.Certificate
	stamp   [2]time.Time
	checked time.Time
}

// recheck is how often the files are looked at.
const recheck = time.Second

func loadCertificate(c *config.TLS) (*certificate, error) {
	t := &certificate{certFile: c.Cert, keyFile: c.Key}
	return t, t.reload()
}

// reload reads the files now. A bad pair leaves the one in use.
func (t *certificate) reload() error {
	stamp, err := t.modified()
	if err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(t.certFile, t.keyFile)
	if err != nil {
		return fmt.Errorf("certificate %s: %w", t.certFile, err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.current, t.stamp = &pair, stamp
	return nil
}

// replace takes over what another one, of the same files, has read.
func (t *certificate) replace(by *certificate) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.current, t.stamp = by.current, by.stamp
}

func (t *certificate) modified() (stamp [2]time.Time, err error) {
	for i, name := range []string{t.certFile, t.keyFile} {
		info, err := os.Stat(name)
		if err != nil {
			return stamp, fmt.Errorf("certificate: %w", err)
		}
		stamp[i] = info.ModTime()
	}
	return stamp, nil
}

func (t *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	t.mu.Lock()
	now := time.Now()
	look := now.Sub(t.checked) >= recheck
	if look {
		t.checked = now
	}
	current, old := t.current, t.stamp
	t.mu.Unlock()
	if !look {
		return current, nil
	}
	// A pair that is half written fails to load; the next look tries again.
	if stamp, err := t.modified(); err == nil && stamp != old && t.reload() == nil {
		t.mu.Lock()
		current = t.current
		t.mu.Unlock()
	}
	return current, nil
}

// tlsConfig allows TLS 1.2 and 1.3 with forward secrecy only.
func tlsConfig(cert *certificate) *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: cert.get,
		NextProtos:     []string{"h2", "http/1.1"},
		CipherSuites: []uint16{ // of TLS 1.2; those of 1.3 are all good
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
	}
}

// LocalURL is how this machine reaches the public listener of a configuration:
// the address, the Host to send, and a transport that accepts the certificate
// for that name.
func LocalURL(c *config.Config) (url, host string, transport http.RoundTripper) {
	listenHost, port, _ := net.SplitHostPort(c.Listen)
	if ip := net.ParseIP(listenHost); listenHost == "" || (ip != nil && ip.IsUnspecified()) {
		listenHost = "127.0.0.1"
	}
	scheme := "http"
	if c.TLS != nil {
		scheme = "https"
	}
	return scheme + "://" + net.JoinHostPort(listenHost, port), c.PublicURL.Host,
		&http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.PublicURL.Hostname()}}
}
