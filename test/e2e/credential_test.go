package e2e_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/frame"
)

// carrier is one place of a handshake that a token may stand in.
type carrier struct {
	name  string
	query func(token string) string
	lines func(token string) []string
}

// carriers are all of them but first_message; tickets are asked for with the
// token, for path.
func carriers(s *server, path string) []carrier {
	line := func(format string, more ...string) func(string) []string {
		return func(token string) []string { return append([]string{fmt.Sprintf(format, token)}, more...) }
	}
	query := func(format string) func(string) string {
		return func(token string) string { return fmt.Sprintf(format, token) }
	}
	return []carrier{
		{name: "header", lines: line("Authorization: Bearer %s")},
		{name: "subprotocol", lines: line("Sec-WebSocket-Protocol: bearer, %s, chat")},
		{name: "query", query: query("token=%s")},
		{name: "query", query: query("access_token=%s")},
		{name: "ticket", query: func(token string) string {
			return "ticket=" + s.want(s.ticket(token, path), 200, "").str("ticket")
		}},
		{name: "cookie", lines: line("Cookie: wsbouncer=%s", "Origin: "+s.url)},
	}
}

// use is the target and header lines of a handshake with token there.
func (c carrier) use(path, token string) (target string, lines []string) {
	if c.query != nil {
		path += "?" + c.query(token)
	}
	if c.lines != nil {
		lines = c.lines(token)
	}
	return path, lines
}

// first authenticates by a first message.
func (c *client) first(token string) *client {
	c.t.Helper()
	return c.text(fmt.Sprintf(`{"wsbouncer":"auth","token":%q}`, token))
}

// told reads a message of the gateway's own.
func (c *client) told(what string) {
	c.t.Helper()
	m, err := c.next()
	var says struct {
		Wsbouncer string
		ExpiresAt int64 `json:"expires_at"`
	}
	if err != nil || json.Unmarshal([]byte(m.payload), &says) != nil || says.Wsbouncer != what || says.ExpiresAt == 0 {
		c.t.Fatalf("instead of %q: %v %v", what, m, err)
	}
}

// values are those of the header lines in head that a careless server takes
// for name: in any case, with _ or . for -.
func values(head, name string) []string {
	fold := func(s string) string {
		return strings.NewReplacer("_", "-", ".", "-").Replace(strings.ToLower(strings.TrimSpace(s)))
	}
	var list []string
	for _, line := range strings.Split(head, "\r\n")[1:] {
		if n, v, ok := strings.Cut(line, ":"); ok && fold(n) == fold(name) {
			list = append(list, strings.TrimSpace(v))
		}
	}
	return list
}

