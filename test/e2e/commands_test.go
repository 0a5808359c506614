package e2e_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const commandsYAML = `
issuer: {access_ttl: 60s}
limits: {handshakes_per_ip: {rate: 1000/s, burst: 1000}}
routes:
  - {path: "/chat/{room}", upstream: "ws://UPSTREAM", scopes: [chat]}
`

// fails demands that a command fails with a code and one line on stderr that
// says these things, and prints nothing.
func (s *server) fails(code int, says []string, stdin string, args ...string) {
	s.t.Helper()
	r := s.tool(stdin, args...)
	text := strings.TrimSuffix(r.stderr, "\n")
	if r.code != code || r.stdout != "" || text == "" || strings.Contains(text, "\n") || !strings.HasPrefix(text, "wsbouncer: ") {
		s.t.Errorf("wsbouncer %q: exit code %d, want %d and one line\nstdout %s\nstderr %s", args, r.code, code, r.stdout, r.stderr)
	}
	for _, what := range says {
		if !strings.Contains(text, what) {
			s.t.Errorf("wsbouncer %q: %q is not in %q", args, what, text)
		}
	}
}

func (s *server) issue(args ...string) string {
	s.t.Helper()
	var out struct {
		Token string `json:"access_token"`
	}
	s.tool("", append([]string{"token", "issue", "--json"}, args...)...).json(s.t, &out)
	return secret(s.t, out.Token)
}

func TestCommandsManageAccounts(t *testing.T) {
	s := start(t, newUpstream(t, nil), commandsYAML)
	type user struct {
		Name     string
		Scopes   []string
		Disabled bool
		Created  time.Time
	}
	var u user
	s.tool(password(t, "ann")+"\n", "user", "add", "Ann", "--scope", "chat", "--password-stdin", "--json").json(t, &u)
	if u.Name != "ann" || len(u.Scopes) != 1 || u.Disabled || time.Since(u.Created).Abs() > time.Hour {
		t.Errorf("added %+v", u)
	}
	s.addUser("bob", "")
	var list []user
	s.tool("", "user", "list", "--json").json(t, &list)
	if len(list) != 2 || list[0].Name != "ann" || list[1].Name != "bob" {
		t.Errorf("listed %+v", list)
	}
	if out := s.cli("user", "list"); !strings.HasPrefix(out, "NAME") || !strings.Contains(out, "\nann") {
		t.Errorf("listed\n%s", out)
	}
	s.tool("", "user", "show", "ANN", "--json").json(t, &u)
	if u.Name != "ann" {
		t.Errorf("shown %+v", u)
	}

	in := s.login("ann")
	s.tool("", "user", "grant", "ann", "--scope", "chat:write admin", "--remove", "chat", "--json").json(t, &u)
	if strings.Join(u.Scopes, " ") != "admin chat:write" {
		t.Errorf("granted %+v", u)
	}
	s.cli("user", "grant", "ann", "--scope", "chat", "--remove", "admin")
	c := s.connect("/chat/a", bearer(in.str("access_token"))).alive()
	s.cli("user", "disable", "ann")
	c.closes(3000, "subject_revoked")
	s.want(s.tryLogin("ann", password(t, "ann")), 401, "login_failed")
	s.tool("", "user", "show", "ann", "--json").json(t, &u)
	if !u.Disabled {
		t.Errorf("disabled, but %+v", u)
	}
	s.cli("user", "enable", "ann")
	in = s.login("ann")
	c = s.connect("/chat/a", bearer(in.str("access_token"))).alive()
	fresh := secret(t, "gravel mosaic tundra 9")
	if r := s.tool(fresh+"\n", "user", "passwd", "ann", "--password-stdin"); r.code != 0 {
		t.Errorf("exit code %d: %s", r.code, r.stderr)
	}
	if _, err := c.next(); err != nil {
		t.Errorf("instead of a close frame: %v", err)
	}
	s.want(s.tryLogin("ann", password(t, "ann")), 401, "login_failed")
	in = s.want(s.tryLogin("ann", fresh), 200, "")
	c = s.connect("/chat/a", bearer(in.str("access_token"))).alive()
	s.cli("user", "remove", "ann")
	c.closes(3000, "subject_revoked")
	s.want(s.tryLogin("ann", fresh), 401, "login_failed")
	s.want(s.refresh(in.str("refresh_token")), 400, "invalid_grant")

	s.fails(1, []string{"no account of that name"}, "", "user", "show", "ann")
	for _, command := range []string{"disable", "enable", "remove"} {
		s.fails(1, nil, "", "user", command, "ann")
	}
	s.fails(1, []string{"already"}, password(t, "bob")+"\n", "user", "add", "bob", "--password-stdin")
	s.fails(1, []string{"shorter than 15"}, "short\n", "user", "add", "eve", "--password-stdin")
	s.fails(1, []string{"empty"}, "", "user", "add", "eve", "--password-stdin")
	s.fails(1, []string{"name"}, password(t, "x")+"\n", "user", "add", "two words", "--password-stdin")
	s.fails(1, []string{"scope"}, password(t, "x")+"\n", "user", "add", "eve", "--password-stdin", "--scope", `chat "x"`)
	s.fails(2, []string{"--password-stdin"}, "", "user", "add", "eve") // no terminal to ask at
	s.fails(2, []string{"--scope"}, "", "user", "grant", "bob")
	s.fails(2, []string{"--help"}, "", "user", "add")
	s.fails(2, []string{"--help"}, "", "user", "add", "eve", "--password", "in an argument")
	s.fails(2, []string{"--help"}, "", "user")
}

