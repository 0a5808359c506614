package secevent

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/jsonscan"
	"github.com/wsbouncer/wsbouncer/internal/limit"
	"github.com/wsbouncer/wsbouncer/token"
)

// The codes of an Error (RFC 8935 §2.4).
const (
	InvalidRequest       = "invalid_request"
	InvalidKey           = "invalid_key"
	InvalidIssuer        = "invalid_issuer"
	InvalidAudience      = "invalid_audience"
	AuthenticationFailed = "authentication_failed"
	AccessDenied         = "access_denied"
)

// An Error says why a statement is not believed. Detail is a fixed sentence that
// may be told to whoever sent it; Err is for the operator.
type Error struct {
	Code, Detail string
	// Issuer is who had been recognised, "" if nobody.
	Issuer string
	Err    error
}

func (e *Error) Error() string {
	if e.Err != nil {
		return e.Code + ": " + e.Err.Error()
	}
	return e.Code + ": " + e.Detail
}

func (e *Error) Unwrap() error { return e.Err }

func refuse(code, detail string) *Error { return &Error{Code: code, Detail: detail} }

// ErrTooMany says that a party says more than it may for now.
var ErrTooMany = errors.New("too many statements of one issuer")

// A Source is a party that is believed.
type Source struct {
	// Issuer is who it is: Name, Algorithms, Keys and Leeway count.
	Issuer token.Issuer
	// Audience is what its statements must be addressed to.
	Audience string
	// SubjectsOf is the issuer whose subjects it speaks of.
	SubjectsOf string
	// Trusted: access tokens of SubjectsOf are accepted.
	Trusted bool
	// Authorization is the bearer token that a transmitter must send, "" for none.
	Authorization string
}

// Bounds in time. A logout token is sent at once; a SET is repeated for a while
// when it did not get through.
const (
	maxLogoutAge = 2 * time.Minute
	maxEventAge  = 24 * time.Hour
)

// perSource is how much of one party is carried out, each with a transaction of
// the one writer. A provider that ends everybody at once fits into the burst.
var perSource = limit.Rate{PerSecond: 100, Burst: 10_000}

// A Receiver believes its sources. It is safe for concurrent use.
type Receiver struct {
	sources atomic.Pointer[sources]
	rates   *limit.Keyed[string] // by issuer
	work    chan struct{}        // a place for each signature that is checked at once
	now     func() time.Time
}

type sources struct{ logout, events []Source }

// New is a Receiver without sources; it believes nobody.
func New() *Receiver {
	r := &Receiver{rates: limit.NewKeyed[string](perSource, 1024), work: make(chan struct{}, runtime.GOMAXPROCS(0)), now: time.Now}
	r.sources.Store(&sources{})
	return r
}

// Set replaces the sources: of logout tokens, and of Security Event Tokens.
func (r *Receiver) Set(logout, events []Source) { r.sources.Store(&sources{logout, events}) }

// pick finds the source that raw claims to be of. Nothing in raw is verified.
func pick(raw string, among []Source) (*Source, error) {
	_, payload, err := token.Inspect(raw)
	if err != nil {
		return nil, &Error{Code: InvalidRequest, Detail: "It is not a well-formed signed JWT.", Err: err}
	}
	var iss string
	var aud []string
	err = jsonscan.Object(payload, bounds, func(key, value []byte) error {
		switch string(key) {
		case "iss":
			iss, _ = jsonscan.String(value)
		case "aud":
			if one, err := jsonscan.String(value); err == nil {
				aud = []string{one}
			} else {
				_ = json.Unmarshal(value, &aud)
			}
		}
		return nil
	})
	if err != nil {
		return nil, &Error{Code: InvalidRequest, Detail: "It is not a well-formed signed JWT.", Err: err}
	}
	var found *Source
	for i := range among {
		s := &among[i]
		switch {
		case s.Issuer.Name != iss:
		case slices.Contains(aud, s.Audience):
			return s, nil
		case found == nil:
			found = s
		}
	}
	if found == nil {
		return nil, refuse(InvalidIssuer, "Its issuer is not one that is believed here.")
	}
	return found, nil
}

