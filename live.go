package wsbouncer

import (
	"errors"
	"math"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
	"unique"

	"github.com/wsbouncer/wsbouncer/internal/limit"
	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/internal/wheel"
	"github.com/wsbouncer/wsbouncer/token"
)

// A Live is one tracked connection: pending after Track, live after Open,
// ended after End, gone after Release. Its methods are safe for concurrent use.
// A hundred thousand of them are held at once, so every field counts.
type Live struct {
	// What the connection carried so far, in bytes of frames and in messages.
	// Whoever moves them counts them.
	ClientBytes, UpstreamBytes       atomic.Int64
	ClientMessages, UpstreamMessages atomic.Int64

	core   *core
	id     string
	ip     netip.Addr
	origin unique.Handle[string] // few have one of their own, and none keeps its request
	route  any
	terms  *terms
	began  int64 // of the handshake, Unix nanoseconds
	latest int64 // the end of its Lifetime, Unix nanoseconds
	life   *life
	timer  wheel.Timer

	// opening and current are the token that opened it and the latest. current is
	// written last and read first: nil is waiting.
	opening *token.Token
	current atomic.Pointer[token.Token]

	links [indexes]link // under the locks of their lists

	binding sync.Mutex // held while the indexes of l change; taken before mu
	mu      sync.Mutex
	ender   Ender
	why     *Reason // when ended

	waits    bool // is in registry.waiting, under its lock; the others are under mu
	state    state
	opened   bool
	waited   bool // for a first message, after a 101
	released bool
}

// terms are what a Demand asks for again at every refresh.
type terms struct {
	scopes        []string
	strength      strength
	authorizer    Authorizer
	request       *http.Request // for the authorizer; nil without one
	extendSession bool
}

// noTerms are those of the many that have none.
var noTerms = &terms{}

func termsOf(d *Demand) *terms {
	s := d.strength()
	if len(d.Scopes) == 0 && s.none() && d.Authorizer == nil && !d.ExtendSession {
		return noTerms
	}
	return &terms{scopes: d.Scopes, strength: s, authorizer: d.Authorizer, extendSession: d.ExtendSession}
}

type state uint8

const (
	pending state = iota
	live
	ended
)

// Track registers a connection as pending and then asks whether its token has
// been revoked: a revocation is in the set before it looks for connections, so
// one of the two always sees the other. Limits per node, address and subject
// are taken here and given back by Release. Errors are a *Refusal, for
// errors.As; then nothing is registered.
//
// An Admission without a Principal waits for its first message, for
// HandshakeTimeout; Track it again after AdmitToken, with the Ender that holds
// from then on: the same Live is then pending.
func (b *Bouncer) Track(a *Admission, e Ender) (*Live, error) {
	b.run()
	limits := b.Limits(a.demand)
	l := a.live
	if l == nil {
		l = &Live{
			core: b.core, id: a.Connection, ip: a.IP, origin: unique.Make(a.origin), route: a.Route,
			terms: termsOf(&a.demand), ender: e, began: a.began.UnixNano(),
		}
		if a.Principal != nil {
			l.life = a.Principal.life
		} else {
			l.life = &life{}
		}
		if err := b.enter(l, limits); err != nil {
			return nil, &refused{Refusal: err, who: a.Principal, began: a.began}
		}
	}
	if a.Principal == nil {
		if err := b.wait(l, limits); err != nil {
			l.Release(reason.Overloaded)
			return nil, &refused{Refusal: err, began: a.began}
		}
		a.live = l
		return l, nil
	}
	if p := a.demand.Permissions; p != nil {
		allow := p.Permit(l.Principal, a.Request)
		l.life.mu.Lock()
		l.life.allow = allow
		l.life.mu.Unlock()
	}
	evicted, ref := b.bind(l, a, e, limits)
	if evicted != nil {
		evicted.tell(reason.Overloaded)
	}
	if ref != nil {
		l.Release(reason.Overloaded)
		return nil, &refused{Refusal: ref, who: a.Principal, began: a.began}
	}
	return l, nil
}

