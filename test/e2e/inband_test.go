package e2e_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/frame"
)

const inBandRoutes = `
  - {path: /chat, upstream: "ws://UPSTREAM", scopes: [chat], in_band_refresh: true}
  - {path: /upstream, upstream: "ws://UPSTREAM", in_band_refresh: true}
  - {path: /plain, upstream: "ws://UPSTREAM"}
`

func refreshMessage(token string) string {
	return fmt.Sprintf(`{"wsbouncer":"refresh","token":%q}`, token)
}

// reply reads the gateway's next own message.
func (c *client) reply() map[string]any {
	c.t.Helper()
	m, err := c.next()
	if err != nil || m.op != frame.Text || !m.fin {
		c.t.Fatalf("instead of an answer: %v %q %v", m.op, m.payload, err)
	}
	var v map[string]any
	if err := json.Unmarshal([]byte(m.payload), &v); err != nil || v["wsbouncer"] == nil {
		c.t.Fatalf("received %q", m.payload)
	}
	return v
}

// replies demands an answer that tells this deadline.
func (c *client) replies(what string, expires time.Time) {
	c.t.Helper()
	if v := c.reply(); v["wsbouncer"] != what || v["expires_at"] != float64(expires.Unix()) || len(v) != 2 {
		c.t.Fatalf("answered %v, want %s %d", v, what, expires.Unix())
	}
}

// dataOf is the data that an upstream received, by payload.
func (c *upConn) dataOf() []string {
	var list []string
	for _, m := range c.got() {
		if !m.op.IsControl() {
			list = append(list, m.payload)
		}
	}
	return list
}

func inSeconds(n int64) time.Time { return time.Unix(time.Now().Unix()+n, 0) }

func expires(at time.Time) claims { return claims{"exp": at.Unix()} }

