package relay

import (
	"errors"
	"os"
	"sync/atomic"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/frame"
	"github.com/wsbouncer/wsbouncer/internal/reason"
)

const (
	// smallBuffer is what a source that cannot tell when it is ready (TLS) is
	// read into while little comes.
	smallBuffer = 640
	// linger is how long such a source keeps a large buffer after it was busy.
	linger = 5 * time.Millisecond
)

// A pump is one direction. Its fields are its goroutine's own but for the
// atomic ones.
type pump struct {
	c        *Conn
	src, dst *side
	scan     frame.Scanner
	// held is part of a header or control frame that waits for the rest; at first
	// it is what was read before the relay began.
	held []byte

	*reading          // nil in a loop, which has
	events     uint32 // that wait for the turn of an ended connection
	registered bool
	pending    bool // more may be there to be read
	over       bool // nothing will come after that
	queued     bool // for another turn
	gone       bool // the source is not read any more

	draining bool // nothing is passed on any more
	deaf     bool // nor understood
	from     Party

	last            atomic.Int64 // when it last read something, as clock says
	bytes, messages atomic.Int64
}

// reading is what a goroutine that reads needs.
type reading struct {
	small []byte // persistent, for sources that cannot tell
	busy  bool   // the last read filled small
	buf   *buffer
	n     int
	err   error
	ready func(uintptr) bool // tryRead, bound once
}

func (p *pump) init(c *Conn, from Party, o frame.Options, first []byte) {
	p.c, p.from = c, from
	p.src, p.dst = &c.client, &c.upstream
	if from == Upstream {
		p.src, p.dst = p.dst, p.src
	}
	p.scan = frame.NewScanner(o)
	p.held = first
	if c.loop != nil {
		return
	}
	p.reading = new(reading)
	if p.src.raw != nil {
		p.ready = p.tryRead
	} else {
		p.small = make([]byte, smallBuffer)
	}
}

// run pumps until nothing more is to be read, then leaves the connection.
func (p *pump) run() {
	more := p.begin()
	for more {
		more = p.round()
	}
	p.leave()
}

// begin passes on what was read before the relay began.
func (p *pump) begin() (more bool) {
	b := p.held
	if len(b) == 0 {
		return true
	}
	p.held = nil
	return p.take(b, len(b))
}

// round reads once and passes on what came.
func (p *pump) round() bool {
	b, n, err := p.read()
	more := true
	if n > 0 {
		more = p.take(b, n)
	}
	if p.buf != nil {
		giveBuffer(p.buf)
		p.buf = nil
	}
	if !more || err == nil {
		return more
	}
	if isTimeout(err) {
		return p.woken()
	}
	p.src.abandon()
	return false
}

// read returns what was held back with n new bytes behind it.
func (p *pump) read() (b []byte, n int, err error) {
	k := len(p.held)
	switch {
	case p.src.raw != nil:
		if err := p.readRaw(); err != nil {
			return nil, 0, err
		}
		n, b = p.n, p.buf[:k+p.n]
	case p.busy:
		by := time.Now().Add(linger)
		if end, closeBy := p.c.ending(); !end.IsZero() && by.After(closeBy) {
			by = closeBy // however fast it comes
		}
		_ = p.src.stream.SetReadDeadline(by)
		p.buf = takeBuffer()
		copy(p.buf[:], p.held)
		n, err = p.src.stream.Read(p.buf[k:])
		b = p.buf[:k+n]
	default:
		copy(p.small, p.held)
		n, err = p.src.stream.Read(p.small[k:])
		b = p.small[:k+n]
		p.busy = n == len(p.small)-k
	}
	if n > 0 {
		p.held = nil
	}
	return b, n, err
}

// take passes on what is whole of b, of which the last n bytes are new, and
// reports whether to read on.
func (p *pump) take(b []byte, n int) (more bool) {
	now := time.Now()
	p.last.Store(clock(now))
	p.bytes.Add(int64(n))
	if p.deaf {
		return true
	}
	messages, controls := p.scan.Messages(), p.scan.Controls()
	end, c, b, bad := p.walk(b)
	messages, controls = p.scan.Messages()-messages, p.scan.Controls()-controls
	if !p.draining {
		p.messages.Add(messages)
	}
	if !p.draining && !p.afford(now, int(messages+controls), n) {
		p.refuse(reason.RateLimited)
		return true
	}
	pass := b[:end]
	if c.Op == frame.Close {
		pass = b[:end-c.Len]
	}
	if len(pass) > 0 && !p.draining {
		if p.c.sieve != nil {
			p.sift(pass)
		} else {
			p.send(pass, p.scan.Left(), !p.scan.BetweenMessages())
		}
	}
	switch {
	case c.Op == frame.Close:
		p.peerClose(b[end-c.Len : end])
		return false
	case bad != nil:
		p.refuse(violation(bad))
		return true
	}
	if rest := b[end:]; len(rest) > 0 {
		p.held = append([]byte(nil), rest...)
	}
	return true
}

