package relay

import (
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/frame"
	"github.com/wsbouncer/wsbouncer/internal/limit"
	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/internal/wheel"
)

// A Stream is one side of a connection after its upgrade: a TCP or TLS
// connection, or anything that behaves like one.
type Stream interface {
	Read(p []byte) (int, error)
	Write(p []byte) (int, error)
	SetDeadline(t time.Time) error
	SetReadDeadline(t time.Time) error
	SetWriteDeadline(t time.Time) error
	Close() error
}

// Limits bound what a connection may do. A zero field is no limit.
type Limits struct {
	// MessageBytes is the longest message of either side, over all its frames.
	MessageBytes int64
	// MessageRate counts the client's messages and control frames, ByteRate
	// its bytes, headers included.
	MessageRate, ByteRate limit.Rate
	// IdleTimeout ends a connection whose client sent no byte for so long
	// (idle), or whose upstream did not (upstream_gone). Either is pinged when
	// it was silent for a third of it.
	IdleTimeout time.Duration
	// WriteTimeout cuts a side that has not taken a buffer's worth (32 KiB) in
	// so long.
	WriteTimeout time.Duration
}

// Config is one connection: both sides' upgrade is done.
type Config struct {
	Client, Upstream Stream
	// FromClient and FromUpstream were read beyond the handshakes already. The
	// relay keeps and changes them.
	FromClient, FromUpstream []byte

	// Limits are shared by many connections, and not changed.
	Limits *Limits
	// Compression: permessage-deflate was negotiated between the two sides.
	Compression bool
	// CheckUTF8: text payloads that are not compressed are validated.
	CheckUTF8 bool
	// Loops relay what they can: plain sockets without InBand and Inspect. nil, and
	// everything else: two goroutines a connection.
	Loops *Loops
	// Wheel keeps the idle time-out; nil: none.
	Wheel *wheel.Wheel
	// InBand, when set, is given the client's text messages that are JSON
	// objects with a member "wsbouncer"; they are not passed on, and the
	// upstream's are dropped. The message is valid during the call only. The
	// answer, if any, goes to the client as a text message. It is called on the
	// connection's own goroutine, never twice at once, at most once a second,
	// and may call c.End.
	InBand func(c *Conn, message []byte) (answer []byte)
	// Inspect, when set, decides about every data message of either side before
	// anything of it goes on; nothing is compressed then, and text is UTF-8. It
	// is called for one message of a side at a time, on the connection's own
	// goroutines, for the two sides perhaps at once, and may call c.End. The
	// message is unmasked, and valid during the call only; what the verdict holds
	// must be valid until the next message of the side.
	Inspect func(c *Conn, from Party, binary bool, message []byte) Verdict
	// Ended, when set, is how the connection ended before it began: its close
	// frames leave, and nothing else does.
	Ended reason.End
	// OnEnd is called exactly once, when both sides are closed and nothing of
	// the connection runs any more. It may be called before Start returns.
	OnEnd func(end reason.End, s Stats)
}

// A Verdict is what becomes of a message.
type Verdict struct {
	// Whole: it goes on, frame for frame as it came. Otherwise Part goes on in
	// its place, in one frame; nothing does where that is empty.
	Whole bool
	Part  []byte
	// Reply goes back to the sender, where there is one, as a binary message or
	// as text.
	Reply       []byte
	BinaryReply bool
	// End, when set, ends the connection, and nothing of the message goes on.
	End reason.End
}

// A Party is who ended a connection.
type Party uint8

// Who ended a connection.
const (
	Gateway Party = iota
	Client
	Upstream
)

// String names the party as metrics and logs do.
func (p Party) String() string {
	return [...]string{"gateway", "client", "upstream"}[p]
}

// Stats is what a connection carried, as it came in: bytes with their headers,
// messages whose last frame had begun.
type Stats struct {
	ClientBytes, UpstreamBytes       int64 // from the client, from the upstream
	ClientMessages, UpstreamMessages int64
	// InBandDropped counts the upstream's messages that posed as the gateway's.
	InBandDropped int64
	// By is who ended it: when it is not Gateway, the end may be a peer's own
	// code and text, and the text is a stranger's.
	By Party
}

