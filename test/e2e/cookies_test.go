package e2e_test

import (
	"net/http"
	"strings"
	"testing"
)

// cookieYAML stands behind a proxy that ends TLS: the cookies follow public_url.
const cookieYAML = `
public_url: https://rt.example.com
trusted_proxies: [127.0.0.1]
issuer: {access_ttl: 60s}
limits: {handshakes_per_ip: {rate: 1000/s, burst: 1000}, logins: {per_ip: {rate: 1000/m, burst: 1000}, per_account: {rate: 1000/m, burst: 1000}}}
routes:
  - {path: /chat, upstream: "ws://UPSTREAM", scopes: [chat], token_from: [cookie, header, ticket]}
  - {path: /nocookie, upstream: "ws://UPSTREAM", scopes: [chat]}
`

const (
	site        = "https://rt.example.com"
	siteHost    = "Host: rt.example.com"
	siteOrigin  = "Origin: " + site
	accessName  = "__Host-wsbouncer"
	refreshName = "__Secure-wsbouncer-refresh"
	foreign     = "Origin: https://evil.example"
	jsonType    = "Content-Type: application/json"
)

// jar is what a browser holds after a login in the cookie form.
type jar struct{ access, refresh string }

func (j jar) line() string {
	return "Cookie: " + accessName + "=" + j.access + "; " + refreshName + "=" + j.refresh
}

// take reads the two cookies of an answer.
func take(t testing.TB, a *answer) jar {
	t.Helper()
	access, refresh := a.cookie(accessName), a.cookie(refreshName)
	if a.status != 200 || access == nil || refresh == nil {
		t.Fatalf("%d %s, cookies %v", a.status, a.body, a.header["Set-Cookie"])
	}
	return jar{access.Value, refresh.Value}
}

// cookieLogin logs in as a page of the site does.
func (s *server) cookieLogin(name string, lines ...string) (jar, *answer) {
	s.t.Helper()
	body := map[string]any{"username": name, "password": password(s.t, name), "cookie": true}
	a := s.call("POST", "/auth/login", body, append([]string{siteHost, siteOrigin}, lines...)...)
	return take(s.t, a), a
}

