package wsbouncer

import (
	"errors"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/frame"
	"github.com/wsbouncer/wsbouncer/internal/reason"
)

// outbound is the direction from the handler to the client, under wmu.
type outbound struct {
	phase   phase
	head    []byte // what was written of the response head
	scanner frame.Scanner
	held    []byte // the beginning of a header or control frame
	broken  bool   // nothing more may be written: a write failed, or we said goodbye
	goodbye bool   // our close frame is out
	said    atomic.Pointer[Reason]
}

type phase uint8

const (
	inHead   phase = iota // the response head is being written
	inFrames              // it was a 101
	inOther               // it was something else: not our protocol
)

// Write takes what the handler writes: a response head, then frames, in pieces
// of any size.
func (g *guard) Write(p []byte) (int, error) {
	g.wmu.Lock()
	defer g.wmu.Unlock()
	switch g.out.phase {
	case inHead:
		return g.writeHead(p)
	case inFrames:
		return g.writeFrames(p)
	}
	return g.send(p)
}

func (g *guard) writeHead(p []byte) (int, error) {
	o := &g.out
	before := len(o.head)
	o.head = append(o.head, p[:min(len(p), headBytes+1-before)]...)
	end := cutHead(o.head)
	if end == 0 {
		if len(o.head) > headBytes {
			g.fail()
			return 0, errHeadSize
		}
		return len(p), nil
	}
	h, err := parseHead(o.head[:end], g.cid, g.bearer)
	if err != nil {
		g.fail()
		return 0, err
	}
	o.head = nil
	rest := p[end-before:]
	if !h.upgrade {
		o.phase = inOther
		if _, err := g.send(h.bytes); err != nil {
			return 0, err
		}
		n, err := g.send(rest)
		return len(p) - len(rest) + n, err
	}
	// The last question before the client learns that it is in.
	if err := g.live.Open(); err != nil {
		o.phase, o.broken = inOther, true
		var ref *Refusal
		if !errors.As(err, &ref) {
			ref = reason.NotReady
		}
		g.answer(ref)
		return 0, err
	}
	g.in.start(g.limits, h.compressed)
	o.scanner = frame.NewScanner(frame.Options{Compression: h.compressed})
	o.phase = inFrames
	if _, err := g.send(h.bytes); err != nil {
		return 0, err
	}
	g.watch()
	n, err := g.writeFrames(rest)
	return len(p) - len(rest) + n, err
}

// fail gives up on a handler that does not speak HTTP.
func (g *guard) fail() {
	g.out.phase, g.out.broken = inOther, true
	g.answer(reason.Overloaded503.Because("The server could not answer this handshake."))
}

func (g *guard) writeFrames(p []byte) (int, error) {
	o := &g.out
	if why := g.ending.Load(); why != nil {
		return g.finishFrame(p, *why)
	}
	if o.scanner.Closed() {
		return 0, net.ErrClosed // RFC 6455 §5.5.1: nothing follows a close frame
	}
	buf := p
	if len(o.held) > 0 {
		buf = append(o.held, p...)
	}
	n := 0
	for {
		k, c, err := o.scanner.Scan(buf[n:])
		n += k
		if err != nil {
			g.bouncer.log.Warn("a protected handler wrote what is no WebSocket frame", "error", err)
			o.broken = true
			g.live.End(reason.ProtocolError)
			return 0, err
		}
		if c.Op == frame.Close {
			if r := closeReason(buf[n-c.Len : n]); r != nil {
				o.said.Store(r)
			}
		}
		if c.Op == 0 || c.Op == frame.Close {
			break
		}
	}
	o.held = append([]byte(nil), buf[n:]...)
	if o.scanner.Closed() {
		o.held = nil
	}
	if _, err := g.send(buf[:n]); err != nil {
		return 0, err
	}
	g.live.UpstreamBytes.Add(int64(n))
	g.live.UpstreamMessages.Store(o.scanner.Messages())
	return len(p), nil
}

// finishFrame lets the handler complete the frame it is in, and no more.
func (g *guard) finishFrame(p []byte, why Reason) (int, error) {
	o := &g.out
	if why.Cut || o.broken || o.scanner.Between() {
		if h, n, err := frame.ParseHeader(p); err == nil && n > 0 && h.Op == frame.Close {
			// Its answer to the close frame it read. Ours said the same already;
			// an error here would hide that frame's code from some packages.
			return len(p), nil
		}
		return 0, net.ErrClosed
	}
	p2 := p[:min(int64(len(p)), o.scanner.Left())]
	if _, _, err := o.scanner.Scan(p2); err != nil {
		return 0, err
	}
	if _, err := g.conn.Write(p2); err != nil {
		o.broken = true
		return 0, err
	}
	if o.scanner.Between() {
		select {
		case g.finishing <- struct{}{}:
		default:
		}
	}
	if len(p2) < len(p) {
		return len(p2), net.ErrClosed
	}
	return len(p), nil
}

// send writes p whole, unless the connection is being ended.
func (g *guard) send(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	g.mu.Lock()
	if g.ending.Load() != nil || g.closed || g.out.broken {
		g.mu.Unlock()
		return 0, net.ErrClosed
	}
	if g.limits.WriteTimeout > 0 {
		g.writeBy = time.Now().Add(g.limits.WriteTimeout)
	}
	ours := g.writeBy
	_ = g.conn.SetWriteDeadline(sooner(g.appWrite, ours))
	g.mu.Unlock()

	n, err := g.conn.Write(p)

	g.mu.Lock()
	g.writeBy = time.Time{}
	if g.ending.Load() == nil && !g.closed {
		_ = g.conn.SetWriteDeadline(g.appWrite)
	}
	g.mu.Unlock()
	if err == nil {
		return n, nil
	}
	g.out.broken = true
	if errors.Is(err, os.ErrDeadlineExceeded) && !ours.IsZero() && !time.Now().Before(ours) {
		g.live.End(clientStuck)
	}
	return n, err
}

// clientStuck: a client that reads nothing for WriteTimeout is cut; no close
// frame would reach it.
var clientStuck = Reason{Code: reason.ClientGone.Code, Text: reason.ClientGone.Text, Cut: true}
