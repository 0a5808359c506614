package wsbouncer

import (
	"crypto/tls"
	"net"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/frame"
)

// End decides that the connection ends: from here on nothing is read for the
// handler, and nothing written but the rest of the frame under way. What takes
// time is done by finish, which Shutdown waits for through the registry.
func (g *guard) End(why Reason) {
	g.mu.Lock()
	g.ending.Store(&why)
	conn := g.conn
	if conn == nil || g.closed {
		g.mu.Unlock()
		return // attach or whoever closed it does the rest
	}
	g.mu.Unlock()
	// Before a thousand readers wake up for a thousand ends: where nothing
	// stands in the way the close frame is on its way when End returns.
	if g.wmu.TryLock() {
		g.sayNow(conn, why)
		g.wmu.Unlock()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	past := time.Unix(1, 0)
	_ = g.conn.SetReadDeadline(past)
	if why.Cut {
		_ = g.conn.SetWriteDeadline(past)
	} else {
		_ = g.conn.SetWriteDeadline(time.Now().Add(farewell))
	}
	go g.finish(why)
}

// finish ends the connection in order: the frame under way, our close frame,
// the client's answer, each as far as farewell allows.
func (g *guard) finish(why Reason) {
	defer g.hangUp(why)
	until := time.Now().Add(farewell)
	g.bouncer.wheel.Stop(&g.timer)
	g.wmu.Lock() // held by a Write for at most as long as the deadline End set
	if !why.Cut && g.out.phase == inFrames && !g.out.broken && !g.out.scanner.Between() {
		g.wmu.Unlock()
		wait := time.NewTimer(time.Until(until))
		select {
		case <-g.finishing:
		case <-wait.C:
		}
		wait.Stop()
		g.wmu.Lock()
	}
	if !g.sayGoodbye(why, until) {
		g.wmu.Unlock()
		cut(g.conn)
		return
	}
	g.wmu.Unlock()
	g.awaitAnswer()
}

// sayNow writes our close frame if it may stand here and the socket has room.
// wmu is held.
func (g *guard) sayNow(conn net.Conn, why Reason) {
	o := &g.out
	if o.phase != inFrames || o.broken || !o.scanner.Between() || o.scanner.Closed() {
		return
	}
	f := frame.AppendClose(nil, why.Code, why.Text, false)
	if n := writeNow(conn, f); n > 0 {
		o.broken = true
		o.goodbye = n == len(f)
	}
}

// sayGoodbye writes our close frame where one may stand. False means that it
// could not. wmu is held; nothing is written after.
func (g *guard) sayGoodbye(why Reason, until time.Time) bool {
	o := &g.out
	if o.goodbye {
		return true
	}
	if o.phase != inFrames || o.broken || !o.scanner.Between() {
		return false
	}
	o.broken = true
	if o.scanner.Closed() {
		return true // the handler said goodbye already
	}
	_ = g.conn.SetWriteDeadline(later(until, time.Now().Add(farewell)))
	_, err := g.conn.Write(frame.AppendClose(nil, why.Code, why.Text, false))
	return err == nil
}

// awaitAnswer gives the client its time to answer our close frame. The
// handler's reads no longer touch the connection.
func (g *guard) awaitAnswer() {
	g.rmu.Lock() // a Read under way was woken by End
	s, held := g.in.scanner, g.in.held
	g.rmu.Unlock()
	awaitClose(g.conn, s, held)
}

// cut closes without another word; a TLS connection would say one, and wait
// for room to say it.
func cut(conn net.Conn) {
	if t, ok := conn.(*tls.Conn); ok {
		_ = t.NetConn().Close()
	}
	_ = conn.Close()
}
