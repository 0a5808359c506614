//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/sha1" //nolint:gosec // RFC 6455 section 4.2.2 says so
	"encoding/base64"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/frame"
)

// upstream is the WebSocket server behind everything that is measured: it
// answers each message with itself. It is also the responder that nginx asks
// by auth_request: it knows the good tokens by heart, so that it costs next to
// nothing.
type upstream struct {
	l      *loop
	listen int
	addr   string
	open   atomic.Int64
	known  sync.Map // the good Authorization values
	ctx    context.Context
	stop   context.CancelFunc
	ended  chan error
}

func newUpstream() (*upstream, error) {
	l, err := newLoop()
	if err != nil {
		return nil, err
	}
	fd, err := newSocket()
	if err != nil {
		return nil, err
	}
	u := &upstream{l: l, listen: fd, ended: make(chan error, 1)}
	u.ctx, u.stop = context.WithCancel(context.Background())
	if err := errors.Join(
		syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1),
		syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}),
		syscall.Listen(fd, 4096),
		l.add(fd, u, syscall.EPOLLIN),
	); err != nil {
		return nil, err
	}
	sa, err := syscall.Getsockname(fd)
	if err != nil {
		return nil, err
	}
	u.addr = fmt.Sprintf("127.0.0.1:%d", sa.(*syscall.SockaddrInet4).Port)
	go func() {
		runtime.LockOSThread()
		var err error
		for u.ctx.Err() == nil && err == nil {
			err = l.step(100)
		}
		u.ended <- err
	}()
	return u, nil
}

func (u *upstream) close() error {
	u.stop()
	err := <-u.ended
	u.l.close()
	_ = syscall.Close(u.listen)
	return err
}

// idle waits until what was measured has let go of all connections.
func (u *upstream) idle(ctx context.Context, l *loop, atMost time.Duration) error {
	for end := time.Now().Add(atMost); u.open.Load() > 0; {
		if time.Now().After(end) {
			return fmt.Errorf("%d connections to the upstream are still open", u.open.Load())
		}
		if err := l.run(ctx, time.Now().Add(5*time.Millisecond), nil); err != nil {
			return err
		}
	}
	return nil
}

// ready accepts.
func (u *upstream) ready(uint32) {
	for {
		fd, _, err := syscall.Accept4(u.listen, syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC)
		if err != nil {
			return
		}
		_ = syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)
		s := &served{u: u, writer: writer{l: u.l, fd: fd}}
		if u.l.add(fd, s, syscall.EPOLLIN) != nil {
			_ = syscall.Close(fd)
			continue
		}
	}
}

// served is one connection to the upstream.
type served struct {
	u *upstream
	writer
	held     []byte // the start of what has not come whole
	upgraded bool
}

func (s *served) end() {
	if s.upgraded {
		s.u.open.Add(-1)
	}
	s.l.drop(s.fd)
}

func (s *served) ready(events uint32) {
	if events&syscall.EPOLLOUT != 0 && len(s.rest) > 0 {
		if s.flush() != nil {
			s.end()
			return
		}
	}
	p, err := s.l.read(s.fd)
	if err != nil {
		s.end()
		return
	}
	if len(p) == 0 {
		return
	}
	if len(s.held) > 0 {
		s.held = append(s.held, p...)
		p = s.held
	}
	used, ok := s.consume(p)
	switch {
	case !ok:
		s.end()
	case used == len(p):
		s.held = s.held[:0]
	case used > 0 || len(s.held) == 0:
		n := len(p) - used
		if need := max(2*n, s.want(p[used:])); cap(s.held) < need {
			s.held = make([]byte, n, need)
		}
		s.held = s.held[:n]
		copy(s.held, p[used:])
	}
}

// want is how long the message at the start of p is.
func (s *served) want(p []byte) int {
	if h, n, err := frame.ParseHeader(p); s.upgraded && err == nil && n > 0 {
		return n + int(h.Length)
	}
	return 0
}

func (s *served) consume(p []byte) (used int, ok bool) {
	for !s.upgraded {
		head, _, whole := bytes.Cut(p[used:], []byte("\r\n\r\n"))
		if !whole {
			return used, true
		}
		used += len(head) + 4
		if s.write(s.answer(head)) != nil {
			return used, false
		}
		if used == len(p) {
			return used, true
		}
	}
	for used < len(p) {
		h, n, err := frame.ParseHeader(p[used:])
		if err != nil {
			return used, false
		}
		if n == 0 || len(p)-used < n+int(h.Length) {
			break
		}
		start, end := used+n, used+n+int(h.Length)
		frame.Mask(p[start:end], h.Mask, 0)
		used = end
		if h.Op == frame.Pong {
			continue
		}
		if h.Op == frame.Ping {
			h.Op = frame.Pong
		}
		h.Masked = false
		out := frame.AppendHeader(p[start-(n-4):start-(n-4)], h) // in place: it is shorter by the mask
		out = out[:len(out)+int(h.Length)]
		if s.write(out) != nil {
			return used, false
		}
		if len(s.rest) > 0 { // the buffer is used again before it has gone
			s.rest = bytes.Clone(s.rest)
		}
		if h.Op == frame.Close {
			return used, false
		}
	}
	return used, true
}

// answer is the upstream's own handshake, or its answer to nginx.
func (s *served) answer(head []byte) []byte {
	if bytes.HasPrefix(head, []byte("GET /auth ")) {
		if _, good := s.u.known.Load(string(header(head, "authorization"))); good {
			return []byte("HTTP/1.1 204 No Content\r\n\r\n")
		}
		return []byte("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
	}
	s.upgraded = true
	s.u.open.Add(1)
	sum := sha1.Sum(append(bytes.Clone(header(head, "sec-websocket-key")), "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"...)) //nolint:gosec // as above
	return fmt.Appendf(nil, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		base64.StdEncoding.EncodeToString(sum[:]))
}

// header is a header's value; the name is in lower case.
func header(head []byte, name string) []byte {
	for line := range bytes.SplitSeq(head, []byte("\r\n")) {
		if len(line) > len(name) && line[len(name)] == ':' && bytes.EqualFold(line[:len(name)], []byte(name)) {
			return bytes.TrimSpace(line[len(name)+1:])
		}
	}
	return nil
}
