package e2e_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// A prover makes DPoP proofs (RFC 9449) with a key of its own.
type prover struct {
	t   testing.TB
	key *ecdsa.PrivateKey
}

func newProver(t testing.TB) *prover {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &prover{t, key}
}

// proof is the value of a DPoP header; change may make header or claims wrong.
func (p *prover) proof(method, uri, access string, change ...func(header, claims map[string]any)) string {
	p.t.Helper()
	public, err := json.Marshal(jose.JSONWebKey{Key: p.key.Public()})
	if err != nil {
		p.t.Fatal(err)
	}
	header := map[string]any{"typ": "dpop+jwt", "alg": "ES256", "jwk": json.RawMessage(public)}
	claims := map[string]any{"jti": rand.Text(), "htm": method, "htu": uri, "iat": time.Now().Unix()}
	if access != "" {
		sum := sha256.Sum256([]byte(access))
		claims["ath"] = base64.RawURLEncoding.EncodeToString(sum[:])
	}
	for _, f := range change {
		f(header, claims)
	}
	part := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			p.t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	input := part(header) + "." + part(claims)
	sum := sha256.Sum256([]byte(input))
	r, s, err := ecdsa.Sign(rand.Reader, p.key, sum[:])
	if err != nil {
		p.t.Fatal(err)
	}
	sig := make([]byte, 64)
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return input + "." + base64.RawURLEncoding.EncodeToString(sig)
}

// proves are the header lines of a call with a bound token.
func (p *prover) proves(method, uri, access string, change ...func(header, claims map[string]any)) []string {
	return []string{"Authorization: DPoP " + access, "DPoP: " + p.proof(method, uri, access, change...)}
}

// loginBound logs in with a proof of p's key.
func (s *server) loginBound(name string, p *prover, lines ...string) *answer {
	s.t.Helper()
	lines = append(lines, "DPoP: "+p.proof("POST", s.url+"/auth/login", ""))
	return s.want(s.call("POST", "/auth/login", map[string]any{"username": name, "password": password(s.t, name)}, lines...), 200, "")
}

const boundYAML = `
issuer: {}
routes:
  - {path: /chat, upstream: "ws://UPSTREAM", token_from: [ticket, header, subprotocol, query, cookie], in_band_refresh: true}
  - {path: /first, upstream: "ws://UPSTREAM", token_from: [first_message], protocols: [chat]}
`

