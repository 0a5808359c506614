package authapi_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/audit"
	"github.com/wsbouncer/wsbouncer/internal/authapi"
	"github.com/wsbouncer/wsbouncer/token"
)

func TestSES08LogoutClosesOnlyItsConnections(t *testing.T) {
	r := newRig(t, setup{})
	access, refresh, _ := r.cookieLogin()
	other := r.login(anns, secret)
	mine := []*socket{r.dial(access.Value), r.dial(access.Value)}
	theirs := r.dial(other.str("access_token"))
	a := r.want(r.do("POST", "/auth/logout", map[string]any{}, origin(page), cookies(access, refresh)), 200, "")
	if a.json["closed"] != 2.0 {
		t.Errorf("closed %v", a.json["closed"])
	}
	for _, s := range mine {
		s.closes(3000, "logged_out")
	}
	theirs.ping()
	r.want(r.do("GET", "/auth/session", nil, origin(page), cookies(access)), 401, "token_revoked")
	e := r.events(audit.SessionEnded)
	e = append(e, r.events(audit.Logout)...)
	if len(e) != 1 || e[0].Subject != anns || e[0].Origin != page || e[0].UserAgent != "rig/1" || !e[0].IP.IsLoopback() {
		t.Errorf("audit: %+v", e)
	}
}

func TestLogoutEverywhere(t *testing.T) {
	r := newRig(t, setup{})
	r.addUser("bob", "copper kettles whistle low", "chat")
	a, b := r.login(anns, secret), r.login(anns, secret)
	sockets := []*socket{r.dial(a.str("access_token")), r.dial(b.str("access_token"))}
	bob := r.dial(r.login("bob", "copper kettles whistle low").str("access_token"))
	r.want(r.do("POST", "/auth/logout", map[string]any{"everywhere": true}, bearer(a.str("access_token"))), 200, "")
	for _, s := range sockets {
		s.closes(3000, "logged_out")
	}
	r.want(r.refresh(b.str("refresh_token")), 400, "invalid_grant")
	bob.ping()
	// A new login is not caught by it.
	r.dial(r.login(anns, secret).str("access_token"))
}

func TestLogoutByRefreshCookieAlone(t *testing.T) {
	// The access cookie is gone after its five minutes.
	r := newRig(t, setup{})
	access, refresh, _ := r.cookieLogin()
	s := r.dial(access.Value)
	r.want(r.do("POST", "/auth/logout", map[string]any{}, cookies(refresh)), 403, "origin_denied")
	r.want(r.do("POST", "/auth/logout", map[string]any{"everywhere": true}, origin(page), cookies(refresh)), 401, "token_missing")
	r.want(r.do("POST", "/auth/logout", "{}", origin(page), cookies(refresh), header("Content-Type", "text/plain")), 415, "unsupported_media_type")
	s.ping()
	a := r.want(r.do("POST", "/auth/logout", map[string]any{}, origin(page), cookies(refresh)), 200, "")
	s.closes(3000, "logged_out")
	if a.json["closed"] != 1.0 || len(a.setter) != 2 {
		t.Errorf("answer: %v %s", a.header, a.body)
	}
	r.want(r.do("POST", "/auth/logout", map[string]any{}, origin(page)), 401, "token_missing")
	a = r.want(r.do("POST", "/auth/logout", map[string]any{}, origin(page), cookies(access)), 401, "token_revoked")
	if len(a.setter) != 2 {
		t.Errorf("useless cookies stay: %v", a.header)
	}
}

func TestLogoutOfATokenWithoutSession(t *testing.T) {
	r := newRig(t, setup{})
	one, err := r.sessions.Mint(t.Context(), anns, []string{"chat"}, time.Minute, "admin")
	if err != nil {
		t.Fatal(err)
	}
	two, err := r.sessions.Mint(t.Context(), anns, []string{"chat"}, time.Minute, "admin")
	if err != nil {
		t.Fatal(err)
	}
	s, other := r.dial(one), r.dial(two)
	r.want(r.do("POST", "/auth/logout", nil, bearer(one)), 200, "")
	s.closes(3000, "logged_out")
	other.ping()
}