func TestAUT(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, nil)
	iss, other := newIssuer(t, "https://idp.example"), newIssuer(t, "https://other.example")
	sources := []string{"ticket", "header", "subprotocol", "query", "cookie", "first_message"}
	var routes strings.Builder
	for _, source := range sources {
		rest := slices.DeleteFunc(slices.Clone(sources), func(s string) bool { return s == source || s == "first_message" })
		fmt.Fprintf(&routes, "  - {path: /only/%s, upstream: \"ws://UPSTREAM\", token_from: [%s], scopes: [chat]}\n", source, source)
		fmt.Fprintf(&routes, "  - {path: /without/%s, upstream: \"ws://UPSTREAM\", token_from: [%s], scopes: [chat]}\n", source, strings.Join(rest, ", "))
	}
	s := start(t, up, trustYAML(iss.name)+`  - {issuer: "https://other.example", audience: chat, algorithms: [ES256], keys: {file: other.json}, leeway: 0s}
`+generous()+`
issuer: {}
routes:
`+routes.String()+`  - {path: /chat, upstream: "ws://UPSTREAM", scopes: [chat]}
  - {path: /mixed, upstream: "ws://UPSTREAM", token_from: [ticket, header, subprotocol, query, cookie]}
  - {path: /first, upstream: "ws://UPSTREAM", token_from: [first_message], protocols: [chat, superchat], scopes: [chat]}
  - {path: /close, upstream: "ws://UPSTREAM", scopes: [chat], reject: close}
  - {path: /close/dead, upstream: "ws://127.0.0.1:1", reject: close}
  - {path: /dead, upstream: "ws://127.0.0.1:1"}
`, iss.trusted, func(s *server) { s.file("other.json", other.jwks()) })
	auth := bearer(iss.token())
	good := func() *client { return s.connect("/chat", auth) }

	t.Run("AUT01Challenges", func(t *testing.T) {
		s := s.within(t)
		up.unseen(t, good, func() {
			for _, c := range []struct {
				status    int
				code      string
				challenge string
				lines     []string
			}{
				{401, "token_missing", `Bearer`, nil},
				{401, "token_missing", `Bearer`, []string{"Authorization: Basic YWxpY2U6eA=="}},
				{401, "token_malformed", `Bearer error="invalid_token"`, []string{"Authorization: Bearer"}},
				{401, "token_malformed", `Bearer error="invalid_token"`, []string{bearer("x")}},
				{401, "token_signature", `Bearer error="invalid_token"`, []string{bearer(strings.TrimSuffix(iss.token(), "A") + "A")}},
				{403, "insufficient_scope", `Bearer error="insufficient_scope", scope="chat"`, []string{bearer(iss.token(claims{"scope": "chats"}))}},
			} {
				if c.code == "token_signature" { // another key's, so that it is wrong for sure
					c.lines = []string{bearer(other.token(claims{"iss": iss.name}))}
				}
				a := s.refused(c.status, c.code, "/chat", c.lines...)
				if got := a.header["Www-Authenticate"]; len(got) != 1 || got[0] != c.challenge {
					t.Errorf("%s: challenge %q, want %q", c.code, got, c.challenge)
				}
				if a.header.Get("Cache-Control") != "no-store" || a.header.Get("Content-Type") != "application/problem+json" || a.header.Get("X-Content-Type-Options") != "nosniff" {
					t.Errorf("%s: %v", c.code, a.header)
				}
				if a.str("detail") == "" || !strings.HasSuffix(a.str("type"), "#"+c.code) || strings.Contains(string(a.body), ".go") || strings.Contains(string(a.body), "goroutine") {
					t.Errorf("%s: %s", c.code, a.body)
				}
			}
		})
	})

	t.Run("AUT02OneCredential", func(t *testing.T) {
		s := s.within(t)
		alice, bob := iss.token(), iss.token(claims{"sub": "bob"})
		up.unseen(t, good, func() {
			all := carriers(s, "/mixed")
			for i, a := range all {
				for _, b := range all[i+1:] {
					if a.name == "cookie" || b.name == "cookie" {
						continue
					}
					for _, second := range []string{bob, alice} {
						_, lines := a.use("", alice)
						_, more := b.use("", second)
						var query []string
						if a.query != nil {
							query = append(query, a.query(alice))
						}
						if b.query != nil {
							query = append(query, b.query(second))
						}
						s.refused(400, "credential_ambiguous", "/mixed?"+strings.Join(query, "&"), append(lines, more...)...)
					}
				}
			}
			ticket := func() string { return "ticket=" + s.want(s.ticket(alice, "/mixed"), 200, "").str("ticket") }
			for _, c := range []struct {
				query string
				lines []string
			}{
				{"token=" + alice + "&token=" + bob, nil},
				{"access_token=" + alice + "&access_token=" + bob, nil},
				{"access_token=" + alice + "&access_token=" + alice, nil},
				{"token=" + alice + "&%74oken=" + bob, nil},
				{"token=" + alice + "&access%5Ftoken=" + bob, nil},
				{"token=" + alice + "&token", nil},
				{"token=" + alice + "&token=%zz", nil},
				{ticket() + "&" + ticket(), nil},
				{ticket() + "&ticket=", nil},
				{ticket() + "&token=", nil},
				{"", []string{bearer(alice), bearer(bob)}},
				{"", []string{bearer(alice), bearer(alice)}},
				{"", []string{bearer(alice), "authorization: bearer " + bob}},
				{"", []string{bearer(alice), "Authorization: Basic YWxpY2U6eA=="}},
				{"", []string{"Authorization: Basic YWxpY2U6eA==", bearer(alice)}},
				{"", []string{"Sec-WebSocket-Protocol: bearer, " + alice + ", bearer, " + bob}},
				{"", []string{"Sec-WebSocket-Protocol: bearer, " + alice, "Sec-WebSocket-Protocol: bearer, " + bob}},
				{"", []string{"Sec-WebSocket-Protocol: bearer, " + alice + ", bearer"}},
				{"", []string{"Origin: " + s.url, "Cookie: wsbouncer=" + alice + "; wsbouncer=" + bob}},
				{"", []string{"Origin: " + s.url, "Cookie: wsbouncer=" + alice, "Cookie: wsbouncer=" + bob}},
			} {
				s.refused(400, "credential_ambiguous", "/mixed?"+c.query, c.lines...)
			}
		})
		// A cookie beside another is ignored, because browsers send it unasked;
		// so is what stands in a place the route does not look at. Neither goes on.
		cookie := "Cookie: wsbouncer=" + bob + "; theme=dark"
		for _, c := range carriers(s, "/mixed") {
			if c.name == "cookie" {
				continue
			}
			target, lines := c.use("/mixed", alice)
			s.connect(target, append(lines, cookie)...).alive().conn.Close()
			head := up.last().head
			if got := values(head, "X-Wsbouncer-Subject"); !slices.Equal(got, []string{"alice"}) || strings.Contains(head, bob) || !slices.Equal(values(head, "Cookie"), []string{"theme=dark"}) {
				t.Errorf("%s beside a cookie:\n%s", c.name, head)
			}
		}
		s.connect("/only/header?token="+bob+"&ticket=tkt&a=1", bearer(alice), "Sec-WebSocket-Protocol: bearer, "+bob, cookie).alive().conn.Close()
		if head := up.last().head; !slices.Equal(values(head, "X-Wsbouncer-Subject"), []string{"alice"}) || strings.Contains(head, bob) || strings.Contains(head, "tkt") || !strings.HasPrefix(head, "GET /only/header?a=1 ") {
			t.Errorf("credentials in places that are closed:\n%s", head)
		}
	})

	t.Run("AUT03EachPlaceAlone", func(t *testing.T) {
		s := s.within(t)
		for _, source := range sources {
			token := iss.token(claims{"sub": "user of " + source})
			// AUT-13: wherever it stood, nothing of it goes on.
			clean := func(path string) {
				t.Helper()
				head := up.last().head
				for _, header := range []string{"Authorization", "Cookie"} {
					if len(values(head, header)) > 0 {
						t.Errorf("%s: the upstream got %s", path, header)
					}
				}
				for _, part := range strings.Split(token, ".") {
					if strings.Contains(head, part) {
						t.Errorf("%s: the upstream got the token:\n%s", path, head)
					}
				}
				if got := values(head, "X-Wsbouncer-Subject"); !slices.Equal(got, []string{"user%20of%20" + source}) {
					t.Errorf("%s: the upstream was told %q", path, got)
				}
				if !strings.HasPrefix(head, "GET "+path+" HTTP/1.1\r\n") {
					t.Errorf("%s: the upstream was asked for %.100s", path, head)
				}
			}
			path := "/only/" + source
			if source == "first_message" {
				c := s.connect(path).first(token)
				c.told("ok")
				c.alive()
				clean(path)
				s.refused(401, "token_missing", "/without/first_message")
				continue
			}
			for _, c := range carriers(s, path) {
				if c.name != source {
					continue
				}
				target, lines := c.use(path, token)
				s.connect(target, lines...).alive().conn.Close()
				clean(path)
			}
			path = "/without/" + source
			up.unseen(t, good, func() {
				for _, c := range carriers(s, "/chat") { // where tickets can be had
					if c.name != source {
						continue
					}
					target, lines := c.use("/chat", token)
					s.refused(401, "token_missing", strings.Replace(target, "/chat", path, 1), lines...)
				}
			})
		}
		a := s.ticket(iss.token(), "/without/ticket")
		s.want(a, 403, "not_allowed")
	})

	t.Run("AUT04QueryTokens", func(t *testing.T) {
		s := s.within(t)
		token := iss.token()
		for query, left := range map[string]string{
			"access_token=T&a=1":                  "?a=1",
			"a=1&token=T":                         "?a=1",
			"a=%41&token=T&b=&=x&&c+d":            "?a=%41&b=&=x&&c+d",
			"%61ccess_token=T":                    "",
			"tok%65n=T&q=token":                   "?q=token",
			"return_to=%2Fx%3Fa%3D1&token=T":      "?return_to=%2Fx%3Fa%3D1",
			"tokens=1&my_token=2&Token=3&token=T": "?tokens=1&my_token=2&Token=3",
		} {
			s.connect("/chat?" + strings.Replace(query, "=T", "="+token, 1)).alive().conn.Close()
			if got := up.last().req.RequestURI; got != "/chat"+left {
				t.Errorf("%s became %s", query, strings.ReplaceAll(got, token, "T"))
			}
		}
		up.unseen(t, good, func() {
			long := iss.token(claims{"exp": time.Now().Add(16 * time.Minute).Unix()})
			s.refused(401, "token_lifetime", "/chat?token="+long)
			s.connect("/close?token="+long).closes(3000, "token_lifetime")
		})
	})

	// The rest of first_message is TestAUT05FirstMessage.
	t.Run("AUT05LetGoAtOnce", func(t *testing.T) {
		s := s.within(t)
		up.unseen(t, good, func() {
			for text, why := range map[string]string{"x": "auth_required", `{"wsbouncer":"auth","token":"x"}`: "token_malformed"} {
				// Whoever answers our close frame is let go: a page learns of the
				// end when the socket is closed, and no sooner.
				if c := s.connect("/first").text(text); time.Since(c.closes(3000, why)) > 800*time.Millisecond {
					t.Errorf("%s: the connection outlived the answer to its close frame", why)
				}
			}
			// Data behind a refused token goes nowhere.
			s.connect("/first").send(string(frame.Append(frame.Append(nil, frame.Text, []byte(`{"wsbouncer":"auth","token":"x"}`), true), frame.Text, []byte("hello"), true))).closes(3000, "token_malformed")
		})
	})

	t.Run("AUT08NothingIsPublic", func(t *testing.T) {
		s := s.within(t)
		up.unseen(t, good, func() {
			for _, target := range []string{"/chat", "/chat?x=/healthz", "/chat?/healthz", "/chat?skip_auth=1&public=true"} {
				for _, line := range []string{"X-Forwarded-Uri: /healthz", "X-Original-URL: /healthz", "X-Rewrite-URL: /healthz", "X-Original-URI: /healthz", "X-Forwarded-Path: /healthz", "X-Forwarded-Method: OPTIONS", "User-Agent: kube-probe/1.31", "User-Agent: GoogleHC/1.0", "X-Wsbouncer-Subject: alice", "X-Forwarded-User: alice", "Referer: /healthz"} {
					s.refused(401, "token_missing", target, line)
				}
			}
		})
	})

	t.Run("AUT09IdentityIsOurs", func(t *testing.T) {
		s := s.within(t)
		own := []string{"X-Wsbouncer-Subject", "X-Wsbouncer-Issuer", "X-Wsbouncer-Session", "X-Wsbouncer-Scopes", "X-Wsbouncer-Connection", "X-Wsbouncer-Assertion", "X-Wsbouncer-Other", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-User", "X-Real-IP", "Forwarded"}
		var lines []string
		for _, name := range own {
			for _, spelt := range []string{name, strings.ToLower(name), strings.ToUpper(name), strings.ReplaceAll(name, "-", "_"), strings.ReplaceAll(name, "-", "."), strings.Replace(name, "-", "_", 1), strings.ToLower(strings.Replace(name, "-", ".", 1))} {
				lines = append(lines, spelt+": mallory", spelt+": mallory, mallory2")
			}
		}
		lines = append(lines,
			"Connection: Upgrade, X-Wsbouncer-Subject, x_wsbouncer_issuer, X-Forwarded-For, X-Wsbouncer-Session, Sec-WebSocket-Key, Host, Upgrade, X-Internal",
			"X-Internal: mallory", "x_internal: mallory", "Proxy-Authorization: mallory", "Proxy-Connection: mallory", "Keep-Alive: mallory", "TE: mallory", "Expect: mallory",
			"Sec_WebSocket_Protocol: mallory", "Sec.WebSocket.Key: mallory", "X-Mine: kept")
		lines = slices.DeleteFunc(lines, func(l string) bool { return strings.HasPrefix(l, "Expect") }) // net/http answers 417 itself
		for _, token := range []string{iss.token(), iss.token(claims{"sid": nil, "scope": nil, "sub": "nobody"})} {
			s.connect("/mixed", append([]string{bearer(token)}, lines...)...).alive().conn.Close()
			head := up.last().head
			if strings.Contains(head, "mallory") {
				t.Errorf("the client's own came through:\n%s", head)
			}
			want := map[string]string{
				"X-Wsbouncer-Subject": "alice", "X-Wsbouncer-Issuer": iss.name, "X-Wsbouncer-Session": "s1", "X-Wsbouncer-Scopes": "chat",
				"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "http", "X-Forwarded-Host": s.addr, "X-Mine": "kept", "Connection": "Upgrade", "Upgrade": "websocket", "Host": up.addr,
			}
			if strings.Contains(head, "nobody") {
				want["X-Wsbouncer-Subject"], want["X-Wsbouncer-Scopes"] = "nobody", ""
				delete(want, "X-Wsbouncer-Session")
				if got := values(head, "X-Wsbouncer-Session"); len(got) > 0 {
					t.Errorf("a session that is not: %q", got)
				}
			}
			for name, value := range want {
				if got := values(head, name); !slices.Equal(got, []string{value}) {
					t.Errorf("%s is %q, want %q", name, got, value)
				}
			}
			if got := values(head, "X-Wsbouncer-Connection"); len(got) != 1 || len(got[0]) < 20 {
				t.Errorf("X-Wsbouncer-Connection is %q", got)
			}
		}
	})

	t.Run("AUT11ClaimsDoNotInject", func(t *testing.T) {
		s := s.within(t)
		up.unseen(t, good, func() {
			for _, sub := range []string{"a\r\nX-Admin: 1", "a\nb", "a\x00b", "\x1b[31mred", "a\u0085b", "\x7f", strings.Repeat("x", 600), strings.Repeat("x", 5000)} {
				s.refused(401, "token_malformed", "/chat", bearer(iss.token(claims{"sub": sub})))
			}
		})
		for _, sub := range []string{"jürgen ☃", "a, b", "100%", "%0d%0aX-Admin: 1", `"quoted" \ 'x'`, "a\u2028b", "auth0|123", "\u202eevil", strings.Repeat("é", 256)} {
			s.connect("/chat", bearer(iss.token(claims{"sub": sub}))).alive().conn.Close()
			got := values(up.last().head, "X-Wsbouncer-Subject")
			if len(got) != 1 || strings.ContainsAny(got[0], " ,") {
				t.Errorf("%q reached the upstream as %q", sub, got)
				continue
			}
			if back, err := url.PathUnescape(got[0]); err != nil || back != sub {
				t.Errorf("%q came back as %q", sub, back)
			}
			if len(values(up.last().head, "X-Admin")) > 0 {
				t.Errorf("%q made a header", sub)
			}
		}
		// Whatever strangers choose, each line of the log stays one object.
		nasty := "\"}{\"level\":\"ERROR\",\"msg\":\"forged\"} \xe2\x80\xa8 \xff\xfe '`"
		s.handshake("/none/%0a%1b[31m%22", auth, "Origin: "+nasty, "User-Agent: "+nasty)
		s.handshake("/chat", auth, "Origin: "+nasty, "User-Agent: \t"+nasty)
		s.handshake("/chat", "Origin: "+s.url, "User-Agent: "+nasty, "X-Forwarded-For: "+nasty)
		c := s.connect("/chat", bearer(iss.token(claims{"sub": `eve"}` + "\u202e"})))
		c.send(string(frame.AppendClose(nil, 4000, "\"}\n\x1b[31m\u2028red", true)))
		s.waitLog("connection ended", `"close_code":4000`)
		for line := range strings.Lines(s.log.String()) {
			var e map[string]any
			if err := json.Unmarshal([]byte(line), &e); err != nil || e["msg"] == "forged" || strings.ContainsAny(line, "\x1b\x7f\u202e") {
				t.Errorf("a line of the log: %v %q", err, line)
			}
		}
	})

	t.Run("AUT12SubjectsOfAnIssuer", func(t *testing.T) {
		s := s.within(t)
		same := claims{"sub": "twin", "email": "twin@example.com", "preferred_username": "admin", "sid": "shared", "jti": "shared"}
		a := s.connect("/chat", bearer(iss.token(same))).alive()
		b := s.connect("/chat", bearer(other.token(same))).alive()
		if got := values(up.last().head, "X-Wsbouncer-Issuer"); !slices.Equal(got, []string{other.name}) {
			t.Errorf("the issuer is %q", got)
		}
		// Each index is the issuer's own.
		s.revoke(iss, "subject", "twin")
		a.closes(3000, "subject_revoked")
		b.alive()
		s.refused(401, "token_revoked", "/chat", bearer(iss.token(same, claims{"iat": time.Now().Add(-time.Minute).Unix()})))
		s.connect("/chat", bearer(other.token(same))).alive()
		// Nor does it speak for us.
		s.refused(401, "token_signature", "/chat", bearer(iss.token(claims{"iss": other.name})))
		s.refused(401, "token_signature", "/chat", bearer(iss.token(claims{"iss": s.url, "aud": "wsbouncer", "rev": 1})))
	})

	t.Run("AUT13ErrorPathsKeepItToo", func(t *testing.T) {
		s := s.within(t)
		token := iss.token()
		for _, path := range []string{"/dead", "/none", "/chat"} {
			for _, c := range carriers(s, "/mixed") {
				target, lines := c.use(path, token)
				cl, a := s.handshake(target, append(lines, "Sec-WebSocket-Version: 12")...)
				cl.conn.Close()
				cl, b := s.handshake(target, append(lines, "Origin: https://evil.test")...)
				cl.conn.Close()
				for _, got := range []*answer{a, b} {
					if got.status < 400 || strings.Contains(fmt.Sprint(got.header, string(got.body)), token) {
						t.Errorf("%s of %s: %d %v %s", path, c.name, got.status, got.header, got.body)
					}
				}
			}
		}
		a := s.refused(502, "upstream_refused", "/dead?token="+token)
		if strings.Contains(fmt.Sprint(a.header, string(a.body)), token) || strings.Contains(string(a.body), "127.0.0.1") {
			t.Errorf("%v %s", a.header, a.body)
		}
	})

	// Contract section 5: each refusal as a status, and as a close code where a
	// route says so.
	t.Run("AUTRefusals", func(t *testing.T) {
		s := s.within(t)
		gone := iss.token()
		s.revoke(iss, "token", jtiOf(t, gone))
		hour := time.Now().Add(time.Hour).Unix()
		cases := []struct {
			status, close int
			code          string
			target        string
			lines         []string
		}{
			{401, 3000, "token_missing", "", nil},
			{401, 3000, "token_malformed", "", []string{bearer("a.b.c")}},
			{401, 3000, "token_signature", "", []string{bearer(other.token(claims{"iss": iss.name}))}},
			{401, 3000, "token_expired", "", []string{bearer(iss.token(claims{"exp": time.Now().Add(-time.Second).Unix()}))}},
			{401, 3000, "token_not_yet_valid", "", []string{bearer(iss.token(claims{"nbf": hour, "exp": hour + 60}))}},
			{401, 3000, "token_issuer", "", []string{bearer(iss.token(claims{"iss": "https://evil.test"}))}},
			{401, 3000, "token_audience", "", []string{bearer(iss.token(claims{"aud": "another"}))}},
			{401, 3000, "token_type", "", []string{bearer(iss.sign(iss.key, "ES256", "JWT", payloadOf(t, iss.token())))}},
			{401, 3000, "token_lifetime", "", []string{bearer(iss.token(claims{"exp": time.Now().Add(25 * time.Hour).Unix()}))}},
			{401, 3000, "token_binding", "", []string{bearer(iss.token(claims{"cnf": claims{"jkt": "x"}}))}},
			{401, 3000, "token_revoked", "", []string{bearer(gone)}},
			{401, 3000, "ticket_invalid", "?ticket=wsb_unknown", nil},
			{401, 3000, "ticket_invalid", "?ticket=", nil},
			{403, 3003, "insufficient_scope", "", []string{bearer(iss.token(claims{"scope": "other"}))}},
			// What stays HTTP in both.
			{400, 0, "credential_ambiguous", "?token=x", []string{auth}},
			{400, 0, "bad_handshake", "", []string{auth, "Sec-WebSocket-Key: x"}},
			{400, 0, "bad_handshake", ";x", []string{auth}},
			{403, 0, "origin_denied", "", []string{auth, "Origin: https://evil.test"}},
			{403, 0, "origin_denied", "", []string{"Origin: https://evil.test"}},
			{413, 0, "token_too_large", "", []string{bearer(strings.Repeat("x", 8<<10+1))}},
			{421, 0, "unknown_host", "", []string{auth, "Host: evil.test"}},
			{426, 0, "upgrade_required", "", []string{auth, "Sec-WebSocket-Version: 8"}},
			{404, 0, "no_route", "/none", []string{auth}},
		}
		up.unseen(t, good, func() {
			for _, c := range cases {
				if c.target == ";x" { // a path that no pattern but its own would match
					s.refused(c.status, c.code, "/chat?a=1;b=2", c.lines...)
					s.refused(c.status, c.code, "/close?a=1;b=2", c.lines...)
					continue
				}
				s.refused(c.status, c.code, "/chat"+c.target, c.lines...)
				if c.close == 0 {
					s.refused(c.status, c.code, "/close"+c.target, c.lines...)
					continue
				}
				for _, offer := range [][2]string{{}, {"chat, superchat", "chat"}} {
					lines := c.lines
					if offer[0] != "" {
						lines = append([]string{"Sec-WebSocket-Protocol: " + offer[0]}, lines...)
					}
					cl, a := s.handshake("/close"+c.target, lines...)
					// Browsers drop a connection that chose none of what they offered.
					if a.status != http.StatusSwitchingProtocols || a.header.Get("Sec-WebSocket-Protocol") != offer[1] {
						t.Errorf("%s by close: %d %v", c.code, a.status, a.header)
						continue
					}
					cl.text("ignored").closes(uint16(c.close), c.code)
				}
			}
			cl, a := s.handshake("/close", "Sec-WebSocket-Protocol: bearer, x")
			if a.header.Get("Sec-WebSocket-Protocol") != "bearer" {
				t.Errorf("by close: %v", a.header)
			}
			cl.closes(3000, "token_malformed")
			s.refused(502, "upstream_refused", "/dead", auth)
			s.connect("/close/dead", auth).closes(1013, "upstream_refused")
			_, a = s.handshake("/chat", auth, "X: "+strings.Repeat("x", 32<<10))
			statuses(t, "a header of 32 KiB", a.status, 431)
		})
	})
}

