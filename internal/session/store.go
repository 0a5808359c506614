package session

import (
	"context"
	"time"

	"github.com/wsbouncer/wsbouncer"
)

// A Hash is the SHA-256 of a secret: all that is ever stored of one.
type Hash [32]byte

// A Record is a session as it is stored.
type Record struct {
	// ID is the sid: 130 random bits, no secret.
	ID       string
	Subject  string
	ClientID string
	// Scopes are what the session may ask for. They only ever shrink.
	Scopes []string
	// Method is how the subject logged in, Proof what that rests on.
	Method string
	Proof  Proof
	// Claims are further claims of its access tokens, a JSON object; nil: none.
	Claims []byte
	// External is the login elsewhere that it rests on.
	External External
	// IP, UserAgent and Origin are where the session was last used from.
	IP, UserAgent, Origin string
	Created, Used         time.Time
	// Expires is the absolute end, IdleUntil the end unless it is used.
	Expires, IdleUntil time.Time
	// AccessUntil is when the last access token issued from it is dead.
	AccessUntil time.Time

	// Family is the hash of what all refresh tokens of the session begin
	// with; Current is that of the one token that rotates.
	Family, Current Hash
	// Key is the thumbprint of the DPoP key that its tokens are bound to; empty: none.
	Key string
	// Previous is the token that Current replaced at Rotated, and the zero
	// Hash before the first rotation. Repeated says that it was answered a
	// second time; Replay is that answer, sealed under a key made of Previous.
	Previous Hash
	Rotated  time.Time
	Repeated bool
	Replay   []byte
}

// A Ticket is a ticket as it is stored.
type Ticket struct {
	Hash Hash
	// Issuer, Subject and Session are of the token it stands for.
	Issuer, Subject, Session string
	// Connection is the cid of the connection it will open.
	Connection   string
	Path, Origin string
	// Token is the verified token, encoded.
	Token   []byte
	Expires time.Time
}

// A LogEntry is a revocation as the log keeps it.
type LogEntry struct {
	wsbouncer.Revocation
	Actor string
}

// An EndedLogin says that logins elsewhere are over: one session of a provider,
// or all of a subject or email that it had vouched for by At.
type EndedLogin struct {
	// Kind is "session", "subject" or "email".
	Issuer, Kind, Value string
	At, Until           time.Time
}

// A Store keeps sessions, tickets and the revocations log. It must be safe for
// concurrent use. storetest is its conformance suite.
//
// Methods join the transaction in their context. "Absent" is ErrNotFound. Times
// are kept to the millisecond.
type Store interface {
	// Tx runs fn in a transaction, which is durable when Tx returns nil, and
	// is not there at all when it returns an error. Two transactions that
	// touch the same session, account or ticket, or that read or advance the
	// Sequence, behave as if one had come after the other. A Tx inside fn,
	// with fn's context, joins; when a joined one fails, all of it fails. Once
	// begun, a transaction is finished even if the caller's context ends.
	Tx(ctx context.Context, fn func(ctx context.Context) error) error
	// AfterCommit runs fn once the outermost transaction in ctx is durable,
	// before its Tx returns, or never; without a transaction at once.
	AfterCommit(ctx context.Context, fn func())

	// Sequence is the number of the last revocation. A transaction that
	// issues tokens asks it first, before it reads what the tokens rest on.
	Sequence(ctx context.Context) (int64, error)
	// AppendRevocation gives e the next number, without gaps and in the order
	// of commits, and keeps it until e.Expires (for ever when that is zero).
	AppendRevocation(ctx context.Context, e LogEntry) (seq int64, err error)
	// Revocation finds an entry of that kind for that value.
	Revocation(ctx context.Context, kind, issuer, value string) (LogEntry, error)
	// Revocations lists entries above after that have not expired at now, in
	// order, at most limit.
	Revocations(ctx context.Context, after int64, now time.Time, limit int) ([]LogEntry, error)

	InsertSession(ctx context.Context, r Record) error
	Session(ctx context.Context, id string) (Record, error)
	// SessionByFamily finds a session by what its refresh tokens begin with.
	SessionByFamily(ctx context.Context, family Hash) (Record, error)
	// Sessions lists a subject's, or everybody's when subject is empty, oldest
	// first, at most limit.
	Sessions(ctx context.Context, subject string, limit int) ([]Record, error)
	// SessionsOfExternal lists those that rest on a login with of.Issuer: of its
	// session, else of its subject, else of its email; oldest first, at most limit.
	SessionsOfExternal(ctx context.Context, of External, limit int) ([]Record, error)
	// UpdateSession writes all of r but ID, Subject, ClientID, Method, External,
	// Created, Expires, Family and Key, which never change.
	UpdateSession(ctx context.Context, r Record) error
	DeleteSession(ctx context.Context, id string) error
	DeleteSessionsOf(ctx context.Context, subject string) (int, error)
	// DeleteSessionsUsedBefore ends the sessions whose refresh token was
	// issued before t.
	DeleteSessionsUsedBefore(ctx context.Context, t time.Time) (int, error)

	// InsertTicket adds t; where its subject has more than perSubject, the
	// oldest of them go.
	InsertTicket(ctx context.Context, t Ticket, perSubject int) error
	// TakeTicket removes and returns a ticket: of any number of callers, on any
	// number of nodes, exactly one gets it.
	TakeTicket(ctx context.Context, hash Hash) (Ticket, error)
	// DeleteTickets removes those of a session, or of a subject when session
	// is empty.
	DeleteTickets(ctx context.Context, issuer, subject, session string) error
	// CountTickets counts those that have not expired at now.
	CountTickets(ctx context.Context, now time.Time) (int, error)

	// RememberStatement keeps a statement's issuer and id until then, and reports
	// whether it was not kept already. Of very many the oldest can be forgotten.
	RememberStatement(ctx context.Context, issuer, id string, until time.Time) (fresh bool, err error)
	// Remembered reports whether a statement is kept.
	Remembered(ctx context.Context, issuer, id string) (bool, error)
	// InsertEndedLogin keeps e until e.Until; where there is one of that issuer,
	// kind and value, the later of both times count. Of very many the oldest can
	// be forgotten.
	InsertEndedLogin(ctx context.Context, e EndedLogin) error
	EndedLogin(ctx context.Context, issuer, kind, value string) (EndedLogin, error)

	// Prune removes what cannot matter at now any more, and the sealed answers
	// of tokens that were rotated before sealed; at most limit rows of each
	// kind. It says how many those were.
	Prune(ctx context.Context, now, sealed time.Time, limit int) (int, error)
}
