package e2e_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/wsbouncer/wsbouncer/internal/frame"
)

// keyring is the keys of the issuers that vectors/tokens.json speaks of.
type keyring map[string]any

func newKeyring(t *testing.T) keyring {
	t.Helper()
	k := keyring{"secret": []byte(base64.RawStdEncoding.EncodeToString(randomBytes(48)))}
	add := func(name string, key any, err error) {
		if err != nil {
			t.Fatal(err)
		}
		k[name] = key
	}
	for name, curve := range map[string]elliptic.Curve{"p256": elliptic.P256(), "p256-other": elliptic.P256(), "p384": elliptic.P384(), "p521": elliptic.P521()} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		add(name, key, err)
	}
	for _, name := range []string{"rsa", "rsa-other"} {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		add(name, key, err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	add("ed25519", ed, err)
	return k
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

func (k keyring) public(name string) any { return k[name].(crypto.Signer).Public() }

// set is a JWKS of keys "name kid alg".
func (k keyring) set(t *testing.T, keys ...string) string {
	t.Helper()
	var set jose.JSONWebKeySet
	for _, key := range keys {
		f := strings.Fields(key)
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: k.public(f[0]), KeyID: f[1], Algorithm: f[2], Use: "sig"})
	}
	b, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func (k keyring) spki(t *testing.T) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(k.public("rsa"))
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// forge signs any header and payload, well-formed or not, with the standard
// library alone. alg none does not sign.
func forge(t *testing.T, alg string, key any, header, payload string) string {
	t.Helper()
	input := b64(header) + "." + b64(payload)
	if alg == "none" {
		return input + "."
	}
	return input + "." + b64(string(signature(t, alg, key, input)))
}

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

func signature(t *testing.T, alg string, key any, input string) (sig []byte) {
	t.Helper()
	if alg == "EdDSA" {
		return ed25519.Sign(key.(ed25519.PrivateKey), []byte(input))
	}
	hash := map[string]crypto.Hash{"256": crypto.SHA256, "384": crypto.SHA384, "512": crypto.SHA512}[alg[2:]]
	h := hash.New()
	h.Write([]byte(input))
	sum := h.Sum(nil)
	err := errors.New("no such algorithm: " + alg)
	switch alg[:2] {
	case "HS":
		mac := hmac.New(hash.New, key.([]byte))
		mac.Write([]byte(input))
		return mac.Sum(nil)
	case "RS":
		sig, err = rsa.SignPKCS1v15(rand.Reader, key.(*rsa.PrivateKey), hash, sum)
	case "PS":
		sig, err = rsa.SignPSS(rand.Reader, key.(*rsa.PrivateKey), hash, sum, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
	case "ES":
		k := key.(*ecdsa.PrivateKey)
		r, s, signErr := ecdsa.Sign(rand.Reader, k, sum)
		if err = signErr; err == nil {
			sig = pair(r, s, (k.Params().BitSize+7)/8)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

// pair is r and s as a JWS has them.
func pair(r, s *big.Int, size int) []byte {
	sig := make([]byte, 2*size)
	r.FillBytes(sig[:size])
	s.FillBytes(sig[size:])
	return sig
}

// vector is a case of vectors/tokens.json, which says itself how it is read.
type vector struct {
	Row, Name, Expect, Issuer, Alg, Key, Kid, Signature, Text, Subject string

	Header, Payload map[string]any
	HeaderRaw       *string `json:"header_raw"`
	PayloadRaw      *string `json:"payload_raw"`
}

type vectorFile struct {
	Base    vector
	Issuers map[string]struct{ Iss, Kid string }
	Cases   []vector
}

var placeholder = regexp.MustCompile(`"?\$\{now([+-]\d+)?\}"?`)

// token is what the case describes; "" where only the program itself could sign
// it, or where it is about bytes that token's own tests change.
func (f *vectorFile) token(t *testing.T, k keyring, c vector) string {
	t.Helper()
	set := func(v *string, otherwise string) {
		if *v == "" {
			*v = otherwise
		}
	}
	set(&c.Issuer, f.Base.Issuer)
	set(&c.Alg, f.Base.Alg)
	set(&c.Kid, f.Issuers[c.Issuer].Kid)
	if c.Issuer == "own" {
		return ""
	}
	own := map[string]string{"a": "p256", "b": "p256-other", "pem": "rsa", "secret": "secret", "many": map[string]string{"rsa-rs256": "rsa", "rsa-ps256": "rsa-other"}[c.Kid]}[c.Issuer]
	set(&own, c.Kid)
	set(&c.Key, own)
	if name, ok := map[string]string{"rsa-rs256": "rsa", "rsa-ps256": "rsa-other"}[c.Key]; ok {
		c.Key = name
	}
	fill := func(raw *string, base, patch map[string]any) string {
		var text string
		if raw != nil {
			text = *raw
		} else {
			merged := maps.Clone(base)
			maps.Copy(merged, patch)
			for name, v := range merged {
				if v == nil {
					delete(merged, name)
				}
			}
			b, err := json.Marshal(merged)
			if err != nil {
				t.Fatal(err)
			}
			text = string(b)
		}
		text = placeholder.ReplaceAllStringFunc(text, func(m string) string {
			offset, _ := strconv.Atoi(placeholder.FindStringSubmatch(m)[1])
			return strconv.FormatInt(time.Now().Unix()+int64(offset), 10)
		})
		return strings.NewReplacer("${iss}", f.Issuers[c.Issuer].Iss, "${alg}", c.Alg, "${kid}", c.Kid).Replace(text)
	}
	raw := forge(t, c.Alg, k[c.Key], fill(c.HeaderRaw, f.Base.Header, c.Header), fill(c.PayloadRaw, f.Base.Payload, c.Payload))
	cut := strings.LastIndexByte(raw, '.') + 1
	switch c.Signature {
	case "":
	case "none":
		raw = raw[:cut]
	case "zeros":
		raw = raw[:cut] + b64(string(make([]byte, 64)))
	case "short":
		sig, _ := base64.RawURLEncoding.DecodeString(raw[cut:])
		raw = raw[:cut] + b64(string(sig[1:]))
	case "long":
		sig, _ := base64.RawURLEncoding.DecodeString(raw[cut:])
		raw = raw[:cut] + b64(string(sig)+"\x00")
	default:
		return ""
	}
	parts := strings.Split(raw, ".")
	switch c.Text {
	case "":
		return raw
	case "two parts":
		return parts[0] + "." + parts[1]
	case "trailing dot":
		return raw + "."
	case "padding":
		return raw + "="
	case "newline":
		return raw[:len(raw)-4] + "\n" + raw[len(raw)-4:]
	case "space":
		return raw[:len(raw)-4] + " " + raw[len(raw)-4:]
	case "percent":
		return raw[:len(raw)-4] + "%" + raw[len(raw)-4:]
	case "plus":
		return raw[:len(raw)-1] + "+"
	case "leading space":
		return " " + raw
	case "trailing newline":
		return raw + "\n"
	case "NUL at the end":
		return raw + "\x00"
	case "unused bits": // the last character of 64 bytes has four
		const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
		return raw[:len(raw)-1] + string(alphabet[strings.IndexByte(alphabet, raw[len(raw)-1])+1])
	case "other payload":
		return parts[0] + "." + b64(`{"iss":"https://a.example","sub":"admin","aud":"gw","exp":4102444800}`) + "." + parts[2]
	case "flattened":
		return fmt.Sprintf(`{"protected":%q,"payload":%q,"signature":%q}`, parts[0], parts[1], parts[2])
	case "general":
		return fmt.Sprintf(`{"payload":%q,"signatures":[{"protected":%q,"signature":%q}]}`, parts[1], parts[0], parts[2])
	case "jwe":
		return raw + ".AAAA.AAAA"
	}
	return ""
}

// inHeader are the tokens that mean the same in a header as anywhere.
var inHeader = regexp.MustCompile(`^[A-Za-z0-9._~+/=-]+$`)

// offer is a handshake with any text as its token.
func (s *server) offer(token string) *answer {
	s.t.Helper()
	target, lines := "/ws", []string{bearer(token)}
	if !inHeader.MatchString(token) {
		target, lines = "/ws?token="+url.QueryEscape(token), nil
	}
	c, a := s.handshake(target, lines...)
	c.conn.Close()
	return a
}

func TestJWT(t *testing.T) {
	t.Parallel()
	up, k := newUpstream(t, nil), newKeyring(t)
	var canaryHits atomic.Int32
	canary := newUpstream(t, func(*upConn) { canaryHits.Add(1) })
	s := start(t, up, `
trust:
  - {issuer: "https://a.example", audience: gw, algorithms: [ES256, RS256], keys: {file: a.json}, leeway: 10s}
  - {issuer: "https://b.example", audience: gw, algorithms: [ES256], keys: {file: b.json}, leeway: 0s, type: any, scope_claim: scp}
  - {issuer: "https://many.example", audience: gw, algorithms: [RS256, RS384, PS256, ES256, ES384, ES512, EdDSA], keys: {file: many.json}, leeway: 0s}
  - {issuer: "https://secret.example", audience: gw, algorithms: [HS256], keys: {secret_file: hs.key}, leeway: 0s}
  - {issuer: "https://pem.example", audience: gw, algorithms: [RS256], keys: {pem: public.pem}, leeway: 0s}
`+generous()+`
routes:
  - {path: /ws, upstream: "ws://UPSTREAM", token_from: [header, query, subprotocol, cookie, ticket]}
  - {path: /first, upstream: "ws://UPSTREAM", token_from: [first_message]}
`, func(s *server) {
		s.file("a.json", k.set(t, "p256 k1 ES256", "rsa k2 RS256"))
		s.file("b.json", k.set(t, "p256-other k1 ES256"))
		s.file("many.json", k.set(t, "rsa rsa-rs256 RS256", "rsa-other rsa-ps256 PS256", "p256 p256 ES256", "p256-other p256-2 ES256", "p384 p384 ES384", "p521 p521 ES512", "ed25519 ed25519 EdDSA"))
		s.file("hs.key", secret(t, string(k["secret"].([]byte)))+"\n")
		s.file("public.pem", string(k.spki(t)))
	})
	// payload is a good one of an issuer, with members changed or added.
	payload := func(iss string, changes ...claims) string {
		c := claims{"iss": iss, "sub": "alice", "aud": "gw", "iat": time.Now().Unix(), "exp": time.Now().Add(time.Minute).Unix(), "jti": b64(string(randomBytes(9))), "sid": "s1", "scope": "chat"}
		for _, change := range changes {
			maps.Copy(c, change)
		}
		b, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	const a = "https://a.example"
	es := func(header string, changes ...claims) string {
		return forge(t, "ES256", k["p256"], header, payload(a, changes...))
	}
	const plain = `{"alg":"ES256","kid":"k1","typ":"at+jwt"}`
	good := func() *client { return s.connect("/ws", bearer(secret(t, es(plain)))) }
	// refuse demands that these are no tokens, here and at the HTTP API.
	refuse := func(t *testing.T, s *server, tokens map[string]string) {
		t.Helper()
		up.unseen(t, good, func() {
			for name, token := range tokens {
				if a := s.offer(token); a.status != 401 || !strings.HasPrefix(a.code(), "token_") {
					t.Errorf("%s: %d %q", name, a.status, a.code())
				}
				if inHeader.MatchString(token) {
					if a := s.ticket(token, "/ws"); a.status != 401 {
						t.Errorf("%s, for a ticket: %d %q", name, a.status, a.code())
					}
				}
			}
		})
	}

	t.Run("Vectors", func(t *testing.T) {
		s := s.within(t)
		b, err := os.ReadFile("../../vectors/tokens.json")
		var f vectorFile
		if err != nil || json.Unmarshal(b, &f) != nil {
			t.Fatal("vectors/tokens.json cannot be read: ", err)
		}
		count := map[bool]int{}
		for _, c := range f.Cases {
			token := f.token(t, k, c)
			if token == "" {
				continue
			}
			before := up.count()
			got := s.offer(token)
			count[c.Expect == "ok"]++
			if c.Expect == "ok" {
				want := c.Subject
				if want == "" {
					want = "alice"
				}
				if got.status != 101 {
					t.Errorf("%s %s: %d %q, want 101", c.Row, c.Name, got.status, got.code())
				} else if sub, _ := url.PathUnescape(up.last().req.Header.Get("X-Wsbouncer-Subject")); sub != want {
					t.Errorf("%s %s: the subject is %q, want %q", c.Row, c.Name, sub, want)
				}
				continue
			}
			if strings.Contains(token, "\x00") { // the URL is refused for that already
				c.Expect = "bad_handshake"
			}
			if got.status/100 != 4 || got.code() != c.Expect || up.count() != before {
				t.Errorf("%s %s: %d %q, want %q; %d connections", c.Row, c.Name, got.status, got.code(), c.Expect, up.count()-before)
			}
		}
		if count[true] < 30 || count[false] < 200 {
			t.Errorf("the file has lost its cases: %v", count)
		}
	})

	t.Run("JWT01None", func(t *testing.T) {
		tokens := map[string]string{}
		for bits := range 16 {
			alg := []byte("none")
			for i := range alg {
				if bits&(1<<i) != 0 {
					alg[i] -= 'a' - 'A'
				}
			}
			header := fmt.Sprintf(`{"alg":%q,"kid":"k1","typ":"at+jwt"}`, alg)
			unsigned := forge(t, "none", nil, header, payload(a))
			tokens[string(alg)] = unsigned
			tokens[string(alg)+", two parts"] = strings.TrimSuffix(unsigned, ".")
			tokens[string(alg)+", some signature"] = unsigned + "AAAA"
			tokens[string(alg)+", the right key's"] = es(header)
		}
		signed := es(plain)
		tokens["signature cut off"] = signed[:strings.LastIndexByte(signed, '.')+1]
		tokens["signature and dot cut off"] = signed[:strings.LastIndexByte(signed, '.')]
		tokens["payload alone"] = strings.Split(signed, ".")[1]
		refuse(t, s.within(t), tokens)
	})

	t.Run("JWT02KeyConfusion", func(t *testing.T) {
		public := k.public("rsa").(*rsa.PublicKey)
		spki := k.spki(t)
		block, _ := pem.Decode(spki)
		pkcs1 := x509.MarshalPKCS1PublicKey(public)
		jwk := []byte(k.set(t, "rsa k2 RS256"))
		var set struct{ Keys []json.RawMessage }
		if err := json.Unmarshal(jwk, &set); err != nil {
			t.Fatal(err)
		}
		ecKey := k.public("p256").(*ecdsa.PublicKey)
		point, err := ecKey.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		tokens := map[string]string{}
		for name, mac := range map[string][]byte{
			"SPKI PEM": spki, "SPKI PEM without its line break": bytes.TrimSpace(spki), "SPKI DER": block.Bytes,
			"PKCS1 PEM": pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: pkcs1}), "PKCS1 DER": pkcs1,
			"JWKS": jwk, "JWK": set.Keys[0], "modulus": public.N.Bytes(), "modulus text": []byte(b64(string(public.N.Bytes()))),
			"EC point": point, "EC x": point[1:33], "nothing": {}, "a zero": {0}, "kid": []byte("k2"),
		} {
			for _, alg := range []string{"HS256", "HS384", "HS512"} {
				for _, iss := range []string{a, "https://pem.example", "https://many.example", "https://secret.example"} {
					for _, kid := range []string{`,"kid":"k2"`, `,"kid":"rsa-rs256"`, ``, `,"kid":"unknown"`} {
						tokens[fmt.Sprint(name, alg, iss, kid)] = forge(t, alg, mac, fmt.Sprintf(`{"alg":%q,"typ":"at+jwt"%s}`, alg, kid), payload(iss))
					}
				}
			}
		}
		refuse(t, s.within(t), tokens)
	})

	t.Run("JWT04BrokenSignatures", func(t *testing.T) {
		n := elliptic.P256().Params().N
		input := b64(plain) + "." + b64(payload(a))
		zero, one := new(big.Int), big.NewInt(1)
		sig := signature(t, "ES256", k["p256"], input)
		r, sv := new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])
		der, err := asn1.Marshal(struct{ R, S *big.Int }{r, sv})
		if err != nil {
			t.Fatal(err)
		}
		with := func(sig []byte) string { return input + "." + b64(string(sig)) }
		tokens := map[string]string{
			"zeros (psychic)": with(make([]byte, 64)), "r 0": with(pair(zero, sv, 32)), "s 0": with(pair(r, zero, 32)), "r n": with(pair(n, sv, 32)), "s n": with(pair(r, n, 32)),
			"r 0, s 1": with(pair(zero, one, 32)), "r 1, s 1": with(pair(one, one, 32)), "r n, s n": with(pair(n, n, 32)), "swapped": with(pair(sv, r, 32)),
			"all ones": with(bytes.Repeat([]byte{0xff}, 64)), "DER": with(der), "63 bytes": with(sig[:63]), "65 bytes": with(append([]byte{0}, sig...)), "96 bytes": with(pair(r, sv, 48)),
			"one byte": with([]byte{0}), "twice": with(append(bytes.Clone(sig), sig...)),
		}
		for i := 0; i < 64; i += 9 {
			flipped := bytes.Clone(sig)
			flipped[i] ^= 1
			tokens[fmt.Sprint("flipped at ", i)] = with(flipped)
		}
		ps := b64(`{"alg":"PS256","kid":"rsa-ps256","typ":"at+jwt"}`) + "." + b64(payload("https://many.example"))
		h := crypto.SHA256.New()
		h.Write([]byte(ps))
		for name, salt := range map[string]int{"a short salt": 20, "the longest salt": rsa.PSSSaltLengthAuto} {
			sig, err := rsa.SignPSS(rand.Reader, k["rsa-other"].(*rsa.PrivateKey), crypto.SHA256, h.Sum(nil), &rsa.PSSOptions{SaltLength: salt, Hash: crypto.SHA256})
			if err != nil {
				t.Fatal(err)
			}
			tokens["PS256 with "+name] = ps + "." + b64(string(sig))
		}
		refuse(t, s.within(t), tokens)
		// The whole one is good, so the others failed for what was changed.
		if a := s.offer(with(sig)); a.status != 101 {
			t.Errorf("unchanged: %d %q", a.status, a.code())
		}
	})

	t.Run("JWT05AndJWT17NothingIsFetched", func(t *testing.T) {
		s := s.within(t)
		base := "http://" + canary.addr
		attacker := k.set(t, "p256-other k1 ES256")
		jwk := strings.TrimSuffix(strings.TrimPrefix(attacker, `{"keys":[`), `]}`)
		sign := func(header string, changes ...claims) string {
			return forge(t, "ES256", k["p256-other"], header, payload(a, changes...))
		}
		tokens := map[string]string{"x5c": sign(`{"alg":"ES256","kid":"k1","typ":"at+jwt","x5c":["MIIB"]}`)}
		for _, kid := range []string{`,"kid":"k1"`, `,"kid":"other"`, ``, `,"kid":"` + base + `/kid"`} {
			for name, member := range map[string]string{
				"jwk": `"jwk":` + jwk, "jku": `"jku":"` + base + `/jwks.json"`, "x5u": `"x5u":"` + base + `/cert.pem"`, "jku https": `"jku":"https://` + canary.addr + `/jwks.json"`,
				"iss": `"iss":"` + base + `"`, "kid alone": `"x":1`,
			} {
				tokens[name+kid] = sign(`{"alg":"ES256","typ":"at+jwt",` + member + kid + `}`)
				// The right key does not make it better.
				if !strings.Contains("jwk jku x5u jku https", name) {
					continue
				}
				tokens[name+kid+", signed well"] = es(`{"alg":"ES256","typ":"at+jwt",` + member + kid + `}`)
			}
		}
		for i, iss := range []string{base, base + "/.well-known/openid-configuration", base + "/realms/x", "http://x@" + canary.addr, "file:///etc/passwd", "https://a.example@" + canary.addr, "https://a.example/../" + canary.addr, "../../etc/passwd", "unknown"} {
			c := claims{"iss": iss, "aud": base, "tenant": base, "tid": base, "jku": base, "jwks_uri": base, "realm": base, "azp": base}
			tokens[fmt.Sprint("iss ", i)] = sign(plain, c)
			tokens[fmt.Sprint("iss unsigned ", i)] = forge(t, "none", nil, `{"alg":"none"}`, payload(a, c))
			c["iss"] = a
			tokens[fmt.Sprint("tenant ", i)] = sign(plain, c)
		}
		refuse(t, s, tokens)
		if canary.count() != 0 || canaryHits.Load() != 0 {
			t.Errorf("%d connections to an address from a token", canary.count())
		}
		// The canary does sing.
		c, err := net.Dial("tcp", canary.addr)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		eventually(t, "the canary", func() bool { return canary.count() == 1 })
	})

	t.Run("JWT06KidIsALookup", func(t *testing.T) {
		tokens := map[string]string{}
		for _, kid := range []string{`"../../../../dev/null"`, `"/dev/null"`, `"' OR 1=1--"`, `"k1' UNION SELECT 'x"`, `"|id"`, `"$(id)"`, `"k1\u0000"`, `"*"`, `"*)(uid=*"`, `"K1"`, `" k1"`, `"k1 "`, `"k\u0131"`, `1`, `["k1"]`, `{"k1":1}`, `null`, `true`, `""`, `"` + strings.Repeat("k", 3000) + `"`} {
			header := `{"alg":"%s","typ":"at+jwt","kid":` + strings.ReplaceAll(kid, "%", "%%") + `}`
			tokens["HS256 "+kid] = forge(t, "HS256", []byte{}, fmt.Sprintf(header, "HS256"), payload(a))
			tokens["secret's issuer "+kid] = forge(t, "HS256", []byte{}, fmt.Sprintf(header, "HS256"), payload("https://secret.example"))
			tokens["ES256 "+kid] = es(fmt.Sprintf(header, "ES256"))
		}
		refuse(t, s.within(t), tokens)
	})

	t.Run("JWT10AKeyOfItsIssuer", func(t *testing.T) {
		s := s.within(t)
		good().conn.Close() // now a's k1 has been used
		refuse(t, s, map[string]string{
			"a's k1 for b":   forge(t, "ES256", k["p256"], plain, payload("https://b.example")),
			"b's k1 for a":   forge(t, "ES256", k["p256-other"], plain, payload(a)),
			"a with a slash": es(plain, claims{"iss": a + "/"}),
			"A":              es(plain, claims{"iss": "https://A.example"}),
			"a in a list":    es(plain, claims{"iss": []string{a}}),
		})
		// JWT-03: a key for one algorithm only, whatever else it could do.
		rs := func(alg string) string {
			return forge(t, alg, k["rsa"], fmt.Sprintf(`{"alg":%q,"kid":"k2","typ":"at+jwt"}`, alg), payload(a))
		}
		refuse(t, s, map[string]string{"RS384": rs("RS384"), "RS512": rs("RS512"), "PS256": rs("PS256"), "PS384": rs("PS384")})
		if got := s.offer(rs("RS256")); got.status != 101 {
			t.Errorf("RS256: %d %q", got.status, got.code())
		}
	})

	t.Run("JWT14NoOtherKindOfJOSE", func(t *testing.T) {
		tokens := map[string]string{}
		for name, header := range map[string]string{
			"dir": `{"alg":"dir","enc":"A256GCM"}`, "RSA1_5": `{"alg":"RSA1_5","enc":"A128CBC-HS256"}`, "PBES2": `{"alg":"PBES2-HS512+A256KW","enc":"A256GCM","p2s":"AAAAAAAAAAA","p2c":2147483647}`,
			"zip": `{"alg":"dir","enc":"A256GCM","zip":"DEF"}`, "none": `{"alg":"none","enc":"none"}`,
		} {
			tokens["JWE "+name] = b64(header) + ".." + b64("iv") + "." + b64("ciphertext") + "." + b64("tag")
			tokens["JWE with a key "+name] = b64(header) + "." + b64("key") + "." + b64("iv") + "." + b64(strings.Repeat("c", 2000)) + "." + b64("tag")
			tokens["as JWS "+name] = es(header)
		}
		jws := strings.Split(es(plain), ".")
		tokens["flattened"] = fmt.Sprintf(`{"protected":%q,"payload":%q,"signature":%q}`, jws[0], jws[1], jws[2])
		tokens["flattened, unprotected"] = fmt.Sprintf(`{"header":{"alg":"ES256","kid":"k1","typ":"at+jwt"},"payload":%q,"signature":%q}`, jws[1], jws[2])
		tokens["general"] = fmt.Sprintf(`{"payload":%q,"signatures":[{"protected":%q,"signature":%q}]}`, jws[1], jws[0], jws[2])
		tokens["detached"] = jws[0] + ".." + jws[2]
		tokens["nested"] = es(`{"alg":"ES256","kid":"k1","typ":"at+jwt","cty":"JWT"}`, claims{"sub": nil})
		began := time.Now()
		refuse(t, s.within(t), tokens)
		if d := time.Since(began); d > 5*time.Second {
			t.Errorf("%d of them took %v", len(tokens), d)
		}
	})

	t.Run("JWT15Bounded", func(t *testing.T) {
		s := s.within(t)
		dots := strings.Repeat(".", 1<<20)
		// Said in one write, of which the server may not want the rest.
		status := func(target string, lines ...string) int {
			c := s.raw()
			defer c.conn.Close()
			go func() { _, _ = c.conn.Write([]byte(s.upgrade(target, lines...))) }()
			a, err := c.tryResponse()
			if err != nil {
				return 0 // cut, which is an answer too
			}
			return a.status
		}
		up.unseen(t, good, func() {
			for name, got := range map[string]int{
				"header": status("/ws", bearer(dots)), "query": status("/ws?token=" + dots), "subprotocol": status("/ws", "Sec-WebSocket-Protocol: bearer, "+dots),
				"cookie": status("/ws", "Origin: "+s.url, "Cookie: wsbouncer="+dots), "ticket": status("/ws?ticket=" + dots),
			} {
				statuses(t, "1 MiB of dots in the "+name, got, 0, 431, 414)
			}
			c := s.connect("/first")
			_, _ = c.conn.Write(frame.Append(nil, frame.Text, []byte(`{"wsbouncer":"auth","token":"`+dots+`"}`), true))
			c.closes(1009, "message_too_big")
		})

		var members, deep strings.Builder
		for i := range 400 {
			fmt.Fprintf(&members, `,"m%d":1`, i)
		}
		deep.WriteString(strings.Repeat(`{"a":`, 800) + "1" + strings.Repeat("}", 800))
		within := map[string]string{
			"dots": strings.Repeat(".", 8<<10), "one segment": strings.Repeat("A", 8<<10), "braces": b64(strings.Repeat("{", 2000)) + "." + b64(strings.Repeat("[", 2000)) + ".AAAA",
			"header members": es(`{"alg":"ES256","kid":"k1","typ":"at+jwt"` + members.String() + `}`),
			"nested payload": forge(t, "ES256", k["p256"], plain, strings.Replace(payload(a), `"sub"`, `"x":`+deep.String()+`,"sub"`, 1)),
			"nested header":  es(`{"alg":"ES256","kid":"k1","typ":"at+jwt","x":` + strings.Repeat("[", 1000) + strings.Repeat("]", 1000) + `}`),
		}
		refuse(t, s, within)
		up.unseen(t, good, func() {
			for _, size := range []int{8<<10 + 1, 12 << 10} {
				s.refused(413, "token_too_large", "/ws", bearer(strings.Repeat("A", size)))
			}
		})
		before := s.resident()
		var crowd sync.WaitGroup
		for range 100 {
			crowd.Go(func() {
				for _, token := range within {
					if got := s.offer(token).status; got != 401 {
						t.Errorf("in a crowd: %d", got)
					}
				}
			})
		}
		crowd.Wait()
		limit := int64(50 << 20)
		if raceEnabled { // which keeps a shadow of the memory
			limit *= 4
		}
		if grown := s.resident() - before; grown > limit {
			t.Errorf("600 bad tokens of 100 clients at once cost %d MiB", grown>>20)
		}
	})

	t.Run("JWT18RevokedByWhatItIs", func(t *testing.T) {
		s := s.within(t)
		n := elliptic.P256().Params().N
		token := es(plain, claims{"jti": "theft", "sid": "s18"})
		cut := strings.LastIndexByte(token, '.') + 1
		sig, err := base64.RawURLEncoding.DecodeString(token[cut:])
		if err != nil {
			t.Fatal(err)
		}
		other := token[:cut] + b64(string(pair(new(big.Int).SetBytes(sig[:32]), new(big.Int).Sub(n, new(big.Int).SetBytes(sig[32:])), 32)))
		live := s.connect("/ws", bearer(token)).alive()
		if a := s.offer(other); a.status != 101 {
			t.Fatalf("the other signature of the same token: %d %q; then this test tests nothing", a.status, a.code())
		}
		s.cli("revoke", "token", token)
		live.closes(3000, "token_revoked")
		up.unseen(t, good, func() {
			for _, again := range []string{token, other, es(plain, claims{"jti": "theft", "sid": "s18"}), es(plain, claims{"jti": "theft", "sub": "bob"})} {
				if a := s.offer(again); a.status != 401 || a.code() != "token_revoked" {
					t.Errorf("replayed: %d %q", a.status, a.code())
				}
			}
		})
		// (iss, jti): another issuer's token of that name is another token.
		if a := s.offer(forge(t, "ES256", k["p256-other"], plain, payload("https://b.example", claims{"jti": "theft"}))); a.status != 101 {
			t.Errorf("of another issuer: %d %q", a.status, a.code())
		}
	})
}

// JWT-07: weak secrets do not start, and all are named at once.
func TestJWT07WeakSecrets(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, nil)
	s := &server{t: t, dir: t.TempDir(), addr: freeAddr(t)}
	yaml := "trust:\n"
	weak := map[string][2]string{
		"empty": {"HS256", ""}, "break": {"HS256", "\n"}, "short": {"HS256", "secret"}, "sixteen": {"HS256", "0123456789abcdef"}, "almost": {"HS256", "0123456789abcdef0123456789abcde\n"},
		"hs384": {"HS384", "9fK2vXq7LmZ4tRw8sYb3nHd6gJc1pQe5"}, "hs512": {"HS512", "9fK2vXq7LmZ4tRw8sYb3nHd6gJc1pQe59fK2vXq7LmZ4tRw8"}, "same": {"HS256", strings.Repeat("a", 64)}, "known": {"HS256", "a-string-secret-at-least-256-bits-long"},
	}
	names := map[string]bool{}
	for name, w := range weak {
		s.file(name+".key", w[1])
		names[name] = true
		yaml += fmt.Sprintf("  - {issuer: \"https://%s.example\", audience: chat, algorithms: [%s], keys: {secret_file: %s.key}}\n", name, w[0], name)
	}
	s.writeConfig(yaml + "routes: [{path: /chat, upstream: \"ws://" + up.addr + "\"}]\n")
	for _, command := range []string{"check", "serve"} {
		out, code := s.command("", command, "--config", s.dir+"/wsbouncer.yaml")
		if code != 1 || strings.Contains(out, `"ready"`) {
			t.Errorf("%s: exit code %d:\n%s", command, code, out)
		}
		for i := range len(weak) {
			if !strings.Contains(out, fmt.Sprintf("trust[%d]", i)) {
				t.Errorf("%s says nothing of trust[%d]:\n%s", command, i, out)
			}
		}
		for _, w := range weak {
			if len(w[1]) > 8 && strings.Contains(out, strings.TrimSpace(w[1])) {
				t.Errorf("%s shows the secret %q", command, w[1])
			}
		}
	}
}
