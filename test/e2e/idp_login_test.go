package e2e_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

func TestOAU01AuthorizationCodeWithPKCE(t *testing.T) {
	p := newIDP(t)
	s := start(t, newUpstream(t, nil), idpYAML(p, ""), idpFiles)
	b := s.browser()
	first, _ := url.Parse(b.begin("corp"))
	second, _ := url.Parse(b.begin("corp"))
	for name, want := range map[string]string{"response_type": "code", "client_id": "gw", "code_challenge_method": "S256", "scope": "openid", "redirect_uri": s.url + "/auth/callback/corp"} {
		if got := first.Query().Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	for _, name := range []string{"state", "nonce", "code_challenge"} {
		if a, b := first.Query().Get(name), second.Query().Get(name); a == b || len(a) < 43 {
			t.Errorf("%s: %q and %q", name, a, b)
		}
	}
	token := b.in(b.login(p, "corp"))
	claims := claimsOf(t, token)
	sub, _ := claims["sub"].(string)
	if !strings.HasPrefix(sub, "ID-") || strings.Contains(sub, "ann") {
		t.Errorf("the subject is %q", sub)
	}
	got, _ := json.Marshal([]any{claims["scope"], claims["amr"], claims["acr"], claims["rooms"], claims["from"], claims["absent"]})
	if want := `["chat",["pwd","otp"],"mfa",["lobby"],"corp",null]`; string(got) != want {
		t.Errorf("claims %s, want %s", got, want)
	}
	if at, _ := claims["auth_time"].(float64); time.Since(time.Unix(int64(at), 0)) < 30*time.Second {
		t.Errorf("auth_time %v is not the provider's", claims["auth_time"])
	}
	s.connect("/chat", bearer(token)).alive()

	other := s.browser()
	if again := claimsOf(t, other.in(other.login(p, "corp"))); again["sub"] != sub || again["sid"] == claims["sid"] {
		t.Errorf("a second login is of %v, session %v", again["sub"], again["sid"])
	}
	p.change(func() { p.bend = func(c map[string]any) { c["sub"], c["groups"] = "bob", []string{"staff", "ops"} } })
	other = s.browser()
	if bob := claimsOf(t, other.in(other.login(p, "corp"))); bob["sub"] == sub || bob["scope"] != "chat ops" {
		t.Errorf("another user: %v", bob)
	}
	for _, body := range []string{"grant_type=password&username=ann&password=x", "grant_type=implicit"} {
		if a := s.call("POST", "/auth/token", body, "Content-Type: application/x-www-form-urlencoded"); a.status != 400 || a.code() != "unsupported_grant_type" {
			t.Errorf("%s: %d %s", body, a.status, a.body)
		}
	}
}

func TestOAU02StateIsOfOneBrowserAndOnce(t *testing.T) {
	p := newIDP(t)
	s := start(t, newUpstream(t, nil), idpYAML(p, ""), idpFiles)

	b := s.browser()
	if a := b.get("/auth/login/corp"); a.cookie(loginCookie) == nil || !a.cookie(loginCookie).HttpOnly || a.cookie(loginCookie).SameSite != http.SameSiteLaxMode || a.cookie(loginCookie).MaxAge != 600 {
		t.Errorf("the cookie: %v", a.header["Set-Cookie"])
	}
	target, query := p.authorize(b.begin("corp"))
	without := url.Values{"code": query["code"], "iss": query["iss"]}
	b.out(b.get(target+"?"+without.Encode()), 400, "login_state")
	altered := url.Values{"code": query["code"], "iss": query["iss"], "state": {query.Get("state")[:40] + "A" + query.Get("state")[41:]}}
	if altered.Get("state") != query.Get("state") {
		b.out(b.get(target+"?"+altered.Encode()), 400, "login_state")
	}
	// The attacker's own login, completed in the victim's browser: with no cookie, and with one.
	victim := s.browser()
	victim.out(victim.get(target+"?"+query.Encode()), 400, "login_state")
	victim.begin("corp")
	victim.out(victim.get(target+"?"+query.Encode()), 400, "login_state")
	if len(p.tokens) != 0 {
		t.Errorf("the provider was asked: %v", p.tokens)
	}
	// A cookie planted beside the browser's own: whose is it?
	both := s.call("GET", target+"?"+query.Encode(), nil, "Cookie: "+loginCookie+"="+b.jar[loginCookie]+"; "+loginCookie+"=x")
	s.browser().out(both, 400, "login_state")
	if a := b.get(target + "?" + query.Encode() + "&state=x"); a.status != 400 {
		t.Errorf("two states: %d", a.status)
	}
	b.in(b.get(target + "?" + query.Encode()))

	// The same callback again, by the same browser.
	again := s.browser()
	again.jar[loginCookie] = b.jar[loginCookie]
	again.out(again.get(target+"?"+query.Encode()), 400, "login_state")
	s.audited("login_failed")

	// Two tabs at once.
	tabs := s.browser()
	one, two := tabs.begin("corp"), tabs.begin("corp")
	for _, location := range []string{two, one} {
		target, query := p.authorize(location)
		tabs.in(tabs.get(target + "?" + query.Encode()))
	}
	if a := b.get("/auth/callback/corp"); a.status != 400 {
		t.Errorf("an empty callback: %d", a.status)
	}
	if a := s.call("GET", "/auth/callback/corp", nil, "Accept: application/json"); a.status != 400 || a.code() != "login_state" || a.header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("as JSON: %d %s", a.status, a.body)
	}
}

