package e2e_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// idp is an OpenID provider that keeps to the standards, until a test bends it.
type idp struct {
	t      *testing.T
	url    string
	key    *ecdsa.PrivateKey
	issues bool // iss is in its callbacks, and its metadata says so

	mu     sync.Mutex
	codes  map[string]url.Values // the authorization request that each unused code is for
	tokens []url.Values          // requests of its token endpoint
	// bend changes an ID token's claims; sign makes another of them.
	bend func(claims map[string]any)
	sign func(payload []byte) string
	// Any of these answers instead, when it is set.
	discovery, jwks, token, userinfo http.HandlerFunc
	asked                            map[string]int // requests by path
}

func newIDP(t *testing.T) *idp {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p := &idp{t: t, key: key, issues: true, codes: map[string]url.Values{}, asked: map[string]int{}}
	s := httptest.NewServer(http.HandlerFunc(p.serve))
	t.Cleanup(s.Close)
	p.url = s.URL
	return p
}

// change sets what is asked of under the lock.
func (p *idp) change(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}

func (p *idp) count(path string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked[path]
}

func (p *idp) serve(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.asked[r.URL.Path]++
	instead := map[string]http.HandlerFunc{"/.well-known/openid-configuration": p.discovery, "/jwks": p.jwks, "/token": p.token, "/userinfo": p.userinfo}[r.URL.Path]
	p.mu.Unlock()
	if instead != nil {
		instead(w, r)
		return
	}
	say := func(v any) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(v)
	}
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		say(map[string]any{
			"issuer": p.url, "authorization_endpoint": p.url + "/authorize", "token_endpoint": p.url + "/token", "jwks_uri": p.url + "/jwks",
			"id_token_signing_alg_values_supported": []string{"ES256", "HS256", "none"}, "authorization_response_iss_parameter_supported": p.issues,
		})
	case "/jwks":
		say(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: p.key.Public(), KeyID: "1", Algorithm: "ES256", Use: "sig"}}})
	case "/token":
		p.exchange(w, r, say)
	case "/userinfo":
		say(map[string]any{"id": 4711, "login": "ann", "groups": []string{"staff"}})
	default:
		http.NotFound(w, r)
	}
}

// exchange is a token endpoint that checks all it must.
func (p *idp) exchange(w http.ResponseWriter, r *http.Request, say func(any)) {
	_ = r.ParseForm()
	user, pass, _ := r.BasicAuth()
	pass, _ = url.QueryUnescape(pass) // RFC 6749 §2.3.1
	p.mu.Lock()
	p.tokens = append(p.tokens, r.PostForm)
	asked, ok := p.codes[r.PostForm.Get("code")]
	delete(p.codes, r.PostForm.Get("code"))
	bend, sign := p.bend, p.sign
	p.mu.Unlock()
	challenge := sha256.Sum256([]byte(r.PostForm.Get("code_verifier")))
	if !ok || user != "gw" || pass != idpSecret || asked.Get("redirect_uri") != r.PostForm.Get("redirect_uri") ||
		asked.Get("code_challenge") != base64.RawURLEncoding.EncodeToString(challenge[:]) || r.PostForm.Get("grant_type") != "authorization_code" {
		w.WriteHeader(http.StatusBadRequest)
		say(map[string]any{"error": "invalid_grant"})
		return
	}
	access := secret(p.t, "access-token-of-the-provider-"+asked.Get("state")[:16])
	half := sha256.Sum256([]byte(access))
	now := time.Now()
	claims := map[string]any{
		"iss": p.url, "aud": "gw", "sub": "ann", "iat": now.Unix(), "exp": now.Add(time.Minute).Unix(), "nonce": asked.Get("nonce"),
		"at_hash": base64.RawURLEncoding.EncodeToString(half[:16]), "sid": "session-there", "auth_time": now.Add(-time.Minute).Unix(),
		"amr": []string{"pwd", "otp"}, "acr": "mfa", "groups": []string{"staff"}, "rooms": []string{"lobby"}, "preferred_username": "ann",
	}
	if bend != nil {
		bend(claims)
	}
	payload, _ := json.Marshal(claims)
	if sign == nil {
		sign = func(payload []byte) string { return p.signed(p.key, payload) }
	}
	say(map[string]any{"access_token": access, "token_type": "Bearer", "expires_in": 60, "id_token": secret(p.t, sign(payload)), "refresh_token": secret(p.t, "refresh-token-of-the-provider")})
}

func (p *idp) signed(key crypto.Signer, payload []byte) string {
	return signedBy(p.t, jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "1"}}, payload)
}

func signedBy(t testing.TB, key jose.SigningKey, payload []byte) string {
	signer, err := jose.NewSigner(key, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		t.Error(err)
		return ""
	}
	signature, err := signer.Sign(payload)
	if err != nil {
		t.Error(err)
		return ""
	}
	raw, _ := signature.CompactSerialize()
	return raw
}

