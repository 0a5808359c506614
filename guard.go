package wsbouncer

import (
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/frame"
	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/internal/wheel"
)

// A guard is the connection a protected handler gets. It watches the frames
// that pass in both directions, so that it can end the connection between two
// of them, and is the Ender of its Live.
//
// Deliberately it has no method but those of net.Conn: a handler that asked for
// the TLS or TCP connection beneath would get around it.
type guard struct {
	bouncer *Bouncer
	live    *Live
	limits  Limits
	cid     string
	bearer  bool

	conn  net.Conn
	timer wheel.Timer // idle time; see watch.go

	// ending is how the connection ends, from the moment it was decided.
	ending atomic.Pointer[Reason]

	// mu guards the deadlines and the step into ending. It is never held
	// while the connection is read or written.
	mu        sync.Mutex
	appWrite  time.Time // the handler's own write deadline
	writeBy   time.Time // ours, for the Write under way
	closed    bool      // the connection is closed or finish does it
	finishing chan struct{}

	rmu  sync.Mutex // serialises reads
	in   inbound
	wmu  sync.Mutex // serialises writes
	out  outbound
	last atomic.Int64 // when a byte came from the client, Unix nanoseconds
}

func newGuard(b *Bouncer, a *Admission, limits Limits) *guard {
	return &guard{
		bouncer: b, limits: limits, cid: a.Connection, bearer: a.Bearer,
		finishing: make(chan struct{}, 1),
	}
}

var closedNormally = Reason{Code: 1000}

// attach gives the guard its connection. The error says that it has been ended
// before, and that conn is closed.
func (g *guard) attach(conn net.Conn) error {
	g.mu.Lock()
	g.conn = conn
	over := g.ending.Load()
	g.mu.Unlock()
	if over != nil {
		g.hangUp(*over)
		return refusalFor(*over)
	}
	return nil
}

// answer writes a refusal in place of the handler's answer, and hangs up.
func (g *guard) answer(ref *Refusal) {
	_ = g.conn.SetWriteDeadline(time.Now().Add(farewell))
	_, _ = g.conn.Write(refusalBytes(ref))
	e := g.live.event("refused")
	e.Refusal = ref
	g.bouncer.observe(e)
	g.hangUp(closedNormally)
}

// hangUp closes the connection at once and gives its places back.
func (g *guard) hangUp(why Reason) {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.bouncer.wheel.Stop(&g.timer)
	_ = g.conn.Close()
	g.live.Release(why)
}

// Close is the handler's. When the connection is being ended, finish closes it
// after our close frame.
func (g *guard) Close() error {
	g.mu.Lock()
	if g.closed || g.ending.Load() != nil {
		was := g.closed
		g.closed = true
		g.mu.Unlock()
		if was {
			return net.ErrClosed
		}
		return nil
	}
	g.closed = true
	g.mu.Unlock()
	g.bouncer.wheel.Stop(&g.timer)
	err := g.conn.Close()
	g.live.Release(g.howClosed())
	return err
}

// howClosed is the reason of a connection that the client or the handler ended.
func (g *guard) howClosed() Reason {
	if r := g.in.said.Load(); r != nil {
		return *r
	}
	if r := g.out.said.Load(); r != nil {
		return *r
	}
	if g.in.gone.Load() {
		return reason.ClientGone
	}
	return closedNormally
}

// LocalAddr and RemoteAddr are the connection's.
func (g *guard) LocalAddr() net.Addr { return g.conn.LocalAddr() }

// RemoteAddr is the client's, or a proxy's, as the socket has it.
func (g *guard) RemoteAddr() net.Addr { return g.conn.RemoteAddr() }

// SetDeadline sets the handler's deadlines. While the connection is being ended
// ours hold.
func (g *guard) SetDeadline(t time.Time) error {
	if err := g.SetReadDeadline(t); err != nil {
		return err
	}
	return g.SetWriteDeadline(t)
}

// SetReadDeadline sets the handler's read deadline.
func (g *guard) SetReadDeadline(t time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ending.Load() != nil {
		return nil // reads are answered at once from here on
	}
	return g.conn.SetReadDeadline(t)
}

// SetWriteDeadline sets the handler's write deadline; the smaller of it and
// ours is in force.
func (g *guard) SetWriteDeadline(t time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.appWrite = t
	if g.ending.Load() != nil {
		return nil
	}
	return g.conn.SetWriteDeadline(sooner(g.appWrite, g.writeBy))
}

// sooner is the earlier of two deadlines, of which zero is none.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// closeReason is what a whole close frame says.
func closeReason(f []byte) *Reason {
	code, text, err := frame.ParseClose(frame.AppendPayload(nil, f))
	if err != nil {
		return nil
	}
	return &Reason{Code: code, Text: text}
}
