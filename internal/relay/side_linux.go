//go:build amd64 || arm64 || riscv64

package relay

import (
	"syscall"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/frame"
	"github.com/wsbouncer/wsbouncer/internal/reason"
)

// push is write in a loop: what the peer does not take at once is kept, and
// nothing more is read for it until it has.
func (s *side) push(b []byte, left int64, mid bool) result {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done || s.closing && (s.left == 0 || s.cut) {
		return stopped
	}
	s.underWay = &s.conn.loop.one
	*s.underWay = underWay{buf: b, start: s.left, nextLeft: left, nextMid: mid}
	r := s.proceed()
	if r == blocked {
		kept := &underWay{buf: append([]byte(nil), s.buf[s.off:]...), start: s.over(), nextLeft: left, nextMid: mid}
		if timeout := s.conn.limits.WriteTimeout; timeout > 0 {
			kept.slowAt = clock(time.Now().Add(timeout))
		}
		s.underWay = kept
	}
	return r
}

// flush goes on where push was blocked; moved: something came of it.
func (s *side) flush() (r result, moved bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.done:
	case s.writing():
		r = s.proceed()
		return r, true
	case s.extra != nil && s.tailing:
		s.sendTail(uintptr(s.fd))
	}
	return wrote, false
}

// proceed writes what may and can be written of the write under way.
func (s *side) proceed() result {
	for !s.done {
		to := s.allowed()
		if s.off >= to {
			break
		}
		n, err := sysWrite(s.fd, s.buf[s.off:to])
		switch {
		case n > 0:
			s.off += n
		case err == syscall.EINTR:
		case err == syscall.EAGAIN:
			return blocked
		default:
			s.broken, s.done = true, true
		}
	}
	if s.off == len(s.buf) {
		s.left, s.mid = s.nextLeft, s.nextMid
	} else {
		s.left = frame.NextBoundary(s.buf, s.start, s.off) - int64(s.off)
	}
	s.drop()
	switch {
	case s.done && !s.broken, s.closing && (s.left == 0 || s.cut || s.broken):
		return stopped
	case s.broken:
		return failed
	case s.left == 0 && (s.pingDue || s.noted && !s.mid):
		return wroteDue
	}
	return wrote
}

// drop forgets the write under way.
func (s *side) drop() { s.underWay = nil }

// blocked reports whether the side has not taken everything yet.
func (s *side) blocked() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writing()
}

// late reports whether the side has not taken what it was written in time.
func (s *side) late(at int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writing() && s.slowAt != 0 && at >= s.slowAt && !s.closing
}

// lost reports whether nothing is to be read from the side any more.
func (s *side) lost(at int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hard || s.broken && s.extra != nil && s.wordBy != 0 && at >= s.wordBy
}

// deadline is when to look at the side again, 0 for never. A side whose time is
// over is given up.
func (s *side) deadline(at int64, over bool) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done {
		s.hard = s.hard || over // nobody waits for its end any more
		return 0
	}
	var slowAt int64
	if s.writing() {
		slowAt = s.slowAt
	}
	var x extra
	if s.extra != nil {
		x = *s.extra
	}
	if over && at >= x.tailBy {
		s.done, s.hard = true, true
		s.drop()
		return 0
	}
	next := int64(0)
	for _, t := range [...]int64{slowAt, x.wordBy, x.tailBy} {
		if t > at && (next == 0 || t < next) {
			next = t
		}
	}
	return next
}

// settleLoop is settle in a loop: it does not wait.
func (s *side) settleLoop(end reason.End, closeBy time.Time, last bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done || !s.closing && !last {
		return
	}
	if s.writing() {
		// What is kept goes first, unless a frame in it will never be whole.
		if s.cut || last && s.over() > int64(len(s.buf)-s.off) {
			s.cutOff()
		}
		return
	}
	if s.left > 0 {
		if last || s.cut {
			s.cutOff()
		}
		return
	}
	if x := s.more(); x.tail == nil {
		x.tail = frame.AppendClose(nil, end.Code, end.Text, s.masked)
	}
	if s.tailBy == 0 {
		s.tailBy = max(clock(closeBy), clock(time.Now().Add(lastWord)))
	}
	s.tailing = true
	s.sendTail(uintptr(s.fd))
	if s.broken {
		s.hard = true
	}
	if !s.done {
		s.conn.loop.post(s.conn) // for its time
	}
}

// cutSocket makes the close of a socket throw away what the kernel holds for it.
func (s *side) cutSocket() {
	if s.closed {
		return
	}
	_ = syscall.SetsockoptLinger(s.fd, syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1})
	s.drop()
	s.conn.loop.post(s.conn)
}

// peerGone is waitForClose in a loop, where it does not wait. The lock is held.
func (s *side) peerGone() bool {
	if !s.shut {
		s.shut = true
		_ = sysShutdown(s.fd)
	}
	for range turn { // who says more than that now is not waited for
		n, err := sysRead(s.fd, s.conn.loop.buf)
		switch {
		case n > 0, err == syscall.EINTR:
		case err == syscall.EAGAIN:
			return false
		default:
			return true
		}
	}
	return true
}

// reader is the pump that reads from the side.
func (s *side) reader() *pump {
	if s == &s.conn.client {
		return &s.conn.up
	}
	return &s.conn.down
}

// closeSocket closes the descriptor, in the loop.
func (s *side) closeSocket() {
	s.conn.loop.forget(s.fd, s.reader())
	_ = sysClose(s.fd)
}
