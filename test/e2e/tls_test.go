package e2e_test

import (
	"bufio"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// authority signs certificates.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  crypto.Signer
	pem  string
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "test authority " + t.Name()},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{t: t, key: key, pem: pemOf("CERTIFICATE", der)}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// issue makes a certificate for a server at 127.0.0.1 and rt.example.com, changed
// by change, and its key, both in PEM.
func (a *authority) issue(change ...func(*x509.Certificate)) (cert, key string) {
	a.t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	return a.issueFor(private, change...)
}

func (a *authority) issueFor(private crypto.Signer, change ...func(*x509.Certificate)) (cert, key string) {
	a.t.Helper()
	tpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), DNSNames: []string{"rt.example.com"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, f := range change {
		f(tpl)
	}
	der, err := x509.CreateCertificate(rand.Reader, tpl, a.cert, private.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		a.t.Fatal(err)
	}
	return pemOf("CERTIFICATE", der), pemOf("PRIVATE KEY", raw)
}

func pemOf(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func expired(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }

// served writes a pair for the listener.
func (a *authority) served(s *server) {
	cert, key := a.issue()
	s.file("cert.pem", cert)
	s.file("key.pem", key)
}

// tlsYAML is a gateway that ends TLS itself; more goes into its tls block.
func tlsYAML(iss *issuer, more string) string {
	return trustYAML(iss.name) + "public_url: https://rt.example.com\ntrusted_proxies: [192.0.2.1]\ntls: {cert: cert.pem, key: key.pem" + more + "}\n" +
		"routes:\n  - {path: /chat, upstream: \"ws://UPSTREAM\"}\n" + generous()
}

// TLS-01: a listener that is told to takes TLS 1.3 alone.
func TestTLS01OnlyTLS13(t *testing.T) {
	t.Parallel()
	up, iss, ca := newUpstream(t, nil), newIssuer(t, "https://idp.example"), newAuthority(t)
	s := start(t, up, tlsYAML(iss, `, min_version: "1.3"`), iss.trusted, ca.served)
	if _, err := s.tlsConn(&tls.Config{RootCAs: ca.pool(), MaxVersion: tls.VersionTLS12}); err == nil || !strings.Contains(err.Error(), "protocol version") {
		t.Errorf("TLS 1.2: %v", err)
	}
	c, err := s.tlsConn(&tls.Config{RootCAs: ca.pool()})
	if err != nil {
		t.Fatal(err)
	}
	if v := c.ConnectionState().Version; v != tls.VersionTLS13 {
		t.Errorf("spoke %s", tls.VersionName(v))
	}
	if out := s.cli("check"); !strings.Contains(out, `min_version: "1.3"`) {
		t.Error(out)
	}
}

// TLS-01: with an RSA key too, only suites with forward secrecy and AEAD.
func TestTLS01ForwardSecrecyWithRSA(t *testing.T) {
	t.Parallel()
	up, iss, ca := newUpstream(t, nil), newIssuer(t, "https://idp.example"), newAuthority(t)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, up, tlsYAML(iss, ""), iss.trusted, func(s *server) {
		cert, private := ca.issueFor(key)
		s.file("cert.pem", cert)
		s.file("key.pem", private)
	})
	for name, c := range map[string]struct {
		suite uint16
		good  bool
	}{
		"RSA key exchange, CBC":    {tls.TLS_RSA_WITH_AES_128_CBC_SHA, false},
		"RSA key exchange, GCM":    {tls.TLS_RSA_WITH_AES_128_GCM_SHA256, false},
		"RSA key exchange, 3DES":   {tls.TLS_RSA_WITH_3DES_EDE_CBC_SHA, false},
		"ECDHE, RC4":               {tls.TLS_ECDHE_RSA_WITH_RC4_128_SHA, false},
		"ECDHE, CBC":               {tls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA, false},
		"ECDHE, CBC with SHA-256":  {tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256, false},
		"ECDHE, AES-GCM":           {tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, true},
		"ECDHE, AES-256-GCM":       {tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, true},
		"ECDHE, ChaCha20-Poly1305": {tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, true},
	} {
		conn, err := s.tlsConn(&tls.Config{RootCAs: ca.pool(), MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{c.suite}})
		if (err == nil) != c.good {
			t.Errorf("%s: %v", name, err)
		} else if c.good && conn.ConnectionState().CipherSuite != c.suite {
			t.Errorf("%s: spoke another", name)
		}
	}
}

