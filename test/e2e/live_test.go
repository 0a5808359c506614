package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/adminapi"
	"github.com/wsbouncer/wsbouncer/internal/frame"
)

// loaded is what a busy test machine may add to a bound of time.
const loaded = 2 * time.Second

// ending is how a connection ended at the client.
type ending struct {
	at    time.Time // of the close frame
	code  uint16
	text  string
	data  []arrival // before it; not those of a flood
	after int       // bytes behind it
	err   error     // instead of it
}

type arrival struct {
	message
	at time.Time
}

// watch reads to the end in the background. Pings are answered.
func (c *client) watch() <-chan ending {
	out := make(chan ending, 1)
	go func() {
		var e ending
		defer func() { out <- e }()
		_ = c.conn.SetReadDeadline(time.Now().Add(patience))
		for {
			m, err := readFrame(c.br)
			switch {
			case err != nil:
				e.err = err
				return
			case m.op == frame.Ping:
				_, _ = c.conn.Write(frame.AppendPong(nil, []byte(m.payload), true))
			case m.op == frame.Close:
				e.at = time.Now()
				e.code, e.text, e.err = frame.ParseClose([]byte(m.payload))
				_, _ = c.conn.Write(frame.AppendClose(nil, e.code, "", true))
				rest, _ := io.ReadAll(c.br)
				e.after = len(rest)
				return
			case m.op != frame.Pong && !strings.HasPrefix(m.payload, "#"):
				e.data = append(e.data, arrival{m, time.Now()})
			}
		}
	}()
	return out
}

// want demands an ending by code and reason, with nothing behind it.
func (e ending) want(t testing.TB, code uint16, text string) ending {
	t.Helper()
	if e.err != nil || e.code != code || e.text != text || e.after != 0 {
		t.Errorf("ended with %d %q (%v) and %d bytes more, want %d %q", e.code, e.text, e.err, e.after, code, text)
	}
	return e
}

// numbered is a message of a flood.
func numbered(n int64) []byte { return []byte("#" + strconv.FormatInt(n, 10)) }

func numberOf(payload string) int64 {
	n, err := strconv.ParseInt(strings.TrimPrefix(payload, "#"), 10, 64)
	if err != nil {
		return -1
	}
	return n
}

// flood sends numbered messages until the connection ends; sent is the highest
// number whose writing began.
func (c *client) flood(sent *atomic.Int64) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			if _, err := c.conn.Write(frame.Append(nil, frame.Text, numbered(sent.Add(1)), true)); err != nil {
				return
			}
		}
	}()
	return done
}

// pour sends numbered messages as fast as they are taken, until a close frame
// came or the connection ended.
func pour(c *upConn) {
	c.accept()
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.listen()
	}()
	for n := int64(1); ; n++ {
		select {
		case <-done:
			return
		default:
		}
		if _, err := c.Write(frame.Append(nil, frame.Text, numbered(n), false)); err != nil {
			<-done
			return
		}
	}
}

// sink accepts and records, and says nothing.
func sink(c *upConn) {
	c.accept()
	c.listen()
}

const liveRoutes = `
  - {path: /chat, upstream: "ws://UPSTREAM"}
  - {path: /pour, upstream: "ws://UPSTREAM"}
  - {path: /sink, upstream: "ws://UPSTREAM"}
`

func liveUpstream(t *testing.T) *upstream {
	return newUpstream(t, script{"/pour": pour, "/sink": sink}.serve)
}

