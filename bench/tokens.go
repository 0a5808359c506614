//go:build linux

package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// algorithms are those of the issuers everybody trusts, an issuer each.
var algorithms = []string{"HS256", "RS256", "ES256", "EdDSA"}

// issuers are the four key pairs. Their public halves are files in a folder
// that all the measured servers read.
type issuers struct {
	dir     string
	signers map[string]jose.Signer
	secret  string
	issued  atomic.Int64
}

func (s *issuers) file(alg string) string { return filepath.Join(s.dir, alg+".pem") }

func issuerName(alg string) string { return "https://" + strings.ToLower(alg) + ".bench.example" }

func newIssuers(dir string) (*issuers, error) {
	s := &issuers{dir: dir, signers: map[string]jose.Signer{}}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	raw := make([]byte, 32)
	_, _ = rand.Read(raw)
	s.secret = hex.EncodeToString(raw)
	for alg, key := range map[string]any{"HS256": []byte(s.secret), "RS256": rsaKey, "ES256": ecKey, "EdDSA": edKey} {
		s.signers[alg], err = jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(alg), Key: key}, (&jose.SignerOptions{}).WithType("at+jwt"))
		if err != nil {
			return nil, err
		}
		text := []byte(s.secret)
		if pair, ok := key.(crypto.Signer); ok {
			der, err := x509.MarshalPKIXPublicKey(pair.Public())
			if err != nil {
				return nil, err
			}
			text = pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
		}
		if err := os.WriteFile(s.file(alg), text, 0o600); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// token is an access token that nobody has seen. It expires in exp's second.
func (s *issuers) token(alg, subject string, exp time.Time) (string, error) {
	return s.expiring(alg, subject, exp.Unix())
}

// expiring is token with an exp as a NumericDate, which may have decimals.
func (s *issuers) expiring(alg, subject string, exp any) (string, error) {
	n := s.issued.Add(1)
	return jwt.Signed(s.signers[alg]).Claims(map[string]any{
		"iss": issuerName(alg), "aud": "bench", "sub": subject, "sid": "session-" + subject, "jti": strconv.FormatInt(n, 10),
		"iat": time.Now().Unix(), "exp": exp, "client_id": "bench", "scope": "echo",
	}).Serialize()
}

// numericDate is a time as a NumericDate (RFC 7519 §2), to the millisecond where
// it is not a whole second.
func numericDate(t time.Time) json.RawMessage {
	if ms := t.UnixMilli() % 1000; ms != 0 {
		return fmt.Appendf(nil, "%d.%03d", t.Unix(), ms)
	}
	return strconv.AppendInt(nil, t.Unix(), 10)
}

// spoilt is the token with another signature.
func spoilt(token string) string {
	i := strings.LastIndexByte(token, '.') + 10
	c := byte('A')
	if token[i] == c {
		c = 'B'
	}
	return token[:i] + string(c) + token[i+1:]
}
