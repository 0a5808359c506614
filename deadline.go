package wsbouncer

import (
	"runtime"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/internal/wheel"
)

// expiry is a Live as its timer sees it.
type expiry Live

// schedule arms l's timer for its deadline. l.binding is held.
func (l *Live) schedule() {
	l.core.wheel.Schedule(&l.timer, l.ExpiresAt(), (*expiry)(l))
}

// Expire ends the connection, unless its deadline has moved meanwhile.
func (e *expiry) Expire(t *wheel.Timer, now time.Time) {
	l := (*Live)(e)
	l.mu.Lock()
	at := l.life.expires.Load()
	if l.state == ended {
		l.mu.Unlock()
		return
	}
	if now.UnixNano() < at {
		l.mu.Unlock()
		// Whoever moved the deadline arms the timer too; twice does no harm.
		l.core.wheel.Schedule(t, time.Unix(0, at), e)
		return
	}
	why := reason.TokenExpired
	switch {
	case l.current.Load() == nil:
		why = reason.AuthTimeout
	case at == l.latest:
		why = reason.Lifetime
	}
	l.state, l.why = ended, &why
	l.mu.Unlock()
	l.tell(why)
	// Thousands may expire at once, and the living are not to wait for all of them.
	if l.core.expired.Add(1)%expiries == 0 {
		runtime.Gosched()
	}
}

// expiries is how many connections expire before others have their turn.
const expiries = 32
