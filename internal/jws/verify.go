package jws

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rsa"
	_ "crypto/sha256" // the hashes of the algorithms
	_ "crypto/sha512"
	"fmt"
	"math/big"
)

// An algorithm is what a key must be for its signatures (RFC 7518 §3.1,
// RFC 8037 §3.1).
type algorithm struct {
	hash  crypto.Hash // also: a secret must be at least as long
	kind  kind
	curve string // of an EC key
}

type kind int

const (
	kindRSA kind = iota + 1
	kindPSS
	kindEC
	kindEd25519
	kindSecret
)

var algorithms = map[string]algorithm{
	"RS256": {crypto.SHA256, kindRSA, ""}, "RS384": {crypto.SHA384, kindRSA, ""}, "RS512": {crypto.SHA512, kindRSA, ""},
	"PS256": {crypto.SHA256, kindPSS, ""}, "PS384": {crypto.SHA384, kindPSS, ""}, "PS512": {crypto.SHA512, kindPSS, ""},
	"ES256": {crypto.SHA256, kindEC, "P-256"}, "ES384": {crypto.SHA384, kindEC, "P-384"}, "ES512": {crypto.SHA512, kindEC, "P-521"},
	"EdDSA": {crypto.SHA512, kindEd25519, ""},
	"HS256": {crypto.SHA256, kindSecret, ""}, "HS384": {crypto.SHA384, kindSecret, ""}, "HS512": {crypto.SHA512, kindSecret, ""},
}

// Known reports whether alg is an algorithm this package verifies. "none" is not.
func Known(alg string) bool { _, ok := algorithms[alg]; return ok }

// Symmetric reports whether alg is a MAC, whose key is a shared secret.
func Symmetric(alg string) bool { return algorithms[alg].kind == kindSecret }

// SecretLength is the least length in bytes of a secret for alg, a MAC: that of
// the hash (RFC 7518 §3.2).
func SecretLength(alg string) int { return algorithms[alg].hash.Size() }

// MinRSABits is the shortest RSA modulus (RFC 7518 §3.3, NIST SP 800-131A).
const MinRSABits = 2048

// Fits reports whether key, an *rsa.PublicKey, *ecdsa.PublicKey,
// ed25519.PublicKey or a []byte secret, is a key for alg. This is what makes
// key confusion impossible: a public key never fits a MAC, a P-384 key never ES256.
func Fits(alg string, key any) bool {
	a, ok := algorithms[alg]
	if !ok {
		return false
	}
	switch k := key.(type) {
	case *rsa.PublicKey:
		return k != nil && k.N != nil && k.N.BitLen() >= MinRSABits && (a.kind == kindRSA || a.kind == kindPSS)
	case *ecdsa.PublicKey:
		return k != nil && a.kind == kindEC && k.Curve != nil && k.Curve.Params().Name == a.curve
	case ed25519.PublicKey:
		return a.kind == kindEd25519 && len(k) == ed25519.PublicKeySize
	case []byte:
		return a.kind == kindSecret && len(k) >= a.hash.Size()
	}
	return false
}

// Verify checks the signature with key for alg, which is the key's algorithm
// and not what the token says; the token must say the same. The error is or
// wraps ErrSignature.
func (m *Message) Verify(alg string, key any) error {
	if m.Algorithm != alg {
		return fmt.Errorf("%w: its alg is not the key's", ErrSignature)
	}
	if !Fits(alg, key) {
		return fmt.Errorf("%w: the key is none for its alg", ErrSignature)
	}
	if !m.signedBy(algorithms[alg], key) {
		return ErrSignature
	}
	return nil
}

// signedBy checks the signature by key, which fits a.
func (m *Message) signedBy(a algorithm, key any) bool {
	input := []byte(m.input)
	sum := func() []byte {
		h := a.hash.New()
		h.Write(input)
		return h.Sum(nil)
	}
	switch key := key.(type) {
	case *rsa.PublicKey:
		if a.kind == kindRSA {
			return rsa.VerifyPKCS1v15(key, a.hash, sum(), m.signature) == nil
		}
		// The salt is as long as the hash (RFC 7518 §3.5).
		return rsa.VerifyPSS(key, a.hash, sum(), m.signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: a.hash}) == nil
	case *ecdsa.PublicKey:
		// R and S, each as long as the curve's order, and no other spelling of
		// them (RFC 7518 §3.4).
		n := (key.Curve.Params().BitSize + 7) / 8
		if len(m.signature) != 2*n {
			return false
		}
		r, s := new(big.Int).SetBytes(m.signature[:n]), new(big.Int).SetBytes(m.signature[n:])
		return ecdsa.Verify(key, sum(), r, s)
	case ed25519.PublicKey:
		return ed25519.Verify(key, input, m.signature)
	case []byte:
		mac := hmac.New(a.hash.New, key)
		mac.Write(input)
		return hmac.Equal(mac.Sum(nil), m.signature)
	}
	return false
}