func TestCommandsShowAndEndWhatLives(t *testing.T) {
	s := start(t, newUpstream(t, nil), commandsYAML)
	s.addUser("ann", "chat")
	s.addUser("bob", "chat")
	in, bob := s.login("ann"), s.login("bob")
	c1, c2 := s.connect("/chat/a", bearer(in.str("access_token"))).alive(), s.connect("/chat/b", bearer(in.str("access_token"))).alive()
	other := s.connect("/chat/a", bearer(bob.str("access_token"))).alive()

	type session struct{ ID, Subject, IP string }
	var sessions []session
	s.tool("", "session", "list", "--json").json(t, &sessions)
	if len(sessions) != 2 {
		t.Errorf("sessions %+v", sessions)
	}
	s.tool("", "session", "list", "--subject", "ann", "--json").json(t, &sessions)
	if len(sessions) != 1 || sessions[0].ID != in.str("session_id") || sessions[0].IP != "127.0.0.1" {
		t.Errorf("sessions of ann %+v", sessions)
	}
	type connection struct {
		ID, Subject, Session, Route string
		Expires                     time.Time `json:"expires_at"`
		Messages                    int       `json:"client_messages"`
		Bytes                       int       `json:"upstream_bytes"`
	}
	conns := func(args ...string) (out []connection) {
		t.Helper()
		s.tool("", append([]string{"conn", "list", "--json"}, args...)...).json(t, &out)
		return out
	}
	if got := conns(); len(got) != 3 {
		t.Errorf("connections %+v", got)
	}
	eventually(t, "what a living connection carried", func() bool {
		got := conns("--subject", "bob")
		return len(got) == 1 && got[0].Messages > 0 && got[0].Bytes > 0
	})
	if got := conns("--subject", "bob"); len(got) != 1 || got[0].ID != other.id || got[0].Route != "/chat/{room}" || got[0].Session != bob.str("session_id") {
		t.Errorf("connections of bob %+v", got)
	}
	if got := conns("--session", in.str("session_id")); len(got) != 2 {
		t.Errorf("connections of the session %+v", got)
	}
	if got := conns("--route", "/none"); len(got) != 0 {
		t.Errorf("connections of no route %+v", got)
	}
	if out := s.cli("conn", "list"); !strings.Contains(out, c1.id) || !strings.Contains(out, "CONNECTION") {
		t.Errorf("connections\n%s", out)
	}
	s.cli("conn", "close", c1.id)
	for { // whatever its reason, it ends, and the others do not
		if m, err := c1.next(); err != nil || m.op == 8 {
			break
		}
	}
	c2.alive()
	var closed struct{ Closed int }
	s.tool("", "session", "revoke", in.str("session_id"), "--json").json(t, &closed)
	if closed.Closed != 1 {
		t.Errorf("session revoke closed %d", closed.Closed)
	}
	c2.closes(3000, "session_revoked")
	other.alive()
	c1.conn.Close()
	eventually(t, "the ended connections to be gone", func() bool {
		return s.adminCall("GET", "/v1/status", nil).json["connections"] == 1.0
	})
	s.fails(1, []string{"no session of that id"}, "", "session", "revoke", in.str("session_id"))
	s.fails(1, []string{"No live connection has that id"}, "", "conn", "close", c1.id)

	var status struct {
		Ready       bool
		Connections int
		Routes      []string
		Public      string
		PublicURL   string `json:"public_url"`
		Issuer      string
		Version, Go string
	}
	s.tool("", "status", "--json").json(t, &status)
	if !status.Ready || status.Connections != 1 || status.Public != s.addr || status.PublicURL != s.url || status.Issuer != s.url || len(status.Routes) != 1 || status.Version == "" || !strings.HasPrefix(status.Go, "go1.") {
		t.Errorf("status %+v", status)
	}
	if out := s.cli("status"); !strings.Contains(out, "ready") || !strings.Contains(out, s.addr) {
		t.Errorf("status\n%s", out)
	}
	if out := s.cli("health"); strings.TrimSpace(out) != "ready" {
		t.Errorf("health %q", out)
	}
	var version map[string]string
	s.tool("", "version", "--json").json(t, &version)
	if version["version"] == "" || version["go"] != status.Go {
		t.Errorf("version %v", version)
	}
	var events []struct {
		Type, Subject, Session, Actor string
		Time                          time.Time
	}
	s.tool("", "audit", "list", "--json").json(t, &events)
	found := map[string]bool{}
	for i, e := range events {
		found[e.Type] = true
		if i > 0 && e.Time.After(events[i-1].Time) {
			t.Errorf("not newest first: %v after %v", e.Time, events[i-1].Time)
		}
	}
	for _, kind := range []string{"user_added", "login_ok", "session_ended", "connection_ended"} {
		if !found[kind] {
			t.Errorf("no %s among %v", kind, found)
		}
	}
	s.tool("", "audit", "list", "--limit", "1", "--json").json(t, &events)
	if len(events) != 1 {
		t.Errorf("--limit 1: %d events", len(events))
	}
	s.fails(2, nil, "", "audit", "list", "--limit", "many")
	// The admin socket is named in three ways, and nobody else's answers.
	if r := runTool(t, t.TempDir(), "", "status", "--admin", s.admin); r.code != 0 {
		t.Errorf("--admin: %d %s", r.code, r.stderr)
	}
	if info, err := os.Stat(s.admin); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v %v", info.Mode(), err)
	}
	s.fails(1, nil, "", "status", "--admin", filepath.Join(s.dir, "nowhere.sock"))
	s.fails(1, nil, "", "status", "--config", filepath.Join(s.dir, "nowhere.yaml"))
	s.fails(1, nil, "", "health", "--url", "http://"+freeAddr(t))
}