// enter takes l's place on the node and registers its id.
func (c *core) enter(l *Live, limits Limits) *Refusal {
	if n := c.registry.count.Add(1); n > int64(atMost(limits.Connections)) {
		c.leave()
		return reason.Overloaded503
	}
	if !c.perIP.Acquire(limit.IPKey(l.ip)) {
		c.leave()
		return reason.TooManyConns
	}
	if !c.registry.addID(l) {
		// A ticket's id is used once; a second connection of that name would
		// be reachable by neither.
		c.perIP.Release(limit.IPKey(l.ip))
		c.leave()
		return reason.TicketInvalid
	}
	return nil
}

// leave gives a place on the node back; Shutdown waits for the last one.
func (c *core) leave() {
	if c.registry.count.Add(-1) == 0 && c.draining.Load() {
		select {
		case c.quiet <- struct{}{}:
		default:
		}
	}
}

// wait gives l a place among those that have not said who they are.
func (c *core) wait(l *Live, limits Limits) *Refusal {
	evicted, ok := c.registry.waiting.enter(l, limit.IPKey(l.ip), c.limits.Unauthenticated, c.limits.UnauthenticatedPerIP, time.Now(), reason.Overloaded)
	if evicted != nil {
		evicted.tell(reason.Overloaded)
	}
	if !ok {
		return reason.TooManyConns
	}
	if c.draining.Load() {
		return reason.NotReady
	}
	l.mu.Lock()
	l.waited = true
	l.mu.Unlock()
	l.life.expires.Store(time.Unix(0, l.began).Add(limits.HandshakeTimeout).UnixNano())
	l.schedule()
	return nil
}

// bind makes l who a says, indexes it, and only then asks whether it may be. The
// connection that made room for it, if one had to, is for the caller to tell.
func (c *core) bind(l *Live, a *Admission, e Ender, limits Limits) (evicted *Live, _ *Refusal) {
	l.binding.Lock()
	defer l.binding.Unlock()
	c.registry.waiting.leave(l)
	t := a.Principal.token
	l.mu.Lock()
	if l.state == ended {
		why, waited := *l.why, l.waited
		l.mu.Unlock()
		if waited {
			return nil, afterwards(why) // a close frame can say it as it is
		}
		return nil, refusalFor(why)
	}
	l.ender = e
	l.opening = t
	if l.terms.authorizer != nil {
		l.terms.request = a.Request
	}
	l.latest = math.MaxInt64
	if limits.Lifetime > 0 {
		l.latest = time.Now().Add(limits.Lifetime).UnixNano()
	}
	l.life.expires.Store(min(t.Deadline().UnixNano(), l.latest))
	l.current.Store(t)
	l.mu.Unlock()

	most := limits.ConnectionsPerSubject
	if c.most != nil {
		pick(&most, c.most(a.Principal), false)
	}
	ok := c.registry.add(bySubject, l, name{t.Issuer, t.Subject}, func(head *Live) (full bool) {
		evicted, full = makeRoom(head, t, most)
		return full
	})
	if !ok {
		return evicted, reason.TooManyConns
	}
	c.registry.add(byToken, l, name{t.Issuer, t.ID}, nil)
	c.registry.add(bySession, l, name{t.Issuer, t.Session}, nil)
	c.registry.exchanged.add(l, t)
	if err := l.ask(); err != nil {
		return evicted, err
	}
	l.schedule()
	return evicted, nil
}

