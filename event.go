package wsbouncer

import (
	"net/netip"
	"time"
)

// An Event is something that happened to a handshake, a connection or the set
// of revocations. Fields that do not apply are zero. None holds a credential.
type Event struct {
	// Kind is "refused", "opened", "ended", "extended" or "revoked".
	Kind string
	Time time.Time
	// Route is Demand.Route.
	Route any
	// CID is the connection's id.
	CID string
	// Issuer, Subject and Session are who, as far as that was verified.
	Issuer, Subject, Session string
	IP                       netip.Addr
	// Origin is the request's Origin header: a stranger's text.
	Origin string
	// Refusal with "refused". A refusal after a first message, or for want of
	// one, came as a close frame.
	Refusal *Refusal
	// Reason with "ended". Its text is a stranger's when the peer closed.
	Reason Reason
	// Duration is the handshake's with "refused" (zero where Admit had no part
	// in it) and "opened", the connection's with "ended",
	// and with "revoked" how long it took from the call until no connection
	// concerned forwards any more.
	Duration time.Duration
	// Revocation and how many connections it Closed, with "revoked".
	Revocation Revocation
	Closed     int
}
