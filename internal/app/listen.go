package app

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"

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

// Selective reports whether the public listener of a configuration speaks only to
// peers that bring something this machine does not have.
func Selective(c *config.Config) bool {
	return c.ProxyProtocol || c.TLS != nil && c.TLS.ClientCA != ""
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
