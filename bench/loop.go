//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"
)

// loop is one thread that serves many sockets by epoll. Clients and the
// upstream each have one, because goroutines would cost the load's core more
// than what is measured costs the other.
type loop struct {
	ep     int
	events []syscall.EpollEvent
	socks  []sock // by descriptor
	buf    []byte
	tick   func() // called at least every millisecond, when set
}

// sock is what a loop serves.
type sock interface{ ready(events uint32) }

func newLoop() (*loop, error) {
	ep, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	return &loop{ep: ep, events: make([]syscall.EpollEvent, 1024), buf: make([]byte, 256<<10)}, nil
}

func (l *loop) close() { _ = syscall.Close(l.ep) }

func (l *loop) add(fd int, s sock, events uint32) error {
	for fd >= len(l.socks) {
		l.socks = append(l.socks, make([]sock, len(l.socks)+1024)...)
	}
	l.socks[fd] = s
	return syscall.EpollCtl(l.ep, syscall.EPOLL_CTL_ADD, fd, &syscall.EpollEvent{Events: events, Fd: int32(fd)})
}

func (l *loop) watch(fd int, events uint32) {
	_ = syscall.EpollCtl(l.ep, syscall.EPOLL_CTL_MOD, fd, &syscall.EpollEvent{Events: events, Fd: int32(fd)})
}

func (l *loop) drop(fd int) {
	l.socks[fd] = nil
	_ = syscall.Close(fd)
}

// step waits at most so many milliseconds and serves what is ready.
func (l *loop) step(ms int) error {
	n, err := syscall.EpollWait(l.ep, l.events, ms)
	if err != nil && !errors.Is(err, syscall.EINTR) {
		return fmt.Errorf("epoll_wait: %w", err)
	}
	for _, e := range l.events[:max(n, 0)] {
		if s := l.socks[e.Fd]; s != nil {
			s.ready(e.Events)
		}
	}
	return nil
}

var errLate = errors.New("it took too long")

// run serves until done says so; without done until the time has come. With
// done the time is a limit, and reaching it an error.
func (l *loop) run(ctx context.Context, until time.Time, done func() bool) error {
	for done == nil || !done() {
		left := time.Until(until)
		if left <= 0 {
			if done == nil {
				return nil
			}
			return errLate
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		wait := int(min(left, 100*time.Millisecond).Milliseconds()) + 1
		if l.tick != nil {
			l.tick()
			wait = 1
		}
		if err := l.step(wait); err != nil {
			return err
		}
	}
	return nil
}

// read reads into the loop's buffer. No bytes and no error: nothing is there.
func (l *loop) read(fd int) ([]byte, error) {
	n, err := syscall.Read(fd, l.buf)
	return received(l.buf, n, err)
}

func received(buf []byte, n int, err error) ([]byte, error) {
	switch {
	case n > 0:
		return buf[:n], nil
	case err == nil:
		return nil, io.EOF
	case errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EINTR):
		return nil, nil
	}
	return nil, err
}

// writer is the sending half of a socket: what the kernel does not take at
// once waits here.
type writer struct {
	l    *loop
	fd   int
	rest []byte
}

// write sends p, which is kept when it is large and not taken at once; it must
// not be changed until it has gone.
func (w *writer) write(p []byte) error {
	if len(w.rest) > 0 {
		w.rest = append(w.rest[:len(w.rest):len(w.rest)], p...)
		return nil
	}
	n, err := syscall.Write(w.fd, p)
	if err != nil {
		if !errors.Is(err, syscall.EAGAIN) && !errors.Is(err, syscall.EINTR) {
			return err
		}
		n = 0
	}
	if n < len(p) {
		w.rest = p[n:]
		w.l.watch(w.fd, syscall.EPOLLIN|syscall.EPOLLOUT)
	}
	return nil
}

// flush goes on with what waits.
func (w *writer) flush() error {
	p := w.rest
	w.rest = nil
	if err := w.write(p); err != nil {
		return err
	}
	if w.rest == nil {
		w.l.watch(w.fd, syscall.EPOLLIN)
	}
	return nil
}

func newSocket() (int, error) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	return fd, syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)
}
