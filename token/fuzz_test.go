package token_test

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer/token"
)

// FuzzVerify: no text that our keys did not sign is ever a token. The fuzzer
// begins with every vector, signed with a key that the verifier does not know.
func FuzzVerify(f *testing.F) {
	file := readVectors(f)
	now := time.Now()
	for _, c := range file.Cases {
		if c.Issuer == "" {
			c.Issuer = "a"
		}
		if c.Alg == "" {
			c.Alg = file.Base.Alg
		}
		if c.Kid == "" {
			c.Kid = file.Issuers[c.Issuer].Kid
		}
		if raw := file.make(f, c, now); len(raw) < 9<<10 {
			f.Add(raw)
		}
	}
	// Sets of the same names with other keys: nothing that is signed fits them.
	stranger := new(changingKeys)
	stranger.set(token.Key{ID: "k1", Algorithm: "ES384", Public: public("p384")}, token.Key{ID: "k2", Algorithm: "RS384", Public: public("rsa-other")})
	var issuers []token.Issuer
	for _, i := range vectorIssuers(f) {
		i.Algorithms, i.Keys = []string{"ES384", "RS384"}, stranger
		issuers = append(issuers, i)
	}
	v := verifier(f, token.Options{Issuers: issuers})
	f.Fuzz(func(t *testing.T, raw string) {
		got, err := v.Verify(context.Background(), raw)
		if err == nil || got != nil {
			t.Fatalf("%q verifies", raw)
		}
		if c := code(t, err); !strings.HasPrefix(c, "token_") {
			t.Fatalf("code %q", c)
		}
		if header, payload, err := token.Inspect(raw); err == nil && (!json.Valid(header) || !json.Valid(payload)) {
			t.Fatalf("%q is shown as no JSON", raw)
		}
	})
}

// FuzzClaims signs whatever payload comes, so that the fuzzer works behind the
// signature. A payload that verifies must say what encoding/json reads in it.
func FuzzClaims(f *testing.F) {
	file := readVectors(f)
	for _, c := range file.Cases {
		if c.PayloadRaw != nil {
			f.Add(strings.NewReplacer("${iss}", "i", "${now}", "1700000000", "${now+60}", "99999999999", "${now-100}", "1700000000").Replace(*c.PayloadRaw))
		}
	}
	f.Add(`{"iss":"i","sub":"alice","aud":"gw","exp":99999999999,"scope":"a b","rev":1}`)
	secret, err := token.Secret(testKeys()["secret"].([]byte), []string{"HS256"})
	if err != nil {
		f.Fatal(err)
	}
	v := verifier(f, token.Options{CacheSize: -1, Issuers: []token.Issuer{{Name: "i", Audience: "gw", Algorithms: []string{"HS256"}, Keys: secret, MaxLifetime: 720 * time.Hour}}})
	far := strconv.FormatInt(time.Now().Unix()+3600, 10)
	f.Fuzz(func(t *testing.T, payload string) {
		payload = strings.ReplaceAll(payload, "99999999999", far)
		raw := forge(t, "HS256", testKeys()["secret"], `{"alg":"HS256","typ":"at+jwt"}`, payload)
		got, err := v.Verify(context.Background(), raw)
		if err != nil {
			return
		}
		var want map[string]any
		if err := json.Unmarshal([]byte(payload), &want); err != nil {
			t.Fatalf("%q verifies and is no JSON: %v", payload, err)
		}
		if want["iss"] != got.Issuer || want["sub"] != got.Subject || got.Subject == "" || got.Expiry.IsZero() || want["cnf"] != nil {
			t.Fatalf("%q was read as %+v", payload, got)
		}
		for claim, value := range map[string]string{"sid": got.Session, "jti": got.ID} {
			if s, _ := want[claim].(string); s != value {
				t.Fatalf("%s of %q was read as %q", claim, payload, value)
			}
		}
		for _, s := range got.Scopes {
			if strings.HasPrefix(s, "wsbouncer:") || strings.ContainsAny(s, " \"\\") {
				t.Fatalf("scope %q of another issuer", s)
			}
		}
		if !got.Deadline().After(time.Now().Add(-time.Second)) {
			t.Fatal("verified after its deadline")
		}
	})
}

// FuzzKeySets: whatever the document, no panic, and never a key that is not
// sound for its algorithm.
func FuzzKeySets(f *testing.F) {
	f.Add(document(f))
	f.Add(keySet(member(f, "rsa", nil), member(f, "p256", map[string]any{"kid": nil})))
	f.Add(keySet(member(f, "ed25519", map[string]any{"use": "sig"})))
	f.Add(keySet(`{"kty":"oct","k":"AAAA"}`))
	f.Add([]byte(`{"keys":[{"kty":"RSA","n":"!","e":"AQAB"}]}`))
	f.Add([]byte("-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n"))
	algs := []string{"RS256", "PS384", "ES256", "ES384", "ES512", "EdDSA"}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, load := range []func([]byte, []string) (token.KeySet, error){token.JWKS, token.PEM} {
			set, err := load(b, algs)
			if (err == nil) == (set == nil) {
				t.Fatal("neither or both of set and error")
			}
			if err != nil {
				continue
			}
			keys, _ := set.Keys("")
			if len(keys) == 0 {
				t.Fatal("a set without keys")
			}
			for _, k := range keys {
				if k.ID == "" || k.Public == nil || !strings.Contains("RS256 PS384 ES256 ES384 ES512 EdDSA", k.Algorithm) {
					t.Fatalf("%+v", k)
				}
				if _, secret := k.Public.([]byte); secret {
					t.Fatal("a secret in a public key set")
				}
			}
		}
	})
}

func FuzzMetadata(f *testing.F) {
	f.Add([]byte(`{"issuer":"https://idp.example","jwks_uri":"https://idp.example/keys"}`))
	f.Add([]byte(`{"issuer":"https://idp.example","issuer":"https://evil.example","jwks_uri":"x"}`))
	f.Add([]byte(`{"Issuer":"https://idp.example"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		at, err := token.ReadMetadata(b, "https://idp.example")
		if err != nil {
			return
		}
		var doc struct {
			Issuer string `json:"issuer"`
			Keys   string `json:"jwks_uri"`
		}
		if json.Unmarshal(b, &doc) != nil || doc.Issuer != "https://idp.example" || doc.Keys != at {
			t.Errorf("%q of %q", at, b)
		}
	})
}

// FuzzIntrospection: nothing but active true of this issuer for this audience is
// ever a token.
func FuzzIntrospection(f *testing.F) {
	for _, s := range []string{
		`{"active":true,"sub":"ann","aud":"chat","exp":4102444800}`, `{"active":false,"sub":"ann","aud":"chat","exp":4102444800}`,
		`{"active":"true","sub":"ann"}`, `{"active":true,"active":false}`, `{"Active":true}`, `{"active":true,"iss":"https://evil.example"}`, `[]`,
	} {
		f.Add([]byte(s))
	}
	by := &token.Issuer{Name: "https://opaque.example", Audience: "chat", ScopeClaim: "scope", MaxLifetime: 1 << 62}
	f.Fuzz(func(t *testing.T, b []byte) {
		tok, err := token.JudgeAnswer(b, by, "id", time.Unix(1700000000, 0))
		if err != nil {
			return
		}
		var doc struct {
			Active any
			Iss    *string
		}
		if json.Unmarshal(b, &doc) != nil || doc.Active != true || doc.Iss != nil && *doc.Iss != by.Name || tok.Subject == "" || tok.Issuer != by.Name {
			t.Errorf("%q became %+v", b, tok)
		}
	})
}
