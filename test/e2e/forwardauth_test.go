package e2e_test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/frame"
)

// nginx runs a configuration of examples with other addresses until the end of the
// test: old and new in turn.
func nginx(t *testing.T, example string, addr string, replace ...string) {
	t.Helper()
	program, err := exec.LookPath("nginx")
	if err != nil {
		if program = "/usr/sbin/nginx"; !isFile(program) {
			skip(t, "nginx is not installed: make tools")
		}
	}
	b, err := os.ReadFile(filepath.Join("../../examples", example))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	conf := strings.NewReplacer(replace...).Replace(string(b))
	for _, old := range replace {
		if !slices.Contains(replace[1:], old) && strings.Contains(conf, old) {
			t.Fatalf("%s is still in the configuration", old)
		}
	}
	// Where nginx may write if it is not root.
	var paths strings.Builder
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		fmt.Fprintf(&paths, "    %s_temp_path %s;\n", kind, filepath.Join(dir, kind))
	}
	conf = strings.Replace(conf, "http {\n", "http {\n    access_log off;\n"+paths.String(), 1)
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	log := &bytes.Buffer{}
	// One process, so that nothing is left when it ends.
	cmd := exec.Command(program, "-p", dir, "-c", file, "-g", "daemon off; master_process off; error_log stderr; pid "+filepath.Join(dir, "nginx.pid")+";")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	gone := make(chan struct{})
	go func() { _ = cmd.Wait(); close(gone) }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-gone:
		case <-time.After(patience):
			_ = cmd.Process.Kill()
			<-gone
		}
		if t.Failed() {
			t.Logf("nginx:\n%s", log)
		}
		for _, s := range secretsOf(t) {
			if strings.Contains(log.String(), s) {
				t.Errorf("the secret %.12s… is in nginx's log", s)
			}
		}
	})
	eventually(t, "nginx listens", func() bool {
		select {
		case <-gone:
			t.Fatalf("nginx is gone:\n%s", log)
		default:
		}
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

func isFile(path string) bool { _, err := os.Stat(path); return err == nil }

// plain sends a request that is no handshake, header lines as they are written.
func (s *server) plain(method, target string, lines ...string) *answer {
	s.t.Helper()
	c := s.raw()
	defer c.conn.Close()
	c.send(method + " " + target + " HTTP/1.1\r\nHost: " + s.addr + "\r\nConnection: close\r\nContent-Length: 0\r\n" + strings.Join(append(lines, "", ""), "\r\n"))
	return c.response()
}

// application answers HTTP and echoes WebSockets.
func application(c *upConn) {
	if c.req.Header.Get("Upgrade") == "" {
		fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")
		return
	}
	echo(c)
}

// nginx itself serves what is protected: plain HTTP and a WebSocket. The
// configuration is the one that we give to others.
func TestAUT08NginxAsksBeforeItServes(t *testing.T) {
	t.Parallel()
	app := newUpstream(t, application)
	iss := newIssuer(t, "https://idp.example")
	front := freeAddr(t)
	s := start(t, app, "public_url: http://"+front+"\ntrusted_proxies: [127.0.0.1]\norigins: [https://app.example.com]\n"+trustYAML(iss.name)+generous()+`
routes:
  - {path: /app/admin, upstream: "ws://UPSTREAM", scopes: [admin]}
  - {path: /app/mfa, upstream: "ws://UPSTREAM", require_amr: [mfa], token_from: [header, cookie]}
`, iss.trusted)
	nginx(t, "forward-auth/nginx.conf", front, "127.0.0.1:8080", s.addr, "127.0.0.1:8081", front, "127.0.0.1:9000", app.addr)
	direct := s.url
	s.url, s.addr = "http://"+front, front // what clients see

	good := iss.token(claims{"sub": "zoë, 1", "scope": "chat b%c"})
	revoked := iss.token()
	s.revoke(iss, "token", jtiOf(t, revoked))
	forged := []string{
		"X-Wsbouncer-Subject: root", "X_Wsbouncer_Subject: root", "X.Wsbouncer.Subject: root", "X-WSBOUNCER-SUBJECT: root", "X-Wsbouncer-Issuer: root",
		"X-Wsbouncer-Session: root", "X-Wsbouncer-Scopes: root", "X-Wsbouncer-Connection: root", "X-Wsbouncer-Assertion: root",
	}
	elsewhere := []string{
		"X-Original-URI: /app/x", "X-Original-URL: http://" + front + "/app/x", "X-Forwarded-Uri: /app/x", "X-Original-Method: GET", "X-Forwarded-Method: GET",
		"X-Forwarded-For: 203.0.113.9", "X_Original_URI: /app/x",
	}
	cookie := func(token string) string { return "Cookie: wsbouncer=" + token }
	page := "Origin: https://app.example.com"
	for name, c := range map[string]struct {
		status int
		path   string
		lines  []string
		says   string // of WWW-Authenticate
	}{
		"no token":               {401, "/app/x", nil, "Bearer"},
		"no token, a query":      {401, "/app/x?access_token=" + good, nil, "Bearer"},
		"expired":                {401, "/app/x", []string{bearer(iss.token(claims{"exp": time.Now().Add(-time.Minute).Unix()}))}, "invalid_token"},
		"revoked":                {401, "/app/x", []string{bearer(revoked)}, "invalid_token"},
		"of nobody trusted":      {401, "/app/x", []string{bearer(newIssuer(t, iss.name).token())}, "invalid_token"},
		"bound":                  {401, "/app/x", []string{bearer(iss.token(claims{"cnf": map[string]any{"jkt": strings.Repeat("A", 43)}}))}, "invalid_token"},
		"nginx's scope is not":   {403, "/app/x", []string{bearer(iss.token(claims{"scope": "other"}))}, ""},
		"the route's is not":     {403, "/app/admin", []string{bearer(good)}, ""},
		"escaped":                {403, "/app/%61dmin?x", []string{bearer(good)}, ""},
		"dots":                   {403, "/app/x/../admin", []string{bearer(good)}, ""},
		"slashes":                {403, "/app//admin", []string{bearer(good)}, ""},
		"told of another path":   {403, "/app/admin", append([]string{bearer(good)}, elsewhere...), ""},
		"a login without factor": {401, "/app/mfa", []string{bearer(good)}, "insufficient_user_authentication"},
		"a foreign page":         {403, "/app/x", []string{bearer(good), "Origin: https://evil.example"}, ""},
		"a cookie of no page":    {403, "/app/x", []string{cookie(good)}, ""},
		"a cookie, foreign page": {403, "/app/x", []string{cookie(good), "Sec-Fetch-Site: cross-site"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			before := app.count()
			lines := append(c.lines, forged...)
			a := s.plain("GET", c.path, lines...)
			if a.status != c.status || !strings.Contains(a.header.Get("WWW-Authenticate"), c.says) {
				t.Errorf("HTTP: %d %v, want %d", a.status, a.header, c.status)
			}
			if _, a := s.handshake(c.path, lines...); a.status != c.status {
				t.Errorf("WebSocket: %d, want %d", a.status, c.status)
			}
			if app.count() != before {
				t.Error("it came to the application")
			}
		})
	}
	// A POST or a WebSocket by a cookie needs the Origin, a GET of our own page does not.
	if a := s.plain("POST", "/app/x", cookie(good), "Sec-Fetch-Site: same-origin", "X-Original-Method: GET", "X-Forwarded-Method: GET"); a.status != 403 {
		t.Errorf("POST by cookie without an Origin: %d", a.status)
	}
	if _, a := s.handshake("/app/x", cookie(good), "Sec-Fetch-Site: same-origin"); a.status != 403 {
		t.Errorf("WebSocket by cookie without an Origin: %d", a.status)
	}
	// The question is nobody's but nginx's.
	for _, path := range []string{"/_wsbouncer", "/auth/verify", "/auth/verify?scope=chat"} {
		if a := s.plain("GET", path, bearer(good)); a.status != 404 {
			t.Errorf("%s: %d", path, a.status)
		}
	}

	identity := map[string][]string{
		"X-Wsbouncer-Subject": {"zo%C3%AB%2C%201"}, "X-Wsbouncer-Issuer": {iss.name}, "X-Wsbouncer-Session": {"s1"}, "X-Wsbouncer-Scopes": {"chat b%25c"},
		"X-Wsbouncer-Connection": nil, "X-Wsbouncer-Assertion": nil, "Authorization": nil, "Cookie": nil,
	}
	served := func(name string, want map[string][]string) {
		t.Helper()
		head := app.last().head
		for header, list := range want {
			if got := values(head, header); !slices.Equal(got, list) {
				t.Errorf("%s: the application sees %s: %q, want %q", name, header, got, list)
			}
		}
	}
	for name, lines := range map[string][]string{
		"header":             {bearer(good)},
		"header, of a page":  {bearer(good), page},
		"told of this path":  append([]string{bearer(good)}, elsewhere...),
		"cookie of a page":   {cookie(good), page},
		"cookie beside more": {bearer(good), cookie("x")},
	} {
		for _, method := range []string{"GET", "POST"} {
			if a := s.plain(method, "/app/x?y=1;z", append(lines, forged...)...); a.status != 200 || string(a.body) != "hi" {
				t.Errorf("%s %s: %d %s", method, name, a.status, a.body)
			}
			served(method+" "+name, identity)
		}
		c, a := s.handshake("/app/x", append(lines, forged...)...)
		if a.status != 101 {
			t.Errorf("WebSocket %s: %d %s", name, a.status, a.body)
			continue
		}
		c.frame(frame.Text, true, "hello").receives("hello")
		served("WebSocket "+name, identity)
		c.conn.Close()
	}
	if a := s.plain("GET", "/app/x", cookie(good), "Sec-Fetch-Site: same-origin"); a.status != 200 {
		t.Errorf("our own page's GET: %d", a.status)
	}
	anonymous := iss.token(claims{"sid": nil})
	if a := s.plain("GET", "/app/x", append(forged, bearer(anonymous))...); a.status != 200 {
		t.Errorf("without a session: %d", a.status)
	}
	served("without a session", map[string][]string{"X-Wsbouncer-Session": nil})

	// A revocation counts for the next question.
	s.revoke(iss, "session", "s1")
	if a := s.plain("GET", "/app/x", bearer(good)); a.status != 401 {
		t.Errorf("after the revocation: %d", a.status)
	}

	// Who cannot be asked lets nobody in.
	s.url, s.addr = direct, strings.TrimPrefix(direct, "http://")
	if s.stop() != 0 {
		t.Errorf("exit code %d", s.code)
	}
	s.url, s.addr = "http://"+front, front
	before := app.count()
	if a := s.plain("GET", "/app/x", bearer(anonymous)); a.status != 500 || app.count() != before {
		t.Errorf("with nobody to ask: %d", a.status)
	}
}

// From somebody who is no trusted proxy, headers that name another request are
// refused, whatever the token (AUT-08), with and without an issuer of our own.
func TestAUT08VerifyBelievesProxiesAlone(t *testing.T) {
	t.Parallel()
	iss := newIssuer(t, "https://idp.example")
	s := start(t, newUpstream(t, nil), trustYAML(iss.name)+`
routes:
  - {path: /chat, upstream: "ws://UPSTREAM", scopes: [chat]}
`, iss.trusted)
	line := bearer(iss.token())
	s.want(s.call("GET", "/auth/verify", nil), 401, "token_missing")
	s.want(s.call("GET", "/auth/verify?scope=chat", nil, line), 204, "")
	s.want(s.call("GET", "/auth/verify?scope=other", nil, line), 403, "insufficient_scope")
	for _, told := range []string{"X-Original-URI: /chat", "X-Original-URL: http://x/chat", "X-Forwarded-Uri: /chat", "X-Original-Method: GET", "X-Forwarded-Method: GET"} {
		s.want(s.call("GET", "/auth/verify", nil, line, told), 403, "not_allowed")
	}
	s.want(s.call("OPTIONS", "/auth/verify", nil, "Origin: "+s.url, "Access-Control-Request-Method: GET"), 405, "method_not_allowed")
}
