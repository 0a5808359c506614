package e2e_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// through opens a connection as a proxy does: from one of its addresses, with a
// PROXY header, and nothing else yet.
func (s *server) through(proxy, header string) *client {
	s.t.Helper()
	d := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: net.ParseIP(proxy)}}
	conn, err := d.DialContext(s.t.Context(), "tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	c := &client{t: s.t, conn: conn, br: bufio.NewReader(conn)}
	if header != "" {
		c.send(header)
	}
	return c
}

const (
	proxyV1  = "PROXY TCP4 198.51.100.7 127.0.0.1 56789 443\r\n"
	proxyV2  = "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x13\xc6\x33\x64\x07\x7f\x00\x00\x01\xdd\xd5\x01\xbb\x04\x00\x04abcd"
	proxyV26 = "\r\n\r\n\x00\r\nQUIT\n\x21\x21\x00\x24\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x07" +
		"\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\xdd\xd5\x01\xbb"
	proxyLocal = "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"
)

// AUT-10, DOS-03: with the PROXY protocol the header is who the client is, for the
// limits, the log and the upstream; nobody but a trusted proxy can say so, and
// X-Forwarded-For counts only when the address it gives is a trusted proxy's too.
func TestAUT10ProxyProtocol(t *testing.T) {
	t.Parallel()
	up, iss := newUpstream(t, nil), newIssuer(t, "https://idp.example")
	s := start(t, up, trustYAML(iss.name)+`
public_url: https://rt.example.com
trusted_proxies: [127.0.0.1, 10.0.0.0/8]
proxy_protocol: true
routes:
  - {path: /chat, upstream: "ws://UPSTREAM"}
`+generous("connections_per_ip: 3"), iss.trusted)
	token := bearer(iss.token())
	forged := []string{siteHost, token, "X-Forwarded-For: 203.0.113.9"}
	for name, c := range map[string]struct{ header, want string }{
		"version 1":               {proxyV1, "198.51.100.7"},
		"version 2, with TLVs":    {proxyV2, "198.51.100.7"},
		"version 2, IPv6":         {proxyV26, "2001:db8::7"},
		"another proxy before it": {"PROXY TCP4 10.1.2.3 127.0.0.1 56789 443\r\n", "203.0.113.9"},
		"of unknown address":      {"PROXY UNKNOWN\r\n", "unknown"},
		"the proxy itself":        {proxyLocal, "203.0.113.9"},
	} {
		// The proxy may send all at once.
		c1 := s.through("127.0.0.1", c.header+s.upgrade("/chat", forged...))
		if a := c1.response(); a.status != 101 {
			t.Errorf("%s: %d %s", name, a.status, a.body)
			continue
		}
		c1.alive()
		if got := up.of(c1).req.Header["X-Forwarded-For"]; len(got) != 1 || got[0] != c.want {
			t.Errorf("%s: the upstream is told %q, want %q", name, got, c.want)
		}
		logged := c.want
		if logged == "unknown" {
			logged = ""
		}
		s.logged(map[string]any{"msg": "connection opened", "connection": c1.id, "ip": logged})
		c1.conn.Close()
	}
	eventually(t, "the places to be free", func() bool {
		return s.adminCall("GET", "/v1/status", nil).json["connections"] == 0.0
	})

	// Nobody gets further without.
	before := up.count()
	for name, c := range map[string]*client{
		"no header":                s.through("127.0.0.1", s.upgrade("/chat", forged...)),
		"a bad one":                s.through("127.0.0.1", "PROXY TCP4 198.51.100.7 127.0.0.1 56789 70000\r\n"+s.upgrade("/chat", forged...)),
		"an untrusted proxy":       s.through("127.0.0.2", proxyV1+s.upgrade("/chat", forged...)),
		"an untrusted one, silent": s.through("127.0.0.2", ""),
	} {
		if b, _ := io.ReadAll(c.br); len(b) > 0 {
			t.Errorf("%s: %q", name, b)
		}
	}
	s.waitLog("refused at the PROXY header", "127.0.0.1", "does not begin")
	s.waitLog("refused at the PROXY header", "127.0.0.1", "malformed")
	s.waitLog("refused at the PROXY header", "127.0.0.2", "no trusted proxy")
	if n := up.count() - before; n != 0 {
		t.Errorf("%d connections reached the upstream", n)
	}

	// The limit of an address is the client's.
	for range 3 {
		if a := s.through("127.0.0.1", proxyV1+s.upgrade("/chat", forged...)).response(); a.status != 101 {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	s.through("127.0.0.1", proxyV1+s.upgrade("/chat", forged...)).response().busy(t, 429, "too_many_connections")
	if a := s.through("127.0.0.1", strings.Replace(proxyV1, "198.51.100.7", "198.51.100.8", 1)+s.upgrade("/chat", forged...)).response(); a.status != 101 {
		t.Errorf("another client: %d %s", a.status, a.body)
	}
	// The proxy asks whether we live, and so does the command.
	if a := s.through("127.0.0.1", proxyLocal+"GET /healthz HTTP/1.1\r\nHost: rt.example.com\r\n\r\n").response(); a.status != 200 {
		t.Errorf("healthz: %d", a.status)
	}
	if out := s.cli("health"); out != "ready\n" {
		t.Errorf("health: %q", out)
	}
}

// A connection behind a PROXY header is as cheap as any: what is plain is carried
// by the event loops.
func TestProxyProtocolKeepsTheSocketPlain(t *testing.T) {
	t.Parallel()
	up, iss := newUpstream(t, nil), newIssuer(t, "https://idp.example")
	s := start(t, up, trustYAML(iss.name)+`
public_url: https://rt.example.com
trusted_proxies: [127.0.0.1]
proxy_protocol: true
routes:
  - {path: /chat, upstream: "ws://UPSTREAM"}
`+generous(), iss.trusted)
	goroutines := func() int { return int(s.adminCall("GET", "/v1/status", nil).json["goroutines"].(float64)) }
	before := goroutines()
	for i := range 50 {
		c := s.through("127.0.0.1", fmt.Sprintf("PROXY TCP4 198.51.100.%d 127.0.0.1 56789 443\r\n", i)+s.upgrade("/chat", siteHost, bearer(iss.token())))
		if a := c.response(); a.status != 101 {
			t.Fatalf("%d %s", a.status, a.body)
		}
		c.alive()
	}
	eventually(t, "no goroutine for each of 50 connections", func() bool { return goroutines() < before+25 })
}

// The header comes before TLS.
func TestProxyProtocolBeforeTLS(t *testing.T) {
	t.Parallel()
	up, iss, ca := newUpstream(t, nil), newIssuer(t, "https://idp.example"), newAuthority(t)
	s := start(t, up, strings.Replace(tlsYAML(iss, ""), "trusted_proxies: [192.0.2.1]", "trusted_proxies: [127.0.0.1]\nproxy_protocol: true", 1), iss.trusted, ca.served)
	conn := tls.Client(s.through("127.0.0.1", proxyV2).conn, &tls.Config{RootCAs: ca.pool(), ServerName: "rt.example.com"})
	c := &client{t: t, conn: conn, br: bufio.NewReader(conn)}
	if a := c.send(s.upgrade("/chat", siteHost, bearer(iss.token()))).response(); a.status != 101 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	c.alive()
	if h := up.of(c).req.Header; h.Get("X-Forwarded-For") != "198.51.100.7" || h.Get("X-Forwarded-Proto") != "https" {
		t.Errorf("%v", h)
	}
	s.revoke(iss, "subject", "alice")
	c.closes(3000, "subject_revoked")
	if b, _ := io.ReadAll(tls.Client(s.through("127.0.0.2", proxyV2).conn, &tls.Config{RootCAs: ca.pool(), ServerName: "rt.example.com"})); len(b) > 0 {
		t.Errorf("an untrusted proxy: %q", b)
	}
}
