//go:build amd64 || arm64 || riscv64

package relay

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A Socket is a plain TCP socket of a loop that no connection has yet: a client
// that Listen accepted, an upstream that Dial reached. It is a Stream for the
// handshake, which Start takes over without a system call. Reading, writing and
// closing are for one goroutine at a time; the rest is safe for concurrent use.
type Socket struct {
	loop   *loop
	fd     int
	remote netip.AddrPort

	ready atomic.Bool // more may be there to be read
	over  atomic.Bool // nothing will come after that

	mu         sync.Mutex
	registered bool
	closed     bool          // or another's
	wake       chan struct{} // made by the first who waits
	by         time.Time
	onGone     func()

	waiting       *listening // of a client that has said nothing yet
	since         time.Time
	before, after *Socket // in that list
}

// Remote is the peer's address.
func (s *Socket) Remote() netip.AddrPort { return s.remote }

// OnGone sets what is called, on the loop and once, when the peer closes its
// side or is lost. It must be short. It is called at once if that was before;
// nil takes it away.
func (s *Socket) OnGone(f func()) {
	s.mu.Lock()
	s.onGone = f
	s.mu.Unlock()
	if f != nil {
		_ = s.register()
		s.tellGone()
	}
}

func (s *Socket) tellGone() {
	if !s.over.Load() {
		return
	}
	s.mu.Lock()
	f := s.onGone
	s.onGone = nil
	s.mu.Unlock()
	if f != nil {
		f()
	}
}

// event implements sink.
func (s *Socket) event(l *loop, events uint32) {
	if events&over != 0 {
		s.over.Store(true)
	}
	if events&(syscall.EPOLLIN|over) != 0 {
		s.ready.Store(true)
	}
	if s.waiting != nil {
		if events&(syscall.EPOLLIN|over) != 0 {
			l.first(s)
		}
		return
	}
	s.rouse()
	s.tellGone()
}

func (s *Socket) rouse() {
	s.mu.Lock()
	if s.wake != nil {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
	s.mu.Unlock()
}

// Early reports whether the peer has sent something, or closed its side, that
// was not read yet.
func (s *Socket) Early() bool {
	if !s.ready.Load() {
		return false
	}
	var b [1]byte // the event may have been of what was read since
	_, _, err := syscall.Recvfrom(s.fd, b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	return err != syscall.EAGAIN
}

// register makes the loop tell of the socket. It is done late, and once: a
// socket that is answered and closed at once needs none.
func (s *Socket) register() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.registered || s.closed {
		return nil
	}
	s.registered = true
	return s.loop.watch(s.fd, s)
}

// Read implements Stream.
func (s *Socket) Read(b []byte) (int, error) {
	for {
		s.ready.Store(false) // before the read: what comes after it is an event
		n, err := sysRead(s.fd, b)
		switch {
		case n > 0:
			if n == len(b) || s.over.Load() {
				s.ready.Store(true)
			}
			return n, nil
		case err == 0:
			s.ready.Store(true)
			return 0, io.EOF
		case err == syscall.EAGAIN:
			if err := s.wait(); err != nil {
				return 0, err
			}
		case err != syscall.EINTR:
			return 0, os.NewSyscallError("read", err)
		}
	}
}

// Write implements Stream.
func (s *Socket) Write(b []byte) (done int, _ error) {
	for done < len(b) {
		n, err := sysWrite(s.fd, b[done:])
		switch {
		case n > 0:
			done += n
		case err == syscall.EAGAIN:
			if err := s.wait(); err != nil {
				return done, err
			}
		case err != syscall.EINTR:
			return done, os.NewSyscallError("write", err)
		}
	}
	return done, nil
}

// wait waits for any event of the socket, until its deadline.
func (s *Socket) wait() error {
	s.mu.Lock()
	missed := s.wake == nil && s.registered
	if s.wake == nil {
		s.wake = make(chan struct{}, 1)
	}
	wake, by, closed := s.wake, s.by, s.closed
	s.mu.Unlock()
	switch {
	case closed:
		return net.ErrClosed
	case missed: // what happened until now nobody was told
		return nil
	}
	if err := s.register(); err != nil {
		return err
	}
	var late <-chan time.Time
	if !by.IsZero() {
		left := time.Until(by)
		if left <= 0 {
			return os.ErrDeadlineExceeded
		}
		t := time.NewTimer(left)
		defer t.Stop()
		late = t.C
	}
	select {
	case <-wake:
		return nil
	case <-late:
		return os.ErrDeadlineExceeded
	case <-s.loop.stop:
		return net.ErrClosed
	}
}

// SetDeadline implements Stream. A wait that is under way ends by t, too.
func (s *Socket) SetDeadline(t time.Time) error {
	s.mu.Lock()
	s.by = t
	waits := s.wake != nil
	s.mu.Unlock()
	if waits {
		s.rouse()
	}
	return nil
}

// SetReadDeadline is SetDeadline.
func (s *Socket) SetReadDeadline(t time.Time) error { return s.SetDeadline(t) }

// SetWriteDeadline is SetDeadline.
func (s *Socket) SetWriteDeadline(t time.Time) error { return s.SetDeadline(t) }

// Close implements Stream. It reads what the peer has sent already, within a
// bound: a socket that is closed over unread bytes is reset, and what was
// written last may be lost with it.
func (s *Socket) Close() error {
	fd, ok := s.leave()
	if !ok {
		return net.ErrClosed
	}
	if s.ready.Load() {
		var b [512]byte
		for range turn {
			if n, err := sysRead(fd, b[:]); n <= 0 && err != syscall.EINTR {
				break
			}
		}
	}
	s.loop.forget(fd, s)
	return os.NewSyscallError("close", sysClose(fd))
}

// leave takes the descriptor away from s.
func (s *Socket) leave() (fd int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return -1, false
	}
	s.closed, s.onGone = true, nil
	fd, s.fd = s.fd, -1
	return fd, true
}