// SES-01: whatever a connection is doing, it ends when its token does: never
// early, and both sides are told the same.
func TestSES01EndsWithItsToken(t *testing.T) {
	t.Parallel()
	up := liveUpstream(t)
	s, iss := gate(t, up, liveRoutes)
	deadline := time.Unix(time.Now().Unix()+3, 0)
	token := func(sub string) string { return bearer(iss.token(claims{"exp": deadline.Unix(), "sub": sub})) }
	conns := map[string]*client{
		"idle":      s.connect("/chat", token("a")),
		"sending":   s.connect("/sink", token("b")),
		"echoing":   s.connect("/chat", token("c")),
		"receiving": s.connect("/pour", token("d")),
	}
	var sent atomic.Int64
	floods := []<-chan struct{}{conns["sending"].flood(&sent), conns["echoing"].flood(&sent)}
	endings := map[string]<-chan ending{}
	for name, c := range conns {
		endings[name] = c.watch()
	}
	for name, c := range conns {
		e := (<-endings[name]).want(t, 3000, "token_expired")
		switch late := e.at.Sub(deadline); {
		case late < 0:
			t.Errorf("%s: closed %v before the deadline", name, -late)
		case late > 250*time.Millisecond+loaded:
			t.Errorf("%s: closed %v after the deadline", name, late)
		}
		up.of(c).closed(3000, "token_expired")
	}
	for _, done := range floods {
		<-done
	}
	s.refused(401, "token_expired", "/chat", token("a"))
}

// The close frame stands between frames: expiry lets a frame under way finish,
// within a second.
func TestSES01WaitsForTheFrameUnderWay(t *testing.T) {
	t.Parallel()
	half := func(finish bool) func(*upConn) {
		return func(c *upConn) {
			c.accept()
			whole := appendFrame(nil, message{frame.Text, true, strings.Repeat("x", 1000)}, false)
			_, _ = c.Write(whole[:500])
			// The other direction is between frames, so the end is known here.
			if m, err := c.next(); err != nil || m.op != frame.Close {
				c.up.t.Errorf("received %v %v", m, err)
			}
			if finish {
				_, _ = c.Write(append(whole[500:], "\x81\x05later"...))
				_, _ = c.Write(frame.AppendClose(nil, 3000, "", false))
			} else {
				_, _ = io.Copy(io.Discard, c.br)
			}
		}
	}
	up := newUpstream(t, script{"/sink": half(true), "/pour": half(false)}.serve)
	s, iss := gate(t, up, liveRoutes)
	deadline := time.Unix(time.Now().Unix()+2, 0)
	token := bearer(iss.token(claims{"exp": deadline.Unix()}))
	finishes, hangs := s.connect("/sink", token), s.connect("/pour", token)

	e := (<-finishes.watch()).want(t, 3000, "token_expired")
	if e.at.Before(deadline) || len(e.data) != 1 || len(e.data[0].payload) != 1000 {
		t.Errorf("before the close frame came %d messages", len(e.data))
	}
	if h, err := readHeaderOnly(hangs); err != nil || h.Length != 1000 {
		t.Fatal(h, err)
	}
	rest, _ := io.ReadAll(hangs.br)
	if len(rest) != 496 {
		t.Errorf("%d bytes of the frame came, want 496 and then the end", len(rest))
	}
}

// A revocation does not wait for the frame: what is under way is cut where it
// stands, and no close frame is put inside it.
func TestSES10RevocationCutsTheFrameUnderWay(t *testing.T) {
	t.Parallel()
	const size = 32 << 20
	up := newUpstream(t, func(c *upConn) {
		c.accept()
		_, _ = c.Write(appendFrame(nil, message{frame.Binary, true, strings.Repeat("\x88", size)}, false))
		c.listen()
	})
	s, iss := gate(t, up, `
  - {path: /big, upstream: "ws://UPSTREAM", limits: {message_bytes: 64MiB}}
`)
	c := s.connect("/big", bearer(iss.token()))
	if h, err := readHeaderOnly(c); err != nil || h.Length != size {
		t.Fatal(h, err)
	}
	if n := s.revoke(iss, "session", "s1"); n != 1 {
		t.Fatalf("%d connections closed", n)
	}
	_ = c.conn.SetReadDeadline(time.Now().Add(patience))
	n, read := 0, make([]byte, 64<<10)
	for {
		k, err := c.br.Read(read)
		if bytes.Count(read[:k], []byte{0x88}) != k {
			t.Fatal("something else stands inside the frame")
		}
		if n += k; err != nil {
			break
		}
	}
	if n >= size {
		t.Errorf("all %d bytes came after the revocation", n)
	}
}

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

