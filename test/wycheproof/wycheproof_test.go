package wycheproof_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"testing"

	vectors "github.com/c2sp/wycheproof"

	"github.com/wsbouncer/wsbouncer/internal/jws"
	"github.com/wsbouncer/wsbouncer/token"
)

// Valid vectors that are refused on purpose, by file and number.
var refused = map[string]map[int]string{
	"json_web_signature_test.json": {
		346: "the key says PS256, the token is PS384", 350: "the key says PS256, the token is PS384",
		347: "the key's alg is ES521, which is none", 351: "the key's alg is ES521, which is none",
		372: "a question mark is no base64url", 373: "a question mark is no base64url",
	},
	"json_web_key_test.json": {
		2: "secrets do not come in a key set",
	},
	"json_web_crypto_test.json": {
		48: "secrets do not come in a key set",
		50: "encrypted", 67: "encrypted",
	},
}

// Invalid vectors that are, byte for byte, also there as valid ones: the padding
// they were made to show was lost in the file. No verifier can satisfy both.
var contradicts = map[int]int{367: 357, 370: 357}

// What every file must come to, so that a change of the vectors is looked at.
var want = map[string]tally{
	"json_web_signature_test.json": {accepted: 40, rejected: 353, onPurpose: 6, contradictory: 2},
	"json_web_key_test.json":       {accepted: 4, rejected: 21, onPurpose: 1},
	"json_web_crypto_test.json":    {accepted: 3, rejected: 77, onPurpose: 3},
}

type tally struct{ accepted, rejected, onPurpose, contradictory int }

type file struct {
	NumberOfTests int
	TestGroups    []struct {
		Comment         string
		Public, Private json.RawMessage
		Tests           []struct {
			TcID    int
			Comment string
			JWS     json.RawMessage
			JWE     json.RawMessage
			Result  string
		}
	}
}

func TestJWT20Vectors(t *testing.T) {
	for name, want := range want {
		t.Run(name, func(t *testing.T) {
			b, err := fs.ReadFile(vectors.TestVectors, name)
			if err != nil {
				t.Fatal(err)
			}
			var f file
			if err := json.Unmarshal(b, &f); err != nil {
				t.Fatal(err)
			}
			var got tally
			valid := map[int]string{}
			for _, g := range f.TestGroups {
				document := g.Public
				if document == nil {
					document = g.Private
				}
				for _, v := range g.Tests {
					signatures := name == "json_web_signature_test.json"
					raw := text(v.JWS, v.JWE)
					err := verify(document, raw, signatures)
					why, onPurpose := refused[name][v.TcID]
					twin, contradictory := contradicts[v.TcID]
					if v.Result == "valid" {
						valid[v.TcID] = raw
					}
					switch {
					case signatures && contradictory:
						if raw != valid[twin] {
							t.Errorf("%d is no longer the same as %d, which is valid", v.TcID, twin)
						}
						got.contradictory++
					case v.Result == "invalid" && err == nil:
						t.Errorf("WRONG ACCEPT: %d %s, %s", v.TcID, g.Comment, v.Comment)
					case v.Result == "invalid":
						got.rejected++
					case v.Result != "valid":
						t.Errorf("%d: a result %q", v.TcID, v.Result)
					case onPurpose && err == nil:
						t.Errorf("%d %s, %s is accepted, although %s", v.TcID, g.Comment, v.Comment, why)
					case onPurpose:
						got.onPurpose++
					case err != nil:
						t.Errorf("%d %s, %s: %v", v.TcID, g.Comment, v.Comment, err)
					default:
						got.accepted++
					}
				}
			}
			t.Logf("%d vectors: %d valid accepted, %d invalid refused, %d valid refused on purpose, %d both valid and invalid",
				f.NumberOfTests, got.accepted, got.rejected, got.onPurpose, got.contradictory)
			if got != want || got.accepted+got.rejected+got.onPurpose+got.contradictory != f.NumberOfTests {
				t.Errorf("%+v of %d, want %+v", got, f.NumberOfTests, want)
			}
		})
	}
}

// text is what a stranger would send: a string, or JSON as it stands.
func text(jws, jwe json.RawMessage) string {
	raw := jws
	if raw == nil {
		raw = jwe
	}
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	return string(raw)
}

var public = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

type key struct {
	Kty string
	K   string
	Alg *string
	Use *string
}

// verify does what the verifier does between reading a token and its claims.
// layerOnly takes a secret as it is, because it asks about signatures and not
// about the strength of secrets.
func verify(document json.RawMessage, raw string, layerOnly bool) error {
	m, err := jws.Parse(raw, 64<<10)
	if err != nil {
		return err
	}
	keys, err := load(document, m, layerOnly)
	if err != nil {
		return err
	}
	var fits []token.Key
	for _, k := range keys {
		if k.Algorithm == m.Algorithm {
			fits = append(fits, k)
		}
	}
	if len(fits) != 1 {
		return fmt.Errorf("%d keys fit", len(fits))
	}
	return m.Verify(fits[0].Algorithm, fits[0].Public)
}

func load(document json.RawMessage, m *jws.Message, layerOnly bool) ([]token.Key, error) {
	var k key
	if err := json.Unmarshal(document, &k); err != nil {
		return nil, err
	}
	if k.Kty == "" { // a set, unless it is a set of one secret
		var set struct{ Keys []json.RawMessage }
		if err := json.Unmarshal(document, &set); err != nil {
			return nil, err
		}
		if len(set.Keys) == 1 {
			return load(set.Keys[0], m, layerOnly)
		}
		return ask(document, m, public)
	}
	if k.Kty != "oct" {
		algs := public
		if k.Alg == nil {
			algs = []string{m.Algorithm} // whatever the sender would like
		}
		return ask([]byte(`{"keys":[`+string(document)+`]}`), m, algs)
	}
	secret, err := base64.RawURLEncoding.DecodeString(k.K)
	switch {
	case err != nil:
		return nil, err
	case k.Alg == nil || k.Use == nil || *k.Use != "sig":
		return nil, errors.New("not a secret for signatures")
	case layerOnly:
		return []token.Key{{Algorithm: *k.Alg, Public: secret}}, nil
	}
	s, err := token.Secret(secret, []string{*k.Alg})
	if err != nil {
		return nil, err
	}
	keys, _ := s.Keys(m.KeyID)
	return keys, nil
}

func ask(set []byte, m *jws.Message, algs []string) ([]token.Key, error) {
	s, err := token.JWKS(set, algs)
	if err != nil {
		return nil, err
	}
	keys, _ := s.Keys(m.KeyID)
	return keys, nil
}
