package e2e_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	bclEvent = "http://schemas.openid.net/event/backchannel-logout"
	caep     = "https://schemas.openid.net/secevent/caep/event-type/"
	risc     = "https://schemas.openid.net/secevent/risc/event-type/"
)

// statement signs claims as they are; typ "" for none.
func (i *issuer) statement(typ string, base claims, changes ...claims) string {
	i.t.Helper()
	c := claims{"iss": i.name, "iat": time.Now().Unix(), "jti": fmt.Sprintf("e%d", i.jti.Add(1))}
	for _, change := range append([]claims{base}, changes...) {
		maps.Copy(c, change)
	}
	for k, v := range c {
		if v == nil {
			delete(c, k)
		}
	}
	payload, err := json.Marshal(c)
	if err != nil {
		i.t.Fatal(err)
	}
	return i.sign(i.key, jose.ES256, typ, payload)
}

func (i *issuer) logoutToken(changes ...claims) string {
	return i.statement("logout+jwt", claims{"aud": "client", "events": claims{bclEvent: claims{}}, "exp": time.Now().Add(time.Minute).Unix()}, changes...)
}

func (i *issuer) set(event string, subject any, changes ...claims) string {
	return i.statement("secevent+jwt", claims{"aud": "receiver", "events": claims{event: claims{"event_timestamp": time.Now().Unix()}}, "sub_id": subject}, changes...)
}

func (s *server) logoutToken(raw string) *answer {
	return s.call("POST", "/auth/backchannel-logout", url.Values{"logout_token": {raw}})
}

func (s *server) pushed(raw string, lines ...string) *answer {
	return s.call("POST", "/auth/events", raw, append([]string{"Content-Type: application/secevent+jwt", "Accept: application/json"}, lines...)...)
}

// eventsYAML believes corp and other for themselves.
func eventsYAML() string {
	const trust = "  - {issuer: %q, audience: chat, algorithms: [ES256], keys: {file: %s}, leeway: 0s, logout: {audience: client}}\n"
	const send = "    - {issuer: %q, audience: receiver, algorithms: [ES256], keys: {file: %s}, leeway: 0s%s}\n"
	return "trust:\n" + fmt.Sprintf(trust, "https://corp.example", "corp.json") + fmt.Sprintf(trust, "https://other.example", "other.json") +
		"events:\n  transmitters:\n" + fmt.Sprintf(send, "https://corp.example", "corp.json", "") +
		fmt.Sprintf(send, "https://risk.example", "other.json", `, subjects_of: "https://other.example", authorization_file: transmitter.key`) +
		generous() + "\nroutes: [{path: /ws, upstream: \"ws://UPSTREAM\"}]\n"
}

const transmitterToken = "a-token-of-the-transmitter"

func startEvents(t *testing.T) (s *server, corp, other, risk *issuer) {
	t.Helper()
	corp, other = newIssuer(t, "https://corp.example"), newIssuer(t, "https://other.example")
	risk = &issuer{t: t, name: "https://risk.example", key: other.key}
	s = start(t, newUpstream(t, nil), eventsYAML(), func(s *server) {
		s.file("corp.json", corp.jwks())
		s.file("other.json", other.jwks())
		s.file("transmitter.key", secret(t, transmitterToken)+"\n")
	})
	return s, corp, other, risk
}

// closesSoon is closes within a second of now.
func (c *client) closesSoon(text string) {
	c.t.Helper()
	began := time.Now()
	if d := c.closes(3000, text).Sub(began); d > time.Second {
		c.t.Errorf("it took %v", d)
	}
}

func TestSES14BackChannelLogout(t *testing.T) {
	t.Parallel()
	s, corp, other, _ := startEvents(t)
	open := func(i *issuer, sub, sid string) *client {
		return s.connect("/ws", bearer(i.token(claims{"sub": sub, "sid": sid}))).alive()
	}
	one, two, bob := open(corp, "alice", "s1"), open(corp, "alice", "s2"), open(corp, "bob", "s3")
	foreign := open(other, "alice", "s1")
	token := corp.logoutToken(claims{"sub": "alice", "sid": "s1"})
	a := s.want(s.logoutToken(token), 200, "")
	one.closesSoon("logged_out")
	if a.header.Get("Cache-Control") != "no-store" || len(a.body) != 0 {
		t.Errorf("%q, %q", a.header.Get("Cache-Control"), a.body)
	}
	two.alive()
	s.want(s.logoutToken(token), 400, "invalid_request") // a replay
	s.refused(401, "token_revoked", "/ws", bearer(corp.token(claims{"sid": "s1"})))
	for _, typ := range []string{"", "JWT"} {
		s.want(s.logoutToken(corp.statement(typ, claims{"aud": []string{"x", "client"}, "events": claims{bclEvent: claims{}}, "sid": "none"})), 200, "")
	}
	s.want(s.logoutToken(corp.logoutToken(claims{"sub": "alice", "exp": nil})), 200, "") // the older draft has no exp
	two.closesSoon("logged_out")
	bob.alive()
	foreign.alive()
	s.waitLog("identity_event", "https://corp.example", "backchannel-logout")
}

