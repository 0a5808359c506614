package relay

import (
	"crypto/rand"
	"encoding/binary"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/frame"
	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/internal/wheel"
)

// epoch is where clock counts from.
var epoch = time.Now()

// clock is now as nanoseconds that no change of the wall clock touches.
func clock(now time.Time) int64 { return int64(now.Sub(epoch)) }

// idler is a Conn as the wheel sees it.
type idler Conn

func (c *Conn) startIdle() {
	now := time.Now()
	c.up.last.Store(clock(now))
	c.down.last.Store(clock(now))
	if idle := c.limits.IdleTimeout; c.wheel != nil && idle > 0 {
		c.wheel.Schedule(&c.timer, now.Add(idle/3), (*idler)(c))
	}
}

func (c *Conn) stopIdle() {
	if c.wheel != nil {
		c.wheel.Stop(&c.timer)
	}
}

// Expire looks at both directions: who was silent for the whole time-out ends
// the connection, who was for a third of it is pinged.
func (i *idler) Expire(*wheel.Timer, time.Time) {
	c := (*Conn)(i)
	if end, _ := c.ending(); !end.IsZero() {
		return
	}
	now := time.Now()
	at := clock(now)
	// Into a frame no ping can be put. While its bytes come, the side that takes
	// them counts as heard, however long it says nothing: it will be asked after.
	toClient, toUpstream := c.client.inFrame(), c.upstream.inFrame()
	fromClient, fromUpstream := c.up.last.Load(), c.down.last.Load()
	if toClient {
		fromClient = c.up.heard(fromUpstream)
	}
	if toUpstream {
		fromUpstream = c.down.heard(fromClient)
	}
	idle := c.limits.IdleTimeout
	client, upstream := time.Duration(at-fromClient), time.Duration(at-fromUpstream)
	switch {
	case client >= idle:
		c.finish(reason.Idle, Gateway)
		return
	case upstream >= idle:
		c.finish(reason.UpstreamGone, Upstream)
		return
	}
	next := min(c.check(&c.client, &c.down, client), c.check(&c.upstream, &c.up, upstream))
	c.wheel.Schedule(&c.timer, now.Add(next), i)
}

// check asks for a ping to s, by the pump that writes there, when it was silent
// for too long, and says when to look again.
func (c *Conn) check(s *side, writer *pump, silent time.Duration) time.Duration {
	idle := c.limits.IdleTimeout
	third := idle / 3
	if silent < third {
		return third - silent
	}
	if s.wantPing() {
		writer.poke()
	}
	return min(third, idle-silent)
}

// heard counts the source as heard at a time, unless it was heard since.
func (p *pump) heard(at int64) int64 {
	for {
		last := p.last.Load()
		if at <= last {
			return last
		}
		if p.last.CompareAndSwap(last, at) {
			return at
		}
	}
}

// inFrame reports whether the output stands inside a frame.
func (s *side) inFrame() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writing() || s.left > 0
}

// wantPing makes a ping due at the next boundary between frames.
func (s *side) wantPing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing || s.done || s.pingDue {
		return false
	}
	for s.ping.Load() == 0 {
		var b [8]byte
		_, _ = rand.Read(b[:])
		s.ping.Store(binary.BigEndian.Uint64(b[:]))
	}
	s.pingDue = true
	return true
}

func (s *side) appendPing(dst []byte) []byte {
	return frame.AppendPing(dst, binary.BigEndian.AppendUint64(nil, s.ping.Load()), s.masked)
}

// isOurs reports whether b, a pong frame of this side, answers a ping of ours
// and not one of the other peer's.
func (s *side) isOurs(b []byte) bool {
	id := s.ping.Load()
	if id == 0 || b[1]&0x7f != 8 {
		return false
	}
	return binary.BigEndian.Uint64(frame.AppendPayload(nil, b)) == id
}
