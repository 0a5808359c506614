package token_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/wsbouncer/wsbouncer/token"
)

// An issuer signs with its ring; whoever has its JWKS document verifies.
func Example() {
	folder, err := os.MkdirTemp("", "keys")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(folder)
	ring, err := token.OpenRing(token.RingOptions{
		Path: filepath.Join(folder, "keys.json"), Algorithm: "EdDSA", Rotation: 720 * time.Hour, Overlap: time.Hour,
	})
	if err != nil {
		panic(err)
	}
	now := time.Now()
	raw, err := ring.Sign(token.AccessToken{
		Issuer: "https://issuer.example", Audience: "chat", Subject: "alice",
		Scopes: []string{"chat"}, IssuedAt: now, Expiry: now.Add(5 * time.Minute),
	})
	if err != nil {
		panic(err)
	}

	keys, err := token.JWKS(ring.JWKS(), []string{"EdDSA"})
	if err != nil {
		panic(err)
	}
	v, err := token.NewVerifier(token.Options{Issuers: []token.Issuer{{
		Name: "https://issuer.example", Audience: "chat", Algorithms: []string{"EdDSA"}, Keys: keys,
	}}})
	if err != nil {
		panic(err)
	}
	t, err := v.Verify(context.Background(), raw)
	fmt.Println(t.Subject, t.Scopes, err)
	_, err = v.Verify(context.Background(), raw+"=")
	fmt.Println(err)
	// Output:
	// alice [chat] <nil>
	// token_malformed: the token cannot be read: not a well-formed compact JWS: the signature is not canonical base64url
}
