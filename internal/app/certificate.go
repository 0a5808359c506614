package app

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/config"
)

// recheck is how often the certificate's files are looked at.
const recheck = time.Second

// certificate is the public listener's certificate, read again when its files
// change. What cannot be read leaves the one in service.
type certificate struct {
	certFile, keyFile string

	current atomic.Pointer[tls.Certificate]

	mu    sync.Mutex
	stamp [2]stamp // of the files that current was read from
	bad   string   // what the last look found wrong
	seen  int      // how often in a row
}

// stamp tells two states of a file apart.
type stamp struct {
	modified time.Time
	size     int64
}

func loadCertificate(c *config.TLS) (*certificate, error) {
	t := &certificate{certFile: c.Cert, keyFile: c.Key}
	now, err := t.stat()
	if err != nil {
		return nil, err
	}
	return t, t.read(now)
}

// read takes the files as they are. The stamp is from before, so that a change
// meanwhile is seen at the next look.
func (t *certificate) read(now [2]stamp) error {
	pair, err := tls.LoadX509KeyPair(t.certFile, t.keyFile)
	if err != nil {
		return fmt.Errorf("certificate %s with key %s: %w", t.certFile, t.keyFile, err)
	}
	t.current.Store(&pair)
	t.stamp = now
	return nil
}

// replace takes over what another one, of the same files, has read.
func (t *certificate) replace(by *certificate) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.current.Store(by.current.Load())
	t.stamp, t.bad = by.stamp, ""
}

func (t *certificate) stat() (now [2]stamp, err error) {
	for i, name := range []string{t.certFile, t.keyFile} {
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
		log.Info("certificate read again", "cert", t.certFile, "not_after", notAfter(t.current.Load()))
		return
	}
	if what := fmt.Sprint(now, err); what != t.bad {
		t.bad, t.seen = what, 0
	}
	if t.seen++; t.seen == 2 {
		log.Error("the certificate's files cannot be used; the one read before stays in service", "error", err, "not_after", notAfter(t.current.Load()))
	}
}

func notAfter(c *tls.Certificate) time.Time {
	if c.Leaf == nil {
		return time.Time{}
	}
	return c.Leaf.NotAfter.UTC()
}

func (t *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return t.current.Load(), nil
}

// tlsConfig allows TLS 1.2 and 1.3, or the latter alone, with forward secrecy
// only.
func tlsConfig(c *config.TLS, cert *certificate) *tls.Config {
	conf := &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: cert.get,
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
	return conf
}
