package wsbouncer

import (
	"bufio"
	"errors"
	"net"
	"net/http"
	"slices"

	"github.com/wsbouncer/wsbouncer/internal/reason"
)

// Protect admits WebSocket handshakes before next sees them, refuses the rest,
// and holds the connection that next hijacks to its token, revocations and
// limits, whatever WebSocket package it uses.
//
// Next finds the Principal with FromContext, and a request without credentials
// and without the Origin header, which has been judged already (it is in
// Principal.Origin). The answer carries X-Wsbouncer-Connection, and the
// subprotocol "bearer" when the token came so and next chose none.
//
// When a connection ends, the frame under way is finished (a revocation cuts
// instead), our close frame follows, next's writes fail and its reads get that
// close frame as if the client had sent it. Next must read: limits on what the
// client sends, and the idle time, are judged as it does. A silent client is
// pinged at a third of IdleTimeout, between next's own frames; its pong reaches
// next like any other. Messages are measured as they come, compressed or not.
//
// A first message is not read here: that place of a Demand stays closed.
func (b *Bouncer) Protect(next http.Handler) http.Handler {
	d := b.demand
	if d.TokenFrom != nil {
		d.TokenFrom = slices.DeleteFunc(slices.Clone(d.TokenFrom), func(s string) bool { return s == fromFirstMessage })
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a, err := b.Admit(r, d)
		if err != nil {
			b.Refuse(w, r, d, err)
			return
		}
		g := newGuard(b, a, b.Limits(d))
		l, err := b.Track(a, g)
		if err != nil {
			b.Refuse(w, r, d, err)
			return
		}
		g.live = l
		u := &upgrader{w: w, guard: g, refuse: func(err error) { b.Refuse(w, r, d, err) }}
		defer u.done()
		a.Request.Header.Del("Origin")
		next.ServeHTTP(u.writer(), a.Request)
	})
}

// upgrader watches how a handler answers. What the handler is given exposes
// neither it nor the ResponseWriter beneath.
type upgrader struct {
	w        http.ResponseWriter
	guard    *guard
	refuse   func(error)
	status   int  // 101 once the handler has written that header
	hijacked bool // the connection is the guard's, or gone
	answered bool // by us: what the handler still writes is dropped
}

// response is the handler's ResponseWriter. It has no Unwrap: nobody reaches
// the connection but through Hijack here.
type response struct{ u *upgrader }

func (u *upgrader) writer() http.ResponseWriter { return response{u} }

func (w response) Header() http.Header { return w.u.w.Header() }

func (w response) WriteHeader(status int) {
	u := w.u
	switch {
	case u.answered, u.hijacked:
	case status == http.StatusSwitchingProtocols:
		// Some packages write the header first and hijack then. It goes out
		// with Hijack, through the same gate as everybody's.
		u.status = status
	default:
		u.w.WriteHeader(status)
	}
}

func (w response) Write(p []byte) (int, error) {
	if w.u.answered {
		return len(p), nil
	}
	if w.u.hijacked {
		return 0, http.ErrHijacked
	}
	if w.u.status != 0 {
		return 0, http.ErrBodyNotAllowed
	}
	return w.u.w.Write(p)
}

func (w response) Flush() {
	if w.u.status == 0 && !w.u.answered && !w.u.hijacked {
		_ = http.NewResponseController(w.u.w).Flush()
	}
}

var errEarlyBytes = errors.New("wsbouncer: the client sent bytes before its handshake was answered")

// Hijack gives the handler the guard in place of the connection, with buffers
// that lead through it.
func (w response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	u := w.u
	if u.hijacked || u.answered {
		return nil, nil, http.ErrHijacked
	}
	if why, over := u.guard.live.Ended(); over {
		// Before the connection is taken an ordinary answer is still possible.
		err := refusalFor(why)
		u.answered = true
		u.refuse(err)
		return nil, nil, err
	}
	conn, buffered, err := http.NewResponseController(u.w).Hijack()
	if err != nil {
		return nil, nil, err
	}
	u.hijacked = true
	early := buffered.Reader.Buffered() > 0
	if err := u.guard.attach(conn); err != nil {
		return nil, nil, err
	}
	if early {
		u.guard.answer(reason.BadHandshake.Because("Bytes followed the handshake before it was answered."))
		return nil, nil, errEarlyBytes
	}
	if u.status != 0 {
		if _, err := u.guard.Write(headOf(u.w.Header())); err != nil {
			return nil, nil, err
		}
	}
	return u.guard, bufio.NewReadWriter(bufio.NewReader(u.guard), bufio.NewWriter(u.guard)), nil
}

// done is called when the handler has returned or panicked.
func (u *upgrader) done() {
	if u.hijacked {
		return
	}
	if u.status != 0 && !u.answered {
		// A 101 that was announced and never taken up.
		u.w.WriteHeader(http.StatusInternalServerError)
	}
	u.guard.live.Release(closedNormally)
}