// SES-04: each kind of revocation closes exactly the live connections it means.
func TestSES04RevocationClosesExactly(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, nil)
	iss, other := newIssuer(t, "https://idp.example"), newIssuer(t, "https://other.example")
	s := start(t, up, trustYAML(iss.name)+`
  - {issuer: "https://other.example", audience: chat, algorithms: [ES256], keys: {file: other.json}, leeway: 0s}
routes:
  - {path: /chat, upstream: "ws://UPSTREAM"}
`+generous(), iss.trusted, func(s *server) { s.file("other.json", other.jwks()) })
	old := time.Now().Add(-100 * time.Second).Unix()
	who := map[string]struct {
		iss    *issuer
		claims claims
	}{
		"a1":    {iss, claims{"sub": "alice", "sid": "s1", "jti": "j1"}},
		"a1b":   {iss, claims{"sub": "alice", "sid": "s1", "jti": "j2"}},
		"a2":    {iss, claims{"sub": "alice", "sid": "s2", "jti": "j3"}},
		"a-old": {iss, claims{"sub": "alice", "sid": "s3", "jti": "j4", "iat": old}},
		"b":     {iss, claims{"sub": "bob", "sid": "s4", "jti": "j5"}},
		"b-old": {iss, claims{"sub": "bob", "sid": "s5", "jti": "j6", "iat": old}},
		"b-bad": {iss, claims{"sub": "s1", "sid": "alice", "jti": "k1"}}, // values of other kinds
		"o1":    {other, claims{"sub": "alice", "sid": "s1", "jti": "j1"}},
		"o-old": {other, claims{"sub": "alice", "sid": "s3", "jti": "j4", "iat": old}},
	}
	conns := map[string]*client{}
	for name, w := range who {
		conns[name] = s.connect("/chat", bearer(w.iss.token(w.claims))).alive()
	}
	closes := func(kind, value, reason string, names ...string) {
		t.Helper()
		if n := s.revoke(iss, kind, value); n != len(names) {
			t.Fatalf("%s: %d closed, want %d", kind, n, len(names))
		}
		for _, name := range names {
			conns[name].closes(3000, reason)
			up.of(conns[name]).closed(3000, reason)
			delete(conns, name)
		}
		for _, c := range conns {
			c.alive()
		}
	}
	closes("token", "j1", "token_revoked", "a1")
	closes("session", "s1", "session_revoked", "a1b")
	closes("before", time.Now().Add(-50*time.Second).UTC().Format(time.RFC3339), "token_revoked", "a-old", "b-old")
	closes("subject", "alice", "subject_revoked", "a2")
	if out := s.cli("revoke", "subject", "alice", "--issuer", iss.name, "--json"); !strings.Contains(out, `"closed": 0`) && !strings.Contains(out, `"closed":0`) {
		t.Errorf("again: %s", out)
	}
	closes("key", "k1", "key_revoked", "b", "b-bad")
	if len(conns) != 2 {
		t.Errorf("%d connections of the other issuer are left", len(conns))
	}
	// SES-05: and none of them comes back.
	for _, w := range who {
		if w.iss == iss {
			s.refused(401, "token_revoked", "/chat", bearer(iss.token(w.claims)))
		} else {
			s.connect("/chat", bearer(w.iss.token(w.claims))).alive()
		}
	}
}

// SES-05: a revoked token opens nothing, however it is carried.
func TestSES05RevokedIsRefusedByEveryCarrier(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, nil)
	s, iss := gate(t, up, `
  - {path: /chat, upstream: "ws://UPSTREAM", token_from: [ticket, header, subprotocol, query, cookie]}
  - {path: /first, upstream: "ws://UPSTREAM", token_from: [first_message]}
  - {path: /close, upstream: "ws://UPSTREAM", reject: close}
`)
	token := iss.token(claims{"jti": "gone"})
	ticket := s.want(s.ticket(token, "/chat"), 200, "").str("ticket")
	s.connect("/chat", bearer(token)).alive()
	s.revoke(iss, "token", "gone")
	before := up.count()
	s.refused(401, "token_revoked", "/chat", bearer(token))
	s.refused(401, "token_revoked", "/chat", "Sec-WebSocket-Protocol: bearer, "+token)
	s.refused(401, "token_revoked", "/chat?access_token="+token)
	s.refused(401, "token_revoked", "/chat?token="+token)
	s.refused(401, "token_revoked", "/chat", "Cookie: wsbouncer="+token, "Origin: "+s.url)
	s.refused(401, "token_revoked", "/chat?ticket="+ticket)
	if a := s.ticket(token, "/chat"); a.status != 401 || a.code() != "token_revoked" {
		t.Errorf("a new ticket: %d %s", a.status, a.body)
	}
	s.connect("/close", bearer(token)).closes(3000, "token_revoked")
	s.connect("/first").text(`{"wsbouncer":"auth","token":"`+token+`"}`).closes(3000, "token_revoked")
	if up.count() != before {
		t.Errorf("%d of them reached the upstream", up.count()-before)
	}
}

