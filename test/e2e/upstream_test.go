package e2e_test

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/wsbouncer/wsbouncer/internal/frame"
)

// upstream is a server behind the gateway that knows nothing of tokens. It
// records each TCP connection and each handshake, so that "never reaches the
// upstream" is a count.
type upstream struct {
	t    testing.TB
	addr string
	l    net.Listener
	// serve is what a connection does after its accept; it owns c. The default
	// is echo.
	serve func(c *upConn)

	mu    sync.Mutex
	tcp   int       // connections accepted
	conns []*upConn // those whose handshake was read
	wg    sync.WaitGroup
}

// upConn is one connection at the upstream.
type upConn struct {
	net.Conn
	up   *upstream
	br   *bufio.Reader
	head string        // the request as it came, before serve
	req  *http.Request // the same, parsed

	mu     sync.Mutex
	frames []message // data and close frames that came, unmasked
	gone   chan struct{}
}

type message struct {
	op      frame.Opcode
	fin     bool
	payload string
}

// newUpstream starts one; serve nil echoes.
func newUpstream(t testing.TB, serve func(c *upConn)) *upstream {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return newUpstreamOn(t, l, serve)
}

// newUpstreamOn starts one on a listener, such as one that speaks TLS.
func newUpstreamOn(t testing.TB, l net.Listener, serve func(c *upConn)) *upstream {
	t.Helper()
	if serve == nil {
		serve = echo
	}
	u := &upstream{t: t, l: l, addr: l.Addr().String(), serve: serve}
	u.wg.Go(u.accept)
	t.Cleanup(u.close)
	return u
}

func (u *upstream) close() {
	u.l.Close()
	u.mu.Lock()
	for _, c := range u.conns {
		c.Close()
	}
	u.mu.Unlock()
	u.wg.Wait()
}

func (u *upstream) accept() {
	for {
		c, err := u.l.Accept()
		if err != nil {
			return
		}
		u.mu.Lock()
		u.tcp++
		u.mu.Unlock()
		u.wg.Go(func() {
			defer c.Close()
			var raw strings.Builder
			uc := &upConn{Conn: c, up: u, br: bufio.NewReader(io.TeeReader(c, &raw)), gone: make(chan struct{})}
			defer close(uc.gone)
			req, err := http.ReadRequest(uc.br)
			if err != nil {
				return
			}
			uc.req, uc.head = req, raw.String()
			u.mu.Lock()
			u.conns = append(u.conns, uc)
			u.mu.Unlock()
			u.serve(uc)
		})
	}
}

// count is how many TCP connections came.
func (u *upstream) count() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.tcp
}

// last is the newest connection whose handshake came; it waits for one.
func (u *upstream) last() *upConn {
	u.t.Helper()
	var c *upConn
	eventually(u.t, "a handshake at the upstream", func() bool {
		u.mu.Lock()
		defer u.mu.Unlock()
		if n := len(u.conns); n > 0 {
			c = u.conns[n-1]
		}
		return c != nil
	})
	return c
}

// accept writes a valid 101 with extra header lines.
func (c *upConn) accept(lines ...string) {
	sum := sha1.Sum([]byte(c.req.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	extra := ""
	for _, l := range lines {
		extra += l + "\r\n"
	}
	fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n%s\r\n",
		base64.StdEncoding.EncodeToString(sum[:]), extra)
}

// next reads one frame, unmasked, and records it.
func (c *upConn) next() (message, error) {
	m, err := readFrame(c.br)
	if err == nil {
		c.mu.Lock()
		c.frames = append(c.frames, m)
		c.mu.Unlock()
	}
	return m, err
}

// got are the frames that came so far.
func (c *upConn) got() []message {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]message(nil), c.frames...)
}

// echo accepts and sends every data frame back; it answers pings and close.
func echo(c *upConn) {
	protocol := c.req.Header.Get("Sec-WebSocket-Protocol")
	if first, _, ok := strings.Cut(protocol, ","); protocol != "" {
		_ = ok
		c.accept("Sec-WebSocket-Protocol: " + strings.TrimSpace(first))
	} else {
		c.accept()
	}
	for {
		m, err := c.next()
		if err != nil {
			return
		}
		switch m.op {
		case frame.Ping:
			_, err = c.Write(frame.AppendPong(nil, []byte(m.payload), false))
		case frame.Pong:
		case frame.Close:
			_, _ = c.Write(frame.Append(nil, frame.Close, []byte(m.payload), false))
			return
		default:
			_, err = c.Write(appendFrame(nil, m, false))
		}
		if err != nil {
			return
		}
	}
}

// readFrame reads one frame of either direction and unmasks it.
func readFrame(br *bufio.Reader) (message, error) {
	var b []byte
	for {
		one, err := br.ReadByte()
		if err != nil {
			return message{}, err
		}
		b = append(b, one)
		h, n, err := frame.ParseHeader(b)
		if err != nil {
			return message{}, err
		}
		if n == 0 {
			continue
		}
		payload := make([]byte, h.Length)
		if _, err := io.ReadFull(br, payload); err != nil {
			return message{}, err
		}
		if h.Masked {
			frame.Mask(payload, h.Mask, 0)
		}
		return message{h.Op, h.Fin, string(payload)}, nil
	}
}

// appendFrame writes a frame as it is said, FIN included.
func appendFrame(dst []byte, m message, masked bool) []byte {
	h := frame.Header{Fin: m.fin, Op: m.op, Masked: masked, Mask: [4]byte{1, 2, 3, 4}, Length: int64(len(m.payload))}
	dst = frame.AppendHeader(dst, h)
	payload := []byte(m.payload)
	if masked {
		frame.Mask(payload, h.Mask, 0)
	}
	return append(dst, payload...)
}
