package authapi_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/internal/audit"
	"github.com/wsbouncer/wsbouncer/internal/session"
	"github.com/wsbouncer/wsbouncer/token"
)

const foreignSecret = "foreign-secret-9f2c7b1e4a6d8053-foreign"

// foreignIssuer is a trusted issuer that is not ours.
func foreignIssuer(t *testing.T) *token.Issuer {
	t.Helper()
	keys, err := token.Secret([]byte(foreignSecret), []string{"HS256"})
	if err != nil {
		t.Fatal(err)
	}
	return &token.Issuer{Name: "https://tenant.example", Audience: "chat", Algorithms: []string{"HS256"}, Keys: keys, AnyType: true, ScopeClaim: "scope", MaxLifetime: time.Hour}
}

func foreignToken(t *testing.T, life time.Duration) string {
	t.Helper()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: []byte(foreignSecret)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	raw, err := jwt.Signed(s).Claims(map[string]any{
		"iss": "https://tenant.example", "aud": "chat", "sub": "zoe", "sid": "foreign-session", "scope": "chat", "jti": "j" + now.String(),
		"iat": now.Unix(), "exp": now.Add(life).Unix(),
	}).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func (r *rig) ticket(body map[string]any, ws ...with) *answer {
	r.t.Helper()
	return r.do("POST", "/auth/ticket", body, ws...)
}

var lobby = map[string]any{"path": "/chat/lobby"}

func TestTKT01TicketsAreRandomAndForTheAuthenticated(t *testing.T) {
	r := newRig(t, setup{})
	r.want(r.ticket(lobby), 401, "token_missing")
	r.want(r.ticket(lobby, bearer("x.y.z")), 401, "token_malformed")
	access, _, _ := r.cookieLogin()
	r.want(r.ticket(lobby, cookies(access)), 403, "origin_denied")
	r.want(r.ticket(lobby, cookies(access), origin(evil)), 403, "origin_denied")
	seen := map[string]bool{}
	const n = 50
	for range n {
		a := r.want(r.ticket(lobby, cookies(access), origin(page)), 200, "")
		ticket := a.str("ticket")
		if len(ticket) < 22 || a.str("connection") == "" || a.json["expires_in"].(float64) > 30 || a.json["expires_in"].(float64) < 1 {
			t.Fatalf("answer: %s", a.body)
		}
		seen[ticket], seen[a.str("connection")] = true, true
	}
	if len(seen) != 2*n {
		t.Errorf("%d different values of %d", len(seen), 2*n)
	}
}

func TestTKT02TicketOpensOneConnectionWithItsID(t *testing.T) {
	r := newRig(t, setup{})
	access := r.login(anns, secret).str("access_token")
	a := r.want(r.ticket(lobby, bearer(access), origin(page)), 200, "")
	query := "?ticket=" + a.str("ticket")
	s, status := r.tryDial("/chat/lobby", query, http.Header{"Origin": {page}})
	if s == nil || s.id != a.str("connection") {
		t.Fatalf("ticket: %d", status)
	}
	if _, status := r.tryDial("/chat/lobby", query, http.Header{"Origin": {page}}); status != 401 {
		t.Errorf("again: %d", status)
	}
	if e := r.events(audit.TicketReplayed); len(e) != 1 || e[0].Subject != anns {
		t.Errorf("audit: %+v", e)
	}
}

func TestTKT03TicketIsBound(t *testing.T) {
	r := newRig(t, setup{})
	login := r.login(anns, secret)
	access := login.str("access_token")
	mint := func(body map[string]any, ws ...with) string {
		t.Helper()
		return "?ticket=" + r.want(r.ticket(body, append(ws, bearer(access))...), 200, "").str("ticket")
	}
	backend := map[string]any{"path": "/chat/lobby", "origin": strings.ToUpper(page)}
	for name, c := range map[string]struct {
		query, path string
		origin      http.Header
		want        int
	}{
		"another path":           {mint(lobby, origin(page)), "/chat/other", http.Header{"Origin": {page}}, 401},
		"no Origin":              {mint(lobby, origin(page)), "/chat/lobby", nil, 401},
		"an Origin unasked":      {mint(lobby), "/chat/lobby", http.Header{"Origin": {page}}, 401},
		"no browser":             {mint(lobby), "/chat/lobby", nil, 101},
		"minted by a backend":    {mint(backend), "/chat/lobby", http.Header{"Origin": {page}}, 101},
		"a backend's, no Origin": {mint(backend), "/chat/lobby", nil, 401},
	} {
		if _, status := r.tryDial(c.path, c.query, c.origin); status != c.want {
			t.Errorf("%s: %d, want %d", name, status, c.want)
		}
	}
	// It dies with its session.
	query := mint(lobby, origin(page))
	r.want(r.do("POST", "/auth/logout", nil, bearer(access)), 200, "")
	if _, status := r.tryDial("/chat/lobby", query, http.Header{"Origin": {page}}); status != 401 {
		t.Errorf("after logout: %d", status)
	}
	r.want(r.ticket(lobby, bearer(access)), 401, "token_revoked")
}

func TestTicketRefusals(t *testing.T) {
	r := newRig(t, setup{demand: wsbouncer.Demand{Scopes: []string{"chat", "chat:write"}}})
	r.addUser("reader", "quiet otters read all night", "chat")
	access := bearer(r.login(anns, secret).str("access_token"))
	for _, body := range []map[string]any{
		{}, {"path": ""}, {"path": 1}, {"path": "/chat/lobby", "room": "x"}, {"path": "/chat/lobby?x=y"}, {"path": "/chat/lobby#x"}, {"path": "/chat/" + strings.Repeat("x", 3000)},
	} {
		r.want(r.ticket(body, access), 400, "invalid_request")
	}
	r.want(r.ticket(map[string]any{"path": "/other"}, access), 404, "no_route")
	r.want(r.ticket(map[string]any{"path": "/chat/lobby", "origin": evil}, access), 403, "origin_denied")
	r.want(r.ticket(map[string]any{"path": "/chat/lobby", "origin": "null"}, access), 403, "origin_denied")
	r.want(r.ticket(map[string]any{"path": "/chat/lobby", "origin": "https://other.example"}, access, origin(page)), 400, "invalid_request")
	a := r.want(r.ticket(lobby, bearer(r.login("reader", "quiet otters read all night").str("access_token"))), 403, "insufficient_scope")
	if got := a.header.Get("WWW-Authenticate"); got != `Bearer error="insufficient_scope", scope="chat chat:write"` { // what the route needs, as the handshake says (RFC 6750 §3)
		t.Errorf("challenge %q", got)
	}
	closed := newRig(t, setup{demand: wsbouncer.Demand{TokenFrom: []string{"header"}}})
	closed.want(closed.ticket(lobby, bearer(closed.login(anns, secret).str("access_token"))), 403, "not_allowed")
}

func TestExtendByBearer(t *testing.T) {
	clock := &clock{}
	r := newRig(t, setup{session: func(o *session.Options) { o.Now = clock.now }})
	a := r.login(anns, secret)
	s := r.dial(a.str("access_token"))
	before := s.expires()
	clock.ahead(3 * time.Second)
	newer := r.want(r.refresh(a.str("refresh_token")), 200, "").str("access_token")
	body := map[string]any{"connections": []string{s.id, "unknown"}}
	r.want(r.do("POST", "/auth/extend", body), 401, "token_missing")
	access, _, _ := r.cookieLogin()
	r.want(r.do("POST", "/auth/extend", body, cookies(access), origin(page)), 401, "token_missing")
	r.want(r.do("POST", "/auth/extend", map[string]any{"connections": make([]string, 257)}, bearer(newer)), 400, "invalid_request")
	other := r.want(r.do("POST", "/auth/extend", body, bearer(r.login(anns, secret).str("access_token"))), 200, "")
	if got := other.json["extended"].([]any); len(got) != 0 || !s.expires().Equal(before) {
		t.Errorf("another session extended %v", got)
	}
	x := r.want(r.do("POST", "/auth/extend", body, bearer(newer)), 200, "")
	if got := x.json["extended"].([]any); len(got) != 1 || got[0] != s.id {
		t.Errorf("extended %v", got)
	}
	if at := int64(x.json["expires_at"].(float64)); at != s.expires().Unix() || !s.expires().After(before) {
		t.Errorf("expires_at %d, deadline %d", at, s.expires().Unix())
	}
}

func TestGatewayOnlyKeepsTicketsExtendAndHealth(t *testing.T) {
	r := newRig(t, setup{gateway: true, foreign: foreignIssuer(t)})
	for _, call := range [][2]string{
		{"POST", "/auth/login"}, {"POST", "/auth/token"}, {"POST", "/auth/revoke"}, {"POST", "/auth/logout"}, {"GET", "/auth/session"},
		{"GET", "/auth/sessions"}, {"DELETE", "/auth/sessions/x"}, {"POST", "/auth/password"}, {"GET", "/.well-known/oauth-authorization-server"},
	} {
		if call[1] == "/.well-known/oauth-authorization-server" {
			continue // not below our prefix: whoever has the root answers
		}
		r.want(r.do(call[0], call[1], nil), 404, "no_route")
	}
	short, long := foreignToken(t, time.Minute), foreignToken(t, 2*time.Minute)
	a := r.want(r.ticket(lobby, bearer(short)), 200, "")
	s, status := r.tryDial("/chat/lobby", "?ticket="+a.str("ticket"), nil)
	if s == nil {
		t.Fatalf("ticket: %d", status)
	}
	x := r.want(r.do("POST", "/auth/extend", map[string]any{"connections": []string{s.id}}, bearer(long)), 200, "")
	if got := x.json["extended"].([]any); len(got) != 1 {
		t.Errorf("extended %v", got)
	}
	r.want(r.do("GET", "/healthz", nil), 200, "")
	r.want(r.do("GET", "/readyz", nil), 200, "")
}
