package e2e_test

import "testing"

const chatYAML = `
issuer: {access_ttl: 60s}
routes:
  - {path: "/chat/{room}", upstream: "ws://UPSTREAM", scopes: [chat]}
`

// The main job in one walk: log in, connect, talk, log out, be out.
func TestMainJob(t *testing.T) {
	up := newUpstream(t, nil)
	s := start(t, up, chatYAML)
	s.addUser("ann", "chat")
	in := s.login("ann")
	c := s.connect("/chat/lobby", bearer(in.str("access_token"))).alive()
	if got := up.last().req.Header.Get("X-Wsbouncer-Subject"); got != "ann" {
		t.Errorf("the upstream was told %q", got)
	}
	s.want(s.call("POST", "/auth/logout", nil, bearer(in.str("access_token"))), 200, "")
	c.closes(3000, "logged_out")
	s.refused(401, "token_revoked", "/chat/lobby", bearer(in.str("access_token")))
	if up.count() != 1 {
		t.Errorf("%d connections reached the upstream", up.count())
	}
}

func TestMainJobWithATrustedIssuer(t *testing.T) {
	up, iss := newUpstream(t, nil), newIssuer(t, "https://idp.example")
	s := start(t, up, trustYAML(iss.name)+`
routes:
  - {path: /chat, upstream: "ws://UPSTREAM", scopes: [chat]}
`, iss.trusted)
	token := iss.token()
	c := s.connect("/chat", bearer(token)).alive()
	s.cli("revoke", "subject", "alice", "--issuer", iss.name)
	c.closes(3000, "subject_revoked")
	s.refused(401, "token_revoked", "/chat", bearer(token))
}
