package e2e_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/wsbouncer/wsbouncer/internal/frame"
)

// lines are the log's, each of which must be one JSON object in one line that a
// terminal shows and does not obey.
func (s *server) lines() []map[string]any {
	s.t.Helper()
	var out []map[string]any
	for line := range strings.Lines(s.log.String()) {
		var v map[string]any
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			s.t.Errorf("a line of the log is no JSON object: %v: %.300q", err, line)
			continue
		}
		for _, r := range strings.TrimSuffix(line, "\n") {
			if r < 0x20 || r >= 0x7f && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
				s.t.Errorf("a line of the log holds %U: %.300q", r, line)
				break
			}
		}
		if !utf8.ValidString(line) {
			s.t.Errorf("a line of the log is no UTF-8: %.300q", line)
		}
		when, _ := v["time"].(string)
		if at, err := time.Parse(time.RFC3339Nano, when); err != nil || !strings.HasSuffix(when, "Z") || time.Since(at).Abs() > time.Hour {
			s.t.Errorf("a line's time is %q", when)
		}
		if v["msg"] == "" || v["level"] == "" {
			s.t.Errorf("%v", v)
		}
		out = append(out, v)
	}
	return out
}

// logged demands a line with these members ("*": any value but none).
func (s *server) logged(want map[string]any) {
	s.t.Helper()
	eventually(s.t, fmt.Sprintf("a line with %v", want), func() bool {
	lines:
		for _, l := range s.lines() {
			for k, v := range want {
				if got := l[k]; v == "*" && (got == nil || got == "") || v != "*" && fmt.Sprint(got) != fmt.Sprint(v) {
					continue lines
				}
			}
			return true
		}
		return false
	})
	if s.t.Failed() {
		s.t.Logf("the log:\n%s", s.log)
	}
}

const logYAML = `
issuer: {access_ttl: 60s}
limits: {connections_per_subject: 3, handshakes_per_ip: {rate: 1000/s, burst: 1000}, logins: {per_ip: {rate: 100/m, burst: 100}, per_account: {rate: 1/h, burst: 2}}}
routes:
  - {path: "/chat/{room}", upstream: "ws://UPSTREAM", scopes: [chat], token_from: [ticket, header, subprotocol, query, cookie]}
  - {path: /staff, upstream: "ws://UPSTREAM", scopes: [staff]}
  - {path: /nowhere, upstream: "ws://127.0.0.1:1"}
`