// SES-06: a revocation that races with the handshake wins, wherever in it the
// two meet.
func TestSES06RevocationRacesWithTheHandshake(t *testing.T) {
	t.Parallel()
	met, release := make(chan struct{}), make(chan struct{})
	up := newUpstream(t, script{"/sink": func(c *upConn) {
		met <- struct{}{}
		select {
		case <-release:
			echo(c)
		case <-c.up.t.Context().Done():
		}
	}}.serve)
	s, iss := gate(t, up, liveRoutes+`
  - {path: /first, upstream: "ws://UPSTREAM", token_from: [first_message]}
`)
	// While the upstream is asked: the client is refused at once.
	c := s.raw().send(s.upgrade("/sink", bearer(iss.token(claims{"sid": "mid"}))))
	<-met
	if n := s.revoke(iss, "session", "mid"); n != 1 {
		t.Fatalf("%d closed", n)
	}
	if a := c.response(); a.status != 401 || a.code() != "token_revoked" {
		t.Fatalf("%d %s", a.status, a.body)
	}
	close(release)

	admin := s.manage()
	counts := map[string]int{}
	for i := range 400 {
		sid := fmt.Sprintf("race-%d", i)
		token := iss.token(claims{"sid": sid})
		first := i%4 == 3
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := admin.Revoke(context.Background(), adminapi.RevokeRequest{Kind: "session", Issuer: iss.name, Value: sid}); err != nil {
				t.Error(err)
			}
		})
		spin(rand.N(4 * time.Millisecond))
		var c *client
		var a *answer
		if first {
			c, a = s.handshake("/first")
			c.text(`{"wsbouncer":"auth","token":"` + token + `"}`)
		} else {
			c, a = s.handshake("/chat", bearer(token))
		}
		wg.Wait()
		switch {
		case a.status == 401 && a.code() == "token_revoked":
			counts["refused"]++
		case a.status == http.StatusSwitchingProtocols:
			_, _ = c.conn.Write(frame.Append(nil, frame.Text, []byte("after"), true))
			e := <-c.watch()
			if e.err != nil || e.code != 3000 || e.text != "session_revoked" && e.text != "token_revoked" || e.after > 0 {
				t.Fatalf("round %d ended with %+v", i, e)
			}
			for _, m := range e.data {
				if m.payload == "after" {
					t.Fatalf("round %d: carried a message after the revocation", i)
				}
			}
			counts["closed"]++
		default:
			t.Fatalf("round %d: %d %s", i, a.status, a.body)
		}
		c.conn.Close()
	}
	t.Log(counts)
	if counts["refused"] == 0 || counts["closed"] == 0 {
		t.Error("the race was always won by the same side")
	}
	eventually(t, "no connection left", func() bool {
		p, err := admin.Connections(context.Background(), adminapi.ConnectionFilter{})
		return err == nil && len(p.Items) == 0
	})
}

// spin passes a time too short to wait for.
func spin(d time.Duration) {
	for began := time.Now(); time.Since(began) < d; {
	}
}

