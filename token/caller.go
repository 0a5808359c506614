package token

import (
	"context"
	"net/netip"
	"sync"
)

type callerKey struct{}

// WithCaller says by its address who brings a token, so that nobody can take all
// the questions that a Verifier may ask an issuer at once.
func WithCaller(ctx context.Context, caller netip.Prefix) context.Context {
	return context.WithValue(ctx, callerKey{}, caller)
}

func callerOf(ctx context.Context) netip.Prefix {
	p, _ := ctx.Value(callerKey{}).(netip.Prefix)
	return p
}

// turns lets each caller do so much at once; the others of it wait. It remembers
// those only that are there.
type turns struct {
	mu sync.Mutex
	of map[netip.Prefix]*turn
}

type turn struct {
	slots chan struct{}
	users int
}

// take waits for a turn until ctx is done. Nobody in particular waits for none.
func (t *turns) take(ctx context.Context, caller netip.Prefix) (done func(), ok bool) {
	if !caller.IsValid() {
		return func() {}, true
	}
	t.mu.Lock()
	if t.of == nil {
		t.of = map[netip.Prefix]*turn{}
	}
	mine := t.of[caller]
	if mine == nil {
		mine = &turn{slots: make(chan struct{}, maxAskingOne)}
		t.of[caller] = mine
	}
	mine.users++
	t.mu.Unlock()
	leave := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if mine.users--; mine.users == 0 {
			delete(t.of, caller)
		}
	}
	select {
	case mine.slots <- struct{}{}:
		return func() { <-mine.slots; leave() }, true
	case <-ctx.Done():
		leave()
		return nil, false
	}
}