func TestOAU03LiesOfAProvider(t *testing.T) {
	p := newIDP(t)
	s := start(t, newUpstream(t, nil), idpYAML(p, ""), idpFiles)
	foreign, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	set := func(name string, v any) func(map[string]any) { return func(c map[string]any) { c[name] = v } }
	drop := func(name string) func(map[string]any) { return func(c map[string]any) { delete(c, name) } }
	now := time.Now()
	for name, bend := range map[string]func(map[string]any){
		"wrong nonce": set("nonce", "x"), "no nonce": drop("nonce"), "nonce null": set("nonce", nil),
		"wrong aud": set("aud", "other"), "no aud": drop("aud"), "two aud, no azp": set("aud", []string{"gw", "other"}),
		"azp of another": set("azp", "other"), "azp of another type": set("azp", []string{"gw"}),
		"wrong iss": set("iss", "https://evil.example"), "no iss": drop("iss"), "iss with a slash": set("iss", p.url+"/"),
		"expired": set("exp", now.Add(-time.Second).Unix()), "no exp": drop("exp"),
		"iat long ago": set("iat", now.Add(-time.Hour).Unix()), "iat to come": set("iat", now.Add(time.Hour).Unix()), "no iat": drop("iat"),
		"nbf to come":   set("nbf", now.Add(time.Hour).Unix()),
		"wrong at_hash": set("at_hash", "AAAAAAAAAAAAAAAAAAAAAA"), "empty at_hash": set("at_hash", ""),
		"no sub": drop("sub"), "empty sub": set("sub", ""), "sub a number": set("sub", 5), "sub too long": set("sub", strings.Repeat("x", 256)),
		"SUB beside sub": set("SUB", "admin"), "sid an object": set("sid", map[string]any{}),
	} {
		p.change(func() { p.bend = bend })
		b := s.browser()
		if b.out(b.login(p, "corp"), 502, "login_provider_failed"); t.Failed() {
			t.Fatal(name)
		}
	}
	p.change(func() { p.bend = nil })
	b64 := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	for name, sign := range map[string]func([]byte) string{
		"unsigned":    func(b []byte) string { return b64(`{"alg":"none","kid":"1"}`) + "." + b64(string(b)) + "." },
		"foreign key": func(b []byte) string { return p.signed(foreign, b) },
		"by its own secret": func(b []byte) string {
			return signedBy(t, jose.SigningKey{Algorithm: jose.HS256, Key: []byte(idpSecret + strings.Repeat("x", 32))}, b)
		},
		"another payload": func(b []byte) string {
			s := strings.Split(p.signed(p.key, b), ".")
			return s[0] + "." + b64(strings.Replace(string(b), `"ann"`, `"eve"`, 1)) + "." + s[2]
		},
		"sub twice": func(b []byte) string {
			return p.signed(p.key, []byte(strings.Replace(string(b), "{", `{"sub":"eve",`, 1)))
		},
		"no JSON":            func([]byte) string { return p.signed(p.key, []byte("hello")) },
		"no JWT":             func([]byte) string { return "hello" },
		"no ID token at all": func([]byte) string { return "" },
		"huge": func(b []byte) string {
			return p.signed(p.key, []byte(strings.Replace(string(b), "{", `{"x":"`+strings.Repeat("x", 100_000)+`",`, 1)))
		},
	} {
		p.change(func() { p.sign = sign })
		b := s.browser()
		if b.out(b.login(p, "corp"), 502, "login_provider_failed"); t.Failed() {
			t.Fatal(name)
		}
	}
	p.change(func() { p.sign = nil })
	// Who may come in is the operator's to say, and a claim that is not there says no.
	for name, bend := range map[string]func(map[string]any){"another group": set("groups", []string{"guests"}), "no groups": drop("groups"), "groups a number": set("groups", 1)} {
		p.change(func() { p.bend = bend })
		b := s.browser()
		if b.out(b.login(p, "corp"), 403, "login_denied"); t.Failed() {
			t.Fatal(name)
		}
	}
	if out := s.cli("session", "list", "--json"); strings.Contains(out, "ID-") {
		t.Errorf("sessions: %s", out)
	}
	s.audited("ID token: nonce")
	p.change(func() { p.bend = nil })
	b := s.browser()
	b.in(b.login(p, "corp"))
}

