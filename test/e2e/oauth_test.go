package e2e_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// ours stands for the server's own issuer where one is named.
var ours = &issuer{}

const (
	exchangeGrant = "urn:ietf:params:oauth:grant-type:token-exchange"
	accessType    = "urn:ietf:params:oauth:token-type:access_token"
	assertedBy    = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
)

// clientsYAML has one client of each kind. Failures of authentication are only
// bounded where a test says so.
const clientsYAML = `
issuer: {access_ttl: 60s}
limits: {handshakes_per_ip: {rate: 1000/s, burst: 1000}, connections_per_subject: 2, logins: {per_ip: 1000/s, per_account: 1000/s}}
clients:
  - {id: backend, secret_file: backend.txt, scopes: [chat, "chat:write"], connections: 3, token_ttl: 30s, grants: [client_credentials, token_exchange]}
  - {id: signs, jwks_file: signs.json, scopes: [chat], introspect: true}
  - {id: other, jwks_file: other.json, scopes: [chat]}
  - {id: orders, secret_file: orders.txt, grants: [], introspect: true}
routes:
  - {path: /chat, upstream: "ws://UPSTREAM", scopes: [chat]}
  - {path: /write, upstream: "ws://UPSTREAM", scopes: ["chat:write"]}
`

// machine is a machine client of clientsYAML: what it proves itself with.
type machine struct {
	id, secret string
	key        *ecdsa.PrivateKey
}

type machines struct {
	backend, orders, signs, other machine
	idp                           *issuer
}

// withClients starts a server of clientsYAML that also trusts an issuer.
func withClients(t *testing.T, yaml string) (*server, *machines) {
	t.Helper()
	m := &machines{idp: newIssuer(t, "https://idp.example")}
	s := start(t, newUpstream(t, nil), yaml+trustYAML(m.idp.name), m.idp.trusted, func(s *server) {
		m.backend = s.newMachine("backend", false)
		m.orders = s.newMachine("orders", false)
		m.signs = s.newMachine("signs", true)
		m.other = s.newMachine("other", true)
	})
	return s, m
}

func (s *server) newMachine(id string, signs bool) machine {
	s.t.Helper()
	if !signs {
		b := make([]byte, 32)
		_, _ = rand.Read(b)
		// The letters that a form encodes are part of it.
		m := machine{id: id, secret: secret(s.t, hex.EncodeToString(b)+"+%:/= ")}
		s.file(id+".txt", m.secret+"\n")
		return m
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	b, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k1", Use: "sig"}}})
	if err != nil {
		s.t.Fatal(err)
	}
	s.file(id+".json", string(b))
	return machine{id: id, key: key}
}

// basic is client_secret_basic.
func (m machine) basic() string {
	return "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(url.QueryEscape(m.id)+":"+url.QueryEscape(m.secret)))
}

var assertions atomic.Int64

// assertion is private_key_jwt, with changes; nil removes.
func (m machine) assertion(s *server, changes ...claims) string {
	s.t.Helper()
	now := time.Now()
	c := claims{
		"iss": m.id, "sub": m.id, "aud": s.url + "/auth/token", "jti": fmt.Sprint("a", assertions.Add(1)),
		"iat": now.Unix(), "exp": now.Add(time.Minute).Unix(),
	}
	for _, change := range changes {
		maps.Copy(c, change)
	}
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	payload, err := json.Marshal(c)
	if err != nil {
		s.t.Fatal(err)
	}
	return (&issuer{t: s.t}).sign(m.key, jose.ES256, "", payload)
}

// form is a form of pairs.
func form(pairs ...string) url.Values {
	f := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		f.Add(pairs[i], pairs[i+1])
	}
	return f
}

// asserted adds an assertion to a form.
func asserted(raw string, f url.Values) url.Values {
	f.Set("client_assertion_type", assertedBy)
	f.Set("client_assertion", raw)
	return f
}

// machineToken is a client's own token.
func (s *server) machineToken(m machine, more ...string) *answer {
	s.t.Helper()
	return s.want(s.call("POST", "/auth/token", form(append([]string{"grant_type", "client_credentials"}, more...)...), m.basic()), 200, "")
}

// exchange shows a token as backend.
func (s *server) exchange(m machine, subject string, more ...string) *answer {
	s.t.Helper()
	f := form("grant_type", exchangeGrant, "subject_token", subject, "subject_token_type", accessType)
	for i := 0; i < len(more); i += 2 {
		f.Set(more[i], more[i+1])
	}
	return s.call("POST", "/auth/token", f, m.basic())
}

