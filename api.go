package wsbouncer

import (
	"context"
	"net/http"
	"net/netip"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/token"
)

// Reason is one way a live connection ends: its close code and reason text.
type Reason = reason.End

// Refusal is one way a handshake is refused, and the error strangers see.
type Refusal = reason.Refusal

// LoggedOut is the reason to give with [Revocation.Because] when whoever the
// revocation concerns asked for it.
var LoggedOut = reason.LoggedOut

var restarting = reason.Restarting

// A Verifier verifies access tokens; *token.Verifier is one. It must be safe
// for concurrent use. The error is *token.Error, *Refusal, or anything else,
// which refuses the handshake as not_ready.
//
// One whose issuers and keys can change should also have the method
//
//	Trusts(issuer, keyID string) bool
//
// which says whether the issuer is trusted and has that key just now: see
// [Bouncer.Review].
type Verifier interface {
	Verify(ctx context.Context, raw string) (*token.Token, error)
}

// A Redeemer takes a ticket, which can be done once, and returns the token it
// stands for and the connection id it was issued with. Path is the escaped path
// of the request, origin its Origin header or "". The error is *Refusal
// (ticket_invalid) or anything else, which refuses the handshake as not_ready.
type Redeemer interface {
	Redeem(ctx context.Context, ticket, path, origin string) (t *token.Token, cid string, err error)
}

// A Source writes revocations durably before they are applied. It returns them
// with Seq, At and Expires filled in.
type Source interface {
	Record(ctx context.Context, rs []Revocation) ([]Revocation, error)
}

// An Authorizer decides whether p may open this connection, or keep it with
// newer claims. r carries no credential. A nil error permits; a *Refusal is
// passed on; any other error refuses as not_allowed.
type Authorizer interface {
	Authorize(ctx context.Context, p *Principal, r *http.Request) error
}

// An Observer is told what happened. Observe must not block; it is called on
// the goroutine where it happened, never under a lock.
type Observer interface {
	Observe(Event)
}

// An Ender ends one connection. When End returns, no more bytes are forwarded
// in either direction; the close frame may follow within the second. It must
// not block. The bouncer calls it at most once, from any goroutine, possibly
// before Track has returned.
type Ender interface {
	End(Reason)
}

// Names of the places a credential may stand in, for Demand.TokenFrom.
const (
	fromTicket       = "ticket"
	fromHeader       = "header"
	fromSubprotocol  = "subprotocol"
	fromQuery        = "query"
	fromCookie       = "cookie"
	fromFirstMessage = "first_message"
)

// A Demand is what a route asks of whoever connects. The zero Demand asks for a
// valid token in a ticket, the Authorization header, a subprotocol or the query.
type Demand struct {
	// TokenFrom lists the places a credential may stand in: "ticket", "header",
	// "subprotocol", "query" (the default), "cookie", "first_message". Of those
	// places exactly one may hold one.
	TokenFrom []string
	// Scopes are needed, all of them.
	Scopes []string
	// RequireAMR are the authentication methods (RFC 8176) that the token's amr
	// must hold, all of them; RequireACR the values of which its acr must be one.
	RequireAMR, RequireACR []string
	// MaxAuthAge is how old the login may be, by auth_time; zero: any age. It
	// is looked at when a connection opens and at every refresh.
	MaxAuthAge time.Duration
	// Authorizer is asked after those, and again at every refresh.
	Authorizer Authorizer
	// Permissions decide what Principal.Allow answers; nil: it allows nothing. It
	// is asked once for a connection, for the function that will be; principal
	// gives who is there by the latest token. policy.Rules is one.
	Permissions interface {
		Permit(principal func() *Principal, r *http.Request) (allow func(action, target string) bool)
	}
	// RejectByClose refuses with a 101 and a close code that browsers can
	// read, where that is safe, instead of an HTTP status.
	RejectByClose bool
	// ExtendSession: Extend moves this connection whenever it is given a newer
	// token of its session, named or not.
	ExtendSession bool
	// Limits overrides Options.Limits; its node-wide fields (Connections,
	// ConnectionsPerIP, Unauthenticated, UnauthenticatedPerIP, HandshakesPerIP)
	// are not looked at.
	Limits *Limits
	// Route is carried to Admission.Route and to events as it is.
	Route any
}

// An Admission is a handshake that was let in.
type Admission struct {
	// Principal is who; nil while a first message is still to come.
	Principal *Principal
	// Request is the request with every credential removed; its context
	// carries the Principal.
	Request *http.Request
	// Protocols are the subprotocols the client offered, without credentials.
	Protocols []string
	// Bearer: the token came as a subprotocol, so that the answer must be
	// "bearer" when the application chose none.
	Bearer bool
	// IP is the client's address.
	IP netip.Addr
	// Connection is the id the connection will have.
	Connection string
	// Route is Demand.Route.
	Route any

	began  time.Time
	origin string
	demand Demand
	live   *Live // the one that waits for its first message
}

// An Extension is what a newer token moved.
type Extension struct {
	// Extended are the ids of the connections that now live by it.
	Extended []string
	// ExpiresAt is the token's own end.
	ExpiresAt time.Time
}
