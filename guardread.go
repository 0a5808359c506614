package wsbouncer

import (
	"errors"
	"io"
	"math"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/frame"
	"github.com/wsbouncer/wsbouncer/internal/reason"
)

// inbound is the direction from the client to the handler, under rmu.
type inbound struct {
	ready   atomic.Bool // frames are being scanned: the 101 is written
	scanner frame.Scanner
	held    []byte // the beginning of a header or control frame
	// allowed is what the handler may have and had no room for yet; left is
	// what the scanner missed of a frame before it, given how much of it went.
	allowed []byte
	left    int64
	given   int

	open  bool // what the handler got ends inside a frame
	ended bool // it got the last there is, or the close frame stands in tail
	tail  []byte

	messages, bytes int64 // states of the rates
	events          int64 // messages and control frames counted so far

	said atomic.Pointer[Reason] // the client's close frame
	gone atomic.Bool            // its end of the connection
}

// small is the size below which the handler's reads go through a buffer of our
// own: a whole control frame must fit behind what is held.
const small = 2 * frame.MaxControlFrame

func (in *inbound) start(l Limits, compressed bool) {
	in.scanner = frame.NewScanner(frame.Options{
		FromClient: true, Compression: compressed, MaxMessage: max(0, l.MessageBytes),
	})
	in.ready.Store(true)
}

// Read gives the handler whole headers and control frames, and payload as it
// comes, as long as the connection has not been ended.
func (g *guard) Read(p []byte) (int, error) {
	g.rmu.Lock()
	defer g.rmu.Unlock()
	in := &g.in
	if len(p) == 0 {
		return 0, nil
	}
	for {
		if why := g.ending.Load(); why != nil {
			return g.readEnd(p, *why)
		}
		if in.given < len(in.allowed) {
			return in.give(p), nil
		}
		if !in.ready.Load() {
			// No 101 has been written: not our protocol (yet).
			n, err := g.conn.Read(p)
			if n > 0 && in.ready.Load() {
				// Bytes from before our answer, which nothing has judged.
				g.live.End(reason.ProtocolError)
			}
			if g.ending.Load() != nil {
				return 0, net.ErrClosed
			}
			return n, err
		}
		open := in.open
		n, err := g.readFrames(p)
		switch {
		case g.ending.Load() != nil:
			in.open = open // what was read is not handed out
		case n > 0:
			return n, nil
		case err != nil:
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				in.gone.Store(true)
			}
			return 0, err
		}
	}
}

// readFrames reads once, and returns what of it p may have already.
func (g *guard) readFrames(p []byte) (int, error) {
	in := &g.in
	buf := p
	own := len(p) < small
	if own {
		buf = make([]byte, 2*small)
	}
	k := copy(buf, in.held)
	n, err := g.conn.Read(buf[k:])
	if n > 0 {
		g.last.Store(time.Now().UnixNano())
		g.live.ClientBytes.Add(int64(n))
	}
	if n == 0 || g.ending.Load() != nil {
		return 0, err
	}
	buf = buf[:k+n]
	left := in.scanner.Left()
	ok, bad := g.scan(buf)
	if bad != nil {
		g.live.End(*bad)
		return 0, nil
	}
	if why := g.overRate(n); why != nil {
		g.live.End(*why)
		return 0, nil
	}
	in.held = append(in.held[:0], buf[ok:]...)
	if in.scanner.Closed() {
		in.held = nil
	}
	if !own {
		in.open = !in.scanner.Between()
		if ok > 0 {
			return ok, nil
		}
		return 0, err
	}
	in.allowed, in.left, in.given = buf[:ok], left, 0
	if ok > 0 {
		return in.give(p), nil
	}
	return 0, err
}

// scan walks over what came and says how much of it is allowed.
func (g *guard) scan(buf []byte) (ok int, bad *Reason) {
	in := &g.in
	for {
		k, c, err := in.scanner.Scan(buf[ok:])
		ok += k
		if err != nil {
			return 0, violation(err)
		}
		if c.Op == frame.Close {
			in.said.Store(closeReason(buf[ok-c.Len : ok]))
			return ok, nil
		}
		if c.Op == 0 {
			return ok, nil
		}
	}
}

func violation(err error) *Reason {
	switch {
	case errors.Is(err, frame.ErrTooBig):
		return &reason.MessageTooBig
	case errors.Is(err, frame.ErrPayload):
		return &reason.InvalidPayload
	}
	return &reason.ProtocolError
}

// overRate spends what came and says whether it was too much.
func (g *guard) overRate(n int) *Reason {
	in := &g.in
	now := time.Now()
	events := in.scanner.Messages() + in.scanner.Controls()
	cost := events - in.events
	in.events = events
	g.live.ClientMessages.Store(in.scanner.Messages())
	for _, spend := range [...]struct {
		rate  Rate
		state *int64
		cost  int64
	}{{g.limits.MessageRate, &in.messages, cost}, {g.limits.ByteRate, &in.bytes, int64(n)}} {
		if spend.rate == (Rate{}) || spend.cost == 0 {
			continue
		}
		next, ok, _ := spend.rate.Decide(*spend.state, now, int(min(spend.cost, math.MaxInt32)))
		if !ok {
			return &reason.RateLimited
		}
		*spend.state = next
	}
	return nil
}

// give hands out what is allowed, and notes whether that ends inside a frame.
func (in *inbound) give(p []byte) int {
	n := copy(p, in.allowed[in.given:])
	in.given += n
	if in.given == len(in.allowed) {
		in.open = !in.scanner.Between()
		in.allowed = nil
		in.given = 0
		return n
	}
	in.open = frame.NextBoundary(in.allowed, in.left, in.given) != int64(in.given)
	return n
}

// readEnd is what the handler reads once the connection has been ended: our
// close frame as if it were the client's, where a frame may begin.
func (g *guard) readEnd(p []byte, why Reason) (int, error) {
	in := &g.in
	if !in.ready.Load() {
		return 0, net.ErrClosed
	}
	if !in.ended {
		in.ended = true
		in.allowed, in.held = nil, nil
		if in.open {
			return 0, io.ErrUnexpectedEOF
		}
		if in.said.Load() == nil {
			in.tail = frame.AppendClose(nil, why.Code, why.Text, true)
		}
	}
	if len(in.tail) > 0 {
		n := copy(p, in.tail)
		in.tail = in.tail[n:]
		return n, nil
	}
	if in.open {
		return 0, io.ErrUnexpectedEOF
	}
	return 0, io.EOF
}
