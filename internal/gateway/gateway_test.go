package gateway_test

import (
	"bufio"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/bouncertest"
	"github.com/wsbouncer/wsbouncer/internal/frame"
	"github.com/wsbouncer/wsbouncer/internal/gateway"
	"github.com/wsbouncer/wsbouncer/internal/httpx"
	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/internal/relay"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait for something that must happen.
const patience = 20 * time.Second

const origin = "https://app.example.com"

// observe is an Observer.
type observe func(wsbouncer.Event)

func (o observe) Observe(e wsbouncer.Event) { o(e) }

// A rig is a gateway with one route, "/chat", and the upstream behind it.
type rig struct {
	t       testing.TB
	bouncer *wsbouncer.Bouncer
	issuer  *bouncertest.Issuer
	gateway *gateway.Gateway
	server  *httptest.Server
	log     logBuffer
}

// logBuffer is what the gateway told the operator.
type logBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// newRig starts a gateway before an upstream that does serve with every
// connection, its request read; the route's other upstreams come before it. opened
// is told of each connection that opens.
func newRig(t testing.TB, route gateway.Route, limits wsbouncer.Limits, serve func(net.Conn, *http.Request), opened func(*rig, wsbouncer.Event)) *rig {
	t.Helper()
	loops, _ := relay.NewLoops(2) // nil where there are none
	return newRigOn(t, loops, route, limits, serve, opened)
}

func newRigOn(t testing.TB, loops *relay.Loops, route gateway.Route, limits wsbouncer.Limits, serve func(net.Conn, *http.Request), opened func(*rig, wsbouncer.Event)) *rig {
	t.Helper()
	r := &rig{t: t, issuer: bouncertest.NewIssuer(t)}
	limits.HandshakesPerIP.PerSecond, limits.ConnectionsPerIP = -1, -1
	b, err := wsbouncer.New(wsbouncer.Options{
		Verifier: r.issuer.Verifier(), Origins: []string{origin}, Limits: limits, Logger: slog.New(slog.DiscardHandler),
		Observer: observe(func(e wsbouncer.Event) {
			if e.Kind == "opened" && opened != nil {
				opened(r, e)
			}
		}),
	})
	if err != nil {
		t.Fatal(err)
	}
	r.bouncer = b
	route.Path, route.Upstreams = "/chat", append(route.Upstreams, upstream(t, serve))
	g, err := gateway.New(gateway.Options{Loops: loops, Bouncer: b, Routes: []gateway.Route{route}, Peers: httpx.NewPeers(nil), Log: slog.New(slog.NewTextHandler(&r.log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	r.gateway = g
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = g.Run(ctx) })
	r.server = httptest.NewServer(g)
	t.Cleanup(func() {
		shutdown, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := b.Shutdown(shutdown, 0); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		r.server.Close()
		stop()
		running.Wait()
	})
	return r
}

// upstream serves one connection after the other's handshake was read.
func upstream(t testing.TB, serve func(net.Conn, *http.Request)) *url.URL {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(patience))
				if req, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
					serve(c, req)
				}
			})
		}
	})
	t.Cleanup(func() { l.Close(); running.Wait() })
	return &url.URL{Scheme: "ws", Host: l.Addr().String()}
}