func TestCOK01TheCookiesAndTheirUse(t *testing.T) {
	up := newUpstream(t, nil)
	s := start(t, up, cookieYAML)
	s.addUser("ann", "chat")
	planted := jar{secret(t, "planted-by-somebody-else"), secret(t, "planted-refresh-of-somebody")}
	handshake := func(status int, code, path string, lines ...string) {
		t.Helper()
		s.refused(status, code, path, append([]string{siteHost}, lines...)...)
	}
	handshake(401, "token_malformed", "/chat", siteOrigin, planted.line())
	first, login := s.cookieLogin("ann", planted.line())
	second, _ := s.cookieLogin("ann")
	if first.access == planted.access || first.refresh == planted.refresh || first.access == second.access || first.refresh == second.refresh {
		t.Error("a login keeps a cookie that was there")
	}
	handshake(401, "token_malformed", "/chat", siteOrigin, planted.line())

	// Every Set-Cookie, of login, refresh and logout.
	refresh := func(j jar) *answer {
		return s.call("POST", "/auth/token", map[string]any{"grant_type": "refresh_token"}, siteHost, siteOrigin, j.line())
	}
	refreshed := refresh(second)
	third := take(t, refreshed)
	logout := s.want(s.call("POST", "/auth/logout", map[string]any{}, siteHost, siteOrigin, third.line()), 200, "")
	for what, a := range map[string]*answer{"login": login, "refresh": refreshed, "logout": logout} {
		lines := a.header["Set-Cookie"]
		if len(lines) != 2 {
			t.Errorf("%s sets %q", what, lines)
		}
		for _, line := range lines {
			name, _, _ := strings.Cut(line, "=")
			path := map[string]string{accessName: "/", refreshName: "/auth"}[name]
			c, err := http.ParseSetCookie(line)
			if err != nil || path == "" || c.Path != path || !c.Secure || !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Domain != "" || len(line) >= 4096 {
				t.Errorf("%s: %.300q (%v)", what, line, err)
			}
			if what == "logout" && (c.Value != "" || c.MaxAge >= 0) {
				t.Errorf("the logout leaves %q", line)
			} else if what != "logout" && c.MaxAge <= 0 {
				t.Errorf("%s: no Max-Age: %.80q", what, line)
			}
			// 128 bit in base64url are 22 characters.
			if what != "logout" && len(c.Value) < 22 {
				t.Errorf("%s: a guessable value", what)
			}
		}
		if a.str("access_token")+a.str("refresh_token") != "" {
			t.Errorf("%s: a token is in the body: %s", what, a.body)
		}
		if a.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: Cache-Control %q", what, a.header.Get("Cache-Control"))
		}
	}
	// What was logged out, or rotated away, is dead.
	handshake(401, "token_revoked", "/chat", siteOrigin, third.line())
	s.want(refresh(third), 400, "invalid_grant")

	// The handshake: Origin must be there, allowed, and nothing else.
	before := up.count()
	for _, lines := range [][]string{
		{first.line()}, {first.line(), foreign}, {first.line(), "Origin: null"}, {first.line(), "Origin: http://rt.example.com"},
		{first.line(), "Origin: https://rt.example.com.evil.example"}, {first.line(), "Origin: https://rt.example.com:8443"},
	} {
		handshake(403, "origin_denied", "/chat", lines...)
	}
	handshake(401, "token_missing", "/nocookie", siteOrigin, first.line())
	handshake(401, "token_malformed", "/chat", siteOrigin, "Cookie: "+accessName+"="+first.refresh)
	// Two of the name: one was planted, by a neighbour of the domain for one.
	handshake(400, "credential_ambiguous", "/chat", siteOrigin, "Cookie: "+accessName+"="+first.access+"; "+accessName+"="+planted.access)
	// The name without its prefix can be planted by plain http, so it is nobody's.
	handshake(401, "token_missing", "/chat", siteOrigin, "Cookie: wsbouncer="+first.access)
	if n := up.count() - before; n != 0 {
		t.Errorf("%d refused handshakes reached the upstream", n)
	}
	c := s.connect("/chat", siteHost, siteOrigin, "Cookie: theme=dark; "+accessName+"="+first.access+"; lang=en").alive()
	if got := up.last().head; strings.Contains(got, first.access) || strings.Contains(got, accessName) || !strings.Contains(got, "theme=dark") || !strings.Contains(got, "lang=en") {
		t.Errorf("the upstream was sent\n%s", got)
	}
	// A cookie beside another credential is ignored, good or bad.
	s.addUser("bob", "chat")
	bob, _ := s.cookieLogin("bob")
	s.connect("/chat", siteHost, siteOrigin, planted.line(), bearer(bob.access)).alive()
	if got := up.last().req.Header.Get("X-Wsbouncer-Subject"); got != "bob" {
		t.Errorf("the upstream was told %q", got)
	}
	// A new login in the same browser ends what it replaces.
	s.cookieLogin("ann", first.line())
	c.closes(3000, "logged_out")
	handshake(401, "token_revoked", "/chat", siteOrigin, first.line())
}

func TestCOK01PlainHTTPOnLoopback(t *testing.T) {
	s := start(t, newUpstream(t, nil), `
issuer: {}
routes: [{path: /chat, upstream: "ws://UPSTREAM", token_from: [cookie]}]
cookies: {same_site: lax}
`)
	s.addUser("ann", "")
	a := s.call("POST", "/auth/login", map[string]any{"username": "ann", "password": password(t, "ann"), "cookie": true}, "Origin: "+s.url)
	c := a.cookie("wsbouncer")
	if c == nil || c.Secure || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || a.cookie("wsbouncer-refresh") == nil {
		t.Fatalf("%v", a.header["Set-Cookie"])
	}
	s.connect("/chat", "Origin: "+s.url, "Cookie: wsbouncer="+c.Value).alive()
}