func TestOAU01NoPasswordAndNoImplicitGrant(t *testing.T) {
	t.Parallel()
	s, m := withClients(t, clientsYAML)
	s.addUser("ann", "chat")
	for name, c := range map[string]struct {
		form url.Values
		code string
	}{
		"password":                 {form("grant_type", "password", "username", "ann", "password", password(t, "ann")), "unsupported_grant_type"},
		"implicit":                 {form("response_type", "token", "client_id", "backend"), "unsupported_response_type"},
		"authorization code":       {form("grant_type", "authorization_code", "code", "x"), "unsupported_grant_type"},
		"device":                   {form("grant_type", "urn:ietf:params:oauth:grant-type:device_code", "device_code", "x"), "unsupported_grant_type"},
		"assertion as a grant":     {form("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion", "x"), "unsupported_grant_type"},
		"another case":             {form("grant_type", "Client_Credentials"), "unsupported_grant_type"},
		"no grant":                 {form("scope", "chat"), "invalid_request"},
		"two grants":               {url.Values{"grant_type": {"client_credentials", "password"}}, "invalid_request"},
		"password, a good client":  {form("grant_type", "password", "username", "ann", "password", password(t, "ann"), "client_id", "backend", "client_secret", m.backend.secret), "unsupported_grant_type"},
		"refresh by a good client": {form("grant_type", "refresh_token", "refresh_token", s.login("ann").str("refresh_token"), "client_id", "backend", "client_secret", m.backend.secret), "unauthorized_client"},
	} {
		a := s.want(s.call("POST", "/auth/token", c.form), 400, c.code)
		if a.str("error") == "" || a.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %v %s", name, a.header, a.body)
		}
	}
	// There is nowhere an authorization endpoint.
	for _, path := range []string{"/auth/authorize", "/authorize", "/oauth2/authorize", "/auth/token", "/auth/introspect", "/auth/revoke"} {
		a := s.call("GET", path+"?response_type=token&client_id=backend&redirect_uri=https%3A%2F%2Fapp.example", nil)
		if a.status != 404 && a.status != 405 || a.header.Get("Location") != "" {
			t.Errorf("GET %s: %d", path, a.status)
		}
	}
	s.waitLog(`"event":"grant_refused"`, `"grant":"password"`, "unsupported_grant_type")
	meta := s.call("GET", "/.well-known/oauth-authorization-server", nil)
	list := func(name string) string { return fmt.Sprint(meta.json[name]) }
	for name, want := range map[string]string{
		"grant_types_supported":                         "[refresh_token client_credentials " + exchangeGrant + "]",
		"response_types_supported":                      "[]",
		"token_endpoint_auth_methods_supported":         "[none client_secret_basic client_secret_post private_key_jwt]",
		"introspection_endpoint":                        s.url + "/auth/introspect",
		"introspection_endpoint_auth_methods_supported": "[client_secret_basic client_secret_post private_key_jwt]",
		"revocation_endpoint_auth_methods_supported":    "[none client_secret_basic client_secret_post private_key_jwt]",
	} {
		if list(name) != want {
			t.Errorf("%s: %v, want %s", name, list(name), want)
		}
	}
	if algorithms := list("token_endpoint_auth_signing_alg_values_supported"); !strings.Contains(algorithms, "ES256") || strings.Contains(algorithms, "HS") || strings.Contains(algorithms, "none") {
		t.Errorf("algorithms: %s", algorithms)
	}
}

