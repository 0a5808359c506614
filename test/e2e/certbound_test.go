package e2e_test

import (
	"bufio"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// A holder speaks to a server by connections that are opened with its certificate.
type holder struct {
	s    *server
	pair []tls.Certificate
}

// cnf binds a token to the certificate (RFC 8705 §3.1).
func (h holder) cnf() claims {
	return claims{"cnf": map[string]string{"x5t#S256": thumbprint(h.pair[0].Certificate[0])}}
}

func thumbprint(der []byte) string {
	sum := sha256.Sum256(der)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func (h holder) dial() *client {
	h.s.t.Helper()
	conn, err := h.s.tlsConn(&tls.Config{InsecureSkipVerify: true, ServerName: "rt.example.com", Certificates: h.pair, NextProtos: []string{"http/1.1"}})
	if err != nil {
		h.s.t.Fatal(err)
	}
	return &client{t: h.s.t, conn: conn, br: bufio.NewReader(conn)}
}

func (h holder) handshake(target string, lines ...string) (*client, *answer) {
	h.s.t.Helper()
	c := h.dial().send(h.s.upgrade(target, append(lines, siteHost)...))
	return c, c.response()
}

func (h holder) connect(target string, lines ...string) *client {
	h.s.t.Helper()
	c, a := h.handshake(target, lines...)
	if a.status != http.StatusSwitchingProtocols {
		h.s.t.Fatalf("%s: %d %s", target, a.status, a.body)
	}
	return c
}

func (h holder) refused(target string, lines ...string) {
	h.s.t.Helper()
	if _, a := h.handshake(target, lines...); a.status != http.StatusUnauthorized || a.code() != "token_binding" {
		h.s.t.Errorf("%s %q: %d %q", target, lines, a.status, a.code())
	}
}

func (h holder) call(path string, body any, lines ...string) *answer {
	h.s.t.Helper()
	b, err := json.Marshal(body)
	if err != nil {
		h.s.t.Fatal(err)
	}
	head := fmt.Sprintf("POST %s HTTP/1.1\r\n%s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s\r\n\r\n%s",
		path, siteHost, len(b), strings.Join(lines, "\r\n"), b)
	a := h.dial().send(head).response()
	secret(h.s.t, a.str("ticket"))
	return a
}

// POP-01: a token that is bound to a client's certificate is good on connections
// opened with it and on no others, whatever carries it and whatever headers say.
// That nobody gets an answer without a certificate at all is TLS-03.
func TestPOP01CertificateBoundTokens(t *testing.T) {
	t.Parallel()
	up, iss, ca, clients := newUpstream(t, echo), newIssuer(t, "https://idp.example"), newAuthority(t), newAuthority(t)
	s := start(t, up, trustYAML(iss.name)+`
public_url: https://rt.example.com
tls: {cert: cert.pem, key: key.pem, client_ca: clients.pem}
trusted_proxies: [127.0.0.1]
issuer: {}
routes:
  - {path: /chat, upstream: "ws://UPSTREAM", token_from: [ticket, header, subprotocol, query, cookie], in_band_refresh: true}
  - {path: /first, upstream: "ws://UPSTREAM", token_from: [first_message], protocols: [chat]}
`, iss.trusted, ca.served, func(s *server) { s.file("clients.pem", clients.pem) })
	ann, eve := holder{s, clients.clientPair()}, holder{s, clients.clientPair()}
	hers := iss.token(ann.cnf())

	carriers := map[string]func(token string) (target string, lines []string){
		"header": func(token string) (string, []string) { return "/chat", []string{bearer(token)} },
		"query":  func(token string) (string, []string) { return "/chat?token=" + token, nil },
		"subprotocol": func(token string) (string, []string) {
			return "/chat", []string{"Sec-WebSocket-Protocol: bearer, " + token}
		},
		"cookie": func(token string) (string, []string) {
			return "/chat", []string{"Origin: https://rt.example.com", "Cookie: __Host-wsbouncer=" + token}
		},
	}
	forged := []string{
		"X-Forwarded-Client-Cert: Hash=" + thumbprint(ann.pair[0].Certificate[0]),
		"Client-Cert: :" + base64.StdEncoding.EncodeToString(ann.pair[0].Certificate[0]) + ":",
	}
	for name, carry := range carriers {
		target, lines := carry(hers)
		ann.connect(target, lines...).text(name).receives(name)
		eve.refused(target, lines...)
		eve.refused(target, append(lines, forged...)...)
	}
	first := func(h holder) *client {
		c := h.connect("/first", "Sec-WebSocket-Protocol: chat")
		return c.text(`{"wsbouncer":"auth","token":"` + hers + `"}`)
	}
	c := first(ann)
	if v := c.reply(); v["wsbouncer"] != "ok" {
		t.Errorf("the first message: %v", v)
	}
	c.text("first").receives("first")
	first(eve).closes(3000, "token_binding")

	// A certificate makes no other token better, and no other binding is proved by it.
	for name, cnf := range map[string]any{
		"both":         map[string]string{"x5t#S256": thumbprint(ann.pair[0].Certificate[0]), "jkt": thumbprint(nil)},
		"of a key":     map[string]string{"jkt": thumbprint(ann.pair[0].Certificate[0])},
		"SHA-1's name": map[string]string{"x5t": thumbprint(ann.pair[0].Certificate[0])},
		"padded":       map[string]string{"x5t#S256": thumbprint(ann.pair[0].Certificate[0]) + "="},
		"the issuer's": map[string]string{"x5t#S256": thumbprint(clients.cert.Raw)},
		"empty":        map[string]string{},
		"text":         thumbprint(ann.pair[0].Certificate[0]),
		"null":         json.RawMessage("null"),
	} {
		if _, a := ann.handshake("/chat", bearer(iss.token(claims{"cnf": cnf}))); a.status != http.StatusUnauthorized || a.code() != "token_binding" {
			t.Errorf("cnf %s: %d %q", name, a.status, a.code())
		}
	}
	p := newProver(t)
	ann.refused("/chat", p.proves("GET", "https://rt.example.com/chat", hers)...)
	eve.connect("/chat", bearer(iss.token()))

	// A ticket is as bound as the token that it was minted with.
	ticket := func(h holder, token string) *answer {
		return h.call("/auth/ticket", map[string]string{"path": "/chat"}, bearer(token))
	}
	s.want(ticket(eve, hers), 401, "token_binding")
	a := s.want(ticket(ann, hers), 200, "")
	ann.connect("/chat?ticket=" + a.str("ticket")).text("ticket").receives("ticket")
	stolen := s.want(ticket(ann, hers), 200, "")
	eve.refused("/chat?ticket="+stolen.str("ticket"), forged...)
}

// POP-01: what renews a connection is bound to the certificate that it began with.
func TestPOP01CertificateBoundRenewal(t *testing.T) {
	t.Parallel()
	up, iss, ca, clients := newUpstream(t, echo), newIssuer(t, "https://idp.example"), newAuthority(t), newAuthority(t)
	s := start(t, up, trustYAML(iss.name)+`
public_url: https://rt.example.com
tls: {cert: cert.pem, key: key.pem, client_ca: clients.pem}
trusted_proxies: [127.0.0.1]
issuer: {}
routes:
  - {path: /chat, upstream: "ws://UPSTREAM", in_band_refresh: true}
`, iss.trusted, ca.served, func(s *server) { s.file("clients.pem", clients.pem) })
	ann, eve := holder{s, clients.clientPair()}, holder{s, clients.clientPair()}
	live := ann.connect("/chat", bearer(iss.token(ann.cnf())))
	later := func(n int64) claims { return expires(inSeconds(300 + n)) }
	extend := func(h holder, token string) *answer {
		return h.call("/auth/extend", map[string]any{"connections": []string{live.id}}, bearer(token))
	}
	extended := func(a *answer) int {
		ids, _ := s.want(a, 200, "").json["extended"].([]any)
		return len(ids)
	}
	theirs := iss.token(eve.cnf(), later(100))

	// Over the API: a token is used with its own certificate, and counts where that is the connection's.
	s.want(extend(ann, theirs), 401, "token_binding")
	if extended(extend(eve, theirs)) != 0 || extended(extend(ann, iss.token(later(100)))) != 0 {
		t.Error("extended by a token of another binding")
	}
	if extended(extend(ann, iss.token(ann.cnf(), later(10)))) != 1 {
		t.Error("not extended by a token of the same certificate")
	}

	// Over the connection, which takes a refresh now and then only.
	live.text(refreshMessage(theirs)).receives(`{"wsbouncer":"error","code":"token_binding"}`)
	live.text("alive").receives("alive")
	at := inSeconds(400)
	other := ann.connect("/chat", bearer(iss.token(ann.cnf())))
	other.text(refreshMessage(iss.token(ann.cnf(), expires(at)))).replies("ok", at)

	// A token that is not bound does not free a connection from its certificate, nor is
	// one that began without a binding given one.
	other = ann.connect("/chat", bearer(iss.token(ann.cnf())))
	other.text(refreshMessage(iss.token(later(500)))).closes(3003, "not_allowed")
	other = ann.connect("/chat", bearer(iss.token()))
	other.text(refreshMessage(iss.token(ann.cnf(), later(500)))).receives(`{"wsbouncer":"error","code":"token_binding"}`)
}