// audited waits for the audit trail to hold text.
func (s *server) audited(text string) {
	s.t.Helper()
	eventually(s.t, "an audit event with "+text, func() bool { return strings.Contains(s.cli("audit", "list", "--json", "--limit", "1000"), text) })
}

func TestOAU04MixUp(t *testing.T) {
	a, b := newIDP(t), newIDP(t)
	b.issues = false
	s := start(t, newUpstream(t, nil), idpYAML(a, `
    - {name: other, issuer: "`+b.url+`", client_id: gw, client_secret_file: idp.txt, allow: 'true', default_scopes: [chat]}
`), idpFiles)
	w := s.browser()
	target, query := a.authorize(w.begin("corp"))
	for name, iss := range map[string][]string{"absent": nil, "another's": {b.url}, "empty": {""}, "twice": {a.url, a.url}, "with a slash": {a.url + "/"}} {
		target, query := a.authorize(w.begin("corp"))
		query["iss"] = iss
		if w.out(w.get(target+"?"+query.Encode()), 400, "login_response"); t.Failed() {
			t.Fatal(name)
		}
	}
	// B's answer at A's redirect URI, and A's at B's.
	_, queryB := b.authorize(w.begin("other"))
	w.out(w.get(target+"?"+queryB.Encode()), 400, "login_state")
	w.out(w.get("/auth/callback/other?"+query.Encode()), 400, "login_state")
	// A's login with a code that B gave.
	query.Set("code", queryB.Get("code"))
	w.out(w.get(target+"?"+query.Encode()), 502, "login_provider_failed")
	if len(b.tokens) != 0 {
		t.Errorf("B's token endpoint got %v", b.tokens)
	}
	// B does not say who it is, and need not.
	w.in(w.login(b, "other"))
	_, queryB = b.authorize(w.begin("other"))
	queryB.Set("iss", a.url)
	if x := w.get("/auth/callback/other?" + queryB.Encode()); x.status != 400 {
		t.Errorf("B, in A's name: %d", x.status)
	}
}

