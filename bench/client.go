//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"syscall"
	"time"
	"unsafe"

	"github.com/wsbouncer/wsbouncer/internal/frame"
)

// client is one WebSocket connection of the load. What it does when it is
// open, is sent something, or ends, is its row's.
type client struct {
	writer
	state  int
	head   []byte // the request, then what has come of the answer
	came   int    // bytes of the message in progress, or of the answer
	stamp  bool   // let the kernel say when bytes came
	at     time.Time
	opened func(*client)
	data   func(*client, []byte)
	closed func(*client, error) // nil: an orderly end after it was open
	sent   time.Time            // the last message
	code   uint16               // of the close frame that came
	told   time.Time            // and when it came
}

const (
	connecting = iota
	asking
	isOpen
	isClosed
)

// The key is RFC 6455's example.
const requestHead = "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nPragma: no-cache\r\nCache-Control: no-cache\r\n" +
	"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\nUpgrade: websocket\r\nOrigin: " + origin + "\r\n" +
	"Sec-WebSocket-Version: 13\r\nAccept-Encoding: gzip, deflate\r\nAccept-Language: en-GB,en;q=0.5\r\n" +
	"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%s\r\n"

const origin = "http://bench.example"

// request is a browser's handshake and the token in a header, which all the
// measured servers understand.
func request(addr, path, token string) []byte {
	auth := ""
	if token != "" {
		auth = "Authorization: Bearer " + token + "\r\n"
	}
	return fmt.Appendf(nil, requestHead, path, addr, auth)
}

// dial begins to connect; the loop does the rest.
func (c *client) dial(l *loop, addr string, head []byte) error {
	a, err := netip.ParseAddrPort(addr)
	if err != nil {
		return err
	}
	fd, err := newSocket()
	if err != nil {
		return err
	}
	c.writer = writer{l: l, fd: fd}
	c.state, c.head, c.came = connecting, head, 0
	if c.stamp {
		err = syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_TIMESTAMPNS, 1)
	}
	if err == nil {
		if err = syscall.Connect(fd, &syscall.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}); errors.Is(err, syscall.EINPROGRESS) {
			err = nil
		}
	}
	if err == nil {
		err = l.add(fd, c, syscall.EPOLLOUT)
	}
	if err != nil {
		_ = syscall.Close(fd)
		c.state = isClosed
	}
	return err
}

func (c *client) end(err error) {
	if c.state == isClosed {
		return
	}
	c.state = isClosed
	c.l.drop(c.fd)
	if c.closed != nil {
		c.closed(c, err)
	}
}

// cut ends the connection as a lost network does, or a killed program.
func (c *client) cut() {
	if c.state == isClosed {
		return
	}
	c.state = isClosed
	_ = syscall.SetsockoptLinger(c.fd, syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1})
	c.l.drop(c.fd)
}

func (c *client) send(p []byte) {
	if err := c.write(p); err != nil {
		c.end(err)
	}
}

var goodbye = frame.AppendClose(nil, 1000, "", true)

// leave begins the closing handshake.
func (c *client) leave() { c.send(goodbye) }

func (c *client) ready(events uint32) {
	if c.state == connecting {
		if n, err := syscall.GetsockoptInt(c.fd, syscall.SOL_SOCKET, syscall.SO_ERROR); err != nil || n != 0 {
			c.end(errors.Join(err, syscall.Errno(n)))
			return
		}
		c.l.watch(c.fd, syscall.EPOLLIN)
		c.state = asking
		req := c.head
		c.head = nil
		c.send(req)
		return
	}
	if events&syscall.EPOLLOUT != 0 && len(c.rest) > 0 {
		if err := c.flush(); err != nil {
			c.end(err)
			return
		}
	}
	if events&^syscall.EPOLLOUT == 0 {
		return
	}
	p, err := c.receive()
	switch {
	case err != nil:
		if c.state == asking {
			err = fmt.Errorf("no answer to the handshake: %w", err)
		} else if errors.Is(err, io.EOF) {
			err = nil
		}
		c.end(err)
	case len(p) == 0:
	case c.state == asking:
		c.answered(p)
	case c.data != nil:
		c.data(c, p)
	}
}

