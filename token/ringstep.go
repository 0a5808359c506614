package token

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// The steps of a ring: from keys and the time to keys. They write to the slice
// they are given.

// settle is what holds after every step: there is an active and a next key,
// the next one of the wanted algorithm, dead ones are forgotten, and the order
// is that of List.
func (o *RingOptions) settle(keys []ringKey, now time.Time) ([]ringKey, error) {
	keys = slices.DeleteFunc(keys, func(k ringKey) bool {
		return !k.Until.IsZero() && !k.Until.After(now) || k.State == KeyNext && k.Algorithm != o.Algorithm
	})
	for _, state := range []KeyState{KeyActive, KeyNext} {
		if find(keys, state) == nil {
			k, err := makeKey(o.Algorithm, state, now)
			if err != nil {
				return nil, err
			}
			keys = append(keys, k)
		}
	}
	slices.SortStableFunc(keys, func(a, b ringKey) int {
		return cmp.Or(cmp.Compare(slices.Index(listOrder, a.State), slices.Index(listOrder, b.State)), b.Since.Compare(a.Since))
	})
	return keys, nil
}

var listOrder = []KeyState{KeyActive, KeyNext, KeyRetired, KeyRevoked}

// writeMargin is how long a key may go on signing after the moment of its
// retirement, while that is being written down.
const writeMargin = time.Minute

// rotate moves every key one state on.
func (o *RingOptions) rotate(keys []ringKey, now time.Time) ([]ringKey, error) {
	active, next := find(keys, KeyActive), find(keys, KeyNext)
	active.State, active.Since, active.Until = KeyRetired, now, now.Add(o.Overlap+writeMargin)
	next.State, next.Since = KeyActive, now
	return o.settle(keys, now)
}

// revoke takes the key's secret away and leaves its name, so that List can
// tell what became of it.
func (o *RingOptions) revoke(keys []ringKey, kid string, now time.Time) ([]ringKey, error) {
	i := slices.IndexFunc(keys, func(k ringKey) bool { return k.ID == kid })
	if i < 0 {
		return nil, fmt.Errorf("%w: %q", ErrUnknownKey, kid)
	}
	k := &keys[i]
	if k.State == KeyRevoked {
		return keys, nil
	}
	if k.State == KeyActive {
		if next := find(keys, KeyNext); next != nil {
			next.State, next.Since = KeyActive, now
		}
	}
	*k = ringKey{ID: k.ID, Algorithm: k.Algorithm, State: KeyRevoked, Created: k.Created, Since: now, Until: now.Add(o.Overlap)}
	return o.settle(keys, now)
}

// rotationDue reports whether the active key has done its time, or is of an
// algorithm no longer wanted, and the next one may take over.
func (o *RingOptions) rotationDue(keys []ringKey, now time.Time) bool {
	active, next := find(keys, KeyActive), find(keys, KeyNext)
	at, scheduled := o.rotationAt(active, next)
	return scheduled && !now.Before(at)
}

func (o *RingOptions) rotationAt(active, next *ringKey) (time.Time, bool) {
	published := next.Created.Add(o.PublishAhead)
	switch {
	case active.Algorithm != o.Algorithm:
		return published, true
	case o.Rotation <= 0:
		return time.Time{}, false
	}
	at := active.Since.Add(o.Rotation)
	if published.After(at) {
		at = published
	}
	return at, true
}

// due is when the next step is; zero when none is planned.
func (o *RingOptions) due(keys []ringKey) time.Time {
	at, _ := o.rotationAt(find(keys, KeyActive), find(keys, KeyNext))
	for _, k := range keys {
		if !k.Until.IsZero() && (at.IsZero() || k.Until.Before(at)) {
			at = k.Until
		}
	}
	return at
}

func find(keys []ringKey, state KeyState) *ringKey {
	for i := range keys {
		if keys[i].State == state {
			return &keys[i]
		}
	}
	return nil
}
