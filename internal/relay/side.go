package relay

import (
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/frame"
	"github.com/wsbouncer/wsbouncer/internal/reason"
)

// lastWord is how long the close frame itself may take when the rest of the time
// is used up.
const lastWord = 100 * time.Millisecond

// notesBytes bounds the gateway's own messages that wait for a boundary.
const notesBytes = 4 << 10

// A side is one of the two peers as something to write to. Data is written by
// one pump only; End may write the close frame beside it.
type side struct {
	conn    *Conn
	*direct         // nil in a loop, which has
	fd      int     // instead,
	socket  *Socket // and had this until it was added

	ping atomic.Uint64 // payload of our pings, 0 before the first

	mu        sync.Mutex
	*underWay // nil: no write is
	*extra    // nil until more is called
	// Where the output stands when no write is under way: left payload bytes of
	// a frame are missing, mid in a fragmented message.
	left int64
	mid  bool

	masked  bool // frames toward it carry a mask
	noted   bool // there are notes
	pingDue bool
	closing bool // no new frame of data goes on
	cut     bool // nor the rest of one
	done    bool // nothing more will be written
	hard    bool // to be closed without ceremony
	broken  bool // a write failed
	heard   bool // nothing more will be read
	shut    bool // in a loop: the peer was told that nothing more comes
	closed  bool
}

// direct is a side that goroutines write to and read from.
type direct struct {
	stream  Stream
	raw     syscall.RawConn    // of a plain socket, else nil
	step    func(uintptr) bool // advance, bound once
	armed   bool               // a write deadline is set:
	armedBy time.Time
	one     underWay // what the writing goroutine has under way
}

// underWay is a write: buf[:off] is gone, and start payload bytes at buf's
// beginning belong to a frame that began earlier.
type underWay struct {
	buf   []byte
	off   int
	start int64
	// In a loop, where a write may last: how the output stands after it, and
	// until when it must have moved on.
	nextLeft int64
	nextMid  bool
	slowAt   int64 // as clock says; 0: never
}

// extra is what a side needs that has something of its own to say, or ends.
type extra struct {
	notes   []byte    // own messages, for the next boundary between messages
	closeBy time.Time // the last deadline of all
	tail    []byte    // what is left of the close frame
	// In a loop, as clock says; 0: never.
	tailBy  int64 // the close frame must be gone
	wordBy  int64 // nothing can be written: what the peer said last must be read
	tailing bool  // the close frame is being written
}

// more makes the extra. The lock is held.
func (s *side) more() *extra {
	if s.extra == nil {
		s.extra = new(extra)
	}
	return s.extra
}

func (s *side) writing() bool { return s.underWay != nil }

func (s *side) attach(stream Stream) {
	s.direct = &direct{stream: stream}
	if s.raw = rawConn(stream); s.raw != nil {
		s.step = s.advance
	}
}

// result is what became of a write.
type result uint8

const (
	wrote    result = iota
	wroteDue        // and something of our own can go next
	stopped         // the connection ends: the rest is not to be written
	slow            // the peer did not take it in time
	failed          // the peer is gone
	blocked         // in a loop: the rest goes when the peer takes more
)