// makeRoom says whether t's subject has too many connections. If one of t's
// session may go for it, it is marked as ended.
func makeRoom(head *Live, t *token.Token, most int) (evicted *Live, full bool) {
	if most < 0 {
		return nil, false
	}
	n := 0
	var oldest *Live
	listed(head, bySubject, func(l *Live) {
		if u := l.opening; u.Subject != t.Subject || u.Issuer != t.Issuer {
			return
		}
		if _, over := l.Ended(); over {
			return
		}
		n++
		if oldest == nil && t.Session != "" && l.opening.Session == t.Session {
			oldest = l
		}
	})
	if n < most {
		return nil, false
	}
	if oldest == nil {
		return nil, true
	}
	if oldest.mark(reason.Overloaded) {
		return oldest, false
	}
	return nil, false // it went by itself
}

// ask asks the revocation set, whether the key is still trusted, and whether the
// node still admits, after l is where Apply, Review and Shutdown look for it.
func (l *Live) ask() *Refusal {
	current := l.current.Load()
	// The one that opened the connection may have been retired since, as keys
	// are: it lives by the current one.
	if !l.core.trusts(current) {
		return reason.TokenSignature
	}
	for _, t := range [...]*token.Token{current, l.opening} {
		if l.core.isRevoked(t) {
			return reason.TokenRevoked401
		}
		if current == l.opening {
			break
		}
	}
	if l.core.draining.Load() {
		return reason.NotReady
	}
	if why, over := l.Ended(); over {
		return refusalFor(why)
	}
	return nil
}

// Open makes a pending connection live: call it when the connection is about to
// be usable, after the upstream has accepted it and before the client is
// answered. It asks once more whether the token has been revoked. Errors are a
// *Refusal, for errors.As; then Release the connection.
func (l *Live) Open() error {
	if l.current.Load() == nil {
		return reason.TokenMissing
	}
	if err := l.ask(); err != nil {
		return l.Refused(err)
	}
	l.mu.Lock()
	if l.state == ended {
		why := *l.why
		l.mu.Unlock()
		return l.Refused(refusalFor(why))
	}
	l.state, l.opened = live, true
	l.mu.Unlock()
	l.core.observe(l.event("opened"))
	return nil
}

// Refused is err, a *Refusal, with who is refused and since when, for the
// Observer that Refuse tells. Give it what Refuse is called with when something
// other than the library fails a connection between Track and Open.
func (l *Live) Refused(err error) error {
	var ref *Refusal
	if !errors.As(err, &ref) {
		return err
	}
	return &refused{Refusal: ref, who: l.Principal(), cid: l.id, began: l.Started()}
}

// End ends the connection and reports whether it was not ended before. Its
// Ender has been called when it returns.
func (l *Live) End(why Reason) bool {
	if !l.mark(why) {
		return false
	}
	l.tell(why)
	return true
}

// mark decides that the connection ends. It may be called under a list's lock;
// whoever is told true must call tell after.
func (l *Live) mark(why Reason) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state == ended {
		return false
	}
	l.state, l.why = ended, &why
	return true
}

func (l *Live) tell(why Reason) {
	l.mu.Lock()
	e, released := l.ender, l.released
	l.mu.Unlock()
	if e != nil && !released {
		e.End(why)
	}
	l.life.end()
}

// Carried is what the connection carried so far: as its Ender tells by a method
// of this name, else as it was counted in the fields.
func (l *Live) Carried() (clientBytes, upstreamBytes, clientMessages, upstreamMessages int64) {
	l.mu.Lock()
	e := l.ender
	l.mu.Unlock()
	if c, ok := e.(interface {
		Carried() (clientBytes, upstreamBytes, clientMessages, upstreamMessages int64)
	}); ok {
		return c.Carried()
	}
	return l.ClientBytes.Load(), l.UpstreamBytes.Load(), l.ClientMessages.Load(), l.UpstreamMessages.Load()
}