// walk scans b and returns how much of it is legal and whole, the control frame
// it ends with when that is a close frame, and b without the pongs to our own
// pings.
func (p *pump) walk(b []byte) (end int, c frame.Control, rest []byte, err error) {
	for {
		n, c, err := p.scan.Scan(b[end:])
		end += n
		if err != nil || c.Op == 0 || c.Op == frame.Close {
			return end, c, b, err
		}
		if c.Op == frame.Pong && p.src.isOurs(b[end-c.Len:end]) {
			end -= c.Len
			b = append(b[:end], b[end+c.Len:]...)
		}
	}
}

// afford decides on the client's rates.
func (p *pump) afford(now time.Time, messages, bytes int) bool {
	if p.from != Client {
		return true
	}
	c, l, ok := p.c, p.c.limits, true
	if l.MessageRate.PerSecond > 0 && messages > 0 {
		c.messageState, ok, _ = l.MessageRate.Decide(c.messageState, now, messages)
	}
	if ok && l.ByteRate.PerSecond > 0 {
		c.byteState, ok, _ = l.ByteRate.Decide(c.byteState, now, bytes)
	}
	return ok
}

// refuse ends the connection for what this source did. Nothing more of it is
// understood: a frame that was under way toward the other side stays unfinished.
func (p *pump) refuse(e reason.End) {
	p.deaf = true
	if p.draining {
		return
	}
	p.draining = true
	p.c.finish(e, Gateway)
	end, closeBy := p.c.ending()
	p.dst.settle(end, closeBy, true)
}

// send passes b on, and after it what of our own was waiting for a boundary.
func (p *pump) send(b []byte, left int64, mid bool) { p.after(p.dst.write(b, left, mid)) }

// after is what follows a write.
func (p *pump) after(r result) {
	for {
		switch r {
		case wrote:
			return
		case blocked:
			if timeout := p.c.limits.WriteTimeout; timeout > 0 {
				p.c.wakeAt(time.Now().Add(timeout))
			}
			return
		case wroteDue:
			b, mid := p.dst.due()
			if len(b) == 0 {
				return
			}
			r = p.dst.write(b, 0, mid)
			continue
		case stopped:
			end, closeBy := p.c.ending()
			p.dst.settle(end, closeBy, false)
		case slow:
			p.dst.sever()
			p.c.finish(gone(p.other()), p.other())
		case failed:
			// What the peer said last may still be there to read: who reads it
			// ends the connection.
			p.c.expectWord(p.dst, time.Now().Add(closeWait))
		}
		p.draining = true
		return
	}
}

// opposite is the pump that writes where this one reads.
func (p *pump) opposite() *pump {
	if p.from == Client {
		return &p.c.down
	}
	return &p.c.up
}

func (p *pump) other() Party {
	if p.from == Client {
		return Upstream
	}
	return Client
}

// peerClose passes on the source's close frame, or refuses an illegal one. The
// source has said its last word.
func (p *pump) peerClose(b []byte) {
	code, text, err := frame.ParseClose(frame.AppendPayload(nil, b))
	if err != nil {
		p.refuse(violation(err))
		return
	}
	end := reason.End{Code: code, Text: text}
	closeBy := p.c.peerClosed(end, p.from)
	p.dst.passClose(b)
	p.src.expect(closeBy)
	p.dst.expect(closeBy)
	p.c.expectWord(p.dst, closeBy)
}

// poke wakes the pump for what waits in its side's notes.
func (p *pump) poke() {
	if l := p.c.loop; l != nil {
		l.post(p.c)
		return
	}
	_ = p.src.stream.SetReadDeadline(past)
}

// woken is called when the read deadline passed: somebody poked, or the time is
// over. The deadline is set before anything is looked at, so that whoever pokes
// from now on is not missed.
func (p *pump) woken() (more bool) {
	p.busy = false
	_ = p.src.stream.SetReadDeadline(time.Time{})
	end, closeBy := p.c.ending()
	if !end.IsZero() {
		_ = p.src.stream.SetReadDeadline(closeBy)
	}
	if p.src.isCut() || !end.IsZero() && !time.Now().Before(closeBy) {
		p.src.abandon()
		return false
	}
	p.dst.settle(end, closeBy, false)
	if b, mid := p.dst.due(); len(b) > 0 {
		p.send(b, 0, mid)
	}
	return true
}

// leave is the pump's end: the source is not read any more, and what was still
// owed to the other side is settled.
func (p *pump) leave() {
	end, _ := p.c.ending()
	if end.IsZero() {
		p.c.finish(gone(p.from), p.from)
	}
	end, closeBy := p.c.ending()
	p.src.stopReading()
	p.dst.settle(end, closeBy, true)
	p.src.closeIfDone()
	p.dst.closeIfDone()
	p.c.left()
}

func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
