package wsbouncer_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/internal/frame"
	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/token"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	appOrigin = "https://app.example.com"
	issuer    = "https://issuer.test"
	sampleKey = "dGhlIHNhbXBsZSBub25jZQ=="
)

// wallet is a Verifier that knows the tokens a test gave it. Package token has
// its own tests; here it matters what the library makes of the answer.
type wallet struct {
	mu     sync.Mutex
	tokens map[string]*token.Token
	err    error
}

func newWallet() *wallet { return &wallet{tokens: map[string]*token.Token{}} }

func (w *wallet) Verify(_ context.Context, raw string) (*token.Token, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return nil, w.err
	}
	t, ok := w.tokens[raw]
	if !ok {
		return nil, &token.Error{Code: token.CodeSignature, Detail: "not of this wallet"}
	}
	if !time.Now().Before(t.Deadline()) {
		return nil, &token.Error{Code: token.CodeExpired}
	}
	return t, nil
}

// add makes a token that change may alter, and returns its text.
func (w *wallet) add(change func(*token.Token)) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(w.tokens)
	t := &token.Token{
		Issuer: issuer, Subject: "alice", Session: "s1", ID: fmt.Sprintf("jti-%d", n), KeyID: "k1", ClientID: "web",
		Scopes: []string{"chat"}, IssuedAt: time.Now().Add(-time.Second), Expiry: time.Now().Add(5 * time.Minute),
		Claims: token.Claims(`{"sub":"alice"}`),
	}
	if change != nil {
		change(t)
	}
	raw := fmt.Sprintf("eyJ.token-%d.sig", n)
	w.tokens[raw] = t
	return raw
}

func (w *wallet) token() string { return w.add(nil) }

// quiet drops logs.
func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// bouncer makes a Bouncer with a wallet, and shuts it down with the test.
func bouncer(t testing.TB, change func(*wsbouncer.Options)) (*wsbouncer.Bouncer, *wallet) {
	t.Helper()
	w := newWallet()
	o := wsbouncer.Options{
		Verifier: w, Issuer: issuer, Origins: []string{appOrigin}, Logger: quiet(),
		Limits: wsbouncer.Limits{HandshakesPerIP: wsbouncer.Rate{PerSecond: -1}, ConnectionsPerIP: -1, ConnectionsPerSubject: -1},
	}
	if change != nil {
		change(&o)
	}
	b, err := wsbouncer.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, stop := context.WithTimeout(context.Background(), 5*time.Second)
		defer stop()
		if err := b.Shutdown(ctx, 0); err != nil {
			t.Errorf("shutdown: %v", err)
		}
	})
	return b, w
}

// handshake is a valid one; change may alter it.
func handshake(change func(*http.Request)) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/chat/lobby", nil)
	r.Header.Set("Upgrade", "websocket")
	r.Header.Set("Connection", "keep-alive, Upgrade")
	r.Header.Set("Sec-WebSocket-Key", sampleKey)
	r.Header.Set("Sec-WebSocket-Version", "13")
	r.Header.Set("Origin", appOrigin)
	if change != nil {
		change(r)
	}
	return r
}

func bearer(raw string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+raw) }
}

// refusal is the refusal in err, which must be there.
func refusal(t testing.TB, err error) *wsbouncer.Refusal {
	t.Helper()
	var ref *wsbouncer.Refusal
	if !errors.As(err, &ref) {
		t.Fatalf("no refusal: %v", err)
	}
	return ref
}

func wantRefusal(t testing.TB, err error, want *wsbouncer.Refusal) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got %v, want %s", err, want.Code)
	}
	if got := refusal(t, err); got.Status != want.Status {
		t.Fatalf("%s with status %d, want %d", got.Code, got.Status, want.Status)
	}
}

// ender records how it was ended.
type ender struct {
	mu   sync.Mutex
	ends []wsbouncer.Reason
	done chan struct{}
}

func newEnder() *ender { return &ender{done: make(chan struct{})} }

func (e *ender) End(why wsbouncer.Reason) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ends = append(e.ends, why)
	if len(e.ends) == 1 {
		close(e.done)
	}
}

