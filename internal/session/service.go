package session

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/internal/audit"
	"github.com/wsbouncer/wsbouncer/internal/limit"
	"github.com/wsbouncer/wsbouncer/token"
)

// Errors of the Service. Strangers learn no more than these.
var (
	// ErrNotFound: there is no such session.
	ErrNotFound = errors.New("not found")
	// ErrInvalidGrant: the refresh token is not good (RFC 6749 §5.2 invalid_grant).
	ErrInvalidGrant = errors.New("invalid_grant: the refresh token is unknown, expired, revoked or of another client; log in again")
	// ErrReused wraps ErrInvalidGrant: a token that had been used came again, and its session was ended.
	ErrReused = &reusedError{}
	// ErrInvalidScope: a scope was asked for that the session does not have (RFC 6749 §5.2 invalid_scope).
	ErrInvalidScope = errors.New("invalid_scope: the session does not have that scope")
	// ErrNotExchanged: the token that was shown cannot be exchanged for another (RFC 8693 §2.2.2).
	ErrNotExchanged = errors.New("the token cannot be exchanged")
	// ErrNoIssuer: this server issues no tokens.
	ErrNoIssuer = errors.New("this server has no issuer: it issues no tokens and has no sessions")
	// ErrEndedElsewhere: the provider ended the login before it began here.
	ErrEndedElsewhere = errors.New("the provider has ended that login; log in there again")
	// ErrInactive: the subject's account is disabled or gone.
	ErrInactive = errors.New("the account is disabled or does not exist")
)

type reusedError struct{}

func (*reusedError) Error() string { return "refresh token reused: " + ErrInvalidGrant.Error() }
func (*reusedError) Unwrap() error { return ErrInvalidGrant }

// An AccountSource says what a subject may do now. It is asked in the
// transaction that issues, when a session begins and at every refresh. An
// unknown subject is not active; an error issues nothing.
type AccountSource interface {
	Grants(ctx context.Context, subject string) (scopes []string, active bool, err error)
}

// Options configure a Service. Store is needed; Sign, Accounts, Issuer and
// Audience too unless this server issues no tokens. A zero duration or number is
// the default of the configuration.
type Options struct {
	Store            Store
	Issuer, Audience string
	AccessTTL        time.Duration
	RefreshTTL       time.Duration
	RefreshIdle      time.Duration
	// RefreshGrace is how long a used token's answer can be repeated; negative: not at all.
	RefreshGrace time.Duration
	// PerSubject is how many sessions a subject can have.
	PerSubject int
	// MaxTokenLife is the longest life of a token of our own issuer; its
	// revocations are kept for as long. Those of other issuers' tokens are kept
	// for the longest life that any can be allowed.
	MaxTokenLife time.Duration
	// Sign signs an access token.
	Sign     func(token.AccessToken) (string, error)
	Accounts AccountSource
	// Apply ends what durable revocations concern and says how many
	// connections that were.
	Apply func(...wsbouncer.Revocation) int
	// Audit keeps events; nil: nothing does.
	Audit audit.Sink
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// A Service is what can be done with sessions. It is safe for concurrent use.
// Methods that change something join a transaction in their context; then
// their effects on live connections come after that transaction commits, and
// the number of connections they return is 0. Refresh must not be called in one.
type Service struct {
	o        Options
	tickets  outstanding
	redeemed *limit.Cache[Hash, usedTicket]
}

// longestLife is the longest life and leeway that a trusted issuer's tokens can
// be allowed. Which are trusted can change while the program runs, so what is
// allowed just now bounds nothing.
const longestLife = 720*time.Hour + time.Minute

// New is a Service. It starts nothing and does no I/O; Load comes before use.
func New(o Options) *Service {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&o.AccessTTL, 5*time.Minute)
	def(&o.RefreshTTL, 720*time.Hour)
	def(&o.RefreshIdle, 168*time.Hour)
	def(&o.RefreshGrace, 10*time.Second)
	def(&o.MaxTokenLife, longestLife)
	if o.PerSubject == 0 {
		o.PerSubject = 20
	}
	if o.Apply == nil {
		o.Apply = func(...wsbouncer.Revocation) int { return 0 }
	}
	if o.Audit == nil {
		o.Audit = audit.Discard
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Service{o: o, redeemed: limit.NewCache[Hash, usedTicket](maxRemembered)}
}

// A Session is what people see of one.
type Session struct {
	ID, Subject, ClientID string
	Scopes                []string
	Method                string
	Proof                 Proof
	External              External
	IP, UserAgent, Origin string
	Created, LastUsed     time.Time
	// Expires is the absolute end; IdleExpires the end unless it is used.
	Expires, IdleExpires time.Time
}

// A Grant is what an issuing call gives.
type Grant struct {
	AccessToken string
	ExpiresAt   time.Time
	// ExpiresIn is the access token's life in whole seconds.
	ExpiresIn      int
	RefreshToken   string
	Scope          string
	SessionID      string
	Subject        string
	SessionExpires time.Time
	// Key is the DPoP key that the tokens are bound to; empty: none.
	Key string
}

// A Start is how a session begins.
type Start struct {
	Subject, ClientID string
	// Scopes asked for; nil: all that the account has. Never more than those.
	Scopes []string
	// Method is how the subject logged in: "password", for one.
	Method string
	// Proof is what the login rests on, as the access tokens will say.
	Proof Proof
	// Claims are further claims of the access tokens. They must be JSON.
	Claims map[string]any
	// External is the login elsewhere that this one rests on, if it does.
	External          External
	IP                netip.Addr
	UserAgent, Origin string
	// TTL is the absolute life; zero, or more than RefreshTTL: RefreshTTL.
	TTL time.Duration
	// Key is the thumbprint of the DPoP key that the session's tokens are bound to;
	// empty: they are bearer tokens.
	Key string
}

// A Proof is how a subject proved who it is.
type Proof struct {
	// Time is when; zero: now.
	Time time.Time
	// AMR are the methods (RFC 8176), ACR the strength that was reached.
	AMR []string
	ACR string
}

// External is a login at another provider.
type External struct {
	// Provider is its name in the configuration; empty: there is none.
	Provider string
	// Issuer, Subject and Session are iss, sub and sid there; Session may be empty.
	Issuer, Subject, Session string
	// Email is the address that the provider itself has verified; it may be empty.
	Email string
	// IssuedAt is when the provider vouched for the login: iat of the ID token, or
	// when its answer came. An end that the provider tells of concerns the logins
	// it had vouched for by then. Zero: Proof.Time, and without one always.
	IssuedAt time.Time
}

// A RefreshRequest is a use of a refresh token.
type RefreshRequest struct {
	Token, ClientID string
	// Scope asks for less than the session has, for this access token only.
	Scope     string
	IP        netip.Addr
	UserAgent string
	// Raise is a further proof of who it is, by which the session's own grows; nil:
	// none. Session and Subject are then whose it must be.
	Raise *Proof
	// Key is the thumbprint of the DPoP key that was proved, empty for none: it must
	// be the session's. Spend is called when everything else is good and before
	// anything changes; an error of it is the outcome. Nil: not.
	Key   string
	Spend func() error

	Session, Subject string
}

// A Result is what a revocation did.
type Result struct {
	// ID is the revocation's number.
	ID int64
	// Closed is how many live connections it ended here.
	Closed int
}

// A TicketGrant is a new ticket.
type TicketGrant struct {
	Ticket string
	// Connection is the id of the connection it will open.
	Connection string
	ExpiresAt  time.Time
	// ExpiresIn is its life in whole seconds.
	ExpiresIn int
}