func TestAUT01Challenges(t *testing.T) {
	r := newRig(t, setup{})
	for _, path := range []string{"/auth/session", "/auth/sessions"} {
		if got := r.want(r.do("GET", path, nil), 401, "token_missing").header.Get("WWW-Authenticate"); got != "Bearer" {
			t.Errorf("%s without a credential: %q", path, got)
		}
		if got := r.want(r.do("GET", path, nil, bearer("rubbish")), 401, "token_malformed").header.Get("WWW-Authenticate"); got != `Bearer error="invalid_token"` {
			t.Errorf("%s with rubbish: %q", path, got)
		}
		r.want(r.do("GET", path, nil, header("Authorization", "Basic eDp5")), 401, "token_missing")
		r.want(r.do("GET", path, nil, header("Authorization", "Bearer ")), 401, "token_malformed")
	}
}

func TestAUT02CredentialsAreNeverMerged(t *testing.T) {
	r := newRig(t, setup{})
	r.addUser("bob", "copper kettles whistle low", "chat")
	bob := r.login("bob", "copper kettles whistle low").str("access_token")
	access, refresh, _ := r.cookieLogin()
	two := header("Authorization", "Bearer "+bob, "Bearer "+access.Value)
	for _, call := range [][2]string{{"GET", "/auth/session"}, {"GET", "/auth/sessions"}, {"POST", "/auth/logout"}, {"POST", "/auth/ticket"}, {"POST", "/auth/extend"}, {"POST", "/auth/password"}, {"DELETE", "/auth/sessions/x"}} {
		r.want(r.do(call[0], call[1], nil, two), 400, "credential_ambiguous")
	}
	// A cookie twice: somebody planted one.
	r.want(r.do("GET", "/auth/session", nil, origin(page), cookies(access, access)), 400, "credential_ambiguous")
	r.want(r.do("POST", "/auth/logout", map[string]any{}, origin(page), cookies(refresh, refresh)), 400, "credential_ambiguous")
	// A cookie beside a Bearer token is ignored, also when that token is bad.
	a := r.want(r.do("GET", "/auth/session", nil, bearer(bob), cookies(access)), 200, "")
	if a.str("subject") != "bob" {
		t.Errorf("subject %q", a.str("subject"))
	}
	r.want(r.do("GET", "/auth/session", nil, bearer("rubbish"), cookies(access), origin(page)), 401, "token_malformed")
	r.want(r.do("POST", "/auth/logout", nil, bearer(bob), cookies(access, refresh)), 200, "")
	r.want(r.do("GET", "/auth/session", nil, cookies(access), origin(page)), 200, "")
}

func TestSessionSaysWhoIAm(t *testing.T) {
	r := newRig(t, setup{foreign: foreignIssuer(t)})
	access, _, login := r.cookieLogin()
	a := r.want(r.do("GET", "/auth/session", nil, origin(page), cookies(access)), 200, "")
	if a.str("subject") != anns || a.str("session_id") != login.str("session_id") || a.str("scope") != "chat chat:write" || a.str("issuer") != r.issuer {
		t.Errorf("answer: %s", a.body)
	}
	if in := a.json["expires_in"].(float64); in < 290 || in > 300 {
		t.Errorf("expires_in %v", in)
	}
	// Our own page's GET carries no Origin, but the browser's word.
	r.want(r.do("GET", "/auth/session", nil, cookies(access), header("Sec-Fetch-Site", "same-origin")), 200, "")
	r.want(r.do("GET", "/auth/session", nil, cookies(access)), 403, "origin_denied")
	r.want(r.do("GET", "/auth/session", nil, cookies(access), header("Sec-Fetch-Site", "cross-site")), 403, "origin_denied")
	r.want(r.do("GET", "/auth/session", nil, cookies(access), header("Sec-Fetch-Site", "same-origin", "same-origin")), 403, "origin_denied")
	r.want(r.do("GET", "/auth/session", nil, cookies(access), origin("null")), 403, "origin_denied")

	foreign := r.want(r.do("GET", "/auth/session", nil, bearer(foreignToken(t, time.Minute))), 200, "")
	if foreign.str("subject") != "zoe" || foreign.str("issuer") != "https://tenant.example" {
		t.Errorf("foreign: %s", foreign.body)
	}
	for _, call := range [][2]string{{"GET", "/auth/sessions"}, {"POST", "/auth/logout"}, {"POST", "/auth/password"}, {"DELETE", "/auth/sessions/x"}} {
		r.want(r.do(call[0], call[1], nil, bearer(foreignToken(t, time.Minute))), 403, "not_allowed")
	}
}