// SES-08: a logout ends its own session's connections, and no others.
func TestSES08LogoutEndsItsSession(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, nil)
	s := start(t, up, chatYAML)
	s.addUser("ann", "chat")
	one, two := s.login("ann"), s.login("ann")
	var first, second []*client
	for range 3 {
		first = append(first, s.connect("/chat/a", bearer(one.str("access_token"))))
		second = append(second, s.connect("/chat/a", bearer(two.str("access_token"))))
	}
	s.want(s.call("POST", "/auth/logout", nil, bearer(one.str("access_token"))), 200, "")
	for i := range first {
		first[i].closes(3000, "logged_out")
		second[i].alive()
	}
	s.want(s.refresh(one.str("refresh_token")), 400, "invalid_grant")
	s.want(s.refresh(two.str("refresh_token")), 200, "")
	// One device ends another.
	three := s.login("ann")
	c := s.connect("/chat/a", bearer(three.str("access_token")))
	if a := s.call("DELETE", "/auth/sessions/"+three.str("session_id"), nil, bearer(two.str("access_token"))); a.status/100 != 2 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	c.closes(3000, "logged_out")
	second[0].alive()
}

// SES-10: once a revocation was answered nothing that is sent later arrives, in
// either direction, and nothing that was queued is flushed.
func TestSES10NothingAfterTheDecision(t *testing.T) {
	t.Parallel()
	up := liveUpstream(t)
	s, iss := gate(t, up, liveRoutes+`
  - {path: /inband, upstream: "ws://UPSTREAM", in_band_refresh: true}
`)
	for i := range 12 {
		path := []string{"/sink", "/chat", "/inband"}[i%3]
		sid := fmt.Sprintf("flood-%d", i)
		token := bearer(iss.token(claims{"sid": sid}))
		sending, receiving := s.connect(path, token), s.connect("/pour", token)
		var sent atomic.Int64
		done := sending.flood(&sent)
		ends := []<-chan ending{sending.watch(), receiving.watch()}
		uc := up.of(sending)
		eventually(t, "the flood at the upstream", func() bool { return len(uc.got()) > 100 })
		if n := s.revoke(iss, "session", sid); n != 2 {
			t.Fatalf("%d closed", n)
		}
		most := sent.Load()
		for _, e := range ends {
			(<-e).want(t, 3000, "session_revoked")
		}
		<-done
		uc.closed(3000, "session_revoked")
		next := int64(1)
		for _, m := range uc.got() {
			if m.op.IsControl() {
				continue
			}
			if n := numberOf(m.payload); n != next || n > most {
				t.Fatalf("%s: the upstream received %d instead of %d; the last sent before the end was %d", path, n, next, most)
			}
			next++
		}
	}
}

// SES-11: no token and no activity keeps a connection for ever.
func TestSES11LifetimeAndIdle(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, nil)
	s, iss := gate(t, up, `
  - {path: /life, upstream: "ws://UPSTREAM", in_band_refresh: true, limits: {lifetime: 2s}}
  - {path: /idle, upstream: "ws://UPSTREAM", limits: {idle_timeout: 1s}}
`)
	token := bearer(iss.token())
	began := time.Now()
	life := s.connect("/life", token)
	later := inSeconds(600)
	idleBegan := time.Now()
	silent := s.connect("/idle", token)
	polite := s.connect("/idle", token).watch() // answers pings

	pings := 0
	for {
		m, err := silent.next()
		if err != nil {
			t.Fatal(err)
		}
		if m.op == frame.Ping {
			pings++
			continue
		}
		if code, text, err := frame.ParseClose([]byte(m.payload)); m.op != frame.Close || err != nil || code != 1001 || text != "idle" {
			t.Fatalf("closed with %d %s (%v)", code, text, err)
		}
		break
	}
	if d := time.Since(idleBegan); d < time.Second || d > time.Second+loaded {
		t.Errorf("idle after %v", d)
	}
	if pings < 1 || pings > 3 {
		t.Errorf("%d pings before", pings)
	}
	up.of(silent).closed(1001, "idle")

	life.text(refreshMessage(iss.token(expires(later))))
	if v := life.reply(); v["wsbouncer"] == "expiring" {
		v = life.reply()
		if v["wsbouncer"] != "ok" {
			t.Fatal(v)
		}
	}
	e := (<-life.watch()).want(t, 1001, "lifetime")
	if d := e.at.Sub(began); d < 2*time.Second || d > 2*time.Second+loaded {
		t.Errorf("lifetime over after %v", d)
	}
	up.of(life).closed(1001, "lifetime")
	select {
	case e := <-polite:
		t.Errorf("a client that answers pings ended: %+v", e)
	default:
	}
}

