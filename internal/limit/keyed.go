package limit

import (
	"sync"
	"time"
)

// Keyed holds one Rate for many keys: each key has a bucket of its own, as long
// as the table has room. When it is full, the longest unused key gives way and
// its debt goes into one bucket that all evicted keys share; a key that is new
// or comes back starts with the debt of that bucket. So nobody gets a fresh
// allowance by crowding the table, and an honest newcomer then waits for no
// longer than a bucket takes to fill. Safe for concurrent use.
type Keyed[K comparable] struct {
	rate Rate

	mu     sync.Mutex
	table  *lru[K, int64] // states of Rate.Decide
	shared int64          // the largest state ever evicted
}

// NewKeyed makes a table for at most maxKeys keys, at least one.
func NewKeyed[K comparable](rate Rate, maxKeys int) *Keyed[K] {
	return &Keyed[K]{rate: rate, table: newLRU[K, int64](maxKeys)}
}

// Allow spends one of k's allowance and reports whether there was one; retry is
// how long to wait if not.
func (l *Keyed[K]) Allow(k K, now time.Time) (ok bool, retry time.Duration) {
	if l.rate.IsZero() {
		return true, 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.entry(k, now)
	e.value, ok, retry = l.rate.Decide(e.value, now, 1)
	return ok, retry
}

// Check is Allow that spends nothing.
func (l *Keyed[K]) Check(k K, now time.Time) (ok bool, retry time.Duration) {
	if l.rate.IsZero() {
		return true, 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	state := l.shared
	if e := l.table.get(k); e != nil {
		state = e.value
	}
	_, ok, retry = l.rate.Decide(state, now, 1)
	return ok, retry
}

// Spend charges k with one, also when it has nothing left: up to the debt of a
// full bucket, never more, so that a key waits no longer than a bucket takes
// to fill after the last.
func (l *Keyed[K]) Spend(k K, now time.Time) {
	if l.rate.IsZero() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.entry(k, now)
	e.value = l.rate.spend(e.value, now, 1)
}

// Forgive gives back one that Allow or Spend took: where only failures count,
// Allow comes before the attempt (so that many at once cannot all pass a check)
// and Forgive after a success. It never gives more than was taken, nor what
// went into the shared bucket.
func (l *Keyed[K]) Forgive(k K) {
	if l.rate.IsZero() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.table.get(k); e != nil {
		e.value -= l.rate.price(1)
	}
}

// Len is the number of keys in the table.
func (l *Keyed[K]) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.table.entries)
}

func (l *Keyed[K]) entry(k K, now time.Time) *entry[K, int64] {
	if e := l.table.get(k); e != nil {
		return e
	}
	// No more than a full bucket is inherited, whatever a clock once said.
	l.shared = min(l.shared, now.UnixNano()+l.rate.full())
	inherited := l.shared
	e, lost, _ := l.table.add(k, inherited)
	l.shared = max(l.shared, lost)
	return e
}