func TestOAU05NoOpenRedirect(t *testing.T) {
	p := newIDP(t)
	s := start(t, newUpstream(t, nil), "origins: [\"http://ADDR\", https://app.example.com]\n"+idpYAML(p, ""), idpFiles)
	for _, bad := range []string{
		"//evil.example", `/\evil.example`, `\\evil.example`, `/\/evil.example`, "///evil.example", "https:evil.example", "https:/evil.example", "https:///evil.example",
		"https://evil.example", "https://app.example.com.evil.example", "https://app.example.com@evil.example", "https://app.example.com:443@evil.example/",
		"https://app.example.com%2eevil.example", "https://app.example.com%40evil.example", "https://app.example.com\\@evil.example", "https://app.example.com:8443/",
		"http://app.example.com", "HTTPS://app.example.com", "javascript:alert(1)", "javascript://app.example.com/%0aalert(1)", "data:text/html,x", "ftp://app.example.com/",
		"\t//evil.example", "/\t/evil.example", "/\n/evil.example", " //evil.example", "https://app.example.com\n.evil.example", "evil.example", "?x", "#x", ".", "..//evil.example",
		"https://app.example.com/\r\nSet-Cookie: a=b", "https://аpp.example.com/", "/" + strings.Repeat("x", 2000), "https://[::1", "https://app.example.com/%zz",
	} {
		a := s.call("GET", "/auth/login/corp?return_to="+url.QueryEscape(bad), nil)
		if a.status != 400 || !strings.Contains(string(a.body), "return_to_denied") || a.header.Get("Location") != "" {
			t.Errorf("%q: %d %v", bad, a.status, a.header)
		}
	}
	for good, want := range map[string]string{
		"":                          s.url + "/",
		"/":                         s.url + "/",
		"/a/b?c=d#e":                s.url + "/a/b?c=d#e",
		"/%09/evil.example":         s.url + "/%09/evil.example",
		"/%2f%2fevil.example":       s.url + "/%2f%2fevil.example",
		"/@evil.example":            s.url + "/@evil.example",
		"https://app.example.com":   "https://app.example.com",
		"https://app.example.com/x": "https://app.example.com/x",
		"https://app.example.com/?next=https://evil.example": "https://app.example.com/?next=https://evil.example",
	} {
		b := s.browser()
		a := b.get("/auth/login/corp?return_to=" + url.QueryEscape(good))
		target, query := p.authorize(a.header.Get("Location"))
		a = b.get(target + "?" + query.Encode())
		if b.in(a); a.header.Get("Location") != want {
			t.Errorf("%q leads to %q, want %q", good, a.header.Get("Location"), want)
		}
	}
	if a := s.call("GET", "/auth/login/corp?return_to=/a&return_to=/b", nil); a.status != 400 {
		t.Errorf("two: %d", a.status)
	}
	if a := s.call("GET", "/auth/login/nobody", nil); a.status != 404 {
		t.Errorf("nobody's: %d", a.status)
	}
}

func TestOAU06NoTokenReachesTheBrowser(t *testing.T) {
	p := newIDP(t)
	up := newUpstream(t, nil)
	s := start(t, up, idpYAML(p, ""), idpFiles)
	b := s.browser()
	location := b.begin("corp")
	target, query := p.authorize(location)
	a := b.get(target + "?" + query.Encode())
	ours := b.in(a)
	all := location + string(a.body) + a.header.Get("Location") + fmt.Sprint(a.header)
	for _, there := range []string{"access-token-of-the-provider", "refresh-token-of-the-provider", query.Get("code")} {
		if strings.Contains(all, there) {
			t.Errorf("%.30s… reached the browser", there)
		}
	}
	if strings.Count(strings.ReplaceAll(all, ours, ""), "eyJ") > 0 {
		t.Errorf("a JWT that is not ours: %s", all)
	}
	// Nor does the browser's own cookie reach an upstream.
	s.connect("/chat", bearer(ours), "Cookie: a=b; "+loginCookie+"="+b.jar[loginCookie]).alive()
	if head := up.last().head; strings.Contains(head, loginCookie) || !strings.Contains(head, "a=b") {
		t.Errorf("the upstream got %s", head)
	}
	if len(a.body) != 0 || strings.Contains(a.header.Get("Location"), "?") {
		t.Errorf("%q %q", a.body, a.header.Get("Location"))
	}
}

