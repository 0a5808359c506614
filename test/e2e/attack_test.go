package e2e_test

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// Without an issuer of our own a revocation that names none means the only one
// that is trusted; where there are two it is refused. It is never answered as
// done with nothing done.
func TestARevocationWithoutAnIssuerIsNeverAnsweredForNothing(t *testing.T) {
	up := newUpstream(t, nil)
	route := `  - {path: /chat, upstream: "ws://UPSTREAM", scopes: [chat]}
`
	t.Run("one", func(t *testing.T) {
		s, iss := gate(t, up, route)
		c := s.connect("/chat", bearer(iss.token())).alive()
		s.cli("revoke", "subject", "alice")
		c.closes(3000, "subject_revoked")
		s.refused(401, "token_revoked", "/chat", bearer(iss.token(claims{"iat": time.Now().Add(-time.Minute).Unix()})))
	})
	t.Run("two", func(t *testing.T) {
		iss := newIssuer(t, "https://idp.example")
		trust := trustYAML(iss.name) + strings.TrimPrefix(trustYAML("https://other.example"), "trust:\n")
		s := start(t, up, trust+"routes:\n"+route, iss.trusted)
		c := s.connect("/chat", bearer(iss.token())).alive()
		for _, what := range [][]string{{"subject", "alice"}, {"session", "s1"}, {"key", "k1"}, {"token", "j1"}, {"before", "2026-01-01T00:00:00Z"}} {
			if out, code := s.command("", append([]string{"revoke"}, what...)...); code != 1 || !strings.Contains(out, "issuer") {
				t.Errorf("revoke %s: exit code %d, %q", what[0], code, out)
			}
		}
		c.alive()
		s.cli("revoke", "subject", "alice", "--issuer", iss.name)
		c.closes(3000, "subject_revoked")
	})
}

// A key or an issuer that the operator takes out of trust takes its connections
// with it, and nobody else's.
func TestReloadEndsWhatIsNoLongerTrusted(t *testing.T) {
	up, one, two := newUpstream(t, nil), newIssuer(t, "https://one.example"), newIssuer(t, "https://two.example")
	entry := func(iss *issuer, file string) string {
		return strings.Replace(strings.TrimPrefix(trustYAML(iss.name), "trust:\n"), "jwks.json", file, 1)
	}
	routes := `routes:
  - {path: /chat, upstream: "ws://UPSTREAM", scopes: [chat]}
`
	both := "trust:\n" + entry(one, "one.json") + entry(two, "two.json") + routes
	s := start(t, up, both, func(s *server) { s.file("one.json", one.jwks()); s.file("two.json", two.jwks()) })
	first, second := s.connect("/chat", bearer(one.token())).alive(), s.connect("/chat", bearer(two.token())).alive()

	s.cli("reload")
	first.alive()
	second.alive()

	s.file("one.json", strings.Replace(one.jwks(), `"k1"`, `"k2"`, 1))
	s.cli("reload")
	first.closes(3000, "key_revoked")
	s.refused(401, "token_signature", "/chat", bearer(one.token()))
	second.alive()

	s.writeConfig(strings.ReplaceAll("trust:\n"+entry(one, "one.json")+routes, "UPSTREAM", up.addr))
	s.cli("reload")
	second.closes(3000, "key_revoked")
	s.refused(401, "token_issuer", "/chat", bearer(two.token()))
}

// Whoever opens connections and says nothing on them, or keeps them after a
// request, is held to connections_per_ip before any handshake. What has become
// a WebSocket is counted apart.
func TestSilentConnectionsAreBoundedByAddress(t *testing.T) {
	const most = 8
	up := newUpstream(t, nil)
	s, iss := gate(t, up, `  - {path: /chat, upstream: "ws://UPSTREAM", scopes: [chat]}
`, "connections_per_ip: 8")
	var live []*client
	for range most {
		live = append(live, s.connect("/chat", bearer(iss.token())).alive())
	}
	var silent []*client
	for i := range most {
		c := s.raw()
		if i%2 == 0 {
			if a := c.send("GET /healthz HTTP/1.1\r\nHost: " + s.addr + "\r\n\r\n").response(); a.status != 200 {
				t.Fatalf("status %d", a.status)
			}
		}
		silent = append(silent, c)
	}
	eventually(t, "a further connection is cut", func() bool {
		c := s.raw()
		defer c.conn.Close()
		_, _ = io.WriteString(c.conn, "GET /healthz HTTP/1.1\r\nHost: "+s.addr+"\r\n\r\n")
		_, err := c.tryResponse()
		return err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
	})
	for _, c := range live {
		c.alive()
	}
	for _, c := range silent {
		c.conn.Close()
	}
	eventually(t, "room for another", func() bool {
		c := s.raw()
		defer c.conn.Close()
		_, _ = io.WriteString(c.conn, "GET /healthz HTTP/1.1\r\nHost: "+s.addr+"\r\n\r\n")
		a, err := c.tryResponse()
		return err == nil && a.status == 200
	})
}

