package e2e_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/frame"
)

// badAnswers are answers to the upgrade that are no valid 101, by path. CANARY
// stands for another server's address, ACCEPT for the right accept value.
var badAnswers = map[string]string{
	"200":                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
	"200-with-upgrade":   "HTTP/1.1 200 OK\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ACCEPT\r\n\r\n",
	"204":                "HTTP/1.1 204 No Content\r\n\r\n",
	"302":                "HTTP/1.1 302 Found\r\nLocation: http://CANARY/\r\nContent-Length: 0\r\n\r\n",
	"307":                "HTTP/1.1 307 Temporary Redirect\r\nLocation: ws://CANARY/\r\nContent-Length: 0\r\n\r\n",
	"400":                "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
	"401":                "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n",
	"426":                "HTTP/1.1 426 Upgrade Required\r\nSec-WebSocket-Version: 8\r\nContent-Length: 0\r\n\r\n",
	"500-with-stack":     "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 20\r\n\r\npanic at /srv/app.go:",
	"100-then-101":       "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ACCEPT\r\n\r\n",
	"101-no-upgrade":     "HTTP/1.1 101 X\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ACCEPT\r\n\r\n",
	"101-h2c":            "HTTP/1.1 101 X\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ACCEPT\r\n\r\n",
	"101-two-upgrades":   "HTTP/1.1 101 X\r\nUpgrade: websocket\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ACCEPT\r\n\r\n",
	"101-no-connection":  "HTTP/1.1 101 X\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: ACCEPT\r\n\r\n",
	"101-no-accept":      "HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
	"101-wrong-accept":   "HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
	"101-two-accepts":    "HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ACCEPT\r\nSec-WebSocket-Accept: ACCEPT\r\n\r\n",
	"101-http10":         "HTTP/1.0 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ACCEPT\r\n\r\n",
	"101-protocol":       "HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ACCEPT\r\nSec-WebSocket-Protocol: other\r\n\r\n",
	"101-two-protocols":  "HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ACCEPT\r\nSec-WebSocket-Protocol: chat\r\nSec-WebSocket-Protocol: chat\r\n\r\n",
	"101-extension":      "HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ACCEPT\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n",
	"no-http":            "SSH-2.0-OpenSSH_9.6\r\n",
	"nothing":            "",
	"half-a-head":        "HTTP/1.1 101 X\r\nUpgrade: webs",
	"head-above-16-KiB":  "HTTP/1.1 101 X\r\nX-Long: " + strings.Repeat("x", 17<<10) + "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ACCEPT\r\n\r\n",
	"folded-101-headers": "HTTP/1.1 101 X\r\nUpgrade: websocket, h2c\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ACCEPT\r\n\r\n",
}

