package e2e_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// issuer is somebody else's, whose tokens the server trusts. It signs ES256.
type issuer struct {
	t    testing.TB
	name string
	key  *ecdsa.PrivateKey
	jti  atomic.Int64
}

func newIssuer(t testing.TB, name string) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &issuer{t: t, name: name, key: key}
}

// jwks is its public key set.
func (i *issuer) jwks() string {
	b, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: i.key.Public(), KeyID: "k1", Algorithm: "ES256", Use: "sig"}}})
	if err != nil {
		i.t.Fatal(err)
	}
	return string(b)
}

// trusted writes the key set beside the configuration as jwks.json; the entry
// for trust is trustYAML.
func (i *issuer) trusted(s *server) { s.file("jwks.json", i.jwks()) }

// trustYAML trusts an issuer of newIssuer by the file jwks.json.
func trustYAML(name string) string {
	return fmt.Sprintf("trust:\n  - {issuer: %q, audience: chat, algorithms: [ES256], keys: {file: jwks.json}, leeway: 0s}\n", name)
}

type claims map[string]any

// token signs a good access token, changed by each of changes; nil removes.
func (i *issuer) token(changes ...claims) string {
	i.t.Helper()
	now := time.Now()
	c := claims{
		"iss": i.name, "aud": "chat", "sub": "alice", "sid": "s1", "client_id": "app", "scope": "chat",
		"jti": fmt.Sprintf("j%d", i.jti.Add(1)), "iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix(),
	}
	for _, change := range changes {
		maps.Copy(c, change)
	}
	for k, v := range c {
		if v == nil {
			delete(c, k)
		}
	}
	payload, err := json.Marshal(c)
	if err != nil {
		i.t.Fatal(err)
	}
	return i.sign(i.key, jose.ES256, "at+jwt", payload)
}

// sign signs any payload under any header.
func (i *issuer) sign(key crypto.Signer, alg jose.SignatureAlgorithm, typ string, payload []byte) string {
	i.t.Helper()
	o := (&jose.SignerOptions{}).WithHeader("kid", "k1")
	if typ != "" {
		o = o.WithType(jose.ContentType(typ))
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, o)
	if err != nil {
		i.t.Fatal(err)
	}
	sig, err := signer.Sign(payload)
	if err != nil {
		i.t.Fatal(err)
	}
	raw, err := sig.CompactSerialize()
	if err != nil {
		i.t.Fatal(err)
	}
	return secret(i.t, raw)
}
