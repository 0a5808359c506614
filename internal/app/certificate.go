package app

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/acme"
	"github.com/wsbouncer/wsbouncer/internal/config"
)

// recheck is how often the certificate's files are looked at.
const recheck = time.Second

// certificate is what the public listener shows and asks for: its certificate and
// key, and the authorities of clients' certificates. The files are read again when
// they change; what cannot be read leaves what was read before in service.
type certificate struct {
	certFile, keyFile string
	clientCA          string // empty: clients need no certificate

	current atomic.Pointer[credentials]

	mu    sync.Mutex
	stamp [3]stamp // of the files that current was read from
	bad   string   // what the last look found wrong
	seen  int      // how often in a row
}

// credentials is what was read at one time.
type credentials struct {
	pair    *tls.Certificate
	clients *x509.CertPool
}

// stamp tells two states of a file apart.
type stamp struct {
	modified time.Time
	size     int64
}

func loadCertificate(c *config.TLS) (*certificate, error) {
	t := &certificate{certFile: c.Cert, keyFile: c.Key, clientCA: c.ClientCA}
	now, err := t.stat()
	if err != nil {
		return nil, err
	}
	return t, t.read(now)
}

// read takes the files as they are. The stamp is from before, so that a change
// meanwhile is seen at the next look.
func (t *certificate) read(now [3]stamp) error {
	var c credentials
	if t.certFile != "" {
		pair, err := tls.LoadX509KeyPair(t.certFile, t.keyFile)
		if err != nil {
			return fmt.Errorf("certificate %s with key %s: %w", t.certFile, t.keyFile, err)
		}
		c.pair = &pair
	}
	if t.clientCA != "" {
		var err error
		if c.clients, err = readAuthorities(t.clientCA); err != nil {
			return fmt.Errorf("client_ca %s: %w", t.clientCA, err)
		}
	}
	t.current.Store(&c)
	t.stamp = now
	return nil
}

// readAuthorities reads certificates in PEM and nothing else: of a file that is
// half written no part is taken.
func readAuthorities(name string) (*x509.CertPool, error) {
	rest, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	pool, n := x509.NewCertPool(), 0
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("it holds a %s; only certificates belong there", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		pool.AddCert(c)
		n++
	}
	switch {
	case n == 0:
		return nil, errors.New("it holds no certificate in PEM")
	case len(bytes.TrimSpace(rest)) > 0:
		return nil, errors.New("what follows the last certificate is none in PEM")
	}
	return pool, nil
}

// replace takes over what another one, of the same files, has read.
func (t *certificate) replace(by *certificate) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.current.Store(by.current.Load())
	t.stamp, t.bad = by.stamp, ""
}

func (t *certificate) stat() (now [3]stamp, err error) {
	for i, name := range [...]string{t.certFile, t.keyFile, t.clientCA} {
		if name == "" {
			continue
		}
		info, err := os.Stat(name)
		if err != nil {
			return now, fmt.Errorf("certificate: %w", err)
		}
		now[i] = stamp{info.ModTime(), info.Size()}
	}
	return now, nil
}

// watch looks at the files until ctx ends.
func (t *certificate) watch(ctx context.Context, log *slog.Logger) error {
	tick := time.NewTicker(recheck)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			t.look(log)
		}
	}
}

// look reads the files if they changed. A pair is two files, so that between two
// looks it may be half written: what is wrong is told when it is still so at the
// next look, and once.
func (t *certificate) look(log *slog.Logger) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now, err := t.stat()
	if err == nil {
		if now == t.stamp {
			t.bad = ""
			return
		}
		err = t.read(now)
	}
	if err == nil {
		t.bad = ""
		log.Info("certificate read again", "cert", t.certFile, "client_ca", t.clientCA, "not_after", t.current.Load().notAfter())
		return
	}
	if what := fmt.Sprint(now, err); what != t.bad {
		t.bad, t.seen = what, 0
	}
	if t.seen++; t.seen == 2 {
		log.Error("the certificate's files cannot be used; the one read before stays in service", "error", err, "not_after", t.current.Load().notAfter())
	}
}

// openACME prepares certificates that come by themselves.
func (a *App) openACME(p *plan) {
	c := a.o.Config
	if c.TLS == nil || c.TLS.ACME == nil {
		return
	}
	t := c.TLS.ACME
	host, port, _ := net.SplitHostPort(c.Listen)
	n, _ := strconv.Atoi(port)
	a.acme = acme.New(acme.Options{
		Domains: t.Domains, Email: t.Email, Directory: t.Directory.URL.String(), Roots: p.acmeRoots, Folder: a.data.file(acmeFolder),
		Host: host, Port: n, HTTPPort: t.HTTPPort, Log: a.log,
	})
}

// notAfter is when the certificate shown expires.
func (c *credentials) notAfter() time.Time {
	if c.pair == nil || c.pair.Leaf == nil {
		return time.Time{}
	}
	return c.pair.Leaf.NotAfter.UTC()
}

// tlsConfig allows TLS 1.2 and 1.3, or the latter alone, with forward secrecy
// only. Where clients need a certificate they need it whatever name they ask for,
// and in every handshake: a session that is resumed would be believed after its
// authority was taken away.
func tlsConfig(c *config.TLS, cert *certificate, auto *acme.Manager) *tls.Config {
	conf := &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert.current.Load().pair, nil },
		NextProtos:     []string{"h2", "http/1.1"},
		CipherSuites: []uint16{ // of TLS 1.2; those of 1.3 are all good
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
	}
	if c.MinVersion == "1.3" {
		conf.MinVersion = tls.VersionTLS13
	}
	if auto != nil {
		conf.GetCertificate = auto.GetCertificate
		if c.ACME.HTTPPort == 0 {
			conf.NextProtos = append(conf.NextProtos, acme.Protocol)
		}
	}
	if c.ClientCA == "" {
		return conf
	}
	conf.ClientAuth, conf.SessionTicketsDisabled = tls.RequireAndVerifyClientCert, true
	outer := conf.Clone()
	outer.ClientCAs = x509.NewCertPool() // nobody's, should it ever be asked
	outer.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		now := conf.Clone()
		now.ClientCAs = cert.current.Load().clients
		return now, nil
	}
	return outer
}