func TestCommandsOfTokensAndKeys(t *testing.T) {
	up, iss := newUpstream(t, nil), newIssuer(t, "https://idp.example")
	s := start(t, up, trustYAML(iss.name)+commandsYAML, iss.trusted)
	s.addUser("ann", "chat")
	token := s.issue("--subject", "ann", "--scope", "chat", "--ttl", "5m")
	if out := strings.TrimSpace(s.cli("token", "issue", "--subject", "ann")); strings.Count(secret(t, out), ".") != 2 {
		t.Errorf("token issue prints %q", out)
	}
	var v struct {
		Valid         bool
		Code, Subject string
		Scopes        []string
		TokenID       string    `json:"token_id"`
		KeyID         string    `json:"key_id"`
		Expires       time.Time `json:"expires_at"`
	}
	s.tool("", "token", "verify", token, "--json").json(t, &v)
	if left := time.Until(v.Expires); !v.Valid || v.Subject != "ann" || len(v.Scopes) != 1 || left > 5*time.Minute || left < 3*time.Minute {
		t.Errorf("verified %+v", v)
	}
	if r := s.tool(token+"\n", "token", "verify", "-"); r.code != 0 || !strings.HasPrefix(r.stdout, "valid") {
		t.Errorf("verify -: %d %s%s", r.code, r.stdout, r.stderr)
	}
	if r := s.tool("", "token", "verify", token+"x"); r.code != 1 || !strings.Contains(r.stdout, "refused: token_") {
		t.Errorf("a spoilt one: %d %s%s", r.code, r.stdout, r.stderr)
	}
	for _, raw := range []string{token, token[:len(token)-4] + "AAAA"} { // it does not look at the signature
		r := s.tool("", "token", "inspect", raw)
		if r.code != 0 || !strings.Contains(r.stdout, "not verified") || !strings.Contains(r.stdout, `"sub":"ann"`) {
			t.Errorf("inspect: %d %s%s", r.code, r.stdout, r.stderr)
		}
	}
	var inspected struct {
		Verified bool
		Header   map[string]any
		Payload  map[string]any
	}
	s.tool("", "token", "inspect", token, "--json").json(t, &inspected)
	if inspected.Verified || inspected.Header["typ"] != "at+jwt" || inspected.Payload["sub"] != "ann" {
		t.Errorf("inspected %+v", inspected)
	}
	s.fails(1, nil, "", "token", "inspect", "nonsense")
	s.fails(2, []string{"--subject"}, "", "token", "issue")
	s.fails(2, []string{"--ttl"}, "", "token", "issue", "--subject", "ann", "--ttl", "soon")
	s.fails(2, []string{"--ttl"}, "", "token", "issue", "--subject", "ann", "--ttl", "-5m")
	s.fails(1, []string{"24h"}, "", "token", "issue", "--subject", "ann", "--ttl", "720h")

	// Each way to revoke ends its connections, and says how many.
	type result struct{ ID, Closed, Nodes int }
	revoked := func(want int, args ...string) {
		t.Helper()
		var r result
		s.tool("", append([]string{"revoke"}, append(args, "--json")...)...).json(t, &r)
		if r.Closed != want || r.ID == 0 || r.Nodes != 1 {
			t.Errorf("revoke %v: %+v, want %d closed", args, r, want)
		}
	}
	c := s.connect("/chat/a", bearer(token)).alive()
	revoked(1, "token", v.TokenID)
	c.closes(3000, "token_revoked")
	token = s.issue("--subject", "ann", "--scope", "chat")
	c = s.connect("/chat/a", bearer(token)).alive()
	revoked(1, "token", token)
	c.closes(3000, "token_revoked")
	if r := s.tool("", "token", "verify", token); r.code != 1 || !strings.Contains(r.stdout, "token_revoked") {
		t.Errorf("after the revocation: %d %s%s", r.code, r.stdout, r.stderr)
	}
	in := s.login("ann")
	c = s.connect("/chat/a", bearer(in.str("access_token"))).alive()
	revoked(1, "session", in.str("session_id"))
	c.closes(3000, "session_revoked")
	c = s.connect("/chat/a", bearer(s.login("ann").str("access_token"))).alive()
	foreigner := s.connect("/chat/a", bearer(iss.token(claims{"sub": "ann"}))).alive()
	revoked(1, "subject", "ann", "--reason", "left")
	c.closes(3000, "subject_revoked")
	foreigner.alive() // another issuer's ann
	revoked(1, "subject", "ann", "--issuer", iss.name)
	foreigner.closes(3000, "subject_revoked")
	foreigner = s.connect("/chat/a", bearer(iss.token())).alive()
	c = s.connect("/chat/a", bearer(s.login("ann").str("access_token"))).alive() // after the revocation: good
	revoked(1, "key", "k1", "--issuer", iss.name)
	foreigner.closes(3000, "key_revoked")
	revoked(1, "before", time.Now().UTC().Format(time.RFC3339Nano))
	m, err := c.next()
	if err != nil || m.op != 8 || !strings.HasPrefix(m.payload, "\x0b\xb8") {
		t.Errorf("revoke before: %v %v", m, err)
	}
	s.fails(2, []string{"2026-"}, "", "revoke", "before", "yesterday")
	s.fails(1, []string{"must not be in the future"}, "", "revoke", "before", time.Now().Add(time.Hour).Format(time.RFC3339))
	s.fails(2, nil, "", "revoke", "everything")
	s.fails(2, nil, "", "revoke", "token")
	s.fails(1, nil, "", "revoke", "subject", "")
}

