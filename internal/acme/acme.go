// Package acme gets certificates from an ACME authority (RFC 8555) and renews them,
// with certmagic, which nothing else here knows. Accounts, keys and certificates are
// files in the data folder.
package acme

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
)

// Protocol is what an authority asks for by ALPN when it checks a name by
// TLS-ALPN-01 (RFC 8737).
const Protocol = "acme-tls/1"

// checkInterval is how often it is looked whether a certificate is to be renewed:
// often enough for those of private authorities that live for minutes.
const checkInterval = 10 * time.Second

// Options are whose certificates are got, and where.
type Options struct {
	Domains   []string // the first is for clients that ask for no name
	Email     string
	Directory string         // URL
	Roots     *x509.CertPool // whom the directory's own certificate must be of; nil: the system's
	Folder    string         // where everything is kept
	// Host and Port are where TLS is spoken, by which TLS-ALPN-01 checks a name.
	Host string
	Port int
	// HTTPPort, when not 0, is where HTTP-01 is answered instead, while a check is
	// on.
	HTTPPort int
	Log      *slog.Logger
}

// A Manager holds the certificates.
type Manager struct {
	domains []string
	cache   *certmagic.Cache
	config  *certmagic.Config
}

// New is a Manager of what is in the folder. It asks nobody before Run.
func New(o Options) *Manager {
	m := &Manager{domains: o.Domains}
	silent := zap.NewNop() // what happens is told by events, in our own words
	m.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert:   func(certmagic.Certificate) (*certmagic.Config, error) { return m.config, nil },
		RenewCheckInterval: checkInterval,
		Logger:             silent,
	})
	m.config = certmagic.New(m.cache, certmagic.Config{
		Storage:           &certmagic.FileStorage{Path: o.Folder},
		DefaultServerName: o.Domains[0],
		OnEvent:           func(_ context.Context, event string, data map[string]any) error { tell(o.Log, event, data); return nil },
		ShouldEmitFunc:    func(event string) bool { return event == obtained || event == failed },
		Logger:            silent,
	})
	m.config.Issuers = []certmagic.Issuer{certmagic.NewACMEIssuer(m.config, certmagic.ACMEIssuer{
		CA: o.Directory, Email: o.Email, Agreed: true, TrustedRoots: o.Roots,
		ListenHost: o.Host, AltTLSALPNPort: o.Port, AltHTTPPort: o.HTTPPort,
		DisableHTTPChallenge: o.HTTPPort == 0, DisableTLSALPNChallenge: o.HTTPPort != 0, DisableDistributedSolvers: true,
		Logger: silent,
	})}
	return m
}

const (
	obtained = "cert_obtained"
	failed   = "cert_failed"
)

func tell(log *slog.Logger, event string, data map[string]any) {
	switch event {
	case obtained:
		log.Info("certificate obtained", "domain", data["identifier"], "renewal", data["renewal"], "authority", data["issuer"])
	case failed:
		log.Error("no certificate could be obtained; it is tried again", "domain", data["identifier"], "renewal", data["renewal"], "error", fmt.Sprint(data["error"]))
	}
}

// Run gets what is lacking and renews what is about to expire, until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	defer m.cache.Stop()
	if err := m.config.ManageAsync(ctx, m.domains); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// GetCertificate is tls.Config's.
func (m *Manager) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	return m.config.GetCertificate(hello)
}
