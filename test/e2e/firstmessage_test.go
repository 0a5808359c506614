package e2e_test

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/frame"
)

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
