package wsbouncer

import (
	"time"

	"github.com/wsbouncer/wsbouncer/internal/frame"
	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/internal/wheel"
)

// watcher is a guard as its idle timer sees it.
type watcher guard

// watch begins to measure how long the client is silent.
func (g *guard) watch() {
	if g.limits.IdleTimeout <= 0 {
		return
	}
	now := time.Now()
	g.last.Store(now.UnixNano())
	g.bouncer.wheel.Schedule(&g.timer, now.Add(g.limits.IdleTimeout/3), (*watcher)(g))
}

// Expire pings a client that was silent for a third and two thirds of the idle
// time and ends it after the whole.
func (w *watcher) Expire(t *wheel.Timer, now time.Time) {
	g := (*guard)(w)
	if g.ending.Load() != nil {
		return
	}
	third := g.limits.IdleTimeout / 3
	last := time.Unix(0, g.last.Load())
	silent := now.Sub(last)
	if silent >= g.limits.IdleTimeout {
		g.live.End(reason.Idle)
		return
	}
	next := last.Add(g.limits.IdleTimeout)
	if silent < 2*third {
		next = last.Add(third)
		if silent >= third {
			next = last.Add(2 * third)
		}
	}
	if silent >= third {
		// The wheel's own goroutine is counted, so that this one may be too.
		g.bouncer.running.Go(g.ping)
	}
	g.bouncer.wheel.Schedule(t, next, w)
}

// ping writes a ping where one may stand. While the handler writes there is no
// need: that the client lives shows in what it answers, or in the write's end.
func (g *guard) ping() {
	if !g.wmu.TryLock() {
		return
	}
	defer g.wmu.Unlock()
	o := &g.out
	if o.phase != inFrames || o.broken || !o.scanner.Between() || o.scanner.Closed() || len(o.held) > 0 {
		return
	}
	_, _ = g.send(frame.AppendPing(nil, nil, false))
}
