package wheel

import (
	"sync"
	"sync/atomic"
)

const (
	// Three levels of 256 slots: 12.8 s by the tick, 55 min, 9.7 days. Timers
	// beyond wait in the last slot and are placed again when it comes.
	slotBits = 8
	slots    = 1 << slotBits
	slotMask = slots - 1
)

// shard is one wheel with its lock.
type shard struct {
	worker *worker

	armed atomic.Int64 // timers here; written under mu

	mu     sync.Mutex
	cursor int64 // the last tick that was looked at
	levels [3][slots]*Timer
	// Timers are popped off due one by one, so that Stop and Schedule still
	// reach those that wait; dueEnd is the pointer that ends the list.
	due    *Timer
	dueEnd **Timer
}

// place puts an unlinked timer where the cursor meets it in time, and returns
// the tick it is due at. earliest is the first tick whose slot is still to be
// looked at.
func (s *shard) place(t *Timer, earliest int64) (at int64) {
	at = max(dueOf(t.at), earliest)
	var slot **Timer
	switch ahead := at - s.cursor; {
	case ahead < slots:
		slot = &s.levels[0][at&slotMask]
	case ahead < slots<<slotBits:
		slot = &s.levels[1][at>>slotBits&slotMask]
	case ahead < slots<<(2*slotBits):
		slot = &s.levels[2][at>>(2*slotBits)&slotMask]
	default:
		slot = &s.levels[2][(s.cursor>>(2*slotBits)+slotMask)&slotMask]
	}
	t.link(slot)
	return at
}

// next is the first tick, until the next look, at which there may be something
// to do. Slots of the higher levels come at multiples of look.
func (s *shard) next() int64 {
	at, end := s.cursor+1, nextLook(s.cursor)
	for at < end && s.levels[0][at&slotMask] == nil {
		at++
	}
	return at
}

// advance moves everything due at tick now or before to the due list.
func (s *shard) advance(now int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.armed.Load() == 0 {
		s.cursor = now
		return
	}
	// The wall clock and the ticks agree within a turn of the first level, or
	// one of them was moved (or this process did not run).
	if now < s.cursor || now-s.cursor > slots {
		s.rescan(now)
		return
	}
	for s.cursor < now {
		s.cursor++
		c := s.cursor
		if c&slotMask == 0 {
			if c>>slotBits&slotMask == 0 {
				s.cascade(&s.levels[2][c>>(2*slotBits)&slotMask])
			}
			s.cascade(&s.levels[1][c>>slotBits&slotMask])
		}
		s.take(&s.levels[0][c&slotMask])
	}
}

// cascade places the timers of a slot again, finer; the cursor's own slot of the
// first level is still to be taken.
func (s *shard) cascade(slot **Timer) {
	list := *slot
	*slot = nil
	s.each(list, func(t *Timer) { _ = s.place(t, s.cursor) })
}

// rescan places every timer anew by the clock as it now is. Timers already due
// may have become early.
func (s *shard) rescan(now int64) {
	var all []*Timer
	for l := range s.levels {
		for i := range s.levels[l] {
			if list := s.levels[l][i]; list != nil {
				s.levels[l][i] = nil
				all = append(all, list)
			}
		}
	}
	if s.due != nil {
		all = append(all, s.due)
		s.due, s.dueEnd = nil, &s.due
	}
	s.cursor = now
	for _, list := range all {
		s.each(list, func(t *Timer) {
			if dueOf(t.at) <= now {
				s.append(t, t)
			} else {
				_ = s.place(t, now+1)
			}
		})
	}
}

// each calls f with every timer of a list that was taken off its slot.
func (s *shard) each(list *Timer, f func(*Timer)) {
	for t := list; t != nil; {
		next := t.next
		t.next = nil
		f(t)
		t = next
	}
}

// take moves a slot's timers to the end of the due list.
func (s *shard) take(slot **Timer) {
	first := *slot
	if first == nil {
		return
	}
	*slot = nil
	last := first
	for last.next != nil {
		last = last.next
	}
	s.append(first, last)
}

// append puts the list from first to last at the end of the due list.
func (s *shard) append(first, last *Timer) {
	*s.dueEnd, first.prev = first, s.dueEnd
	s.dueEnd = &last.next
}

// pop disarms the timer that has been due for longest. When none is, the worker
// is told when to come again.
func (s *shard) pop() (*Timer, Expirer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.due
	if t == nil {
		if s.armed.Load() > 0 {
			s.worker.lower(s.next())
		}
		return nil, nil
	}
	e := t.e
	s.unlink(t)
	s.disarmed(t)
	return t, e
}

func (s *shard) disarmed(t *Timer) {
	t.e = nil
	s.armed.Add(-1)
}

func (s *shard) unlink(t *Timer) {
	*t.prev = t.next
	if t.next != nil {
		t.next.prev = t.prev
	}
	if s.dueEnd == &t.next {
		s.dueEnd = t.prev
	}
	t.next, t.prev = nil, nil
}

func (t *Timer) link(slot **Timer) {
	t.next = *slot
	if t.next != nil {
		t.next.prev = &t.next
	}
	t.prev = slot
	*slot = t
}