// Over TLS of our own: HTTP/1.1 opens WebSockets that end as they do without,
// and HTTP/2, which browsers use for everything else, opens none.
func TestTLSListener(t *testing.T) {
	up, iss := newUpstream(t, nil), newIssuer(t, "https://idp.example")
	s := start(t, up, trustYAML(iss.name)+`
public_url: https://ADDR
tls: {cert: cert.pem, key: key.pem}
routes:
  - {path: /chat, upstream: "ws://UPSTREAM", scopes: [chat]}
`, iss.trusted, selfSigned)
	dial := func(protocols ...string) *tls.Conn {
		t.Helper()
		c, err := tls.Dial("tcp", s.addr, &tls.Config{InsecureSkipVerify: true, NextProtos: protocols})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(patience))
		return c
	}
	open := func() *client {
		t.Helper()
		conn := dial("http/1.1")
		c := &client{t: t, conn: conn, br: bufio.NewReader(conn)}
		if a := c.send(s.upgrade("/chat", bearer(iss.token()))).response(); a.status != 101 {
			t.Fatalf("status %d: %s", a.status, a.body)
		}
		return c
	}
	c := open().alive()
	s.cli("revoke", "subject", "alice")
	c.closes(3000, "subject_revoked")

	two := dial("h2")
	if got := two.ConnectionState().NegotiatedProtocol; got != "h2" {
		t.Fatalf("speaks %q", got)
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}
	defer tr.CloseIdleConnections()
	req, _ := http.NewRequestWithContext(t.Context(), "GET", "https://"+s.addr+"/chat", nil)
	req.Header.Set("Authorization", "Bearer "+iss.token())
	req.Header.Set("Sec-WebSocket-Key", sampleKey)
	req.Header.Set("Sec-WebSocket-Version", "13")
	res, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.ProtoMajor != 2 || res.StatusCode != 400 {
		t.Errorf("HTTP/%d: status %d", res.ProtoMajor, res.StatusCode)
	}
	if up.count() != 1 {
		t.Errorf("%d connections reached the upstream", up.count())
	}
}

// selfSigned writes a certificate for the loopback.
func selfSigned(s *server) {
	s.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		s.t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		s.t.Fatal(err)
	}
	s.file("cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})))
	s.file("key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
}

// An upstream that takes connections and says nothing is slow, also before its
// TLS handshake; a client that does not wait for it says nothing about it.
func TestAnUpstreamIsSlowOnlyIfItIs(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s, iss := gate(t, nil, `  - {path: /chat, upstream: "wss://`+l.Addr().String()+`", scopes: [chat]}
`, "handshake_timeout: 2s")
	c := s.raw().send(s.upgrade("/chat", bearer(iss.token())))
	called, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer called.Close()
	c.conn.Close()
	s.waitLog("handshake refused", "upstream_")
	if strings.Contains(s.log.String(), "the upstream") {
		t.Errorf("the upstream was blamed:\n%s", s.log)
	}
	s.refused(504, "upstream_timeout", "/chat", bearer(iss.token()))
	s.waitLog("the upstream cannot be reached")
}

// Whoever is let in by another credential and sends the first message too, as a
// page with a cookie would, keeps its token from the upstream all the same.
func TestAUT05FirstMessageBesideAnotherCredential(t *testing.T) {
	up, iss := newUpstream(t, nil), newIssuer(t, "https://idp.example")
	s := start(t, up, trustYAML(iss.name)+`
routes:
  - {path: /both, upstream: "ws://UPSTREAM", token_from: [header, first_message]}
`, iss.trusted)
	message := func(token string) string { return `{"wsbouncer":"auth","token":"` + token + `"}` }
	c := s.connect("/both", bearer(iss.token())).alive()
	later := iss.token(claims{"exp": time.Now().Add(8 * time.Minute).Unix()})
	c.text(message(later))
	m, err := c.next()
	if err != nil || !strings.HasPrefix(m.payload, `{"wsbouncer":"ok","expires_at":`) {
		t.Fatalf("%v %q", err, m.payload)
	}
	c.alive()
	d := s.connect("/both", bearer(iss.token())).alive()
	d.text(message(iss.token(claims{"sub": "mallory"})))
	d.closes(3003, "not_allowed")
	up.mu.Lock()
	for _, uc := range up.conns {
		for _, m := range uc.got() {
			if strings.Contains(m.payload, "wsbouncer") {
				t.Errorf("the upstream was told %.60s", m.payload)
			}
		}
	}
	up.mu.Unlock()
	// Subprotocols are case-sensitive: this is no carrier, and goes nowhere.
	s.refused(400, "bad_handshake", "/both", "Sec-WebSocket-Protocol: Bearer, "+later)
	s.refused(400, "bad_handshake", "/both", bearer(later), "Sec-WebSocket-Protocol: BEARER, "+later)
}
