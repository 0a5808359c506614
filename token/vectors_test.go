package token_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/go-jose/go-jose/v4"

	"github.com/wsbouncer/wsbouncer/token"
)

// vectorFile is vectors/tokens.json, which says itself how it is read.
type vectorFile struct {
	About   string
	Base    vectorCase
	Issuers map[string]struct{ Iss, About, Kid string }
	Cases   []vectorCase
}

type vectorCase struct {
	Row, Name, Expect, Issuer, Alg, Key, Kid, Signature, Text, Subject string

	Header, Payload map[string]any
	HeaderRaw       *string `json:"header_raw"`
	PayloadRaw      *string `json:"payload_raw"`
	Scopes          []string
}

func readVectors(t testing.TB) vectorFile {
	t.Helper()
	b, err := os.ReadFile("../vectors/tokens.json")
	if err != nil {
		t.Fatal(err)
	}
	var f vectorFile
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&f); err != nil {
		t.Fatal(err)
	}
	return f
}

// vectorIssuers are the issuers that the file speaks of.
func vectorIssuers(t testing.TB) []token.Issuer {
	t.Helper()
	many := []string{"RS256", "RS384", "PS256", "ES256", "ES384", "ES512", "EdDSA"}
	secret, err := token.Secret(testKeys()["secret"].([]byte), []string{"HS256"})
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(public("rsa"))
	if err != nil {
		t.Fatal(err)
	}
	pemKey, err := token.PEM(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), []string{"RS256"})
	if err != nil {
		t.Fatal(err)
	}
	key := func(name, kid, alg string) jose.JSONWebKey {
		return jose.JSONWebKey{Key: public(name), KeyID: kid, Algorithm: alg, Use: "sig"}
	}
	return []token.Issuer{
		{Name: "https://a.example", Audience: "gw", Algorithms: []string{"ES256", "RS256"}, Leeway: 10 * time.Second,
			Keys: jwks(t, []string{"ES256", "RS256"}, key("p256", "k1", "ES256"), key("rsa", "k2", "RS256"))},
		{Name: "https://b.example", Audience: "gw", Algorithms: []string{"ES256"}, AnyType: true, ScopeClaim: "scp",
			Keys: jwks(t, []string{"ES256"}, key("p256-other", "k1", "ES256"))},
		{Name: "https://many.example", Audience: "gw", Algorithms: many,
			Keys: jwks(t, many, key("rsa", "rsa-rs256", "RS256"), key("rsa-other", "rsa-ps256", "PS256"), key("p256", "p256", "ES256"),
				key("p256-other", "p256-2", "ES256"), key("p384", "p384", "ES384"), key("p521", "p521", "ES512"), key("ed25519", "ed25519", "EdDSA"))},
		{Name: "https://secret.example", Audience: "gw", Algorithms: []string{"HS256"}, Keys: secret},
		{Name: "https://pem.example", Audience: "gw", Algorithms: []string{"RS256"}, Keys: pemKey},
		{Name: "https://own.example", Audience: "gw", Algorithms: []string{"ES256"}, Own: true,
			Keys: jwks(t, []string{"ES256"}, key("p256", "k1", "ES256"))},
	}
}

// signingKey is the issuer's own key, by kid where it has several.
func signingKey(c vectorCase) any {
	name := c.Key
	switch {
	case name == "rsa-rs256" || name == "" && (c.Kid == "rsa-rs256" || c.Issuer == "pem"):
		name = "rsa"
	case name == "rsa-ps256" || name == "" && c.Kid == "rsa-ps256":
		name = "rsa-other"
	case name != "":
	case c.Issuer == "b":
		name = "p256-other"
	case c.Issuer == "secret":
		name = "secret"
	case c.Issuer == "many":
		name = c.Kid
	default:
		name = "p256"
	}
	return testKeys()[name]
}

var (
	quotedTime = regexp.MustCompile(`"\$\{now([+-]\d+)?\}"`)
	plainTime  = regexp.MustCompile(`\$\{now([+-]\d+)?\}`)
)

// make is the token that the case describes.
func (f vectorFile) make(t testing.TB, c vectorCase, now time.Time) string {
	t.Helper()
	fill := func(raw *string, base, patch map[string]any) string {
		var text string
		if raw != nil {
			text = *raw
		} else {
			merged := maps.Clone(base)
			for k, v := range patch {
				if v == nil {
					delete(merged, k)
				} else {
					merged[k] = v
				}
			}
			b, err := json.Marshal(merged)
			if err != nil {
				t.Fatal(err)
			}
			text = string(b)
		}
		number := func(match string) string {
			offset := 0
			if m := plainTime.FindStringSubmatch(match); m[1] != "" {
				offset, _ = strconv.Atoi(m[1])
			}
			return strconv.FormatInt(now.Unix()+int64(offset), 10)
		}
		text = quotedTime.ReplaceAllStringFunc(text, number)
		text = plainTime.ReplaceAllStringFunc(text, number)
		return strings.NewReplacer("${iss}", f.Issuers[c.Issuer].Iss, "${alg}", c.Alg, "${kid}", c.Kid).Replace(text)
	}
	header := fill(c.HeaderRaw, f.Base.Header, c.Header)
	payload := fill(c.PayloadRaw, f.Base.Payload, c.Payload)
	switch c.Text {
	case "many header members":
		for i := range 400 {
			header = strings.Replace(header, "{", fmt.Sprintf(`{"%d":1,`, i), 1)
		}
	case "utf-16":
		var b []byte
		for _, u := range utf16.Encode([]rune(payload)) {
			b = append(b, byte(u>>8), byte(u))
		}
		payload = string(b)
	case "invalid utf-8":
		payload = strings.Replace(payload, "alice", "al\xffice", 1)
	}
	return change(t, c, forge(t, c.Alg, signingKey(c), header, payload))
}