// payloadOf is a token's payload, decoded and not verified.
func payloadOf(t *testing.T, token string) []byte {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func jtiOf(t *testing.T, token string) string {
	t.Helper()
	var c struct{ Jti string }
	if err := json.Unmarshal(payloadOf(t, token), &c); err != nil {
		t.Fatal(err)
	}
	return c.Jti
}

// Who a client is by address, and where the limits refuse: by the socket,
// whatever a stranger writes into headers.
func TestAUT10AddressesAndTheirLimit(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, nil)
	const burst = 12
	s, iss := gate(t, up, `
  - {path: /chat, upstream: "ws://UPSTREAM"}
  - {path: /close, upstream: "ws://UPSTREAM", reject: close}
`, fmt.Sprintf("handshakes_per_ip: {rate: 1/h, burst: %d}", burst))
	claim := func(i int) []string {
		ip := fmt.Sprint("203.0.113.", i)
		return []string{"X-Forwarded-For: " + ip, "X-Real-IP: " + ip, "Forwarded: for=" + ip, "X-Client-IP: " + ip, "CF-Connecting-IP: " + ip, "True-Client-IP: " + ip}
	}
	s.connect("/chat", append(claim(1), bearer(iss.token()))...).alive()
	if got := values(up.last().head, "X-Forwarded-For"); !slices.Equal(got, []string{"127.0.0.1"}) {
		t.Errorf("the upstream was told %q", got)
	}
	for i := range burst - 1 {
		s.refused(401, "token_missing", "/chat", claim(i)...)
	}
	for i := range 20 {
		a := s.refused(429, "too_many_handshakes", "/chat", append(claim(i), bearer(iss.token()))...)
		if n := a.header.Get("Retry-After"); n == "" || n == "0" {
			t.Errorf("Retry-After is %q", n)
		}
	}
	s.connect("/close", append(claim(9), bearer(iss.token()))...).closes(1013, "too_many_handshakes")
	if up.count() != 1 {
		t.Errorf("%d connections at the upstream", up.count())
	}
	s.waitLog("handshake refused", "too_many_handshakes", `"ip":"127.0.0.1"`)
	if strings.Contains(s.log.String(), "203.0.113.") {
		t.Error("a claimed address is in the log")
	}
}