func TestORG08CrossSiteRequestsChangeNothing(t *testing.T) {
	s := start(t, newUpstream(t, nil), cookieYAML)
	s.addUser("ann", "chat")
	j, login := s.cookieLogin("ann")
	c := s.connect("/chat", siteHost, siteOrigin, j.line()).alive()

	targets := []struct{ method, path, body string }{
		{"POST", "/auth/login", `{"username":"ann","password":"` + password(t, "ann") + `","cookie":true}`},
		{"POST", "/auth/token", `{"grant_type":"refresh_token"}`},
		{"POST", "/auth/ticket", `{"path":"/chat"}`},
		{"POST", "/auth/logout", `{}`},
		{"POST", "/auth/logout", `{"everywhere":true}`},
		{"POST", "/auth/password", `{"current_password":"` + password(t, "ann") + `","new_password":"gravel mosaic tundra 9"}`},
		{"DELETE", "/auth/sessions/" + login.str("session_id"), ""},
		{"POST", "/auth/extend", `{"connections":["` + c.id + `"]}`},
	}
	attacks := map[string][]string{
		"another page's script":       {foreign, "Sec-Fetch-Site: cross-site", jsonType},
		"a sandboxed frame":           {"Origin: null", "Sec-Fetch-Site: cross-site", jsonType},
		"a sister of the domain":      {"Origin: https://other.example.com", "Sec-Fetch-Site: same-site", jsonType},
		"the same host by plain http": {"Origin: http://rt.example.com", jsonType},
		"no Origin":                   {jsonType},
		"no Origin but a browser":     {"Sec-Fetch-Site: cross-site", jsonType},
		"two Origins":                 {siteOrigin, foreign, jsonType},
		"a form":                      {foreign, "Content-Type: application/x-www-form-urlencoded"},
		"a form as text/plain":        {foreign, "Content-Type: text/plain"},
		"a form without Origin":       {"Content-Type: application/x-www-form-urlencoded"},
		"text/plain without Origin":   {"Content-Type: text/plain"},
		// The right page but what a form can send: the page's own bugs.
		"no JSON from the site":   {siteOrigin, "Content-Type: text/plain"},
		"a form from the site":    {siteOrigin, "Content-Type: application/x-www-form-urlencoded"},
		"two types":               {siteOrigin, "Content-Type: text/plain", jsonType},
		"a type hidden in a type": {siteOrigin, "Content-Type: text/plain; application/json"},
	}
	for what, lines := range attacks {
		for _, target := range targets {
			if target.method == "DELETE" && strings.Contains(strings.Join(lines, ""), siteOrigin) && !strings.Contains(strings.Join(lines, ""), foreign) {
				continue // it has no body, so no type: this one is allowed
			}
			a := s.call(target.method, target.path, target.body, append([]string{siteHost, j.line()}, lines...)...)
			if a.status != 400 && a.status != 403 && a.status != 415 && a.code() != "token_missing" || len(a.header["Set-Cookie"]) > 0 {
				t.Errorf("%s: %s %s: %d %s, %v", what, target.method, target.path, a.status, a.body, a.header["Set-Cookie"])
			}
		}
	}
	for _, path := range []string{"/auth/login", "/auth/token", "/auth/ticket", "/auth/logout", "/auth/password", "/auth/extend", "/auth/revoke"} {
		for _, method := range []string{"GET", "HEAD", "PUT", "DELETE", "PATCH", "TRACE"} {
			a := s.call(method, path, nil, siteHost, siteOrigin, j.line())
			if a.status != 405 || a.header.Get("Allow") != "POST" {
				t.Errorf("%s %s: %d, Allow %q", method, path, a.status, a.header.Get("Allow"))
			}
		}
	}
	// What reads by cookie is read by our own page alone.
	for _, path := range []string{"/auth/session", "/auth/sessions"} {
		for _, lines := range [][]string{{foreign}, {"Origin: null"}, {}, {"Sec-Fetch-Site: cross-site"}, {"Sec-Fetch-Site: same-site"}, {"Sec-Fetch-Site: none"}} {
			s.want(s.call("GET", path, nil, append([]string{siteHost, j.line()}, lines...)...), 403, "origin_denied")
		}
		s.want(s.call("GET", path, nil, siteHost, j.line(), siteOrigin), 200, "")
		s.want(s.call("GET", path, nil, siteHost, j.line(), "Sec-Fetch-Site: same-origin"), 200, "")
	}
	// A bearer token is no ambient credential, but a foreign page that has one stole it.
	s.want(s.call("POST", "/auth/logout", nil, siteHost, foreign, bearer(j.access)), 403, "origin_denied")

	// Nothing of all that changed anything: same session, same connection, same password.
	c.alive()
	if list := s.adminCall("GET", "/v1/sessions?subject=ann", nil).json["items"].([]any); len(list) != 1 {
		t.Errorf("ann has %d sessions", len(list))
	}
	j = take(t, s.call("POST", "/auth/token", map[string]any{"grant_type": "refresh_token", "connection": []string{c.id}}, siteHost, siteOrigin, j.line()))
	s.want(s.call("POST", "/auth/ticket", map[string]any{"path": "/chat"}, siteHost, siteOrigin, j.line()), 200, "")
	s.want(s.call("POST", "/auth/logout", map[string]any{}, siteHost, siteOrigin, j.line()), 200, "")
	c.closes(3000, "logged_out")
}