// accepting is an upstream's 101, with extra header lines.
func accepting(req *http.Request, lines ...string) []byte {
	sum := sha1.Sum([]byte(req.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	head := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " +
		base64.StdEncoding.EncodeToString(sum[:]) + "\r\n"
	for _, l := range lines {
		head += l + "\r\n"
	}
	return []byte(head + "\r\n")
}

// client is a WebSocket client, down to the frames.
type client struct {
	t    testing.TB
	conn net.Conn
	br   *bufio.Reader
	res  *http.Response
}

// dial shakes hands and returns whatever the answer is.
func (r *rig) dial(lines ...string) *client {
	r.t.Helper()
	conn, err := net.Dial("tcp", r.server.Listener.Addr().String())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	c := &client{t: r.t, conn: conn, br: bufio.NewReader(conn)}
	fmt.Fprintf(conn, "GET /chat HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n%s\r\n", strings.Join(append(lines, ""), "\r\n"))
	if c.res, err = http.ReadResponse(c.br, nil); err != nil {
		r.t.Fatal(err)
	}
	return c
}

func bearer(token string) string { return "Authorization: Bearer " + token }

// send sends a text message.
func (c *client) send(text string) {
	c.t.Helper()
	if _, err := c.conn.Write(frame.Append(nil, frame.Text, []byte(text), true)); err != nil {
		c.t.Fatal(err)
	}
}

// next reads one frame.
func (c *client) next() (frame.Opcode, string) {
	c.t.Helper()
	var b []byte
	for {
		one, err := c.br.ReadByte()
		if err != nil {
			c.t.Fatalf("no frame: %v", err)
		}
		b = append(b, one)
		h, n, err := frame.ParseHeader(b)
		if err != nil {
			c.t.Fatal(err)
		}
		if n == 0 {
			continue
		}
		payload := make([]byte, h.Length)
		if _, err := io.ReadFull(c.br, payload); err != nil {
			c.t.Fatal(err)
		}
		return h.Op, string(payload)
	}
}

// closes demands that the very next frame is this close frame, and answers it.
func (c *client) closes(want wsbouncer.Reason) {
	c.t.Helper()
	op, payload := c.next()
	if op != frame.Close {
		c.t.Fatalf("before the close frame came %v %q", op, payload)
	}
	code, text, err := frame.ParseClose([]byte(payload))
	if err != nil || code != want.Code || text != want.Text {
		c.t.Fatalf("closed with %d %q (%v), want %d %q", code, text, err, want.Code, want.Text)
	}
	_, _ = c.conn.Write(frame.AppendClose(nil, code, "", true))
}

// drain reads until the peer has closed.
func drain(c net.Conn) { _, _ = io.Copy(io.Discard, c) }

// speaking accepts and, in the same write, says something.
func speaking(c net.Conn, req *http.Request) {
	_, _ = c.Write(frame.Append(accepting(req), frame.Text, []byte("for whoever was let in"), false))
	drain(c)
}

// The handshake's last step takes time: a revocation that is answered in it
// must find nothing forwarded, not even what the upstream had said already.
func TestNothingFollowsARevocationInTheHandshakesLastStep(t *testing.T) {
	r := newRig(t, gateway.Route{}, wsbouncer.Limits{}, speaking, func(r *rig, e wsbouncer.Event) {
		if n, err := r.bouncer.Revoke(t.Context(), wsbouncer.Session(e.Session)); err != nil || n != 1 {
			t.Errorf("revoked %d (%v)", n, err)
		}
	})
	for i := range 200 {
		c := r.dial(bearer(r.issuer.Token(fmt.Sprint("subject-", i))))
		if c.res.StatusCode == http.StatusSwitchingProtocols {
			c.closes(reason.SessionRevoked)
		}
		c.conn.Close()
	}
}

// The same, with the revocation on another goroutine: whichever of the two is
// first, the connection ends and the program goes on.
func TestRevocationsMeetHandshakesAnywhere(t *testing.T) {
	var revoking sync.WaitGroup
	r := newRig(t, gateway.Route{}, wsbouncer.Limits{}, speaking, func(r *rig, e wsbouncer.Event) {
		revoking.Go(func() { _, _ = r.bouncer.Revoke(context.Background(), wsbouncer.Session(e.Session)) })
	})
	for i := range 300 {
		c := r.dial(bearer(r.issuer.Token(fmt.Sprint("subject-", i))))
		if c.res.StatusCode == http.StatusSwitchingProtocols {
			op, payload := c.next()
			for op == frame.Text {
				op, payload = c.next()
			}
			if code, text, err := frame.ParseClose([]byte(payload)); err != nil || code != reason.SessionRevoked.Code || text != reason.SessionRevoked.Text {
				t.Fatalf("ended with %d %q (%v)", code, text, err)
			}
		}
		c.conn.Close()
	}
	revoking.Wait()
}

// After a first message too the client is told why it was let go.
func TestARevocationAfterTheFirstMessageNamesItself(t *testing.T) {
	r := newRig(t, gateway.Route{Demand: wsbouncer.Demand{TokenFrom: []string{"first_message"}}}, wsbouncer.Limits{}, speaking, func(r *rig, e wsbouncer.Event) {
		_, _ = r.bouncer.Revoke(t.Context(), wsbouncer.Session(e.Session))
	})
	for i := range 50 {
		c := r.dial()
		c.send(`{"wsbouncer":"auth","token":"` + r.issuer.Token(fmt.Sprint("subject-", i)) + `"}`)
		c.closes(reason.SessionRevoked)
		c.conn.Close()
	}
}

// Where the token comes in a first message the client has its 101 before the
// upstream is asked, so nothing can be negotiated between the two any more.
func TestNoExtensionAfterAFirstMessage(t *testing.T) {
	offered := make(chan string, 1)
	r := newRig(t, gateway.Route{Compression: true, Demand: wsbouncer.Demand{TokenFrom: []string{"first_message"}}}, wsbouncer.Limits{},
		func(c net.Conn, req *http.Request) {
			offer := req.Header.Get("Sec-WebSocket-Extensions")
			offered <- offer
			var lines []string
			if offer != "" {
				lines = append(lines, "Sec-WebSocket-Extensions: permessage-deflate")
			}
			_, _ = c.Write(accepting(req, lines...))
			drain(c)
		}, nil)
	c := r.dial("Sec-WebSocket-Extensions: permessage-deflate")
	if got := c.res.Header.Get("Sec-WebSocket-Extensions"); got != "" {
		t.Fatalf("the client was promised %q", got)
	}
	c.send(`{"wsbouncer":"auth","token":"` + r.issuer.Token("alice") + `"}`)
	if got := <-offered; got != "" {
		t.Errorf("the upstream was offered %q", got)
	}
	c.conn.Close()
}

// The wait for a first message has a time of its own; how long a client may
// take to read is another matter.
func TestAFirstMessageMayTakeItsTime(t *testing.T) {
	r := newRig(t, gateway.Route{Demand: wsbouncer.Demand{TokenFrom: []string{"first_message"}}},
		wsbouncer.Limits{WriteTimeout: 50 * time.Millisecond, HandshakeTimeout: time.Second}, speaking, nil)
	began := time.Now()
	c := r.dial()
	c.closes(reason.AuthTimeout)
	if took := time.Since(began); took < 900*time.Millisecond {
		t.Errorf("the client was given %s", took)
	}
}
