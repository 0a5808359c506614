package e2e_test

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/wsbouncer/wsbouncer/internal/frame"
)

// crowd is a server with many connections that all talk, in one of the ways in
// which connections are carried.
type crowd struct {
	*server
	iss    *issuer
	up     *upstream
	cert   certificate
	secure bool
	head   string // lines of the configuration that stay
}

// echoToTheEnd is echo, but for what it does not get rid of: it reads to the end all the
// same, so that what it received is known.
func echoToTheEnd(c *upConn) {
	c.accept()
	for {
		m, err := c.next()
		if err != nil {
			return
		}
		if m.op == frame.Ping {
			m.op = frame.Pong
		}
		_, _ = c.Write(appendFrame(nil, m, false)) // a close frame, too
		if m.op == frame.Close {
			return
		}
	}
}

func everyWay(t *testing.T, drain string, f func(t *testing.T, c *crowd)) {
	for _, way := range []string{"relay: epoll", "relay: goroutine", "tls: {cert: cert.pem, key: key.pem}"} {
		name, _, _ := strings.Cut(strings.TrimPrefix(way, "relay: "), ":")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := &crowd{
				up: newUpstream(t, echoToTheEnd), iss: newIssuer(t, "https://idp.example"), cert: newCertificate(t, "rt.example.com"), secure: name == "tls",
				head: fmt.Sprintf("drain: %s\npublic_url: https://rt.example.com\ntrusted_proxies: [192.0.2.1]\n%s\n", drain, way) + generous(),
			}
			yaml := c.head + trustYAML(c.iss.name) + "routes:\n  - {path: /chat, upstream: \"ws://UPSTREAM\"}\n"
			c.server = start(t, c.up, yaml, c.iss.trusted, func(s *server) { s.file("cert.pem", c.cert.cert); s.file("key.pem", c.cert.key) })
			f(t, c)
		})
	}
}

func (c *crowd) join(iss *issuer) *client {
	c.t.Helper()
	token := iss.token(claims{"sub": strconv.FormatInt(iss.jti.Load(), 10)})
	if c.secure {
		return c.secured(c.cert, token)
	}
	return c.connect("/chat", siteHost, bearer(token))
}

// speech is what a client says as its nth message.
func speech(n int) string { return fmt.Sprintf("#%d ", n) + strings.Repeat("x", n*7919%20_000) }

// speak sends one message after the other until the connection ends, and says how
// many.
func (c *client) speak() (sent int) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for range tick.C {
		if _, err := c.conn.Write(frame.Append(nil, frame.Text, []byte(speech(sent+1)), true)); err != nil {
			break
		}
		sent++
	}
	return sent
}

// PRX-05: everybody who talks while the program is told to stop is told to come
// back, in turn; the upstream receives whole messages only; and the program is
// gone when it said it would be.
func TestPRX05DrainUnderLoad(t *testing.T) {
	t.Parallel()
	everyWay(t, "1s", func(t *testing.T, c *crowd) {
		const many = 20
		var conns []*client
		var ends []<-chan ending
		var talks sync.WaitGroup
		for range many {
			conn := c.join(c.iss)
			conns, ends = append(conns, conn), append(ends, conn.watch())
			talks.Go(func() { conn.speak() })
		}
		eventually(t, "everybody to talk", func() bool {
			for _, conn := range conns {
				if len(c.up.of(conn).got()) < 10 {
					return false
				}
			}
			return true
		})
		began := time.Now()
		if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		last := 0
		for _, e := range ends {
			at := (<-e).want(t, 1012, "restarting").at.Sub(began)
			last = max(last, int(at*4/time.Second))
		}
		if last < 3 {
			t.Errorf("all were told in the first %d quarters of the drain", last+1)
		}
		if code := c.wait(); code != 0 {
			t.Errorf("exit code %d", code)
		}
		if d := time.Since(began); d > 2*time.Second+loaded { // the last one may take a second to answer
			t.Errorf("it took %v to end, drain is 1 s", d)
		}
		talks.Wait()
		for _, conn := range conns {
			uc := c.up.of(conn)
			uc.closed(1012, "restarting")
			n := 0
			for _, m := range uc.got() {
				if m.op.IsControl() {
					continue
				}
				if n++; m.payload != speech(n) || !m.fin {
					t.Fatalf("message %d arrived as %d bytes: %.20q", n, len(m.payload), m.payload)
				}
			}
		}
	})
}

