package relay

import (
	"sync/atomic"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/frame"
	"github.com/wsbouncer/wsbouncer/internal/limit"
)

// inBandBytes bounds a message in in-band mode where no limit is set: there,
// messages are held until they are known not to be the gateway's.
const inBandBytes = 1 << 20

// refreshRate is how often the client is heard in-band.
var refreshRate = limit.Rate{PerSecond: 1, Burst: 1}

// tooOften answers an in-band message above refreshRate.
var tooOften = []byte(`{"wsbouncer":"error","code":"rate_limited"}`)

// inBand is the in-band mode of a connection.
type inBand struct {
	handle  func(c *Conn, message []byte) (answer []byte)
	refresh int64 // state of refreshRate, the up pump's own
	dropped atomic.Int64
	boxes   [2]inbox // of the up pump and of the down pump
}

// box is the pump's own inbox.
func (p *pump) box() *inbox {
	if p.from == Client {
		return &p.c.inBand.boxes[0]
	}
	return &p.c.inBand.boxes[1]
}

// An inbox is the in-band state of a direction: it holds a text message that
// may be a JSON object until it is whole. Control frames among its fragments
// go on at once; everything else goes on as it came and in its order.
type inbox struct {
	left    int64 // of the current data frame's payload
	final   bool  // the current data frame is its message's last
	open    bool  // more frames of the message follow
	holding bool
	raw     []byte // the held message's frames, as they came
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
		case h.Op == frame.Text && h.Fin && h.Length == int64(size-n):
			// The usual case needs no copy: it is all here.
			if p.judge(b[pos : pos+size]) {
				p.pass(b[from:pos], 0, false)
				from = pos + size
			}
			pos += size
			continue
		case h.Op != frame.Continuation:
			x.holding = h.Op == frame.Text && mayBeObject(h, b[pos+n:pos+size])
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
	if !p.judge(raw) {
		p.pass(raw, 0, false)
	}
}

// judge reports whether the message of these frames is the gateway's; it has
// been dealt with then.
func (p *pump) judge(frames []byte) bool {
	h, n, _ := frame.ParseHeader(frames)
	if !mayBeObject(h, frames[n:n+int(h.Length)]) {
		return false
	}
	room := takeBuffer()
	defer giveBuffer(room)
	text := room[:0]
	for rest := frames; len(rest) > 0; {
		h, n, _ := frame.ParseHeader(rest)
		size := n + int(h.Length)
		text = frame.AppendPayload(text, rest[:size])
		rest = rest[size:]
	}
	if !Reserved(text) {
		return false
	}
	if p.from == Upstream {
		p.c.inBand.dropped.Add(1)
	} else {
		p.c.hear(text)
	}
	return true
}

// hear gives a message to the in-band handler and sends its answer.
func (c *Conn) hear(text []byte) {
	next, ok, _ := refreshRate.Decide(c.inBand.refresh, time.Now(), 1)
	answer := tooOften
	if ok {
		c.inBand.refresh = next
		answer = c.inBand.handle(c, text)
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