func (c *client) answered(p []byte) {
	c.head = append(c.head, p...)
	head, rest, whole := bytes.Cut(c.head, []byte("\r\n\r\n"))
	if !whole {
		return
	}
	c.head = nil
	if !bytes.HasPrefix(head, []byte("HTTP/1.1 101 ")) {
		line, _, _ := bytes.Cut(head, []byte("\r\n"))
		c.end(fmt.Errorf("%w: %s %.200s", errRefused, line, rest))
		return
	}
	c.state = isOpen
	if c.opened != nil {
		c.opened(c)
	}
	if len(rest) > 0 && c.state == isOpen && c.data != nil {
		c.data(c, rest)
	}
}

var errRefused = errors.New("refused")

// receive reads, and for those that are stamped asks the kernel when it came,
// so that this program's own delay is not in it.
func (c *client) receive() ([]byte, error) {
	if !c.stamp {
		return c.l.read(c.fd)
	}
	var oob [64]byte
	n, on, _, _, err := syscall.Recvmsg(c.fd, c.l.buf, oob[:], 0)
	c.at = time.Now()
	if on >= syscall.CmsgLen(16) {
		h := (*syscall.Cmsghdr)(unsafe.Pointer(&oob[0]))
		if h.Level == syscall.SOL_SOCKET && h.Type == syscall.SO_TIMESTAMPNS {
			ts := (*syscall.Timespec)(unsafe.Pointer(&oob[syscall.CmsgLen(0)]))
			c.at = time.Unix(ts.Sec, ts.Nsec)
		}
	}
	return received(c.l.buf, n, err)
}

// controls answers pings and close frames, and remembers the latter: all that
// a silent connection is sent.
func controls(c *client, p []byte) {
	for len(p) > 0 && c.state == isOpen {
		h, n, err := frame.ParseHeader(p)
		if err != nil || n == 0 || len(p) < n+int(h.Length) {
			c.end(fmt.Errorf("half a frame, or a bad one: % x", p))
			return
		}
		payload := p[n : n+int(h.Length)]
		p = p[n+int(h.Length):]
		switch h.Op {
		case frame.Ping:
			c.send(frame.AppendPong(nil, payload, true))
		case frame.Close:
			c.code, _, _ = frame.ParseClose(payload)
			c.told = c.at
			c.send(frame.AppendClose(nil, c.code, "", true))
		}
	}
}

// crowd opens n connections, so many at a time, and keeps them. The heads are
// made one by one, so that 9 000 tokens need not be held twice.
func crowd(ctx context.Context, l *loop, addr string, n, parallel int, one func(i int) (*client, []byte, error)) ([]*client, error) {
	clients := make([]*client, 0, n)
	inFlight, ready := 0, 0
	var failed error
	begin := func() {
		for inFlight < parallel && len(clients) < n && failed == nil {
			c, head, err := one(len(clients))
			if err == nil {
				then := c.opened
				c.opened = func(c *client) {
					inFlight--
					ready++
					if then != nil {
						then(c)
					}
				}
				c.closed = func(_ *client, err error) {
					if failed == nil {
						failed = fmt.Errorf("a connection ended while others were opened: %w", err)
					}
				}
				err = c.dial(l, addr, head)
			}
			if err != nil {
				failed = err
				return
			}
			clients = append(clients, c)
			inFlight++
		}
	}
	err := l.run(ctx, time.Now().Add(2*time.Minute), func() bool {
		begin()
		return ready == n || failed != nil
	})
	if failed != nil {
		err = failed
	}
	for _, c := range clients {
		c.closed = nil
		if err != nil {
			c.cut()
		}
	}
	return clients, err
}

// dismiss closes connections as their users would, and waits until what was
// measured has let them go.
func dismiss(ctx context.Context, l *loop, u *upstream, clients []*client) error {
	open := 0
	for _, c := range clients {
		if c.state != isOpen {
			continue
		}
		open++
		c.data = nil
		c.closed = func(*client, error) { open-- }
		c.leave()
		if open%64 == 0 {
			if err := l.step(0); err != nil {
				return err
			}
		}
	}
	if err := l.run(ctx, time.Now().Add(30*time.Second), func() bool { return open == 0 }); err != nil {
		return fmt.Errorf("%d connections did not close: %w", open, err)
	}
	return u.idle(ctx, l, 15*time.Second)
}
