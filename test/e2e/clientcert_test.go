package e2e_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// clientPair is a certificate of an authority for a client.
func (a *authority) clientPair(change ...func(*x509.Certificate)) []tls.Certificate {
	a.t.Helper()
	cert, key := a.issue(append([]func(*x509.Certificate){func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }}, change...)...)
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	if err != nil {
		a.t.Fatal(err)
	}
	return []tls.Certificate{pair}
}

// TLS-03: no client gets a byte of an answer without a good certificate of its own,
// whatever SNI and Host it mixes; with one, the Host decides as it does without.
func TestTLS03ClientCertificates(t *testing.T) {
	t.Parallel()
	up, iss, ca, clients, others := newUpstream(t, nil), newIssuer(t, "https://idp.example"), newAuthority(t), newAuthority(t), newAuthority(t)
	s := start(t, up, "hosts: [other.example.com]\n"+tlsYAML(iss, ", client_ca: clients.pem"), iss.trusted, ca.served, func(s *server) {
		s.file("clients.pem", clients.pem)
	})
	serverAuth := func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }
	certificates := map[string]struct {
		pair []tls.Certificate
		good bool
	}{
		"good":               {clients.clientPair(), true},
		"none":               {nil, false},
		"of another":         {others.clientPair(), false},
		"of the server's":    {ca.clientPair(), false},
		"expired":            {clients.clientPair(expired), false},
		"not yet valid":      {clients.clientPair(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(30 * time.Minute) }), false},
		"a server's, by use": {clients.clientPair(serverAuth), false},
	}
	hosts := map[string]int{"rt.example.com": 101, "other.example.com": 101, "evil.example": http.StatusMisdirectedRequest}
	ask := func(version uint16, pair []tls.Certificate, sni, host string) (*client, *answer, error) {
		conf := &tls.Config{InsecureSkipVerify: true, ServerName: sni, MaxVersion: version, NextProtos: []string{"http/1.1"}}
		if pair != nil { // whatever authorities the server names
			conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair[0], nil }
		}
		conn, err := s.tlsConn(conf)
		if err != nil {
			return nil, nil, err
		}
		c := &client{t: t, conn: conn, br: bufio.NewReader(conn)}
		_, _ = io.WriteString(conn, s.upgrade("/chat", "Host: "+host, bearer(iss.token()),
			"X-Forwarded-Client-Cert: Hash=forged", "x_forwarded_client_cert: Hash=forged", "Client-Cert: :forged:", "Client-Cert-Chain: :forged:"))
		a, err := c.tryResponse()
		return c, a, err
	}
	opened := 0
	for name, cert := range certificates {
		for _, sni := range []string{"rt.example.com", "other.example.com", "evil.example", ""} {
			for host, status := range hosts {
				for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
					c, a, err := ask(version, cert.pair, sni, host)
					what := strings.Join([]string{tls.VersionName(version), "certificate " + name, "SNI " + sni, "Host " + host}, ", ")
					switch {
					case !cert.good && (err == nil || errors.Is(err, os.ErrDeadlineExceeded)):
						t.Errorf("%s: an answer, %v (%v)", what, a, err)
					case cert.good && err != nil:
						t.Errorf("%s: %v", what, err)
					case cert.good && a.status != status:
						t.Errorf("%s: %d %s", what, a.status, a.body)
					case cert.good && status == 101:
						opened++
						c.alive()
						if head := up.of(c).head; strings.Contains(head, "forged") {
							t.Errorf("the upstream is told %q", head)
						}
						c.conn.Close()
					}
				}
			}
		}
	}
	if up.count() != opened {
		t.Errorf("%d connections reached the upstream, of %d", up.count(), opened)
	}
	if out := s.cli("health"); out != "ready\n" {
		t.Errorf("health: %q", out)
	}

	// An authority that is taken away is believed no more, also of who was here
	// before; a broken file takes nobody away.
	live, a, err := ask(tls.VersionTLS13, certificates["good"].pair, "rt.example.com", "rt.example.com")
	if err != nil || a.status != 101 {
		t.Fatal(a, err)
	}
	s.file("clients.pem", clients.pem+others.pem[:100])
	s.waitLog("cannot be used", "client_ca", "clients.pem")
	if _, a, err := ask(tls.VersionTLS13, certificates["good"].pair, "", "rt.example.com"); err != nil || a.status != 101 {
		t.Error(a, err)
	}
	s.file("clients.pem", others.pem)
	s.waitLog("certificate read again")
	if _, _, err := ask(tls.VersionTLS13, certificates["of another"].pair, "", "rt.example.com"); err != nil {
		t.Error(err)
	}
	cache := tls.NewLRUClientSessionCache(8)
	for _, pair := range [][]tls.Certificate{certificates["of another"].pair, certificates["of another"].pair, certificates["good"].pair} {
		conn, err := s.tlsConn(&tls.Config{InsecureSkipVerify: true, ServerName: "rt.example.com", ClientSessionCache: cache, Certificates: pair, NextProtos: []string{"http/1.1"}})
		if err != nil {
			continue
		}
		c := &client{t: t, conn: conn, br: bufio.NewReader(conn)}
		_, _ = io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: rt.example.com\r\n\r\n")
		_, err = c.tryResponse()
		if conn.ConnectionState().DidResume {
			t.Error("a session was resumed")
		}
		if good := &pair[0] == &certificates["of another"].pair[0]; good != (err == nil) {
			t.Errorf("good: %v, %v", good, err)
		}
	}
	live.alive()
}
