package e2e_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const refreshYAML = `
issuer: {access_ttl: 60s, refresh_grace: 20s}
limits: {handshakes_per_ip: {rate: 1000/s, burst: 1000}}
routes:
  - {path: /chat, upstream: "ws://UPSTREAM", scopes: [chat]}
`

func claimsOf(t testing.TB, raw string) map[string]any {
	t.Helper()
	parts := strings.Split(raw, ".")
	if len(parts) != 3 {
		t.Fatalf("no JWT: %d parts", len(parts))
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestREF01EveryUseRotates(t *testing.T) {
	s := start(t, newUpstream(t, nil), refreshYAML)
	s.addUser("ann", "chat chat:write")
	in := s.login("ann")
	r1 := in.str("refresh_token")
	second := s.want(s.refresh(r1), 200, "")
	r2 := second.str("refresh_token")
	if r2 == r1 || len(r2) < 43 || second.str("access_token") == in.str("access_token") {
		t.Errorf("not rotated: %d bytes", len(r2))
	}
	if second.str("session_id") != in.str("session_id") || second.str("token_type") != "Bearer" || second.json["expires_in"] != 60.0 || second.str("scope") != "chat chat:write" {
		t.Errorf("%s", second.body)
	}
	old, fresh := claimsOf(t, in.str("access_token")), claimsOf(t, second.str("access_token"))
	for _, same := range []string{"iss", "sub", "sid", "client_id", "scope", "aud"} {
		if fmt.Sprint(old[same]) != fmt.Sprint(fresh[same]) {
			t.Errorf("%s: %v became %v", same, old[same], fresh[same])
		}
	}
	if old["jti"] == fresh["jti"] {
		t.Error("two tokens of one jti")
	}
	// A client that lost the answer gets the same one, once.
	again := s.want(s.refresh(r1), 200, "")
	if again.str("refresh_token") != r2 || again.str("access_token") != second.str("access_token") {
		t.Error("the repetition within the grace got other tokens: a second family")
	}
	s.want(s.refresh(r1), 400, "invalid_grant")
	// The family lives on.
	s.connect("/chat", bearer(second.str("access_token"))).alive()
	third := s.want(s.refresh(r2), 200, "")
	s.want(s.refresh(third.str("refresh_token")), 200, "")
	for _, a := range []*answer{in, second, again, s.refresh("nonsense")} {
		if a.header.Get("Cache-Control") != "no-store" {
			t.Errorf("Cache-Control %q", a.header.Get("Cache-Control"))
		}
	}
}

// The grace covers the direct predecessor until its successor has been used:
// anything else is a copy in a thief's hands.
func TestREF02ReuseEndsTheSession(t *testing.T) {
	s := start(t, newUpstream(t, nil), refreshYAML)
	for i, how := range []string{"after the successor was used", "two generations back", "the answer repeated, then used"} {
		name := fmt.Sprintf("user%d", i)
		s.addUser(name, "chat")
		in := s.login(name)
		bystander := s.login(name)
		r1 := in.str("refresh_token")
		second := s.want(s.refresh(r1), 200, "")
		if i == 2 {
			s.want(s.refresh(r1), 200, "")
		}
		third := s.want(s.refresh(second.str("refresh_token")), 200, "")
		last := third
		if i == 1 {
			last = s.want(s.refresh(third.str("refresh_token")), 200, "")
		}
		var live []*client
		for _, a := range []*answer{in, second, last} {
			live = append(live, s.connect("/chat", bearer(a.str("access_token"))).alive())
		}
		other := s.connect("/chat", bearer(bystander.str("access_token"))).alive()

		s.want(s.refresh(r1), 400, "invalid_grant")
		for _, c := range live {
			c.closes(3000, "session_revoked")
		}
		s.want(s.refresh(last.str("refresh_token")), 400, "invalid_grant")
		s.want(s.refresh(second.str("refresh_token")), 400, "invalid_grant")
		s.refused(401, "token_revoked", "/chat", bearer(last.str("access_token")))
		s.want(s.call("GET", "/auth/session", nil, bearer(last.str("access_token"))), 401, "token_revoked")
		other.alive() // the other device of the same person
		s.want(s.refresh(bystander.str("refresh_token")), 200, "")
		reused := s.events("refresh_reuse")
		if len(reused) != i+1 || reused[0]["subject"] != name || reused[0]["session"] != in.str("session_id") || reused[0]["ip"] != "127.0.0.1" {
			t.Errorf("%s: audited %v", how, reused)
		}
	}
	out := s.cli("audit", "list")
	if !strings.Contains(out, "refresh_reuse") {
		t.Errorf("audit list:\n%s", out)
	}
}

func TestREF02ReuseAfterTheGrace(t *testing.T) {
	t.Parallel() // it waits for a clock
	s := start(t, newUpstream(t, nil), `
issuer: {access_ttl: 2s, refresh_grace: 1s}
routes: [{path: /chat, upstream: "ws://UPSTREAM"}]
`)
	s.addUser("ann", "")
	in := s.login("ann")
	second := s.want(s.refresh(in.str("refresh_token")), 200, "")
	// The token of the second answer ends at least a second after it: that is the clock.
	s.connect("/chat", bearer(second.str("access_token"))).closes(3000, "token_expired")
	third := s.want(s.refresh(second.str("refresh_token"), "scope", ""), 200, "")
	c := s.connect("/chat", bearer(third.str("access_token"))).alive()
	c.closes(3000, "token_expired")
	// Its successor was never used, but the second is over.
	s.want(s.refresh(second.str("refresh_token")), 400, "invalid_grant")
	s.want(s.refresh(third.str("refresh_token")), 400, "invalid_grant")
	if n := len(s.events("refresh_reuse")); n != 1 {
		t.Errorf("%d events refresh_reuse", n)
	}
}

func TestREF03FiftyAtOnceAreOneFamily(t *testing.T) {
	s := start(t, newUpstream(t, nil), refreshYAML)
	s.addUser("ann", "chat")
	in := s.login("ann")
	current := in.str("refresh_token")
	for round := range 6 {
		const tabs = 50
		answers := make([]*answer, tabs)
		var all sync.WaitGroup
		begin := make(chan struct{})
		for i := range tabs {
			all.Go(func() {
				<-begin
				answers[i] = s.refresh(current)
			})
		}
		close(begin)
		all.Wait()
		var winners []string
		for _, a := range answers {
			switch a.status {
			case 200:
				winners = append(winners, a.str("refresh_token"))
			case 400:
				s.want(a, 400, "invalid_grant")
			default:
				t.Fatalf("round %d: %d %s", round, a.status, a.body)
			}
		}
		if n := len(winners); n < 1 || n > 2 || len(slices.Compact(winners)) != 1 {
			t.Fatalf("round %d: %d answers with tokens, %d families", round, n, len(slices.Compact(winners)))
		}
		current = winners[0]
	}
	// The one family is the session's: it lives, alone.
	last := s.want(s.refresh(current), 200, "")
	s.connect("/chat", bearer(last.str("access_token"))).alive()
	if list := s.adminCall("GET", "/v1/sessions", nil).json["items"].([]any); len(list) != 1 {
		t.Errorf("%d sessions", len(list))
	}
}

func TestREF04AbsoluteAndIdleLife(t *testing.T) {
	t.Parallel() // it waits for a clock
	s := start(t, newUpstream(t, nil), `
issuer: {access_ttl: 1s, refresh_ttl: 6s, refresh_idle: 2s, refresh_grace: 1s}
routes: [{path: /chat, upstream: "ws://UPSTREAM"}]
`)
	s.addUser("ann", "")
	s.addUser("bob", "")
	idle := s.login("bob")
	idleSince := time.Now()
	in := s.login("ann")
	begin := time.Now()
	current, refreshes := in, 0
	var idleDied time.Duration
	// The expiry of each short token is the clock of this test.
	for current.status == 200 && time.Since(begin) < patience {
		s.connect("/chat", bearer(current.str("access_token"))).closes(3000, "token_expired")
		if idleDied == 0 && time.Since(idleSince) > 2*time.Second {
			s.want(s.refresh(idle.str("refresh_token")), 400, "invalid_grant")
			idleDied = time.Since(idleSince)
		}
		if exp, _ := claimsOf(t, current.str("access_token"))["exp"].(float64); exp > float64(begin.Unix()+6+1) {
			t.Errorf("an access token outlives its session by %v s", exp-float64(begin.Unix()+6))
		}
		if current = s.refresh(current.str("refresh_token")); current.status == 200 {
			refreshes++
		}
	}
	s.want(current, 400, "invalid_grant")
	if life := time.Since(begin); life < 5*time.Second || life > 9*time.Second || refreshes < 2 {
		t.Errorf("lived %v and %d refreshes; its life is 6s", life, refreshes)
	}
	if idleDied == 0 {
		t.Error("the idle session was never tried")
	}
	if n := len(s.events("refresh_reuse")); n != 0 {
		t.Errorf("an expiry was taken for a theft: %d", n)
	}
}

func TestREF05ARefreshTokenIsNothingElse(t *testing.T) {
	s := start(t, newUpstream(t, nil), refreshYAML)
	s.addUser("ann", "chat chat:write")
	in := s.login("ann")
	r, access := in.str("refresh_token"), in.str("access_token")
	s.refused(401, "token_malformed", "/chat", bearer(r))
	s.refused(401, "token_malformed", "/chat?token="+r)
	s.refused(401, "ticket_invalid", "/chat?ticket="+r)
	s.refused(401, "token_malformed", "/chat", "Sec-WebSocket-Protocol: bearer, "+r)
	s.want(s.call("GET", "/auth/session", nil, bearer(r)), 401, "token_malformed")
	s.want(s.ticket(r, "/chat"), 401, "token_malformed")
	s.want(s.refresh(access), 400, "invalid_grant")
	s.want(s.refresh(r, "client_id", "another"), 400, "invalid_grant")
	s.want(s.refresh(r, "scope", "chat admin"), 400, "invalid_scope")
	s.want(s.refresh(r, "scope", "wsbouncer:admin"), 400, "invalid_scope")
	s.want(s.refresh(r[:len(r)-1]), 400, "invalid_grant")
	s.want(s.refresh(r+"A"), 400, "invalid_grant")
	s.want(s.refresh(""), 400, "invalid_request")
	s.want(s.refresh(r, "refresh_token", r), 400, "invalid_request")
	s.want(s.refresh(r, "grant_type", "refresh_token"), 400, "invalid_request")
	// None of that spent it. Narrower is allowed, and does not narrow the session.
	narrow := s.want(s.refresh(r, "scope", "chat:write"), 200, "")
	if narrow.str("scope") != "chat:write" {
		t.Errorf("%s", narrow.body)
	}
	s.refused(403, "insufficient_scope", "/chat", bearer(narrow.str("access_token")))
	wide := s.want(s.refresh(narrow.str("refresh_token")), 200, "")
	if wide.str("scope") != "chat chat:write" {
		t.Errorf("%s", wide.body)
	}
	// A scope that was taken from the account is gone at the next refresh.
	s.cli("user", "grant", "ann", "--remove", "chat:write")
	if got := s.want(s.refresh(wide.str("refresh_token")), 200, ""); got.str("scope") != "chat" {
		t.Errorf("%s", got.body)
	}
}

func TestREF06WhatEndsARefreshToken(t *testing.T) {
	s := start(t, newUpstream(t, nil), refreshYAML)
	s.addUser("ann", "chat")
	s.addUser("bob", "chat")
	form := func(a *answer, token string) url.Values { return url.Values{"token": {a.str(token)}} }
	for how, end := range map[string]func(a *answer){
		"logout":    func(a *answer) { s.want(s.call("POST", "/auth/logout", nil, bearer(a.str("access_token"))), 200, "") },
		"revoke it": func(a *answer) { s.want(s.call("POST", "/auth/revoke", form(a, "refresh_token")), 200, "") },
		"delete": func(a *answer) {
			s.want(s.call("DELETE", "/auth/sessions/"+a.str("session_id"), nil, bearer(a.str("access_token"))), 200, "")
		},
		"session revoke":   func(a *answer) { s.cli("session", "revoke", a.str("session_id")) },
		"revoke session":   func(a *answer) { s.cli("revoke", "session", a.str("session_id")) },
		"revoke subject":   func(*answer) { s.cli("revoke", "subject", "ann") },
		"password reset":   func(*answer) { s.command(password(t, "ann")+"\n", "user", "passwd", "ann", "--password-stdin") },
		"account disabled": func(*answer) { s.cli("user", "disable", "ann"); s.cli("user", "enable", "ann") },
	} {
		in := s.login("ann")
		c := s.connect("/chat", bearer(in.str("access_token"))).alive()
		end(in)
		if a := s.refresh(in.str("refresh_token")); a.status != 400 || a.code() != "invalid_grant" {
			t.Errorf("%s: %d %s", how, a.status, a.body)
		}
		if _, a := s.handshake("/chat", bearer(in.str("access_token"))); a.code() != "token_revoked" {
			t.Errorf("%s: the access token: %d %s", how, a.status, a.code())
		}
		for {
			m, err := c.next()
			if err != nil {
				t.Errorf("%s: the connection ended without a close frame: %v", how, err)
				break
			}
			if m.op == 8 {
				if m.payload[:2] != "\x0b\xb8" {
					t.Errorf("%s: closed with %q", how, m.payload)
				}
				break
			}
		}
	}
	// Revoking an access token ends its connections, not its session; nobody's
	// token is no error, and another's session is not mine to end.
	in := s.login("ann")
	c := s.connect("/chat", bearer(in.str("access_token"))).alive()
	s.want(s.call("POST", "/auth/revoke", form(in, "access_token")), 200, "")
	c.closes(3000, "token_revoked")
	s.want(s.call("POST", "/auth/revoke", url.Values{"token": {"nobody's"}}), 200, "")
	s.want(s.call("POST", "/auth/revoke", url.Values{}), 400, "invalid_request")
	if a := s.refresh(in.str("refresh_token")); a.status != 200 {
		t.Errorf("after the revocation of its access token: %d %s", a.status, a.body)
	}
	bob := s.login("bob")
	s.want(s.call("DELETE", "/auth/sessions/"+in.str("session_id"), nil, bearer(bob.str("access_token"))), 404, "not_found")
	s.want(s.call("DELETE", "/auth/sessions/"+strings.Repeat("x", 5000), nil, bearer(bob.str("access_token"))), 404, "not_found")
	for _, a := range []*answer{
		s.call("POST", "/auth/login", map[string]any{"username": "ann", "password": "wrong"}), s.call("GET", "/auth/session", nil, bearer(bob.str("access_token"))),
		s.call("GET", "/auth/sessions", nil, bearer(bob.str("access_token"))), s.ticket(bob.str("access_token"), "/chat"), bob,
	} {
		if a.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%d: Cache-Control %q", a.status, a.header.Get("Cache-Control"))
		}
	}
}

func TestSES18SessionsAreLimitedAndListed(t *testing.T) {
	s := start(t, newUpstream(t, nil), strings.Replace(refreshYAML, "issuer: {", "issuer: {sessions_per_subject: 3, ", 1))
	s.addUser("ann", "chat")
	var in []*answer
	var live []*client
	for i := range 4 {
		a := s.want(s.call("POST", "/auth/login", map[string]any{"username": "ann", "password": password(t, "ann")}, fmt.Sprintf("User-Agent: Device/%d", i), "Origin: "+s.url), 200, "")
		in = append(in, a)
		live = append(live, s.connect("/chat", bearer(a.str("access_token"))).alive())
	}
	live[0].closes(3000, "session_revoked") // the oldest
	s.want(s.refresh(in[0].str("refresh_token")), 400, "invalid_grant")
	type device struct {
		ID, IP, Origin, Method, UserAgent string
		Agent                             string `json:"user_agent"`
		Current                           bool
		Created, Expires                  time.Time
		LastUsed                          time.Time `json:"last_used"`
	}
	list := func() map[string]device {
		var out struct{ Sessions []device }
		s.call("GET", "/auth/sessions", nil, bearer(in[2].str("access_token"))).decode(t, &out)
		byID := map[string]device{}
		for _, d := range out.Sessions {
			byID[d.ID] = d
		}
		return byID
	}
	devices := list()
	if len(devices) != 3 {
		t.Fatalf("%d devices: %+v", len(devices), devices)
	}
	for i := 1; i < 4; i++ {
		d := devices[in[i].str("session_id")]
		if d.Agent != fmt.Sprintf("Device/%d", i) || d.IP != "127.0.0.1" || d.Origin != s.url || d.Method != "password" || d.Current != (i == 2) ||
			time.Since(d.Created) > 5*time.Minute || d.Expires.Before(d.Created.Add(time.Hour)) || d.LastUsed.Before(d.Created) {
			t.Errorf("device %d: %+v", i, d)
		}
	}
	s.want(s.call("DELETE", "/auth/sessions/"+in[1].str("session_id"), nil, bearer(in[2].str("access_token"))), 200, "")
	live[1].closes(3000, "logged_out")
	if _, still := list()[in[1].str("session_id")]; still {
		t.Error("the ended session is still listed")
	}
	s.cli("session", "revoke", in[3].str("session_id"))
	live[3].closes(3000, "session_revoked")
	live[2].alive()
}

func TestTheAPITakesNothingOdd(t *testing.T) {
	s := start(t, newUpstream(t, nil), refreshYAML)
	s.addUser("ann", "chat")
	in := s.login("ann")
	auth := bearer(in.str("access_token"))
	name := `"username":"ann","password":"` + password(t, "ann") + `"`
	for what, body := range map[string]string{
		"nothing": "", "not JSON": "hello", "an array": "[1]", "null": "null", "a string": `"x"`, "cut off": "{" + name, "twice": "{" + name + `,"username":"bob"}`,
		"twice in another case": "{" + name + `,"Username":"ann"}`, "another case": `{"USERNAME":"ann","PASSWORD":"x"}`, "unknown": "{" + name + `,"admin":true}`,
		"trailing": "{" + name + "}{}", "a number for a name": `{"username":1,"password":"x"}`, "null for a name": `{"username":null,"password":"x"}`, "no password": `{"username":"ann"}`,
		"deep": `{"username":` + strings.Repeat("[", 200) + strings.Repeat("]", 200) + "}", "a lone surrogate": `{"username":"\ud800","password":"x"}`,
		"a byte order mark": "\ufeff{" + name + "}", "invalid UTF-8": "{\"username\":\"\xff\",\"password\":\"x\"}",
	} {
		if a := s.call("POST", "/auth/login", body, jsonType); a.status != 400 || a.code() != "invalid_request" || !strings.HasPrefix(a.header.Get("Content-Type"), "application/problem+json") {
			t.Errorf("%s: %d %s", what, a.status, a.body)
		}
	}
	good := "{" + name + "}"
	for _, contentType := range []string{"", "text/plain", "text/json", "application/json; charset=utf-16", "application/x-www-form-urlencoded", "application/jsonp"} {
		lines := []string{"Content-Type: " + contentType}
		if contentType == "" {
			lines = nil
		}
		s.want(s.call("POST", "/auth/login", good, lines...), 415, "unsupported_media_type")
	}
	s.want(s.call("POST", "/auth/login", good, jsonType, "Content-Encoding: gzip"), 415, "unsupported_media_type")
	s.want(s.call("POST", "/auth/login", good, "Content-Type: application/json; charset=UTF-8"), 200, "")

	big := strings.Repeat("x", 40<<10)
	s.want(s.call("POST", "/auth/login", map[string]any{"username": big}), 413, "body_too_large")
	s.want(s.call("POST", "/auth/ticket", map[string]any{"path": "/" + big}, auth), 413, "body_too_large")
	s.want(s.call("POST", "/auth/logout", map[string]any{"x": big}, auth), 413, "body_too_large")
	s.want(s.call("POST", "/auth/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {big}}), 413, "body_too_large")
	s.want(s.call("POST", "/auth/revoke", url.Values{"token": {big}}), 413, "body_too_large")

	// OAuth endpoints speak RFC 6749.
	form := "Content-Type: application/x-www-form-urlencoded"
	for body, code := range map[string]string{
		"grant_type=password&username=ann&password=x": "unsupported_grant_type",
		"grant_type=client_credentials":               "unsupported_grant_type",
		"refresh_token=x":                             "invalid_request",
		"grant_type=refresh_token":                    "invalid_request",
		"grant_type=refresh_token&refresh_token=%zz":  "invalid_request",
		"grant_type=refresh_token&refresh_token=x&connection=" + strings.Repeat("c", 200): "invalid_request",
	} {
		a := s.call("POST", "/auth/token", body, form)
		if a.status != 400 || a.str("error") != code || a.str("error_description") == "" || a.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %d %s", body, a.status, a.body)
		}
	}
	if a := s.call("POST", "/auth/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {in.str("refresh_token")}}, "Authorization: Basic YTpi"); a.status != 401 || a.str("error") != "invalid_client" || a.header.Get("WWW-Authenticate") == "" {
		t.Errorf("client authentication: %d %s", a.status, a.body)
	}
	s.want(s.refresh(in.str("refresh_token")), 200, "")
}

func TestMetadataKeysAndHealth(t *testing.T) {
	s := start(t, newUpstream(t, nil), refreshYAML)
	s.addUser("ann", "chat")
	var meta struct {
		Issuer     string
		Token      string   `json:"token_endpoint"`
		JWKS       string   `json:"jwks_uri"`
		Revocation string   `json:"revocation_endpoint"`
		Grants     []string `json:"grant_types_supported"`
	}
	s.call("GET", "/.well-known/oauth-authorization-server", nil).decode(t, &meta)
	if meta.Issuer != s.url || meta.Token != s.url+"/auth/token" || meta.JWKS != s.url+"/.well-known/jwks.json" || meta.Revocation != s.url+"/auth/revoke" || !slices.Equal(meta.Grants, []string{"refresh_token"}) {
		t.Errorf("%+v", meta)
	}
	keys := s.call("GET", "/.well-known/jwks.json", nil)
	var set struct{ Keys []map[string]any }
	keys.decode(t, &set)
	ids := map[any]bool{}
	for _, k := range set.Keys {
		ids[k["kid"]] = true
		for _, private := range []string{"d", "p", "q", "dp", "dq", "qi", "k"} {
			if _, has := k[private]; has {
				t.Errorf("the key set holds the private member %s", private)
			}
		}
	}
	header, _, _ := strings.Cut(s.login("ann").str("access_token"), ".")
	raw, err := base64.RawURLEncoding.DecodeString(header)
	var h struct{ Alg, Typ, Kid string }
	if err != nil || json.Unmarshal(raw, &h) != nil || h.Alg != "EdDSA" || h.Typ != "at+jwt" || !ids[h.Kid] || len(ids) < 2 {
		t.Errorf("header %s, keys %v: the next key must be published before it signs", raw, ids)
	}
	for _, path := range []string{"/healthz", "/readyz", "/auth/openapi.json"} {
		if a := s.call("GET", path, nil); a.status != 200 || a.json == nil {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
}