// Only a sound 101 makes a tunnel: after any other answer the client has an
// HTTP error, and what it writes then reaches nobody.
func TestHS04HS12UpstreamAnswersThatAreNo101(t *testing.T) {
	t.Parallel()
	canary := newUpstream(t, nil)
	leftover := make(chan string, 1)
	up := newUpstream(t, func(c *upConn) {
		text := badAnswers[strings.TrimPrefix(c.req.URL.Path, "/bad/")]
		text = strings.NewReplacer("ACCEPT", acceptOf(c), "CANARY", canary.addr).Replace(text)
		_, _ = io.WriteString(c, text)
		if text == "" || strings.HasSuffix(text, "webs") {
			return // closed at once
		}
		rest, _ := io.ReadAll(c.br)
		leftover <- string(rest)
	})
	s, iss := gate(t, up, `
  - {path: "/bad/{how}", upstream: "ws://UPSTREAM"}
`)
	each(t, s, badAnswers, func(t *testing.T, s *server, text string) {
		name := t.Name()[strings.LastIndex(t.Name(), "/")+1:]
		c, a := s.handshake("/bad/"+name, bearer(iss.token()), "Sec-WebSocket-Protocol: chat", "Sec-WebSocket-Extensions: permessage-deflate")
		if a.status != 502 || a.code() != "upstream_refused" {
			t.Fatalf("%d %q, want 502 upstream_refused", a.status, a.code())
		}
		for name, values := range a.header {
			if all := strings.ToLower(fmt.Sprint(name, values)); strings.Contains(all, "upgrade") || strings.Contains(all, "websocket") || strings.Contains(all, "basic") {
				t.Errorf("the upstream's header %s %q came through", name, values)
			}
		}
		for _, inside := range []string{up.addr, canary.addr, "127.0.0.1", "/srv/", "panic", ".go", "Accept"} {
			if strings.Contains(string(a.body), inside) {
				t.Errorf("the error discloses %q: %s", inside, a.body)
			}
		}
		// The connection may be kept for HTTP; it is no way to the upstream.
		_, _ = io.WriteString(c.conn, "GET /internal HTTP/1.1\r\nHost: "+s.addr+"\r\n\r\n")
		if a, err := c.tryResponse(); err == nil && a.status != 404 {
			t.Errorf("/internal: %d", a.status)
		}
		if text == "" || strings.HasSuffix(text, "webs") {
			return
		}
		select {
		case rest := <-leftover:
			if rest != "" {
				t.Errorf("after its answer the upstream received %q", rest)
			}
		case <-time.After(patience):
			t.Error("the upstream's connection was left open")
		}
	})
	if canary.count() != 0 {
		t.Errorf("%d redirects were followed", canary.count())
	}
	if up.count() != len(badAnswers) {
		t.Errorf("%d connections to the upstream for %d handshakes", up.count(), len(badAnswers))
	}
}

// A refused upgrade with trailing bytes meets nobody else's request.
func TestHS08UpstreamConnectionsAreNotShared(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, script{"/attack": func(c *upConn) {
		const twice = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nattacker"
		_, _ = io.WriteString(c, twice+twice)
		_, _ = io.Copy(io.Discard, c.br)
	}}.serve)
	s, iss := gate(t, up, `
  - {path: /attack, upstream: "ws://UPSTREAM"}
  - {path: /victim, upstream: "ws://UPSTREAM"}
`)
	attacker, victim := bearer(iss.token()), bearer(iss.token(claims{"sub": "bob"}))
	const rounds = 100
	for range rounds {
		a, answer := s.handshake("/attack", attacker)
		v, got := s.handshake("/victim", victim)
		if answer.status != 502 || got.status != 101 {
			t.Fatalf("attacker %d, victim %d %s", answer.status, got.status, got.body)
		}
		v.alive()
		a.conn.Close()
		v.conn.Close()
	}
	if up.count() != 2*rounds {
		t.Errorf("%d connections for %d handshakes", up.count(), 2*rounds)
	}
}

