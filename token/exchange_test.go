package token_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer/token"
)

func TestExchangedTokens(t *testing.T) {
	ring, err := token.OpenRing(token.RingOptions{Path: filepath.Join(t.TempDir(), "keys"), Algorithm: "EdDSA", Overlap: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	own := token.Issuer{Name: "own", Audience: "gw", Algorithms: []string{"EdDSA", "ES256"}, Keys: ring, Own: true}
	v, err := token.NewVerifier(token.Options{Issuers: []token.Issuer{own}})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Truncate(time.Second)
	a := token.AccessToken{Issuer: "own", Audience: "gw", Subject: "foreign:x", ClientID: "backend", IssuedAt: now, Expiry: now.Add(time.Minute)}
	foreign := &token.Token{Issuer: "https://idp", Subject: "bob", Session: "s", ID: "j", KeyID: "k", IssuedAt: now.Add(-time.Minute), Leeway: 10 * time.Second, Rev: 3}
	a.From, a.Actor = foreign, &token.Actor{Subject: "client:backend"}
	chain := []*token.Token{}
	for len(chain) < 4 {
		raw, err := ring.Sign(a)
		if err != nil {
			t.Fatal(err)
		}
		got, err := v.Verify(t.Context(), raw)
		if err != nil {
			t.Fatal(err)
		}
		chain = append(chain, got)
		a.From, a.ID = got, ""
	}
	if _, err := ring.Sign(a); err == nil || a.From.Exchangeable() {
		t.Error("exchanged too often, and signed")
	}
	f := chain[0].From
	if f.Issuer != foreign.Issuer || f.Subject != "bob" || f.Session != "s" || f.ID != "j" || f.KeyID != "k" || f.Own || f.HasRev || f.From != nil {
		t.Errorf("%+v", f)
	}
	// The leeway is in iat already: what revokes the one revokes the other.
	if !f.IssuedAt.Equal(foreign.IssuedAt.Add(-foreign.Leeway)) || f.Leeway != 0 {
		t.Errorf("issued %s with leeway %s", f.IssuedAt, f.Leeway)
	}
	last := chain[3].From
	if !last.Own || last.ID != chain[2].ID || !last.HasRev || last.From.ID != chain[1].ID || last.From.From.From.ID != "j" || !last.IssuedAt.Equal(now) {
		t.Errorf("%+v", last)
	}
	for _, name := range []string{"act", "src", "Src"} {
		a.From, a.Actor, a.Extra = nil, nil, map[string]any{name: "x"}
		if _, err := ring.Sign(a); err == nil {
			t.Errorf("the extra claim %s is the caller's", name)
		}
	}
}

// A src that cannot be read would let the token outlive what it was exchanged for.
func TestExchangedTokensWithAnOddSource(t *testing.T) {
	keys := &changingKeys{}
	keys.set(es256("k", "p256"))
	i := issuer(keys)
	for _, c := range []struct {
		src  string
		good bool
	}{
		{`{"iss":"x","sub":"y"}`, true},
		{`{"iss":"x","sub":"y","sid":"s","jti":"j","kid":"k","iat":1,"rev":0,"src":{"iss":"x","sub":"z"}}`, true},
		{`null`, false}, {`""`, false}, {`[]`, false}, {`{}`, false}, {`1`, false},
		{`{"iss":"x"}`, false}, {`{"sub":"x"}`, false}, {`{"iss":1,"sub":"y"}`, false},
		{`{"iss":"x","sub":"y","more":1}`, false}, {`{"iss":"x","sub":"y","iat":"1"}`, false},
		{`{"iss":"x","sub":"y\u0000"}`, false}, {`{"iss":"x","sub":"y","src":{}}`, false},
		{strings.Repeat(`{"iss":"x","sub":"y","src":`, 4) + `{"iss":"x","sub":"y"}` + strings.Repeat("}", 4), false},
	} {
		for _, own := range []bool{true, false} {
			i.Own = own
			v, err := token.NewVerifier(token.Options{Issuers: []token.Issuer{i}})
			if err != nil {
				t.Fatal(err)
			}
			now := time.Now().Unix()
			got, err := v.Verify(t.Context(), forge(t, "ES256", testKeys()["p256"], `{"alg":"ES256","kid":"k","typ":"at+jwt"}`,
				fmt.Sprintf(`{"iss":"i","sub":"alice","aud":"gw","jti":"j","rev":1,"iat":%d,"exp":%d,"src":%s}`, now, now+60, c.src)))
			switch {
			case own && c.good != (err == nil):
				t.Errorf("%s: %v", c.src, err)
			case own && c.good && got.From == nil, !own && (err != nil || got.From != nil):
				t.Errorf("%s, own %v: %v", c.src, own, err)
			}
		}
	}
}
