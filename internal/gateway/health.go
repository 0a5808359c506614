package gateway

import "time"

// health is what handshakes and checks have taught about one upstream, and what
// follows. It decides and does nothing else: time comes in, and whoever calls
// keeps calls apart.
//
// Failures in a row put an upstream aside, for a pause that doubles each time.
// After the pause one handshake tries it; the others keep to the rest. What a
// failure means depends on its kind. That an upstream cannot be reached is
// nobody's fault but its own, so then nobody is sent there but one trial at a
// time. A bad answer may be the doing of a client that knows how to get one: an
// upstream that gives them is avoided while there is a better one, and is never
// a reason to refuse somebody else.
type health struct {
	// failures counts those since it last worked.
	failures int
	// unreachable says of the last failure that there was no connection.
	unreachable bool
	// pause is how long it was put aside the last time, zero if it is not aside.
	pause time.Duration
	until time.Time // when the pause is over
	// worked is when it last did.
	worked time.Time
	// trial: one handshake is trying it.
	trial bool

	// out: checks say that it is not well. against counts those in a row that say
	// the opposite.
	out     bool
	against int

	// fault is the kind of the last failure, and when that was.
	fault   string
	faultAt time.Time
}

const (
	// failuresAside is how many failures in a row put an upstream aside.
	failuresAside = 3
	// pauseMin and pauseMax bound how long an upstream is put aside.
	pauseMin = time.Second
	pauseMax = 30 * time.Second
)

// standing is how good an upstream is to a handshake, the best first.
type standing int

const (
	// due: it was put aside long enough, and this handshake may try it.
	due standing = iota
	good
	// avoided: its answers are bad.
	avoided
	// out: its checks fail.
	out
	// aside: it cannot be reached, so that one handshake at a time may try it
	// where there is nothing better.
	aside
	// taken: it cannot be reached, and somebody else is trying it.
	taken
)

func (h *health) standing(now time.Time) standing {
	switch {
	case h.pause > 0 && h.unreachable && h.trial:
		return taken
	case h.out && (h.pause == 0 || !h.unreachable):
		return out
	case h.pause == 0:
		return good
	case !h.out && !h.trial && !now.Before(h.until):
		return due
	case h.unreachable:
		return aside
	}
	return avoided
}

// choose notes that a handshake goes there, and reports whether it is a trial.
func (h *health) choose(now time.Time) (trial bool) {
	switch h.standing(now) {
	case due, aside:
		h.trial = true
		return true
	}
	return false
}

// ended says that a trial is over, whatever it brought.
func (h *health) ended() { h.trial = false }

// success is an answer that shows it alive, and reports whether it was aside.
func (h *health) success(now time.Time) (back bool) {
	back = h.pause > 0
	h.failures, h.unreachable, h.pause, h.worked = 0, false, 0, now
	return back
}

// failure is a handshake of that begin that failed, and reports whether the
// upstream is put aside for it. jitter in [0, 1) makes the pause shorter, by a
// quarter at most, so that nodes do not come back all at once.
func (h *health) failure(unreachable bool, began, now time.Time, jitter float64) (put bool) {
	if began.Before(h.worked) {
		return false // meanwhile it worked for somebody else
	}
	h.unreachable = unreachable
	h.failures++
	switch {
	case h.failures < failuresAside:
		return false
	case h.pause > 0 && began.Before(h.until): // of a crowd that fails together, or tried early
		return false
	}
	h.pause = min(max(2*h.pause, pauseMin), pauseMax)
	h.until = now.Add(h.pause - time.Duration(jitter*float64(h.pause)/4))
	return true
}

// checked is the outcome of an active check, and reports whether it changed
// what is done with the upstream. need is how many in a row take it out, or bring
// it back. One that passes shows that it can be reached.
func (h *health) checked(ok bool, need int, now time.Time) (changed bool) {
	if ok != h.out {
		h.against = 0
	} else if h.against++; h.against >= need {
		h.out, h.against, changed = !ok, 0, true
	}
	if ok && !h.out && h.unreachable {
		changed = h.success(now) || changed
	}
	return changed
}
