package relay

import (
	"sync/atomic"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/frame"
	"github.com/wsbouncer/wsbouncer/internal/limit"
	"github.com/wsbouncer/wsbouncer/internal/reason"
)

// heldBytes bounds a message where no limit is set and messages are held: until
// they are known not to be the gateway's, or may go on.
const heldBytes = 1 << 20

// refreshRate is how often the client is heard in-band.
var refreshRate = limit.Rate{PerSecond: 1, Burst: 1}

// tooOften answers an in-band message above refreshRate.
var tooOften = []byte(`{"wsbouncer":"error","code":"rate_limited"}`)

// A sieve is what looks into messages.
type sieve struct {
	inBand  func(c *Conn, message []byte) (answer []byte)
	inspect func(c *Conn, from Party, binary bool, message []byte) Verdict
	refresh int64 // state of refreshRate, the up pump's own
	dropped atomic.Int64
	boxes   [2]inbox // of the up pump and of the down pump
}

// box is the pump's own inbox.
func (p *pump) box() *inbox {
	if p.from == Client {
		return &p.c.sieve.boxes[0]
	}
	return &p.c.sieve.boxes[1]
}

// An inbox is the sieve's state of a direction: it holds a message that has to be
// looked at until it is whole. Control frames among its fragments go on at once;
// everything else goes on as it came and in its order.
type inbox struct {
	left    int64 // of the current data frame's payload
	final   bool  // the current data frame is its message's last
	open    bool  // more frames of the message follow
	holding bool
	raw     []byte // the held message's frames, as they came
}

// holds reports whether a message that begins with h and payload must be looked
// at.
func (x *sieve) holds(h frame.Header, payload []byte) bool {
	return x.inspect != nil || h.Op == frame.Text && mayBeObject(h, payload)
}

// sift passes on b, legal and whole as the scanner said, without the messages
// that are the gateway's.
func (p *pump) sift(b []byte) {
	x := p.box()
	from, pos := 0, 0 // b[from:pos] goes on, but has not yet
	for pos < len(b) && !p.draining {
		if x.left > 0 {
			k := int(min(x.left, int64(len(b)-pos)))
			x.left -= int64(k)
			pos += k
			if x.holding {
				x.raw = append(x.raw, b[from:pos]...)
				from = pos
				p.decide()
			}
			continue
		}
		h, n, _ := frame.ParseHeader(b[pos:])
		size := n + int(min(h.Length, int64(len(b)-pos-n)))
		switch {
		case h.Op.IsControl():
			pos += size
			continue
		case h.Op != frame.Continuation && h.Fin && h.Length == int64(size-n) && p.c.sieve.holds(h, b[pos+n:pos+size]):
			// The usual case needs no copy: it is all here.
			if v := p.judge(b[pos : pos+size]); !v.Whole {
				p.pass(b[from:pos], 0, false)
				p.carryOut(h.Op, v)
				from = pos + size
			}
			pos += size
			continue
		case h.Op != frame.Continuation:
			x.holding = p.c.sieve.holds(h, b[pos+n:pos+size])
		}
		x.left, x.final, x.open = h.Length, h.Fin, !h.Fin
		if x.holding {
			p.pass(b[from:pos], 0, false)
			from = pos + n
			x.raw = append(x.raw, b[pos:from]...)
			p.decide()
		}
		pos += n
	}
	if x.holding {
		p.pass(b[from:pos], 0, false)
		return
	}
	p.pass(b[from:pos], x.left, x.open)
}

func (p *pump) pass(b []byte, left int64, mid bool) {
	if len(b) > 0 && !p.draining {
		p.send(b, left, mid)
	}
}

// decide lets a held message go on, or not, once it is whole.
func (p *pump) decide() {
	x := p.box()
	if x.left > 0 || !x.final {
		return
	}
	raw := x.raw
	x.raw, x.holding = nil, false
	v := p.judge(raw)
	if v.Whole {
		p.pass(raw, 0, false)
		return
	}
	h, _, _ := frame.ParseHeader(raw)
	p.carryOut(h.Op, v)
}

// judge decides about the message of these frames. A reply has been sent then.
func (p *pump) judge(frames []byte) Verdict {
	h, _, _ := frame.ParseHeader(frames)
	room := takeBuffer()
	defer giveBuffer(room)
	message := room[:0]
	for rest := frames; len(rest) > 0; {
		h, n, _ := frame.ParseHeader(rest)
		size := n + int(h.Length)
		message = frame.AppendPayload(message, rest[:size])
		rest = rest[size:]
	}
	x := p.c.sieve
	if x.inBand != nil && h.Op == frame.Text && Reserved(message) {
		if p.from == Upstream {
			x.dropped.Add(1)
		} else {
			p.c.hear(message)
		}
		return Verdict{}
	}
	if x.inspect == nil {
		return Verdict{Whole: true}
	}
	v := x.inspect(p.c, p.from, h.Op == frame.Binary, message)
	if len(v.Reply) > 0 && v.End.IsZero() && !p.reply(v) {
		// Whoever asks for what is refused, and does not read the answers.
		v = Verdict{End: reason.Overloaded}
	}
	if len(v.Part) > 0 {
		v.Part = append([]byte(nil), v.Part...) // it may be of room
	}
	if !v.End.IsZero() {
		v.Whole, v.Part = false, nil
	}
	return v
}

func (p *pump) reply(v Verdict) bool {
	op := frame.Text
	if v.BinaryReply {
		op = frame.Binary
	}
	return p.c.notify(p.from, op, v.Reply)
}

// carryOut does what is left of a verdict on a message that does not go on whole.
func (p *pump) carryOut(op frame.Opcode, v Verdict) {
	switch {
	case !v.End.IsZero():
		p.refuse(v.End)
	case len(v.Part) > 0:
		p.pass(frame.Append(nil, op, v.Part, p.dst.masked), 0, false)
	}
}

// hear gives a message to the in-band handler and sends its answer.
func (c *Conn) hear(text []byte) {
	next, ok, _ := refreshRate.Decide(c.sieve.refresh, time.Now(), 1)
	answer := tooOften
	if ok {
		c.sieve.refresh = next
		answer = c.sieve.inBand(c, text)
	}
	if len(answer) > 0 {
		c.Notify(answer)
	}
}

// mayBeObject looks at the beginning of a text message's first frame: false
// means that it cannot be a JSON object. White space and a byte order mark, or
// nothing yet, leave it open.
func mayBeObject(h frame.Header, payload []byte) bool {
	for i, c := range payload {
		if h.Masked {
			c ^= h.Mask[i&3]
		}
		switch c {
		case ' ', '\t', '\r', '\n', 0xef, 0xbb, 0xbf:
			continue
		}
		return c == '{'
	}
	return true
}
