package token

import (
	"strings"

	"github.com/wsbouncer/wsbouncer/internal/jws"
)

// accessTokenType is RFC 9068 §2.1's; RFC 7515 §4.1.9 lets "application/" be
// there or not, and media types ignore case.
const accessTokenType = "at+jwt"

// checkType refuses every kind of token but access tokens. An issuer signs ID
// tokens, logout tokens and security events with the same keys, and one must
// not stand for another (RFC 8725 §3.11, §3.12).
func checkType(m *jws.Message, c *claims, issuer *Issuer) error {
	typ := strings.TrimPrefix(strings.ToLower(m.Type), "application/")
	switch {
	case typ == accessTokenType:
		return nil // it says itself what it is
	case !issuer.AnyType:
		return refuse(CodeType, "typ is not at+jwt")
	case m.HasType && typ != "jwt":
		return refuse(CodeType, "typ is of another kind of token")
	}
	if what := c.otherKind(); what != "" {
		return refuse(CodeType, "it is "+what)
	}
	return nil
}

// otherKind recognises, by its claims, a token without a telling typ that is no
// access token. What cannot be told apart so is an ID token without nonce and
// at_hash: its audience is a client, never a service.
func (c *claims) otherKind() string {
	switch {
	case c.event:
		return "a logout or security event token (events)" // OIDC Back-Channel Logout §2.4, RFC 8417 §2.2
	case c.proof:
		return "a DPoP proof (htm, htu)" // RFC 9449 §4.2
	case c.idToken:
		return "an ID token (at_hash, c_hash, s_hash)" // OIDC Core §3.3.2.11
	}
	// Keycloak says what it is in a claim of the same name: Bearer, ID, Refresh,
	// Offline, Logout … Amazon Cognito in token_use: access, id.
	switch strings.ToLower(c.payloadType) {
	case "bearer":
		return "" // older versions put the nonce into these too
	case "", accessTokenType, "jwt", "access", "access_token":
	default:
		return "another kind of token (its typ claim)"
	}
	switch {
	case c.tokenUse != "" && c.tokenUse != "access":
		return "another kind of token (its token_use claim)"
	case c.nonce:
		return "an ID token (nonce)" // OIDC Core §2
	}
	return ""
}
