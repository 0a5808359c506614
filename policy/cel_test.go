package policy_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer/policy"
)

func vars(t testing.TB, claims, msg string) policy.Vars {
	t.Helper()
	v := policy.Vars{
		policy.Scopes: []string{"chat", "chat:write"}, policy.Issuer: "https://rt.example", policy.Subject: "ann", policy.Session: "s",
		policy.Path: map[string]string{"room": "lobby"}, policy.Query: map[string]string{}, policy.IP: "192.0.2.1", policy.Origin: "",
		policy.Now: time.Unix(1_800_000_000, 0), policy.Act: "send", policy.Target: "a/b", policy.Size: 120,
	}
	for name, doc := range map[string]string{policy.Claims: claims, policy.Message: msg} {
		j, err := policy.JSON([]byte(doc))
		if err != nil {
			t.Fatal(err)
		}
		v[name] = j
	}
	return v
}

func TestExpressions(t *testing.T) {
	v := vars(t, `{"tenant":"42","level":3,"groups":["staff"],"address":{"country":"DE"},"huge":9007199254740993,"ratio":0.5}`,
		`{"type":"send","room":"lobby","n":1e300,"list":[1,2,3]}`)
	for text, want := range map[string]bool{
		`"staff" in claims.groups`: true, `claims.level >= 3 && claims.tenant == "42"`: true, `claims.ratio < 1`: true,
		`msg.room == path.room`: true, `msg.room == path["room"] && size < 200`: true, `"chat" in scopes`: true, `msg.list.exists(x, x > 2)`: true,
		`has(claims.address.country) && claims.address.country in ["DE", "AT"]`: true, `now < timestamp("2030-01-01T00:00:00Z")`: true, `claims.level + 1 == 4`: true,
		`ip.startsWith("192.0.2.")`: true, `has(claims.none) && claims.none`: false, `claims[?"none"].orValue(false)`: false, `action == "send" && target.split("/")[0] == "a"`: true,
	} {
		p, err := policy.Messages.Compile(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got, err := p.Allow(v); got != want || err != nil {
			t.Errorf("%s: %v %v", text, got, err)
		}
	}
}

func TestAZ02ErrorsDeny(t *testing.T) {
	v := vars(t, `{"huge":9007199254740993,"level":"3","x":true}`, `{"n":9007199254740992,"big":1e22,"text":"`+strings.Repeat("a", 10_000)+`"}`)
	for text, why := range map[string]string{
		`claims.none == 1`: "no such key", `claims.level > 2`: "overload", `1 / 0 == 1`: "evaluated", `claims.huge > 1`: "evaluated", `msg.n > 1`: "evaluated", `msg.big > 1`: "evaluated",
		`claims.level`: "neither true nor false", `path.none == "x"`: "no such key",
		`msg.text.split("").exists(a, msg.text.split("").exists(b, a + b == "zz"))`: "costs more",
	} {
		p, err := policy.Messages.Compile(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		began := time.Now()
		got, err := p.Allow(v)
		if got || err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v %v, want %s", text, got, err, why)
		}
		if d := time.Since(began); d > 5*time.Second {
			t.Errorf("%s took %v", text, d)
		}
	}
}

func TestExpressionsThatDoNotCompile(t *testing.T) {
	for text, want := range map[string]policy.ExpressionError{
		`claims.a ==`: {Line: 1, Column: 12}, "true &&\n  roles": {Line: 2, Column: 3}, `"a" + 1 == "b"`: {Line: 1, Column: 5},
		`"a"`: {Line: 1, Column: 1}, `msg.x`: {Line: 1, Column: 1}, strings.Repeat("(", 200) + "true" + strings.Repeat(")", 200): {}, strings.Repeat(" ", 9000): {Line: 1, Column: 1},
		"": {},
	} {
		_, err := policy.Connections.Compile(text)
		var e *policy.ExpressionError
		if !errors.As(err, &e) || want.Line != 0 && (e.Line != want.Line || e.Column != want.Column) || e.Message == "" {
			t.Errorf("%.40q: %v", text, err)
		}
	}
	if _, err := policy.Logins.Compile("subject == \"x\""); err == nil {
		t.Error("a login's rule sees a subject")
	}
}

func TestValues(t *testing.T) {
	v := vars(t, `{"org":{"id":7},"groups":["a","b"]}`, `{}`)
	for text, want := range map[string]any{`string(claims.org.id)`: "7", `claims.org.id`: 7.0, `size(claims.groups) > 1`: true} {
		p, err := policy.Connections.CompileValue(text)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := p.Value(v); got != want || err != nil {
			t.Errorf("%s: %v %v", text, got, err)
		}
	}
}

func BenchmarkFiveTerms(b *testing.B) {
	p, err := policy.Messages.Compile(`msg.room == path.room && claims.tenant == "42" && "chat" in scopes && size < 4096 && !(subject in ["eve"])`)
	if err != nil {
		b.Fatal(err)
	}
	v := vars(b, `{"tenant":"42"}`, `{"room":"lobby"}`)
	b.ReportAllocs()
	for b.Loop() {
		if ok, err := p.Allow(v); !ok || err != nil {
			b.Fatal(ok, err)
		}
	}
}
