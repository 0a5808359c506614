package jws

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/wsbouncer/wsbouncer/internal/jsonscan"
)

// What Parse and Verify say. Their text repeats nothing of the token.
var (
	// ErrTooLarge: longer than the caller allows; nothing else was looked at.
	ErrTooLarge = errors.New("longer than is allowed")
	// ErrMalformed: not a compact JWS as this package reads one.
	ErrMalformed = errors.New("not a well-formed compact JWS")
	// ErrSignature: the signature is not that key's over this text.
	ErrSignature = errors.New("signature does not verify")
)

const (
	// MaxName bounds kid, typ and alg, in bytes: they are names, not data.
	MaxName = 512

	maxHeaderMembers = 32
	maxHeaderDepth   = 8
)

// b64 is base64url without padding that refuses unused bits other than zero
// (RFC 7515 §2, RFC 4648 §3.5): otherwise one token has several spellings.
var b64 = base64.RawURLEncoding.Strict()

// A Message is a parsed compact JWS. Nothing of it is verified.
type Message struct {
	// Header and Payload are the decoded first two segments. Header is strict
	// JSON without duplicate members; Payload may be any bytes, also none.
	Header, Payload []byte
	// Algorithm, KeyID and Type are alg, kid and typ. KeyID and Type are empty
	// when absent, which HasKeyID and HasType tell from the empty string.
	Algorithm, KeyID, Type string
	HasKeyID, HasType      bool
	// Key is jwk, of a message that ParseProof read; else nil.
	Key []byte

	input     string // ASCII(header '.' payload), what is signed
	signature []byte
}

// Parse reads raw, of at most maxBytes bytes, as a compact JWS. It refuses JSON
// serialisations, JWE, detached payloads in disguise, extensions (crit, b64)
// and keys or addresses of keys inside the token: jwk, jku, x5u, x5c. The
// signature may not be empty. The error wraps ErrTooLarge or ErrMalformed.
func Parse(raw string, maxBytes int) (*Message, error) {
	return parse(raw, maxBytes, false)
}

// ParseProof is Parse for a proof of possession, which brings its key (RFC 9449
// §4.2). The signature then says that whoever made it holds that key, and
// nothing else.
func ParseProof(raw string, maxBytes int) (*Message, error) {
	m, err := parse(raw, maxBytes, true)
	if err == nil && m.Key == nil {
		return nil, malformed("it brings no key (jwk)")
	}
	return m, err
}

func parse(raw string, maxBytes int, withKey bool) (*Message, error) {
	if len(raw) > maxBytes {
		return nil, ErrTooLarge
	}
	head, rest, ok := strings.Cut(raw, ".")
	if !ok {
		return nil, malformed("it has no segments")
	}
	body, sig, ok := strings.Cut(rest, ".")
	if !ok {
		return nil, malformed("it has two segments, not three")
	}
	// Looked for before anything is decoded: five segments are a JWE, and a
	// megabyte of dots is neither (CVE-2025-30204, CVE-2025-27144).
	if strings.IndexByte(sig, '.') >= 0 {
		return nil, malformed("it has more than three segments")
	}
	if head == "" || sig == "" {
		return nil, malformed("a segment is empty")
	}
	m := &Message{input: raw[:len(head)+1+len(body)]}
	for _, s := range []struct {
		name, text string
		into       *[]byte
	}{{"header", head, &m.Header}, {"payload", body, &m.Payload}, {"signature", sig, &m.signature}} {
		var err error
		if *s.into, err = decode(s.text); err != nil {
			return nil, malformed("the " + s.name + " is not canonical base64url")
		}
	}
	if err := m.parseHeader(withKey); err != nil {
		return nil, err
	}
	return m, nil
}

func malformed(why string) error { return fmt.Errorf("%w: %s", ErrMalformed, why) }

// decode is base64url without the leniency of encoding/base64, which skips
// line breaks.
func decode(s string) ([]byte, error) {
	if strings.ContainsAny(s, "\r\n") {
		return nil, base64.CorruptInputError(0)
	}
	return b64.DecodeString(s)
}

func (m *Message) parseHeader(withKey bool) error {
	var refused error
	hasAlg := false
	name := func(what string, raw []byte) string {
		s, err := text(raw)
		if err != nil && refused == nil {
			refused = malformed(what + " in the header " + err.Error())
		}
		return s
	}
	err := jsonscan.Object(m.Header, jsonscan.Options{
		MaxDepth: maxHeaderDepth, MaxMembers: maxHeaderMembers, MaxBytes: len(m.Header), FoldKeys: true,
	}, func(key, value []byte) error {
		switch string(key) {
		case "alg":
			hasAlg, m.Algorithm = true, name("alg", value)
		case "kid":
			m.HasKeyID, m.KeyID = true, name("kid", value)
		case "typ":
			m.HasType, m.Type = true, name("typ", value)
		case "crit", "b64":
			// RFC 7515 §4.1.11, RFC 7797 §6: no extension is understood here.
			refused = malformed("it needs an extension (" + string(key) + ")")
		case "jwk", "jku", "x5u", "x5c":
			if withKey && string(key) == "jwk" {
				m.Key = bytes.Clone(value)
				return nil
			}
			// RFC 8725 §3.10: a key that comes with the token proves nothing.
			refused = malformed("it brings its own key (" + string(key) + ")")
		case "enc", "zip":
			refused = malformed("it is encrypted or compressed (" + string(key) + ")")
		}
		return nil
	})
	switch {
	case err != nil:
		return fmt.Errorf("%w: header: %w", ErrMalformed, err)
	case refused != nil:
		return refused
	case !hasAlg || m.Algorithm == "":
		return malformed("the header names no alg")
	}
	return nil
}

// text is a JSON string that is a name: bounded, and nothing in it that could
// act in a log, a terminal, a header or a path in some other program.
func text(raw []byte) (string, error) {
	if len(raw) == 0 || raw[0] != '"' {
		return "", errors.New("is not a string")
	}
	// An escape needs at most six bytes for one.
	if len(raw) > 6*MaxName+2 {
		return "", errors.New("is too long")
	}
	s, err := jsonscan.String(raw)
	if err != nil {
		return "", errors.New("is not a string")
	}
	if err := Name(s); err != nil {
		return "", err
	}
	return s, nil
}

// Name reports what is wrong with s as a name in a token: longer than MaxName,
// or with control characters. Nothing is normalised: other spellings are other
// names (RFC 8725 §3.7).
func Name(s string) error {
	if len(s) > MaxName {
		return errors.New("is too long")
	}
	if strings.ContainsFunc(s, unicode.IsControl) {
		return errors.New("has control characters")
	}
	return nil
}