func TestPRX04UpstreamDownOrSilent(t *testing.T) {
	t.Parallel()
	down := freeAddr(t)
	hang := func(c *upConn) { _, _ = io.Copy(io.Discard, c.br) }
	up := newUpstream(t, script{
		"/hang": hang,
		"/drip": func(c *upConn) { // a byte now and then is no answer either
			tick := time.NewTicker(50 * time.Millisecond)
			defer tick.Stop()
			for _, b := range []byte("HTTP/1.1 101 X\r\nX-Slow: " + strings.Repeat("z", 1000)) {
				<-tick.C
				if _, err := c.Write([]byte{b}); err != nil {
					return
				}
			}
		},
		"/close/hang": hang,
	}.serve)
	s, iss := gate(t, up, strings.ReplaceAll(`
  - {path: /down, upstream: "ws://DOWN"}
  - {path: /secure, upstream: "wss://UPSTREAM"}
  - {path: /hang, upstream: "ws://UPSTREAM"}
  - {path: /drip, upstream: "ws://UPSTREAM"}
  - {path: /either, upstream: ["ws://DOWN", "ws://UPSTREAM"]}
  - {path: /other, upstream: ["ws://UPSTREAM", "ws://DOWN"]}
  - {path: /close/down, upstream: "ws://DOWN", reject: close}
  - {path: /close/hang, upstream: "ws://UPSTREAM", reject: close}
`, "DOWN", down), "handshake_timeout: 1s")
	token := bearer(iss.token())
	discloses := func(a *answer) {
		t.Helper()
		for _, inside := range []string{up.addr, down, "127.0.0.1", "dial", "tcp", ".go", "x509", "tls"} {
			if strings.Contains(strings.ToLower(fmt.Sprint(a.header)+string(a.body)), inside) {
				t.Errorf("the error discloses %q: %s", inside, a.body)
			}
		}
		if a.header.Get("Cache-Control") != "no-store" {
			t.Errorf("Cache-Control is %q", a.header.Get("Cache-Control"))
		}
	}
	discloses(s.refused(502, "upstream_refused", "/down", token))
	for _, path := range []string{"/hang", "/drip"} {
		began := time.Now()
		discloses(s.refused(504, "upstream_timeout", path, token))
		if d := time.Since(began); d < 900*time.Millisecond || d > 5*time.Second {
			t.Errorf("%s: gave up after %v, handshake_timeout is 1 s", path, d)
		}
	}
	// The operator learns what the client does not.
	s.waitLog("upstream", down, `"route":"/down"`)

	for path, code := range map[string]string{"/close/down": "upstream_refused", "/close/hang": "upstream_timeout"} {
		s.connect(path, token).closes(1013, code)
	}
	for range 6 { // one of a list is down
		s.connect("/either", token).alive().conn.Close()
		s.connect("/other", token).alive().conn.Close()
	}
}

// PRX-03: a plain-text server behind wss, and a certificate nobody vouches for.
func TestPRX03UpstreamTLSIsVerified(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	requests := &tally[string]{}
	unknown := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { requests.add(r.URL.Path) })}
	cert, key := unvouched(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = unknown.ServeTLS(l, cert, key)
	}()
	t.Cleanup(func() {
		unknown.Close()
		<-done
	})
	s, iss := gate(t, up, strings.ReplaceAll(`
  - {path: /plain, upstream: "wss://UPSTREAM"}
  - {path: /unknown, upstream: "wss://TLS"}
`, "TLS", l.Addr().String()))
	for _, path := range []string{"/plain", "/unknown"} {
		a := s.refused(502, "upstream_refused", path, bearer(iss.token()))
		if strings.Contains(string(a.body), "certificate") {
			t.Errorf("%s: %s", path, a.body)
		}
		s.waitLog("upstream", `"route":"`+path+`"`)
	}
	if got := requests.list(); len(got) > 0 {
		t.Errorf("an unverified upstream was asked for %q", got)
	}
}