func TestCommandsOfOurKeys(t *testing.T) {
	s := start(t, newUpstream(t, nil), commandsYAML)
	s.addUser("ann", "chat")
	type key struct{ ID, Algorithm, State string }
	keys := func() (out []key) {
		t.Helper()
		s.tool("", "key", "list", "--json").json(t, &out)
		return out
	}
	first := keys()
	if len(first) != 2 || first[0].State != "active" || first[1].State != "next" || first[0].Algorithm != "EdDSA" {
		t.Fatalf("keys %+v", first)
	}
	old := s.login("ann")
	c := s.connect("/chat/a", bearer(old.str("access_token"))).alive()
	var rotated key
	s.tool("", "key", "rotate", "--json").json(t, &rotated)
	second := keys()
	if rotated.ID != first[1].ID || len(second) != 3 || second[0].ID != first[1].ID || second[2].ID != first[0].ID || second[2].State != "retired" {
		t.Errorf("rotated to %+v: %+v", rotated, second)
	}
	c.alive()
	s.connect("/chat/a", bearer(old.str("access_token"))).alive()
	fresh := s.connect("/chat/a", bearer(s.login("ann").str("access_token"))).alive()
	var r struct{ Closed int }
	s.tool("", "key", "revoke", first[0].ID, "--reason", "leaked", "--json").json(t, &r)
	if r.Closed != 2 {
		t.Errorf("closed %d", r.Closed)
	}
	c.closes(3000, "key_revoked")
	fresh.alive()
	_, a := s.handshake("/chat/a", bearer(old.str("access_token")))
	if a.status != 401 {
		t.Errorf("a token of the revoked key: %d %s", a.status, a.code())
	}
	if set := string(s.call("GET", "/.well-known/jwks.json", nil).body); strings.Contains(set, first[0].ID) || !strings.Contains(set, rotated.ID) {
		t.Errorf("published are %s", set)
	}
	// The active one, too: the next takes over at once.
	s.cli("key", "revoke", rotated.ID)
	fresh.closes(3000, "key_revoked")
	s.connect("/chat/a", bearer(s.login("ann").str("access_token"))).alive()
	s.fails(1, []string{"No signing key of ours"}, "", "key", "revoke", "nobody's")
	s.fails(2, nil, "", "key", "revoke")
}

