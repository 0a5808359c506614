package e2e_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	binenc "encoding/binary"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

const passkeyYAML = factorYAML + `
origins: ["http://ADDR", "http://localhost:7000"]
`

const passkeyPage = "http://localhost:7000"

var b64url = base64.RawURLEncoding

// authenticator is a device with one passkey, written from WebAuthn Level 3. A
// test that lies changes its fields.
type authenticator struct {
	t      testing.TB
	key    *ecdsa.PrivateKey
	id     []byte
	handle []byte
	rp     string
	origin string
	kind   string // of the client data; "": the right one
	flags  byte   // UP 1, UV 4, BE 8, BS 16
	count  uint32
}

func newAuthenticator(t testing.TB) *authenticator {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id := make([]byte, 32)
	_, _ = rand.Read(id)
	return &authenticator{t: t, key: key, id: id, rp: "localhost", origin: passkeyPage, flags: 1 | 4}
}

func (k *authenticator) clientData(kind, challenge string) []byte {
	if k.kind != "" {
		kind = k.kind
	}
	b, _ := json.Marshal(map[string]any{"type": kind, "challenge": challenge, "origin": k.origin, "crossOrigin": false})
	return b
}

func (k *authenticator) authData(extra byte) []byte {
	sum := sha256.Sum256([]byte(k.rp))
	return binenc.BigEndian.AppendUint32(append(sum[:], k.flags|extra), k.count)
}

func cborBytes(b []byte) []byte {
	return append(binenc.BigEndian.AppendUint16([]byte{0x59}, uint16(len(b))), b...)
}

// create answers the options of a registration.
func (k *authenticator) create(a *answer) map[string]any {
	k.t.Helper()
	options := a.json["publicKey"].(map[string]any)
	k.handle, _ = b64url.DecodeString(options["user"].(map[string]any)["id"].(string))
	point, err := k.key.PublicKey.Bytes()
	if err != nil {
		k.t.Fatal(err)
	}
	cose := append([]byte{0xa5, 1, 2, 3, 0x26, 0x20, 1, 0x21}, cborBytes(point[1:33])...)
	cose = append(append(cose, 0x22), cborBytes(point[33:])...)
	data := append(k.authData(64), make([]byte, 16)...)
	data = append(binenc.BigEndian.AppendUint16(data, uint16(len(k.id))), k.id...)
	data = append(data, cose...)
	object := append([]byte("\xa3\x63fmt\x64none\x67attStmt\xa0\x68authData"), cborBytes(data)...)
	return k.answer(map[string]any{
		"clientDataJSON": b64url.EncodeToString(k.clientData("webauthn.create", options["challenge"].(string))), "attestationObject": b64url.EncodeToString(object),
	})
}

// get answers the options of an assertion.
func (k *authenticator) get(a *answer) map[string]any {
	k.t.Helper()
	k.count++
	client := k.clientData("webauthn.get", a.json["publicKey"].(map[string]any)["challenge"].(string))
	data, sum := k.authData(0), sha256.Sum256(client)
	digest := sha256.Sum256(append(append([]byte{}, data...), sum[:]...))
	sig, err := ecdsa.SignASN1(rand.Reader, k.key, digest[:])
	if err != nil {
		k.t.Fatal(err)
	}
	return k.answer(map[string]any{
		"clientDataJSON": b64url.EncodeToString(client), "authenticatorData": b64url.EncodeToString(data),
		"signature": b64url.EncodeToString(sig), "userHandle": b64url.EncodeToString(k.handle),
	})
}

func (k *authenticator) answer(response map[string]any) map[string]any {
	id := b64url.EncodeToString(k.id)
	return map[string]any{"id": id, "rawId": id, "type": "public-key", "clientExtensionResults": map[string]any{}, "response": response}
}

func (s *server) register(token string, k *authenticator) *answer {
	s.t.Helper()
	asked := s.want(s.call("POST", "/auth/factors/webauthn/options", map[string]any{}, bearer(token)), 200, "")
	return s.call("POST", "/auth/factors/webauthn", map[string]any{"state": asked.str("state"), "credential": k.create(asked)}, bearer(token))
}

