package e2e_test

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"
)

// certificate is a self-signed one, in PEM.
type certificate struct {
	cert, key string
	serial    *big.Int
	pool      *x509.CertPool
}

func newCertificate(t testing.TB, name string) certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	tpl := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	c := certificate{
		cert:   string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		key:    string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})),
		serial: serial, pool: x509.NewCertPool(),
	}
	c.pool.AppendCertsFromPEM([]byte(c.cert))
	return c
}

// tlsConn opens a TLS connection to the server.
func (s *server) tlsConn(c *tls.Config) (*tls.Conn, error) {
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: patience}, Config: c}
	conn, err := d.DialContext(s.t.Context(), "tcp", s.addr)
	if err != nil {
		return nil, err
	}
	s.t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn.(*tls.Conn), nil
}

// secured opens a WebSocket by TLS.
func (s *server) secured(c certificate, token string) *client {
	s.t.Helper()
	conn, err := s.tlsConn(&tls.Config{RootCAs: c.pool, ServerName: "rt.example.com", NextProtos: []string{"http/1.1"}})
	if err != nil {
		s.t.Fatal(err)
	}
	w := &client{t: s.t, conn: conn, br: bufio.NewReader(conn)}
	w.send(s.upgrade("/chat", siteHost, bearer(token)))
	if a := w.response(); a.status != 101 {
		s.t.Fatalf("%d %s", a.status, a.body)
	}
	return w
}

