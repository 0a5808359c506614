package token

import (
	"crypto"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/wsbouncer/wsbouncer/internal/jws"
)

// An AccessToken is what Ring.Sign makes a token of (RFC 9068 §2.2).
type AccessToken struct {
	// Issuer, Audience and Subject must be there.
	Issuer, Audience, Subject string
	// Session and ClientID are left out when empty. An empty ID is made up.
	Session, ClientID, ID string
	Scopes                []string
	// IssuedAt and Expiry are cut to whole seconds; between them lies at most
	// the ring's Overlap.
	IssuedAt, Expiry time.Time
	// Rev is the revocation sequence the token is issued at.
	Rev int64
	// AuthTime is when the subject last proved who it is, AMR by what methods
	// (RFC 8176), and ACR how strong that was (RFC 9068 §2.2.1). Each is left
	// out when zero.
	AuthTime time.Time
	AMR      []string
	ACR      string
	// From is the token it is exchanged for, Actor who will use it: see Token.From.
	From  *Token
	Actor *Actor
	// Key is the thumbprint of the DPoP key that the token is bound to (RFC 9449
	// §6.1); empty: it is a bearer token.
	Key string
	// Extra are further claims. None may have the name of one above, in any case.
	Extra map[string]any
}

// A signer signs with one key.
type signer struct {
	key          jose.SigningKey
	accessTokens jose.Signer
}

func newSigner(k *ringKey, private crypto.Signer) (signer, error) {
	s := signer{key: jose.SigningKey{
		Algorithm: jose.SignatureAlgorithm(k.Algorithm),
		Key:       jose.JSONWebKey{Key: private, KeyID: k.ID},
	}}
	var err error
	s.accessTokens, err = s.typed(accessTokenType)
	return s, err
}

func (s signer) typed(typ string) (jose.Signer, error) {
	return jose.NewSigner(s.key, (&jose.SignerOptions{}).WithType(jose.ContentType(typ)))
}

func sign(with jose.Signer, claims map[string]any) (string, error) {
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("token: claims: %w", err)
	}
	// What Verify would not read is not issued: extra claims may collide.
	if err := checkPayload(payload); err != nil {
		return "", fmt.Errorf("token: claims: %w", err)
	}
	signed, err := with.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("token: signing: %w", err)
	}
	return signed.CompactSerialize()
}

// Sign makes an access token with the active key: typ at+jwt, with kid.
func (r *Ring) Sign(a AccessToken) (string, error) {
	claims, err := a.claims(r.o.Overlap)
	if err != nil {
		return "", fmt.Errorf("token: not signed: %w", err)
	}
	return sign(r.state.Load().active.accessTokens, claims)
}

// SignAssertion signs other claims with the active key, as a token of the given
// typ, which must tell it from an access token.
func (r *Ring) SignAssertion(claims map[string]any, typ string) (string, error) {
	switch strings.TrimPrefix(strings.ToLower(typ), "application/") {
	case "", "jwt", accessTokenType:
		return "", errors.New("token: not signed: an assertion needs a typ that tells it from an access token")
	}
	s, err := r.state.Load().active.typed(typ)
	if err != nil {
		return "", fmt.Errorf("token: signing: %w", err)
	}
	return sign(s, claims)
}

// claims refuses what Verify would not take.
func (a *AccessToken) claims(longest time.Duration) (map[string]any, error) {
	if a.ID == "" {
		a.ID = rand.Text()
	}
	claims := map[string]any{
		"aud": a.Audience, "iat": a.IssuedAt.Unix(), "exp": a.Expiry.Unix(), "rev": a.Rev,
		"scope": strings.Join(a.Scopes, " "),
	}
	for _, c := range []struct {
		name, value string
		needed      bool
	}{
		{"iss", a.Issuer, true}, {"sub", a.Subject, true}, {"jti", a.ID, true},
		{"sid", a.Session, false}, {"client_id", a.ClientID, false},
	} {
		if c.value == "" && !c.needed {
			continue
		}
		if c.value == "" {
			return nil, fmt.Errorf("%s is empty", c.name)
		}
		if err := jws.Name(c.value); err != nil {
			return nil, fmt.Errorf("%s %w", c.name, err)
		}
		claims[c.name] = c.value
	}
	if !a.AuthTime.IsZero() {
		claims["auth_time"] = a.AuthTime.Unix()
	}
	if len(a.AMR) > 0 {
		claims["amr"] = a.AMR
	}
	if a.ACR != "" {
		claims["acr"] = a.ACR
	}
	if a.Key != "" {
		if !isThumbprint(a.Key) {
			return nil, errors.New("its key is no thumbprint")
		}
		claims["cnf"] = map[string]string{"jkt": a.Key}
	}
	if a.From != nil {
		if !a.From.Exchangeable() {
			return nil, errors.New("it was exchanged too often")
		}
		claims["src"] = sourceOf(a.From)
	}
	if a.Actor != nil {
		claims["act"] = a.Actor
	}
	switch life := a.Expiry.Sub(a.IssuedAt); {
	case a.Audience == "":
		return nil, errors.New("aud is empty")
	case a.IssuedAt.Unix() <= 0 || life <= 0:
		return nil, errors.New("exp is not after iat")
	case life > longest:
		return nil, fmt.Errorf("a life of %s is longer than its key would be published (%s)", life, longest)
	case a.Rev < 0 || a.Rev > maxRev:
		return nil, errors.New("rev is out of range")
	}
	for _, s := range a.Scopes {
		if !scopeToken(s) {
			return nil, fmt.Errorf("scope %q has characters that RFC 6749 section 3.3 does not allow", s)
		}
	}
	return claims, a.addExtra(claims)
}

func (a *AccessToken) addExtra(claims map[string]any) error {
	reservedNames := []string{"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "sid", "client_id", "azp", "scope", "rev", "cnf", "auth_time", "amr", "acr", "act", "src"}
	for name, value := range a.Extra {
		for _, r := range reservedNames {
			if strings.EqualFold(name, r) {
				return fmt.Errorf("the extra claim %q is not the caller's to set", name)
			}
		}
		claims[name] = value
	}
	return nil
}
