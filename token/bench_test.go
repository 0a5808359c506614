package token_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/wsbouncer/wsbouncer/token"
)

// BenchmarkVerify compares, for each algorithm, a token seen before (hit), one
// that is verified in full (miss), and go-jose alone, which checks a signature
// and no claim.
func BenchmarkVerify(b *testing.B) {
	for _, k := range [][2]string{{"EdDSA", "ed25519"}, {"ES256", "p256"}, {"RS256", "rsa"}, {"PS256", "rsa"}, {"HS256", "secret"}} {
		alg, key := k[0], k[1]
		set := new(changingKeys)
		set.set(token.Key{ID: "k1", Algorithm: alg, Public: public(key)})
		i := token.Issuer{Name: "https://issuer.example", Audience: "gw", Algorithms: []string{alg}, Keys: set}
		now := time.Now().Unix()
		raw := forge(b, alg, testKeys()[key], fmt.Sprintf(`{"alg":%q,"kid":"k1","typ":"at+jwt"}`, alg), fmt.Sprintf(
			`{"iss":"https://issuer.example","sub":"alice","aud":"gw","iat":%d,"exp":%d,"jti":"0123456789abcdef","sid":"0123456789abcdef","client_id":"web","scope":"chat chat:write"}`, now, now+3600))
		for _, cache := range []struct {
			name string
			size int
		}{{"hit", 0}, {"miss", -1}} {
			v := verifier(b, token.Options{Issuers: []token.Issuer{i}, CacheSize: cache.size})
			b.Run(alg+"/"+cache.name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if _, err := v.Verify(context.Background(), raw); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
		b.Run(alg+"/go-jose", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s, err := jose.ParseSignedCompact(raw, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(alg)})
				if err != nil {
					b.Fatal(err)
				}
				if _, err := s.Verify(public(key)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkRefuse is what strangers can make us do: none of it is signature
// work but the last.
func BenchmarkRefuse(b *testing.B) {
	v := verifier(b, token.Options{Issuers: vectorIssuers(b)})
	f := readVectors(b)
	for _, name := range []string{"a megabyte of dots", "8 KiB of dots", "an unknown issuer is decided before the type", "kid is unknown", "another key's signature"} {
		for _, c := range f.Cases {
			if c.Name != name {
				continue
			}
			c.Issuer, c.Alg, c.Kid = "a", "ES256", "k1"
			raw := f.make(b, c, time.Now())
			b.Run(name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if _, err := v.Verify(context.Background(), raw); err == nil {
						b.Fatal("verified")
					}
				}
			})
		}
	}
}

func BenchmarkSign(b *testing.B) {
	for _, alg := range []string{"EdDSA", "ES256", "RS256"} {
		o := ringOptions(b)
		o.Algorithm = alg
		r := openRing(b, o)
		b.Run(alg, func(b *testing.B) {
			for b.Loop() {
				mustSign(b, r)
			}
		})
	}
}