// POP-02: a token that is bound to a key is no bearer token anywhere, and each
// defect of a proof refuses it.
func TestPOP02BoundTokensNeedTheirProof(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, echo)
	s := start(t, up, boundYAML)
	s.addUser("ann", "chat")
	p, other := newProver(t), newProver(t)
	in := s.loginBound("ann", p)
	access := secret(t, in.str("access_token"))
	if in.str("token_type") != "DPoP" {
		t.Errorf("token_type %q", in.str("token_type"))
	}
	chat := s.url + "/chat"

	// Without a proof, in every place.
	s.refused(401, "token_binding", "/chat", bearer(access))
	s.refused(401, "token_binding", "/chat?token="+access)
	s.refused(401, "token_binding", "/chat", "Sec-WebSocket-Protocol: bearer, "+access)
	s.refused(401, "token_binding", "/chat", "Origin: "+s.url, "Cookie: wsbouncer="+access)
	s.refused(401, "token_binding", "/chat", bearer(access), "DPoP: "+p.proof("GET", chat, access))
	for _, call := range [][2]string{{"GET", "/auth/session"}, {"POST", "/auth/ticket"}, {"POST", "/auth/extend"}, {"GET", "/auth/sessions"}} {
		s.want(s.call(call[0], call[1], map[string]any{"path": "/chat"}, bearer(access)), 401, "token_binding")
	}

	// With it, and never twice.
	lines := p.proves("GET", chat, access)
	s.connect("/chat", lines...).text("hello").receives("hello")
	if h := up.last().head; strings.Contains(strings.ToLower(h), "dpop") || strings.Contains(h, access) {
		t.Errorf("the upstream saw a credential:\n%s", h)
	}
	replayed := s.refused(401, "invalid_dpop_proof", "/chat", lines...)
	if got := replayed.header.Get("WWW-Authenticate"); !strings.HasPrefix(got, `DPoP error="invalid_dpop_proof", algs="ES256 `) {
		t.Errorf("WWW-Authenticate %q", got)
	}
	s.connect("/chat?a=1", p.proves("GET", "ws"+strings.TrimPrefix(chat, "http"), access)...)

	set := func(in, name string, value any) func(header, claims map[string]any) {
		return func(header, claims map[string]any) {
			into := map[string]map[string]any{"header": header, "claims": claims}[in]
			if into[name] = value; value == nil {
				delete(into, name)
			}
		}
	}
	private, err := json.Marshal(jose.JSONWebKey{Key: p.key})
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(header, claims map[string]any){
		"typ":             set("header", "typ", "JWT"),
		"no typ":          set("header", "typ", nil),
		"alg none":        set("header", "alg", "none"),
		"alg HS256":       set("header", "alg", "HS256"),
		"alg of no key":   set("header", "alg", "ES384"),
		"no jwk":          set("header", "jwk", nil),
		"a private jwk":   set("header", "jwk", json.RawMessage(private)),
		"a symmetric jwk": set("header", "jwk", map[string]string{"kty": "oct", "k": "AAAA"}),
		"another's jwk":   set("header", "jwk", jose.JSONWebKey{Key: other.key.Public()}),
		"crit":            set("header", "crit", []string{"exp"}),
		"htm":             set("claims", "htm", "POST"),
		"no htm":          set("claims", "htm", nil),
		"htu, path":       set("claims", "htu", s.url+"/other"),
		"htu, host":       set("claims", "htu", "http://evil.example/chat"),
		"htu, scheme":     set("claims", "htu", "https"+strings.TrimPrefix(chat, "http")),
		"htu, query":      set("claims", "htu", chat+"?a=1"),
		"htu, fragment":   set("claims", "htu", chat+"#a"),
		"no htu":          set("claims", "htu", nil),
		"old":             set("claims", "iat", time.Now().Add(-2*time.Minute).Unix()),
		"of the future":   set("claims", "iat", time.Now().Add(2*time.Minute).Unix()),
		"iat a text":      set("claims", "iat", "1"),
		"no iat":          set("claims", "iat", nil),
		"no jti":          set("claims", "jti", nil),
		"empty jti":       set("claims", "jti", ""),
		"no ath":          set("claims", "ath", nil),
		"ath of another":  set("claims", "ath", base64.RawURLEncoding.EncodeToString(make([]byte, 32))),
	} {
		a := s.refused(401, "invalid_dpop_proof", "/chat", p.proves("GET", chat, access, change)...)
		if got := a.header.Get("WWW-Authenticate"); !strings.HasPrefix(got, `DPoP error="invalid_dpop_proof"`) {
			t.Errorf("%s: WWW-Authenticate %q", name, got)
		}
	}
	s.refused(401, "invalid_dpop_proof", "/chat", "Authorization: DPoP "+access)
	s.refused(401, "invalid_dpop_proof", "/chat", append(p.proves("GET", chat, access), "DPoP: "+p.proof("GET", chat, access))...)
	s.refused(401, "token_binding", "/chat", other.proves("GET", chat, access)...)
	s.refused(400, "credential_ambiguous", "/chat", append(p.proves("GET", chat, access), bearer(access))...)

	// A token of nobody's key does not become one by a proof.
	plain := s.login("ann").str("access_token")
	s.refused(401, "token_binding", "/chat", p.proves("GET", chat, plain)...)
	s.connect("/chat", bearer(plain))
}