// verify checks raw against s.
func (r *Receiver) verify(ctx context.Context, raw string, s *Source, rules token.StatementRules) (*token.Statement, error) {
	select {
	case r.work <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	st, err := token.VerifyStatement(raw, s.Issuer, rules, r.now())
	<-r.work
	if more, ok := s.Issuer.Keys.(token.Awaiter); ok && errors.Is(err, &token.Error{Code: token.CodeSignature}) {
		// Perhaps of a key that is not known yet.
		if err := more.Await(ctx); err != nil {
			return nil, &token.Error{Code: token.CodeUnavailable, Detail: "the keys of a party that is believed cannot be had", Err: err}
		}
		st, err = token.VerifyStatement(raw, s.Issuer, rules, r.now())
	}
	if err == nil {
		return st, nil
	}
	out := &Error{Code: InvalidRequest, Detail: "It is not one of the kind that this address takes.", Issuer: s.Issuer.Name, Err: err}
	var why *token.Error
	if errors.As(err, &why) {
		switch why.Code {
		case token.CodeUnavailable:
			return nil, err
		case token.CodeIssuer:
			out.Code, out.Detail = InvalidIssuer, "Its issuer is not one that is believed here."
		case token.CodeSignature:
			out.Code, out.Detail = InvalidKey, "It is not signed by a key and algorithm of its issuer."
		case token.CodeAudience:
			out.Code, out.Detail = InvalidAudience, "It is addressed to somebody else."
		case token.CodeExpired, token.CodeNotYetValid, token.CodeLifetime:
			out.Detail = "It is too old, or ahead of time. Check the clocks."
		}
	}
	return nil, out
}

// A Statement is one that is believed.
type Statement struct {
	// Issuer and ID are iss and jti; Until is when a repetition would be too old.
	Issuer, ID string
	At, Until  time.Time
	// Ends may be empty.
	Ends []End
	// Types are the event types, and State is that of a verification event.
	Types []string
	State string
	// Ignored says why an event had no effect.
	Ignored string
}

// An End is a login of Issuer that has ended: that of Session, else all of
// Subject, else all of Email.
type End struct {
	Issuer, Subject, Session, Email string
	Trusted                         bool
	Why                             Cause
	Type                            string
}

// A Cause is what the affected connections are told.
type Cause int

// The causes.
const (
	LoggedOut Cause = iota
	SessionRevoked
	SubjectRevoked
)

// Logout reads a logout token (OpenID Connect Back-Channel Logout 1.0 §2.6). It
// fails with an *Error, ErrTooMany, or an error that is nobody's refusal.
func (r *Receiver) Logout(ctx context.Context, raw string) (*Statement, error) {
	s, err := pick(raw, r.sources.Load().logout)
	if err != nil {
		return nil, err
	}
	st, err := r.verify(ctx, raw, s, token.StatementRules{
		Types: []string{"logout+jwt", ""}, Audience: s.Audience, MaxAge: maxLogoutAge,
	})
	if err != nil {
		return nil, err
	}
	out, err := readLogout(s, st)
	return r.counted(s, out, err, maxLogoutAge)
}

// Event reads a pushed Security Event Token; authorization is the request's
// Authorization header. It fails like Logout.
func (r *Receiver) Event(ctx context.Context, raw, authorization string) (*Statement, error) {
	s, err := pick(raw, r.sources.Load().events)
	if err != nil {
		return nil, err
	}
	if s.Authorization != "" && !isBearer(authorization, s.Authorization) {
		return nil, &Error{Code: AuthenticationFailed, Detail: "The Authorization header does not hold this transmitter's token.", Issuer: s.Issuer.Name}
	}
	st, err := r.verify(ctx, raw, s, token.StatementRules{Types: []string{"secevent+jwt"}, Audience: s.Audience, MaxAge: maxEventAge})
	if err != nil {
		return nil, err
	}
	out, err := readEvents(s, st)
	return r.counted(s, out, err, maxEventAge)
}

// counted charges s for a statement that will be carried out.
func (r *Receiver) counted(s *Source, out *Statement, err error, age time.Duration) (*Statement, error) {
	var e *Error
	if errors.As(err, &e) {
		e.Issuer = s.Issuer.Name
	}
	if err != nil {
		return nil, err
	}
	now := r.now()
	if ok, _ := r.rates.Allow(s.Issuer.Name, now); !ok {
		return nil, ErrTooMany
	}
	// A little longer than it could be taken again: iat may be ahead by the leeway.
	out.Until = now.Add(age + 3*time.Minute)
	return out, nil
}

// Repeated gives back what st was charged: whoever got hold of a statement could
// else use up its issuer's allowance by repeating it.
func (r *Receiver) Repeated(st *Statement) { r.rates.Forgive(st.Issuer) }

// isBearer compares hashes, so that the time it takes tells nothing.
func isBearer(header, want string) bool {
	scheme, got, _ := strings.Cut(strings.TrimSpace(header), " ")
	a, b := sha256.Sum256([]byte(strings.TrimSpace(got))), sha256.Sum256([]byte(want))
	return strings.EqualFold(scheme, "Bearer") && subtle.ConstantTimeCompare(a[:], b[:]) == 1
}
