package relay_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"io"
	"math/big"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/wsbouncer/wsbouncer/internal/frame"
	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/internal/relay"
)

func TestMain(m *testing.M) {
	// Tests that run beside each other here wait for clocks, not for processors.
	flag.Parse()
	_ = flag.Set("test.parallel", "12")
	goleak.VerifyTestMain(stopping{m})
}

// loops are for all tests, as they are for all connections.
var (
	loopsDone chan error
	endLoops  context.CancelFunc
	loops     = sync.OnceValue(func() *relay.Loops {
		l, err := relay.NewLoops(2)
		if err != nil {
			return nil // not Linux: these rigs are as the others
		}
		var ctx context.Context
		ctx, endLoops = context.WithCancel(context.Background())
		loopsDone = make(chan error, 1)
		go func() { loopsDone <- l.Run(ctx) }()
		return l
	})
)

// stopping are the tests and the end of their loops.
type stopping struct{ m *testing.M }

func (s stopping) Run() int {
	code := s.m.Run()
	if endLoops != nil {
		endLoops()
		<-loopsDone
	}
	return code
}

// ended is what OnEnd was told.
type ended struct {
	end   reason.End
	stats relay.Stats
}

// A rig is a relayed connection with both its peers in the test's hands.
type rig struct {
	t                testing.TB
	client, upstream net.Conn // the peers' own ends
	conn             *relay.Conn
	ends             chan ended
}

// kinds are the streams a relay runs over: client side, upstream side.
var kinds = []string{"tcp-tcp", "epoll-epoll", "socket-socket", "socket-epoll", "socket-pipe", "tls-tcp", "tls-tls", "pipe-pipe", "tcp-pipe", "pipe-tcp"}

func everyKind(t *testing.T, f func(t *testing.T, kind string)) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) { f(t, kind) })
	}
}

// everyKindAtOnce is everyKind for tests that mostly wait.
func everyKindAtOnce(t *testing.T, f func(t *testing.T, kind string)) {
	everyKind(t, func(t *testing.T, kind string) {
		t.Parallel()
		f(t, kind)
	})
}

func newRig(t testing.TB, kind string, configure func(*relay.Config)) *rig {
	t.Helper()
	r := &rig{t: t, ends: make(chan ended, 2)}
	cfg := relay.Config{Limits: new(relay.Limits)}
	i := len(kind)
	for i = range kind {
		if kind[i] == '-' {
			break
		}
	}
	r.client, cfg.Client = pair(t, kind[:i])
	r.upstream, cfg.Upstream = pair(t, kind[i+1:])
	cfg.OnEnd = func(e reason.End, s relay.Stats) { r.ends <- ended{e, s} }
	if configure != nil {
		configure(&cfg)
	}
	if strings.HasPrefix(kind, "epoll") || strings.HasPrefix(kind, "socket") {
		cfg.Loops = loops()
	}
	r.conn = relay.Start(cfg)
	t.Cleanup(func() {
		_ = r.client.Close()
		_ = r.upstream.Close()
		if !t.Failed() {
			r.wait()
		}
	})
	return r
}

// wait returns what OnEnd was told, and is repeatable.
func (r *rig) wait() ended {
	r.t.Helper()
	select {
	case e := <-r.ends:
		r.ends <- e
		if len(r.ends) > 1 {
			r.t.Fatal("OnEnd was called twice")
		}
		return e
	case <-time.After(10 * time.Second):
		r.t.Fatal("the connection did not end")
	}
	panic("unreachable")
}

func pair(t testing.TB, kind string) (outer net.Conn, inner relay.Stream) {
	t.Helper()
	switch kind {
	case "pipe":
		a, b := net.Pipe()
		return newReader(a), b
	case "tcp", "epoll":
		return tcpPair(t)
	case "socket":
		return socketPair(t)
	case "tls":
		a, b := tcpPair(t)
		return tlsPair(t, a, b)
	}
	t.Fatalf("no such stream: %s", kind)
	return nil, nil
}

