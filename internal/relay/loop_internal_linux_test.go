//go:build amd64 || arm64 || riscv64

package relay

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"
)

// An event that was waiting for a socket when it was closed must not be taken for
// one of the socket that got its number.
func TestEventsOfAClosedSocketAreNotItsSuccessors(t *testing.T) {
	ls, err := NewLoops(1)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	loop := ls.loops[0]
	one := func() *Socket { // registered, as one that waits is
		s, err := ls.Dial(t.Context(), l.Addr().(*net.TCPAddr).AddrPort(), nil)
		if err == nil {
			err = s.register()
		}
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	first := one()
	fd := first.fd
	waiting := syscall.EpollEvent{Events: syscall.EPOLLIN | syscall.EPOLLRDHUP, Fd: int32(fd), Pad: loop.watched[fd].turn}
	_ = first.Close()
	second := one()
	for range 100 { // another test may have taken the number, and gives it back
		if second.fd == fd {
			break
		}
		defer func(s *Socket) { _ = s.Close() }(second)
		second = one()
	}
	if second.fd != fd {
		t.Fatalf("the system gave other numbers: %d and %d", fd, second.fd)
	}
	second.OnGone(func() { t.Error("the peer of the second is gone") })
	loop.event(&waiting)
	if second.Early() || second.over.Load() {
		t.Error("the second was told")
	}
	waiting.Pad = loop.watched[fd].turn
	second.OnGone(nil)
	loop.event(&waiting)
	if !second.over.Load() {
		t.Error("the second was not told of its own")
	}
	_ = second.Close()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_ = ls.Run(ended)
}

// Who begins to wait on a socket that the loop watches already may have missed the
// event it waits for.
func TestTheFirstWaitLooksOnceMore(t *testing.T) {
	ls, err := NewLoops(1)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s, err := ls.Dial(t.Context(), l.Addr().(*net.TCPAddr).AddrPort(), nil)
	if err != nil {
		t.Fatal(err)
	}
	s.OnGone(func() {})
	_ = s.SetDeadline(past)
	if err := s.wait(); err != nil {
		t.Errorf("first: %v", err)
	}
	if err := s.wait(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("second: %v", err)
	}
	_ = s.Close()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_ = ls.Run(ended)
}

// What came before the loops were given the listener has its options too.
func TestListenTunesThoseThatWaited(t *testing.T) {
	ls, err := NewLoops(1)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	firsts := make(chan *Socket, 1)
	dial := func() net.Conn {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	check := func(when string, c net.Conn) {
		if _, err := c.Write([]byte("first")); err != nil {
			t.Fatal(err)
		}
		s := <-firsts
		defer func() { _ = s.Close() }()
		for _, o := range []struct{ level, name, want int }{
			{syscall.SOL_SOCKET, syscall.SO_KEEPALIVE, 1}, {syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE, keepAliveSeconds}, {syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1},
		} {
			if got, err := syscall.GetsockoptInt(s.fd, o.level, o.name); got != o.want || err != nil {
				t.Errorf("%s: option %d: %d %v, want %d", when, o.name, got, err, o.want)
			}
		}
	}
	early := dial()
	var running sync.WaitGroup
	running.Go(func() { _ = ls.Run(ctx) })
	running.Go(func() {
		_ = ls.Listen(ctx, l.(*net.TCPListener), Listener{
			Accept: func(netip.AddrPort, int) bool { return true }, Patience: time.Minute, Gone: func(netip.AddrPort) {},
			First: func(s *Socket, _ []byte) { firsts <- s },
		})
	})
	check("early", early)
	check("late", dial())
	cancel()
	running.Wait()
}