// hostileFrames are what an upstream may not send, and the close code it and
// the client get for it.
var hostileFrames = map[string]struct {
	raw  []byte
	code uint16
	text string
}{
	"masked":                {appendFrame(nil, message{frame.Text, true, "hello"}, true), 1002, "protocol_error"},
	"rsv1":                  {[]byte{0xc1, 1, 'x'}, 1002, "protocol_error"},
	"rsv2":                  {[]byte{0xa1, 1, 'x'}, 1002, "protocol_error"},
	"rsv3":                  {[]byte{0x91, 1, 'x'}, 1002, "protocol_error"},
	"opcode-3":              {[]byte{0x83, 0}, 1002, "protocol_error"},
	"opcode-b":              {[]byte{0x8b, 0}, 1002, "protocol_error"},
	"fragmented-ping":       {[]byte{0x09, 0}, 1002, "protocol_error"},
	"ping-of-126":           {append([]byte{0x89, 126, 0, 126}, make([]byte, 126)...), 1002, "protocol_error"},
	"continuation-of-none":  {[]byte{0x80, 1, 'x'}, 1002, "protocol_error"},
	"text-inside-text":      {[]byte{0x01, 1, 'x', 0x81, 1, 'y'}, 1002, "protocol_error"},
	"long-form-of-5":        {[]byte{0x82, 126, 0, 5, 1, 2, 3, 4, 5}, 1002, "protocol_error"},
	"long-form-of-300":      {[]byte{0x82, 127, 0, 0, 0, 0, 0, 0, 1, 44}, 1002, "protocol_error"},
	"length-2^63":           {[]byte{0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0}, 1002, "protocol_error"},
	"length-2^63-1":         {[]byte{0x82, 127, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, 1009, "message_too_big"},
	"above-message-bytes":   {[]byte{0x82, 127, 0, 0, 0, 0, 0, 1, 0, 1}, 1009, "message_too_big"},
	"close-1005":            {[]byte{0x88, 2, 0x03, 0xed}, 1002, "protocol_error"},
	"close-1006":            {[]byte{0x88, 2, 0x03, 0xee}, 1002, "protocol_error"},
	"close-1015":            {[]byte{0x88, 2, 0x03, 0xf7}, 1002, "protocol_error"},
	"close-999":             {[]byte{0x88, 2, 0x03, 0xe7}, 1002, "protocol_error"},
	"close-of-one-byte":     {[]byte{0x88, 1, 0x03}, 1002, "protocol_error"},
	"close-reason-no-utf8":  {[]byte{0x88, 3, 0x03, 0xe8, 0xff}, 1007, "invalid_payload"},
	"text-no-utf8":          {[]byte{0x81, 2, 0xc3, 0x28}, 1007, "invalid_payload"},
	"text-half-a-character": {[]byte{0x01, 1, 0xe2, 0x80, 1, 0x82}, 1007, "invalid_payload"},
}

// FRM-03: a client behind a hostile upstream gets legal frames only, and the
// close code that says what was wrong.
func TestFRM03UpstreamFrames(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, func(c *upConn) {
		c.accept()
		_, _ = c.Write(append([]byte{0x81, 5}, "first"...))
		_, _ = c.Write(hostileFrames[strings.TrimPrefix(c.req.URL.Path, "/f/")].raw)
		c.listen()
	})
	s, iss := gate(t, up, `
  - {path: "/f/{how}", upstream: "ws://UPSTREAM", utf8: check, limits: {message_bytes: 64KiB}}
`)
	for name, f := range hostileFrames {
		t.Run(name, func(t *testing.T) {
			c := s.within(t).connect("/f/"+name, bearer(iss.token())).receives("first")
			c.onlyCloses(f.code, f.text, name)
			up.of(c).closed(f.code, f.text)
		})
	}
	s.connect("/f/none", bearer(iss.token())).receives("first") // it lives
}

// onlyCloses is closes for where no data may come before: but for whole
// fragments before the one that broke the rule.
func (c *client) onlyCloses(code uint16, text, name string) {
	c.t.Helper()
	if strings.HasPrefix(name, "text-inside") || strings.HasPrefix(name, "text-half") {
		if m, err := c.next(); err != nil || m.op != frame.Text || m.fin {
			c.t.Fatalf("the first fragment: %v %v", m, err)
		}
	}
	m, err := c.next()
	if err != nil || m.op != frame.Close {
		c.t.Fatalf("instead of %d came %v %q (%v)", code, m.op, m.payload, err)
	}
	if got, why, err := frame.ParseClose([]byte(m.payload)); err != nil || got != code || why != text {
		c.t.Fatalf("closed with %d %q (%v), want %d %q", got, why, err, code, text)
	}
	_, _ = c.conn.Write(frame.AppendClose(nil, code, "", true))
	c.ends()
}

