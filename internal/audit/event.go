package audit

import (
	"context"
	"net/netip"
	"strings"
	"time"
	"unicode/utf8"
)

// A Type is one kind of event. The values are stable: people search for them.
type Type string

// Every type of event.
const (
	LoginOK        Type = "login_ok"
	LoginFailed    Type = "login_failed"
	LoginThrottled Type = "login_throttled"
	Logout         Type = "logout"
	SessionEnded   Type = "session_ended"
	RefreshReuse   Type = "refresh_reuse"
	TicketReplayed Type = "ticket_replayed"
	TokenIssued    Type = "token_issued"
	// ClientFailed and ClientThrottled: a client did not prove who it is.
	ClientFailed    Type = "client_failed"
	ClientThrottled Type = "client_throttled"
	// GrantRefused: the token endpoint was asked for what it does not give.
	GrantRefused Type = "grant_refused"
	// ProofRefused: a proof of possession was bad, or of another key than the session's.
	ProofRefused Type = "proof_refused"
	// ClientToken and TokenExchanged are routine: see Routine.
	ClientToken     Type = "client_token"
	TokenExchanged  Type = "token_exchanged"
	Revoked         Type = "revocation"
	PasswordChanged Type = "password_changed"
	UserAdded       Type = "user_added"
	UserDisabled    Type = "user_disabled"
	UserEnabled     Type = "user_enabled"
	UserRemoved     Type = "user_removed"
	UserGranted     Type = "user_granted"
	FactorAdded     Type = "factor_added"
	FactorRemoved   Type = "factor_removed"
	// FactorFailed: the password was right, and the second factor was not.
	FactorFailed Type = "factor_failed"
	// PasskeyCloned: its counter went back, so that it may be in two places.
	PasskeyCloned Type = "passkey_cloned"
	// RecoveryCodes were made anew; RecoveryUsed: one took the factor's place.
	RecoveryCodes Type = "recovery_codes_made"
	RecoveryUsed  Type = "recovery_code_used"
	KeyRotated    Type = "key_rotated"
	KeyRevoked    Type = "key_revoked"
	// IdentityEvent: another party said that something has ended, and was believed.
	// IdentityEventIdle: it was believed, and concerned nothing here.
	IdentityEvent        Type = "identity_event"
	IdentityEventIdle    Type = "identity_event_idle"
	IdentityEventRefused Type = "identity_event_refused"
	ConnectionEnded      Type = "connection_ended"
	Reloaded             Type = "config_reloaded"
	// Refreshed is routine: see Routine.
	Refreshed Type = "refreshed"
)

// Routine reports whether events of this type happen all the time. They are for
// the log, and not worth a place among those that are kept.
func (t Type) Routine() bool { return t == Refreshed || t == ClientToken || t == TokenExchanged }

// Stranger reports whether somebody who proved nothing can cause events of
// this type at will, or whether they say nothing of anybody here. Those are kept
// in a bound of their own, so that nobody can push out the others.
func (t Type) Stranger() bool {
	switch t {
	case LoginFailed, LoginThrottled, ClientFailed, ClientThrottled, GrantRefused, ProofRefused, IdentityEventRefused, IdentityEventIdle:
		return true
	}
	return false
}

// An Event is one thing that happened. Fields that do not apply are zero.
type Event struct {
	// ID is the row's number, given by the store; later events have higher ones.
	ID int64
	// Time is when; the zero time means now.
	Time time.Time
	Type Type
	// Issuer, Subject, Session and Connection are whom it happened to.
	Issuer, Subject, Session, Connection string
	// IP, Origin and UserAgent are where the request came from.
	IP                netip.Addr
	Origin, UserAgent string
	// Actor is who did it, when that is somebody else: "admin", for one.
	Actor string
	// Detail is anything more, never a secret.
	Detail map[string]string
}

// A Sink keeps events. Write joins the transaction in ctx if there is one, and
// then the event is kept if and only if that transaction commits.
type Sink interface {
	Write(ctx context.Context, e Event) error
}

// Discard is a Sink that keeps nothing.
var Discard Sink = discard{}

type discard struct{}

func (discard) Write(context.Context, Event) error { return nil }

// Bounds of an event's fields, because strangers choose some of them.
const (
	maxField   = 512
	maxDetails = 16
)

// Bounded is e with every field cut to its bound and made valid UTF-8.
func (e Event) Bounded() Event {
	for _, f := range []*string{&e.Issuer, &e.Subject, &e.Session, &e.Connection, &e.Origin, &e.UserAgent, &e.Actor} {
		*f = Cut(*f, maxField)
	}
	if len(e.Detail) > 0 {
		d := make(map[string]string, min(len(e.Detail), maxDetails))
		for k, v := range e.Detail {
			if len(d) == maxDetails {
				break
			}
			d[Cut(k, 64)] = Cut(v, maxField)
		}
		e.Detail = d
	}
	return e
}

// Cut is s with at most n bytes, valid UTF-8, no half characters at the end.
func Cut(s string, n int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