func TestAUT10TrustedProxy(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, nil)
	s, iss := gate(t, up, `
  - {path: /chat, upstream: "ws://UPSTREAM", token_from: [header, cookie]}
public_url: https://rt.example.com
trusted_proxies: [127.0.0.1, 198.51.100.0/24]
`, "handshakes_per_ip: {rate: 1/h, burst: 3}")
	host := "Host: rt.example.com"
	cookie := "Cookie: __Host-wsbouncer=" + iss.token() + "; wsbouncer=left; __Secure-wsbouncer-refresh=secret; theme=dark"
	for name, c := range map[string]struct {
		lines        []string
		addr, scheme string
	}{
		"one hop":            {[]string{"X-Forwarded-For: 203.0.113.1", "X-Forwarded-Proto: https"}, "203.0.113.1", "https"},
		"two lines":          {[]string{"X-Forwarded-For: 192.0.2.66", "X-Forwarded-For: 203.0.113.2"}, "203.0.113.2", "http"},
		"what clients claim": {[]string{"X-Forwarded-For: 192.0.2.66, 203.0.113.3, 198.51.100.7", "X-Forwarded-Proto: http, https"}, "203.0.113.3", "https"},
		"IPv6":               {[]string{"X-Forwarded-For: [2001:db8::1]:4711"}, "2001:db8::1", "http"},
		"nonsense":           {[]string{"X-Forwarded-For: 192.0.2.66, nonsense"}, "127.0.0.1", "http"},
		"other headers":      {[]string{"X-Real-IP: 192.0.2.66", "Forwarded: for=192.0.2.66", "X-Forwarded-For: 203.0.113.4"}, "203.0.113.4", "http"},
	} {
		s.connect("/chat", append(c.lines, host, cookie, "Origin: https://rt.example.com")...).alive().conn.Close()
		head := up.last().head
		for header, want := range map[string]string{"X-Forwarded-For": c.addr, "X-Forwarded-Proto": c.scheme, "X-Forwarded-Host": "rt.example.com", "Cookie": "theme=dark"} {
			if got := values(head, header); !slices.Equal(got, []string{want}) {
				t.Errorf("%s: %s is %q, want %q", name, header, got, want)
			}
		}
		if strings.Contains(head, "192.0.2.66") {
			t.Errorf("%s: the claimed address went on:\n%s", name, head)
		}
	}
	// Each address has its own share, and the proxy does not pay for all.
	for _, ip := range []string{"203.0.113.50", "203.0.113.51"} {
		for range 3 {
			s.refused(401, "token_missing", "/chat", host, "X-Forwarded-For: "+ip)
		}
		s.refused(429, "too_many_handshakes", "/chat", host, "X-Forwarded-For: 10.0.0.1, "+ip)
	}
	// The plain name is nobody's cookie where the public URL is https.
	s.refused(401, "token_missing", "/chat", host, "X-Forwarded-For: 203.0.113.60", "Origin: https://rt.example.com", "Cookie: wsbouncer="+iss.token())
	s.refused(403, "origin_denied", "/chat", host, "X-Forwarded-For: 203.0.113.60", "Origin: http://rt.example.com", cookie)
}