// A Conn is one live connection. Its methods are safe for concurrent use. Most
// connections are idle, so that what an idle one does not need is made when it is
// needed.
type Conn struct {
	client, upstream side
	up, down         pump // from the client, from the upstream

	running atomic.Int32 // pumps
	posted  bool         // under the loop's lock
	parting atomic.Bool  // the gateway ended it: what is left has no haste
	added   bool         // the loop's own, as over,
	over    bool
	waits   bool // in the loop's ended,
	look    bool // for check
	stopped bool // under mu: both sides were told that nothing more goes on
	by      Party
	loop    *loop  // nil: a goroutine for each pump
	sieve   *sieve // nil: off
	onEnd   func(end reason.End, s Stats)
	limits  *Limits

	messageState, byteState int64 // of the client's rates, the up pump's own

	wheel *wheel.Wheel
	timer wheel.Timer

	mu    sync.Mutex
	ended *ending // nil: live
	alarm *alarm  // nil: never set
}

// ending is how a connection ends.
type ending struct {
	end     reason.End
	closeBy time.Time // when both sockets are cut, whatever the peers do
}

// alarm makes a loop look at a connection.
type alarm struct {
	timer *time.Timer
	at    time.Time // zero: it does not ring
}

// Start relays until one side, or End, ends the connection. It returns at once
// and keeps nothing of the caller's goroutine.
func Start(cfg Config) *Conn {
	c := &Conn{onEnd: cfg.OnEnd, wheel: cfg.Wheel, limits: cfg.Limits}
	c.client.conn, c.upstream.conn = c, c
	inspected := cfg.InBand != nil || cfg.Inspect != nil
	if cfg.Loops == nil || inspected || !cfg.Loops.adopt(c, cfg.Client, cfg.Upstream) {
		c.client.attach(plain(cfg.Client))
		c.upstream.attach(plain(cfg.Upstream))
	}
	c.upstream.masked = true
	o := frame.Options{MaxMessage: cfg.Limits.MessageBytes, Compression: cfg.Compression, CheckUTF8: cfg.CheckUTF8}
	if inspected {
		c.sieve = &sieve{inBand: cfg.InBand, inspect: cfg.Inspect}
		// What is compressed cannot be looked at.
		o.Compression = false
		o.CheckUTF8 = o.CheckUTF8 || cfg.Inspect != nil
		if o.MaxMessage == 0 {
			o.MaxMessage = heldBytes
		}
	}
	c.down.init(c, Upstream, o, cfg.FromUpstream)
	o.FromClient = true
	c.up.init(c, Client, o, cfg.FromClient)
	c.startIdle()
	if !cfg.Ended.IsZero() {
		c.finish(cfg.Ended, Gateway)
	}
	if c.loop != nil {
		if !c.loop.post(c) {
			c.orphan()
		}
		return c
	}
	c.running.Store(2)
	go c.up.run()
	go c.down.run()
	return c
}

// plain makes a connection of package net of a loop's socket that the loop does
// not relay. Where that fails the socket is closed, and its side lost.
func plain(s Stream) Stream {
	if s, ok := s.(interface{ Conn() (*net.TCPConn, error) }); ok {
		if c, err := s.Conn(); err == nil {
			return c
		}
	}
	return s
}

// orphan ends a connection whose loop has ended before it came.
func (c *Conn) orphan() {
	c.finish(reason.Restarting, Gateway)
	c.up.gone, c.down.gone = true, true
	for _, s := range [...]*side{&c.client, &c.upstream} {
		s.abandon()
		s.stopReading()
		s.closeIfDone()
	}
	c.left()
}

// End ends the connection: when it returns no more data goes on in either
// direction, but for the rest of a frame under way where e does not cut. It
// does not block: the close frames leave at once where their side takes them
// and is between two frames, else within a second. Only the first end counts.
func (c *Conn) End(e reason.End) { c.finish(e, Gateway) }

// Notify sends the client a text message of the gateway's own at the next
// boundary between messages. It does not block and reports whether there was
// room: while an upstream's message does not end, little is kept.
func (c *Conn) Notify(message []byte) bool {
	return c.notify(Client, frame.Text, message)
}

// notify sends a message of the gateway's own to a party.
func (c *Conn) notify(to Party, op frame.Opcode, message []byte) bool {
	s, writer := &c.client, &c.down
	if to == Upstream {
		s, writer = &c.upstream, &c.up
	}
	if !s.note(op, message) {
		return false
	}
	writer.poke()
	return true
}

// Stats is what the connection carried so far.
func (c *Conn) Stats() Stats {
	c.mu.Lock()
	by := c.by
	c.mu.Unlock()
	s := Stats{
		ClientBytes: c.up.bytes.Load(), UpstreamBytes: c.down.bytes.Load(),
		ClientMessages: c.up.messages.Load(), UpstreamMessages: c.down.messages.Load(),
		By: by,
	}
	if c.sieve != nil {
		s.InBandDropped = c.sieve.dropped.Load()
	}
	return s
}