// FRM-07: an upstream that vanishes becomes a legal close code; inside a frame
// no close frame can stand, so the connection is cut there.
func TestFRM07UpstreamVanishes(t *testing.T) {
	t.Parallel()
	vanish := func(raw string, reset bool) func(*upConn) {
		return func(c *upConn) {
			c.accept()
			_, _ = io.WriteString(c, raw)
			if m, err := c.next(); err == nil && m.payload != "die" {
				c.up.t.Errorf("received %q", m.payload)
			}
			if reset {
				_ = c.Conn.(*net.TCPConn).SetLinger(0)
			}
			c.Close()
		}
	}
	up := newUpstream(t, script{
		"/v/clean":         vanish("\x81\x02hi", false),
		"/v/reset":         vanish("\x81\x02hi", true),
		"/v/mid-message":   vanish("\x01\x02hi", false),
		"/v/mid-header":    vanish("\x81\x02hi\x81", false),
		"/v/mid-frame":     vanish("\x81\x05hi", false),
		"/v/mid-ping":      vanish("\x81\x02hi\x89\x05p", false),
		"/v/reset-frame":   vanish("\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00hi", true),
		"/v/at-once":       func(c *upConn) { c.accept() },
		"/v/at-once-close": func(c *upConn) { c.accept(); _, _ = c.Write([]byte("\x88\x02\x03\xe9")) },
		"/v/no-code":       func(c *upConn) { c.accept(); _, _ = c.Write([]byte("\x88\x00")); c.listen() },
	}.serve)
	s, iss := gate(t, up, `
  - {path: "/v/{how}", upstream: "ws://UPSTREAM"}
`)
	token := bearer(iss.token())
	for name, cut := range map[string]bool{
		"clean": false, "reset": false, "mid-message": false, "mid-header": false, "mid-ping": false, "mid-frame": true, "reset-frame": true,
	} {
		t.Run(name, func(t *testing.T) {
			c := s.within(t).connect("/v/"+name, token)
			if !cut {
				if m, err := c.next(); err != nil || m.payload != "hi" {
					t.Fatal(m, err)
				}
				c.text("die").closes(1013, "upstream_gone")
				return
			}
			// What had come of the frame may be there, and no more.
			if _, err := readHeaderOnly(c); err != nil {
				t.Fatal(err)
			}
			var hi [2]byte
			if _, err := io.ReadFull(c.br, hi[:]); err != nil || string(hi[:]) != "hi" {
				t.Fatalf("%q %v", hi, err)
			}
			c.text("die").cut()
		})
	}
	s.connect("/v/at-once", token).closes(1013, "upstream_gone")
	s.connect("/v/at-once-close", token).closes(1001, "")
	s.connect("/v/no-code", token).closesWithoutCode()
}

// readHeaderOnly reads a frame's header and leaves its payload.
func readHeaderOnly(c *client) (frame.Header, error) {
	_ = c.conn.SetReadDeadline(time.Now().Add(patience))
	for n := 2; ; n++ {
		b, err := c.br.Peek(n)
		if err != nil {
			return frame.Header{}, err
		}
		if h, k, err := frame.ParseHeader(b); err != nil || k > 0 {
			_, _ = c.br.Discard(k)
			return h, err
		}
	}
}

// closesWithoutCode demands a close frame that says nothing.
func (c *client) closesWithoutCode() {
	c.t.Helper()
	m, err := c.next()
	if err != nil || m.op != frame.Close || m.payload != "" {
		c.t.Fatalf("received %v %q %v", m.op, m.payload, err)
	}
	_, _ = c.conn.Write(frame.AppendClose(nil, frame.NoStatus, "", true))
	c.ends()
}

// unvouched writes a certificate for 127.0.0.1 that nobody signed but itself.
func unvouched(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, b []byte) string {
		name = filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	return write("cert.pem", "CERTIFICATE", der), write("key.pem", "PRIVATE KEY", raw)
}
