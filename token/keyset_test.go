package token_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/wsbouncer/wsbouncer/token"
)

var rsAndES = []string{"RS256", "ES256"}

// member is a JWK of a test key with members changed; nil takes one away.
func member(t testing.TB, name string, set map[string]any) string {
	t.Helper()
	b, err := json.Marshal(jose.JSONWebKey{Key: public(name), KeyID: "k1"})
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	for k, v := range set {
		if v == nil {
			delete(m, k)
		} else {
			m[k] = v
		}
	}
	if b, err = json.Marshal(m); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func keySet(members ...string) []byte {
	return []byte(`{"keys":[` + strings.Join(members, ",") + `]}`)
}

func TestJWK06SetsRefused(t *testing.T) {
	type m = map[string]any
	rsaKey := public("rsa").(*rsa.PublicKey)
	n := func(x *big.Int) string { return b64(x.Bytes()) }
	ec := public("p256").(*ecdsa.PublicKey)
	point, err := ec.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	offCurve := bytes.Clone(point[33:])
	offCurve[31] ^= 1
	short := new(big.Int).Rsh(rsaKey.N, 1024)
	short.SetBit(short, 0, 1)
	huge := new(big.Int).Lsh(big.NewInt(1), 8200)
	huge.SetBit(huge, 0, 1)
	for name, doc := range map[string][]byte{
		"empty":              nil,
		"HTML":               []byte("<html>"),
		"array":              []byte("[]"),
		"no keys":            []byte(`{}`),
		"keys null":          []byte(`{"keys":null}`),
		"keys an object":     []byte(`{"keys":{}}`),
		"no key":             keySet(),
		"keys twice":         []byte(`{"keys":[],"keys":[]}`),
		"KEYS alone":         []byte(`{"KEYS":[` + member(t, "rsa", nil) + `]}`),
		"trailing data":      append(keySet(member(t, "rsa", nil)), "{}"...),
		"a key of null":      keySet("null"),
		"a key of a string":  keySet(`"x"`),
		"a member twice":     keySet(strings.Replace(member(t, "rsa", nil), "{", `{"kty":"EC",`, 1)),
		"another case":       keySet(strings.Replace(member(t, "rsa", nil), "{", `{"KTY":"EC",`, 1)),
		"one kid twice":      keySet(member(t, "rsa", nil), member(t, "p256", nil)),
		"one unnamed twice":  keySet(member(t, "rsa", m{"kid": nil}), member(t, "rsa", m{"kid": nil})),
		"use enc":            keySet(member(t, "rsa", m{"use": "enc"})),
		"use SIG":            keySet(member(t, "rsa", m{"use": "SIG"})),
		"use a number":       keySet(member(t, "rsa", m{"use": 1})),
		"key_ops sign":       keySet(member(t, "rsa", m{"key_ops": []string{"sign"}})),
		"key_ops encrypt":    keySet(member(t, "rsa", m{"key_ops": []string{"encrypt"}})),
		"key_ops empty":      keySet(member(t, "rsa", m{"key_ops": []string{}})),
		"key_ops repeated":   keySet(member(t, "rsa", m{"key_ops": []string{"verify", "verify"}})),
		"key_ops a string":   keySet(member(t, "rsa", m{"key_ops": "verify"})),
		"alg not allowed":    keySet(member(t, "rsa", m{"alg": "PS256"})),
		"alg none":           keySet(member(t, "rsa", m{"alg": "none"})),
		"alg of other kty":   keySet(member(t, "rsa", m{"alg": "ES256"})),
		"alg null":           keySet(strings.Replace(member(t, "rsa", nil), "{", `{"alg":null,`, 1)),
		"symmetric":          keySet(member(t, "rsa", nil), `{"kty":"oct","kid":"s","k":"AAAA"}`),
		"k in an RSA key":    keySet(member(t, "rsa", m{"k": "AAAA"})),
		"private":            keySet(member(t, "rsa", m{"d": "AAAA"})),
		"private, use enc":   keySet(member(t, "p256", nil), member(t, "rsa", m{"kid": "k2", "use": "enc", "d": "AAAA"})),
		"kid empty":          keySet(member(t, "rsa", m{"kid": ""})),
		"kid NUL":            keySet(member(t, "rsa", m{"kid": "a\x00"})),
		"kid long":           keySet(member(t, "rsa", m{"kid": strings.Repeat("k", 600)})),
		"kid a number":       keySet(member(t, "rsa", m{"kid": 1})),
		"kty oct":            keySet(member(t, "rsa", m{"kty": "oct"})),
		"kty EC for RSA":     keySet(member(t, "rsa", m{"kty": "EC"})),
		"n not base64url":    keySet(member(t, "rsa", m{"n": "!"})),
		"n padded":           keySet(member(t, "rsa", m{"n": n(rsaKey.N) + "="})),
		"n missing":          keySet(member(t, "rsa", m{"n": nil})),
		"n even":             keySet(member(t, "rsa", m{"n": n(new(big.Int).Sub(rsaKey.N, big.NewInt(1)))})),
		"n divisible by 3":   keySet(member(t, "rsa", m{"n": n(multipleOf(rsaKey.N, 3))})),
		"n of 1024 bits":     keySet(member(t, "rsa", m{"n": n(short)})),
		"n of 8200 bits":     keySet(member(t, "rsa", m{"n": n(huge)})),
		"ROCA":               keySet(member(t, "rsa", m{"n": n(rocaModulus(t))})),
		"e is 1":             keySet(member(t, "rsa", m{"e": "AQ"})),
		"e is 3":             keySet(member(t, "rsa", m{"e": "Aw"})),
		"e even":             keySet(member(t, "rsa", m{"e": b64([]byte{1, 0, 2})})),
		"e of 33 bits":       keySet(member(t, "rsa", m{"e": b64([]byte{1, 0, 0, 0, 1})})),
		"e of 32 bits":       keySet(member(t, "rsa", m{"e": b64([]byte{0xff, 0, 0, 1})})),
		"point off curve":    keySet(member(t, "p256", m{"y": b64(offCurve)})),
		"point zero":         keySet(member(t, "p256", m{"x": b64(make([]byte, 32)), "y": b64(make([]byte, 32))})),
		"point of 31 bytes":  keySet(member(t, "p256", m{"x": b64(point[1:32])})),
		"point of 33 bytes":  keySet(member(t, "p256", m{"x": b64(append([]byte{0}, point[1:33]...))})),
		"curve of other":     keySet(member(t, "p256", m{"crv": "P-384"})),
		"curve secp256k1":    keySet(member(t, "p256", m{"crv": "secp256k1"})),
		"P-384 where ES256":  keySet(member(t, "p384", nil)),
		"Ed25519 not asked":  keySet(member(t, "ed25519", nil)),
		"X25519":             keySet(`{"kty":"OKP","crv":"X25519","kid":"k1","x":"` + b64(make([]byte, 32)) + `"}`),
		"more than 128 keys": keySet(manyKeys(t, 129)...),
		"more than 512 KiB":  append(keySet(member(t, "rsa", nil)), bytes.Repeat([]byte(" "), 512<<10)...),
		"deeply nested":      []byte(`{"x":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `,"keys":[` + member(t, "rsa", nil) + `]}`),
		"invalid UTF-8":      []byte("{\"x\":\"\xff\",\"keys\":[" + member(t, "rsa", nil) + "]}"),
	} {
		if s, err := token.JWKS(doc, rsAndES); err == nil || s != nil {
			t.Errorf("%s: taken", name)
		} else if !strings.HasPrefix(err.Error(), "token: key set: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func multipleOf(n *big.Int, k int64) *big.Int {
	r := new(big.Int).Mod(n, big.NewInt(k))
	m := new(big.Int).Sub(n, r)
	if m.Bit(0) == 0 {
		m.Add(m, big.NewInt(k))
	}
	return m
}

// rocaModulus is the key of Wycheproof's vector rejectsKeyWithRocaVulnerability.
func rocaModulus(t testing.TB) *big.Int {
	t.Helper()
	const modulus = "AanFpofbj7KjD4Lf-N2hVMKR7yewSyXhhbirIMTGpfYEhZ_lnt5UoK98DnKIgArXGTu3MaW_HhFw16HGaTDUHqPrId7fe4r11CqRw09yBFuW79V8sYIwHdzCaWflUI6auImYbVfoN9_nD5n8N8SY9DwXw7mwZM9wREPXoDPgOoIWl6q_MPsp7n0zs3Z5ZaiQWOOzl1S9OhwAfSiiOwz6efnXEaxuTEtPd7BjSx7NaFka8Dx9U7YqXy2RFj1O9PjyaDGuRh7YXsX3iMUSP_wSyHQg_c_qHRtKUsNSGCT7OZg0hzm2KphtjnayKJvC64vAbROBR4Ubg6Bxg9IQVZ-QYyE"
	b, err := base64.RawURLEncoding.DecodeString(modulus)
	if err != nil {
		t.Fatal(err)
	}
	return new(big.Int).SetBytes(b)
}

func manyKeys(t testing.TB, n int) (out []string) {
	for i := range n {
		out = append(out, member(t, "p256", map[string]any{"kid": fmt.Sprint("k", i)}))
	}
	return out
}

func TestJWK06KeysPassedOver(t *testing.T) {
	type m = map[string]any
	doc := keySet(
		member(t, "rsa", m{"kid": "enc", "use": "enc", "alg": "RSA-OAEP"}),
		member(t, "p384", m{"kid": "p384"}),
		member(t, "ed25519", m{"kid": "ed"}),
		`{"kty":"AKP","alg":"ML-DSA-65","kid":"pq","pub":"AAAA"}`,
		member(t, "p256", m{"kid": "good", "use": "sig", "key_ops": []string{"verify"}, "x5t": "x", "x5c": []string{"AAAA"}}),
		member(t, "rsa", m{"kid": "unnamed-alg"}),
	)
	s, err := token.JWKS(doc, rsAndES)
	if err != nil {
		t.Fatal(err)
	}
	for kid, alg := range map[string]string{"enc": "", "p384": "", "ed": "", "pq": "", "good": "ES256", "unnamed-alg": "RS256", "x": ""} {
		keys, _ := s.Keys(kid)
		switch {
		case alg == "" && len(keys) != 0:
			t.Errorf("%s is there: %v", kid, keys)
		case alg != "" && (len(keys) != 1 || keys[0].Algorithm != alg || keys[0].ID != kid):
			t.Errorf("%s: %v", kid, keys)
		}
	}
	if keys, _ := s.Keys(""); len(keys) != 2 {
		t.Errorf("without kid: %v", keys)
	}
}

// JWT-03: a key has one algorithm. One that says none and could have two is
// the operator's to decide.
func TestJWT03OneAlgorithmPerKey(t *testing.T) {
	doc := keySet(member(t, "rsa", nil))
	if _, err := token.JWKS(doc, []string{"RS256", "PS256"}); err == nil || !strings.Contains(err.Error(), "PS256 and RS256") {
		t.Errorf("a key for two algorithms: %v", err)
	}
	for _, algs := range [][]string{nil, {"none"}, {"HS256"}, {"RS256", "HS256"}, {"RS257"}, {""}} {
		if _, err := token.JWKS(doc, algs); err == nil {
			t.Errorf("algorithms %q are taken", algs)
		}
	}
}

func TestPEMRefused(t *testing.T) {
	spki := func(name string) []byte {
		der, err := x509.MarshalPKIXPublicKey(public(name))
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	block := func(typ string, der []byte) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der})
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(testKeys()["rsa"])
	if err != nil {
		t.Fatal(err)
	}
	good := block("PUBLIC KEY", spki("rsa"))
	if _, err := token.PEM(good, rsAndES); err != nil {
		t.Fatal(err)
	}
	if _, err := token.PEM(block("RSA PUBLIC KEY", x509.MarshalPKCS1PublicKey(public("rsa").(*rsa.PublicKey))), rsAndES); err != nil {
		t.Fatal(err)
	}
	weak := &rsa.PublicKey{N: rocaModulus(t), E: 65537}
	for name, c := range map[string]struct {
		pem  []byte
		algs []string
	}{
		"empty":       {nil, rsAndES},
		"no PEM":      {[]byte("ssh-rsa AAAA"), rsAndES},
		"two keys":    {append(bytes.Clone(good), block("PUBLIC KEY", spki("p256"))...), rsAndES},
		"private":     {block("PRIVATE KEY", pkcs8), rsAndES},
		"wrong label": {block("PUBLIC KEY", pkcs8), rsAndES},
		"certificate": {block("CERTIFICATE", []byte{1}), rsAndES},
		"garbage":     {block("PUBLIC KEY", []byte{1, 2, 3}), rsAndES},
		"no alg":      {good, nil},
		"two algs":    {good, []string{"RS256", "RS512"}},
		"HS256":       {good, []string{"HS256"}},
		"other curve": {block("PUBLIC KEY", spki("p384")), rsAndES},
		"ROCA":        {block("RSA PUBLIC KEY", x509.MarshalPKCS1PublicKey(weak)), rsAndES},
		"64 KiB":      {append(bytes.Clone(good), bytes.Repeat([]byte("\n"), 64<<10)...), rsAndES},
	} {
		if s, err := token.PEM(c.pem, c.algs); err == nil || s != nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestJWT07WeakSecretsAreRefused(t *testing.T) {
	random := testKeys()["secret"].([]byte)
	hs256, hs512 := []string{"HS256"}, []string{"HS512"}
	if _, err := token.Secret(random, hs512); err != nil {
		t.Fatal(err)
	}
	rfc7515, err := base64.RawURLEncoding.DecodeString("AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		secret []byte
		algs   []string
	}{
		"nil":                {nil, hs256},
		"empty":              {[]byte{}, hs256},
		"secret":             {[]byte("secret"), hs256},
		"16 bytes":           {random[:16], hs256},
		"31 bytes":           {random[:31], hs256},
		"63 bytes for HS512": {random[:63], hs512},
		"zeros":              {make([]byte, 64), hs256},
		"repeated":           {bytes.Repeat([]byte("changeme"), 8), hs256},
		"of a web page":      {[]byte("a-string-secret-at-least-256-bits-long"), hs256},
		"with a line break":  {[]byte("a-string-secret-at-least-256-bits-long\n"), hs256},
		"of RFC 7515":        {rfc7515, hs256},
		"two algorithms":     {random, []string{"HS256", "HS512"}},
		"no algorithm":       {random, nil},
		"RS256":              {random, []string{"RS256"}},
	} {
		if s, err := token.Secret(c.secret, c.algs); err == nil || s != nil {
			t.Errorf("%s: taken", name)
		} else if len(c.secret) > 8 && strings.Contains(err.Error(), string(c.secret[:8])) {
			t.Errorf("%s: the error repeats the secret", name)
		}
	}
}

// JWT-02: whatever form of the public key is used as a secret, with whatever
// algorithm, the token is refused.
func TestJWT02KeyConfusion(t *testing.T) {
	pub := public("rsa").(*rsa.PublicKey)
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	pkcs1 := x509.MarshalPKCS1PublicKey(pub)
	spkiPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})
	pkcs1PEM := pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: pkcs1})
	jwk := []byte(member(t, "rsa", nil))
	secrets := map[string][]byte{
		"SPKI PEM": spkiPEM, "SPKI PEM without line break": bytes.TrimSpace(spkiPEM),
		"PKCS1 PEM": pkcs1PEM, "PKCS1 PEM without line break": bytes.TrimSpace(pkcs1PEM),
		"SPKI DER": spki, "PKCS1 DER": pkcs1, "JWK": jwk, "JWKS": keySet(string(jwk)),
		"modulus": pub.N.Bytes(), "empty": {}, "zero": {0},
	}
	for _, keys := range []struct {
		name string
		set  func() (token.KeySet, error)
	}{
		{"JWKS", func() (token.KeySet, error) { return token.JWKS(keySet(string(jwk)), []string{"RS256"}) }},
		{"PEM", func() (token.KeySet, error) { return token.PEM(spkiPEM, []string{"RS256"}) }},
	} {
		set, err := keys.set()
		if err != nil {
			t.Fatal(err)
		}
		v := verifier(t, token.Options{Issuers: []token.Issuer{{Name: "i", Audience: "gw", Algorithms: []string{"RS256"}, Keys: set}}})
		payload := fmt.Sprintf(`{"iss":"i","sub":"admin","aud":"gw","exp":%d}`, time.Now().Unix()+60)
		good := forge(t, "RS256", testKeys()["rsa"], `{"alg":"RS256","kid":"k1","typ":"at+jwt"}`, payload)
		if _, err := v.Verify(context.Background(), good); err != nil {
			t.Fatal(err)
		}
		for name, secret := range secrets {
			for _, alg := range []string{"HS256", "HS384", "HS512"} {
				raw := forge(t, alg, secret, `{"alg":"`+alg+`","kid":"k1","typ":"at+jwt"}`, payload)
				if _, err := v.Verify(context.Background(), raw); code(t, err) != token.CodeSignature {
					t.Errorf("%s: %s as secret of %s: %v", keys.name, name, alg, err)
				}
			}
		}
	}
}
