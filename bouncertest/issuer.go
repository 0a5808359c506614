package bouncertest

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/wsbouncer/wsbouncer/token"
)

// An Issuer mints access tokens (RFC 9068) with a key of its own. It is safe
// for concurrent use.
type Issuer struct {
	// Name and Audience are what its tokens say.
	Name, Audience string
	// Life is how long its tokens live.
	Life time.Duration

	t      testing.TB
	signer jose.Signer
	keys   token.KeySet
}

// NewIssuer makes an issuer with a fresh key, whose tokens live five minutes.
func NewIssuer(t testing.TB) *Issuer {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := token.PEM(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), []string{"EdDSA"})
	if err != nil {
		t.Fatal(err)
	}
	signer, err := jose.NewSigner(
		jose.SigningKey{Algorithm: jose.EdDSA, Key: private},
		(&jose.SignerOptions{}).WithType("at+jwt"))
	if err != nil {
		t.Fatal(err)
	}
	return &Issuer{
		Name: "https://issuer.test", Audience: "test", Life: 5 * time.Minute,
		t: t, signer: signer, keys: keys,
	}
}

// Verifier returns a verifier that trusts the issuer and nobody else.
func (i *Issuer) Verifier() *token.Verifier {
	i.t.Helper()
	v, err := token.NewVerifier(token.Options{Issuers: []token.Issuer{{
		Name: i.Name, Audience: i.Audience, Algorithms: []string{"EdDSA"}, Keys: i.keys,
	}}})
	if err != nil {
		i.t.Fatal(err)
	}
	return v
}

// Token mints a token of subject with these scopes, in a session named after
// the subject.
func (i *Issuer) Token(subject string, scopes ...string) string {
	i.t.Helper()
	return i.With(map[string]any{"sub": subject, "sid": "session-of-" + subject, "scope": strings.Join(scopes, " ")})
}

// With mints a token with these claims in place of, or beside, the usual ones;
// a nil value leaves a claim out.
func (i *Issuer) With(claims map[string]any) string {
	i.t.Helper()
	now := time.Now()
	all := map[string]any{
		"iss": i.Name, "aud": i.Audience, "sub": "somebody", "jti": rand.Text(), "client_id": "test",
		"iat": now.Unix(), "exp": now.Add(i.Life).Unix(),
	}
	maps.Copy(all, claims)
	maps.DeleteFunc(all, func(_ string, v any) bool { return v == nil })
	payload, err := json.Marshal(all)
	if err != nil {
		i.t.Fatal(err)
	}
	signed, err := i.signer.Sign(payload)
	if err != nil {
		i.t.Fatal(err)
	}
	raw, err := signed.CompactSerialize()
	if err != nil {
		i.t.Fatal(err)
	}
	return raw
}
