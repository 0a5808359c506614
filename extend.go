package wsbouncer

import (
	"context"
	"errors"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/token"
)

// Extend moves the deadline of the named connections to that of a newer token
// of the same issuer, subject, session, client and key binding, and of those of
// its session whose Demand says ExtendSession. Other names are passed over in
// silence: whoever holds a token learns nothing about connections that are not
// its own. Each route is evaluated again with the new claims; a connection that
// no longer satisfies it ends with not_allowed. Nothing is ever shortened.
// Errors are a *Refusal, for errors.As.
func (b *Bouncer) Extend(ctx context.Context, raw string, cids ...string) (Extension, error) {
	t, err := b.Verify(ctx, raw)
	if err != nil {
		return Extension{}, err
	}
	named := map[string]bool{}
	var lives []*Live
	for _, cid := range cids {
		if l := b.registry.lookup(cid); l != nil && !named[cid] {
			named[cid] = true
			lives = append(lives, l)
		}
	}
	if t.Session != "" {
		b.registry.each(bySession, name{t.Issuer, t.Session}, func(l *Live) {
			if l.terms.extendSession && !named[l.id] {
				named[l.id] = true
				lives = append(lives, l)
			}
		})
	}
	x := Extension{ExpiresAt: t.Deadline()}
	for _, l := range lives {
		if _, err := l.refresh(ctx, t, false); err == nil {
			x.Extended = append(x.Extended, l.id)
		}
	}
	return x, nil
}

// Refresh moves the connection's deadline to that of a newer token that came
// over the connection itself, and returns the deadline in force. A token of
// somebody else, or one that no longer satisfies the route, ends the connection
// with not_allowed. Errors are a *Refusal, for errors.As.
func (l *Live) Refresh(ctx context.Context, raw string) (time.Time, error) {
	if len(raw) > l.core.limits.TokenBytes {
		return time.Time{}, reason.TokenTooLarge
	}
	if was := l.current.Load(); was != nil && was.BoundToCertificate() {
		// Both came over the connection that was opened with the certificate.
		ctx = token.WithProof(ctx, was.Binding)
	}
	t, err := l.core.verify(callerIs(ctx, l.ip), raw)
	if err != nil {
		return time.Time{}, err
	}
	return l.refresh(ctx, t, true)
}

// refresh gives l a newer token. inBand: it came over l, so that a foreign one
// is an attack on l and not merely a wrong name.
func (l *Live) refresh(ctx context.Context, t *token.Token, inBand bool) (time.Time, error) {
	was := l.current.Load()
	if was == nil {
		return time.Time{}, reason.TokenMissing
	}
	p := principalOf(t, l.Origin(), l.life)
	if !same(was, t) { // and so whoever else refreshes meanwhile is the same too
		if inBand {
			l.End(reason.NotAllowed)
		}
		return time.Time{}, reason.Forbidden
	}
	r := l.terms.request
	if r != nil {
		r = r.WithContext(context.WithValue(ctx, principalKey{}, p))
	}
	if err := l.core.authorize(ctx, p, l.terms, r); err != nil {
		if err.Code == reason.NotReady.Code {
			return time.Time{}, err // our trouble, not theirs: the old deadline holds
		}
		l.End(reason.NotAllowed)
		return time.Time{}, err
	}
	moved, err := l.rebind(t)
	switch {
	case errors.Is(err, reason.TokenRevoked401):
		l.End(reason.TokenRevoked)
		return time.Time{}, err
	case errors.Is(err, reason.TokenSignature):
		l.End(reason.KeyRevoked)
		return time.Time{}, err
	case err != nil:
		return time.Time{}, err
	}
	if moved {
		l.core.observe(l.event("extended"))
	}
	return l.ExpiresAt(), nil
}

// rebind makes t whom l is bound to, if that moves the deadline: indexed first, then asked
// about, as in Track. The token that opened the connection stays bound to it.
func (l *Live) rebind(t *token.Token) (moved bool, err error) {
	l.binding.Lock()
	defer l.binding.Unlock()
	was := l.current.Load()
	if !t.Deadline().After(was.Deadline()) {
		return false, nil
	}
	if why, over := l.Ended(); over {
		return false, refusalFor(why)
	}
	if was != l.opening {
		l.core.registry.remove(byCurrent, l, name{was.Issuer, was.ID})
		l.core.registry.exchanged.remove(l, was)
		l.core.registry.exchanged.add(l, l.opening) // they have names in common
	}
	l.current.Store(t)
	l.core.registry.add(byCurrent, l, name{t.Issuer, t.ID}, nil)
	l.core.registry.exchanged.add(l, t)
	if err := l.ask(); err != nil {
		return false, err
	}
	l.mu.Lock()
	if l.state == ended {
		why := *l.why
		l.mu.Unlock()
		return false, refusalFor(why)
	}
	l.life.expires.Store(min(t.Deadline().UnixNano(), l.latest))
	l.mu.Unlock()
	l.schedule()
	return true, nil
}