// write passes on b, which is legal and whole up to left missing payload bytes
// of its last frame, and says where the output stands then.
func (s *side) write(b []byte, left int64, mid bool) result {
	if s.direct == nil {
		return s.push(b, left, mid)
	}
	s.mu.Lock()
	if s.done || s.closing && (s.left == 0 || s.cut) {
		s.mu.Unlock()
		return stopped
	}
	s.underWay = &s.one
	s.one = underWay{buf: b, start: s.left}
	to := s.allowed()
	if s.raw == nil {
		s.arm()
	}
	s.mu.Unlock()

	var err error
	n := 0
	if s.raw != nil {
		err = s.raw.Write(s.step)
	} else {
		n, err = s.stream.Write(b[:to])
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	s.off += n
	if s.off == len(b) {
		s.left, s.mid = left, mid
	} else {
		s.left = frame.NextBoundary(b, s.start, s.off) - int64(s.off)
	}
	s.underWay, s.one = nil, underWay{}
	if err != nil && !isTimeout(err) {
		s.broken = true
	}
	if s.broken {
		s.done = true
	}
	switch {
	case s.done && !s.broken:
		return stopped
	case s.closing && (s.left == 0 || s.cut || s.broken || err != nil):
		return stopped
	case s.broken:
		return failed
	case err != nil:
		return slow
	}
	if s.raw != nil && s.armed && !s.closing {
		s.armed = false
		_ = s.stream.SetWriteDeadline(time.Time{})
	}
	if s.left == 0 && (s.pingDue || s.noted && !s.mid) {
		return wroteDue
	}
	return wrote
}

// allowed is how far buf may be written.
func (s *side) allowed() int {
	switch {
	case !s.closing:
		return len(s.buf)
	case s.cut:
		return s.off
	}
	return int(min(frame.NextBoundary(s.buf, s.start, s.off), int64(len(s.buf))))
}

// arm sets the deadline of the write under way: of a plain socket once it turned
// out to be full, of a stream that cannot tell before it, now and then.
func (s *side) arm() {
	var by time.Time
	timeout := s.conn.limits.WriteTimeout
	switch {
	case s.closing:
		by = s.closeBy
	case s.armed && s.raw != nil:
		return
	case timeout > 0:
		by = time.Now().Add(timeout)
	}
	if s.extra != nil && !s.closeBy.IsZero() && (by.IsZero() || by.After(s.closeBy)) {
		by = s.closeBy
	}
	if by.IsZero() || s.armed && by.Sub(s.armedBy).Abs() < timeout/4 {
		return
	}
	s.armed, s.armedBy = true, by
	_ = s.stream.SetWriteDeadline(by)
}

// over is how many bytes are missing to the next boundary of the output.
func (s *side) over() int64 {
	if s.writing() {
		return frame.NextBoundary(s.buf, s.start, s.off) - int64(s.off)
	}
	return s.left
}

// stop ends the output: from now on only the rest of the current frame, unless
// cut, and the close frame leave. It reports whether the pump must be woken to
// write that.
func (s *side) stop(end reason.End, closeBy time.Time, cut bool) (owes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closing, s.cut, s.more().closeBy = true, cut, closeBy
	s.notes, s.noted, s.pingDue = nil, false, false
	if s.direct == nil {
		s.stopLoop(end)
		return false
	}
	if s.done {
		if s.writing() {
			_ = s.stream.SetWriteDeadline(past)
		}
		return false
	}
	if s.raw == nil && s.writing() {
		// How far that write has come is known only when it returns.
		if cut {
			closeBy = past
		}
		_ = s.stream.SetWriteDeadline(closeBy)
		return false
	}
	switch {
	case s.over() == 0:
		s.writeTail(end)
		if s.writing() {
			_ = s.stream.SetWriteDeadline(past)
		}
		return !s.done && !s.writing()
	case cut:
		s.cutOff()
	case s.writing():
		_ = s.stream.SetWriteDeadline(closeBy)
	}
	return false
}

// stopLoop is stop in a loop, where no write waits.
func (s *side) stopLoop(end reason.End) {
	switch {
	case s.done:
	case s.over() == 0:
		s.drop()
		s.left = 0
		if !s.masked { // whom it concerns first: thousands may end at once
			s.writeTail(end)
		}
	case s.cut:
		s.cutOff()
	}
}

// passClose makes b, a peer's own close frame, the one that is sent, unless
// another is on its way.
func (s *side) passClose(b []byte) {
	s.mu.Lock()
	if x := s.more(); x.tail == nil && !s.closing {
		x.tail = append(x.tail, b...)
	}
	s.mu.Unlock()
}

// expect makes a write under way, and every later one, end by closeBy.
func (s *side) expect(closeBy time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if x := s.more(); x.closeBy.IsZero() {
		x.closeBy = closeBy
	}
	if s.writing() && !s.closing && s.direct != nil { // a loop looks at the time itself
		_ = s.stream.SetWriteDeadline(closeBy)
	}
}

// settle is the writing pump's duty: once the output is stopped, or last when
// the pump leaves, it sends the close frame between two frames, waiting until
// closeBy, or cuts the side off inside one.
func (s *side) settle(end reason.End, closeBy time.Time, last bool) {
	if s.direct == nil {
		s.settleLoop(end, closeBy, last)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done || !s.closing && !last {
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
	if now := time.Now(); closeBy.Before(now.Add(lastWord)) {
		closeBy = now.Add(lastWord)
	}
	_ = s.stream.SetWriteDeadline(closeBy)
	var err error
	if s.raw != nil {
		s.mu.Unlock()
		err = s.raw.Write(s.advanceTail)
		s.mu.Lock()
	} else {
		b := s.tail
		s.mu.Unlock()
		_, err = s.stream.Write(b)
		s.mu.Lock()
	}
	s.done = true
	if err != nil || s.broken {
		s.hard = true
	}
}

// cutOff gives the side up in the middle of a frame. What the kernel still
// holds for it is thrown away, and both its pumps wake.
func (s *side) cutOff() {
	s.done, s.hard = true, true
	if s.direct == nil {
		s.cutSocket()
		return
	}
	if t, ok := s.stream.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = s.stream.SetDeadline(past)
}

// sever is cutOff for who does not hold the lock.
func (s *side) sever() {
	s.mu.Lock()
	s.cutOff()
	s.mu.Unlock()
}

// abandon gives the side up because it is gone or its time is over.
func (s *side) abandon() {
	s.mu.Lock()
	s.done, s.hard = true, true
	switch {
	case s.direct == nil:
		s.drop()
	case s.writing():
		_ = s.stream.SetWriteDeadline(past)
	}
	s.mu.Unlock()
}

func (s *side) isCut() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hard || s.broken
}

func (s *side) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// stopReading notes that nothing more is read from the side.
func (s *side) stopReading() {
	s.mu.Lock()
	s.heard = true
	s.mu.Unlock()
}

// closeIfDone closes the side when nothing is left to be read or written. One
// that was told everything is closed only when it has closed, or when its time is
// over: a socket that is closed while its peer still speaks, such as in answer to
// a ping, is reset, and what the peer has not read by then is lost (RFC 6455
// §7.1.1).
func (s *side) closeIfDone() {
	s.mu.Lock()
	if s.closed || !s.heard || !s.done || s.direct == nil && !s.hard && !s.peerGone() {
		s.mu.Unlock()
		return
	}
	s.closed = true
	hard := s.hard
	s.mu.Unlock()
	if s.direct == nil {
		s.closeSocket()
		return
	}
	// Close waits until nobody uses the descriptor, so never under the lock.
	if !hard {
		_, closeBy := s.conn.ending()
		waitForClose(s.stream, closeBy)
	}
	// TLS would say goodbye first, and wait for that; waitForClose has said it.
	if t, ok := s.stream.(interface{ NetConn() net.Conn }); ok {
		_ = t.NetConn().Close()
		return
	}
	_ = s.stream.Close()
}

// waitForClose says that nothing more will come, and waits until the peer has said so
// too. What it says before is dropped.
func waitForClose(stream Stream, by time.Time) {
	type halfCloser interface{ CloseWrite() error }
	if t, ok := stream.(interface{ NetConn() net.Conn }); ok {
		if t, ok := stream.(halfCloser); ok {
			_ = t.CloseWrite() // the alert alone
		}
		stream = t.NetConn()
	}
	t, ok := stream.(halfCloser)
	if !ok || t.CloseWrite() != nil || stream.SetReadDeadline(by) != nil {
		return
	}
	b := takeBuffer()
	defer giveBuffer(b)
	for err := error(nil); err == nil; {
		_, err = stream.Read(b[:])
	}
}

// note keeps a message of our own for the next boundary.
func (s *side) note(op frame.Opcode, message []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing || s.done {
		return false
	}
	x := s.more()
	if len(x.notes)+len(message)+frame.MaxHeader > notesBytes {
		return false
	}
	x.notes, s.noted = frame.Append(x.notes, op, message, s.masked), true
	return true
}

// due takes what of our own can go now, for the writing pump.
func (s *side) due() (b []byte, mid bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing || s.done || s.writing() || s.left > 0 {
		return nil, s.mid
	}
	if s.pingDue {
		s.pingDue = false
		b = s.appendPing(b)
	}
	if s.noted && !s.mid {
		b = append(b, s.notes...)
		s.notes, s.noted = nil, false
	}
	return b, s.mid
}
