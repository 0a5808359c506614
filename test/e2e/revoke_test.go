package e2e_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/adminapi"
	"github.com/wsbouncer/wsbouncer/internal/frame"
)

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