func change(t testing.TB, c vectorCase, raw string) string {
	t.Helper()
	parts := strings.Split(raw, ".")
	sig, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil {
		t.Fatal(err)
	}
	switch c.Signature {
	case "":
	case "none":
		sig = nil
	case "zeros":
		sig = make([]byte, 64)
	case "short":
		sig = sig[:len(sig)-1]
	case "long":
		sig = append(sig, 0)
	case "der":
		sig, err = asn1.Marshal([]*big.Int{new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])})
		if err != nil {
			t.Fatal(err)
		}
	default:
		t.Fatalf("no such change of a signature: %q", c.Signature)
	}
	parts[2] = b64(sig)
	raw = strings.Join(parts, ".")
	switch c.Text {
	case "", "many header members", "utf-16", "invalid utf-8":
		return raw
	case "two parts":
		return parts[0] + "." + parts[1]
	case "trailing dot":
		return raw + "."
	case "other payload":
		body, err := base64.RawURLEncoding.DecodeString(parts[1])
		if err != nil {
			t.Fatal(err)
		}
		return parts[0] + "." + b64(bytes.Replace(body, []byte("alice"), []byte("admin"), 1)) + "." + parts[2]
	case "padding":
		return raw + "="
	case "newline":
		return raw[:len(raw)-4] + "\n" + raw[len(raw)-4:]
	case "space":
		return raw[:len(raw)-4] + " " + raw[len(raw)-4:]
	case "percent":
		return raw[:len(raw)-4] + "%" + raw[len(raw)-4:]
	case "plus":
		return raw[:len(raw)-1] + "+"
	case "leading space":
		return " " + raw
	case "trailing newline":
		return raw + "\n"
	case "NUL at the end":
		return raw + "\x00"
	case "unused bits":
		// 64 bytes end in a character of which four bits count for nothing.
		const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
		return raw[:len(raw)-1] + string(alphabet[strings.IndexByte(alphabet, raw[len(raw)-1])+1])
	case "flattened":
		return fmt.Sprintf(`{"protected":%q,"payload":%q,"signature":%q}`, parts[0], parts[1], parts[2])
	case "general":
		return fmt.Sprintf(`{"payload":%q,"signatures":[{"protected":%q,"signature":%q}]}`, parts[1], parts[0], parts[2])
	case "jwe":
		return raw + ".AAAA.AAAA"
	case "megabyte of dots":
		return strings.Repeat(".", 1<<20)
	case "64 KiB":
		return raw + strings.Repeat("A", 64<<10)
	case "dots":
		return strings.Repeat(".", 8<<10)
	}
	t.Fatalf("no such change of a text: %q", c.Text)
	return ""
}

func TestJWTVectors(t *testing.T) {
	f := readVectors(t)
	issuers := vectorIssuers(t)
	names := map[string]string{}
	for name, i := range f.Issuers {
		names[i.Iss] = name
	}
	for _, i := range issuers {
		if names[i.Name] == "" {
			t.Fatalf("the file does not describe %s", i.Name)
		}
	}
	v := verifier(t, token.Options{Issuers: issuers})
	count := map[string]int{}
	for _, c := range f.Cases {
		if c.Issuer == "" {
			c.Issuer = f.Base.Issuer
		}
		if c.Alg == "" {
			c.Alg = f.Base.Alg
		}
		if c.Kid == "" {
			c.Kid = f.Issuers[c.Issuer].Kid
		}
		count[c.Expect]++
		t.Run(c.Row+" "+c.Name, func(t *testing.T) {
			raw := f.make(t, c, time.Now())
			// Twice, because the second answer may come of the cache.
			for range 2 {
				got, err := v.Verify(context.Background(), raw)
				if code(t, err) != c.Expect {
					t.Fatalf("%v, want %s\n%.300s", err, c.Expect, raw)
				}
				if (err == nil) != (got != nil) {
					t.Fatal("neither or both of token and error")
				}
				if err != nil {
					continue
				}
				want := c.Subject
				if want == "" {
					want = "alice"
				}
				if got.Subject != want || got.Issuer != f.Issuers[c.Issuer].Iss || got.KeyID == "" {
					t.Errorf("%+v", got)
				}
				if c.Scopes != nil && !slices.Equal(got.Scopes, c.Scopes) {
					t.Errorf("scopes %q, want %q", got.Scopes, c.Scopes)
				}
			}
		})
	}
	t.Logf("cases: %v", count)
	if count["ok"] < 30 || count[token.CodeSignature] < 20 || count[token.CodeMalformed] < 80 {
		t.Errorf("the file has lost its cases: %v", count)
	}
}