// authorize is what happens at the provider: its user agrees, and gets a code for
// the request that a Location holds. The answer is the callback's query.
func (p *idp) authorize(location string) (target string, query url.Values) {
	p.t.Helper()
	u, err := url.Parse(location)
	if err != nil || !strings.HasPrefix(location, p.url+"/authorize?") {
		p.t.Fatalf("not this provider's authorization endpoint: %s", location)
	}
	asked := u.Query()
	code := secret(p.t, "code-"+rand.Text())
	p.change(func() { p.codes[code] = asked })
	query = url.Values{"code": {code}, "state": {asked.Get("state")}}
	if p.issues {
		query.Set("iss", p.url)
	}
	back, err := url.Parse(asked.Get("redirect_uri"))
	if err != nil {
		p.t.Fatal(err)
	}
	return back.Path, query
}

const (
	idpSecret   = "a secret with a + and a %"
	loginCookie = "wsbouncer-login"
)

// idpYAML has one provider p; more providers can follow it.
func idpYAML(p *idp, more string) string {
	return `
issuer: {access_ttl: 60s}
limits: {handshakes_per_ip: {rate: 1000/s, burst: 1000}, logins: {per_ip: {rate: 1000/m, burst: 1000}, per_account: {rate: 1000/m, burst: 1000}}}
login:
  providers:
    - name: corp
      issuer: ` + p.url + `
      client_id: gw
      client_secret_file: idp.txt
      allow: '"staff" in claims.groups'
      default_scopes: [chat]
      scopes_for: [{when: '"ops" in claims.groups', scopes: [ops]}]
      token_claims: {rooms: claims.rooms, from: provider, absent: claims.absent}
      session_ttl: 1h
` + more + `
routes:
  - {path: /chat, upstream: "ws://UPSTREAM", scopes: [chat], token_from: [cookie, header, ticket]}
`
}

// idpFiles writes what idpYAML names.
func idpFiles(s *server) { s.file("idp.txt", secret(s.t, idpSecret)+"\n") }

// browser is one browser: its cookies.
type browser struct {
	s    *server
	jar  map[string]string
	more []string // header lines
}

func (s *server) browser() *browser { return &browser{s: s, jar: map[string]string{}} }

// get goes to a page, as a navigation does, and keeps its cookies.
func (b *browser) get(path string) *answer {
	b.s.t.Helper()
	lines := slices.Clone(b.more)
	if len(b.jar) > 0 {
		var cookies []string
		for _, name := range slices.Sorted(maps.Keys(b.jar)) {
			cookies = append(cookies, name+"="+b.jar[name])
		}
		lines = append(lines, "Cookie: "+strings.Join(cookies, "; "))
	}
	a := b.s.call("GET", path, nil, lines...)
	for _, c := range (&http.Response{Header: a.header}).Cookies() {
		if b.jar[c.Name] = c.Value; c.MaxAge < 0 {
			delete(b.jar, c.Name)
		}
	}
	return a
}

// begin goes to a provider and gives where it was sent.
func (b *browser) begin(name string) string {
	b.s.t.Helper()
	a := b.get("/auth/login/" + name)
	if a.status != http.StatusSeeOther {
		b.s.t.Fatalf("login at %s: %d %s", name, a.status, a.body)
	}
	return a.header.Get("Location")
}

// login logs in at p, from beginning to end, and gives the callback's answer.
func (b *browser) login(p *idp, name string) *answer {
	b.s.t.Helper()
	target, query := p.authorize(b.begin(name))
	return b.get(target + "?" + query.Encode())
}

// in demands a login that worked, and gives the access token.
func (b *browser) in(a *answer) string {
	b.s.t.Helper()
	if a.status != http.StatusSeeOther || b.jar["wsbouncer"] == "" || b.jar["wsbouncer-refresh"] == "" {
		b.s.t.Fatalf("not logged in: %d %s %v", a.status, a.body, a.header)
	}
	return b.jar["wsbouncer"]
}

// out demands a login that failed with a page that says so, and no session.
func (b *browser) out(a *answer, status int, code string) {
	b.s.t.Helper()
	if a.status != status || !strings.Contains(string(a.body), "<code>"+code+"</code>") {
		b.s.t.Errorf("%d %s, want %d %s", a.status, a.body, status, code)
	}
	if b.jar["wsbouncer"] != "" || b.jar["wsbouncer-refresh"] != "" || a.cookie("wsbouncer") != nil || a.cookie("wsbouncer-refresh") != nil {
		b.s.t.Errorf("%s: cookies were set: %v", code, a.header["Set-Cookie"])
	}
	if policy := a.header.Get("Content-Security-Policy"); !strings.HasPrefix(policy, "default-src 'none'") || a.header.Get("Cache-Control") != "no-store" ||
		a.header.Get("Content-Type") != "text/html; charset=utf-8" || a.header.Get("X-Content-Type-Options") != "nosniff" {
		b.s.t.Errorf("%s: headers %v", code, a.header)
	}
}