// Conn makes a connection of package net of the socket. On an error the socket
// is closed.
func (s *Socket) Conn() (*net.TCPConn, error) {
	fd, ok := s.leave()
	if !ok {
		return nil, net.ErrClosed
	}
	s.loop.forget(fd, s)
	f := os.NewFile(uintptr(fd), "tcp")
	defer f.Close()
	// The copy is another descriptor of the same socket: with this one closed
	// the loop is told nothing of it any more only if it forgets it first.
	if s.registered {
		_ = s.loop.control(syscall.EPOLL_CTL_DEL, fd, nil)
	}
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	if c.RemoteAddr() == nil { // the peer has reset it
		_ = c.Close()
		return nil, os.NewSyscallError("getpeername", syscall.ENOTCONN)
	}
	return c.(*net.TCPConn), nil
}

// keepAlive are net's own settings.
const (
	keepAliveSeconds = 15
	keepAliveProbes  = 9
)

// tune sets what every TCP socket here has. A listening socket gives it to those
// that reach it from then on.
func tune(fd int) {
	_ = sysSet(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)
	_ = sysSet(fd, syscall.SOL_SOCKET, syscall.SO_KEEPALIVE, 1)
	_ = sysSet(fd, syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE, keepAliveSeconds)
	_ = sysSet(fd, syscall.IPPROTO_TCP, syscall.TCP_KEEPINTVL, keepAliveSeconds)
	_ = sysSet(fd, syscall.IPPROTO_TCP, syscall.TCP_KEEPCNT, keepAliveProbes)
}

// Dial connects to addr on the loop of beside, or on any when that is nil.
// Errors are as package net's: a *net.OpError, or the context's cause.
func (ls *Loops) Dial(ctx context.Context, addr netip.AddrPort, beside *Socket) (*Socket, error) {
	s, err := ls.dial(ctx, addr, beside)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(addr), Err: err}
	}
	return s, nil
}

func (ls *Loops) dial(ctx context.Context, addr netip.AddrPort, beside *Socket) (*Socket, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	family := syscall.AF_INET
	if addr.Addr().Is6() && !addr.Addr().Is4In6() {
		family = syscall.AF_INET6
	}
	fd, errno := sysSocket(family)
	if errno != 0 {
		return nil, os.NewSyscallError("socket", errno)
	}
	tune(fd)
	s := &Socket{fd: fd, remote: addr}
	if beside != nil {
		s.loop = beside.loop
	} else {
		s.loop = ls.deal()
	}
	if err := s.connect(ctx, family); err != nil {
		s.cut()
		return nil, err
	}
	return s, nil
}

func (s *Socket) connect(ctx context.Context, family int) error {
	port, addr := networkOrder(s.remote.Port()), s.remote.Addr()
	var err syscall.Errno
	if family == syscall.AF_INET {
		err = sysConnect4(s.fd, &syscall.RawSockaddrInet4{Family: syscall.AF_INET, Port: port, Addr: addr.Unmap().As4()})
	} else {
		err = sysConnect6(s.fd, &syscall.RawSockaddrInet6{Family: syscall.AF_INET6, Port: port, Addr: addr.As16(), Scope_id: zone(addr)})
	}
	switch err {
	case 0, syscall.EISCONN:
		return nil
	case syscall.EINPROGRESS, syscall.EINTR, syscall.EALREADY:
	default:
		return os.NewSyscallError("connect", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = s.SetDeadline(past) })
	defer stop()
	for {
		// On one machine it is mostly done by now.
		if sysConnected(s.fd) {
			if !stop() {
				return context.Cause(ctx)
			}
			return nil
		}
		if n, err := syscall.GetsockoptInt(s.fd, syscall.SOL_SOCKET, syscall.SO_ERROR); err != nil || n != 0 {
			if err == nil {
				err = syscall.Errno(n)
			}
			return os.NewSyscallError("connect", err)
		}
		if err := s.wait(); err != nil {
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			}
			return err
		}
	}
}

func zone(a netip.Addr) uint32 {
	if a.Zone() == "" {
		return 0
	}
	i, err := net.InterfaceByName(a.Zone())
	if err != nil {
		return 0
	}
	return uint32(i.Index)
}

// cut closes a socket nobody has spoken with.
func (s *Socket) cut() {
	if fd, ok := s.leave(); ok {
		s.loop.forget(fd, s)
		_ = sysClose(fd)
	}
}
