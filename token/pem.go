package token

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/wsbouncer/wsbouncer/internal/jws"
)

const maxPEMBytes = 64 << 10

// PEM is the key set of one public key ("PUBLIC KEY" or "RSA PUBLIC KEY") for
// an issuer that may use algs, of which exactly one fits the key. The key has
// no name, so it stands for whatever kid a token says; Token.KeyID is its RFC
// 7638 thumbprint.
func PEM(b []byte, algs []string) (KeySet, error) {
	if err := checkAlgorithms(algs); err != nil {
		return nil, fmt.Errorf("token: public key: %w", err)
	}
	if jws.Symmetric(algs[0]) {
		return nil, errors.New("token: a public key cannot verify HS algorithms")
	}
	public, err := parsePEM(b)
	if err != nil {
		return nil, fmt.Errorf("token: public key: %w", err)
	}
	alg, err := algorithmFor(public, algs)
	if err != nil {
		return nil, fmt.Errorf("token: public key: %w", err)
	}
	id, err := thumbprint(public)
	if err != nil {
		return nil, fmt.Errorf("token: public key: %w", err)
	}
	var s staticKeys
	s.add(Key{ID: id, Algorithm: alg, Public: public}, false)
	return &s, nil
}

func parsePEM(b []byte) (any, error) {
	if len(b) > maxPEMBytes {
		return nil, fmt.Errorf("the file has more than %d bytes", maxPEMBytes)
	}
	block, rest := pem.Decode(b)
	if block == nil {
		return nil, errors.New("the file has no PEM block")
	}
	if more, _ := pem.Decode(rest); more != nil {
		return nil, errors.New("the file has more than one PEM block: keep the one public key, or use a JWKS with a kid for each")
	}
	if bytes.Contains([]byte(block.Type), []byte("PRIVATE")) {
		return nil, errors.New("the file holds a private key: keep it at the issuer, and put its public key here")
	}
	var public any
	var err error
	switch block.Type {
	case "PUBLIC KEY":
		public, err = x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		public, err = x509.ParsePKCS1PublicKey(block.Bytes)
	default:
		return nil, fmt.Errorf("the block is a %q, not a \"PUBLIC KEY\"", block.Type)
	}
	if err != nil {
		return nil, fmt.Errorf("the block does not parse: %w", err)
	}
	switch k := public.(type) {
	case *rsa.PublicKey:
		return k, checkRSA(k)
	case *ecdsa.PublicKey, ed25519.PublicKey:
		return k, nil
	}
	return nil, fmt.Errorf("a %T cannot verify tokens", public)
}