func TestOAU07CodesOnceAndErrorsEscaped(t *testing.T) {
	p := newIDP(t)
	s := start(t, newUpstream(t, nil), idpYAML(p, ""), idpFiles)
	b := s.browser()
	target, query := p.authorize(b.begin("corp"))
	b.in(b.get(target + "?" + query.Encode()))
	if b.jar = map[string]string{loginCookie: b.jar[loginCookie]}; true {
		b.out(b.get(target+"?"+query.Encode()), 400, "login_state")
	}
	// A code used twice, by another login of the same browser.
	_, again := p.authorize(b.begin("corp"))
	again.Set("code", query.Get("code"))
	b.out(b.get(target+"?"+again.Encode()), 502, "login_provider_failed")

	_, query = p.authorize(b.begin("corp"))
	query.Del("code")
	query.Set("error", "<script>alert(1)</script>")
	query.Set("error_description", `"><img src=x onerror=alert(2)>`)
	a := b.get(target + "?" + query.Encode())
	b.out(a, 403, "login_refused")
	if body := string(a.body); strings.Contains(body, "<script") || strings.Contains(body, "<img") || !strings.Contains(body, "&lt;script&gt;") {
		t.Errorf("the page: %s", body)
	}
	// Without a state that is ours nothing of it is shown at all.
	a = b.get(target + "?error=hello")
	if b.out(a, 400, "login_state"); strings.Contains(string(a.body), "hello") {
		t.Errorf("the page: %s", a.body)
	}
	_, query = p.authorize(b.begin("corp"))
	query.Del("code")
	b.out(b.get(target+"?"+query.Encode()), 400, "login_response")
}

// A provider that is down, slow, endless or odd fails its own logins, and soon.
func TestOAU03ProviderInTrouble(t *testing.T) {
	p, well := newIDP(t), newIDP(t)
	s := start(t, newUpstream(t, nil), idpYAML(p, `
    - {name: well, issuer: "`+well.url+`", client_id: gw, client_secret_file: idp.txt, allow: 'true', default_scopes: [chat]}
`), idpFiles)
	endless := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"issuer":"`)
		for range 1 << 12 {
			if _, err := w.Write(make([]byte, 1<<12)); err != nil {
				return
			}
		}
	}
	trouble := map[string]http.HandlerFunc{
		"500":     func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) },
		"HTML":    func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>hello") },
		"endless": endless,
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
		},
		"cut off": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, `{"issuer"`)
		},
		"error": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"error":"server_error","error_description":"access-token-of-the-provider"}`)
		},
	}
	b := s.browser()
	// Before anything is known of it.
	p.change(func() { p.discovery = trouble["HTML"] })
	b.out(b.get("/auth/login/corp"), 502, "login_provider_failed")
	before := p.count("/.well-known/openid-configuration")
	for range 5 {
		b.out(b.get("/auth/login/corp"), 502, "login_provider_failed")
	}
	if n := p.count("/.well-known/openid-configuration") - before; n > 2 {
		t.Errorf("5 logins within 3 s asked for the metadata %d times", n)
	}
	p.change(func() { p.discovery = nil })
	eventually(t, "the provider is asked again", func() bool { return b.get("/auth/login/corp").status == 303 })

	for name, h := range trouble {
		p.change(func() { p.token = h })
		if b.out(b.login(p, "corp"), 502, "login_provider_failed"); t.Failed() {
			t.Fatalf("token endpoint: %s", name)
		}
	}
	p.change(func() { p.token = nil })
	for name, h := range trouble {
		if name == "error" {
			continue
		}
		p.change(func() { p.jwks = h })
		if b.out(b.login(p, "corp"), 502, "login_provider_failed"); t.Failed() {
			t.Fatalf("keys: %s", name)
		}
	}
	p.change(func() { p.jwks = nil })

	// One that does not answer holds up its own logins alone.
	hang, began := make(chan struct{}), make(chan struct{}, 1)
	p.change(func() {
		p.token = func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			began <- struct{}{}
			select {
			case <-hang:
			case <-r.Context().Done():
			}
		}
	})
	target, query := p.authorize(b.begin("corp"))
	slow := make(chan *answer)
	go func() { slow <- b.get(target + "?" + query.Encode()) }()
	<-began
	other := s.browser()
	at := time.Now()
	other.in(other.login(well, "well"))
	if d := time.Since(at); d > 5*time.Second {
		t.Errorf("another provider's login took %s", d)
	}
	a := <-slow // its time-out, 10 s
	close(hang)
	b.out(a, 502, "login_provider_failed")
}

func TestOAU03OAuth2UserInformation(t *testing.T) {
	p, corp := newIDP(t), newIDP(t)
	s := start(t, newUpstream(t, nil), idpYAML(corp, fmt.Sprintf(`
    - {name: hub, type: oauth2, auth_url: "%[1]s/authorize", token_url: "%[1]s/token", userinfo_url: "%[1]s/userinfo", subject: id, client_id: gw,
       client_secret_file: idp.txt, allow: 'claims.login in ["ann"]', default_scopes: [chat]}