// socketPair's inner end is a loop's, which has already spoken.
func socketPair(t testing.TB) (outer net.Conn, inner relay.Stream) {
	t.Helper()
	if loops() == nil {
		return tcpPair(t)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s, err := loops().Dial(t.Context(), l.Addr().(*net.TCPAddr).AddrPort(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if outer, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	var b [8]byte
	_ = s.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := s.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	expect(t, outer, []byte("hello"))
	send(t, outer, []byte("and you"))
	if n, err := s.Read(b[:]); string(b[:n]) != "and you" || err != nil {
		t.Fatalf("%q %v", b[:n], err)
	}
	_ = s.SetDeadline(time.Time{})
	return outer, s
}

func tcpPair(t testing.TB) (outer, inner net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if outer, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if inner, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return outer, inner
}

var certificate = sync.OnceValue(func() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
})

func tlsPair(t testing.TB, a, b net.Conn) (outer, inner net.Conn) {
	t.Helper()
	client := tls.Client(a, &tls.Config{InsecureSkipVerify: true})
	server := tls.Server(b, &tls.Config{Certificates: []tls.Certificate{certificate()}, SessionTicketsDisabled: true})
	done := make(chan error, 1)
	go func() { done <- server.Handshake() }()
	if err := errors.Join(client.Handshake(), <-done); err != nil {
		t.Fatal(err)
	}
	return client, server
}

// up and down make frames as the client and the upstream send them.
func up(op frame.Opcode, payload string) []byte {
	return frame.Append(nil, op, []byte(payload), true)
}

func down(op frame.Opcode, payload string) []byte {
	return frame.Append(nil, op, []byte(payload), false)
}

// part is one frame of a fragmented message.
func part(op frame.Opcode, fin, masked bool, payload string) []byte {
	b := frame.Append(nil, op, []byte(payload), masked)
	if !fin {
		b[0] &^= 0x80
	}
	return b
}

func send(t testing.TB, c net.Conn, b ...[]byte) {
	t.Helper()
	_ = c.SetWriteDeadline(time.Now().Add(10 * time.Second))
	for _, b := range b {
		if _, err := c.Write(b); err != nil {
			t.Fatalf("send: %v", err)
		}
	}
}

// expect reads exactly want.
func expect(t testing.TB, c net.Conn, want []byte) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	got := make([]byte, len(want))
	n, err := io.ReadFull(c, got)
	if err != nil || string(got) != string(want) {
		t.Fatalf("got % x (%v), want % x", got[:n], err, want)
	}
}

// readFrame reads one whole frame.
func readFrame(t testing.TB, c net.Conn) (h frame.Header, payload string) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	h, b, err := nextFrame(c)
	if err != nil {
		t.Fatalf("read a frame: %v", err)
	}
	return h, string(frame.AppendPayload(nil, b))
}

func nextFrame(c io.Reader) (h frame.Header, b []byte, err error) {
	for {
		var n int
		if h, n, err = frame.ParseHeader(b); err != nil {
			return h, b, err
		}
		missing := 1
		if n > 0 {
			if missing = n + int(h.Length) - len(b); missing == 0 {
				return h, b, nil
			}
		}
		k := len(b)
		b = append(b, make([]byte, missing)...)
		n, err := io.ReadFull(c, b[k:])
		if err != nil {
			return h, b[:k+n], err
		}
	}
}

// A reader takes at once whatever is written to a pipe, as a socket's buffer
// does, so that a test may look at one peer after the other.
type reader struct {
	net.Conn
	mu   sync.Mutex // guards got, err, more and held
	got  []byte
	err  error
	more chan struct{} // closed when got or err changes
	by   time.Time
	held chan struct{} // closed when a test that paused the reading is over
}

// pause stops the reading until Close.
func (r *reader) pause() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.held = make(chan struct{})
}

func (r *reader) Close() error {
	r.mu.Lock()
	if r.held != nil {
		close(r.held)
		r.held = nil
	}
	r.mu.Unlock()
	return r.Conn.Close()
}

func newReader(c net.Conn) *reader {
	r := &reader{Conn: c, more: make(chan struct{})}
	go func() {
		b := make([]byte, 4096)
		for {
			r.mu.Lock()
			held := r.held
			r.mu.Unlock()
			if held != nil {
				<-held
			}
			n, err := c.Read(b)
			r.mu.Lock()
			r.got, r.err = append(r.got, b[:n]...), err
			close(r.more)
			r.more = make(chan struct{})
			r.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return r
}

func (r *reader) SetReadDeadline(t time.Time) error {
	r.by = t
	return nil
}

func (r *reader) Read(b []byte) (int, error) {
	for {
		r.mu.Lock()
		n, err, more := copy(b, r.got), r.err, r.more
		r.got = r.got[n:]
		r.mu.Unlock()
		if n > 0 || err != nil {
			return n, err
		}
		select {
		case <-more:
		case <-time.After(time.Until(r.by)):
			return 0, os.ErrDeadlineExceeded
		}
	}
}

// Instead of an answer to a close frame.
var (
	nothing = []byte{0}
	hangUp  = []byte{0}
)

// expectClose reads a close frame and what follows it: the end of the stream,
// once answer, if any, was sent.
func expectClose(t testing.TB, c net.Conn, code uint16, text string, answer []byte) {
	t.Helper()
	h, payload := readFrame(t, c)
	gotCode, gotText, err := frame.ParseClose([]byte(payload))
	if h.Op != frame.Close || gotCode != code || gotText != text || err != nil {
		t.Fatalf("got opcode %d %d %q (%v), want close %d %q", h.Op, gotCode, gotText, err, code, text)
	}
	if &answer[0] == &hangUp[0] {
		_ = c.Close()
		return
	}
	if len(answer) > 1 {
		_ = c.SetWriteDeadline(time.Now().Add(10 * time.Second))
		_, _ = c.Write(answer)
	}
	expectEnd(t, c)
}

// expectEnd waits for the end of the stream, however it comes, and nothing before,
// and hangs up, as a peer does then.
func expectEnd(t testing.TB, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	n, err := c.Read(make([]byte, 1))
	if n > 0 || err == nil {
		t.Fatalf("%d more bytes, %v", n, err)
	}
	if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
		t.Fatal("the socket stayed open")
	}
	_ = c.Close()
}
