package token

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/jsonscan"
	"github.com/wsbouncer/wsbouncer/internal/jws"
)

// payloadJSON bounds a payload; its length is bounded with the token's. Names
// equal under case folding are refused, because other programs that read the
// same payload may take one for the other (RFC 7519 §4).
var payloadJSON = jsonscan.Options{MaxDepth: 32, MaxMembers: 512, MaxBytes: maxInspectBytes, FoldKeys: true}

// reserved is the prefix of scopes that rule over this program itself.
const reserved = "wsbouncer:"

// maxRev is the greatest integer that every JSON reader keeps exactly.
const maxRev = 1<<53 - 1

// claims are the registered claims of a payload, read and not yet believed.
// Whatever is in a payload besides is not looked at.
type claims struct {
	issuer, subject, session, id, client string
	authorizedParty                      string
	expiry, notBefore, issuedAt          time.Time
	audience                             []string
	rev                                  int64
	hasRev                               bool
	bound                                bool   // cnf is there
	binding                              string // what it names; "" where nothing here can prove it
	source                               []byte

	// what other kinds of tokens have
	nonce, idToken, event, proof bool
	payloadType, tokenUse        string
}

func checkPayload(payload []byte) error {
	err := jsonscan.Object(payload, payloadJSON, func(_, _ []byte) error { return nil })
	if err != nil {
		return refuseFor(CodeMalformed, "its payload is not one strict JSON object", err)
	}
	return nil
}

// readClaims reads a payload of which nothing is verified.
func readClaims(payload []byte) (*claims, error) {
	c := new(claims)
	var refused *Error
	err := jsonscan.Object(payload, payloadJSON, func(key, value []byte) error {
		if e := c.read(string(key), value); e != nil && refused == nil {
			refused = e
		}
		return nil
	})
	switch {
	case err != nil:
		return nil, refuseFor(CodeMalformed, "its payload is not one strict JSON object", err)
	case refused != nil:
		return nil, refused
	case c.issuer == "":
		return nil, refuse(CodeIssuer, "it has no iss")
	}
	return c, nil
}

func (c *claims) read(name string, value []byte) (refused *Error) {
	switch name {
	case "iss":
		c.issuer, refused = identifier(name, value)
	case "sub":
		c.subject, refused = identifier(name, value)
	case "sid":
		c.session, refused = identifier(name, value)
	case "jti":
		c.id, refused = identifier(name, value)
	case "client_id":
		c.client, refused = identifier(name, value)
	case "azp":
		c.authorizedParty, refused = identifier(name, value)
	case "exp":
		c.expiry, refused = numericDate(name, value)
	case "nbf":
		c.notBefore, refused = numericDate(name, value)
	case "iat":
		c.issuedAt, refused = numericDate(name, value)
	case "aud":
		c.audience, refused = stringOrArray(name, value)
	case "rev":
		// Only the own issuer's counts; others may mean something else by it.
		c.hasRev = json.Unmarshal(value, &c.rev) == nil && value[0] != 'n' && c.rev >= 0 && c.rev <= maxRev
	case "cnf":
		c.bound, c.binding = true, readBinding(value)
	case "src":
		c.source = value
	case "nonce":
		c.nonce = true
	case "at_hash", "c_hash", "s_hash":
		c.idToken = true
	case "events":
		c.event = true
	case "htm", "htu":
		c.proof = true
	case "typ":
		_ = json.Unmarshal(value, &c.payloadType)
	case "token_use":
		_ = json.Unmarshal(value, &c.tokenUse)
	}
	return refused
}

// token is what c says, once its signature has been checked, as far as the
// issuer may say it. Time is judged apart.
func (c *claims) token(issuer *Issuer, payload []byte) (*Token, error) {
	switch {
	case c.subject == "":
		return nil, refuse(CodeMalformed, "it has no sub")
	case c.expiry.IsZero():
		return nil, refuse(CodeMalformed, "it has no exp")
	case !slices.Contains(c.audience, issuer.Audience):
		return nil, refuse(CodeAudience, "aud does not name this audience")
	case c.bound && c.binding == "":
		// Not to be believed without a proof of possession (RFC 7800 §3.1).
		return nil, refuse(CodeBinding, "it is bound (cnf) by something other than one of jkt and x5t#S256")
	case issuer.Own && (c.id == "" || c.issuedAt.IsZero() || !c.hasRev):
		return nil, refuse(CodeMalformed, "it lacks jti, iat or rev, which own tokens carry")
	}
	scopes, err := readScopes(payload, issuer)
	if err != nil {
		return nil, err
	}
	if len(c.audience) == 1 {
		c.audience = issuer.alone
	}
	t := &Token{
		Issuer: issuer.Name, Subject: c.subject, Session: c.session, ID: c.id, ClientID: c.client,
		Audience: c.audience, Scopes: scopes,
		IssuedAt: c.issuedAt, NotBefore: c.notBefore, Expiry: c.expiry, Leeway: issuer.Leeway,
		Own: issuer.Own, Binding: c.binding, Claims: Claims(payload),
	}
	if t.ClientID == "" {
		t.ClientID = c.authorizedParty
	}
	if issuer.Own {
		t.Rev, t.HasRev = c.rev, true
		if c.source != nil {
			from, refused := readSource(c.source, issuer.Name)
			if refused != nil {
				return nil, refused
			}
			t.From = from
		}
	}
	t.pack()
	return t, nil
}

