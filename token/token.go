package token

import (
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/jsonscan"
)

// A Token is a verified access token. It is immutable and may be shared by
// many callers: nobody writes to it or to its slices.
type Token struct {
	// Issuer and Subject together are the identity (iss, sub); neither alone is.
	Issuer, Subject string
	// Session is sid, ID is jti, ClientID is client_id or else azp; each is
	// empty when the token has none.
	Session, ID, ClientID string
	// KeyID names the key that verified the token: its kid in the issuer's key
	// set, or the key's RFC 7638 thumbprint where the set gives it no name.
	KeyID string
	// Audience is all of aud. It contains the audience the issuer demands.
	Audience []string
	// Scopes are the scope-tokens (RFC 6749 §3.3) of the issuer's scope claim.
	// Those beginning with "wsbouncer:" are there for one's own issuer only.
	Scopes []string
	// IssuedAt (iat) and NotBefore (nbf) are zero when absent; Expiry (exp)
	// never is.
	IssuedAt, NotBefore, Expiry time.Time
	// Leeway is the issuer's, in force when the token was judged.
	Leeway time.Duration
	// Rev is the revocation sequence an own token was issued at; HasRev is
	// false for tokens of other issuers.
	Rev    int64
	HasRev bool
	// Own says that the token is of one's own issuer.
	Own bool
	// Binding names the key the bearer proved to hold (cnf, RFC 7800); empty for
	// a bearer token. A bound token that came without a proof is never verified.
	Binding string
	// From is the token that this own one was exchanged for (RFC 8693), as far as a
	// revocation can name it: this one is not to be believed longer than that.
	From *Token
	// Claims is the whole payload, as it was signed.
	Claims Claims
}

// Deadline is the moment from which the token no longer counts: its expiry
// and the issuer's leeway.
func (t *Token) Deadline() time.Time { return t.Expiry.Add(t.Leeway) }

// HasScopes returns those of need that the token lacks, in the order asked;
// nil when it has them all.
func (t *Token) HasScopes(need ...string) (missing []string) {
	for _, s := range need {
		if !slices.Contains(t.Scopes, s) {
			missing = append(missing, s)
		}
	}
	return missing
}

// Claims is the payload of a verified token: one JSON object, without
// duplicate names, not even names that differ only in case.
type Claims json.RawMessage

// MarshalJSON returns the payload itself.
func (c Claims) MarshalJSON() ([]byte, error) { return json.RawMessage(c).MarshalJSON() }

// Lookup decodes the top-level claim name, spelled exactly so, into v and
// reports whether it is there. An error means that it is there and does not
// fit v.
func (c Claims) Lookup(name string, v any) (bool, error) {
	raw, found, err := jsonscan.Find(c, payloadJSON, name)
	if err != nil || !found {
		return false, err
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return true, errors.New("token: claim " + name + " has another type than was asked for")
	}
	return true, nil
}
