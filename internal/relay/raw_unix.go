//go:build unix

package relay

import (
	"io"
	"net"
	"syscall"

	"github.com/wsbouncer/wsbouncer/internal/frame"
	"github.com/wsbouncer/wsbouncer/internal/reason"
)

// rawConn returns the raw connection of a plain socket. Only the types
// themselves will do: what wraps one may change its bytes.
func rawConn(s Stream) syscall.RawConn {
	var c syscall.Conn
	switch s := s.(type) {
	case *net.TCPConn:
		c = s
	case *net.UnixConn:
		c = s
	default:
		return nil
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}

// advance writes what the side takes without waiting; false: wait until it
// takes more. The lock is held, so that after End's return nothing follows.
func (s *side) advance(fd uintptr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		to := s.allowed()
		if s.done || s.off >= to {
			return true
		}
		n, err := sysWrite(int(fd), s.buf[s.off:to])
		switch {
		case n > 0:
			s.off += n
		case err == syscall.EINTR:
		case err == syscall.EAGAIN:
			s.arm()
			return false
		default:
			s.broken = true
			return true
		}
	}
}

// advanceTail is advance for the close frame.
func (s *side) advanceTail(fd uintptr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sendTail(fd)
}

func (s *side) sendTail(fd uintptr) bool {
	for !s.done {
		n, err := sysWrite(int(fd), s.tail)
		switch {
		case n > 0:
			s.tail = s.tail[n:]
			s.done = len(s.tail) == 0
		case err == syscall.EINTR:
		case err == syscall.EAGAIN:
			return false
		default:
			s.broken, s.done = true, true
		}
	}
	return true
}

// writeTail begins the close frame and writes what the side takes of it
// without waiting. The lock is held, and the output is between two frames.
func (s *side) writeTail(end reason.End) {
	if x := s.more(); x.tail == nil {
		x.tail = frame.AppendClose(nil, end.Code, end.Text, s.masked)
	}
	switch {
	case s.direct == nil:
		s.tailing = true
		s.sendTail(uintptr(s.fd))
	case s.raw != nil:
		_ = s.raw.Control(func(fd uintptr) { s.sendTail(fd) })
	}
}

// readRaw waits without a buffer until the source can be read.
func (p *pump) readRaw() error {
	err := p.src.raw.Read(p.ready)
	if err == nil {
		err = p.err
		p.err = nil
	}
	return err
}

// tryRead reads once; false: nothing is there, wait.
func (p *pump) tryRead(fd uintptr) bool {
	b := takeBuffer()
	k := copy(b[:], p.held)
	for {
		n, err := sysRead(int(fd), b[k:])
		switch {
		case n > 0:
			p.buf, p.n = b, n
			return true
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			giveBuffer(b)
			return false
		case err == 0:
			p.err = io.EOF
		default:
			p.err = err
		}
		giveBuffer(b)
		return true
	}
}
