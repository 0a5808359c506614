package token_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"sync"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/wsbouncer/wsbouncer/token"
)

// The keys of the tests, made once.
var testKeys = sync.OnceValue(func() map[string]any {
	must := func(k any, err error) any {
		if err != nil {
			panic(err)
		}
		return k
	}
	ec := func(c elliptic.Curve) any { k, err := ecdsa.GenerateKey(c, rand.Reader); return must(k, err) }
	rsa2048 := func() any { k, err := rsa.GenerateKey(rand.Reader, 2048); return must(k, err) }
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	secret := make([]byte, 64)
	_, _ = rand.Read(secret)
	return map[string]any{
		"p256": ec(elliptic.P256()), "p256-other": ec(elliptic.P256()), "p384": ec(elliptic.P384()), "p521": ec(elliptic.P521()),
		"rsa": rsa2048(), "rsa-other": rsa2048(), "ed25519": must(ed, err), "secret": secret,
	}
})

func public(name string) any {
	switch k := testKeys()[name].(type) {
	case crypto.Signer:
		return k.Public()
	case []byte:
		return k
	}
	panic("no key " + name)
}

var hashes = map[string]crypto.Hash{"256": crypto.SHA256, "384": crypto.SHA384, "512": crypto.SHA512}

// forge signs any header and payload, well-formed or not, as the attacker or
// the issuer would, with the standard library alone.
func forge(t testing.TB, alg string, key any, header, payload string) string {
	t.Helper()
	input := b64([]byte(header)) + "." + b64([]byte(payload))
	return input + "." + b64(signature(t, alg, key, input))
}

func signature(t testing.TB, alg string, key any, input string) []byte {
	t.Helper()
	if alg == "EdDSA" {
		return ed25519.Sign(key.(ed25519.PrivateKey), []byte(input))
	}
	hash := hashes[alg[2:]]
	h := hash.New()
	h.Write([]byte(input))
	sum := h.Sum(nil)
	var sig []byte
	err := errors.New("no such algorithm: " + alg)
	switch alg[:2] {
	case "HS":
		mac := hmac.New(hash.New, key.([]byte))
		mac.Write([]byte(input))
		return mac.Sum(nil)
	case "RS":
		sig, err = rsa.SignPKCS1v15(rand.Reader, key.(*rsa.PrivateKey), hash, sum)
	case "PS":
		sig, err = rsa.SignPSS(rand.Reader, key.(*rsa.PrivateKey), hash, sum, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
	case "ES":
		k := key.(*ecdsa.PrivateKey)
		size := (k.Params().BitSize + 7) / 8
		r, s, signErr := ecdsa.Sign(rand.Reader, k, sum)
		if err = signErr; err == nil {
			sig = make([]byte, 2*size)
			r.FillBytes(sig[:size])
			s.FillBytes(sig[size:])
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// document is a JWK Set of named test keys.
func document(t testing.TB, keys ...jose.JSONWebKey) []byte {
	t.Helper()
	b, err := json.Marshal(jose.JSONWebKeySet{Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func jwks(t testing.TB, algs []string, keys ...jose.JSONWebKey) token.KeySet {
	t.Helper()
	s, err := token.JWKS(document(t, keys...), algs)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func verifier(t testing.TB, o token.Options) *token.Verifier {
	t.Helper()
	v, err := token.NewVerifier(o)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// code is the code of a refusal, "ok" without one.
func code(t testing.TB, err error) string {
	t.Helper()
	if err == nil {
		return "ok"
	}
	var e *token.Error
	if !errors.As(err, &e) {
		t.Fatalf("%v (%T) is no *token.Error", err, err)
	}
	return e.Code
}