// SES-19: every refusal and end that a client is told is a legal close frame,
// and whoever does not answer it is cut.
func TestSES19RejectClose(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, nil)
	s, iss := gate(t, up, `
  - {path: /c, upstream: "ws://UPSTREAM", scopes: [chat], reject: close}
  - {path: /one, upstream: "ws://UPSTREAM", reject: close, limits: {connections_per_subject: 1}}
`)
	good := iss.token()
	other := newIssuer(t, iss.name)
	for code, lines := range map[string][]string{
		"token_missing":   nil,
		"token_malformed": {bearer("nonsense")},
		"token_signature": {bearer(other.token())},
		"token_expired":   {bearer(iss.token(expires(inSeconds(-60))))},
		"token_audience":  {bearer(iss.token(claims{"aud": "mail"}))},
		"token_issuer":    {bearer(iss.token(claims{"iss": "https://evil.example"}))},
	} {
		s.connect("/c", lines...).closes(3000, code)
	}
	s.connect("/c", bearer(iss.token(claims{"scope": "mail"}))).closes(3003, "insufficient_scope")
	c, a := s.handshake("/c", "Sec-WebSocket-Protocol: bearer, "+other.token()+", chat")
	if a.status != 101 || a.header.Get("Sec-WebSocket-Protocol") != "bearer" {
		t.Errorf("%d, protocol %q", a.status, a.header.Get("Sec-WebSocket-Protocol"))
	}
	c.closes(3000, "token_signature")

	keep := s.connect("/one", bearer(good)).alive()
	s.connect("/one", bearer(iss.token(claims{"sid": "s2"}))).closes(1013, "too_many_connections")
	keep.alive()

	// These stay HTTP: no page that may not connect is told anything by a 101.
	s.refused(403, "origin_denied", "/c", bearer(good), "Origin: https://evil.example")
	s.refused(400, "credential_ambiguous", "/c?token="+good, bearer(good))
	s.refused(426, "upgrade_required", "/c", bearer(good), "Sec-WebSocket-Version: 8")
	s.refused(404, "no_route", "/nowhere", bearer(good))
	if up.count() != 1 {
		t.Errorf("%d connections reached the upstream", up.count())
	}

	// Nobody needs to answer for the connection to end.
	for _, mute := range []*client{s.connect("/c"), s.connect("/c", bearer(iss.token(claims{"sid": "mute"})))} {
		s.revoke(iss, "session", "mute")
		began := time.Now()
		if m, err := mute.next(); err != nil || m.op != frame.Close || len(m.payload) > 125 {
			t.Fatal(m, err)
		}
		mute.ends()
		if d := time.Since(began); d > 5*time.Second {
			t.Errorf("cut after %v", d)
		}
	}
}

