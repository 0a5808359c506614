package e2e_test

import (
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestTKT(t *testing.T) {
	t.Parallel()
	up, iss := newUpstream(t, nil), newIssuer(t, "https://idp.example")
	s := start(t, up, trustYAML(iss.name)+generous()+`
origins: [https://app.example.com, https://www.example.com]
issuer: {}
routes:
  - {path: "/chat/{room}", upstream: "ws://UPSTREAM", scopes: [chat]}
  - {path: /other, upstream: "ws://UPSTREAM"}
  - {path: /tokens, upstream: "ws://UPSTREAM", token_from: [header, query, subprotocol]}
  - {path: /close, upstream: "ws://UPSTREAM", reject: close}
`, iss.trusted)
	s.addUser("ann", "chat")
	const (
		app = "Origin: https://app.example.com"
		www = "Origin: https://www.example.com"
	)
	auth := bearer(iss.token(claims{"sub": "somebody"}))
	good := func() *client { return s.connect("/chat/lobby", auth) }
	// mint is the query of a ticket for path.
	mint := func(s *server, token, path string, lines ...string) string {
		s.t.Helper()
		return "?ticket=" + s.want(s.ticket(token, path, lines...), 200, "").str("ticket")
	}

	t.Run("TKT01IssuedToWhom", func(t *testing.T) {
		s := s.within(t)
		token := iss.token()
		shape := regexp.MustCompile(`^[A-Za-z0-9_-]{22,128}$`)
		var mu sync.Mutex
		seen, starts := map[string]bool{}, map[string]int{}
		var callers sync.WaitGroup
		for range 4 {
			callers.Go(func() {
				for range 100 {
					a := s.ticket(token, "/chat/lobby")
					ticket, life := a.str("ticket"), a.json["expires_in"].(float64)
					mu.Lock()
					for _, id := range []string{ticket, a.str("connection")} {
						if seen[id] || !shape.MatchString(id) {
							t.Errorf("%q: twice, or of an odd shape", id)
						}
						seen[id] = true
					}
					if life <= 0 || life > 30 {
						t.Errorf("it lives %v s", life)
					}
					// A marked beginning may be the same; what is random begins later.
					starts[ticket[len(ticket)-22:len(ticket)-14]]++
					mu.Unlock()
				}
			})
		}
		callers.Wait()
		for part, n := range starts {
			if n > 1 {
				t.Errorf("%d tickets share %q", n, part)
			}
		}
		for code, lines := range map[string][]string{
			"token_missing":   nil,
			"token_malformed": {bearer("x")},
			"token_expired":   {bearer(iss.token(claims{"exp": 1}))},
			"token_audience":  {bearer(iss.token(claims{"aud": "other"}))},
		} {
			a := s.want(s.call("POST", "/auth/ticket", map[string]any{"path": "/chat/lobby"}, lines...), 401, code)
			if a.header.Get("WWW-Authenticate") == "" || a.header.Get("Cache-Control") != "no-store" {
				t.Errorf("%s: %v", code, a.header)
			}
		}
		// A ticket buys no ticket, nor anything else of the API.
		ticket := s.want(s.ticket(token, "/chat/lobby"), 200, "").str("ticket")
		s.want(s.ticket(ticket, "/chat/lobby"), 401, "token_malformed")
		s.want(s.call("POST", "/auth/ticket?ticket="+ticket, map[string]any{"path": "/chat/lobby"}), 401, "token_missing")
		s.connect("/chat/lobby?ticket=" + ticket).alive() // and was not spent by that
		for path, want := range map[string]int{
			"": 400, "chat/lobby": 404, "/none": 404, "/chat/lobby?x=1": 400, "/chat/lobby#x": 400, "https://evil.test/chat/lobby": 404, "//evil.test/chat/lobby": 404,
			"/chat/../other": 404, "/tokens": 403, "/chat/" + strings.Repeat("x", 4000): 400,
		} {
			if a := s.ticket(token, path); a.status != want {
				t.Errorf("a ticket for %.60q: %d, want %d", path, a.status, want)
			}
		}
		s.want(s.ticket(iss.token(claims{"scope": "other"}), "/chat/lobby"), 403, "insufficient_scope")
		s.want(s.ticket(token, "/chat/lobby", "Origin: https://evil.test"), 403, "origin_denied")
		s.want(s.call("POST", "/auth/ticket", map[string]any{"path": "/chat/lobby", "origin": "https://evil.test"}, bearer(token)), 403, "origin_denied")
	})

	t.Run("TKT02Once", func(t *testing.T) {
		s := s.within(t)
		query := mint(s, iss.token(), "/chat/lobby", app)
		c := s.connect("/chat/lobby"+query+"&a=1", app).alive()
		if head := up.last().head; strings.Contains(head, "icket") || !strings.HasPrefix(head, "GET /chat/lobby?a=1 ") {
			t.Errorf("the upstream got the ticket:\n%s", head)
		}
		up.unseen(t, good, func() {
			s.refused(401, "ticket_invalid", "/chat/lobby"+query, app)
			c.conn.Close()
			up.last().ended()
			s.refused(401, "ticket_invalid", "/chat/lobby"+query, app)
			s.connect("/close"+query, app).closes(3000, "ticket_invalid")
		})
		s.waitEvent("ticket_replayed")
	})

	t.Run("TKT02Raced", func(t *testing.T) {
		s := s.within(t)
		query := mint(s, iss.token(), "/chat/lobby")
		const n = 50
		clients := make([]*client, n)
		for i := range n { // connected, so that only the words are missing
			clients[i] = s.raw()
		}
		before := up.count()
		answers := make([]*answer, n)
		var racers sync.WaitGroup
		begin := make(chan struct{})
		for i, c := range clients {
			racers.Go(func() {
				<-begin
				_, _ = c.conn.Write([]byte(s.upgrade("/chat/lobby" + query)))
				answers[i], _ = c.tryResponse()
			})
		}
		close(begin)
		racers.Wait()
		won := 0
		for i, a := range answers {
			switch {
			case a == nil:
				t.Error("no answer")
			case a.status == 101:
				won++
				clients[i].alive()
			case a.status != 401 || a.code() != "ticket_invalid":
				t.Errorf("%d %q", a.status, a.code())
			}
		}
		if won != 1 || up.count() != before+1 {
			t.Errorf("%d of %d won, %d connections at the upstream", won, n, up.count()-before)
		}
	})

	t.Run("TKT03BoundToPathAndOrigin", func(t *testing.T) {
		s := s.within(t)
		token := iss.token()
		up.unseen(t, good, func() {
			for _, target := range []string{"/other", "/chat/lobby2", "/chat/Lobby", "/chat/%6cobby", "/chat/lobby/"} {
				query := mint(s, token, "/chat/lobby")
				code := "ticket_invalid"
				_, a := s.handshake(target + query)
				if a.status == 404 {
					continue // no route: nothing was spent
				}
				if a.status != 401 || a.code() != code {
					t.Errorf("%s: %d %q", target, a.status, a.code())
				}
				// Shown once, it is gone.
				s.refused(401, code, "/chat/lobby"+query)
			}
			for _, c := range []struct{ minted, used []string }{
				{[]string{app}, []string{www}}, {[]string{app}, nil}, {nil, []string{app}},
			} {
				s.refused(401, "ticket_invalid", "/chat/lobby"+mint(s, token, "/chat/lobby", c.minted...), c.used...)
			}
			s.refused(403, "origin_denied", "/chat/lobby"+mint(s, token, "/chat/lobby", app), "Origin: https://evil.test")
			// It stands only in its own place.
			ticket := strings.TrimPrefix(mint(s, token, "/chat/lobby"), "?ticket=")
			s.refused(401, "token_malformed", "/chat/lobby?token="+ticket)
			s.refused(401, "token_malformed", "/chat/lobby", bearer(ticket))
			s.refused(401, "token_malformed", "/chat/lobby", "Sec-WebSocket-Protocol: bearer, "+ticket)
			for _, odd := range []string{"", "x", ticket + "x", ticket[:len(ticket)-1], strings.ToUpper(ticket), "%20" + ticket, strings.Repeat("x", 4000)} {
				s.refused(401, "ticket_invalid", "/chat/lobby?ticket="+odd)
			}
			s.refused(413, "token_too_large", "/chat/lobby?ticket="+strings.Repeat("x", 8<<10+1))
			s.refused(401, "ticket_invalid", "/chat/lobby?ticket="+token)
		})
		// The Origin in another case is the same; the path's own escaping counts.
		s.connect("/chat/lobby"+mint(s, token, "/chat/lobby", app), "Origin: HTTPS://App.Example.Com").alive()
		s.connect("/chat/a%20b" + mint(s, token, "/chat/a%20b")).alive()
		a := s.want(s.call("POST", "/auth/ticket", map[string]any{"path": "/chat/lobby", "origin": "https://www.example.com"}, bearer(token)), 200, "")
		s.connect("/chat/lobby?ticket="+a.str("ticket"), www).alive()
		a = s.want(s.ticket(token, "/chat/lobby"), 200, "")
		if c := s.connect("/chat/lobby?ticket=" + a.str("ticket")); c.id == "" || c.id != a.str("connection") {
			t.Errorf("the connection is %q, announced was %q", c.id, a.str("connection"))
		}
	})

	t.Run("TKT03DiesWithItsToken", func(t *testing.T) {
		s := s.within(t)
		// A connection by the same token tells when its time is over.
		token := iss.token(claims{"exp": time.Now().Add(1500*time.Millisecond).Unix() + 1})
		c := s.connect("/chat/lobby", bearer(token))
		query := mint(s, token, "/chat/lobby")
		c.closes(3000, "token_expired")
		up.unseen(t, good, func() { s.refused(401, "ticket_invalid", "/chat/lobby"+query) })
	})

	t.Run("TKT03DiesWithItsSession", func(t *testing.T) {
		s := s.within(t)
		dead := func(query string) {
			t.Helper()
			_, a := s.handshake("/chat/lobby" + query)
			if a.status != 401 || a.code() != "token_revoked" && a.code() != "ticket_invalid" {
				t.Errorf("after its session's end: %d %q", a.status, a.code())
			}
		}
		up.unseen(t, good, func() {
			in := s.login("ann")
			access := in.str("access_token")
			query := mint(s, access, "/chat/lobby")
			s.want(s.call("POST", "/auth/logout", nil, bearer(access)), 200, "")
			dead(query)
			s.want(s.ticket(access, "/chat/lobby"), 401, "token_revoked")

			in = s.login("ann")
			query = mint(s, in.str("access_token"), "/chat/lobby")
			s.cli("session", "revoke", in.str("session_id"))
			dead(query)

			token := iss.token(claims{"sub": "carol", "sid": "carols"})
			query = mint(s, token, "/chat/lobby")
			s.revoke(iss, "token", jtiOf(t, token))
			dead(query)

			token = iss.token(claims{"sub": "carol", "sid": "carols"})
			query = mint(s, token, "/chat/lobby")
			s.revoke(iss, "subject", "carol")
			dead(query)
		})
	})
}

// waitEvent waits for an event of the audit trail.
func (s *server) waitEvent(kind string) {
	s.t.Helper()
	eventually(s.t, "an audit event "+kind, func() bool { return strings.Contains(s.cli("audit", "list", "--json"), kind) })
}