// PRX-05: what a reload changes, it cuts nobody off who satisfies what is new,
// and loses nothing.
func TestPRX05ReloadUnderLoad(t *testing.T) {
	t.Parallel()
	everyWay(t, "0s", func(t *testing.T, c *crowd) {
		const many = 10
		var stop atomic.Bool
		var talks sync.WaitGroup
		var conns []*client
		for range many {
			conn := c.join(c.iss)
			conns = append(conns, conn)
			talks.Go(func() {
				tick := time.NewTicker(2 * time.Millisecond)
				defer tick.Stop()
				for n := 1; !stop.Load() && !t.Failed(); n++ {
					<-tick.C
					_ = conn.conn.SetDeadline(time.Now().Add(patience))
					if _, err := conn.conn.Write(frame.Append(nil, frame.Text, []byte(speech(n)), true)); err != nil {
						t.Errorf("message %d: %v", n, err)
						return
					}
					m, err := conn.next()
					if err != nil || m.payload != speech(n) {
						t.Errorf("instead of the echo of message %d: %v %.20q %v", n, m.op, m.payload, err)
						return
					}
				}
			})
		}
		other := newIssuer(t, "https://other.example")
		key := func(i *issuer, kid string) jose.JSONWebKey {
			return jose.JSONWebKey{Key: i.key.Public(), KeyID: kid, Algorithm: "ES256", Use: "sig"}
		}
		more, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{key(other, "k2"), key(c.iss, "k1")}})
		if err != nil {
			t.Fatal(err)
		}
		c.file("other.json", other.jwks())
		second := newUpstream(t, nil)
		trust := trustYAML(c.iss.name)
		both := trust + strings.Replace(strings.TrimPrefix(trustYAML(other.name), "trust:\n"), "jwks.json", "other.json", 1)
		chat := func(rest string) string {
			return fmt.Sprintf("routes:\n  - {path: \"/chat\", upstream: \"ws://%s\"%s}\n", c.up.addr, rest)
		}
		var foreign *client
		for range 3 {
			for _, change := range []struct {
				what, yaml string
				before     func()
			}{
				{"limits", trust + chat(", limits: {message_bytes: 64KiB, message_rate: {rate: 100000/s, burst: 100000}, idle_timeout: 10s}"), nil},
				{"a route more", trust + chat("") + "  - {path: /more, upstream: \"ws://" + second.addr + "\"}\n", nil},
				{"an upstream more", trust + strings.Replace(chat(""), `"ws://`+c.up.addr+`"`, `["ws://`+c.up.addr+`", "ws://`+second.addr+`"]`, 1), nil},
				{"another pattern", trust + strings.Replace(chat(""), "/chat", "/{room}", 1), nil},
				{"an issuer more", both + chat(""), nil},
				{"keys more", both + chat(""), func() {
					foreign = c.join(other).alive()
					c.file("jwks.json", string(more))
				}},
				{"an issuer and keys fewer", trust + chat(""), func() { c.file("jwks.json", c.iss.jwks()) }},
				{"a certificate", trust + chat(""), func() {
					c.cert = newCertificate(t, "rt.example.com")
					c.file("cert.pem", c.cert.cert)
					c.file("key.pem", c.cert.key)
				}},
			} {
				if change.before != nil {
					change.before()
				}
				c.writeConfig(c.head + change.yaml)
				c.hangup("reloaded")
				if change.what == "an issuer and keys fewer" {
					foreign.closes(3000, "key_revoked") // it alone does not satisfy it
				}
				c.join(c.iss).alive().conn.Close()
				if t.Failed() {
					t.Fatalf("after a change of %s", change.what)
				}
			}
		}
		stop.Store(true)
		talks.Wait()
		for _, conn := range conns {
			conn.alive()
		}
	})
}