func TestTLS01TLS02AndANewCertificate(t *testing.T) {
	up := newUpstream(t, nil)
	old := newCertificate(t, "rt.example.com")
	s := start(t, up, "public_url: https://rt.example.com\ntrusted_proxies: [192.0.2.1]\ntls: {cert: cert.pem, key: key.pem}\n"+`
issuer: {}
routes: [{path: /chat, upstream: "ws://UPSTREAM"}]
`, func(s *server) { s.file("cert.pem", old.cert); s.file("key.pem", old.key) })
	var issued struct {
		Token string `json:"access_token"`
	}
	s.addUser("ann", "")
	s.tool("", "token", "issue", "--subject", "ann", "--json").json(t, &issued)
	token := secret(t, issued.Token)

	// TLS 1.2 with forward secrecy, and 1.3; nothing older or weaker.
	for _, c := range []struct {
		what string
		conf *tls.Config
		good bool
	}{
		{"TLS 1.3", &tls.Config{MinVersion: tls.VersionTLS13}, true},
		{"TLS 1.2", &tls.Config{MaxVersion: tls.VersionTLS12}, true},
		{"TLS 1.1", &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, false},
		{"TLS 1.0", &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10}, false},
		{"RSA key exchange", &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_RSA_WITH_AES_128_GCM_SHA256}}, false},
		{"CBC", &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}}, false},
		{"AES-GCM", &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}}, true},
	} {
		c.conf.RootCAs, c.conf.ServerName = old.pool, "rt.example.com"
		if _, err := s.tlsConn(c.conf); (err == nil) != c.good {
			t.Errorf("%s: %v", c.what, err)
		}
	}
	// Plain http on this port gets no redirect, and nothing of the service.
	plain := s.raw().send(s.upgrade("/chat", siteHost, bearer(token)))
	if line, err := plain.br.ReadString('\n'); err != nil || !strings.HasPrefix(line, "HTTP/1.0 400") {
		t.Errorf("plain ws: %q %v", line, err)
	}
	if up.count() != 0 {
		t.Error("plain ws reached the upstream")
	}
	// Over TLS HTML or not: browsers are told to stay there.
	conn, err := s.tlsConn(&tls.Config{RootCAs: old.pool, ServerName: "rt.example.com", NextProtos: []string{"http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	w := &client{t: t, conn: conn, br: bufio.NewReader(conn)}
	if a := w.send("GET /healthz HTTP/1.1\r\nHost: rt.example.com\r\n\r\n").response(); a.status != 200 || a.header.Get("Strict-Transport-Security") == "" {
		t.Errorf("%d %v", a.status, a.header)
	}

	// A new certificate, taken by SIGHUP and without it; half a change does no harm.
	live := s.secured(old, token).alive()
	serving := func() *big.Int {
		conn, err := s.tlsConn(&tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		return conn.ConnectionState().PeerCertificates[0].SerialNumber
	}
	next := newCertificate(t, "rt.example.com")
	s.file("cert.pem", next.cert)
	if out, code := s.command("", "reload"); code != 1 || !strings.Contains(out, "private key") {
		t.Errorf("half a certificate: %d %s", code, out)
	}
	if serving().Cmp(old.serial) != 0 {
		t.Error("half a change took effect")
	}
	s.file("key.pem", next.key)
	s.hangup("reloaded")
	if serving().Cmp(next.serial) != 0 {
		t.Error("after SIGHUP the old certificate is served")
	}
	third := newCertificate(t, "rt.example.com")
	s.file("cert.pem", third.cert)
	s.file("key.pem", third.key)
	eventually(t, "the files to be read again", func() bool { return serving().Cmp(third.serial) == 0 })
	live.alive() // opened under the first
	s.secured(third, token).alive()
}

// hangup sends SIGHUP and waits for a new line of the log with msg.
func (s *server) hangup(msg string) {
	s.t.Helper()
	want := `"msg":"` + msg
	before := strings.Count(s.log.String(), want)
	if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		s.t.Fatal(err)
	}
	eventually(s.t, "the reload's line", func() bool { return strings.Count(s.log.String(), want) > before })
}

func TestCFG04RotationAndReloadUnderLiveConnections(t *testing.T) {
	up, iss := newUpstream(t, nil), newIssuer(t, "https://idp.example")
	const head = "issuer: {access_ttl: 60s}\nlimits: {handshakes_per_ip: {rate: 1000/s, burst: 1000}, connections_per_subject: 1000}\n"
	const chat = "routes:\n  - {path: /chat, upstream: \"ws://UPSTREAM\"}\n"
	yaml := strings.ReplaceAll(head+chat, "UPSTREAM", up.addr)
	s := start(t, up, yaml, iss.trusted)
	s.addUser("ann", "chat")
	in := s.login("ann")
	old := in.str("access_token")
	var live []*client
	for range 100 {
		live = append(live, s.connect("/chat", bearer(old)).alive())
	}
	allAlive := func(when string) {
		t.Helper()
		for _, c := range live {
			c.alive()
		}
		if n := int(s.adminCall("GET", "/v1/status", nil).json["connections"].(float64)); n != len(live) {
			t.Errorf("%s %d connections live, want %d", when, n, len(live))
		}
	}
	kid := func(token string) any {
		raw, _, _ := strings.Cut(token, ".")
		var h map[string]any
		b, err := base64.RawURLEncoding.DecodeString(raw)
		if err != nil || json.Unmarshal(b, &h) != nil {
			t.Fatal(err)
		}
		return h["kid"]
	}
	published := s.call("GET", "/.well-known/jwks.json", nil).body
	s.cli("key", "rotate")
	second := s.want(s.refresh(in.str("refresh_token")), 200, "")
	fresh := second.str("access_token")
	if kid(fresh) == kid(old) || !strings.Contains(string(published), kid(fresh).(string)) {
		t.Errorf("after the rotation %v signs, before it %v; published were %s", kid(fresh), kid(old), published)
	}
	allAlive("after a rotation")
	s.connect("/chat", bearer(old)).alive().conn.Close()
	s.connect("/chat", bearer(fresh)).alive().conn.Close()

	// A bad configuration is reported, and nothing of it is taken.
	token := iss.token()
	bad := strings.Replace(yaml, "routes:\n", trustYAML(iss.name)+"orgins: []\nroutes:\n  - {path: /new, upstream: \"ws://"+up.addr+"\"}\n", 1)
	s.writeConfig(bad)
	r := s.tool("", "reload")
	if r.code != 1 || !strings.Contains(r.stderr, "orgins") || r.stdout != "" {
		t.Errorf("exit code %d: %s%s", r.code, r.stdout, r.stderr)
	}
	s.hangup("reload refused")
	s.waitLog("reload refused", "orgins")
	for _, fixed := range []string{"listen: 127.0.0.1:1\n", "auth_path: /other\n", "origins: ['https://other.example']\n", "hosts: [other.example]\n"} {
		text := strings.Replace(yaml, "routes:\n", trustYAML(iss.name)+"routes:\n", 1)
		s.writeConfig(text)
		if name, _, _ := strings.Cut(fixed, ":"); name == "listen" {
			addr := s.addr
			s.addr = "127.0.0.1:1"
			s.writeConfig("public_url: http://" + addr + "\n" + text)
			s.addr = addr
		} else {
			s.writeConfig(fixed + text)
		}
		r := s.tool("", "reload")
		if key, _, _ := strings.Cut(fixed, ":"); r.code != 1 || !strings.Contains(r.stderr, key) || !strings.Contains(r.stderr, "restart") {
			t.Errorf("%s: exit code %d: %s", fixed, r.code, r.stderr)
		}
	}
	s.refused(404, "no_route", "/new", bearer(fresh))
	s.refused(401, "token_issuer", "/chat", bearer(token))
	allAlive("after refused reloads")

	// A good one takes effect at once, for what comes.
	s.writeConfig(strings.Replace(bad, "orgins: []\n", "", 1))
	s.cli("reload")
	s.connect("/new", bearer(fresh)).alive().conn.Close()
	s.connect("/chat", bearer(token)).alive().conn.Close()
	eventually(t, "the others to be gone", func() bool {
		return s.adminCall("GET", "/v1/status", nil).json["connections"] == float64(len(live))
	})
	allAlive("after a reload")
	s.writeConfig(yaml)
	s.hangup("reloaded")
	s.refused(404, "no_route", "/new", bearer(fresh))
	s.refused(401, "token_issuer", "/chat", bearer(token))
	allAlive("after another")
	// A route that demands more demands it of what comes.
	s.writeConfig(strings.Replace(yaml, "path: /chat,", "path: /chat, scopes: [other],", 1))
	s.cli("reload")
	s.refused(403, "insufficient_scope", "/chat", bearer(fresh))
	allAlive("after a narrower route")
}