func TestSES18SessionsAreListedAndEnded(t *testing.T) {
	r := newRig(t, setup{})
	r.addUser("bob", "copper kettles whistle low", "chat")
	a, b := r.login(anns, secret), r.login(anns, secret)
	bob := r.login("bob", "copper kettles whistle low")
	s, bobs := r.dial(b.str("access_token")), r.dial(bob.str("access_token"))
	auth := bearer(a.str("access_token"))
	list := r.want(r.do("GET", "/auth/sessions", nil, auth), 200, "").json["sessions"].([]any)
	if len(list) != 2 {
		t.Fatalf("sessions: %v", list)
	}
	for _, item := range list {
		m := item.(map[string]any)
		if m["current"] != (m["id"] == a.str("session_id")) || m["user_agent"] != "rig/1" || m["ip"] == "" || m["method"] != "password" {
			t.Errorf("device: %v", m)
		}
	}
	r.want(r.do("DELETE", "/auth/sessions/"+bob.str("session_id"), nil, auth), 404, "not_found")
	r.want(r.do("DELETE", "/auth/sessions/unknown", nil, auth), 404, "not_found")
	r.want(r.do("DELETE", "/auth/sessions/"+strings.Repeat("x", 300), nil, auth), 404, "not_found")
	bobs.ping()
	if got := r.want(r.do("DELETE", "/auth/sessions/"+b.str("session_id"), nil, auth), 200, ""); got.json["closed"] != 1.0 {
		t.Errorf("answer: %s", got.body)
	}
	s.closes(3000, "logged_out")
	r.want(r.do("DELETE", "/auth/sessions/"+b.str("session_id"), nil, auth), 404, "not_found")

	// Ending the one that asks takes its cookies.
	access, _, login := r.cookieLogin()
	r.want(r.do("DELETE", "/auth/sessions/"+login.str("session_id"), nil, cookies(access)), 403, "origin_denied")
	if got := r.want(r.do("DELETE", "/auth/sessions/"+login.str("session_id"), nil, cookies(access), origin(page)), 200, ""); len(got.setter) != 2 {
		t.Errorf("cookies stay: %v", got.header)
	}
}

// stateChanging are the calls that change something, with a good body.
func stateChanging(a *answer) map[string]any {
	return map[string]any{
		"/auth/login":    map[string]any{"username": anns, "password": secret, "cookie": true},
		"/auth/token":    map[string]any{"grant_type": "refresh_token"},
		"/auth/ticket":   lobby,
		"/auth/extend":   map[string]any{"connections": []string{"x"}},
		"/auth/logout":   map[string]any{"everywhere": true},
		"/auth/password": map[string]any{"current_password": secret, "new_password": "eleven brass lanterns ashore"},
		"/auth/revoke":   "token=" + a.str("refresh_token"),
	}
}