// POP-02: tickets carry the binding; refreshes, extensions and messages need the
// same key.
func TestPOP02BoundSessions(t *testing.T) {
	t.Parallel()
	s := start(t, newUpstream(t, echo), boundYAML)
	s.addUser("ann", "chat")
	p, other := newProver(t), newProver(t)
	in := s.loginBound("ann", p)
	access, refresh := secret(t, in.str("access_token")), secret(t, in.str("refresh_token"))
	endpoint := s.url + "/auth/token"

	a := s.want(s.call("POST", "/auth/ticket", map[string]any{"path": "/chat"}, p.proves("POST", s.url+"/auth/ticket", access)...), 200, "")
	c := s.connect("/chat?ticket=" + secret(t, a.str("ticket")))
	cid := a.str("connection")

	// Neither without, nor with another's key, nor with a defect; and nothing is spent by that.
	s.want(s.refresh(refresh), 400, "invalid_grant")
	s.want(s.refreshWith(refresh, cid, "DPoP: "+other.proof("POST", endpoint, "")), 400, "invalid_grant")
	s.want(s.refreshWith(refresh, cid, "DPoP: "+p.proof("GET", endpoint, "")), 400, "invalid_dpop_proof")
	// The operator can see that somebody has the refresh token of a key that is not theirs.
	s.waitLog(`"event":"proof_refused"`, `"error":"invalid_grant"`, `"subject"`, `"session":"`+in.str("session_id")+`"`)
	s.waitLog(`"event":"proof_refused"`, `"error":"invalid_dpop_proof"`)
	proof := "DPoP: " + p.proof("POST", endpoint, "")
	b := s.want(s.refreshWith(refresh, cid, proof), 200, "")
	if ids, _ := b.json["extended"].([]any); len(ids) != 1 || b.str("token_type") != "DPoP" {
		t.Errorf("a refresh with the key: %v", b.json)
	}
	next, newer := secret(t, b.str("refresh_token")), secret(t, b.str("access_token"))
	s.want(s.refreshWith(next, cid, proof), 400, "invalid_dpop_proof")

	// A session without a key does not get one, nor do cookies.
	plain := s.login("ann")
	s.want(s.refreshWith(plain.str("refresh_token"), "", "DPoP: "+p.proof("POST", endpoint, "")), 400, "invalid_grant")
	s.want(s.call("POST", "/auth/login", map[string]any{"username": "ann", "password": password(t, "ann"), "cookie": true},
		"Origin: "+s.url, "DPoP: "+p.proof("POST", s.url+"/auth/login", "")), 400, "invalid_request")
	s.want(s.call("POST", "/auth/login", map[string]any{"username": "ann", "password": password(t, "ann")}, "DPoP: nonsense"), 400, "invalid_dpop_proof")

	extend := func(with *prover, access string) []any {
		a := s.want(s.call("POST", "/auth/extend", map[string]any{"connections": []string{cid}}, with.proves("POST", s.url+"/auth/extend", access)...), 200, "")
		ids, _ := a.json["extended"].([]any)
		return ids
	}
	if len(extend(p, newer)) != 1 {
		t.Error("not extended with the same key")
	}
	theirs := s.loginBound("ann", other)
	if len(extend(other, theirs.str("access_token"))) != 0 {
		t.Error("extended with another key")
	}

	// Over the connection itself there is no proof to be had.
	c.text(`{"wsbouncer":"refresh","token":"` + newer + `"}`).receives(`{"wsbouncer":"error","code":"token_binding"}`)
	c.text("alive").receives("alive")

	first, answer := s.handshake("/first", "Sec-WebSocket-Protocol: chat")
	if answer.status != http.StatusSwitchingProtocols {
		t.Fatal(answer.status)
	}
	first.text(`{"wsbouncer":"auth","token":"`+newer+`"}`).closes(3000, "token_binding")

	doc := s.call("GET", "/.well-known/oauth-authorization-server", nil)
	if algs, _ := doc.json["dpop_signing_alg_values_supported"].([]any); len(algs) == 0 || algs[0] != "ES256" {
		t.Errorf("metadata: %v", doc.json)
	}

	// Whoever holds a token may end it.
	s.want(s.call("POST", "/auth/revoke", url.Values{"token": {access}}), 200, "")
	c.closes(3000, "token_revoked")
}

func (s *server) refreshWith(token, cid string, lines ...string) *answer {
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}}
	if cid != "" {
		form.Set("connection", cid)
	}
	return s.call("POST", "/auth/token", form, lines...)
}

// POP-02: where nonces are required, a proof without one is told of one.
func TestPOP02Nonce(t *testing.T) {
	t.Parallel()
	s := start(t, newUpstream(t, echo), "dpop: {nonce: required}\n"+boundYAML)
	s.addUser("ann", "chat")
	p := newProver(t)
	with := func(nonce string) func(header, claims map[string]any) {
		return func(_, claims map[string]any) { claims["nonce"] = nonce }
	}
	login := func(change ...func(header, claims map[string]any)) *answer {
		return s.call("POST", "/auth/login", map[string]any{"username": "ann", "password": password(t, "ann")},
			"DPoP: "+p.proof("POST", s.url+"/auth/login", "", change...))
	}
	a := s.want(login(), 400, "use_dpop_nonce")
	nonce := a.header.Get("DPoP-Nonce")
	if nonce == "" {
		t.Fatal("no DPoP-Nonce")
	}
	s.want(login(with("invented")), 400, "use_dpop_nonce")
	s.want(login(with(nonce[:len(nonce)-2]+"AA")), 400, "use_dpop_nonce")
	in := s.want(login(with(nonce)), 200, "")
	access := secret(t, in.str("access_token"))
	r := s.refused(401, "use_dpop_nonce", "/chat", p.proves("GET", s.url+"/chat", access)...)
	if got := r.header.Get("WWW-Authenticate"); !strings.HasPrefix(got, `DPoP error="use_dpop_nonce"`) || r.header.Get("DPoP-Nonce") == "" {
		t.Errorf("%q, DPoP-Nonce %q", got, r.header.Get("DPoP-Nonce"))
	}
	s.connect("/chat", p.proves("GET", s.url+"/chat", access, with(r.header.Get("DPoP-Nonce")))...)
	s.want(s.call("POST", "/auth/ticket", map[string]any{"path": "/chat"}, p.proves("POST", s.url+"/auth/ticket", access)...), 401, "use_dpop_nonce")
}
