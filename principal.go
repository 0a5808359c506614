package wsbouncer

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wsbouncer/wsbouncer/token"
)

// A Principal is who opened a connection, and what the token allows. Its
// fields must not be changed.
type Principal struct {
	// Issuer and Subject together are the identity.
	Issuer, Subject string
	// Session, TokenID, KeyID, ClientID and Binding are the token's sid, jti,
	// kid, client_id and cnf; "" where it has none.
	Session, TokenID, KeyID, ClientID, Binding string
	// Origin is the allowed Origin of the handshake, "" when there was none.
	Origin string
	// Scopes of the token. Those that begin with "wsbouncer:" are left out
	// unless the token is of our own issuer.
	Scopes []string
	// Claims is the token's whole payload.
	Claims token.Claims

	life  *life
	token *token.Token
}

// mark is what a revocation may need to know of a token besides its names.
type mark struct {
	issued int64 // iat in Unix seconds
	rev    int64
	leeway time.Duration
	hasIAT bool
	hasRev bool
	own    bool
}

func markOf(t *token.Token) mark {
	m := mark{rev: t.Rev, leeway: t.Leeway, hasRev: t.HasRev, own: t.Own}
	if !t.IssuedAt.IsZero() {
		m.hasIAT, m.issued = true, t.IssuedAt.Unix()
	}
	return m
}

// bound is everything of a token that a revocation can name.
type bound struct {
	issuer, subject, session, token, key string
	mark                                 mark
}

func boundOf(t *token.Token) bound {
	return bound{issuer: t.Issuer, subject: t.Subject, session: t.Session, token: t.ID, key: t.KeyID, mark: markOf(t)}
}

// life is the part of a connection that outlives refreshes: every Principal it
// ever had shares one.
type life struct {
	expires atomic.Int64 // Unix nanoseconds
	mu      sync.Mutex
	done    chan struct{} // made when somebody asks
	over    bool
	allow   func(action, target string) bool // nil: nothing
}

func (l *life) channel() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.done == nil {
		l.done = make(chan struct{})
		if l.over {
			close(l.done)
		}
	}
	return l.done
}

func (l *life) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.over {
		l.over = true
		if l.done != nil {
			close(l.done)
		}
	}
}

// principalOf is whom t names. shared is the connection's life when it has one.
func principalOf(t *token.Token, origin string, shared *life) *Principal {
	p := &Principal{
		Issuer: t.Issuer, Subject: t.Subject, Session: t.Session, TokenID: t.ID, KeyID: t.KeyID,
		ClientID: t.ClientID, Binding: t.Binding, Origin: origin, Scopes: t.Scopes, Claims: t.Claims,
		life: shared, token: t,
	}
	reserved := func(s string) bool { return strings.HasPrefix(s, "wsbouncer:") }
	if !t.Own && slices.ContainsFunc(p.Scopes, reserved) {
		p.Scopes = slices.DeleteFunc(slices.Clone(p.Scopes), reserved)
	}
	if shared == nil {
		p.life = &life{}
		p.life.expires.Store(t.Deadline().UnixNano())
	}
	return p
}

// Done is closed when the connection has ended, for whatever reason: not when
// the handler or its request's context has.
func (p *Principal) Done() <-chan struct{} { return p.life.channel() }

// ExpiresAt is when the connection ends unless a newer token moves it.
func (p *Principal) ExpiresAt() time.Time { return time.Unix(0, p.life.expires.Load()) }

// Allow reports whether the connection may do this, by Demand.Permissions and the
// token that it lives by now. It may be called concurrently. Without Permissions,
// and before the connection is tracked, it allows nothing.
func (p *Principal) Allow(action, target string) bool {
	p.life.mu.Lock()
	allow, over := p.life.allow, p.life.over
	p.life.mu.Unlock()
	return allow != nil && !over && allow(action, target)
}

// missing returns the needed scopes that p lacks.
func (p *Principal) missing(need []string) (missing []string) {
	for _, s := range need {
		if !slices.Contains(p.Scopes, s) {
			missing = append(missing, s)
		}
	}
	return missing
}

// same reports whether u may follow t on one connection.
func same(t, u *token.Token) bool {
	return t.Issuer == u.Issuer && t.Subject == u.Subject && t.Session == u.Session &&
		t.ClientID == u.ClientID && t.Binding == u.Binding
}

type principalKey struct{}

// FromContext is the Principal of a request that Protect let in, or of an
// Admission's; nil for any other.
func FromContext(ctx context.Context) *Principal {
	p, _ := ctx.Value(principalKey{}).(*Principal)
	return p
}
