package token

import (
	"slices"
	"strings"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/jws"
)

// A Statement is a verified JWT that is no access token: a logout token, a
// security event token, a client's assertion. What it means is its reader's to
// say; a claim that it may lack is zero.
type Statement struct {
	Issuer, Subject, Session, ID string
	KeyID                        string
	Audience                     []string
	IssuedAt, NotBefore, Expiry  time.Time
	// Claims is the whole payload, as it was signed.
	Claims Claims
}

// StatementRules are what a kind of statement must be like.
type StatementRules struct {
	// Types are the typ headers that it may have, in lower case and without
	// "application/". An empty one stands for none, or JWT.
	Types []string
	// Audience must be a member of aud.
	Audience string
	// MaxAge bounds how long ago iat may be; zero: iat may be absent, and any age.
	MaxAge time.Duration
	// Expires: exp is needed, and at most MaxLifetime from now.
	Expires     bool
	MaxLifetime time.Duration
}

// VerifyStatement checks everything about raw that holds for every JWT: strict
// form, typ, signature by a key of the issuer, iss, aud and time. The issuer's
// Name, Algorithms, Keys and Leeway count. It fails with an *Error.
//
// Access tokens are never statements: their typ is refused here, whatever the
// rules say, as statements' are by a Verifier.
func VerifyStatement(raw string, by Issuer, r StatementRules, now time.Time) (*Statement, error) {
	m, err := jws.Parse(raw, defaultMaxBytes)
	if err != nil {
		return nil, refuseFor(CodeMalformed, "the token cannot be read", err)
	}
	c, err := readClaims(m.Payload)
	switch {
	case err != nil:
		return nil, err
	case c.issuer != by.Name:
		return nil, refuse(CodeIssuer, "iss is no trusted issuer")
	}
	typ := strings.TrimPrefix(strings.ToLower(m.Type), "application/")
	if typ == "jwt" {
		typ = ""
	}
	if typ == accessTokenType || !slices.Contains(r.Types, typ) {
		return nil, refuse(CodeType, "typ is of another kind of token")
	}
	key, _, err := pick(m, &by)
	if err != nil {
		return nil, err
	}
	if err := m.Verify(key.Algorithm, key.Public); err != nil {
		return nil, refuseFor(CodeSignature, "the signature is not of the issuer's key", err)
	}
	if r.Audience == "" || !slices.Contains(c.audience, r.Audience) {
		return nil, refuse(CodeAudience, "aud does not name this audience")
	}
	if err := c.judgeStatement(by.Leeway, r, now); err != nil {
		return nil, err
	}
	return &Statement{
		Issuer: c.issuer, Subject: c.subject, Session: c.session, ID: c.id, KeyID: key.ID, Audience: c.audience,
		IssuedAt: c.issuedAt, NotBefore: c.notBefore, Expiry: c.expiry, Claims: Claims(m.Payload),
	}, nil
}

func (c *claims) judgeStatement(leeway time.Duration, r StatementRules, now time.Time) error {
	switch {
	case r.MaxAge > 0 && c.issuedAt.IsZero():
		return refuse(CodeMalformed, "it has no iat")
	case r.MaxAge > 0 && now.Sub(c.issuedAt) > r.MaxAge+leeway:
		return refuse(CodeExpired, "iat is too long ago")
	case now.Add(leeway).Before(c.issuedAt):
		return refuse(CodeNotYetValid, "iat is in the future")
	case now.Add(leeway).Before(c.notBefore):
		return refuse(CodeNotYetValid, "nbf is in the future")
	case r.Expires && c.expiry.IsZero():
		return refuse(CodeMalformed, "it has no exp")
	case !c.expiry.IsZero() && !now.Before(c.expiry.Add(leeway)):
		return refuse(CodeExpired, "exp has passed")
	case r.Expires && c.expiry.Sub(now) > r.MaxLifetime+leeway:
		return refuse(CodeLifetime, "it lives longer than such tokens may")
	}
	return nil
}