func TestSES15BadLogoutTokens(t *testing.T) {
	t.Parallel()
	s, corp, other, _ := startEvents(t)
	live := s.connect("/ws", bearer(corp.token())).alive()
	good := claims{"sub": "alice", "sid": "s1"}
	used := corp.logoutToken(claims{"sid": "another"})
	s.want(s.logoutToken(used), 200, "")
	unsigned := strings.Split(corp.logoutToken(good), ".")
	idToken := corp.statement("JWT", claims{"aud": "client", "sub": "alice", "sid": "s1", "exp": time.Now().Add(time.Minute).Unix()})
	bad := map[string]string{
		"nonce":             corp.logoutToken(good, claims{"nonce": "n"}),
		"nonce null":        corp.logoutToken(good, claims{"nonce": json.RawMessage("null")}),
		"no events":         corp.logoutToken(good, claims{"events": nil}),
		"another event":     corp.logoutToken(good, claims{"events": claims{"http://schemas.openid.net/event/other": claims{}}}),
		"two events":        corp.logoutToken(good, claims{"events": claims{bclEvent: claims{}, "urn:other": claims{}}}),
		"event no object":   corp.logoutToken(good, claims{"events": claims{bclEvent: true}}),
		"events an array":   corp.logoutToken(good, claims{"events": []string{bclEvent}}),
		"neither":           corp.logoutToken(),
		"wrong aud":         corp.logoutToken(good, claims{"aud": "chat"}),
		"wrong iss":         corp.logoutToken(good, claims{"iss": "https://evil.example"}),
		"another's key":     other.logoutToken(good, claims{"iss": corp.name}),
		"wrong typ":         corp.statement("secevent+jwt", claims{"aud": "client", "events": claims{bclEvent: claims{}}}, good),
		"an access token":   corp.token(),
		"old iat":           corp.logoutToken(good, claims{"iat": time.Now().Add(-3 * time.Minute).Unix()}),
		"future iat":        corp.logoutToken(good, claims{"iat": time.Now().Add(time.Minute).Unix()}),
		"no iat":            corp.logoutToken(good, claims{"iat": nil}),
		"expired":           corp.logoutToken(good, claims{"exp": time.Now().Add(-time.Second).Unix()}),
		"no jti":            corp.logoutToken(good, claims{"jti": nil}),
		"replayed jti":      used,
		"alg none":          b64(`{"alg":"none","typ":"logout+jwt"}`) + "." + unsigned[1] + ".",
		"signature cut":     unsigned[0] + "." + unsigned[1] + ".",
		"an ID token":       idToken,
		"nothing":           "",
		"no token at all":   "x.y.z",
		"too long to be so": strings.Repeat("A", 12<<10),
	}
	for name, raw := range bad {
		a := s.logoutToken(raw)
		if a.status != 400 || a.str("error") == "" || a.str("error_description") == "" || a.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	if a := s.call("POST", "/auth/backchannel-logout", url.Values{"logout_token": {corp.logoutToken(good), corp.logoutToken(good)}}); a.status != 400 {
		t.Errorf("two tokens: %d", a.status)
	}
	if a := s.call("GET", "/auth/backchannel-logout?logout_token="+corp.logoutToken(good), nil); a.status != 405 {
		t.Errorf("GET: %d", a.status)
	}
	if a := s.call("POST", "/auth/backchannel-logout", url.Values{"logout_token": {corp.logoutToken(good)}}, "Origin: https://evil.example"); a.status != 403 {
		t.Errorf("of a page elsewhere: %d", a.status)
	}
	live.alive()
	s.waitLog("identity_event_refused", "https://corp.example", "nonce")

	// A flood is limited, and does nothing.
	var refused, limited atomic.Int32
	var crowd sync.WaitGroup
	for range 8 {
		crowd.Go(func() {
			for range 40 {
				switch a := s.logoutToken("x.y.z"); {
				case a.status == 400:
					refused.Add(1)
				case a.status == 429 && a.header.Get("Retry-After") != "":
					limited.Add(1)
				default:
					t.Errorf("%d %s", a.status, a.body)
				}
			}
		})
	}
	crowd.Wait()
	if limited.Load() < 50 {
		t.Errorf("of 320, %d were refused and %d limited", refused.Load(), limited.Load())
	}
	live.alive()
}

func TestSES16SecurityEvents(t *testing.T) {
	t.Parallel()
	s, corp, other, risk := startEvents(t)
	open := func(i *issuer, sub, sid string) *client {
		return s.connect("/ws", bearer(i.token(claims{"sub": sub, "sid": sid}))).alive()
	}
	took := func(a *answer) {
		t.Helper()
		if a.status != 202 || len(a.body) != 0 {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	issSub := func(iss, sub string) claims { return claims{"format": "iss_sub", "iss": iss, "sub": sub} }
	bystander, foreign := open(corp, "carol", "s9"), open(other, "alice", "s1")

	// Each form of a subject.
	for n, subject := range []any{
		issSub(corp.name, "alice"),
		claims{"format": "opaque", "id": "alice"},
		claims{"format": "opaque", "id": "s1"},
		claims{"format": "complex", "user": issSub(corp.name, "alice"), "session": claims{"format": "opaque", "id": "s1"}},
		claims{"format": "complex", "user": issSub(corp.name, "alice"), "tenant": claims{"format": "opaque", "id": "t"}},
		claims{"user": issSub(corp.name, "alice")},
		claims{"format": "aliases", "identifiers": []any{claims{"format": "phone_number", "phone_number": "+1"}, issSub(corp.name, "alice")}},
	} {
		i := claims{"sub": fmt.Sprintf("alice%d", n), "sid": fmt.Sprintf("s1-%d", n)}
		text, _ := json.Marshal(subject)
		var own any
		if err := json.Unmarshal([]byte(strings.NewReplacer(`"alice"`, fmt.Sprintf("%q", i["sub"]), `"s1"`, fmt.Sprintf("%q", i["sid"])).Replace(string(text))), &own); err != nil {
			t.Fatal(err)
		}
		c := s.connect("/ws", bearer(corp.token(i))).alive()
		raw := corp.set(caep+"session-revoked", own)
		took(s.pushed(raw))
		c.closesSoon("session_revoked")
		took(s.pushed(raw)) // once more is harmless
	}
	// Each type.
	for n, event := range []string{caep + "credential-change", caep + "token-claims-change", risc + "account-disabled", risc + "account-purged", risc + "credential-compromise"} {
		sub := fmt.Sprintf("bob%d", n)
		c := open(corp, sub, "b"+sub)
		took(s.pushed(corp.set(event, issSub(corp.name, sub))))
		c.closesSoon("subject_revoked")
	}
	dave := open(corp, "dave", "d")
	took(s.pushed(corp.set(risc+"sessions-revoked", nil, claims{"events": claims{risc + "sessions-revoked": claims{"subject": claims{"subject_type": "iss-sub", "iss": corp.name, "sub": "dave"}}}})))
	dave.closesSoon("session_revoked")

	// No effect, and no error.
	for _, raw := range []string{
		corp.set(caep+"device-compliance-change", issSub(corp.name, "carol")),
		corp.set("urn:example:unknown", issSub(corp.name, "carol")),
		corp.set(caep+"session-revoked", claims{"format": "email", "email": "carol@corp.example"}),
		corp.set(caep+"session-revoked", claims{"format": "did", "url": "did:example:1"}),
		corp.set("https://schemas.openid.net/secevent/ssf/event-type/verification", claims{"format": "opaque", "id": "stream"}, claims{"events": claims{"https://schemas.openid.net/secevent/ssf/event-type/verification": claims{"state": "the-state"}}}),
	} {
		took(s.pushed(raw))
	}
	s.waitLog("identity_event", "the-state")
	bystander.alive()

	// A transmitter that speaks of another issuer's subjects, because it may.
	took(s.pushed(risk.set(caep+"session-revoked", issSub(other.name, "alice")), "Authorization: Bearer "+transmitterToken))
	foreign.closesSoon("session_revoked")
	bystander.alive()
}

func TestSES17BadSecurityEvents(t *testing.T) {
	t.Parallel()
	s, corp, other, risk := startEvents(t)
	live, foreign := s.connect("/ws", bearer(corp.token())).alive(), s.connect("/ws", bearer(other.token())).alive()
	issSub := func(iss, sub string) claims { return claims{"format": "iss_sub", "iss": iss, "sub": sub} }
	subject := issSub(corp.name, "alice")
	event := func(value any) claims { return claims{"events": claims{caep + "session-revoked": value}} }
	revoked := caep + "session-revoked"
	evil := newIssuer(t, corp.name)
	for name, c := range map[string]struct {
		raw, want string
		lines     []string
	}{
		"wrong iss":          {raw: corp.set(revoked, subject, claims{"iss": "https://evil.example"}), want: "invalid_issuer"},
		"wrong aud":          {raw: corp.set(revoked, subject, claims{"aud": "chat"}), want: "invalid_audience"},
		"another key":        {raw: evil.set(revoked, subject), want: "invalid_key"},
		"not secevent":       {raw: corp.statement("JWT", claims{"aud": "receiver", "events": claims{revoked: claims{}}, "sub_id": subject}), want: "invalid_request"},
		"no typ":             {raw: corp.statement("", claims{"aud": "receiver", "events": claims{revoked: claims{}}, "sub_id": subject}), want: "invalid_request"},
		"no SET":             {raw: corp.token(), want: "invalid_request"},
		"a logout token":     {raw: corp.logoutToken(claims{"sub": "alice"}), want: "invalid_request"},
		"garbage":            {raw: "x", want: "invalid_request"},
		"empty":              {raw: "", want: "invalid_request"},
		"no events":          {raw: corp.set(revoked, subject, claims{"events": nil}), want: "invalid_request"},
		"empty events":       {raw: corp.set(revoked, subject, claims{"events": claims{}}), want: "invalid_request"},
		"event no object":    {raw: corp.set(revoked, subject, event("x")), want: "invalid_request"},
		"no subject":         {raw: corp.set(revoked, nil), want: "invalid_request"},
		"subject a string":   {raw: corp.set(revoked, "alice"), want: "invalid_request"},
		"half a subject":     {raw: corp.set(revoked, claims{"format": "iss_sub", "sub": "alice"}), want: "invalid_request"},
		"no jti":             {raw: corp.set(revoked, subject, claims{"jti": nil}), want: "invalid_request"},
		"no iat":             {raw: corp.set(revoked, subject, claims{"iat": nil}), want: "invalid_request"},
		"old":                {raw: corp.set(revoked, subject, claims{"iat": time.Now().Add(-25 * time.Hour).Unix()}), want: "invalid_request"},
		"from the future":    {raw: corp.set(revoked, subject, event(claims{"event_timestamp": time.Now().Add(time.Hour).Unix()})), want: "invalid_request"},
		"in milliseconds":    {raw: corp.set(revoked, subject, event(claims{"event_timestamp": time.Now().UnixMilli()})), want: "invalid_request"},
		"another's subject":  {raw: corp.set(revoked, issSub(other.name, "alice")), want: "access_denied"},
		"another's user":     {raw: corp.set(revoked, claims{"format": "complex", "user": issSub(other.name, "alice"), "session": claims{"format": "opaque", "id": "s1"}}), want: "access_denied"},
		"no authentication":  {raw: risk.set(revoked, issSub(other.name, "alice")), want: "authentication_failed"},
		"wrong token":        {raw: risk.set(revoked, issSub(other.name, "alice")), want: "authentication_failed", lines: []string{"Authorization: Bearer a-token-of-somebody-else"}},
		"token not a bearer": {raw: risk.set(revoked, issSub(other.name, "alice")), want: "authentication_failed", lines: []string{"Authorization: Basic " + transmitterToken}},
	} {
		a := s.pushed(c.raw, c.lines...)
		if a.status != 400 || a.str("err") != c.want || a.str("description") == "" || a.header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %d %s, want %s", name, a.status, a.body, c.want)
		}
	}
	if a := s.call("POST", "/auth/events", corp.set(revoked, subject), "Content-Type: application/jwt"); a.status != 415 {
		t.Errorf("another media type: %d", a.status)
	}
	if a := s.pushed(strings.Repeat("A", 64<<10)); a.status != 413 {
		t.Errorf("too large: %d", a.status)
	}
	live.alive()
	foreign.alive()
	s.waitLog("identity_event_refused", "access_denied")
}
