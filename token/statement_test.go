package token_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer/token"
)

func TestVerifyStatement(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	by := issuer(&changingKeys{keys: []token.Key{es256("k1", "p256")}})
	by.Leeway = 5 * time.Second
	logout := token.StatementRules{Types: []string{"logout+jwt", ""}, Audience: "client", MaxAge: 2 * time.Minute}
	assertion := token.StatementRules{Types: []string{""}, Audience: "client", Expires: true, MaxLifetime: 5 * time.Minute}
	claims := func(more string) string {
		return fmt.Sprintf(`{"iss":%q,"aud":["x","client"],"sub":"ann","sid":"s1","jti":"j1"%s}`, by.Name, more)
	}
	iat := func(ago time.Duration) string { return fmt.Sprintf(`,"iat":%d`, now.Add(-ago).Unix()) }
	exp := func(in time.Duration) string { return fmt.Sprintf(`,"exp":%d`, now.Add(in).Unix()) }
	for name, c := range map[string]struct {
		header, payload, key string
		rules                token.StatementRules
		code                 string
	}{
		"logout token":            {`"typ":"logout+jwt"`, claims(iat(time.Minute)), "p256", logout, ""},
		"typ is a media type":     {`"typ":"application/logout+JWT"`, claims(iat(0)), "p256", logout, ""},
		"no typ":                  {"", claims(iat(time.Minute)), "p256", logout, ""},
		"typ JWT":                 {`"typ":"JWT"`, claims(iat(time.Minute)), "p256", logout, ""},
		"early within the leeway": {"", claims(iat(-5 * time.Second)), "p256", logout, ""},
		"exp that was not needed": {"", claims(iat(0) + exp(time.Minute)), "p256", logout, ""},
		"assertion":               {"", claims(exp(5 * time.Minute)), "p256", assertion, ""},

		"access token":        {`"typ":"at+jwt"`, claims(iat(0)), "p256", token.StatementRules{Types: []string{"at+jwt"}, Audience: "client"}, token.CodeType},
		"another typ":         {`"typ":"secevent+jwt"`, claims(iat(0)), "p256", logout, token.CodeType},
		"no typ where one":    {"", claims(iat(0)), "p256", token.StatementRules{Types: []string{"secevent+jwt"}, Audience: "client"}, token.CodeType},
		"another issuer":      {"", `{"iss":"https://evil.example","aud":"client"}`, "p256", logout, token.CodeIssuer},
		"no issuer":           {"", `{"aud":"client"}`, "p256", logout, token.CodeIssuer},
		"another key":         {"", claims(iat(0)), "p256-other", logout, token.CodeSignature},
		"another audience":    {"", claims(iat(0)), "p256", token.StatementRules{Types: []string{""}, Audience: "clien"}, token.CodeAudience},
		"no audience wanted":  {"", claims(iat(0)), "p256", token.StatementRules{Types: []string{""}}, token.CodeAudience},
		"no iat":              {"", claims(""), "p256", logout, token.CodeMalformed},
		"old":                 {"", claims(iat(126 * time.Second)), "p256", logout, token.CodeExpired},
		"from the future":     {"", claims(iat(-6 * time.Second)), "p256", logout, token.CodeNotYetValid},
		"nbf":                 {"", claims(iat(0) + fmt.Sprintf(`,"nbf":%d`, now.Unix()+60)), "p256", logout, token.CodeNotYetValid},
		"exp that has passed": {"", claims(iat(0) + exp(-5*time.Second)), "p256", logout, token.CodeExpired},
		"no exp":              {"", claims(iat(0)), "p256", assertion, token.CodeMalformed},
		"exp far away":        {"", claims(exp(6 * time.Minute)), "p256", assertion, token.CodeLifetime},
		"twice a name":        {"", claims(iat(0) + `,"sub":"bob"`), "p256", logout, token.CodeMalformed},
		"not an object":       {"", `[]`, "p256", logout, token.CodeMalformed},
	} {
		header := `{"alg":"ES256","kid":"k1"`
		if c.header != "" {
			header += "," + c.header
		}
		s, err := token.VerifyStatement(forge(t, "ES256", testKeys()[c.key], header+"}", c.payload), by, c.rules, now)
		switch {
		case c.code != "" && !errors.Is(err, &token.Error{Code: c.code}):
			t.Errorf("%s: %v, want %s", name, err, c.code)
		case c.code == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.code == "" && (s.Subject != "ann" || s.Session != "s1" || s.ID != "j1" || s.KeyID != "k1" || s.Issuer != by.Name):
			t.Errorf("%s: %+v", name, s)
		}
	}
	if _, err := token.VerifyStatement(b64([]byte(`{"alg":"none"}`))+"."+b64([]byte(claims(iat(0))))+".", by, logout, now); err == nil {
		t.Error("unsigned, and believed")
	}
}
