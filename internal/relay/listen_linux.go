//go:build amd64 || arm64 || riscv64

package relay

import (
	"context"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	// acceptTurn is how many clients are accepted before others have their turn.
	acceptTurn = 32
	// acceptPause is how long nothing is accepted when the system cannot.
	acceptPause = 100 * time.Millisecond
)

// A Listener is what Listen calls, on a loop: neither may block.
type Listener struct {
	// Accept decides on a new client by its address and its descriptor's number;
	// false closes it.
	Accept func(from netip.AddrPort, fd int) bool
	// First is given a client that has said something, with that; the bytes are
	// the loop's.
	First func(s *Socket, b []byte)
	// Gone is told of an accepted client that First never sees.
	Gone func(netip.AddrPort)
	// Patience is how long a client may say nothing.
	Patience time.Duration
	// Failed is told why the system could not accept. It is called again
	// and again while it cannot.
	Failed func(error)
}

// listening is one listener's state, in the loop that accepts.
type listening struct {
	Listener
	loops *Loops
	l     *loop
	fd    int

	accepting sync.Mutex // held while fd is used
	from      syscall.RawSockaddrAny
	tuned     bool // all that came before fd was tuned are accepted

	mu          sync.Mutex
	first, last *Socket // that have said nothing yet, the oldest first
	timer       *time.Timer
	closed      bool
}

// Listen accepts clients of a TCP listener until ctx ends, and spreads them over
// the loops. l is closed then.
func (ls *Loops) Listen(ctx context.Context, l *net.TCPListener, o Listener) error {
	defer func() { _ = l.Close() }()
	raw, err := l.SyscallConn()
	if err != nil {
		return err
	}
	fd, err := duplicate(raw)
	if err != nil {
		return os.NewSyscallError("dup", err)
	}
	tune(fd)
	g := &listening{Listener: o, loops: ls, l: ls.loops[0], fd: fd}
	g.timer = time.AfterFunc(time.Hour, g.expire)
	if err := g.l.watchListener(fd, g); err != nil {
		_ = sysClose(fd)
		return err
	}
	select {
	case <-ctx.Done():
	case <-g.l.stop:
	}
	g.close()
	return nil
}

// event implements sink.
func (g *listening) event(l *loop, _ uint32) {
	g.accepting.Lock()
	defer g.accepting.Unlock()
	for range acceptTurn {
		if g.fd < 0 {
			return
		}
		fd, err := sysAccept(g.fd, &g.from)
		switch err {
		case 0:
			if !g.tuned {
				tune(fd)
			}
			g.accepted(fd, addrPort(&g.from))
		case syscall.EAGAIN:
			g.tuned = true
			return
		case syscall.EINTR, syscall.ECONNABORTED:
		default:
			g.Failed(os.NewSyscallError("accept", err))
			g.pause()
			return
		}
	}
	l.again = true // no edge tells of those that were there already
}

// pause stops listening for a moment, so that a system without descriptors is
// not asked in a loop.
func (g *listening) pause() {
	_ = g.l.control(syscall.EPOLL_CTL_DEL, g.fd, nil)
	time.AfterFunc(acceptPause, func() {
		g.accepting.Lock()
		defer g.accepting.Unlock()
		if g.fd >= 0 {
			_ = g.l.watchListener(g.fd, g)
		}
	})
}

func (g *listening) accepted(fd int, from netip.AddrPort) {
	s := &Socket{loop: g.loops.deal(), fd: fd, remote: from}
	if !g.Accept(from, fd) {
		s.cut()
		return
	}
	// Most have sent their request by now.
	if g.read(s, g.l.buf) {
		return
	}
	g.mu.Lock()
	s.waiting, s.since = g, time.Now()
	if s.before = g.last; g.last == nil {
		g.first = s
		g.timer.Reset(g.Patience)
	} else {
		g.last.after = s
	}
	g.last = s
	closed := g.closed
	g.mu.Unlock()
	if closed || s.register() != nil {
		g.give(s)
	}
}

// read reads once; false: nothing is there yet.
func (g *listening) read(s *Socket, b []byte) bool {
	for {
		n, err := sysRead(s.fd, b)
		switch {
		case n > 0:
			if n == len(b) || s.over.Load() {
				s.ready.Store(true)
			}
			g.First(s, b[:n])
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			return false
		default:
			s.cut()
			g.Gone(s.remote)
		}
		return true
	}
}

// first is the first event of a client, in its loop.
func (l *loop) first(s *Socket) {
	g := s.waiting
	if !g.unlist(s) {
		return // its time is over
	}
	s.waiting = nil
	s.ready.Store(false)
	if !g.read(s, l.buf) { // the event promised something
		s.cut()
		g.Gone(s.remote)
	}
}

// unlist takes s out of those that have said nothing; false: it was not there.
func (g *listening) unlist(s *Socket) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.unlistLocked(s)
}

func (g *listening) unlistLocked(s *Socket) bool {
	if s.since.IsZero() {
		return false
	}
	if s.before != nil {
		s.before.after = s.after
	} else {
		g.first = s.after
	}
	if s.after != nil {
		s.after.before = s.before
	} else {
		g.last = s.before
	}
	s.before, s.after, s.since = nil, nil, time.Time{}
	return true
}

// give gives up a client that said nothing.
func (g *listening) give(s *Socket) {
	if g.unlist(s) {
		s.cut()
		g.Gone(s.remote)
	}
}

// expire closes those that have said nothing for too long.
func (g *listening) expire() {
	for {
		g.mu.Lock()
		s := g.first
		if s == nil {
			g.mu.Unlock()
			return
		}
		if left := g.Patience - time.Since(s.since); left > 0 && !g.closed {
			g.timer.Reset(left)
			g.mu.Unlock()
			return
		}
		g.unlistLocked(s)
		g.mu.Unlock()
		s.cut()
		g.Gone(s.remote)
	}
}

func (g *listening) close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.accepting.Lock()
	g.l.forget(g.fd, g)
	_ = g.l.control(syscall.EPOLL_CTL_DEL, g.fd, nil)
	_ = sysClose(g.fd)
	g.fd = -1
	g.accepting.Unlock()
	g.expire()
	g.timer.Stop()
}
