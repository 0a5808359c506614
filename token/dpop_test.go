package token_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/wsbouncer/wsbouncer/token"
)

func proofOf(t testing.TB, key *ecdsa.PrivateKey, claims string) string {
	t.Helper()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, (&jose.SignerOptions{EmbedJWK: true}).WithType("dpop+jwt"))
	if err != nil {
		t.Fatal(err)
	}
	signed, err := s.Sign([]byte(claims))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func proofClaims(jti, uri string) string {
	return `{"jti":"` + jti + `","htm":"POST","htu":"` + uri + `","iat":` + strconv.FormatInt(time.Now().Unix(), 10) + `}`
}

// The addresses that RFC 3986 §6 calls the same are, and no others.
func TestPOP02AddressesAreCompared(t *testing.T) {
	c, err := token.NewProofChecker(token.ProofOptions{URL: "https://RT.example.com:443"})
	if err != nil {
		t.Fatal(err)
	}
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	for uri, same := range map[string]bool{
		"https://rt.example.com/a%20b~":     true,
		"HTTPS://RT.EXAMPLE.COM/a%20b~":     true,
		"https://rt.example.com:443/a%20b~": true,
		"https://rt.example.com:/a%20b~":    true,
		"https://rt.example.com/%61%20b%7e": true,
		"wss://rt.example.com/a%20b~":       true,
		"http://rt.example.com/a%20b~":      false,
		"https://rt.example.com:80/a%20b~":  false,
		"https://rt.example.com/A%20b~":     false,
		"https://rt.example.com/a%20b~/":    false,
		"https://rt.example.com/a%20b~?":    false,
		"https://rt.example.com/a%20b~#":    false,
		"https://u@rt.example.com/a%20b~":   false,
		"//rt.example.com/a%20b~":           false,
		"/a%20b~":                           false,
		"https://rt.example.com":            false,
		"https:rt.example.com/a%20b~":       false,
	} {
		_, err := c.Check([]string{proofOf(t, key, proofClaims("j", uri))}, "POST", "/a%20b~", "")
		if (err == nil) != same {
			t.Errorf("%s: %v", uri, err)
		}
	}
}

// A full memory of used proofs refuses; it never forgets one that could count.
func TestPOP02FullMemoryRefuses(t *testing.T) {
	c, err := token.NewProofChecker(token.ProofOptions{URL: "https://rt.example.com", Size: 3})
	if err != nil {
		t.Fatal(err)
	}
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	spend := func(key *ecdsa.PrivateKey, jti string) error {
		p, err := c.Check([]string{proofOf(t, key, proofClaims(jti, "https://rt.example.com/"))}, "POST", "/", "")
		if err != nil {
			t.Fatal(err)
		}
		return c.Spend(p)
	}
	other, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	for _, err := range []error{spend(key, "1"), spend(key, "2"), spend(other, "1")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := spend(key, "3"); !errors.Is(err, &token.Error{Code: token.CodeNonce}) {
		t.Errorf("a fourth: %v", err)
	}
	if err := spend(key, "1"); !errors.Is(err, &token.Error{Code: token.CodeProof}) {
		t.Errorf("the first again: %v", err)
	}
}

// A remembered token is asked for its proof every time, and only one method that
// can be proved is a binding.
func TestPOP02Confirmation(t *testing.T) {
	const thumb = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	keys, err := token.JWKS(jwksOf(t, key), []string{"ES256"})
	if err != nil {
		t.Fatal(err)
	}
	v, err := token.NewVerifier(token.Options{Issuers: []token.Issuer{{Name: "https://i", Audience: "a", Algorithms: []string{"ES256"}, Keys: keys}}})
	if err != nil {
		t.Fatal(err)
	}
	sign := func(cnf string) string {
		s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, (&jose.SignerOptions{}).WithType("at+jwt"))
		if err != nil {
			t.Fatal(err)
		}
		signed, err := s.Sign([]byte(`{"iss":"https://i","aud":"a","sub":"s","exp":` + strconv.FormatInt(time.Now().Add(time.Minute).Unix(), 10) + `,"cnf":` + cnf + `}`))
		if err != nil {
			t.Fatal(err)
		}
		raw, _ := signed.CompactSerialize()
		return raw
	}
	all := token.WithProof(t.Context(), token.AnyKey)
	unbound := &token.Error{Code: token.CodeBinding}
	for _, cnf := range []string{
		`{}`, `null`, `"jkt"`, `[]`, `{"jkt":""}`, `{"jkt":null}`, `{"jkt":1}`, `{"jkt":"` + thumb[1:] + `"}`, `{"jkt":"` + thumb + `="}`, `{"JKT":"` + thumb + `"}`,
		`{"jkt":"` + thumb + `","x5t#S256":"` + thumb + `"}`, `{"jkt":"` + thumb + `","kid":"a"}`, `{"jwk":{}}`, `{"kid":"a"}`, `{"x5t":"` + thumb + `"}`,
	} {
		if _, err := v.Verify(all, sign(cnf)); !errors.Is(err, unbound) {
			t.Errorf("cnf %s: %v", cnf, err)
		}
	}
	for cnf, binding := range map[string]string{`{"jkt":"` + thumb + `"}`: "jkt:" + thumb, `{"x5t#S256":"` + thumb + `"}`: "x5t#S256:" + thumb} {
		raw := sign(cnf)
		for range 2 { // found in the cache the second time
			for ctx, good := range map[context.Context]bool{
				t.Context():                                            false,
				token.WithProof(t.Context(), "jkt:x"):                  false,
				token.WithProof(t.Context(), thumb):                    false,
				token.WithProof(t.Context(), binding):                  true,
				token.WithProof(all, "jkt:x"):                          true,
				token.WithProof(t.Context(), strings.ToUpper(binding)): false,
			} {
				tok, err := v.Verify(ctx, raw)
				if (err == nil) != good || err != nil && !errors.Is(err, unbound) || good && tok.Binding != binding {
					t.Errorf("cnf %s: %v", cnf, err)
				}
			}
		}
	}
}

func jwksOf(t testing.TB, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	b, err := (&jose.JSONWebKey{Key: key.Public(), KeyID: "", Use: "sig", Algorithm: "ES256"}).MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	return []byte(`{"keys":[` + string(b) + `]}`)
}

// FuzzProof: no text that the key did not sign is a proof of it.
func FuzzProof(f *testing.F) {
	c, err := token.NewProofChecker(token.ProofOptions{URL: "https://rt.example.com"})
	if err != nil {
		f.Fatal(err)
	}
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	public := jose.JSONWebKey{Key: key.Public()}
	sum, err := public.Thumbprint(crypto.SHA256)
	if err != nil {
		f.Fatal(err)
	}
	good := proofOf(f, key, proofClaims("j", "https://rt.example.com/"))
	f.Add(good)
	f.Add(good[:len(good)-4])
	f.Add("eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7fX0.e30.AAAA")
	f.Fuzz(func(t *testing.T, raw string) {
		p, err := c.Check([]string{raw}, "POST", "/", "")
		if (p == nil) == (err == nil) {
			t.Fatal("neither or both of proof and error")
		}
		var refused *token.Error
		if err != nil && (!errors.As(err, &refused) || refused.Code != token.CodeProof) {
			t.Fatalf("%v", err)
		}
		if p != nil && raw != good && p.Key == base64.RawURLEncoding.EncodeToString(sum) {
			t.Fatalf("%q passes for a proof of the key", raw)
		}
	})
}