// TLS-02: without a certificate no listener that other machines reach starts,
// unless proxies that end TLS are named.
func TestTLS02PlainTextIsForLoopbackAndProxies(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		yaml string
		good bool
	}{
		"every address":            {"listen: 0.0.0.0:0\npublic_url: https://rt.example.com\n", false},
		"every address, IPv6":      {"listen: '[::]:0'\npublic_url: https://rt.example.com\n", false},
		"another address":          {"listen: 192.0.2.7:8080\npublic_url: http://192.0.2.7:8080\n", false},
		"no certificate in tls":    {"listen: 0.0.0.0:0\npublic_url: https://rt.example.com\ntls: {}\n", false},
		"behind a proxy":           {"listen: 0.0.0.0:0\npublic_url: https://rt.example.com\ntrusted_proxies: [192.0.2.1]\n", true},
		"a proxy on this machine":  {"listen: 127.0.0.1:0\npublic_url: https://rt.example.com\ntrusted_proxies: [127.0.0.1]\n", true},
		"the loopback, for itself": {"listen: 127.0.0.1:8080\n", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "wsbouncer.yaml"), []byte(c.yaml+"issuer: {}\n"+goodRoute), 0o600); err != nil {
				t.Fatal(err)
			}
			if r := runTool(t, dir, "", "check"); (r.code == 0) != c.good {
				t.Errorf("check: exit code %d\n%s", r.code, r.stderr)
			}
			if c.good { // serve would listen on every address
				return
			}
			if r := runTool(t, dir, "", "serve"); r.code != 1 || !strings.Contains(r.stderr, "tls") {
				t.Errorf("serve: exit code %d\n%s", r.code, r.stderr)
			}
		})
	}
}

// TLS-02: plain http to a port that speaks TLS is told so, and not sent elsewhere.
func TestTLS02NoRedirectToTLS(t *testing.T) {
	t.Parallel()
	up, iss, ca := newUpstream(t, nil), newIssuer(t, "https://idp.example"), newAuthority(t)
	s := start(t, up, tlsYAML(iss, ""), iss.trusted, ca.served)
	for _, request := range []string{
		s.upgrade("/chat", siteHost, bearer(iss.token())),
		"GET / HTTP/1.1\r\nHost: rt.example.com\r\n\r\n",
		"POST /auth/login HTTP/1.1\r\nHost: rt.example.com\r\nContent-Length: 2\r\n\r\n{}",
	} {
		c := s.raw().send(request)
		_ = c.conn.SetReadDeadline(time.Now().Add(patience))
		b, err := io.ReadAll(c.br)
		line, _, _ := strings.Cut(request, "\r\n")
		if err != nil || !strings.HasPrefix(string(b), "HTTP/1.0 400 ") || !strings.Contains(string(b), "HTTPS") || strings.Contains(string(b), "Location") {
			t.Errorf("%s: %q %v", line, b, err)
		}
	}
	if up.count() != 0 {
		t.Error("plain ws reached the upstream")
	}
}