func TestORG08CrossSiteRequestsChangeNothing(t *testing.T) {
	r := newRig(t, setup{})
	access, refresh, _ := r.cookieLogin()
	victim := r.login(anns, secret)
	s := r.dial(access.Value)
	both := cookies(access, refresh)
	before := len(r.events(audit.LoginOK))
	for path, body := range stateChanging(victim) {
		raw, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		if text, ok := body.(string); ok {
			raw = []byte(text)
		}
		for _, media := range []string{"text/plain", formType, "multipart/form-data; boundary=x", "application/json"} {
			for _, foreign := range []with{origin(evil), origin("null"), origin(page + ".evil.example"), header("Sec-Fetch-Site", "cross-site"), header("Sec-Fetch-Site", "same-site")} {
				r.want(r.do("POST", path, string(raw), header("Content-Type", media), foreign, both), 403, "origin_denied")
			}
		}
		if got := r.do("GET", path, nil, both, origin(evil)); got.status != 405 || got.header.Get("Allow") != "POST" {
			t.Errorf("GET %s: %d %v", path, got.status, got.header)
		}
	}
	r.want(r.do("DELETE", "/auth/sessions/"+victim.str("session_id"), nil, origin(evil), bearer(access.Value)), 403, "origin_denied")
	if n := len(r.events(audit.LoginOK)); n != before {
		t.Errorf("%d logins", n-before)
	}
	s.ping()
	r.want(r.refresh(victim.str("refresh_token")), 200, "")
	r.want(r.do("POST", "/auth/token", map[string]any{"grant_type": "refresh_token"}, origin(page), both), 200, "")
}

func TestCOK03CORSIsExact(t *testing.T) {
	r := newRig(t, setup{})
	access, _, _ := r.cookieLogin()
	for path, item := range r.doc.Paths {
		if path == "/auth/verify" {
			continue // no page calls it: see TestVerifyNamesTheHolder
		}
		path = strings.Replace(path, "{id}", "x", 1)
		for _, foreign := range []string{evil, "null", page + ".evil.example", strings.Replace(page, "https", "http", 1), page + "/", page + ":8443"} {
			for _, method := range []string{"GET", "POST", "DELETE"} {
				if item[strings.ToLower(method)] == nil {
					continue
				}
				a := r.do(method, path, nil, origin(foreign), cookies(access))
				if a.header.Get("Access-Control-Allow-Origin") != "" || a.header.Get("Access-Control-Allow-Credentials") != "" {
					t.Errorf("%s %s from %s: %v", method, path, foreign, a.header)
				}
			}
			a := r.do("OPTIONS", path, nil, origin(foreign), header("Access-Control-Request-Method", "POST"))
			if a.status != 403 || a.header.Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("preflight %s from %s: %d %v", path, foreign, a.status, a.header)
			}
		}
		a := r.do("OPTIONS", path, nil, origin(page), header("Access-Control-Request-Method", "POST"))
		if a.status != 204 || a.header.Get("Access-Control-Allow-Origin") != page || a.header.Get("Access-Control-Allow-Credentials") != "true" {
			t.Errorf("preflight %s: %d %v", path, a.status, a.header)
		}
	}
}

func TestAnyOriginMeansNoCookies(t *testing.T) {
	r := newRig(t, setup{origins: []string{"*"}})
	a := r.want(r.do("POST", "/auth/login", map[string]any{"username": anns, "password": secret}, origin(evil)), 200, "")
	if a.header.Get("Access-Control-Allow-Origin") != "*" || a.header.Get("Access-Control-Allow-Credentials") != "" {
		t.Errorf("CORS: %v", a.header)
	}
	body := map[string]any{"username": anns, "password": secret, "cookie": true}
	r.want(r.do("POST", "/auth/login", body, origin(page)), 403, "origin_denied")
	cookie := &http.Cookie{Name: r.cookies.AccessName, Value: a.str("access_token")}
	r.want(r.do("GET", "/auth/session", nil, origin(page), cookies(cookie)), 403, "origin_denied")
	refresh := &http.Cookie{Name: r.cookies.RefreshName, Value: a.str("refresh_token")}
	r.want(r.do("POST", "/auth/token", map[string]any{"grant_type": "refresh_token"}, origin(page), cookies(refresh)), 403, "origin_denied")
}