func TestLOG01EachEventIsALine(t *testing.T) {
	up := newUpstream(t, nil)
	s := start(t, up, logYAML)
	s.addUser("ann", "chat")
	origin := "Origin: " + s.url
	who := map[string]any{"subject": "ann", "ip": "127.0.0.1"}
	line := func(more map[string]any, with ...map[string]any) {
		t.Helper()
		for _, w := range with {
			for k, v := range w {
				more[k] = v
			}
		}
		s.logged(more)
	}

	line(map[string]any{"msg": "security event", "event": "user_added", "subject": "ann", "actor": "admin", "scopes": "chat"})
	in := s.want(s.call("POST", "/auth/login", map[string]any{"username": "ann", "password": password(t, "ann")}, origin, "User-Agent: Test/1"), 200, "")
	session := map[string]any{"session": in.str("session_id")}
	line(map[string]any{"msg": "security event", "event": "login_ok", "origin": s.url, "user_agent": "Test/1", "method": "password"}, who, session)
	for range 2 {
		s.tryLogin("ann", "wrong but long enough", origin)
	}
	line(map[string]any{"event": "login_failed", "origin": s.url}, who)
	s.want(s.tryLogin("ann", "wrong but long enough", origin), 429, "login_throttled")
	line(map[string]any{"event": "login_throttled", "origin": s.url}, who)

	access := in.str("access_token")
	c := s.connect("/chat/a", bearer(access), origin).alive()
	line(map[string]any{"msg": "connection opened", "route": "/chat/{room}", "connection": c.id, "origin": s.url, "issuer": s.url}, who, session)
	c.frame(frame.Close, true, "\x03\xe8bye")
	line(map[string]any{"msg": "connection ended", "connection": c.id, "close_code": 1000, "reason": "bye", "lasted": "*", "origin": s.url}, who, session)

	s.refused(401, "token_missing", "/chat/a", origin)
	line(map[string]any{"msg": "handshake refused", "code": "token_missing", "status": 401, "ip": "127.0.0.1", "origin": s.url, "route": "/chat/{room}"})
	s.refused(403, "origin_denied", "/chat/a", bearer(access), foreign)
	line(map[string]any{"msg": "handshake refused", "code": "origin_denied", "origin": "https://evil.example", "ip": "127.0.0.1"})
	s.refused(403, "insufficient_scope", "/staff", bearer(access), origin)
	line(map[string]any{"msg": "handshake refused", "code": "insufficient_scope", "route": "/staff", "origin": s.url}, who, session)
	s.refused(404, "no_route", "/none", bearer(access), origin)
	line(map[string]any{"msg": "handshake refused", "code": "no_route", "ip": "127.0.0.1", "origin": s.url})
	s.refused(502, "upstream_refused", "/nowhere", bearer(access), origin)
	line(map[string]any{"msg": "handshake refused", "code": "upstream_refused", "connection": "*", "origin": s.url}, who, session)

	second := s.want(s.call("POST", "/auth/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {in.str("refresh_token")}}, origin), 200, "")
	line(map[string]any{"msg": "security event", "event": "refreshed", "origin": s.url}, who, session)
	live := s.connect("/chat/a", bearer(access)).alive()
	third := second
	eventually(t, "a token that ends in a later second", func() bool {
		third = s.want(s.refresh(third.str("refresh_token"), "connection", live.id), 200, "")
		return claimsOf(t, third.str("access_token"))["exp"].(float64) > claimsOf(t, access)["exp"].(float64)
	})
	line(map[string]any{"msg": "connection extended", "connection": live.id}, who, session)
	s.refresh(in.str("refresh_token"))
	line(map[string]any{"event": "refresh_reuse", "reason": "session_revoked"}, who, session)
	line(map[string]any{"msg": "revocation applied", "kind": "session", "value": in.str("session_id"), "closed": 1})
	live.closes(3000, "session_revoked")
	line(map[string]any{"msg": "connection ended", "connection": live.id, "close_code": 3000, "reason": "session_revoked"}, who, session)
	s.refused(401, "token_revoked", "/chat/a", bearer(third.str("access_token")))
	line(map[string]any{"msg": "handshake refused", "code": "token_revoked"})

	var issued struct {
		Token string `json:"access_token"`
	}
	s.tool("", "token", "issue", "--subject", "ann", "--scope", "chat", "--json").json(t, &issued)
	secret(t, issued.Token)
	line(map[string]any{"event": "token_issued", "subject": "ann", "actor": "admin", "jti": "*"})
	limit := s.connect("/chat/b", bearer(issued.Token))
	for range 2 {
		s.connect("/chat/b", bearer(issued.Token)).alive()
	}
	if _, a := s.handshake("/chat/b", bearer(issued.Token)); a.status == 429 {
		line(map[string]any{"msg": "handshake refused", "code": "too_many_connections"}, who)
	} else {
		limit.ends()
	}
	s.cli("revoke", "subject", "ann", "--reason", "left the company")
	line(map[string]any{"event": "revocation", "kind": "subject", "value": "ann", "actor": "admin", "note": "left the company"})
	s.cli("key", "rotate")
	line(map[string]any{"event": "key_rotated", "actor": "admin", "kid": "*"})
	s.cli("reload")
	line(map[string]any{"event": "config_reloaded", "actor": "admin"})
	s.cli("user", "remove", "ann")
	line(map[string]any{"event": "user_removed", "subject": "ann", "actor": "admin"})
}

func TestAUT11NothingForgesALogLine(t *testing.T) {
	up, iss := newUpstream(t, nil), newIssuer(t, "https://idp.example")
	s := start(t, up, trustYAML(iss.name)+"issuer: {}\nlimits: {handshakes_per_ip: {rate: 1000/s, burst: 1000}, logins: {per_ip: {rate: 1000/m, burst: 1000}}}\nroutes: [{path: \"/chat/{room}\", upstream: \"ws://UPSTREAM\"}]\n", iss.trusted)
	s.addUser("ann", "chat")
	const forged = `{"time":"2026-01-01T00:00:00Z","level":"INFO","msg":"forged"}`
	nasty := []string{"a\r\nX-Admin: 1", "a\n" + forged + "\n", `a","msg":"forged`, "a\x1b[31mred\x1b[0m\x07", "a\x00b", "a\x7f\u0085\u009b31m", "a\u202efdp.exe\u2066", "a\u2028b", "ünï😀", strings.Repeat("s", 8<<10)}
	for _, sub := range nasty {
		_, a := s.handshake("/chat/x", bearer(iss.token(claims{"sub": sub})))
		switch a.status {
		case 101:
			head := up.last().head
			if n := strings.Count(strings.ToLower(head), "x-admin"); n > 1 || strings.Contains(head, "\nX-Admin") {
				t.Errorf("the upstream was sent\n%s", head)
			}
			got, err := url.PathUnescape(up.last().req.Header.Get("X-Wsbouncer-Subject"))
			if err != nil || got != sub {
				t.Errorf("the upstream was told %q (%v)", got, err)
			}
		case 400, 401, 413, 431:
		default:
			t.Errorf("%.20q: %d %s", sub, a.status, a.body)
		}
	}
	for _, bad := range nasty {
		escaped := url.PathEscape(bad[:min(len(bad), 1000)])
		for _, target := range []string{"/chat/" + escaped, "/" + escaped, "/chat/x?q=" + escaped} {
			s.raw().send(s.upgrade(target)).tryResponse()
		}
		// Raw bytes in headers, as far as one line holds them.
		raw := strings.NewReplacer("\r", "", "\n", "").Replace(bad[:min(len(bad), 1000)])
		for _, name := range []string{"Origin", "User-Agent", "Referer", "X-Forwarded-For", "Host", "Sec-WebSocket-Protocol", "Cookie", "Authorization"} {
			s.raw().send(s.upgrade("/chat/x", name+": "+raw)).tryResponse()
		}
		s.raw().send("GET /chat/" + raw + " HTTP/1.1\r\nHost: " + s.addr + "\r\n\r\n").tryResponse()
		s.tryLogin(bad[:min(len(bad), 1000)], "x", "User-Agent: "+escaped)
		s.tryLogin("ann", bad[:min(len(bad), 1000)])
		s.call("GET", "/auth/sessions/"+escaped, nil)
		s.call("DELETE", "/auth/sessions/"+escaped, nil, bearer(iss.token()))
		s.adminCall("POST", "/v1/revocations", map[string]string{"kind": "session", "value": "x", "reason": bad})
		s.adminCall("POST", "/v1/revocations", map[string]string{"kind": "subject", "value": bad, "issuer": bad})
	}
	// What a client gives as its reason to close is logged, and no more.
	for _, why := range nasty[:8] {
		c := s.connect("/chat/x", bearer(iss.token()))
		c.frame(frame.Close, true, "\x0f\xa0"+why)
		s.logged(map[string]any{"msg": "connection ended", "connection": c.id, "close_code": 4000})
	}
	for _, l := range s.lines() {
		if msg := l["msg"].(string); msg == "forged" {
			t.Errorf("forged: %v", l)
		}
	}
	// The commands that show it do not obey it either.
	for _, args := range [][]string{{"audit", "list"}, {"conn", "list"}, {"session", "list"}} {
		out := s.cli(args...)
		if strings.ContainsAny(out, "\x1b\x07\x00\x7f\r\u202e\u2066\u009b") {
			t.Errorf("%v prints %q", args, out)
		}
	}
}

func TestLOG02NoSecretInAnyForm(t *testing.T) {
	up := newUpstream(t, nil)
	s := start(t, up, logYAML)
	s.addUser("ann", "chat")
	in := s.login("ann")
	access, refresh := in.str("access_token"), in.str("refresh_token")
	ticket := s.ticket(access, "/chat/a").str("ticket")
	cookies := s.call("POST", "/auth/login", map[string]any{"username": "ann", "password": password(t, "ann"), "cookie": true}, "Origin: "+s.url)
	cookie := "Cookie: wsbouncer=" + cookies.cookie("wsbouncer").Value
	body := secret(t, "the text of a message, nobody's business")

	s.connect("/chat/a?ticket=" + ticket).text(body).receives(body)
	s.connect("/chat/a?token=" + access + "&x=1").text(body).receives(body)
	s.connect("/chat/a", "Origin: "+s.url, cookie).text(body).receives(body)
	// Refused, and where no credential belongs.
	for _, lines := range [][]string{
		{bearer(access), foreign}, {bearer(access + "x")}, {bearer(refresh)}, {bearer(access), bearer(access)}, {"Authorization: Basic " + access},
		{"Sec-WebSocket-Protocol: bearer, " + access, bearer(access)}, {"Origin: " + s.url + "/" + access}, {"User-Agent: " + access}, {"Referer: " + s.url + "/?token=" + access},
		{"Sec-WebSocket-Protocol: " + access}, {cookie}, {cookie, foreign}, {"X-Forwarded-For: " + access}, {"Host: " + access},
	} {
		s.handshake("/chat/a", lines...)
		s.handshake("/staff?ticket="+ticket, lines...)
	}
	for _, target := range []string{
		"/chat/" + access, "/" + access, "/chat/a?ticket=" + ticket, "/chat/a?token=" + access + "&token=" + access, "/none?token=" + access, "/chat/a?ticket=" + access,
		"/nowhere?access_token=" + access, "/chat/a?other=" + access, "/auth/" + access, "/chat/a?token=" + url.QueryEscape(access+"="), "/chat/%2f" + access,
	} {
		s.handshake(target)
	}
	s.tryLogin(password(t, "ann"), "x") // typed into the wrong field
	s.tryLogin(access, refresh)
	s.call("POST", "/auth/token", url.Values{"grant_type": {access}, "refresh_token": {refresh + "x"}})
	s.call("DELETE", "/auth/sessions/"+refresh, nil, bearer(access))
	s.call("POST", "/auth/revoke", url.Values{"token": {"x" + access}})
	s.tool(access+"\n", "token", "verify", "-")
	s.tool(access+"\n", "revoke", "token", "-")
	s.want(s.refresh(refresh), 200, "")
	s.want(s.refresh(refresh), 200, "")
	s.want(s.refresh(refresh), 400, "invalid_grant")

	log := s.log.String()
	trail := string(s.adminCall("GET", "/v1/audit?limit=1000", nil).body) + string(s.adminCall("GET", "/v1/connections", nil).body) + string(s.adminCall("GET", "/v1/status", nil).body)
	for _, sec := range secretsOf(t) {
		for form, v := range map[string]string{
			"raw": sec, "URL-encoded": url.QueryEscape(sec), "base64": base64.StdEncoding.EncodeToString([]byte(sec)), "base64url": base64.RawURLEncoding.EncodeToString([]byte(sec)),
		} {
			for where, text := range map[string]string{"log": log, "audit trail or status": trail} {
				if strings.Contains(text, v) {
					t.Errorf("the secret %.12s… is in the %s, %s", sec, where, form)
				}
			}
		}
		// A token's signature is its secret half.
		if parts := strings.Split(sec, "."); len(parts) == 3 && strings.Contains(log+trail, parts[2]) {
			t.Errorf("the signature of %.12s… is told", sec)
		}
	}
	s.lines()
}

func TestLOG04ThePublicPortServesNothingForOperators(t *testing.T) {
	s := start(t, newUpstream(t, nil), logYAML)
	s.addUser("ann", "chat wsbouncer:admin")
	token := bearer(s.login("ann").str("access_token"))
	for _, path := range []string{
		"/metrics", "/debug/pprof", "/debug/pprof/", "/debug/pprof/heap", "/debug/vars", "/admin", "/admin/", "/v1/status", "/v1/connections", "/v1/users", "/v1/revocations",
		"/v1/reload", "/v1/keys", "/v1/tokens", "/openapi.json", "/", "/index.html", "/.git/config", "/wsbouncer.yaml", "/data/keys.json", "/auth/metrics", "/auth/v1/status", "/.well-known/",
	} {
		for _, method := range []string{"GET", "POST", "DELETE", "OPTIONS"} {
			for _, lines := range [][]string{{}, {token}} {
				if a := s.call(method, path, nil, lines...); a.status != 404 {
					t.Errorf("%s %s: %d %s", method, path, a.status, a.body)
				}
			}
		}
	}
}