// pack makes one text of the short ones that are a token's own: it lives as long
// as a connection, and each small piece of memory costs more than its size.
func (t *Token) pack() {
	texts := [...]*string{&t.Subject, &t.Session, &t.ID, &t.ClientID}
	n := 0
	for _, s := range texts {
		n += len(*s)
	}
	var b strings.Builder
	b.Grow(n)
	for _, s := range texts {
		b.WriteString(*s)
	}
	all := b.String()
	for _, s := range texts {
		*s, all = all[:len(*s)], all[len(*s):]
	}
}

// judgeTime decides everything about t that depends on the clock, on every call.
func judgeTime(t *Token, issuer *Issuer, now time.Time) error {
	start := t.IssuedAt
	if start.IsZero() {
		start = now // what is left is all that can be told
	}
	switch {
	// RFC 7519 §4.1.4: on or after exp it must not be accepted.
	case !now.Before(t.Deadline()):
		return refuse(CodeExpired, "exp has passed")
	case now.Add(issuer.early()).Before(t.NotBefore):
		return refuse(CodeNotYetValid, "nbf is in the future")
	case now.Add(issuer.early()).Before(t.IssuedAt):
		return refuse(CodeNotYetValid, "iat is in the future")
	case t.Expiry.Sub(start) > issuer.MaxLifetime:
		return refuse(CodeLifetime, "it lives longer than the issuer's tokens may")
	}
	return nil
}

// identifier is a claim that names something: a string that is not empty, as
// jws.Name wants it.
func identifier(name string, value []byte) (string, *Error) {
	s, err := jsonscan.String(value)
	if err != nil || s == "" {
		return "", refuse(CodeMalformed, name+" is not a string, or an empty one")
	}
	if err := jws.Name(s); err != nil {
		return "", refuseFor(CodeMalformed, name, err)
	}
	return s, nil
}

// stringOrArray is aud (RFC 7519 §4.1.3): one string or an array of nothing
// but strings.
func stringOrArray(name string, value []byte) ([]string, *Error) {
	if value[0] == '"' {
		s, err := jsonscan.String(value)
		if err == nil {
			return []string{s}, nil
		}
	}
	var list []*string // pointers, because null would become ""
	if value[0] != '[' || json.Unmarshal(value, &list) != nil || slices.Contains(list, nil) {
		return nil, refuse(CodeMalformed, name+" is neither a string nor an array of strings")
	}
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = *s
	}
	return out, nil
}

// maxDate is the end of the year 9999.
const maxDate = 253402300799

// numericDate is a NumericDate (RFC 7519 §2): seconds, whole or with decimals,
// from 1970 to 9999. Strings, exponents and anything else are refused.
func numericDate(name string, value []byte) (time.Time, *Error) {
	whole, fraction, _ := strings.Cut(string(value), ".")
	// JSON's grammar has been checked: digits after a point, no leading zeros.
	if digits(whole) && digits(fraction) {
		seconds, err := strconv.ParseInt(whole, 10, 64)
		// Beyond nanoseconds it is cut off, towards the past.
		nanos, _ := strconv.ParseInt((fraction + "000000000")[:9], 10, 64)
		if err == nil && seconds <= maxDate {
			return time.Unix(seconds, nanos), nil
		}
	}
	return time.Time{}, refuse(CodeMalformed, name+" is not a number of seconds since 1970")
}

func digits(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < '0' || r > '9' })
}

// readScopes reads the issuer's scope claim: a string with spaces (RFC 8693
// §4.2) or an array. Only scope-tokens (RFC 6749 §3.3) count; anything else in
// it grants nothing.
func readScopes(payload []byte, issuer *Issuer) ([]string, error) {
	value, found, err := jsonscan.Find(payload, payloadJSON, issuer.ScopeClaim)
	if err != nil {
		return nil, refuseFor(CodeMalformed, "its payload is not one strict JSON object", err)
	}
	if !found {
		return nil, nil
	}
	list, refused := stringOrArray("the scope claim", value)
	if refused != nil {
		return nil, refused
	}
	if value[0] == '"' {
		list = strings.Split(list[0], " ")
	}
	var scopes []string
	for _, s := range list {
		if !scopeToken(s) || slices.Contains(scopes, s) {
			continue
		}
		// No other issuer speaks for who may rule here.
		if strings.HasPrefix(s, reserved) && !issuer.Own {
			continue
		}
		scopes = append(scopes, s)
	}
	return scopes, nil
}

// scopeToken is 1*( %x21 / %x23-5B / %x5D-7E ).
func scopeToken(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < 0x21 || c > 0x7e || c == '"' || c == '\\' {
			return false
		}
	}
	return s != ""
}
