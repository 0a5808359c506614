package main

import (
	"bufio"
	"context"
	"crypto/sha1" //nolint:gosec // RFC 6455 section 4.2.2 says so
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/frame"
)

const key = "dGhlIHNhbXBsZSBub25jZQ=="

// dial opens a WebSocket. It writes the least that a browser would, so that
// the client is not what is measured.
func dial(addr, path, token string) (net.Conn, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	auth := ""
	if token != "" {
		auth = "Authorization: Bearer " + token + "\r\n"
	}
	_, err = fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n%s\r\n", path, addr, key, auth)
	if err != nil {
		c.Close()
		return nil, err
	}
	r := bufio.NewReaderSize(c, 1024)
	res, err := http.ReadResponse(r, nil)
	if err == nil && res.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(io.LimitReader(res.Body, 512))
		err = fmt.Errorf("%s: %s", res.Status, body)
	}
	if err == nil && r.Buffered() > 0 {
		err = errors.New("bytes before the first message")
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// echo is the upstream: it answers every message with itself.
type echo struct {
	l     net.Listener
	conns sync.WaitGroup
	open  atomic.Int64
}

func newEcho() (*echo, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	e := &echo{l: l}
	e.conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			e.conns.Go(func() { e.serve(c) })
		}
	})
	return e, nil
}

func (e *echo) addr() string { return e.l.Addr().String() }
func (e *echo) close()       { e.l.Close() }

func (e *echo) serve(c net.Conn) {
	defer c.Close()
	e.open.Add(1)
	defer e.open.Add(-1)
	req, err := http.ReadRequest(bufio.NewReaderSize(c, 1024))
	if err != nil {
		return
	}
	sum := sha1.Sum([]byte(req.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // as above
	fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", base64.StdEncoding.EncodeToString(sum[:]))
	buf, out := make([]byte, 4096), make([]byte, 0, 4096)
	for n := 0; ; {
		m, err := c.Read(buf[n:])
		if err != nil {
			return
		}
		n += m
		used := 0
		for {
			h, hl, err := frame.ParseHeader(buf[used:n])
			if err != nil || hl == 0 || used+hl+int(h.Length) > n {
				break
			}
			body := buf[used+hl : used+hl+int(h.Length)]
			frame.Mask(body, h.Mask, 0)
			out = frame.Append(out[:0], h.Op, body, false)
			if _, err := c.Write(out); err != nil || h.Op == frame.Close {
				return
			}
			used += hl + len(body)
		}
		n = copy(buf, buf[used:n])
	}
}

// open opens n connections, so many at a time.
func open(ctx context.Context, n, parallel int, one func(i int) (net.Conn, error)) ([]net.Conn, error) {
	conns := make([]net.Conn, n)
	var next atomic.Int64
	var failed atomic.Pointer[error]
	var wg sync.WaitGroup
	for range parallel {
		wg.Go(func() {
			for ctx.Err() == nil && failed.Load() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				c, err := one(i)
				if err != nil {
					failed.Store(&err)
					return
				}
				conns[i] = c
			}
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		closeAll(conns)
		return nil, *err
	}
	return conns, ctx.Err()
}

func closeAll(conns []net.Conn) {
	for _, c := range conns {
		if c != nil {
			c.Close()
		}
	}
}

// readClose waits for a close frame and says when it came.
func readClose(c net.Conn) (at time.Time, code uint16, err error) {
	var buf [256]byte
	n, err := io.ReadAtLeast(c, buf[:], 2)
	at = time.Now()
	if err != nil {
		return at, 0, err
	}
	h, hl, err := frame.ParseHeader(buf[:n])
	if err != nil || h.Op != frame.Close || n < hl+2 {
		return at, 0, errors.New("not a close frame")
	}
	return at, uint16(buf[hl])<<8 | uint16(buf[hl+1]), nil
}