// Release tells that the connection is gone, and gives its places back. why
// counts when nothing ended it before. It is idempotent.
func (l *Live) Release(why Reason) {
	l.mu.Lock()
	if l.released {
		l.mu.Unlock()
		return
	}
	l.released = true
	if l.state != ended {
		l.state, l.why = ended, &why
	}
	l.ender = nil
	opened, waited := l.opened, l.waited
	l.mu.Unlock()

	c := l.core
	l.binding.Lock() // a Track or refresh under way arms and links once more
	c.wheel.Stop(&l.timer)
	c.registry.waiting.leave(l)
	if t := l.opening; t != nil {
		c.registry.remove(byToken, l, name{t.Issuer, t.ID})
		c.registry.remove(bySession, l, name{t.Issuer, t.Session})
		c.registry.remove(bySubject, l, name{t.Issuer, t.Subject})
		c.registry.exchanged.remove(l, t)
		if u := l.current.Load(); u != t {
			c.registry.remove(byCurrent, l, name{u.Issuer, u.ID})
			c.registry.exchanged.remove(l, u)
		}
	}
	l.binding.Unlock()
	c.registry.removeID(l)
	c.perIP.Release(limit.IPKey(l.ip))
	l.life.end()
	switch {
	case opened:
		c.observe(l.event("ended"))
	case waited:
		// The 101 was sent long ago, so nobody else refuses it.
		e := l.event("refused")
		e.Refusal = afterwards(e.Reason)
		c.observe(e)
	}
	c.leave()
}

// afterwards is the refusal of a connection that ended before it had said who
// it is, or could be served. What the peer said itself is not repeated.
func afterwards(why Reason) *Refusal {
	for _, r := range reason.Refusals() {
		if r.CloseCode == why.Code && r.Code == why.Text {
			return r
		}
	}
	for _, e := range reason.Ends() {
		if e.Code == why.Code && e.Text == why.Text {
			return &Refusal{Code: e.Text, Status: http.StatusSwitchingProtocols, CloseCode: e.Code}
		}
	}
	return afterwards(reason.ClientGone)
}

// ID is the connection's id.
func (l *Live) ID() string { return l.id }

// Principal is who, by the latest token, made anew by each call; nil while a first
// message is awaited.
func (l *Live) Principal() *Principal {
	if t := l.current.Load(); t != nil {
		return principalOf(t, l.Origin(), l.life)
	}
	return nil
}

// IP is the client's address.
func (l *Live) IP() netip.Addr { return l.ip }

// Origin is the handshake's.
func (l *Live) Origin() string { return l.origin.Value() }

// Route is the Demand's.
func (l *Live) Route() any { return l.route }

// Started is when the handshake came.
func (l *Live) Started() time.Time { return time.Unix(0, l.began) }

// ExpiresAt is when the connection ends unless a newer token moves it.
func (l *Live) ExpiresAt() time.Time { return time.Unix(0, l.life.expires.Load()) }

// Done is closed when the connection has ended.
func (l *Live) Done() <-chan struct{} { return l.life.channel() }

// Ended is how the connection ended, if it has.
func (l *Live) Ended() (Reason, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state != ended {
		return Reason{}, false
	}
	return *l.why, true
}

func (l *Live) event(kind string) Event {
	why, _ := l.Ended()
	e := Event{
		Kind: kind, Time: time.Now(), Route: l.route, CID: l.id, IP: l.ip, Origin: l.Origin(),
		Reason: why,
	}
	e.Duration = e.Time.Sub(l.Started())
	if t := l.current.Load(); t != nil {
		e.Issuer, e.Subject, e.Session = t.Issuer, t.Subject, t.Session
	}
	return e
}

// refusalFor is what a handshake is told whose connection ended before it was
// open.
func refusalFor(why Reason) *Refusal {
	switch why {
	case reason.TokenExpired:
		return reason.TokenExpired401
	case reason.NotAllowed:
		return reason.Forbidden
	case reason.Restarting, reason.Stale:
		return reason.NotReady
	case reason.Overloaded:
		return reason.TooManyConns
	}
	if why.Code == reason.CodeUnauthorized {
		return reason.TokenRevoked401
	}
	return reason.Overloaded503
}
