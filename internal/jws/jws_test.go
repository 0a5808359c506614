package jws_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/wsbouncer/wsbouncer/internal/jws"
)

const maxBytes = 8 << 10

// The examples that the standards print: each verifies, and none does with one
// bit changed, under another algorithm, or in another spelling.
func TestJWT20StandardsExamples(t *testing.T) {
	raw, err := os.ReadFile("testdata/rfc.json")
	if err != nil {
		t.Fatal(err)
	}
	var examples []struct {
		Name, Alg, JWS string
		Key            jose.JSONWebKey
	}
	if err := json.Unmarshal(raw, &examples); err != nil {
		t.Fatal(err)
	}
	if len(examples) != 9 {
		t.Fatalf("%d examples, want 9", len(examples))
	}
	for _, e := range examples {
		t.Run(e.Name, func(t *testing.T) {
			if err := verify(e.JWS, e.Alg, e.Key.Key); err != nil {
				t.Fatalf("the standard's own example: %v", err)
			}
			for i := 0; i < len(e.JWS); i += 1 + 6*min(1, (len(e.JWS)-i)/20) { // every seventh, and all of the end
				changed := []byte(e.JWS)
				if changed[i] ^= 1; verify(string(changed), e.Alg, e.Key.Key) == nil {
					t.Errorf("verifies with byte %d changed", i)
				}
			}
			for _, alg := range []string{"RS256", "RS384", "PS256", "PS384", "ES256", "ES512", "EdDSA", "HS256", "HS512", "none", ""} {
				if alg != e.Alg && verify(e.JWS, alg, e.Key.Key) == nil {
					t.Errorf("verifies as %s", alg)
				}
			}
		})
	}
}

func verify(raw, alg string, key any) error {
	m, err := jws.Parse(raw, maxBytes)
	if err != nil {
		return err
	}
	return m.Verify(alg, key)
}

var (
	rsaKey, _ = rsa.GenerateKey(rand.Reader, 2048)
	p256, _   = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p384, _   = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	_, ed, _  = ed25519.GenerateKey(rand.Reader)
)

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func pss(t *testing.T, salt int) string {
	t.Helper()
	input := b64([]byte(`{"alg":"PS256"}`)) + "." + b64([]byte("{}"))
	sum := sha256.Sum256([]byte(input))
	sig, err := rsa.SignPSS(rand.Reader, rsaKey, crypto.SHA256, sum[:], &rsa.PSSOptions{SaltLength: salt})
	if err != nil {
		t.Fatal(err)
	}
	return input + "." + b64(sig)
}

func TestJWT04SaltIsAsLongAsTheHash(t *testing.T) {
	if err := verify(pss(t, 32), "PS256", &rsaKey.PublicKey); err != nil {
		t.Fatal(err)
	}
	for _, salt := range []int{0, 1, 20, 31, 33, 64, 222} {
		raw := pss(t, salt)
		if verify(raw, "PS256", &rsaKey.PublicKey) == nil {
			t.Errorf("verifies with a salt of %d bytes", salt)
		}
	}
}