func TestCOK03CORSAndSecurityHeaders(t *testing.T) {
	s := start(t, newUpstream(t, nil), "origins: [https://rt.example.com, https://app.example.com]\n"+cookieYAML)
	endpoints := [][2]string{
		{"POST", "/auth/login"}, {"POST", "/auth/token"}, {"POST", "/auth/ticket"}, {"POST", "/auth/extend"}, {"POST", "/auth/logout"},
		{"GET", "/auth/session"}, {"GET", "/auth/sessions"}, {"DELETE", "/auth/sessions/x"}, {"POST", "/auth/password"}, {"POST", "/auth/revoke"},
		{"GET", "/auth/openapi.json"}, {"GET", "/.well-known/jwks.json"}, {"GET", "/.well-known/oauth-authorization-server"},
		{"GET", "/healthz"}, {"GET", "/readyz"}, {"GET", "/auth/nothing"}, {"GET", "/auth/"},
	}
	for _, e := range endpoints {
		for _, origin := range []string{"https://evil.example", "null", "https://app.example.com.evil.example", "https://evilapp.example.com", "http://app.example.com", "https://APP.example.com/"} {
			for _, call := range [][]string{{e[0]}, {"OPTIONS", "Access-Control-Request-Method: " + e[0]}} {
				a := s.call(call[0], e[1], nil, append([]string{siteHost, "Origin: " + origin}, call[1:]...)...)
				for name := range a.header {
					if strings.HasPrefix(name, "Access-Control-") {
						t.Errorf("%s %s for %s: %s", call[0], e[1], origin, name)
					}
				}
				if call[0] == "OPTIONS" {
					s.want(a, 403, "origin_denied")
				}
				h := a.header
				if h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Referrer-Policy") != "no-referrer" || !strings.Contains(h.Get("Content-Security-Policy"), "frame-ancestors 'none'") ||
					!strings.Contains(h.Get("Strict-Transport-Security"), "max-age=") || !strings.Contains(strings.Join(h["Vary"], ","), "Origin") {
					t.Errorf("%s %s: %v", call[0], e[1], h)
				}
			}
		}
		for _, origin := range []string{site, "https://app.example.com"} {
			a := s.call(e[0], e[1], nil, siteHost, "Origin: "+origin)
			if a.header.Get("Access-Control-Allow-Origin") != origin || a.header.Get("Access-Control-Allow-Credentials") != "true" {
				t.Errorf("%s %s for %s: %v", e[0], e[1], origin, a.header)
			}
			pre := s.call("OPTIONS", e[1], nil, siteHost, "Origin: "+origin, "Access-Control-Request-Method: "+e[0], "Access-Control-Request-Headers: content-type")
			if pre.status != 204 || pre.header.Get("Access-Control-Allow-Origin") != origin || strings.Contains(pre.header.Get("Access-Control-Allow-Headers"), "*") {
				t.Errorf("preflight of %s %s: %d %v", e[0], e[1], pre.status, pre.header)
			}
		}
	}
}

// What is at or below our own paths is ours, also where nothing is: a route for
// everything does not get it, and nobody is redirected.
func TestOwnPathsReachNoUpstream(t *testing.T) {
	up := newUpstream(t, nil)
	s := start(t, up, "issuer: {}\nroutes: [{path: \"/{path...}\", upstream: \"ws://UPSTREAM\"}]\n")
	s.addUser("ann", "chat")
	token := s.login("ann").str("access_token")
	for _, path := range []string{"/auth", "/auth/", "/auth/login/", "/auth/nothing", "/auth/sessions/a/b", "/.well-known/jwks.json/", "/.well-known/x", "/healthz/", "/readyz/x"} {
		if _, a := s.handshake(path, bearer(token)); a.status != 404 {
			t.Errorf("%s: %d %s", path, a.status, a.header.Get("Location"))
		}
	}
	for _, path := range []string{"/auth/../auth/login", "/auth//login", "/auth/%2e%2e/x", "/auth%2flogin", "//auth/login"} {
		if _, a := s.handshake(path, bearer(token)); a.status != 400 && a.status != 404 {
			t.Errorf("%s: %d %s", path, a.status, a.header.Get("Location"))
		}
	}
	if up.count() != 0 {
		t.Errorf("%d of our own paths reached the upstream", up.count())
	}
	s.connect("/authentic", bearer(token)).alive()
}
