package policy_test

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/bouncertest"
	"github.com/wsbouncer/wsbouncer/policy"
)

// A handler asks about what its client wants, by the token of now.
func TestPrincipalAllow(t *testing.T) {
	m := bouncertest.NewIssuer(t)
	b, err := wsbouncer.New(wsbouncer.Options{Verifier: m.Verifier(), Origins: []string{"https://app.example"}})
	if err != nil {
		t.Fatal(err)
	}
	rules := must(policy.Ruleset{Rules: []policy.Rule{
		{Actions: []string{"send"}, Targets: []string{"rooms/${path.room}"}, Scopes: []string{"chat"}, Allow: `ip == "192.0.2.7" && query.v == "1"`},
		{Actions: []string{"once"}, Limit: policy.Rate{PerSecond: 0.001, Burst: 1}},
		{Actions: []string{"msg"}, Allow: "msg.x == 1"},
	}}.Compile())
	d := wsbouncer.Demand{Permissions: rules}
	mux := http.NewServeMux()
	admitted := make(chan *wsbouncer.Admission, 1)
	mux.HandleFunc("/chat/{room}", func(_ http.ResponseWriter, r *http.Request) {
		a, err := b.Admit(r, d)
		if err != nil {
			t.Errorf("%v", err)
		}
		admitted <- a
	})
	r := httptest.NewRequest(http.MethodGet, "/chat/lobby?v=1", nil)
	r.RemoteAddr = "192.0.2.7:1234"
	for name, value := range map[string]string{
		"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
		"Authorization": "Bearer " + m.With(map[string]any{"scope": "chat", "exp": time.Now().Unix() + 60}),
	} {
		r.Header.Set(name, value)
	}
	mux.ServeHTTP(httptest.NewRecorder(), r)
	a := <-admitted
	p := a.Principal
	if p.Allow("send", "rooms/lobby") {
		t.Error("allowed before it is tracked")
	}
	live, err := b.Track(a, ended{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		action, target string
		want           bool
	}{{"send", "rooms/lobby", true}, {"send", "rooms/other", false}, {"delete", "", false}, {"once", "", true}, {"once", "", false}, {"msg", "", false}} {
		if got := p.Allow(c.action, c.target); got != c.want {
			t.Errorf("%s %s: %v", c.action, c.target, got)
		}
	}
	// A refresh takes the scope away.
	if _, err := live.Refresh(t.Context(), m.With(map[string]any{"scope": "none", "exp": time.Now().Unix() + 120})); err != nil {
		t.Fatal(err)
	}
	if p.Allow("send", "rooms/lobby") {
		t.Error("allowed by the token that was")
	}
	live.Release(wsbouncer.LoggedOut)
	if p.Allow("once", "") {
		t.Error("allowed after the end")
	}
}

type ended struct{}

func (ended) End(wsbouncer.Reason) {}