`, p.url)), idpFiles)
	b := s.browser()
	sub := claimsOf(t, b.in(b.login(p, "hub")))["sub"]
	b = s.browser()
	if again := claimsOf(t, b.in(b.login(p, "hub")))["sub"]; again != sub {
		t.Errorf("%v and %v", sub, again)
	}
	say := func(status int, body string) {
		p.change(func() {
			p.userinfo = func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(status)
				_, _ = io.WriteString(w, body)
			}
		})
	}
	for _, body := range []string{
		`{"login":"ann"}`, `{"id":"","login":"ann"}`, `{"id":null,"login":"ann"}`, `{"id":1.5,"login":"ann"}`, `{"id":1e3,"login":"ann"}`, `{"id":true,"login":"ann"}`,
		`{"id":[1],"login":"ann"}`, `{"id":1,"id":2,"login":"ann"}`, `{"id":1,"ID":2,"login":"ann"}`, `[]`, `null`, ``, `{"id":1,"login":"ann"} x`, `<html>`,
		`{"id":1,"login":"ann","x":"` + strings.Repeat("x", 100_000) + `"}`, strings.Repeat(`{"a":`, 100) + "1" + strings.Repeat("}", 100),
	} {
		say(200, body)
		b := s.browser()
		if b.out(b.login(p, "hub"), 502, "login_provider_failed"); t.Failed() {
			t.Fatalf("%.60s", body)
		}
	}
	say(403, `{"id":4711,"login":"ann"}`)
	b = s.browser()
	b.out(b.login(p, "hub"), 502, "login_provider_failed")
	say(200, `{"id":4711,"login":"eve"}`)
	b.out(b.login(p, "hub"), 403, "login_denied")
	say(200, `{"id":"4711","login":"ann"}`) // GitHub's number and another's text are one name
	b.in(b.login(p, "hub"))
}

func TestOAU09WhatIsTakenBackTakesEffect(t *testing.T) {
	p := newIDP(t)
	up := newUpstream(t, nil)
	s := start(t, up, idpYAML(p, ""), idpFiles)
	b := s.browser()
	access := b.in(b.login(p, "corp"))
	c := s.connect("/chat", bearer(access))

	// The provider's groups count again at the next login, which replaces the session.
	first := b.jar["wsbouncer-refresh"]
	p.change(func() { p.bend = func(c map[string]any) { c["groups"] = []string{"staff", "ops"} } })
	b.in(b.login(p, "corp"))
	c.closes(3000, "logged_out")
	if a := s.refresh(first); a.status != 400 {
		t.Errorf("the replaced session: %d %s", a.status, a.body)
	}
	// What the operator takes back counts at the next refresh.
	if a := s.refresh(b.jar["wsbouncer-refresh"]); a.str("scope") != "chat ops" {
		t.Fatalf("%d %s", a.status, a.body)
	} else {
		b.jar["wsbouncer-refresh"] = a.str("refresh_token")
	}
	text := strings.Replace(idpYAML(p, ""), "scopes: [ops]", "scopes: [none]", 1)
	s.writeConfig(strings.ReplaceAll(text, "UPSTREAM", up.addr))
	s.cli("reload")
	a := s.refresh(b.jar["wsbouncer-refresh"])
	if a.str("scope") != "chat" {
		t.Fatalf("after the reload: %d %s", a.status, a.body)
	}
	// A provider that is gone takes its sessions with it.
	text = strings.Replace(text, "issuer: "+p.url, "issuer: https://elsewhere.example", 1)
	s.writeConfig(strings.ReplaceAll(text, "UPSTREAM", up.addr))
	s.cli("reload")
	live := s.connect("/chat", bearer(a.str("access_token")))
	if a := s.refresh(a.str("refresh_token")); a.status != 400 || a.code() != "invalid_grant" {
		t.Errorf("without its provider: %d %s", a.status, a.body)
	}
	live.closes(3000, "session_revoked")
}

func TestOAU09AnIdentityIsDisabled(t *testing.T) {
	p := newIDP(t)
	s := start(t, newUpstream(t, nil), idpYAML(p, ""), idpFiles)
	b := s.browser()
	access := b.in(b.login(p, "corp"))
	sub, _ := claimsOf(t, access)["sub"].(string)
	c := s.connect("/chat", bearer(access))
	if out := s.cli("identity", "list"); !strings.Contains(out, sub) || !strings.Contains(out, p.url) {
		t.Errorf("identity list: %s", out)
	}
	s.cli("identity", "disable", sub)
	c.closes(3000, "subject_revoked")
	s.refused(401, "token_revoked", "/chat", bearer(access))
	if a := s.refresh(b.jar["wsbouncer-refresh"]); a.status != 400 || a.code() != "invalid_grant" {
		t.Errorf("refresh: %d %s", a.status, a.body)
	}
	again := s.browser()
	again.out(again.login(p, "corp"), 403, "login_denied")
	s.cli("identity", "enable", sub)
	again = s.browser()
	if now := claimsOf(t, again.in(again.login(p, "corp")))["sub"]; now != sub {
		t.Errorf("it is %v now, and was %s", now, sub)
	}
	if out, code := s.command("", "identity", "disable", "ID-nobody"); code != 1 || !strings.Contains(out, "no identity") {
		t.Errorf("nobody: %d %s", code, out)
	}
	// An account cannot take an identity's name.
	s.addUser(sub, "chat")
	if out := s.cli("user", "list"); strings.Contains(out, sub) || !strings.Contains(out, strings.ToLower(sub)) {
		t.Errorf("user list: %s", out)
	}
}

// A stranger's failures are bounded by limits.logins, and cost others nothing.
func TestDOS05FailedCallbacksAreThrottled(t *testing.T) {
	p := newIDP(t)
	s := start(t, newUpstream(t, nil), strings.Replace(idpYAML(p, ""), "per_ip: {rate: 1000/m, burst: 1000}", "per_ip: {rate: 1/m, burst: 3}", 1), idpFiles)
	b := s.browser()
	for range 3 {
		b.out(b.get("/auth/callback/corp?state=x&code=y"), 400, "login_state")
	}
	a := b.get("/auth/callback/corp?state=x&code=y")
	if b.out(a, 429, "login_throttled"); a.header.Get("Retry-After") == "" {
		t.Errorf("headers %v", a.header)
	}
	s.audited("login_throttled")
	// What a page of somebody else makes a browser fetch is no attempt.
	if a := s.call("GET", "/auth/callback/corp?state=x", nil, "Sec-Fetch-Mode: no-cors", "Accept: application/json"); a.status != 403 {
		t.Errorf("a picture: %d %s", a.status, a.body)
	}
}

// With password.enabled: false the providers are the only way in, and all else works.
func TestOAU01ProvidersAlone(t *testing.T) {
	p := newIDP(t)
	s := start(t, newUpstream(t, nil), strings.Replace(idpYAML(p, ""), "login:\n", "login:\n  password: {enabled: false}\n", 1), idpFiles)
	s.want(s.call("POST", "/auth/login", map[string]any{"username": "ann", "password": "x"}), 404, "no_route")
	b := s.browser()
	access := b.in(b.login(p, "corp"))
	s.connect("/chat", bearer(access)).alive()
	s.want(s.refresh(b.jar["wsbouncer-refresh"]), 200, "")
	s.want(s.call("POST", "/auth/logout", nil, bearer(access)), 200, "")
	s.refused(401, "token_revoked", "/chat", bearer(access))
}