// CFG-04: a pair that cannot be used leaves the one in service, is told once with
// its file, and nobody who is connected notices. A good one is then taken.
func TestCFG04BrokenCertificateStaysOut(t *testing.T) {
	t.Parallel()
	up, iss, ca := newUpstream(t, nil), newIssuer(t, "https://idp.example"), newAuthority(t)
	s := start(t, up, tlsYAML(iss, ""), iss.trusted, ca.served)
	open := func() *client {
		t.Helper()
		conn, err := s.tlsConn(&tls.Config{RootCAs: ca.pool(), ServerName: "rt.example.com", NextProtos: []string{"http/1.1"}})
		if err != nil {
			t.Fatal(err)
		}
		c := &client{t: t, conn: conn, br: bufio.NewReader(conn)}
		if a := c.send(s.upgrade("/chat", siteHost, bearer(iss.token()))).response(); a.status != 101 {
			t.Fatalf("%d %s", a.status, a.body)
		}
		return c.alive()
	}
	serial := func() string {
		t.Helper()
		conn, err := s.tlsConn(&tls.Config{RootCAs: ca.pool(), ServerName: "rt.example.com"})
		if err != nil {
			t.Fatal(err)
		}
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	var live []*client
	for range 10 {
		live = append(live, open())
	}
	first := serial()
	told := func() int { return strings.Count(s.log.String(), "cannot be used") }
	cert, key := ca.issue()
	_, otherKey := ca.issue()
	for i, broken := range []struct{ cert, key, says string }{
		{cert, otherKey, "private key"},
		{cert[:len(cert)/2], key, "PEM"},
		{cert, "", "PEM"},
	} {
		s.file("cert.pem", broken.cert)
		s.file("key.pem", broken.key)
		eventually(t, "a line about "+broken.says, func() bool { return told() == i+1 })
		s.waitLog("cannot be used", broken.says, filepath.Join(s.dir, "cert.pem"), "key.pem")
		if serial() != first {
			t.Error("another certificate is served")
		}
		live = append(live, open())
	}
	if err := os.Remove(filepath.Join(s.dir, "key.pem")); err != nil {
		t.Fatal(err)
	}
	s.waitLog("cannot be used", "key.pem", "no such file")
	s.file("cert.pem", cert)
	s.file("key.pem", key)
	eventually(t, "the new certificate", func() bool { return serial() != first })
	s.waitLog("certificate read again", filepath.Join(s.dir, "cert.pem"), "not_after")
	if n := told(); n != 4 {
		t.Errorf("told %d times of four broken pairs", n)
	}
	for _, c := range append(live, open()) {
		c.alive()
	}
}

// PRX-03: an upstream whose certificate is not good is not spoken to, and the log
// says why; one of a configured authority is.
func TestPRX03WhyAnUpstreamIsNotBelieved(t *testing.T) {
	t.Parallel()
	ca, stranger := newAuthority(t), newAuthority(t)
	routes, ups := "", map[string]*upstream{}
	cases := map[string]struct {
		by     *authority
		change func(*x509.Certificate)
		ca     string // of the route; "": the system's
		says   string // "": it works
	}{
		"good":          {ca, func(*x509.Certificate) {}, "ca.pem", ""},
		"expired":       {ca, expired, "ca.pem", "expired"},
		"not-yet-valid": {ca, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(30 * time.Minute) }, "ca.pem", "not yet valid"},
		"wrong-name":    {ca, func(c *x509.Certificate) { c.IPAddresses, c.DNSNames = nil, []string{"other.example"} }, "ca.pem", "127.0.0.1"},
		"for-clients":   {ca, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }, "ca.pem", "usage"},
		"of-another-ca": {stranger, func(*x509.Certificate) {}, "ca.pem", "unknown authority"},
		"unknown":       {ca, func(*x509.Certificate) {}, "", "unknown authority"},
	}
	for name, c := range cases {
		cert, key := c.by.issue(c.change)
		pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
		if err != nil {
			t.Fatal(err)
		}
		l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}})
		if err != nil {
			t.Fatal(err)
		}
		ups[name] = newUpstreamOn(t, l, nil)
		with := ""
		if c.ca != "" {
			with = ", upstream_tls: {ca: " + c.ca + "}"
		}
		routes += "  - {path: /" + name + ", upstream: \"wss://" + ups[name].addr + "\"" + with + "}\n"
	}
	iss := newIssuer(t, "https://idp.example")
	s := start(t, nil, trustYAML(iss.name)+"routes:\n"+routes+generous(), iss.trusted, func(s *server) { s.file("ca.pem", ca.pem) })
	for name, c := range cases {
		if c.says == "" {
			s.connect("/"+name, bearer(iss.token())).alive()
			continue
		}
		a := s.refused(502, "upstream_refused", "/"+name, bearer(iss.token()))
		if strings.Contains(string(a.body), "certificate") {
			t.Errorf("%s: the client is told %s", name, a.body)
		}
		s.waitLog("upstream", `"route":"/`+name+`"`, "certificate", c.says)
		ups[name].mu.Lock()
		if n := len(ups[name].conns); n > 0 {
			t.Errorf("%s: it was sent %d requests", name, n)
		}
		ups[name].mu.Unlock()
	}
}