// AUT-05: a connection that has not said who it is gets nothing but a deadline.
func TestAUT05FirstMessage(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, script{"/mute": func(c *upConn) { c.accept(); c.listen() }}.serve)
	s, iss := gate(t, up, `
  - {path: /first, upstream: "ws://UPSTREAM", scopes: [chat], token_from: [first_message], protocols: [chat.v2, chat.v1]}
  - {path: /mute, upstream: "ws://UPSTREAM", token_from: [first_message], protocols: [chat.v2, chat.v1]}
  - {path: /both, upstream: "ws://UPSTREAM", token_from: [header, first_message]}
`, "handshake_timeout: 2s")
	auth := func(token string) string { return `{"wsbouncer":"auth","token":"` + token + `"}` }
	good := iss.token()

	broken := map[string]func(){}
	for name, c := range map[string]struct {
		send func(c *client)
		code uint16
		text string
	}{
		"data":         {func(c *client) { c.text("hello") }, 3000, "auth_required"},
		"binary":       {func(c *client) { c.frame(frame.Binary, true, auth(good)) }, 3000, "auth_required"},
		"another kind": {func(c *client) { c.text(`{"wsbouncer":"refresh","token":"` + good + `"}`) }, 3000, "auth_required"},
		"no token":     {func(c *client) { c.text(`{"wsbouncer":"auth"}`) }, 3000, "auth_required"},
		"more members": {func(c *client) { c.text(`{"wsbouncer":"auth","token":"` + good + `","x":1}`) }, 3000, "auth_required"},
		"twice":        {func(c *client) { c.text(`{"wsbouncer":"auth","token":"x","token":"` + good + `"}`) }, 3000, "auth_required"},
		"empty":        {func(c *client) { c.text("") }, 3000, "auth_required"},
		"malformed":    {func(c *client) { c.text(auth("x")) }, 3000, "token_malformed"},
		"expired":      {func(c *client) { c.text(auth(iss.token(expires(inSeconds(-60))))) }, 3000, "token_expired"},
		"scope":        {func(c *client) { c.text(auth(iss.token(claims{"scope": "mail"}))) }, 3003, "insufficient_scope"},
		"1 MB": {func(c *client) {
			_, _ = c.conn.Write(appendFrame(nil, message{frame.Text, true, strings.Repeat("x", 1<<20)}, true))
		}, 1009, "message_too_big"},
		"1 MB announced": {func(c *client) { c.send("\x81\xff\x00\x00\x00\x00\x00\x10\x00\x00abcd") }, 1009, "message_too_big"},
		"fragments above": {func(c *client) {
			c.frame(frame.Text, false, strings.Repeat(" ", 5<<10)).frame(frame.Continuation, true, strings.Repeat(" ", 5<<10))
		}, 1009, "message_too_big"},
		"token too large": {func(c *client) { c.text(auth(strings.Repeat("x", 8<<10+1))) }, 1009, "message_too_big"},
		"unmasked":        {func(c *client) { c.send("\x81\x02{}") }, 1002, "protocol_error"},
		"compressed":      {func(c *client) { c.send("\xc1\x81abcdx") }, 1002, "protocol_error"},
		"ping flood":      {func(c *client) { c.send(strings.Repeat("\x89\x80abcd", 200)) }, 1002, "protocol_error"},
		"close":           {func(c *client) { c.frame(frame.Close, true, "\x0f\xa0bye") }, 4000, "bye"},
		"illegal close":   {func(c *client) { c.frame(frame.Close, true, "\x03\xee") }, 1002, "protocol_error"},
	} {
		conn := s.connect("/first")
		if c.code == 1002 || c.code == 1009 {
			// Who broke a rule is not understood any more and has a second to go.
			ends := conn.watch()
			c.send(conn)
			broken[name] = func() { (<-ends).want(t, c.code, c.text) }
			continue
		}
		t.Run(name, func(t *testing.T) {
			conn.t = t
			c.send(conn)
			conn.closes(c.code, c.text)
		})
	}
	for _, check := range broken {
		check()
	}

	// Pings keep nobody waiting longer, and so do a first fragment and half a
	// frame.
	began := time.Now()
	pinging, half, fragment, silent := s.connect("/first"), s.connect("/first"), s.connect("/first"), s.connect("/first")
	half.send("\x81\xfe\x01\x00abcd{")
	fragment.frame(frame.Text, false, `{"wsbouncer":`)
	var pongs atomic.Int64
	stop := make(chan struct{})
	go func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				_, _ = pinging.conn.Write(frame.AppendPing(nil, []byte("x"), true))
				pongs.Add(1)
			case <-stop:
				return
			}
		}
	}()
	for _, c := range []*client{silent, half, fragment, pinging} {
		e := (<-c.watch()).want(t, 3008, "auth_timeout")
		if d := e.at.Sub(began); d < 2*time.Second || d > 2*time.Second+2*loaded {
			t.Errorf("closed after %v", d)
		}
	}
	close(stop)
	if pongs.Load() < 5 {
		t.Errorf("only %d pings were sent", pongs.Load())
	}
	s.refused(403, "origin_denied", "/first", "Origin: https://evil.example")
	s.refused(401, "token_expired", "/both", bearer(iss.token(expires(inSeconds(-60)))))
	if up.count() != 0 {
		t.Errorf("%d of them reached the upstream", up.count())
	}

	t.Run("accepted", func(t *testing.T) {
		s := s.within(t)
		end := inSeconds(60)
		token := iss.token(expires(end))
		c, a := s.handshake("/first", "Sec-WebSocket-Protocol: chat.v0, chat.v1, chat.v2", "Sec-WebSocket-Extensions: permessage-deflate", "Origin: "+s.url)
		if a.status != 101 || a.header.Get("Sec-WebSocket-Protocol") != "chat.v2" || a.header.Get("Sec-WebSocket-Extensions") != "" {
			t.Fatalf("%d %v", a.status, a.header)
		}
		c.frame(frame.Ping, true, "early")
		if m, err := c.next(); err != nil || m.op != frame.Pong || m.payload != "early" {
			t.Fatalf("%v %v", m, err)
		}
		// What comes in the same write behind the message is the upstream's.
		raw := appendFrame(nil, message{frame.Text, false, auth(token)[:9]}, true)
		raw = append(raw, frame.AppendPong(nil, nil, true)...)
		raw = append(raw, appendFrame(nil, message{frame.Continuation, true, auth(token)[9:]}, true)...)
		raw = append(raw, frame.Append(nil, frame.Text, []byte("one"), true)...)
		raw = append(raw, frame.Append(nil, frame.Text, []byte("two"), true)[:4]...)
		c.send(string(raw))
		c.replies("ok", end)
		c.receives("one")
		uc := up.of(c)
		if uc.req.Header.Get("Sec-WebSocket-Protocol") != "chat.v2" || uc.req.Header.Get("X-Wsbouncer-Subject") != "alice" || strings.Contains(uc.head, token[:20]) {
			t.Errorf("the upstream was asked:\n%s", uc.head)
		}
		for _, m := range uc.got() {
			if strings.Contains(m.payload, "wsbouncer") {
				t.Errorf("the upstream received %q", m.payload)
			}
		}
		s.revoke(iss, "session", "s1")
		c.cutOrCloses()
	})
	other := bearer(iss.token(claims{"sid": "s2"}))
	s.connect("/both", other).alive()
	// An upstream that does not choose what the client was told.
	c, a := s.handshake("/mute", "Sec-WebSocket-Protocol: chat.v1")
	if a.header.Get("Sec-WebSocket-Protocol") != "chat.v1" {
		t.Errorf("%v", a.header)
	}
	c.text(auth(iss.token(claims{"sid": "s2"}))).closes(1013, "upstream_refused")
}