// The forms of an ECDSA signature that must not pass.
func TestJWT04BrokenECDSASignatures(t *testing.T) {
	input := b64([]byte(`{"alg":"ES256"}`)) + "." + b64([]byte("{}"))
	sum := sha256.Sum256([]byte(input))
	r, s, err := ecdsa.Sign(rand.Reader, p256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	fixed := make([]byte, 64)
	r.FillBytes(fixed[:32])
	s.FillBytes(fixed[32:])
	if err := verify(input+"."+b64(fixed), "ES256", &p256.PublicKey); err != nil {
		t.Fatal(err)
	}
	der, err := ecdsa.SignASN1(rand.Reader, p256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	n := p256.Params().N.Bytes()
	for name, sig := range map[string][]byte{
		"zero":       make([]byte, 64),
		"der":        der,
		"short":      fixed[:63],
		"long":       append(bytes.Clone(fixed), 0),
		"leading 0":  append([]byte{0}, fixed...),
		"r = n":      append(bytes.Clone(n), fixed[32:]...),
		"s = n":      append(bytes.Clone(fixed[:32]), n...),
		"r = 0":      append(make([]byte, 32), fixed[32:]...),
		"s = 0":      append(bytes.Clone(fixed[:32]), make([]byte, 32)...),
		"half":       fixed[:32],
		"swapped":    append(bytes.Clone(fixed[32:]), fixed[:32]...),
		"one byte":   {1},
		"megabyte/8": make([]byte, 4000),
	} {
		if verify(input+"."+b64(sig), "ES256", &p256.PublicKey) == nil {
			t.Errorf("%s: verifies", name)
		}
	}
}

func TestJWT03KeyFitsOneFamily(t *testing.T) {
	short, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal("this Go makes no short keys: ", err)
	}
	for _, c := range []struct {
		alg  string
		key  any
		fits bool
	}{
		{"RS256", &rsaKey.PublicKey, true}, {"PS512", &rsaKey.PublicKey, true},
		{"ES256", &p256.PublicKey, true}, {"ES384", &p384.PublicKey, true},
		{"EdDSA", ed.Public(), true}, {"HS256", make([]byte, 32), true}, {"HS512", make([]byte, 64), true},
		{"RS256", &short.PublicKey, false}, {"RS256", (*rsa.PublicKey)(nil), false}, {"RS256", &rsa.PublicKey{}, false},
		{"ES256", &p384.PublicKey, false}, {"ES384", &p256.PublicKey, false}, {"ES256", &ecdsa.PublicKey{}, false},
		{"HS256", &rsaKey.PublicKey, false}, {"HS256", []byte(ed.Public().(ed25519.PublicKey)), true},
		{"HS256", ed.Public(), false}, {"EdDSA", make([]byte, 32), false}, {"EdDSA", ed25519.PublicKey(make([]byte, 31)), false},
		{"HS256", make([]byte, 31), false}, {"HS256", []byte{}, false}, {"HS256", nil, false}, {"HS512", make([]byte, 63), false},
		{"none", nil, false}, {"", nil, false}, {"RS256", rsaKey, false}, {"rs256", &rsaKey.PublicKey, false},
	} {
		if got := jws.Fits(c.alg, c.key); got != c.fits {
			t.Errorf("Fits(%s, %T) = %v", c.alg, c.key, got)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	const body, sig = "e30", "AAAA"
	head := func(h string) string { return b64([]byte(h)) + "." + body + "." + sig }
	good := head(`{"alg":"ES256"}`)
	if _, err := jws.Parse(good, maxBytes); err != nil {
		t.Fatal(err)
	}
	h, _, _ := strings.Cut(good, ".")
	for name, raw := range map[string]string{
		"empty":               "",
		"dots":                strings.Repeat(".", 8000),
		"two parts":           h + "." + body,
		"no signature":        h + "." + body + ".",
		"no header":           "." + body + "." + sig,
		"four parts":          good + ".",
		"JWE":                 good + ".AA.AA",
		"JSON serialisation":  `{"payload":"e30","protected":"e30","signature":"AA"}`,
		"padding":             h + "." + body + "." + "AAA=",
		"newline":             h + "." + body + "." + "AA\nAA",
		"carriage return":     h + "." + body + "." + "AA\r\nAA",
		"space":               h + "." + body + "." + " AAAA",
		"plus":                h + "." + body + "." + "AA+A",
		"slash":               h + "." + body + "." + "AA/A",
		"percent":             h + "." + body + "." + "AA%A",
		"unused bits":         h + "." + body + "." + "AAB",
		"length 1 mod 4":      h + "." + body + "." + "AAAAA",
		"unused bits, body":   h + "." + "e31" + "." + sig,
		"NUL":                 good + "\x00",
		"leading space":       " " + good,
		"header not JSON":     head(`alg`),
		"header an array":     head(`[]`),
		"header not UTF-8":    head("{\"alg\":\"ES256\",\"x\":\"\xff\"}"),
		"byte order mark":     head("\uFEFF" + `{"alg":"ES256"}`),
		"trailing data":       head(`{"alg":"ES256"}{}`),
		"no alg":              head(`{}`),
		"empty alg":           head(`{"alg":""}`),
		"alg null":            head(`{"alg":null}`),
		"alg number":          head(`{"alg":1}`),
		"alg array":           head(`{"alg":["ES256"]}`),
		"alg other case only": head(`{"Alg":"ES256"}`),
		"alg twice":           head(`{"alg":"none","alg":"ES256"}`),
		"alg in two cases":    head(`{"alg":"ES256","Alg":"none"}`),
		"alg escaped twice":   head(`{"alg":"ES256","\u0061lg":"none"}`),
		"crit":                head(`{"alg":"ES256","crit":["exp"]}`),
		"crit empty":          head(`{"alg":"ES256","crit":[]}`),
		"crit string":         head(`{"alg":"ES256","crit":"x"}`),
		"b64":                 head(`{"alg":"ES256","b64":false}`),
		"b64 true":            head(`{"alg":"ES256","b64":true}`),
		"jwk":                 head(`{"alg":"ES256","jwk":{}}`),
		"jku":                 head(`{"alg":"ES256","jku":"http://127.0.0.1:1/"}`),
		"x5u":                 head(`{"alg":"ES256","x5u":"http://127.0.0.1:1/"}`),
		"x5c":                 head(`{"alg":"ES256","x5c":[]}`),
		"enc":                 head(`{"alg":"dir","enc":"A128GCM"}`),
		"zip":                 head(`{"alg":"ES256","zip":"DEF"}`),
		"kid number":          head(`{"alg":"ES256","kid":1}`),
		"kid array":           head(`{"alg":"ES256","kid":["a"]}`),
		"kid object":          head(`{"alg":"ES256","kid":{}}`),
		"kid null":            head(`{"alg":"ES256","kid":null}`),
		"kid NUL":             head(`{"alg":"ES256","kid":"a\u0000b"}`),
		"kid line break":      head(`{"alg":"ES256","kid":"a\r\nb"}`),
		"kid long":            head(`{"alg":"ES256","kid":"` + strings.Repeat("a", jws.MaxName+1) + `"}`),
		"kid long escaped":    head(`{"alg":"ES256","kid":"` + strings.Repeat(`\u0061`, jws.MaxName+1) + `"}`),
		"typ number":          head(`{"alg":"ES256","typ":1}`),
		"members":             head(`{"alg":"ES256"` + manyMembers(40) + `}`),
		"deep":                head(`{"alg":"ES256","x":` + strings.Repeat("[", 50) + strings.Repeat("]", 50) + `}`),
	} {
		if m, err := jws.Parse(raw, maxBytes); !errors.Is(err, jws.ErrMalformed) || m != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func manyMembers(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(`,"m` + strings.Repeat("x", i) + `":1`)
	}
	return b.String()
}

// JWT-15: length is judged before anything else, so a megabyte costs nothing.
func TestJWT15LengthFirst(t *testing.T) {
	huge := strings.Repeat(".", 1<<20)
	if _, err := jws.Parse(huge, maxBytes); !errors.Is(err, jws.ErrTooLarge) {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(10, func() { _, _ = jws.Parse(huge, maxBytes) }); n > 0 {
		t.Errorf("%v allocations for a text that is too long", n)
	}
}

func TestErrorsRepeatNothing(t *testing.T) {
	const secret = "hunter2secret"
	for _, raw := range []string{
		secret, secret + "." + secret + "." + secret + "=", b64([]byte(`{"alg":"`+secret+`","kid":"`+secret+`\u0000"}`)) + ".e30.AA",
		b64([]byte(`{"`+secret+`":1}`)) + ".e30.AA", b64([]byte(secret)) + ".e30.AA",
	} {
		_, err := jws.Parse(raw, maxBytes)
		if err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%q: %v", raw, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("eyJhbGciOiJFUzI1NiJ9.e30.AAAA")
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Add(strings.Repeat(".", 100))
	f.Fuzz(func(t *testing.T, raw string) {
		m, err := jws.Parse(raw, maxBytes)
		if (err == nil) == (m == nil) {
			t.Fatal("neither or both of message and error")
		}
		if err != nil {
			return
		}
		// One message has one spelling.
		parts := strings.Split(raw, ".")
		if len(parts) != 3 || b64(m.Header) != parts[0] || b64(m.Payload) != parts[1] {
			t.Fatalf("%q was read as something else", raw)
		}
		if !json.Valid(m.Header) {
			t.Fatalf("header %q is no JSON", m.Header)
		}
		for _, key := range []any{&p256.PublicKey, ed.Public(), &rsaKey.PublicKey} {
			for _, alg := range []string{"ES256", "EdDSA", "RS256", "PS256", "HS256"} {
				if m.Verify(alg, key) == nil {
					t.Fatalf("%q verifies with a key that signed nothing", raw)
				}
			}
		}
	})
}
