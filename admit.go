package wsbouncer

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"math"
	"net/http"
	"net/netip"
	"strings"
	"time"
	"unique"

	"github.com/wsbouncer/wsbouncer/internal/httpx"
	"github.com/wsbouncer/wsbouncer/internal/limit"
	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/token"
)

// Admit decides about an opening handshake: its shape and target, Host, rate,
// Origin, credential, token, revocations, scopes and the Authorizer, in this
// order. Errors are a *Refusal, for errors.As. Where d takes a first message
// and no other credential came, the Admission's Principal is nil: answer the
// handshake, Track the connection, read the message and give its token to
// AdmitToken.
//
// The connection is not bound to anything before Track.
func (b *Bouncer) Admit(r *http.Request, d Demand) (*Admission, error) {
	began := time.Now()
	a, err := b.admit(r, d, began)
	if err != nil {
		return nil, because(err, began)
	}
	return a, nil
}

func (b *Bouncer) admit(r *http.Request, d Demand, began time.Time) (*Admission, error) {
	if b.draining.Load() {
		return nil, reason.NotReady
	}
	if err := checkHandshake(r); err != nil {
		return nil, err
	}
	if !b.hosts.Allowed(r.Host) {
		return nil, reason.UnknownHost
	}
	ip := b.peers.Addr(r)
	if ok, retry := b.handshakes.Allow(limit.IPKey(ip), began); !ok {
		return nil, reason.TooManyHandshakes.After(int(math.Ceil(retry.Seconds())))
	}
	origin, present, err := httpx.RequestOrigin(r.Header)
	if err != nil || present && !b.origins.Allowed(origin) {
		return nil, reason.OriginDenied
	}
	origin = unique.Make(origin).Value() // the request's is part of all of its head
	c := carry(r, b.cookie)
	if c.badList != "" {
		return nil, reason.BadHandshake.Because(c.badList)
	}
	a := &Admission{
		Protocols: c.protocols, IP: ip, Route: d.Route,
		began: began, origin: origin, demand: d,
	}
	t, err := b.identify(r, a, &c)
	if err != nil {
		return nil, err
	}
	a.Request = c.strip(r)
	if a.Connection == "" {
		a.Connection = newID()
	}
	if t == nil {
		return a, nil // a first message is to come
	}
	if err := b.permit(a, t); err != nil {
		return nil, err
	}
	return a, nil
}

// identify finds the credential and verifies it; nil means that a first
// message is to come.
func (b *Bouncer) identify(r *http.Request, a *Admission, c *carried) (*token.Token, error) {
	enabled := a.demand.sources()
	if b.tickets == nil {
		enabled &^= inTicket
	}
	place, value, err := c.choose(enabled)
	if err != nil {
		return nil, err
	}
	if len(value) > b.limits.override(a.demand.Limits).TokenBytes {
		return nil, reason.TokenTooLarge
	}
	switch place {
	case 0:
		if enabled&inFirstMessage != 0 {
			return nil, nil
		}
		return nil, reason.TokenMissing
	case inTicket:
		return b.redeem(r, a, value)
	case inCookie:
		// A browser sends cookies whoever asks it to: only an Origin that was
		// named tells our page from another (RFC 6455 §10.2).
		if a.origin == "" || b.origins.Any() {
			return nil, reason.OriginDenied
		}
	}
	t, err := b.verifyRequest(callerIs(r.Context(), a.IP), r, value, place == inHeader && c.dpop)
	if err != nil {
		return nil, err
	}
	if place == inQuery && time.Until(t.Expiry) > b.limits.override(a.demand.Limits).QueryTokenTTL {
		return nil, reason.TokenLifetime.Because("A token in the URL may not live that long: send it in a header or a subprotocol, or ask for a ticket.")
	}
	a.Bearer = place == inSubprotocol
	return t, nil
}

func (b *Bouncer) redeem(r *http.Request, a *Admission, ticket string) (*token.Token, error) {
	if ticket == "" {
		return nil, reason.TicketInvalid
	}
	path, _, _ := strings.Cut(httpx.RequestTarget(r), "?")
	t, cid, err := b.tickets.Redeem(r.Context(), ticket, path, a.origin)
	if err != nil {
		return nil, b.refusal(err, "redeeming a ticket")
	}
	if t == nil {
		return nil, reason.TicketInvalid
	}
	if !time.Now().Before(t.Deadline()) {
		return nil, reason.TokenExpired401
	}
	ctx := certified(r.Context(), r)
	if !t.BoundToCertificate() {
		// The key was proved when the ticket was asked for.
		ctx = token.WithProof(ctx, t.Binding)
	}
	if err := b.usable(ctx, t); err != nil {
		return nil, err
	}
	a.Connection = cid
	return t, nil
}

// Verify verifies a token and asks whether it is revoked. One that is bound to a
// key needs [token.WithProof]; see [Bouncer.VerifyRequest]. Errors are a
// *Refusal, for errors.As.
func (b *Bouncer) Verify(ctx context.Context, raw string) (*token.Token, error) {
	if len(raw) > b.limits.TokenBytes {
		return nil, reason.TokenTooLarge
	}
	return b.verify(ctx, raw)
}

// callerIs tells the verifier whose token it is asked about.
func callerIs(ctx context.Context, ip netip.Addr) context.Context {
	return token.WithCaller(ctx, limit.IPKey(ip))
}

