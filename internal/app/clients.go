package app

import (
	"crypto/sha256"
	"fmt"
	"os"

	"github.com/wsbouncer/wsbouncer/internal/authapi"
	"github.com/wsbouncer/wsbouncer/internal/config"
	"github.com/wsbouncer/wsbouncer/token"
)

// minClientSecret is 256 bits: such a secret needs no slow hash.
const minClientSecret = 32

// assertionAlgorithms are those that clients may sign assertions with.
var assertionAlgorithms = []string{"ES256", "ES384", "ES512", "EdDSA", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512"}

// clientOf is a machine client with its credential. key is the one that is wrong.
func clientOf(c *config.Client) (out authapi.Client, key string, err error) {
	out = authapi.Client{
		ID: c.ID, Scopes: c.Scopes, TokenTTL: c.TokenTTL.D(), Connections: c.Connections, Introspect: c.Introspect,
	}
	for _, g := range c.Grants {
		switch g {
		case "client_credentials":
			out.Grants = append(out.Grants, authapi.GrantClientCredentials)
		case "token_exchange":
			out.Grants = append(out.Grants, authapi.GrantTokenExchange)
		}
	}
	if c.JWKSFile != "" {
		b, err := os.ReadFile(c.JWKSFile)
		if err != nil {
			return out, "jwks_file", err
		}
		out.Algorithms = assertionAlgorithms
		if out.Keys, err = token.JWKS(b, assertionAlgorithms); err != nil {
			return out, "jwks_file", fmt.Errorf("%w (an RSA key needs an alg)", err)
		}
		return out, "", nil
	}
	b, err := os.ReadFile(c.SecretFile)
	if err != nil {
		return out, "secret_file", err
	}
	b = trimLine(b)
	if len(b) < minClientSecret {
		return out, "secret_file", fmt.Errorf("the secret has %d bytes; at least %d random ones: openssl rand -hex 32", len(b), minClientSecret)
	}
	if _, err := token.Secret(b, []string{"HS256"}); err != nil { // the same judgement of what can be guessed
		return out, "secret_file", err
	}
	sum := sha256.Sum256(b)
	out.Secret = &sum
	return out, "", nil
}