func TestPublishedKeysVerifyOurTokens(t *testing.T) {
	r := newRig(t, setup{})
	a := r.want(r.do("GET", "/.well-known/jwks.json", nil), 200, "")
	keys, err := token.JWKS(a.body, []string{"EdDSA"})
	if err != nil {
		t.Fatal(err)
	}
	v, err := token.NewVerifier(token.Options{Issuers: []token.Issuer{{
		Name: r.issuer, Audience: "wsbouncer", Algorithms: []string{"EdDSA"}, Keys: keys, ScopeClaim: "scope", MaxLifetime: time.Hour,
	}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Verify(t.Context(), r.login(anns, secret).str("access_token")); err != nil {
		t.Error(err)
	}
	if strings.Contains(string(a.body), `"d"`) {
		t.Errorf("a private key is published: %s", a.body)
	}
	if got := r.do("HEAD", "/.well-known/jwks.json", nil); got.status != 200 || len(got.body) != 0 {
		t.Errorf("HEAD: %d", got.status)
	}
}

func TestMetadataNamesOnlyWhatExists(t *testing.T) {
	r := newRig(t, setup{})
	a := r.want(r.do("GET", "/.well-known/oauth-authorization-server", nil), 200, "")
	if a.str("issuer") != r.issuer {
		t.Errorf("issuer %q", a.str("issuer"))
	}
	for _, name := range []string{"token_endpoint", "revocation_endpoint", "jwks_uri", "service_documentation"} {
		path, ok := strings.CutPrefix(a.str(name), "https://rt.example.com")
		if !ok {
			t.Errorf("%s is %q", name, a.str(name))
		}
		if got := r.do("GET", path, nil); got.status != 200 && got.status != 405 {
			t.Errorf("%s: %d", path, got.status)
		}
	}
	if _, there := a.json["authorization_endpoint"]; there {
		t.Error("there is no authorization endpoint")
	}
}

func TestReadyAndHealth(t *testing.T) {
	down := errors.New("the database at /secret/path is gone")
	r := newRig(t, setup{api: func(o *authapi.Options) { o.Ready = func(context.Context) error { return down } }})
	r.want(r.do("GET", "/healthz", nil), 200, "")
	a := r.want(r.do("GET", "/readyz", nil), 503, "not_ready")
	if a.header.Get("Retry-After") == "" || strings.Contains(string(a.body), "secret") {
		t.Errorf("answer: %v %s", a.header, a.body)
	}
	r.want(r.do("GET", "/auth/nothing", nil), 404, "no_route")
	r.want(r.do("GET", "/auth/", nil), 404, "no_route")
}

// Whatever changes something waits for the database's one writer, where
// revocations wait too: how many of one address are there at once is bounded.
func TestChangesAtOnceAreBoundedByAddress(t *testing.T) {
	r := newRig(t, setup{})
	wrong := map[string]any{"username": anns, "password": "not the password"}
	// Calls whose bodies do not come are inside until they are given up.
	var inside []net.Conn
	for range 256 {
		c, err := net.Dial("tcp", r.server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprintf(c, "POST /auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n")
		if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || !strings.Contains(line, "100") {
			t.Fatalf("%q, %v", line, err) // the handler asks for the body: it is inside
		}
		inside = append(inside, c)
	}
	a := r.want(r.do("POST", "/auth/login", wrong), 503, "overloaded")
	if a.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	r.want(r.do("GET", "/healthz", nil), 200, "")
	for _, c := range inside {
		c.Close()
	}
	for deadline := time.Now().Add(waitFor); ; {
		a := r.do("POST", "/auth/login", wrong)
		if a.status == 401 {
			break
		}
		if a.status != 503 || time.Now().After(deadline) {
			t.Fatalf("with room again: %d", a.status)
		}
	}
}
