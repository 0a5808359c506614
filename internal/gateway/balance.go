package gateway

import (
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// balancer chooses upstreams, and keeps what their handshakes teach of their
// health. Its lock is held for a decision, never for I/O.
type balancer struct {
	mu     sync.Mutex
	turn   uint
	report *reporter
}

// attempt is one handshake with one upstream. Exactly one of its methods is
// called at its end.
type attempt struct {
	b     *balancer
	u     *upstream
	began time.Time
	trial bool
}

// pick takes the best upstream of a route that was not tried yet: of the best
// standing, the one with the fewest connections, in turn where they are equal. It
// is counted as a connection at once. Nil: there is none that may be tried now.
func (b *balancer) pick(rt *route, tried []*upstream, now time.Time) *attempt {
	b.mu.Lock()
	defer b.mu.Unlock()
	var best *upstream
	better := func(u *upstream) bool {
		if best == nil {
			return true
		}
		x, y := u.health.standing(now), best.health.standing(now)
		switch {
		case x != y:
			return x < y
		case x == aside && !u.health.until.Equal(best.health.until):
			return u.health.until.Before(best.health.until)
		}
		return u.active.Load() < best.active.Load()
	}
	b.turn++
	for i := range rt.upstreams {
		u := rt.upstreams[(b.turn+uint(i))%uint(len(rt.upstreams))]
		if !slices.Contains(tried, u) && u.health.standing(now) != taken && better(u) {
			best = u
		}
	}
	if best == nil {
		return nil
	}
	best.active.Add(1)
	return &attempt{b: b, u: best, began: now, trial: best.health.choose(now)}
}

// worked: the upstream answered as one does that is well. accepted: with its
// 101, so that the connection goes on and counts.
func (a *attempt) worked(accepted bool) {
	now := time.Now()
	a.end(accepted, func(h *health) {
		if h.success(now) {
			a.b.report.health(a.u, "the upstream is back")
		}
	})
}

// failed: it did not, and err says how. unreachable: there was no connection.
func (a *attempt) failed(unreachable bool, err error) {
	now := time.Now()
	a.end(false, func(h *health) {
		h.fault, h.faultAt = faultOf(err), now
		if h.failure(unreachable, a.began, now, rand.Float64()) { //nolint:gosec // nothing secret depends on it
			a.b.report.putAside(a.u, h.failures, h.until.Sub(now))
		}
	})
}

// nothing: the attempt ended for a reason that says nothing about the upstream.
func (a *attempt) nothing() { a.end(false, func(*health) {}) }

func (a *attempt) end(accepted bool, learn func(*health)) {
	if !accepted {
		a.u.active.Add(-1)
	}
	a.b.mu.Lock()
	defer a.b.mu.Unlock()
	if a.trial {
		a.u.health.ended()
	}
	learn(&a.u.health)
}
