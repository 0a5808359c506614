package policy_test

import (
	"errors"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer/policy"
)

var began = time.Unix(1_800_000_000, 0)

func caller(t testing.TB, claims string, scopes ...string) *policy.Caller {
	t.Helper()
	c, err := policy.NewCaller(policy.Who{
		Issuer: "https://rt.example", Subject: "ann", Session: "s1", Scopes: scopes, Claims: []byte(claims),
		Path: map[string]string{"room": "lobby"}, IP: "192.0.2.1",
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAZ01RulesDecideInTheirOrder(t *testing.T) {
	rules, err := policy.Ruleset{
		OnDeny: policy.Drop,
		Rules: []policy.Rule{
			{Actions: []string{"send", "edit"}, Scopes: []string{"chat:write"}, Allow: "msg.room == path.room", OnDeny: policy.Close},
			{Actions: []string{"typing"}},
			{Actions: []string{"get*"}, Targets: []string{"tenants/${claims.tenant}/#", "public/+"}},
			{Actions: []string{"admin"}, Allow: "claims.admin && 1 / claims.zero == 1"},
			{Targets: []string{"open"}, Allow: "size < 10"},
		},
	}.Compile()
	if err != nil {
		t.Fatal(err)
	}
	ann := caller(t, `{"tenant":42,"admin":true,"zero":0}`, "chat", "chat:write")
	reader := caller(t, `{"tenant":"x/y"}`, "chat")
	room := func(r string) []byte { return []byte(`{"room":"` + r + `"}`) }
	for _, c := range []struct {
		who  *policy.Caller
		a    policy.Action
		rule int
		ok   bool
		on   string
	}{
		{ann, policy.Action{Name: "send", Message: room("lobby")}, 0, true, policy.Close},
		{ann, policy.Action{Name: "send", Message: room("other")}, 0, false, policy.Close},
		{ann, policy.Action{Name: "send", Message: []byte(`{}`)}, 0, false, policy.Close},
		{ann, policy.Action{Name: "send"}, 0, false, policy.Close},
		{ann, policy.Action{Name: "Send", Message: room("lobby")}, -1, false, policy.Drop},
		{reader, policy.Action{Name: "edit", Message: room("lobby")}, 0, false, policy.Close},
		{reader, policy.Action{Name: "typing"}, 1, true, policy.Drop},
		{ann, policy.Action{Name: "getUser", Target: "tenants/42/a/b"}, 2, true, policy.Drop},
		{ann, policy.Action{Name: "getUser", Target: "tenants/43/a"}, -1, false, policy.Drop},
		{ann, policy.Action{Name: "get", Target: "public/x"}, 2, true, policy.Drop},
		{reader, policy.Action{Name: "get", Target: "tenants/x/y"}, -1, false, policy.Drop},
		{ann, policy.Action{Name: "admin"}, 3, false, policy.Drop},
		{reader, policy.Action{Name: "admin"}, 3, false, policy.Drop},
		{ann, policy.Action{Name: "x", Target: "open", Size: 9}, 4, true, policy.Drop},
		{ann, policy.Action{Name: "x", Target: "open", Size: 10}, 4, false, policy.Drop},
		{ann, policy.Action{Name: "", Target: ""}, -1, false, policy.Drop},
	} {
		d := rules.Decide(c.who, c.a, nil, began)
		if d.Allowed != c.ok || d.Rule != c.rule || !c.ok && (d.OnDeny != c.on || d.Why == "") {
			t.Errorf("%+v: %+v, want %+v", c.a, d, c)
		}
	}
}

func TestLimitsOfRules(t *testing.T) {
	rules, err := policy.Ruleset{Rules: []policy.Rule{
		{Actions: []string{"a"}, Limit: policy.Rate{PerSecond: 2}}, {Actions: []string{"b"}, Limit: policy.Rate{PerSecond: 1, Burst: 3}}, {Actions: []string{"c"}},
	}}.Compile()
	if err != nil {
		t.Fatal(err)
	}
	who := caller(t, `{}`)
	var one, other policy.Meter
	count := func(m *policy.Meter, name string, at time.Time) (n int) {
		for range 10 {
			if rules.Decide(who, policy.Action{Name: name}, m, at).Allowed {
				n++
			}
		}
		return n
	}
	for _, c := range []struct {
		m    *policy.Meter
		name string
		at   time.Duration
		want int
	}{{&one, "a", 0, 2}, {&one, "b", 0, 3}, {&one, "c", 0, 10}, {&other, "a", 0, 2}, {&one, "a", 500 * time.Millisecond, 1}, {&one, "b", 2 * time.Second, 2}, {nil, "a", 0, 10}} {
		if got := count(c.m, c.name, began.Add(c.at)); got != c.want {
			t.Errorf("%s after %v: %d, want %d", c.name, c.at, got, c.want)
		}
	}
}

func TestRulesThatAreWrong(t *testing.T) {
	for key, r := range map[string]policy.Rule{
		"allow": {Allow: "msg.room = 1"}, "target": {Targets: []string{"a/#/b"}}, "action": {Actions: []string{"a["}},
		"on_deny": {OnDeny: "explode"}, "limit": {Limit: policy.Rate{PerSecond: -1}},
	} {
		_, err := policy.Ruleset{Rules: []policy.Rule{{}, r}}.Compile()
		var e *policy.RuleError
		if !errors.As(err, &e) || e.Rule != 1 || e.Key != key {
			t.Errorf("%s: %v", key, err)
		}
	}
	for _, target := range []string{"${claims}", "${path.a.b}", "${ip}", "${subject.x}"} {
		if _, err := (policy.Ruleset{Rules: []policy.Rule{{Targets: []string{target}}}}).Compile(); err == nil {
			t.Errorf("%s is taken", target)
		}
	}
	if _, err := (policy.Ruleset{OnDeny: "x"}).Compile(); err == nil {
		t.Error("on_deny: x is taken")
	}
	if _, err := policy.NewCaller(policy.Who{Claims: []byte(`[]`)}); err == nil {
		t.Error("claims that are no object are taken")
	}
	if d := must(policy.Ruleset{Allow: true}.Compile()).Decide(caller(t, `{}`), policy.Action{Name: "x"}, nil, began); !d.Allowed || d.Rule != -1 {
		t.Errorf("%+v", d)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func BenchmarkDecide(b *testing.B) {
	rules := must(policy.Ruleset{Rules: []policy.Rule{
		{Actions: []string{"typing"}},
		{Actions: []string{"send"}, Targets: []string{"tenants/${claims.tenant}/#"}, Scopes: []string{"chat"},
			Allow: `msg.room == path.room && claims.tenant == "42" && size < 4096 && !(subject in ["eve"]) && msg.kind in ["a", "b"]`},
	}}.Compile())
	who := caller(b, `{"tenant":"42"}`, "chat")
	a := policy.Action{Name: "send", Target: "tenants/42/lobby", Size: 150,
		Message: []byte(`{"type":"send","room":"lobby","kind":"a","topic":"tenants/42/lobby","body":"hello over there, this is a message of some length","at":1764028800,"n":1}`)}
	var m policy.Meter
	b.ReportAllocs()
	for b.Loop() {
		if d := rules.Decide(who, a, &m, began); !d.Allowed {
			b.Fatal(d)
		}
	}
}

// What a message is does not depend on how much of it is decoded.
func TestMessagesAreReadAsTheyAre(t *testing.T) {
	who := caller(t, `{}`)
	msg := []byte(` {"a":{"b":{"c":[1,{"d":"e"}]}},"n":null,"t":true,"f":1.5,"i":3,"s":"x\u0079","huge":9007199254740993,"e":{}} `)
	for expression, want := range map[string]bool{
		`msg.a.b.c[1].d == "e"`: true, `msg["a"]["b"].c[0] == 1`: true, `msg.n == null`: true, `msg.t`: true, `msg.f > 1.0 && msg.f < 2`: true, `msg.i + 1 == 4`: true, `msg.s == "xy"`: true,
		`has(msg.a.b) && !has(msg.a.x) && !has(msg.x)`: true, `"a" in msg && !("x" in msg)`: true, `size(msg) == 8`: true, `msg.e == {} && msg.a == msg.a`: true, `msg.e.size() == 0`: true,
		`msg.all(k, k != "z")`: true, `msg.a.b == {"c": [1, {"d": "e"}]}`: true, `type(msg) == map`: true, `msg.huge > 1`: false, `msg.none == 1`: false, `msg.s.x == 1`: false, `msg.a[1] == 1`: false,
		`dyn(msg) == dyn({"a": 1})`: false,
	} {
		rules, err := policy.Ruleset{Rules: []policy.Rule{{Allow: expression}}}.Compile()
		if err != nil {
			t.Errorf("%s: %v", expression, err)
			continue
		}
		if d := rules.Decide(who, policy.Action{Message: msg}, nil, began); d.Allowed != want {
			t.Errorf("%s: %+v", expression, d)
		}
	}
}