// cutOrCloses waits for the end; the upstream's direction was in a frame.
func (c *client) cutOrCloses() {
	c.t.Helper()
	if e := <-c.watch(); e.err == nil && e.code != 3000 {
		c.t.Errorf("ended with %+v", e)
	}
}

// AUT-05: strangers that say nothing have sixteen places each address.
func TestAUT05PlacesOfTheUnauthenticated(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, nil)
	s, iss := gate(t, up, `
  - {path: /first, upstream: "ws://UPSTREAM", token_from: [first_message]}
  - {path: /chat, upstream: "ws://UPSTREAM"}
`)
	var waiting []*client
	for range 16 {
		waiting = append(waiting, s.connect("/first"))
	}
	a := s.refused(429, "too_many_connections", "/first")
	if a.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	s.connect("/chat", bearer(iss.token())).alive() // others are not concerned
	waiting[0].text(`{"wsbouncer":"auth","token":"` + iss.token() + `"}`)
	if v := waiting[0].reply(); v["wsbouncer"] != "ok" {
		t.Fatal(v)
	}
	waiting[1].conn.Close()
	open := 0
	eventually(t, "two places free", func() bool {
		if c, a := s.handshake("/first"); a.status == 101 {
			waiting = append(waiting, c)
			open++
		}
		return open == 2
	})
	s.refused(429, "too_many_connections", "/first")
	if up.count() != 2 {
		t.Errorf("%d connections reached the upstream", up.count())
	}
}