func TestSES02InBandRefresh(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, script{"/upstream": func(c *upConn) {
		c.accept()
		for _, text := range []string{
			`{"wsbouncer":"ok","expires_at":9999999999}`, "one", ` {"a":[1],"wsbouncer":{}}`, `{"wsboun\u0063er":"expiring"}`, `{"a":{"wsbouncer":1}}`, `["wsbouncer"]`,
		} {
			_, _ = c.Write(frame.Append(nil, frame.Text, []byte(text), false))
		}
		_, _ = c.Write(appendFrame(nil, message{frame.Text, false, `{"wsboun`}, false))
		_, _ = c.Write(frame.AppendPing(nil, []byte("between"), false))
		_, _ = c.Write(appendFrame(nil, message{frame.Continuation, true, `cer":"error","code":"x"}`}, false))
		_, _ = c.Write(frame.Append(nil, frame.Binary, []byte(`{"wsbouncer":"ok"}`), false))
		c.listen()
	}}.serve)
	s, iss := gate(t, up, inBandRoutes)
	other := newIssuer(t, iss.name) // same name, another key
	long := inSeconds(60)

	t.Run("moves the deadline", func(t *testing.T) {
		s := s.within(t)
		soon := inSeconds(2)
		reference := s.connect("/plain", bearer(iss.token(expires(soon)))).watch()
		c := s.connect("/chat", bearer(iss.token(expires(soon)))).alive()
		c.text(refreshMessage(iss.token(expires(long)))).replies("ok", long)
		(<-reference).want(t, 3000, "token_expired")
		c.alive()
		// The token that opened it stays bound, and so does the session.
		if n := s.revoke(iss, "session", "s1"); n < 1 {
			t.Error("the session's connection was not found any more")
		}
		c.closes(3000, "session_revoked")
	})

	t.Run("never shortens", func(t *testing.T) {
		c := s.within(t).connect("/chat", bearer(iss.token(claims{"sid": "s2"}, expires(long))))
		c.text(refreshMessage(iss.token(claims{"sid": "s2"}, expires(inSeconds(5))))).replies("ok", long)
	})

	revoked := iss.token(claims{"sid": "s3", "jti": "gone"})
	s.revoke(iss, "token", "gone")
	for name, c := range map[string]struct{ text, code string }{
		"no token":       {`{"wsbouncer":"refresh"}`, "invalid_request"},
		"another kind":   {`{"wsbouncer":"auth","token":"x"}`, "invalid_request"},
		"no kind":        {`{"wsbouncer":null,"token":"x"}`, "invalid_request"},
		"member between": {`{"a":[{"wsbouncer":1}],"token":"x","wsbouncer":"refresh"}`, "invalid_request"},
		"broken JSON":    {`{"wsbouncer":"refresh","token":"x"`, "invalid_request"},
		"given twice":    {`{"wsbouncer":"refresh","wsbouncer":"refresh","token":"x"}`, "invalid_request"},
		"malformed":      {refreshMessage("not-a-token"), "token_malformed"},
		"signature":      {refreshMessage(other.token(claims{"sid": "s3"})), "token_signature"},
		"expired":        {refreshMessage(iss.token(claims{"sid": "s3"}, expires(inSeconds(-60)))), "token_expired"},
		"audience":       {refreshMessage(iss.token(claims{"sid": "s3", "aud": "mail"})), "token_audience"},
		"issuer":         {refreshMessage(iss.token(claims{"sid": "s3", "iss": "https://evil.example"})), "token_issuer"},
		"revoked":        {refreshMessage(revoked), "token_revoked"},
		"too large":      {refreshMessage(strings.Repeat("x", 9<<10)), "token_too_large"},
	} {
		t.Run(name, func(t *testing.T) {
			s := s.within(t)
			conn := s.connect("/chat", bearer(iss.token(claims{"sid": "s3"})))
			conn.text("before").text(c.text).text("behind")
			// The answer comes at some boundary among the echoes.
			answer, echoes := map[string]any{}, ""
			for range 3 {
				m, err := conn.next()
				if err != nil {
					t.Fatal(err)
				}
				if strings.HasPrefix(m.payload, "be") {
					echoes += m.payload
				} else if err := json.Unmarshal([]byte(m.payload), &answer); err != nil {
					t.Fatalf("received %q", m.payload)
				}
			}
			if answer["wsbouncer"] != "error" || answer["code"] != c.code || echoes != "beforebehind" {
				t.Errorf("answered %v among %q, want the error %s", answer, echoes, c.code)
			}
			if got := up.of(conn.alive()).dataOf(); fmt.Sprint(got) != "[before behind are you there?]" {
				t.Errorf("the upstream received %q", got)
			}
		})
	}

	for name, change := range map[string]claims{
		"another subject":   {"sub": "bob"},
		"another session":   {"sid": "other"},
		"no session":        {"sid": nil},
		"another client":    {"client_id": "other"},
		"a scope is lost":   {"scope": "other"},
		"no scope any more": {"scope": nil},
	} {
		t.Run(name, func(t *testing.T) {
			c := s.within(t).connect("/chat", bearer(iss.token(claims{"sid": "s4"})))
			e := <-c.text(refreshMessage(iss.token(claims{"sid": "s4"}, expires(long), change))).watch()
			e.want(t, 3003, "not_allowed")
			uc := up.of(c)
			uc.closed(3003, "not_allowed")
			if got := uc.dataOf(); len(got) > 0 {
				t.Errorf("the upstream received %q", got)
			}
		})
	}

	t.Run("at most one a second", func(t *testing.T) {
		c := s.within(t).connect("/chat", bearer(iss.token(claims{"sid": "s5"}, expires(inSeconds(30)))))
		next := refreshMessage(iss.token(claims{"sid": "s5"}, expires(long)))
		c.text(next).replies("ok", long)
		for range 10 {
			c.text(next)
		}
		limited := 0
		for range 10 {
			if v := c.reply(); v["code"] == "rate_limited" {
				limited++
			}
		}
		if limited < 8 { // a slow machine may be into the next second
			t.Errorf("%d of 10 were refused", limited)
		}
		c.alive()
	})

	t.Run("what is not the gateway's passes", func(t *testing.T) {
		c := s.within(t).connect("/chat", bearer(iss.token(claims{"sid": "s6"})))
		for _, text := range []string{
			`{"a":{"wsbouncer":"refresh"}}`, `["wsbouncer"]`, `"wsbouncer"`, `{"a":"wsbouncer"}`, `{"wsbouncerx":1}`, `{"Wsbouncer":1}`, `{}`, ``, ` `, `{`, `x {"wsbouncer":1}`,
		} {
			c.text(text).receives(text)
		}
		c.frame(frame.Binary, true, `{"wsbouncer":"refresh"}`).receives(`{"wsbouncer":"refresh"}`)
	})

	t.Run("fragments, spaces and escapes are the gateway's", func(t *testing.T) {
		c := s.within(t).connect("/chat", bearer(iss.token(claims{"sid": "s7"}, expires(inSeconds(30)))))
		token := iss.token(claims{"sid": "s7"}, expires(long))
		c.frame(frame.Text, false, " \t\r\n{").frame(frame.Continuation, false, `"token" : "`+token[:40])
		c.frame(frame.Ping, true, "alive?")
		if m, err := c.next(); err != nil || m.op != frame.Pong || m.payload != "alive?" {
			t.Fatalf("a ping among the fragments: %v %v", m, err)
		}
		c.frame(frame.Continuation, false, token[40:]+`", "\u0077sbouncer"`).frame(frame.Continuation, true, ` :"refresh"} `)
		c.replies("ok", long)
		if got := up.of(c.alive()).dataOf(); fmt.Sprint(got) != "[are you there?]" {
			t.Errorf("the upstream received %q", got)
		}
	})

	t.Run("the upstream cannot speak for the gateway", func(t *testing.T) {
		c := s.within(t).connect("/upstream", bearer(iss.token(claims{"sid": "s8"})))
		c.receives("one").receives(`{"a":{"wsbouncer":1}}`).receives(`["wsbouncer"]`).receives(`{"wsbouncer":"ok"}`)
		s.revoke(iss, "session", "s8")
		c.closes(3000, "session_revoked")
	})

	t.Run("no extension", func(t *testing.T) {
		_, a := s.within(t).handshake("/chat", bearer(iss.token()), "Sec-WebSocket-Extensions: permessage-deflate")
		if a.header.Get("Sec-WebSocket-Extensions") != "" {
			t.Error("permessage-deflate on an inspected route")
		}
	})
}