// The limits of contract section 5 that are counts, and a server on its way out.
func TestAUTRefusalsForWantOfRoom(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, nil)
	s, iss := gate(t, up, `
  - {path: /chat, upstream: "ws://UPSTREAM"}
  - {path: /close, upstream: "ws://UPSTREAM", reject: close}
`, "connections: 8", "connections_per_subject: 2")
	who := func(sub, sid string) string { return bearer(iss.token(claims{"sub": sub, "sid": sid})) }
	for i := range 2 {
		s.connect("/chat", who("alice", fmt.Sprint("s", i))).alive()
	}
	room := func(status int, code string, line string) {
		t.Helper()
		before := up.count()
		if a := s.refused(status, code, "/chat", line); a.header.Get("Retry-After") == "" {
			t.Errorf("%s without Retry-After", code)
		}
		s.connect("/close", line).closes(1013, code)
		if up.count() != before {
			t.Errorf("%s: %d connections reached the upstream", code, up.count()-before)
		}
	}
	room(429, "too_many_connections", who("alice", "s9"))
	var last *client
	for i := range 6 {
		last = s.connect("/chat", who(fmt.Sprint("user", i), "s1")).alive()
	}
	room(503, "overloaded", who("bob", "s1"))
	last.conn.Close()
	var held *client
	eventually(t, "a place to be free again", func() bool {
		var a *answer
		held, a = s.handshake("/chat", who("bob", "s1"))
		return a.status == 101
	})
	// Its close frame unanswered, a connection keeps the server for a second.
	early := s.raw()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if m, err := held.next(); err != nil || m.op != frame.Close || m.payload != "\x03\xf4restarting" {
		t.Fatalf("%v %v", m, err)
	}
	if a := early.send(s.upgrade("/chat", who("carol", "s1"))).response(); a.status != 503 || a.code() != "not_ready" || a.header.Get("Retry-After") == "" {
		t.Errorf("on its way out: %d %q %v", a.status, a.code(), a.header)
	}
}