func (e *ender) all() []wsbouncer.Reason {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]wsbouncer.Reason(nil), e.ends...)
}

// open admits, tracks and opens a connection by raw.
func open(t testing.TB, b *wsbouncer.Bouncer, d wsbouncer.Demand, raw string) (*wsbouncer.Live, *ender) {
	t.Helper()
	a, err := b.Admit(handshake(bearer(raw)), d)
	if err != nil {
		t.Fatalf("admit: %v", err)
	}
	e := newEnder()
	l, err := b.Track(a, e)
	if err != nil {
		t.Fatalf("track: %v", err)
	}
	if err := l.Open(); err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { l.Release(reason.ClientGone) })
	return l, e
}

// client is the other end of a WebSocket, down to the frames.
type client struct {
	t    testing.TB
	conn net.Conn
	br   *bufio.Reader
	resp *http.Response
}

// dial shakes hands with the server at url.
func dial(t testing.TB, srv *httptest.Server, target string, header http.Header) *client {
	t.Helper()
	c := rawDial(t, srv)
	c.request(target, header)
	return c
}

func rawDial(t testing.TB, srv *httptest.Server) *client {
	t.Helper()
	conn, err := dialServer(srv)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	return &client{t: t, conn: conn, br: bufio.NewReader(conn)}
}

func head(target string, header http.Header) string {
	var b strings.Builder
	fmt.Fprintf(&b, "GET %s HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n", target)
	fmt.Fprintf(&b, "Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n", sampleKey)
	_ = header.Write(&b)
	b.WriteString("\r\n")
	return b.String()
}

func (c *client) request(target string, header http.Header) {
	c.t.Helper()
	if _, err := io.WriteString(c.conn, head(target, header)); err != nil {
		c.t.Fatal(err)
	}
	c.response()
}

func (c *client) response() {
	c.t.Helper()
	resp, err := http.ReadResponse(c.br, nil)
	if err != nil {
		c.t.Fatalf("no response: %v", err)
	}
	c.resp = resp
}

func (c *client) want101() *client {
	c.t.Helper()
	if c.resp.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(c.resp.Body)
		c.t.Fatalf("status %d: %s", c.resp.StatusCode, body)
	}
	return c
}

func (c *client) send(op frame.Opcode, payload string) {
	c.t.Helper()
	if _, err := c.conn.Write(frame.Append(nil, op, []byte(payload), true)); err != nil {
		c.t.Fatalf("send: %v", err)
	}
}

// next reads one frame.
func (c *client) next() (h frame.Header, payload []byte, err error) {
	var b []byte
	for {
		var n int
		if h, n, err = frame.ParseHeader(b); err != nil {
			return h, nil, err
		} else if n > 0 {
			break
		}
		one, err := c.br.ReadByte()
		if err != nil {
			return h, nil, err
		}
		b = append(b, one)
	}
	payload = make([]byte, h.Length)
	_, err = io.ReadFull(c.br, payload)
	return h, payload, err
}

func (c *client) wantText(want string) {
	c.t.Helper()
	h, payload, err := c.next()
	if err != nil || h.Op != frame.Text || string(payload) != want {
		c.t.Fatalf("got %v %q (%v), want %q", h.Op, payload, err, want)
	}
}

// wantClose reads until the close frame, answers it, and wants the end.
func (c *client) wantClose(want wsbouncer.Reason) {
	c.t.Helper()
	for {
		h, payload, err := c.next()
		if err != nil {
			c.t.Fatalf("no close frame: %v", err)
		}
		if h.Op != frame.Close {
			continue
		}
		code, text, err := frame.ParseClose(payload)
		if err != nil || code != want.Code || text != want.Text {
			c.t.Fatalf("closed %d %q (%v), want %d %q", code, text, err, want.Code, want.Text)
		}
		_, _ = c.conn.Write(frame.AppendClose(nil, code, "", true))
		if _, err := c.br.ReadByte(); err == nil {
			c.t.Fatal("bytes after the close frame")
		}
		return
	}
}
