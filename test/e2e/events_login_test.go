package e2e_test

import (
	"crypto/ecdsa"
	"encoding/json"
	"maps"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// stated is a statement of the provider.
func (p *idp) stated(key *ecdsa.PrivateKey, typ string, c claims, changes ...claims) string {
	p.t.Helper()
	all := claims{"iss": p.url, "aud": "gw", "iat": time.Now().Unix(), "jti": b64(string(randomBytes(9)))}
	for _, change := range append([]claims{c}, changes...) {
		maps.Copy(all, change)
	}
	payload, err := json.Marshal(all)
	if err != nil {
		p.t.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "1"}}, (&jose.SignerOptions{}).WithType(jose.ContentType(typ)))
	if err != nil {
		p.t.Fatal(err)
	}
	sig, err := signer.Sign(payload)
	if err != nil {
		p.t.Fatal(err)
	}
	raw, err := sig.CompactSerialize()
	if err != nil {
		p.t.Fatal(err)
	}
	return secret(p.t, raw)
}

func (p *idp) logoutToken(c claims) string {
	return p.stated(p.key, "logout+jwt", claims{"events": claims{bclEvent: claims{}}}, c)
}

// SES-14 of sessions of our own that rest on a provider's login, and the logout
// that comes before the login's callback.
func TestSES14LogoutAtALoginProvider(t *testing.T) {
	t.Parallel()
	p := newIDP(t)
	sid := func(s string) {
		p.change(func() {
			p.bend = func(c map[string]any) { c["sid"], c["email"], c["email_verified"] = s, "Ann@Example.com", true }
		})
	}
	s := start(t, newUpstream(t, nil), idpYAML(p, `
events:
  transmitters:
    - {issuer: "`+p.url+`", audience: events, algorithms: [ES256], keys: {url: "`+p.url+`/jwks"}, subjects_of: corp}
`), idpFiles)
	open := func(session string) (*browser, *client) {
		t.Helper()
		sid(session)
		b := s.browser()
		return b, s.connect("/chat", bearer(b.in(b.login(p, "corp")))).alive()
	}
	one, live := open("x1")
	_, other := open("x2")
	// Another provider's key, and another client's token.
	s.want(s.logoutToken(p.stated(newIDP(t).key, "logout+jwt", claims{"sid": "x1", "events": claims{bclEvent: claims{}}})), 400, "invalid_request")
	s.want(s.logoutToken(p.logoutToken(claims{"sid": "x1", "aud": "another"})), 400, "invalid_request")
	s.want(s.logoutToken(p.logoutToken(claims{"sid": "x1"})), 200, "")
	live.closesSoon("logged_out")
	if a := s.refresh(one.jar["wsbouncer-refresh"]); a.status != 400 || a.code() != "invalid_grant" {
		t.Errorf("the session can be refreshed: %d %s", a.status, a.body)
	}
	other.alive()

	// The provider logs out while the browser is on its way back.
	sid("x3")
	late := s.browser()
	target, query := p.authorize(late.begin("corp"))
	s.want(s.logoutToken(p.logoutToken(claims{"sid": "x3"})), 200, "")
	late.out(late.get(target+"?"+query.Encode()), 403, "login_denied")

	// An event about the address that the provider had verified.
	set := p.stated(p.key, "secevent+jwt", claims{
		"aud": "events", "sub_id": claims{"format": "email", "email": "ann@example.com"}, "events": claims{risc + "account-disabled": claims{}},
	})
	if a := s.pushed(set); a.status != 202 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	other.closesSoon("subject_revoked")
	// A login that was vouched for before it is refused, one that comes after is not.
	p.change(func() {
		p.bend = func(c map[string]any) {
			c["sid"], c["email"], c["email_verified"], c["iat"] = "x4", "ann@example.com", true, time.Now().Add(-2*time.Second).Unix()
		}
	})
	b := s.browser()
	b.out(b.login(p, "corp"), 403, "login_denied")
	p.change(func() {
		p.bend = func(c map[string]any) {
			c["sid"], c["email"], c["email_verified"], c["iat"] = "x5", "ann@example.com", true, time.Now().Add(2*time.Second).Unix()
		}
	})
	b = s.browser()
	s.connect("/chat", bearer(b.in(b.login(p, "corp")))).alive()
}
