package bouncertest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/frame"
)

// patience is how long a Conn waits for one frame before it fails its test.
const patience = 10 * time.Minute

// A Conn is the client's end of a WebSocket whose other end is a handler.
// Whatever goes wrong fails the test. It is not safe for concurrent use.
type Conn struct {
	// Response is the handshake's answer; nothing can be sent unless its status
	// is 101.
	Response *http.Response

	t     testing.TB
	conn  net.Conn
	br    *bufio.Reader
	pongs sync.WaitGroup
}

// Dial opens a WebSocket to h over memory, as a browser would: with the given
// header fields, which may name an Origin. The connection and its server end
// with the test.
func Dial(t testing.TB, h http.Handler, target string, header http.Header) *Conn {
	t.Helper()
	client, server := net.Pipe()
	srv := &http.Server{Handler: h, ReadHeaderTimeout: patience}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = srv.Serve(&oneConn{conn: server, closed: make(chan struct{})})
	}()
	c := &Conn{t: t, conn: client, br: bufio.NewReader(client)}
	t.Cleanup(func() {
		_ = client.Close()
		c.pongs.Wait()
		ctx, stop := context.WithTimeout(context.Background(), time.Second)
		defer stop()
		_ = srv.Shutdown(ctx)
		_ = srv.Close()
		<-served
	})
	_ = client.SetDeadline(time.Now().Add(patience))

	var head strings.Builder
	fmt.Fprintf(&head, "GET %s HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n", target)
	head.WriteString("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n")
	_ = header.Write(&head)
	head.WriteString("\r\n")
	if _, err := io.WriteString(client, head.String()); err != nil {
		t.Fatalf("bouncertest: writing the handshake: %v", err)
	}
	resp, err := http.ReadResponse(c.br, nil) //nolint:bodyclose // ends with the connection
	if err != nil {
		t.Fatalf("bouncertest: reading the handshake's answer: %v", err)
	}
	c.Response = resp
	return c
}

// Send sends a text message.
func (c *Conn) Send(text string) {
	c.t.Helper()
	c.write(frame.Append(nil, frame.Text, []byte(text), true))
}

func (c *Conn) write(b []byte) {
	c.t.Helper()
	if _, err := c.conn.Write(b); err != nil {
		c.t.Fatalf("bouncertest: sending: %v", err)
	}
}

// Receive returns the next message, text or binary. Pings are answered.
func (c *Conn) Receive() string {
	c.t.Helper()
	op, payload := c.next()
	if op == frame.Close {
		code, text, _ := frame.ParseClose(payload)
		c.t.Fatalf("bouncertest: closed with %d %q instead of a message", code, text)
	}
	return string(payload)
}

// Closed reads until the connection's close frame, answers it, and returns what
// it said.
func (c *Conn) Closed() (code uint16, text string) {
	c.t.Helper()
	for {
		op, payload := c.next()
		if op != frame.Close {
			continue
		}
		n, text, err := frame.ParseClose(payload)
		if err != nil {
			c.t.Fatalf("bouncertest: close frame: %v", err)
		}
		_, _ = c.conn.Write(frame.AppendClose(nil, n, "", true))
		return n, text
	}
}

// Ignore reads until the connection's close frame without answering pings, or
// anything else, and returns how many pings came and what the close frame said.
func (c *Conn) Ignore() (pings int, code uint16, text string) {
	c.t.Helper()
	for {
		switch h, payload := c.frame(); h.Op {
		case frame.Ping:
			pings++
		case frame.Close:
			n, text, err := frame.ParseClose(payload)
			if err != nil {
				c.t.Fatalf("bouncertest: close frame: %v", err)
			}
			return pings, n, text
		}
	}
}

// Close sends a close frame with this code and text, and hangs up.
func (c *Conn) Close(code uint16, text string) {
	c.t.Helper()
	_, _ = c.conn.Write(frame.AppendClose(nil, code, text, true))
	_ = c.conn.Close()
}

// next reads one whole message or close frame.
func (c *Conn) next() (op frame.Opcode, message []byte) {
	c.t.Helper()
	for {
		h, payload := c.frame()
		switch h.Op {
		case frame.Ping:
			// Beside the reading: memory has no buffer, and a server that is ending
			// the connection just now writes before it reads on.
			c.pongs.Go(func() { _, _ = c.conn.Write(frame.AppendPong(nil, payload, true)) })
		case frame.Pong:
		case frame.Close:
			return h.Op, payload
		default:
			if h.Op != frame.Continuation {
				op = h.Op
			}
			if message = append(message, payload...); h.Fin {
				return op, message
			}
		}
	}
}

func (c *Conn) frame() (h frame.Header, payload []byte) {
	c.t.Helper()
	_ = c.conn.SetDeadline(time.Now().Add(patience))
	var b []byte
	for {
		var n int
		var err error
		if h, n, err = frame.ParseHeader(b); err != nil {
			c.t.Fatalf("bouncertest: %v", err)
		} else if n > 0 {
			break
		}
		one, err := c.br.ReadByte()
		if err != nil {
			c.t.Fatalf("bouncertest: the connection ended without a close frame: %v", err)
		}
		b = append(b, one)
	}
	payload = make([]byte, h.Length)
	if _, err := io.ReadFull(c.br, payload); err != nil {
		c.t.Fatalf("bouncertest: the connection ended inside a frame: %v", err)
	}
	return h, payload
}

// oneConn is a listener with a single connection.
type oneConn struct {
	conn   net.Conn
	closed chan struct{}
}

func (l *oneConn) Accept() (net.Conn, error) {
	if c := l.conn; c != nil {
		l.conn = nil
		return c, nil
	}
	<-l.closed
	return nil, net.ErrClosed
}

func (l *oneConn) Close() error {
	select {
	case <-l.closed:
	default:
		close(l.closed)
	}
	return nil
}

func (l *oneConn) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }
