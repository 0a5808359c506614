package relay

import (
	"errors"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/frame"
	"github.com/wsbouncer/wsbouncer/internal/reason"
)

// closeWait is how long an ended connection may still take: for a frame under
// way to finish, for the close frame to be taken, for the peer's answer.
const closeWait = time.Second

// past is a deadline that interrupts whoever waits.
var past = time.Unix(1, 0)

// finish ends the connection from this side: nothing more goes on when it
// returns, whoever ended it first. What began without a cut may be cut later.
func (c *Conn) finish(e reason.End, by Party) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped && !e.Cut {
		return
	}
	c.stopped = true
	c.parting.Store(true)
	c.rememberLocked(e, by)
	upOwes := c.upstream.stop(c.ended.end, c.ended.closeBy, e.Cut)
	downOwes := c.client.stop(c.ended.end, c.ended.closeBy, e.Cut)
	c.up.hurry(c.ended.closeBy, upOwes)
	c.down.hurry(c.ended.closeBy, downOwes)
}

// peerClosed notes a peer's legal close frame: the other side's answer is
// awaited, and what it still sends before that is passed on (§5.5.1).
func (c *Conn) peerClosed(e reason.End, by Party) (closeBy time.Time) {
	c.mu.Lock()
	c.rememberLocked(e, by)
	closeBy = c.ended.closeBy
	c.mu.Unlock()
	return closeBy
}

func (c *Conn) rememberLocked(e reason.End, by Party) {
	if c.ended == nil {
		c.ended, c.by = &ending{e, time.Now().Add(closeWait)}, by
	}
}

// ending is how and until when the connection ends; a zero end: it is live.
func (c *Conn) ending() (end reason.End, closeBy time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended == nil {
		return reason.End{}, time.Time{}
	}
	return c.ended.end, c.ended.closeBy
}

// expectWord makes the reader of s wake by t at the latest. It must not undo what
// finish told that reader.
func (c *Conn) expectWord(s *side, t time.Time) {
	if c.loop != nil {
		s.mu.Lock()
		s.more().wordBy = clock(t)
		s.mu.Unlock()
		c.wakeAt(t)
		return
	}
	_ = s.stream.SetReadDeadline(t)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		_ = s.stream.SetReadDeadline(past)
	}
}

// left is called by each pump when it is done.
func (c *Conn) left() {
	if c.loop != nil {
		c.leftLoop()
		return
	}
	if c.running.Add(-1) > 0 {
		return
	}
	c.stopIdle()
	if c.onEnd != nil {
		end, _ := c.ending()
		c.onEnd(end, c.Stats())
	}
}

// hurry makes the pump's reader wake by closeBy, or at once when it has a close
// frame to write.
func (p *pump) hurry(closeBy time.Time, owes bool) {
	if l := p.c.loop; l != nil {
		p.c.wakeAtLocked(closeBy)
		l.post(p.c)
		return
	}
	if owes || p.src.isCut() {
		closeBy = past
	}
	_ = p.src.stream.SetReadDeadline(closeBy)
}

// gone is what the other side is told when this one vanishes.
func gone(p Party) reason.End {
	if p == Client {
		return reason.ClientGone
	}
	return reason.UpstreamGone
}

// violation is the end for what the scanner or ParseClose found.
func violation(err error) reason.End {
	switch {
	case errors.Is(err, frame.ErrPayload):
		return reason.InvalidPayload
	case errors.Is(err, frame.ErrTooBig):
		return reason.MessageTooBig
	}
	return reason.ProtocolError
}