func (c *core) verify(ctx context.Context, raw string) (*token.Token, error) {
	if raw == "" {
		return nil, reason.TokenMalformed
	}
	t, err := c.verifier.Verify(ctx, raw)
	if err != nil {
		return nil, c.refusal(err, "verifying a token")
	}
	if t == nil {
		return nil, c.refusal(errors.New("the verifier returned neither token nor error"), "verifying a token")
	}
	if err := c.usable(ctx, t); err != nil {
		return nil, err
	}
	return t, nil
}

// usable refuses what a signature does not tell.
func (c *core) usable(ctx context.Context, t *token.Token) error {
	if !token.Proved(ctx, t.Binding) {
		// A bound token must not work as a bearer token (RFC 9449 §7.2, RFC 8705
		// §3), whatever the verifier thinks of it.
		return reason.TokenBinding
	}
	if c.isRevoked(t) {
		return reason.TokenRevoked401
	}
	if t.From != nil && !c.trusts(t.From) {
		return reason.TokenRevoked401
	}
	return nil
}

// trusts asks the verifier, if it can tell, whether it would still believe the
// key that t was signed with, and those of what t was exchanged for.
func (c *core) trusts(t *token.Token) bool {
	v, ok := c.verifier.(interface {
		Trusts(issuer, keyID string) bool
	})
	if !ok {
		return true
	}
	for ; t != nil; t = t.From {
		if !v.Trusts(t.Issuer, t.KeyID) {
			return false
		}
	}
	return true
}

// Revoked reports whether t has been revoked.
func (b *Bouncer) Revoked(t *token.Token) bool { return b.isRevoked(t) }

// isRevoked: a token that was exchanged for another is revoked with that one.
func (c *core) isRevoked(t *token.Token) bool {
	for ; t != nil; t = t.From {
		if b := boundOf(t); c.revoked.has(&b) {
			return true
		}
	}
	return false
}

// permit asks whether t may open a's connection and makes it a's Principal.
func (b *Bouncer) permit(a *Admission, t *token.Token) error {
	var shared *life
	if a.live != nil {
		shared = a.live.life
	}
	p := principalOf(t, a.origin, shared)
	r := a.Request.WithContext(context.WithValue(a.Request.Context(), principalKey{}, p))
	if err := b.authorize(r.Context(), p, termsOf(&a.demand), r); err != nil {
		return &refused{Refusal: err, who: p}
	}
	a.Principal, a.Request = p, r
	return nil
}

// Permit reports whether the holder of t, which Verify returned, may do what d
// asks: its scopes, the strength of the login and its Authorizer, which is given r,
// a request without a credential. It is for calls that open no connection; neither
// the Origin nor the place of the token is looked at. Errors are a *Refusal.
func (b *Bouncer) Permit(r *http.Request, t *token.Token, d Demand) (*Principal, error) {
	p := principalOf(t, "", nil)
	r = r.WithContext(context.WithValue(r.Context(), principalKey{}, p))
	if ref := b.authorize(r.Context(), p, termsOf(&d), r); ref != nil {
		return nil, ref
	}
	return p, nil
}

// authorize is the route's judgement: at the handshake and at every refresh.
func (c *core) authorize(ctx context.Context, p *Principal, t *terms, r *http.Request) *Refusal {
	if missing := p.missing(t.scopes); len(missing) > 0 {
		return reason.InsufficientScope.Needs(strings.Join(t.scopes, " "))
	}
	if ref := t.strength.check(p.Claims, p.token.Leeway, time.Now()); ref != nil {
		return ref
	}
	if t.authorizer == nil {
		return nil
	}
	err := t.authorizer.Authorize(ctx, p, r)
	if err == nil {
		return nil
	}
	var ref *Refusal
	if errors.As(err, &ref) {
		return ref
	}
	return reason.Forbidden
}

// AdmitToken gives a the token of its first message. On success a.Principal is
// set: Track a once more.
func (b *Bouncer) AdmitToken(ctx context.Context, a *Admission, raw string) error {
	if a.Principal != nil || a.demand.sources()&inFirstMessage == 0 {
		return reason.CredentialAmbiguous
	}
	if len(raw) > b.Limits(a.demand).TokenBytes {
		return reason.TokenTooLarge
	}
	t, err := b.verify(certified(callerIs(ctx, a.IP), a.Request), raw)
	if err != nil {
		return err
	}
	return b.permit(a, t)
}

// refused is a Refusal with what the observer wants to know of it.
type refused struct {
	*Refusal
	who   *Principal // as far as that is known
	cid   string     // of a connection that was tracked
	began time.Time  // of the handshake
}

func (r *refused) Unwrap() error { return r.Refusal }

// because adds the handshake's beginning to a refusal.
func because(err error, began time.Time) error {
	var known *refused
	if errors.As(err, &known) {
		known.began = began
		return known
	}
	var ref *Refusal
	if errors.As(err, &ref) {
		return &refused{Refusal: ref, began: began}
	}
	return err
}

// refusal turns what a Verifier or Redeemer said into what strangers see.
// Trouble of our own is never taken for permission.
func (c *core) refusal(err error, doing string) *Refusal {
	var ref *Refusal
	if errors.As(err, &ref) {
		return ref
	}
	var bad *token.Error
	if errors.As(err, &bad) {
		for _, ref := range reason.Refusals() {
			if ref.Code == bad.Code {
				return ref
			}
		}
	}
	c.log.Error("could not decide about a credential", slog.String("doing", doing), slog.Any("error", err))
	return reason.NotReady
}

// newID is a connection's id: 130 random bits, so that nobody can name a
// connection that is not theirs, in letters and digits that survive a shell.
func newID() string { return rand.Text() }