func TestCommandsWithoutAServer(t *testing.T) {
	s := start(t, newUpstream(t, nil), commandsYAML)
	if code := s.stop(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	// These work, under the lock.
	s.addUser("ann", "chat")
	if out := s.cli("user", "list"); !strings.Contains(out, "ann") {
		t.Errorf("listed\n%s", out)
	}
	if r := s.tool(password(t, "ann")+"\n", "user", "passwd", "ann", "--password-stdin"); r.code != 0 {
		t.Errorf("passwd: %d %s", r.code, r.stderr)
	}
	// The others say that there is no server, and how to get one.
	for _, args := range [][]string{
		{"status"}, {"reload"}, {"health"}, {"user", "show", "ann"}, {"user", "disable", "ann"}, {"session", "list"}, {"conn", "list"}, {"key", "list"}, {"key", "rotate"},
		{"revoke", "subject", "ann"}, {"audit", "list"}, {"token", "issue", "--subject", "ann"}, {"token", "verify", "x"},
	} {
		s.fails(1, nil, "", args...)
	}
	s.fails(1, []string{"wsbouncer serve"}, "", "status")
	if !s.run() {
		t.Fatalf("it did not start:\n%s", s.log)
	}
	s.login("ann")
}

func TestConnect(t *testing.T) {
	up := newUpstream(t, nil)
	s := start(t, up, strings.Replace(commandsYAML, "60s", "3s", 1))
	s.addUser("ann", "chat")
	ws := "ws://" + s.addr + "/chat/a"
	token := s.issue("--subject", "ann", "--scope", "chat", "--ttl", "60s")

	for _, via := range []string{"header", "subprotocol", "query", "ticket"} {
		r := s.tool("hello\n", "connect", ws, "--token", token, "--via", via, "--messages", "1")
		if r.code != 0 || !strings.Contains(r.stdout, "as ann") || !strings.Contains(r.stdout, "< hello") || strings.Contains(r.stdout+r.stderr, token) {
			t.Errorf("via %s: exit code %d: %s%s", via, r.code, r.stdout, r.stderr)
		}
	}
	if r := s.tool(token+"\nhello\n", "connect", ws, "--token", "-", "--messages", "1"); r.code != 0 || !strings.Contains(r.stdout, "< hello") {
		t.Errorf("--token -: exit code %d: %s%s", r.code, r.stdout, r.stderr)
	}
	file := s.file("token", token+"\n")
	if r := s.tool("hello\n", "connect", ws, "--token-file", file, "--messages", "1"); r.code != 0 || !strings.Contains(r.stdout, "< hello") {
		t.Errorf("--token-file: exit code %d: %s%s", r.code, r.stdout, r.stderr)
	}
	s.fails(1, []string{"401", "token_missing"}, "", "connect", ws)
	s.fails(1, []string{"401", "token_malformed"}, "", "connect", ws, "--token", "nonsense")
	s.fails(1, []string{"403", "origin_denied"}, "", "connect", ws, "--token", token, "--origin", "https://evil.example")
	s.fails(1, []string{"401", "login_failed"}, "wrong but long enough\n", "connect", ws, "--login", "ann", "--password-stdin")
	s.fails(1, nil, "", "connect", "ws://"+freeAddr(t)+"/", "--token", token)
	s.fails(2, []string{"ws://"}, "", "connect", s.url, "--token", token)
	s.fails(2, nil, "", "connect", ws, "--token", token, "--login", "ann")
	s.fails(2, nil, "", "connect")

	// A login lives on by refreshing under the connection, and is told how it ended.
	cmd := exec.CommandContext(t.Context(), binary, "connect", ws, "--login", "ann", "--password-stdin")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out := &logBuffer{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := stdin.Write([]byte(password(t, "ann") + "\nhello\n")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "two refreshes under one connection", func() bool {
		return strings.Count(out.String(), "refreshed ") >= 2 && strings.Contains(out.String(), "< hello")
	})
	var conns []struct{ Session string }
	s.tool("", "conn", "list", "--subject", "ann", "--json").json(t, &conns)
	if len(conns) != 1 {
		t.Fatalf("%d connections: %s", len(conns), out)
	}
	s.cli("session", "revoke", conns[0].Session)
	err = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); err == nil || code != 1 || !strings.Contains(out.String(), "3000 session_revoked: refresh the token or log in again") {
		t.Errorf("exit code %d (%v): %s", code, err, out)
	}
	if strings.Contains(out.String(), password(t, "ann")) {
		t.Error("the password is shown")
	}
}

func TestEveryListIsJSONWhenEmpty(t *testing.T) {
	s := start(t, newUpstream(t, nil), commandsYAML)
	for _, args := range [][]string{{"user", "list"}, {"session", "list"}, {"conn", "list"}, {"audit", "list"}} {
		r := s.tool("", append(args, "--json")...)
		var list []json.RawMessage
		if err := json.Unmarshal([]byte(r.stdout), &list); err != nil || r.code != 0 || strings.TrimSpace(r.stdout) != "[]" {
			t.Errorf("%v: %d %q", args, r.code, r.stdout)
		}
	}
}