// passkeyLogin is a login with a passkey alone.
func (s *server) passkeyLogin(k *authenticator) *answer {
	s.t.Helper()
	asked := s.want(s.call("POST", "/auth/webauthn/options", map[string]any{}), 200, "")
	return s.call("POST", "/auth/webauthn", map[string]any{"state": asked.str("state"), "credential": k.get(asked)})
}

func TestMFAPasskeys(t *testing.T) {
	t.Parallel()
	s := start(t, newUpstream(t, echo), passkeyYAML)
	s.addUser("ann", "chat")
	in := s.login("ann")
	token := in.str("access_token")
	// A lie in the registration registers nothing.
	for name, lie := range map[string]func(*authenticator){
		"another origin":         func(k *authenticator) { k.origin = "https://evil.example" },
		"an origin that has not": func(k *authenticator) { k.origin = s.url },
		"another host":           func(k *authenticator) { k.rp = "evil.example" },
		"an assertion":           func(k *authenticator) { k.kind = "webauthn.get" },
		"nobody was there":       func(k *authenticator) { k.flags = 0 },
	} {
		k := newAuthenticator(t)
		lie(k)
		if a := s.register(token, k); a.status != 403 || a.code() != "factor_failed" {
			t.Errorf("registration, %s: %d %s", name, a.status, a.body)
		}
	}
	k := newAuthenticator(t)
	done := s.want(s.register(token, k), 200, "")
	var codes []string
	for _, c := range done.json["recovery_codes"].([]any) {
		codes = append(codes, secret(t, c.(string)))
	}
	if len(codes) != 10 || len(k.handle) != 32 || strings.Contains(string(k.handle), "ann") {
		t.Errorf("%d recovery codes, handle %x", len(codes), k.handle)
	}

	// Alone it is a login of two factors, of a device that knew its holder.
	out := s.want(s.passkeyLogin(k), 200, "")
	if got := amrOf(t, out); got != "[hwk mfa user]" {
		t.Errorf("amr %s", got)
	}
	s.connect("/admin", bearer(out.str("access_token"))).alive()
	s.want(s.register(out.str("access_token"), k), 409, "factor_exists")

	lies := map[string]func(*authenticator){
		"another origin":         func(k *authenticator) { k.origin = "https://evil.example" },
		"another host":           func(k *authenticator) { k.rp = "evil.example" },
		"a registration":         func(k *authenticator) { k.kind = "webauthn.create" },
		"nobody was there":       func(k *authenticator) { k.flags = 4 },
		"another key":            func(k *authenticator) { k.key = newAuthenticator(t).key },
		"another credential":     func(k *authenticator) { k.id = newAuthenticator(t).id },
		"another user":           func(k *authenticator) { k.handle = make([]byte, 32) },
		"it can be copied now":   func(k *authenticator) { k.flags |= 8 },
		"the counter stays":      func(k *authenticator) { k.count-- },
		"the counter went back":  func(k *authenticator) { k.count = 0 },
		"copied, not being able": func(k *authenticator) { k.flags |= 16 },
	}
	lie := func(name string, call func(*authenticator) *answer) {
		t.Helper()
		copied := *k
		lies[name](&copied)
		if a := call(&copied); a.status != 401 || a.code() != "factor_failed" {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	second := func(k *authenticator) *answer {
		half := s.want(s.tryLogin("ann", password(t, "ann")), 401, "factor_required")
		return s.call("POST", "/auth/login", map[string]any{"challenge": secret(t, half.str("challenge")), "credential": k.get(half)})
	}
	for name := range lies {
		lie(name, s.passkeyLogin)
		lie(name, second)
	}
	lies["it did not know its holder"] = func(k *authenticator) { k.flags = 1 }
	lie("it did not know its holder", s.passkeyLogin)
	lies["no user"] = func(k *authenticator) { k.handle = nil }
	lie("no user", s.passkeyLogin)

	// Beside a password it need not know its holder.
	k.flags = 1
	if got := amrOf(t, s.want(second(k), 200, "")); got != "[pwd hwk mfa]" {
		t.Errorf("amr %s", got)
	}
	k.flags = 1 | 4
	s.waitEvent("passkey_cloned")
	s.waitEvent("factor_failed")

	// An answer is good once, for what it was asked for, and for whom.
	asked := s.want(s.call("POST", "/auth/webauthn/options", map[string]any{}), 200, "")
	body := map[string]any{"state": asked.str("state"), "credential": k.get(asked)}
	s.want(s.call("POST", "/auth/webauthn", body), 200, "")
	s.want(s.call("POST", "/auth/webauthn", body), 401, "challenge_invalid")
	other := s.want(s.call("POST", "/auth/webauthn/options", map[string]any{}), 200, "")
	body["state"] = other.str("state")
	s.want(s.call("POST", "/auth/webauthn", body), 401, "factor_failed")
	verify := func(state string, credential any, more ...string) *answer {
		return s.call("POST", "/auth/factors/verify", map[string]any{"state": state, "credential": credential, "refresh_token": out.str("refresh_token")}, bearer(out.str("access_token")))
	}
	asked = s.want(s.call("POST", "/auth/webauthn/options", map[string]any{}), 200, "")
	s.want(verify(asked.str("state"), k.get(asked)), 401, "challenge_invalid")
	asked = s.want(s.call("POST", "/auth/factors/verify/options", map[string]any{}, bearer(out.str("access_token"))), 200, "")
	s.want(s.call("POST", "/auth/webauthn", map[string]any{"state": asked.str("state"), "credential": k.get(asked)}), 401, "challenge_invalid")
	s.want(verify(asked.str("state")+"A", k.get(asked)), 401, "challenge_invalid")
	s.want(verify("", k.get(asked)), 401, "challenge_invalid")
	s.want(verify(asked.str("state"), k.get(asked)), 200, "")
	for name, bad := range map[string]any{
		"null": nil, "a string": "x", "nothing": map[string]any{}, "no response": map[string]any{"id": "AAAA", "rawId": "AAAA", "type": "public-key"},
		"garbage": k.answer(map[string]any{"clientDataJSON": "AAAA", "authenticatorData": "AAAA", "signature": "AAAA", "userHandle": "AAAA"}),
	} {
		if a := s.call("POST", "/auth/webauthn", map[string]any{"state": other.str("state"), "credential": bad}); a.status != 401 && a.status != 400 {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}

	// Somebody else's device is no factor of ann's.
	s.addUser("bob", "chat")
	bob := newAuthenticator(t)
	s.want(s.register(s.login("bob").str("access_token"), bob), 200, "")
	half := s.want(s.tryLogin("ann", password(t, "ann")), 401, "factor_required")
	if fmt.Sprint(half.json["factors"]) != "[webauthn recovery]" {
		t.Errorf("factors %v", half.json["factors"])
	}
	s.want(s.call("POST", "/auth/login", map[string]any{"challenge": half.str("challenge"), "credential": bob.get(half)}), 401, "factor_failed")
	// A passkey that moves between devices says so.
	carol := newAuthenticator(t)
	carol.flags |= 8 | 16
	s.addUser("carol", "chat")
	s.want(s.register(s.login("carol").str("access_token"), carol), 200, "")
	if got := amrOf(t, s.want(s.passkeyLogin(carol), 200, "")); got != "[swk mfa user]" {
		t.Errorf("amr %s", got)
	}
	// An account that is disabled, or has lost its factors, has no passkey either.
	s.cli("user", "disable", "carol")
	s.want(s.passkeyLogin(carol), 401, "factor_failed")
	s.cli("user", "enable", "carol")
	s.want(s.passkeyLogin(carol), 200, "")
	s.cli("user", "reset-factors", "carol")
	s.want(s.passkeyLogin(carol), 401, "factor_failed")
}

// Where the public URL's host has no name, there is no passkey, and no error of ours.
func TestMFANoPasskeysAtAnAddress(t *testing.T) {
	t.Parallel()
	s := start(t, newUpstream(t, echo), factorYAML)
	s.want(s.call("POST", "/auth/webauthn/options", map[string]any{}), 403, "not_allowed")
	s.want(s.call("POST", "/auth/webauthn", map[string]any{"state": "x", "credential": map[string]any{}}), 403, "not_allowed")
	s.addUser("ann", "chat")
	s.want(s.call("POST", "/auth/factors/webauthn/options", map[string]any{}, bearer(s.login("ann").str("access_token"))), 403, "not_allowed")
}
