//go:build amd64 || arm64 || riscv64

package relay_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/relay"
)

// listening accepts clients on the loops; what each says first is answered.
func listening(t *testing.T, o relay.Listener) (addr string, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := loops().Listen(ctx, l.(*net.TCPListener), o); err != nil {
			t.Error(err)
		}
	})
	stop = func() { cancel(); running.Wait() }
	t.Cleanup(stop)
	return l.Addr().String(), stop
}

func ask(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	return c
}

func TestListenGivesWhatCameFirst(t *testing.T) {
	yes := func(netip.AddrPort, int) bool { return true }
	gone := make(chan netip.AddrPort, 1)
	addr, stop := listening(t, relay.Listener{
		Accept: yes, Patience: 10 * time.Second, Gone: func(a netip.AddrPort) { gone <- a },
		First: func(s *relay.Socket, b []byte) {
			said := string(b)
			go func() {
				_, _ = s.Write([]byte(said + " " + s.Remote().String()))
				_ = s.Close()
			}()
		},
	})
	for _, late := range []bool{false, true} {
		c := ask(t, addr)
		if late { // the connection is accepted long before it speaks
			other := ask(t, addr)
			send(t, other, []byte("first"))
			_, _ = io.ReadAll(other)
		}
		send(t, c, []byte("hello"))
		got, err := io.ReadAll(c)
		if want := "hello " + c.LocalAddr().String(); string(got) != want || err != nil {
			t.Errorf("late %v: %q %v, want %q", late, got, err, want)
		}
	}

	// More at once than are accepted in a turn.
	var all sync.WaitGroup
	for range 200 {
		all.Go(func() {
			c := ask(t, addr)
			send(t, c, []byte("hello"))
			if got, err := io.ReadAll(c); len(got) < 5 || err != nil {
				t.Errorf("%q %v", got, err)
			}
		})
	}
	all.Wait()

	silent := ask(t, addr)
	silent.Close()
	if a := <-gone; a.String() != silent.LocalAddr().String() {
		t.Errorf("gone: %v", a)
	}

	waits := ask(t, addr)
	other := ask(t, addr)
	send(t, other, []byte("x"))
	_, _ = io.ReadAll(other)
	stop()
	expectEnd(t, waits)
	<-gone
}

func TestListenLosesPatience(t *testing.T) {
	gone := make(chan netip.AddrPort, 2)
	addr, _ := listening(t, relay.Listener{
		Accept: func(netip.AddrPort, int) bool { return true }, Patience: 50 * time.Millisecond,
		Gone: func(a netip.AddrPort) { gone <- a }, First: func(s *relay.Socket, _ []byte) { t.Error("first") },
	})
	a, b := ask(t, addr), ask(t, addr)
	expectEnd(t, a)
	expectEnd(t, b)
	<-gone
	<-gone
}

func TestListenClosesWhomItDoesNotAccept(t *testing.T) {
	addr, _ := listening(t, relay.Listener{
		Accept: func(netip.AddrPort, int) bool { return false }, Patience: time.Minute,
		Gone: func(netip.AddrPort) { t.Error("gone") }, First: func(*relay.Socket, []byte) { t.Error("first") },
	})
	expectEnd(t, ask(t, addr))
}

func TestSocketTellsThatThePeerIsGone(t *testing.T) {
	outer, inner := socketPair(t)
	s := inner.(*relay.Socket)
	gone := make(chan struct{})
	s.OnGone(func() { close(gone) })
	if s.Early() {
		t.Error("early before anything came")
	}
	outer.Close()
	<-gone
	if !s.Early() {
		t.Error("the end came, and is not seen")
	}
	if _, err := s.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	if err := errors.Join(s.Close(), s.Close()); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	if _, err := s.Conn(); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}

func TestSocketDeadlineEndsAWait(t *testing.T) {
	_, inner := socketPair(t)
	s := inner.(*relay.Socket)
	defer s.Close()
	for _, early := range []bool{true, false} {
		by := time.Now().Add(30 * time.Millisecond)
		if early {
			by = time.Unix(1, 0)
		}
		_ = s.SetDeadline(by)
		if _, err := s.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
	}
	_ = s.SetDeadline(time.Time{})
	failed := make(chan error)
	go func() {
		_, err := s.Read(make([]byte, 1))
		failed <- err
	}()
	_ = s.SetDeadline(time.Unix(1, 0)) // whether it waits by now or not
	if err := <-failed; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
}

func TestSocketIsAConnection(t *testing.T) {
	outer, inner := socketPair(t)
	c, err := inner.(*relay.Socket).Conn()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	send(t, outer, []byte("ping"))
	expect(t, c, []byte("ping"))
	send(t, c, []byte("pong"))
	expect(t, outer, []byte("pong"))
}

// A socket whose peer has reset it has no peer's address any more, which nobody
// who is given a connection expects.
func TestSocketOfAPeerThatIsGoneIsNoConnection(t *testing.T) {
	outer, inner := socketPair(t)
	s := inner.(*relay.Socket)
	gone := make(chan struct{})
	s.OnGone(func() { close(gone) })
	_ = outer.(*net.TCPConn).SetLinger(0)
	outer.Close()
	<-gone
	if c, err := s.Conn(); err == nil {
		t.Errorf("a connection from %v", c.RemoteAddr())
	}
}

func TestDialFailsAsNetDoes(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().(*net.TCPAddr).AddrPort()
	l.Close()
	_, err = loops().Dial(t.Context(), addr, nil)
	var op *net.OpError
	if !errors.Is(err, syscall.ECONNREFUSED) || !errors.As(err, &op) || op.Op != "dial" {
		t.Error(err)
	}
	// Nobody answers from there.
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = loops().Dial(ctx, full(t), nil)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if _, err = loops().Dial(ctx, addr, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

// full is an address that answers nobody: its queue is full.
func full(t *testing.T) netip.AddrPort {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(name.(*syscall.SockaddrInet4).Port))
	for { // until one is not answered any more
		c, err := net.DialTimeout("tcp", addr.String(), 200*time.Millisecond)
		if err != nil {
			return addr
		}
		t.Cleanup(func() { c.Close() })
	}
}