// A client is told once for every token when most of its life is over, and of
// the life that the connection then has.
func TestSES02Expiring(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, nil)
	s, iss := gate(t, up, inBandRoutes)
	first, second := inSeconds(2), inSeconds(5)
	token := func(at time.Time) string { return iss.token(expires(at)) }
	began := time.Now()
	conns := map[string]*client{
		"plain":     s.connect("/chat", bearer(token(second))),
		"refreshed": s.connect("/chat", bearer(token(first))),
		"extended":  s.connect("/chat", bearer(token(first))),
	}
	conns["refreshed"].text(refreshMessage(token(second))).replies("ok", second)
	extended := conns["extended"].id
	a := s.want(s.call("POST", "/auth/extend", map[string]any{"connections": []string{extended}}, bearer(token(second))), 200, "")
	if got, _ := a.json["extended"].([]any); len(got) != 1 || got[0] != extended {
		t.Fatalf("%s", a.body)
	}
	endings := map[string]<-chan ending{}
	for name, c := range conns {
		endings[name] = c.watch()
	}
	for name, ends := range endings {
		e := (<-ends).want(t, 3000, "token_expired")
		want := fmt.Sprintf(`{"wsbouncer":"expiring","expires_at":%d}`, second.Unix())
		if len(e.data) != 1 || e.data[0].payload != want {
			t.Errorf("%s: told %v", name, e.data)
			continue
		}
		// The life began a little after began, and the extended one's warning is
		// counted from where the first would have been.
		if after, most := e.data[0].at.Sub(began), second.Sub(began); after < most*75/100 || after > most {
			t.Errorf("%s: told after %v of %v", name, after, most)
		}
	}
}

// The same token twice is no second life, and so no second warning.
func TestSES02ExpiringOnce(t *testing.T) {
	t.Parallel()
	s, iss := gate(t, newUpstream(t, nil), inBandRoutes)
	at := inSeconds(4)
	c := s.connect("/chat", bearer(iss.token(expires(at))))
	c.replies("expiring", at)
	c.text(refreshMessage(iss.token(expires(at)))).replies("ok", at)
	if e := (<-c.watch()).want(t, 3000, "token_expired"); len(e.data) > 0 {
		t.Errorf("told again: %q", e.data[0].payload)
	}
}

// Extension over HTTP moves exactly the named connections of the same session.
func TestSES02ExtensionByName(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, nil)
	s := start(t, up, `
issuer: {access_ttl: 4s}
routes:
  - {path: /chat, upstream: "ws://UPSTREAM", scopes: [chat]}
  - {path: /all, upstream: "ws://UPSTREAM", scopes: [chat], extend: session}
`+generous())
	s.addUser("ann", "chat")
	s.addUser("ben", "chat")
	ann, ben, again := s.login("ann"), s.login("ben"), s.login("ann")
	a := bearer(ann.str("access_token"))
	named, later, unnamed, whole := s.connect("/chat", a), s.connect("/chat", a), s.connect("/chat", a), s.connect("/all", a)
	bens := s.connect("/chat", bearer(ben.str("access_token")))
	device := s.connect("/chat", bearer(again.str("access_token")))
	endings := map[string]<-chan ending{"unnamed": unnamed.watch(), "ben's": bens.watch(), "another session": device.watch()}

	// Deadlines are whole seconds: the newer token's must be another.
	half := time.Now().Add(2 * time.Second)
	eventually(t, "half of the life", func() bool { return time.Now().After(half) })
	moved := s.want(s.refresh(ann.str("refresh_token"), "connection", named.id, "connection", bens.id, "connection", device.id, "connection", "unknown"), 200, "")
	newer := moved.str("access_token")
	x := s.want(s.call("POST", "/auth/extend", map[string]any{"connections": []string{later.id, bens.id, device.id}}, bearer(newer)), 200, "")
	if got, _ := x.json["extended"].([]any); len(got) != 2 { // later, and whole by its route
		t.Errorf("extended: %s", x.body)
	}
	for name, e := range endings {
		t.Run(name, func(t *testing.T) { (<-e).want(t, 3000, "token_expired") })
	}
	named.alive()
	later.alive()
	whole.alive()
	for _, c := range []*client{named, later, whole} {
		c.closes(3000, "token_expired")
	}
}
