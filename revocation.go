package wsbouncer

import (
	"errors"
	"fmt"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/token"
)

// Kinds of revocation.
const (
	kindToken   = "token"
	kindSession = "session"
	kindSubject = "subject"
	kindKey     = "key"
	kindBefore  = "before"
)

// A Revocation says that nothing of a token, session, subject or signing key,
// or nothing issued before a moment, is valid any more. Make one with Token,
// Session, Subject, Key or Before.
type Revocation struct {
	// Kind is "token", "session", "subject", "key" or "before".
	Kind string
	// Issuer is whose; "" is the Bouncer's own. No issuer can revoke another's.
	Issuer string
	// Value is the jti, sid, sub or kid.
	Value string
	// At is when it was made; zero is now. With "before" it is the moment
	// before which everything was issued.
	At time.Time
	// Seq is its number in the Source's log: own tokens of the subject that
	// were issued at a lower one are revoked, whatever the clocks say. 0 where
	// there is no log: then At decides.
	Seq int64
	// Expires is when it can be forgotten because every token concerned has
	// expired; zero is never with "key" and "before", else after the longest
	// life a token may have.
	Expires time.Time
	// Reason is what the connections are told; zero is that of the kind.
	Reason Reason
	// Note is for the operator's records.
	Note string
}

// Token revokes the one token with this jti.
func Token(jti string) Revocation { return Revocation{Kind: kindToken, Value: jti} }

// Session revokes every token of the session with this sid.
func Session(sid string) Revocation { return Revocation{Kind: kindSession, Value: sid} }

// Subject revokes everything the subject was issued so far.
func Subject(sub string) Revocation { return Revocation{Kind: kindSubject, Value: sub} }

// Key revokes every token signed by the key with this kid.
func Key(kid string) Revocation { return Revocation{Kind: kindKey, Value: kid} }

// Before revokes every token issued before t.
func Before(t time.Time) Revocation { return Revocation{Kind: kindBefore, At: t} }

// Of is r for another issuer than the Bouncer's own.
func (r Revocation) Of(issuer string) Revocation {
	r.Issuer = issuer
	return r
}

// Because is r with another reason for the connections to be told, such as
// LoggedOut.
func (r Revocation) Because(why Reason) Revocation {
	r.Reason = why
	return r
}

// longestToken bounds how long a revocation is kept that does not say: the
// longest lifetime and leeway a token may have.
const longestToken = 720*time.Hour + time.Minute

// complete fills in what r leaves open.
func (r Revocation) complete(issuer string, now time.Time) Revocation {
	if r.Issuer == "" {
		r.Issuer = issuer
	}
	if r.At.IsZero() && r.Kind != kindBefore {
		r.At = now
	}
	if r.Reason.IsZero() {
		switch r.Kind {
		case kindSession:
			r.Reason = reason.SessionRevoked
		case kindSubject:
			r.Reason = reason.SubjectRevoked
		case kindKey:
			r.Reason = reason.KeyRevoked
		default:
			r.Reason = reason.TokenRevoked
		}
	}
	if r.Expires.IsZero() && r.Kind != kindKey && r.Kind != kindBefore {
		r.Expires = r.At.Add(longestToken)
	}
	return r
}

// check says why r cannot be carried out.
func (r Revocation) check() error {
	switch r.Kind {
	case kindToken, kindSession, kindSubject, kindKey:
		if r.Value == "" {
			return fmt.Errorf("wsbouncer: a revocation by %s needs its value", r.Kind)
		}
	case kindBefore:
		if r.At.IsZero() {
			return errors.New("wsbouncer: a revocation of everything before a moment needs the moment")
		}
	default:
		return fmt.Errorf("wsbouncer: there is no revocation by %q", r.Kind)
	}
	return nil
}

// name is a value of an issuer: what sets and indexes are keyed by.
type name struct{ issuer, value string }

// concerns reports whether r revokes t or what t was exchanged for.
func (r *Revocation) concerns(t *token.Token) bool {
	for ; t != nil; t = t.From {
		if b := boundOf(t); r.hits(&b) {
			return true
		}
	}
	return false
}

// hits reports whether r revokes a token. It and revokedSet.has answer the same
// question, for one revocation and for all of them, by the functions below.
func (r *Revocation) hits(b *bound) bool {
	if r.Issuer != b.issuer {
		return false
	}
	switch r.Kind {
	case kindToken:
		return b.token != "" && r.Value == b.token
	case kindSession:
		return b.session != "" && r.Value == b.session
	case kindKey:
		return b.key != "" && r.Value == b.key
	case kindSubject:
		return b.subject != "" && r.Value == b.subject && soFar(r).hits(&b.mark)
	case kindBefore:
		return issuedBefore(&b.mark, r.At)
	}
	return false
}

// cutoff is how far a subject's revocations reach.
type cutoff struct {
	seq        int64
	at         time.Time // for tokens that do not carry rev
	unnumbered time.Time // for those that do, of revocations without a number
}

func soFar(r *Revocation) cutoff {
	c := cutoff{seq: r.Seq, at: r.At}
	if r.Seq == 0 {
		c.unnumbered = r.At
	}
	return c
}

func (c cutoff) hits(m *mark) bool {
	if m.own && m.hasRev {
		return m.rev < c.seq || !c.unnumbered.IsZero() && !issuedAfter(m, c.unnumbered)
	}
	return !issuedAfter(m, c.at)
}

// issuedAfter: an absent iat is never after anything.
func issuedAfter(m *mark, t time.Time) bool {
	return m.hasIAT && time.Unix(m.issued, 0).After(t.Add(m.slack()))
}

func issuedBefore(m *mark, t time.Time) bool {
	return !m.hasIAT || time.Unix(m.issued, 0).Before(t.Add(m.slack()))
}

// slack is how much the clock that wrote iat may be off: our own is not.
func (m *mark) slack() time.Duration {
	if m.own {
		return 0
	}
	return m.leeway
}
