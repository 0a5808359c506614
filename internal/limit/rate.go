package limit

import (
	"math"
	"time"
)

// A Rate is how much may pass: PerSecond on average, Burst at once after a
// quiet time (below 1 it counts as 1). A Rate whose PerSecond is not above zero
// is no limit at all.
type Rate struct {
	PerSecond float64
	Burst     int
}

// IsZero reports whether r is no limit.
func (r Rate) IsZero() bool { return !(r.PerSecond > 0) }

// longest keeps sums of debts and times within int64: a hundred years.
const longest = 100 * 365 * 24 * time.Hour

// Decide says whether something of the given cost (1 for an event, n for n
// bytes) may pass now. It is pure: state goes in and its successor comes out, to
// be kept by the caller whatever the answer; a fresh key's state is 0. State is
// GCRA's theoretical arrival time in Unix nanoseconds: how far it lies ahead of
// now is the debt. When refused nothing is spent, and retry is how long to wait
// until the same would pass; a cost above Burst never passes, and retry is then
// the time an empty bucket takes to fill. A clock that stepped back costs a key
// one full bucket at most.
func (r Rate) Decide(state int64, now time.Time, cost int) (next int64, ok bool, retry time.Duration) {
	if r.IsZero() {
		return state, true, 0
	}
	t, full := now.UnixNano(), r.full()
	tat := min(max(state, t), t+full)
	spent := tat + r.price(cost)
	if over := spent - (t + full); over > 0 {
		return tat, false, time.Duration(min(over, full))
	}
	return spent, true, 0
}

// spend is Decide that charges whatever the answer would be, up to a full
// bucket's debt.
func (r Rate) spend(state int64, now time.Time, cost int) int64 {
	t, full := now.UnixNano(), r.full()
	return min(min(max(state, t), t+full)+r.price(cost), t+full)
}

// price is the time that cost takes at the rate: at least a nanosecond for
// anything, so that no rate, however high, makes small costs free.
func (r Rate) price(cost int) int64 {
	return nanos(float64(max(cost, 0)) / r.PerSecond)
}

// full is the time an empty bucket takes to fill.
func (r Rate) full() int64 { return r.price(max(r.Burst, 1)) }

func nanos(seconds float64) int64 {
	return int64(math.Min(math.Ceil(seconds*float64(time.Second)), float64(longest)))
}