// The table of client authentication: what is not exactly one good proof of one
// client gives nothing.
func TestOAUClientsProveWhoTheyAre(t *testing.T) {
	t.Parallel()
	s, m := withClients(t, clientsYAML)
	grant := func(pairs ...string) url.Values {
		return form(append([]string{"grant_type", "client_credentials"}, pairs...)...)
	}
	post := func(id, secret string) url.Values { return grant("client_id", id, "client_secret", secret) }
	assert := func(changes ...claims) url.Values { return asserted(m.signs.assertion(s, changes...), grant()) }
	now := time.Now()
	unsigned := func() string {
		enc := base64.RawURLEncoding
		p, _ := json.Marshal(claims{"iss": "signs", "sub": "signs", "aud": s.url, "jti": "none", "exp": now.Add(time.Minute).Unix()})
		return enc.EncodeToString([]byte(`{"alg":"none"}`)) + "." + enc.EncodeToString(p) + "."
	}
	hmac := func() string {
		jwk, _ := json.Marshal(jose.JSONWebKey{Key: m.signs.key.Public(), KeyID: "k1", Use: "sig"})
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: jwk}, (&jose.SignerOptions{}).WithHeader("kid", "k1"))
		if err != nil {
			t.Fatal(err)
		}
		p, _ := json.Marshal(claims{"iss": "signs", "sub": "signs", "aud": s.url, "jti": "hs", "exp": now.Add(time.Minute).Unix()})
		sig, err := signer.Sign(p)
		if err != nil {
			t.Fatal(err)
		}
		raw, _ := sig.CompactSerialize()
		return raw
	}
	thief, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	stolen := machine{id: "signs", key: thief}
	for name, c := range map[string]struct {
		form   url.Values
		lines  []string
		status int
		code   string
	}{
		"basic":                     {grant(), []string{m.backend.basic()}, 200, ""},
		"basic, client_id too":      {grant("client_id", "backend"), []string{m.backend.basic()}, 200, ""},
		"post":                      {post("backend", m.backend.secret), nil, 200, ""},
		"assertion":                 {assert(), nil, 200, ""},
		"assertion for the issuer":  {assert(claims{"aud": s.url}), nil, 200, ""},
		"assertion, both our names": {assert(claims{"aud": []string{s.url, s.url + "/auth/token"}}), nil, 200, ""},
		"assertion, client_id too":  {asserted(m.signs.assertion(s), grant("client_id", "signs")), nil, 200, ""},

		"nothing":                    {grant(), nil, 401, "invalid_client"},
		"name alone":                 {grant("client_id", "backend"), nil, 401, "invalid_client"},
		"wrong secret":               {post("backend", m.orders.secret), nil, 401, "invalid_client"},
		"a part of the secret":       {post("backend", m.backend.secret[:40]), nil, 401, "invalid_client"},
		"the secret and more":        {post("backend", m.backend.secret+"x"), nil, 401, "invalid_client"},
		"unknown client":             {post("nobody", m.backend.secret), nil, 401, "invalid_client"},
		"no name":                    {post("", m.backend.secret), nil, 401, "invalid_client"},
		"our own login's client":     {post("wsbouncer", m.backend.secret), nil, 401, "invalid_client"},
		"a secret for who signs":     {post("signs", m.backend.secret), nil, 401, "invalid_client"},
		"basic, wrong":               {grant(), []string{machine{id: "backend", secret: "x"}.basic()}, 401, "invalid_client"},
		"basic, no base64":           {grant(), []string{"Authorization: Basic !"}, 401, "invalid_client"},
		"basic, no colon":            {grant(), []string{"Authorization: Basic YmFja2VuZA=="}, 401, "invalid_client"},
		"basic, not encoded":         {grant(), []string{"Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("backend:"+m.backend.secret))}, 401, "invalid_client"},
		"basic of another client_id": {grant("client_id", "orders"), []string{m.backend.basic()}, 401, "invalid_client"},
		"Bearer":                     {grant(), []string{bearer("x")}, 401, "invalid_client"},
		"two methods":                {post("backend", m.backend.secret), []string{m.backend.basic()}, 400, "invalid_request"},
		"basic twice":                {grant(), []string{m.backend.basic(), m.backend.basic()}, 400, "invalid_request"},
		"secret and assertion":       {asserted(m.signs.assertion(s), post("backend", m.backend.secret)), nil, 400, "invalid_request"},
		"basic and assertion":        {assert(), []string{m.backend.basic()}, 400, "invalid_request"},
		"secret twice":               {url.Values{"grant_type": {"client_credentials"}, "client_id": {"backend"}, "client_secret": {m.backend.secret, m.backend.secret}}, nil, 400, "invalid_request"},

		"alg none":                   {asserted(unsigned(), grant()), nil, 401, "invalid_client"},
		"HS with the public key":     {asserted(hmac(), grant()), nil, 401, "invalid_client"},
		"a thief's key":              {asserted(stolen.assertion(s), grant()), nil, 401, "invalid_client"},
		"another client's key":       {asserted(m.other.assertion(s, claims{"iss": "signs", "sub": "signs"}), grant()), nil, 401, "invalid_client"},
		"about another":              {assert(claims{"sub": "backend"}), nil, 401, "invalid_client"},
		"by another":                 {assert(claims{"iss": "other"}), nil, 401, "invalid_client"},
		"of a client with a secret":  {asserted(m.signs.assertion(s, claims{"iss": "backend", "sub": "backend"}), grant()), nil, 401, "invalid_client"},
		"of nobody":                  {assert(claims{"iss": "nobody", "sub": "nobody"}), nil, 401, "invalid_client"},
		"client_id of another":       {asserted(m.signs.assertion(s), grant("client_id", "other")), nil, 401, "invalid_client"},
		"expired":                    {assert(claims{"exp": now.Add(-10 * time.Second).Unix()}), nil, 401, "invalid_client"},
		"no exp":                     {assert(claims{"exp": nil}), nil, 401, "invalid_client"},
		"far exp":                    {assert(claims{"exp": now.Add(10 * time.Minute).Unix()}), nil, 401, "invalid_client"},
		"no jti":                     {assert(claims{"jti": nil}), nil, 401, "invalid_client"},
		"no aud":                     {assert(claims{"aud": nil}), nil, 401, "invalid_client"},
		"wrong aud":                  {assert(claims{"aud": "https://evil.example"}), nil, 401, "invalid_client"},
		"aud of others too":          {assert(claims{"aud": []string{s.url, "https://evil.example"}}), nil, 401, "invalid_client"},
		"of the future":              {assert(claims{"iat": now.Add(time.Minute).Unix()}), nil, 401, "invalid_client"},
		"of before the start":        {assert(claims{"iat": now.Add(-time.Hour).Unix()}), nil, 401, "invalid_client"},
		"no iat, just started":       {assert(claims{"iat": nil}), nil, 401, "invalid_client"},
		"no JWT":                     {asserted("x", grant()), nil, 401, "invalid_client"},
		"an access token":            {asserted(m.idp.token(claims{"iss": "signs", "sub": "signs"}), grant()), nil, 401, "invalid_client"},
		"no assertion":               {grant("client_assertion_type", assertedBy), nil, 401, "invalid_client"},
		"an assertion of SAML":       {grant("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:saml2-bearer", "client_assertion", m.signs.assertion(s)), nil, 401, "invalid_client"},
		"an assertion without type":  {grant("client_assertion", m.signs.assertion(s)), nil, 401, "invalid_client"},
		"a client without the grant": {grant(), []string{m.orders.basic()}, 400, "unauthorized_client"},
	} {
		t.Run(name, func(t *testing.T) {
			s := s.within(t)
			a := s.call("POST", "/auth/token", c.form, c.lines...)
			s.want(a, c.status, c.code)
			if a.status == 401 && !strings.HasPrefix(a.header.Get("WWW-Authenticate"), "Basic ") {
				t.Errorf("challenge %q", a.header.Get("WWW-Authenticate"))
			}
			if c.status == 200 && (a.str("refresh_token") != "" || a.str("token_type") != "Bearer" || a.str("scope") == "") {
				t.Errorf("%s", a.body)
			}
		})
	}
	// An assertion is good once, at whatever endpoint.
	once := m.signs.assertion(s)
	s.want(s.call("POST", "/auth/introspect", asserted(once, form("token", "x"))), 200, "")
	s.want(s.call("POST", "/auth/introspect", asserted(once, form("token", "x"))), 401, "invalid_client")
	s.want(s.call("POST", "/auth/token", asserted(once, grant())), 401, "invalid_client")
	s.waitLog(`"event":"client_failed"`, `"subject":"client:backend"`, "wrong secret")
	s.waitLog(`"event":"client_failed"`, `"subject":"client:signs"`, "used before")
	if strings.Contains(s.log.String(), "nobody") {
		t.Error("what is no client's name is in the log: it may have been a secret")
	}
}

func TestOAUFailuresOfClientsAreThrottled(t *testing.T) {
	t.Parallel()
	s, m := withClients(t, strings.Replace(clientsYAML, "per_account: 1000/s", "per_account: 3/m", 1))
	wrong := func(id string) *answer {
		return s.call("POST", "/auth/token", form("grant_type", "client_credentials", "client_id", id, "client_secret", "wrong"))
	}
	for range 3 {
		s.want(wrong("backend"), 401, "invalid_client")
	}
	a := s.want(wrong("backend"), 429, "login_throttled")
	if a.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	s.want(wrong("nobody"), 401, "invalid_client") // has a bound of its own
	// Whoever can prove to be the client is not kept out by somebody who cannot.
	s.machineToken(m.backend)
	s.waitLog(`"event":"client_throttled"`)
}

func TestOAUClientCredentials(t *testing.T) {
	t.Parallel()
	s, m := withClients(t, clientsYAML)
	a := s.machineToken(m.backend)
	c := claimsOf(t, a.str("access_token"))
	if c["sub"] != "client:backend" || c["client_id"] != "backend" || c["sid"] != nil || c["scope"] != "chat chat:write" || a.str("scope") != "chat chat:write" {
		t.Errorf("%v", c)
	}
	if life := c["exp"].(float64) - c["iat"].(float64); life != 30 || a.json["expires_in"].(float64) > 30 {
		t.Errorf("it lives %v s", life)
	}
	narrow := s.machineToken(m.backend, "scope", "chat")
	s.connect("/chat", bearer(narrow.str("access_token"))).alive()
	s.refused(403, "insufficient_scope", "/write", bearer(narrow.str("access_token")))
	for _, scope := range []string{"chat admin", "wsbouncer:admin", "chat  chat", strings.Repeat("x", 5000)} {
		s.want(s.call("POST", "/auth/token", form("grant_type", "client_credentials", "scope", scope), m.backend.basic()), 400, "invalid_scope")
	}
	s.waitLog(`"event":"grant_refused"`, `"subject":"client:backend"`, "invalid_scope")

	// Its limit of connections is its own, and ends with its name.
	token := s.machineToken(m.backend).str("access_token")
	for range 2 {
		s.connect("/write", bearer(token)).alive()
	}
	s.refused(429, "too_many_connections", "/chat", bearer(token))
	signs := s.want(s.call("POST", "/auth/token", asserted(m.signs.assertion(s), form("grant_type", "client_credentials"))), 200, "").str("access_token")
	for range 2 {
		s.connect("/chat", bearer(signs)).alive()
	}
	s.refused(429, "too_many_connections", "/chat", bearer(signs))

	// A namesake of another issuer has no part in it.
	namesake := m.idp.token(claims{"sub": "client:backend", "client_id": "backend", "sid": nil})
	for range 2 {
		s.connect("/chat", bearer(namesake)).alive()
	}
	s.refused(429, "too_many_connections", "/chat", bearer(namesake))

	// No account is a client, and no client has sessions.
	for _, name := range []string{"client:backend", "Client:backend", "ＣＬＩＥＮＴ:backend", "foreign:x"} {
		if out, code := s.command(password(t, "x")+"\n", "user", "add", name, "--scope", "chat", "--password-stdin"); code != 1 {
			t.Errorf("user add %s: %d %s", name, code, out)
		}
	}
	s.want(s.call("GET", "/auth/sessions", nil, bearer(token)), 403, "not_allowed")
	s.want(s.call("POST", "/auth/logout", nil, bearer(token)), 403, "not_allowed")
	s.want(s.call("GET", "/auth/session", nil, bearer(token)), 200, "")

	// What is revoked of it is over at once; what comes after is not.
	c1 := s.connect("/chat", bearer(s.exchange(m.backend, m.idp.token()).str("access_token"))).alive()
	s.revoke(ours, "subject", "client:backend")
	s.refused(401, "token_revoked", "/chat", bearer(token))
	s.connect("/chat", bearer(s.machineToken(m.backend).str("access_token"))).alive()
	c1.alive() // is somebody else's

	// A client that is taken out gets nothing more.
	yaml := strings.Replace(clientsYAML, "  - {id: backend,", "  - {id: another,", 1)
	s.writeConfig(strings.ReplaceAll(yaml, "UPSTREAM", "127.0.0.1:9") + trustYAML(m.idp.name))
	s.cli("reload")
	s.want(s.call("POST", "/auth/token", form("grant_type", "client_credentials"), m.backend.basic()), 401, "invalid_client")
	m.backend.id = "another"
	s.machineToken(m.backend)
}

func TestOAUTokenExchangeOfOurOwn(t *testing.T) {
	t.Parallel()
	s, m := withClients(t, clientsYAML)
	s.addUser("ann", "chat secrets wsbouncer:admin")
	in := s.login("ann")
	user := in.str("access_token")
	a := s.want(s.exchange(m.backend, user), 200, "")
	was, got := claimsOf(t, user), claimsOf(t, a.str("access_token"))
	if got["sub"] != "ann" || got["sid"] != was["sid"] || got["client_id"] != "backend" || fmt.Sprint(got["act"]) != "map[sub:client:backend]" || got["jti"] == was["jti"] {
		t.Errorf("%v", got)
	}
	if got["auth_time"] != was["auth_time"] || fmt.Sprint(got["amr"]) != fmt.Sprint(was["amr"]) {
		t.Errorf("how ann logged in: %v, was %v", got, was)
	}
	// Never wider than either, never longer.
	if got["scope"] != "chat" || a.str("scope") != "chat" || a.str("issued_token_type") != accessType || a.str("refresh_token") != "" {
		t.Errorf("%s", a.body)
	}
	for _, scope := range []string{"chat:write", "secrets", "wsbouncer:admin", "chat secrets"} {
		s.want(s.exchange(m.backend, user, "scope", scope), 400, "invalid_scope")
	}
	short := s.cliToken("ann", "chat", "5s")
	if c := claimsOf(t, s.want(s.exchange(m.backend, short), 200, "").str("access_token")); c["exp"].(float64) > claimsOf(t, short)["exp"].(float64) {
		t.Errorf("it outlives its subject's token: %v", c)
	}
	for name, c := range map[string]struct {
		more []string
		code string
	}{
		"no token":            {[]string{"subject_token", ""}, "invalid_request"},
		"no token type":       {[]string{"subject_token_type", ""}, "invalid_request"},
		"an ID token":         {[]string{"subject_token_type", "urn:ietf:params:oauth:token-type:id_token"}, "invalid_request"},
		"for a refresh token": {[]string{"requested_token_type", "urn:ietf:params:oauth:token-type:refresh_token"}, "invalid_request"},
		"an actor":            {[]string{"actor_token", user, "actor_token_type", accessType}, "invalid_request"},
		"a resource":          {[]string{"resource", "https://api.example"}, "invalid_target"},
		"an audience":         {[]string{"audience", "api"}, "invalid_target"},
		"a refresh token":     {[]string{"subject_token", in.str("refresh_token")}, "invalid_request"},
		"garbage":             {[]string{"subject_token", "a.b.c"}, "invalid_request"},
		"expired":             {[]string{"subject_token", m.idp.token(claims{"exp": time.Now().Add(-time.Second).Unix()})}, "invalid_request"},
		"another audience":    {[]string{"subject_token", m.idp.token(claims{"aud": "other"})}, "invalid_request"},
		"another issuer":      {[]string{"subject_token", newIssuer(t, "https://evil.example").token()}, "invalid_request"},
		"the wrong key":       {[]string{"subject_token", newIssuer(t, m.idp.name).token()}, "invalid_request"},
		"for another actor":   {[]string{"subject_token", m.idp.token(claims{"may_act": claims{"sub": "client:orders"}})}, "invalid_request"},
		"for an odd actor":    {[]string{"subject_token", m.idp.token(claims{"may_act": "backend"})}, "invalid_request"},
		"bound to a key":      {[]string{"subject_token", m.idp.token(claims{"cnf": claims{"jkt": "x"}})}, "invalid_request"},
	} {
		if a := s.exchange(m.backend, user, c.more...); a.status != 400 || a.code() != c.code {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	s.want(s.exchange(m.backend, m.idp.token(claims{"may_act": claims{"sub": "client:backend"}})), 200, "")
	s.want(s.exchange(m.backend, user, "audience", "wsbouncer", "requested_token_type", accessType), 200, "")
	// It is for clients that may, and prove who they are.
	f := form("grant_type", exchangeGrant, "subject_token", user, "subject_token_type", accessType)
	s.want(s.call("POST", "/auth/token", f), 401, "invalid_client")
	s.want(s.call("POST", "/auth/token", f, bearer(user)), 401, "invalid_client")
	s.want(s.call("POST", "/auth/token", asserted(m.signs.assertion(s), f)), 400, "unauthorized_client")

	// What it was handed for is not to end the user's sessions.
	exchanged := a.str("access_token")
	s.want(s.call("GET", "/auth/sessions", nil, bearer(exchanged)), 403, "not_allowed")
	s.want(s.call("DELETE", "/auth/sessions/"+in.str("session_id"), nil, bearer(exchanged)), 403, "not_allowed")
	s.want(s.call("POST", "/auth/logout", map[string]any{"everywhere": true}, bearer(exchanged)), 403, "not_allowed")
	s.want(s.call("POST", "/auth/logout", map[string]any{}, "Cookie: wsbouncer="+exchanged, "Origin: "+s.url), 403, "not_allowed")

	// Four times in a row, and no further.
	chain := exchanged
	for range 3 {
		chain = s.want(s.exchange(m.backend, chain), 200, "").str("access_token")
	}
	if act := fmt.Sprint(claimsOf(t, chain)["act"]); strings.Count(act, "client:backend") != 4 {
		t.Errorf("act: %s", act)
	}
	s.want(s.exchange(m.backend, chain), 400, "invalid_request")

	// It dies with what it came from, at every end of the chain.
	last, first, bystander := s.connect("/chat", bearer(chain)).alive(), s.connect("/chat?ticket="+s.ticket(exchanged, "/chat").str("ticket")).alive(), s.connect("/chat", bearer(s.machineToken(m.backend).str("access_token"))).alive()
	ticket := s.want(s.ticket(exchanged, "/chat"), 200, "").str("ticket")
	s.want(s.call("POST", "/auth/revoke", form("token", user)), 200, "") // one token of ann's
	last.closes(3000, "token_revoked")
	first.closes(3000, "token_revoked")
	s.refused(401, "token_revoked", "/chat", bearer(exchanged))
	s.refused(401, "token_revoked", "/chat?ticket="+ticket)
	s.want(s.exchange(m.backend, user), 400, "invalid_request")
	s.want(s.exchange(m.backend, chain), 400, "invalid_request")
	bystander.alive()

	again := s.want(s.refresh(in.str("refresh_token")), 200, "")
	byKey := s.want(s.exchange(m.backend, again.str("access_token")), 200, "").str("access_token")
	c := s.connect("/chat", bearer(byKey)).alive()
	s.want(s.call("POST", "/auth/logout", nil, bearer(again.str("access_token"))), 200, "")
	c.closes(3000, "logged_out")
	s.refused(401, "token_revoked", "/chat", bearer(byKey))
	// Also after the program was started anew.
	if s.stop() != 0 || !s.run() {
		t.Fatal("restart")
	}
	s.refused(401, "token_revoked", "/chat", bearer(byKey))
	s.refused(401, "token_revoked", "/chat", bearer(exchanged))
}

// cliToken is a token by the admin's command.
func (s *server) cliToken(subject, scope, ttl string) string {
	s.t.Helper()
	var out struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.Unmarshal([]byte(s.cli("token", "issue", "--subject", subject, "--scope", scope, "--ttl", ttl, "--json")), &out); err != nil {
		s.t.Fatal(err)
	}
	return secret(s.t, out.AccessToken)
}

func TestOAUTokenExchangeOfAForeignIssuer(t *testing.T) {
	t.Parallel()
	s, m := withClients(t, clientsYAML)
	s.addUser("alice", "chat")
	own := s.connect("/chat", bearer(s.login("alice").str("access_token"))).alive()
	foreign := m.idp.token(claims{"sub": "alice", "scope": "chat other wsbouncer:admin", "rooms": []string{"x"}, "act": claims{"sub": "x"}})
	a := s.want(s.exchange(m.backend, foreign), 200, "")
	c := claimsOf(t, a.str("access_token"))
	sub, _ := c["sub"].(string)
	if !strings.HasPrefix(sub, "foreign:") || c["iss"] != s.url || c["sid"] != nil || c["scope"] != "chat" || c["rooms"] != nil || fmt.Sprint(c["act"]) != "map[sub:client:backend]" {
		t.Errorf("%v", c)
	}
	if id, _ := c["sub_id"].(map[string]any); id["iss"] != m.idp.name || id["sub"] != "alice" || id["format"] != "iss_sub" {
		t.Errorf("sub_id %v", c["sub_id"])
	}
	if other := claimsOf(t, s.exchange(m.backend, m.idp.token(claims{"sub": "bob"})).str("access_token"))["sub"]; other == sub {
		t.Error("alice and bob are one")
	}
	// alice of here and alice of there are two, whoever is revoked.
	live := func() (*client, string) {
		raw := s.want(s.exchange(m.backend, foreign), 200, "").str("access_token")
		return s.connect("/chat", bearer(raw)).alive(), raw
	}
	conn, _ := live()
	s.revoke(ours, "session", "s1") // of our issuer: nobody's
	conn.alive()
	s.revoke(m.idp, "session", "s1")
	conn.closes(3000, "session_revoked")
	own.alive()
	s.want(s.exchange(m.backend, foreign), 400, "invalid_request")

	foreign = m.idp.token(claims{"sid": "s2", "jti": "of alice"})
	conn, raw := live()
	s.revoke(m.idp, "subject", "alice")
	conn.closes(3000, "subject_revoked")
	s.refused(401, "token_revoked", "/chat", bearer(raw))
	own.alive()

	foreign = m.idp.token(claims{"sub": "carol", "sid": nil, "jti": "of carol"})
	conn, raw = live()
	s.revoke(m.idp, "token", "of carol")
	conn.closes(3000, "token_revoked")
	s.refused(401, "token_revoked", "/chat", bearer(raw))

	// Its issuer is trusted no more: neither is what came of its tokens.
	foreign = m.idp.token(claims{"sub": "dave", "sid": nil})
	conn, raw = live()
	s.writeConfig(strings.ReplaceAll(clientsYAML, "UPSTREAM", "127.0.0.1:9"))
	s.cli("reload")
	conn.closes(3000, "key_revoked")
	s.refused(401, "token_revoked", "/chat", bearer(raw))
	own.alive()
}

func TestOAUIntrospection(t *testing.T) {
	t.Parallel()
	s, m := withClients(t, clientsYAML)
	s.addUser("ann", "chat")
	in := s.login("ann")
	ask := func(raw string) *answer {
		t.Helper()
		return s.want(s.call("POST", "/auth/introspect", form("token", raw, "token_type_hint", "access_token"), m.orders.basic()), 200, "")
	}
	a := ask(in.str("access_token"))
	c := claimsOf(t, in.str("access_token"))
	for _, name := range []string{"iss", "sub", "aud", "exp", "iat", "jti", "sid", "scope", "client_id", "auth_time"} {
		if fmt.Sprint(a.json[name]) != fmt.Sprint(c[name]) || a.json[name] == nil {
			t.Errorf("%s: %v, want %v", name, a.json[name], c[name])
		}
	}
	if a.json["active"] != true || a.json["token_type"] != "Bearer" || a.header.Get("Cache-Control") != "no-store" {
		t.Errorf("%v %s", a.header, a.body)
	}
	foreign := m.idp.token(claims{"scope": "chat wsbouncer:admin", "jti": "f1"})
	if a := ask(foreign); a.json["active"] != true || a.json["iss"] != m.idp.name || a.json["sub"] != "alice" || a.json["scope"] != "chat" {
		t.Errorf("%s", a.body)
	}
	exchanged := s.want(s.exchange(m.backend, foreign), 200, "").str("access_token")
	if a := ask(exchanged); a.json["active"] != true || a.json["act"] == nil || a.json["sub_id"] == nil {
		t.Errorf("%s", a.body)
	}
	inactive := func(what, raw string) {
		t.Helper()
		if a := ask(raw); strings.TrimSpace(string(a.body)) != `{"active":false}` {
			t.Errorf("%s: %s", what, a.body)
		}
	}
	inactive("a refresh token", in.str("refresh_token"))
	inactive("garbage", "x")
	inactive("a long one", strings.Repeat("x", 9000))
	inactive("expired", m.idp.token(claims{"exp": time.Now().Add(-time.Second).Unix()}))
	inactive("another audience", m.idp.token(claims{"aud": "other"}))
	inactive("another key", newIssuer(t, m.idp.name).token())
	inactive("an assertion", m.signs.assertion(s))
	inactive("a ticket", s.want(s.ticket(in.str("access_token"), "/chat"), 200, "").str("ticket"))
	s.revoke(m.idp, "token", "f1")
	inactive("revoked", foreign)
	inactive("what a revoked one was exchanged for", exchanged)
	s.want(s.call("POST", "/auth/logout", nil, bearer(in.str("access_token"))), 200, "")
	inactive("logged out", in.str("access_token"))

	s.want(s.call("POST", "/auth/introspect", form("token", foreign)), 401, "invalid_client")
	s.want(s.call("POST", "/auth/introspect", form("token", foreign), bearer(foreign)), 401, "invalid_client")
	s.want(s.call("POST", "/auth/introspect", form("token", foreign), m.backend.basic()), 403, "unauthorized_client")
	s.want(s.call("POST", "/auth/introspect", form(), m.orders.basic()), 400, "invalid_request")
	s.want(s.call("POST", "/auth/introspect", map[string]any{"token": foreign}, m.orders.basic()), 415, "unsupported_media_type")
	s.want(s.call("GET", "/auth/introspect?token="+foreign, nil, m.orders.basic()), 405, "method_not_allowed")
}

func TestSES12RevocationEndpoint(t *testing.T) {
	t.Parallel()
	s, m := withClients(t, clientsYAML)
	s.addUser("ann", "chat")
	revoke := func(raw string, lines ...string) *answer {
		return s.call("POST", "/auth/revoke", form("token", raw), lines...)
	}
	in, access := s.login("ann"), s.machineToken(m.backend).str("access_token")
	exchanged := s.exchange(m.backend, in.str("access_token")).str("access_token")
	byUser, byClient, byBoth := s.connect("/chat", bearer(in.str("access_token"))).alive(), s.connect("/chat", bearer(access)).alive(), s.connect("/chat", bearer(exchanged)).alive()

	// Unknown tokens are no error, for whoever asks.
	for _, raw := range []string{"x", "a.b.c", newIssuer(t, s.url).token()} {
		s.want(revoke(raw), 200, "")
		s.want(revoke(raw, m.backend.basic()), 200, "")
	}
	// Who fails to prove who it is ends nothing, not even by holding the token.
	s.want(revoke(access, machine{id: "backend", secret: "wrong"}.basic()), 401, "invalid_client")
	s.want(revoke(access, bearer(access)), 401, "invalid_client")
	s.want(s.call("POST", "/auth/revoke", form("token", access, "client_id", "backend", "client_secret", m.backend.secret), m.backend.basic()), 400, "invalid_request")
	// A client ends its own.
	s.want(revoke(access, m.orders.basic()), 400, "invalid_grant")
	s.want(revoke(in.str("access_token"), m.backend.basic()), 400, "invalid_grant")
	s.want(revoke(in.str("refresh_token"), m.backend.basic()), 400, "invalid_grant")
	s.want(revoke(m.idp.token(), m.backend.basic()), 400, "unsupported_token_type")
	for _, method := range []string{"GET", "PUT", "DELETE"} {
		if a := s.call(method, "/auth/revoke?token="+access, nil, m.backend.basic()); a.status != 405 || a.header.Get("Allow") != "POST" {
			t.Errorf("%s: %d", method, a.status)
		}
	}
	for _, c := range []*client{byUser, byClient, byBoth} {
		c.alive()
	}
	s.want(revoke(access, m.backend.basic()), 200, "")
	byClient.closes(3000, "token_revoked")
	s.refused(401, "token_revoked", "/chat", bearer(access))
	s.want(revoke(exchanged, m.backend.basic()), 200, "")
	byBoth.closes(3000, "token_revoked")
	byUser.alive() // what was exchanged for it is over, and not it
	s.want(revoke(in.str("refresh_token")), 200, "")
	byUser.closes(3000, "logged_out")
	s.waitLog(`"event":"revocation"`, `"actor":"client:backend"`)
}

// What was exchanged for an opaque token lives as long as that one is active.
func TestOAUTokenExchangeOfAnOpaqueToken(t *testing.T) {
	t.Parallel()
	i := newIntrospector(t)
	var backend machine
	s := start(t, newUpstream(t, nil), `
issuer: {}
clients: [{id: backend, secret_file: backend.txt, scopes: [chat], grants: [token_exchange]}]
routes: [{path: /chat, upstream: "ws://UPSTREAM", scopes: [chat]}]
`+i.trust(", cache: 1s")+generous(), func(s *server) {
		s.file("introspection.secret", secret(t, introspectionSecret)+"\n")
		backend = s.newMachine("backend", false)
	})
	raw := secret(t, "opaque-token-to-exchange")
	s.want(s.exchange(backend, raw), 400, "invalid_request") // not active
	raw = secret(t, "opaque-token-without-an-answer")
	i.set(raw, "500")
	s.want(s.exchange(backend, raw), 503, "not_ready")
	raw = secret(t, "opaque-token-that-is-good")
	i.set(raw, activeAnswer())
	got := s.want(s.exchange(backend, raw), 200, "").str("access_token")
	if sub := fmt.Sprint(claimsOf(t, got)["sub"]); !strings.HasPrefix(sub, "foreign:") {
		t.Errorf("sub %s", sub)
	}
	c := s.connect("/chat", bearer(got)).alive()
	n := i.count(raw)
	eventually(t, "it to be asked about again", func() bool { return i.count(raw) > n })
	c.alive()
	i.set(raw, `{"active":false}`)
	c.closes(3000, "token_revoked")
	s.refused(401, "token_revoked", "/chat", bearer(got))
}
